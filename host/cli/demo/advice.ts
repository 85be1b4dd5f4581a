/** What to do about errors of the demo. */

/** About an error that only a defect explains. */
export const DEFECT = "This is a defect: report it with the output of 'isthmus info' and 'isthmus --version'.";
export const BUSY = 'The machine may be very busy. Try again.';

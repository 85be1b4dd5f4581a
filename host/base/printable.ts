/**
 * Text from outside, made safe to show: names of peers, payloads, file names, messages of other programs.
 *
 * A terminal, and each program that shows a log, acts on some characters instead of showing them. So every way out of this
 * package passes one of these functions, where it writes: the log (log.ts), errors (errors.ts), and the output of the command
 * line (cli/support/output.ts). No caller needs to remember it.
 *
 * Replaced are: control characters (C0, C1, DEL), format characters (bidirectional overrides, zero width, tags), unpaired
 * surrogates, code points of private use or without a meaning, separators of lines and paragraphs, and what is invisible by
 * default (variation selectors, fillers). What ends a line becomes a blank, where one line is wanted. Of combining marks, which are drawn over their neighbours, a few in a row stay.
 */

/** In its place. */
const MARK = '?';
/** Default limit of a text, in UTF-16 units. */
export const MAX_PRINTABLE = 4096;

const PLAIN = /^[\x20-\x7e]*$/;
const UNSAFE = /[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu;
const UNSAFE_IN_LINES = /(?!\n)[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu;
/** What ends a line or moves to a column: between words of one line, a blank. */
const SPACING = /[\t-\r\x85\u2028\u2029]+/g;
/** More marks in a row than a letter of any script has. */
const STACKED = /(?<=\p{M}{4})\p{M}+/gu;

/**
 * One line for people.
 * @param limit UTF-16 units; the rest is cut off, which an ellipsis shows
 */
export function printable(text: string, limit = MAX_PRINTABLE): string {
  const cut = text.length > limit ? `${text.slice(0, limit - 1)}…` : text;
  return PLAIN.test(cut) ? cut : cut.replace(SPACING, ' ').replace(UNSAFE, MARK).replace(STACKED, MARK);
}

/** Text for people that was laid out in lines: its line feeds stay. */
export function printableLines(text: string): string {
  return PLAIN.test(text) ? text : text.replace(UNSAFE_IN_LINES, MARK).replace(STACKED, MARK);
}

/** JSON with the same meaning, in which no character acts on a terminal. */
export function printableJson(json: string): string {
  return json.replace(UNSAFE_IN_LINES, (character) =>
    // Each half of a pair for itself, as JSON has it.
    Array.from(character.split(''), (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`).join(''),
  );
}

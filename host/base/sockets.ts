/** Sockets between two owners. */

/** The 'error' listener of a socket that nobody owns at the moment. What matters of an error is told by 'close'. */
export function ignoreError(): void {}

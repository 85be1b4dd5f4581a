/** Sockets that pass from one owner to another. */

/** The 'error' listener of a socket without an owner: an 'error' without a listener would end the process. 'close' follows. */
export function ignoreError(): void {}

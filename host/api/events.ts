/** What a connection tells its listeners. */

/** Events of a connection, and what their listeners are called with. */
export interface ConnectionEvents {
  /** The peer has shown no sign of life for `silence` milliseconds, at least `stallTimeout`. */
  stalled: (silence: number) => void;
  /** The peer has shown a sign of life again, after `silence` milliseconds. */
  recovered: (silence: number) => void;
}

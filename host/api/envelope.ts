/** What is known of a message before its data is taken. */
import type { Connection } from './connection.js';

/** What a match function sees of a message, before its data is taken. */
export interface Envelope {
  readonly connection: Connection;
  /** The user's header, a copy. */
  readonly xheader: Uint8Array;
  /** Length of the data in bytes. */
  readonly length: number;
}

/** Whether a receive takes a message. It is called for each message, perhaps twice: it must be quick and have no effects. */
export type Match = (envelope: Envelope) => boolean;

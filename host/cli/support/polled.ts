/**
 * What both sides of the ping-pong have in common. Both poll: a synchronous function that allocates nothing handles the
 * messages, and returns once its budget of polls is spent, so that the async function around it can let the event loop
 * turn. An `await` for each message would cost more than the message.
 */
import type { Connection } from '../../index.js';

/** Polls between two turns of the event loop: about 1 ms. */
export const POLLS_PER_TURN = 20_000;
/** A message counts as one poll, and as one more for each 2^8 bytes. */
export const BYTES_PER_POLL_LOG2 = 8;
/** After this time without a message the process sleeps between polls: the peer may need this processor. */
export const MAX_BUSY_MS = 1;

/** Whether messages are found by polling, and not by events of the event loop. */
export function isPolled(connection: Connection): boolean {
  return connection.plugin !== 'tcp' && connection.plugin !== 'loop';
}

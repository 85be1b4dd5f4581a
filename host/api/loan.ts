/** Memory that an application fills, and sends by passing a reference to it. */

/**
 * Room for one message, lent by `connection.loan()`. Fill `data`, then pass the loan to `send` or `trySend` of that
 * connection: from then on it belongs to the peer, and no byte is copied where both map one region.
 *
 * ```ts
 * const loan = await connection.loan(frame.length);
 * loan.data.set(frame);
 * await connection.send(loan);
 * ```
 *
 * Every process that maps the region can see the bytes while they are written. A loan that is neither sent nor released
 * occupies its part of the region until the process ends: a garbage collector cannot know whether a peer still reads it.
 * When the region goes away, for a migration, the bytes stay where they are, and are copied when they are sent.
 */
export abstract class Loan implements Disposable {
  /** In bytes. */
  abstract readonly length: number;
  /**
   * The bytes to send; zeros, or what was there before.
   *
   * A view of a larger memory, where the loan lies in the region. `postMessage` and `structuredClone` copy the memory under
   * a view as a whole, the region with everything in it: pass `data.slice()` to them. No version of Node can
   * be told to refuse the view. A transfer is refused, or (Node 20) copies, and never takes the memory away.
   * @throws ERR_ISTHMUS_RELEASED: it was sent, or released
   */
  abstract get data(): Uint8Array;
  /** Whether the loan lies in the region, so that sending it copies nothing. */
  abstract get inRegion(): boolean;
  /** Give it back unsent. Idempotent. */
  abstract release(): void;

  [Symbol.dispose](): void {
    this.release();
  }
}

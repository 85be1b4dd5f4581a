/**
 * Turns of the event loop between calls that are answered at once. A chain of promises that are settled already would keep
 * timers and sockets waiting for as long as messages come.
 */

/** Calls that are answered at once between two readings of the clock. */
const MAX_CALLS = 32;
/** How long calls may be answered at once before the event loop gets a turn. */
const MAX_BURST_MS = 1;

export class EventLoopTurns {
  #calls = 0;
  #lastTurn = 0;
  #due: Promise<void> | undefined;
  readonly #now: () => number;

  /** @param now the clock, in milliseconds */
  constructor(now = () => performance.now()) {
    this.#now = now;
  }

  /**
   * @param cost of the call, in calls that cost nothing more than being answered
   * @returns the turn that the answer has to wait for; undefined: none. Later calls wait for the same one, so that answers
   * stay in order.
   */
  due(cost: number): Promise<void> | undefined {
    this.#calls += cost;
    if (this.#due !== undefined || this.#calls < MAX_CALLS) return this.#due;
    this.#calls = 0;
    const now = this.#now();
    if (now - this.#lastTurn < MAX_BURST_MS) return undefined;
    this.#due = new Promise((resolve) => {
      setImmediate(() => {
        this.#due = undefined;
        this.#lastTurn = this.#now();
        resolve();
      });
    });
    return this.#due;
  }
}

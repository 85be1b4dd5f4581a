/**
 * How long a wait may spin before it sleeps. Spinning is earned: an account is paid for each wait that spinning has made
 * shorter, and pays for the time that was spun in vain. Nothing else decides: neither the number of processors, nor the
 * load, nor a quota of the control group has to be known, because each of them shows in what spinning finds.
 *
 * - A peer that runs on another processor answers within microseconds: nearly each wait pays in, and the account is full.
 * - A peer that needs this very processor cannot answer while this process spins: the account is empty after one wait.
 * - A peer that takes longer for its answer than a sleep and a wake-up cost: each wait costs more than it brings.
 * - A process that loses its processor while it spins has taken it from another one, and gets it back late: the account is
 *   closed for a while.
 *
 * An empty account lends time for a probe now and then, rarely enough to cost next to nothing.
 */

/** What a sleep costs: announcing it, the peer's system call, the wake-up. Measured: 30 to 90 µs on two virtual processors. */
export const SLEEP_COST_MS = 0.1;
/** The most that an account holds, and so the longest time that one wait spins. */
export const MAX_BALANCE_MS = 2;
/** Less than this is not worth a turn of the event loop. */
const MIN_SPIN_MS = 0.01;
/** A probe: long enough for a peer that has to be woken first, and that finds its own account empty. */
export const PROBE_MS = 0.2;
/** Between two probes: doubled behind each that was in vain, so that probes cost 2 % at first and soon nothing. */
export const MIN_PROBE_PAUSE_MS = 10;
export const MAX_PROBE_PAUSE_MS = 1000;
/** A pass of 10 to 20 µs over the rings that took longer than this has been interrupted: another process has the processor. */
export const PREEMPTED_MS = 0.5;

export class SpinAccount {
  #balance = PROBE_MS;
  #probing = false;
  #probePause = MIN_PROBE_PAUSE_MS;
  #nextProbe = 0;

  /** Whether spinning has paid lately. */
  get earned(): boolean {
    return this.#balance >= MIN_SPIN_MS;
  }

  /** A wait begins. @returns milliseconds that it may spin; 0: sleep at once */
  allowance(now: number): number {
    this.#probing = this.#balance < MIN_SPIN_MS;
    if (!this.#probing) return this.#balance;
    if (now < this.#nextProbe) return 0;
    this.#nextProbe = now + this.#probePause;
    return PROBE_MS;
  }

  /** Spinning found what the wait was for. @param spun milliseconds since the wait began */
  found(spun: number): void {
    if (spun < SLEEP_COST_MS) this.#probePause = MIN_PROBE_PAUSE_MS;
    this.#book(SLEEP_COST_MS - spun);
  }

  /** Spinning found nothing: the wait goes on asleep. @param spun milliseconds since the wait began */
  inVain(spun: number): void {
    if (this.#probing) this.#backOff();
    this.#book(-spun);
  }

  /** Another process took the processor while this one spun. */
  preempted(now: number): void {
    this.#balance = 0;
    this.#backOff();
    this.#nextProbe = now + this.#probePause;
  }

  #backOff(): void {
    this.#probePause = Math.min(MAX_PROBE_PAUSE_MS, this.#probePause * 2);
  }

  #book(amount: number): void {
    this.#balance = Math.min(MAX_BALANCE_MS, Math.max(0, this.#balance + amount));
  }
}

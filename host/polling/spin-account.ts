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
/**
 * The longest that one wait spins. It is half a tick of the kernel or more: where the scheduler has put both processes on one
 * of several processors, spinning for less never makes it move one of them.
 */
export const MAX_SPIN_MS = 2;
/** The most that an account holds: a few waits in vain, so that a peer that stands still for once does not empty it. */
export const MAX_BALANCE_MS = 8;
/** Less than this is not worth a turn of the event loop. */
const MIN_SPIN_MS = 0.01;
/** Between two probes: doubled behind each that was in vain, so that probes soon cost next to nothing. */
export const MIN_PROBE_PAUSE_MS = 20;
export const MAX_PROBE_PAUSE_MS = 1000;
/** With so much in the account spinning pays again, and later probes begin with the shortest pause. */
const RECOVERED_MS = 1;
/** A pass of 10 to 20 µs over the rings that took longer than this has been interrupted: another process has the processor. */
export const PREEMPTED_MS = 0.5;

export class SpinAccount {
  #balance = MAX_SPIN_MS;
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
    if (!this.#probing) return Math.min(MAX_SPIN_MS, this.#balance);
    if (now < this.#nextProbe) return 0;
    this.#nextProbe = now + this.#probePause;
    return MAX_SPIN_MS;
  }

  /** The process was awake and found what the wait was for. @param waited milliseconds since the wait began */
  found(waited: number): void {
    if (this.#probing && waited > SLEEP_COST_MS) this.#backOff();
    this.#book(SLEEP_COST_MS - waited);
    if (this.#balance > RECOVERED_MS) this.#probePause = MIN_PROBE_PAUSE_MS;
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
    this.#probing = false;
    this.#probePause = Math.min(MAX_PROBE_PAUSE_MS, this.#probePause * 2);
  }

  #book(amount: number): void {
    this.#balance = Math.min(MAX_BALANCE_MS, Math.max(0, this.#balance + amount));
  }
}

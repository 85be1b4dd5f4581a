/**
 * How a runtime waits while nothing happens: by spinning, by a doorbell, by a timer.
 *
 * While traffic flows it polls again and again, and lets the event loop turn in between. After a while it announces in the
 * core that it sleeps. Where all peers can ring the doorbell (region/doorbell.ts) nothing more is to be done. Where one
 * cannot, as in another virtual machine, a timer polls, less and less often.
 */
import type { Wait } from '../config/config.js';
import { type Alarm, newAlarm } from './alarm.js';
import { PREEMPTED_MS, SpinAccount } from './spin-account.js';

/** Polls whenever there may be something, until it is stopped. */
export interface IdleStrategy {
  /** Whether a caller that finds nothing may poll on for some microseconds before it waits. */
  readonly spins: boolean;
  /** Something is expected, or has come: poll soon, and often for a while. */
  wake(): void;
  /** The doorbell rang, and the connection that it rang for has been polled: poll the others, but after the application. */
  rung(): void;
  stop(): void;
}

/**
 * One bounded pass over all connections.
 * @param rounds how often the core polls its set before it gives up
 * @returns whether there was something
 */
export type PollOnce = (rounds: number) => boolean;

/**
 * Prepares a pause (wake.pml: quiet_until_timer, asleep_until_rung).
 * @returns `busy`: there is something after all; `quiet`: there is nothing, poll by a timer; `asleep`: a peer will ring
 */
export type TrySleep = () => 'busy' | 'quiet' | 'asleep';

/** What the strategy uses of the process. A test puts its own in place. */
export interface EventLoop {
  /** In milliseconds, with fractions. */
  now(): number;
  setImmediate(callback: () => void): NodeJS.Immediate;
  clearImmediate(immediate: NodeJS.Immediate | undefined): void;
  newAlarm(callback: () => void): Alarm;
}

const NODE: EventLoop = {
  now: () => performance.now(),
  setImmediate: (callback) => setImmediate(callback),
  clearImmediate: (immediate) => clearImmediate(immediate),
  newAlarm,
};

/** Rounds over the poll set inside the core, 10 to 20 µs: more would keep the event loop waiting. */
export const SPIN_ROUNDS = 2000;
/** How long a wait spins where a peer cannot ring: a timer would find its message after 50 µs at best. */
export const SPIN_MS = 2;
/** The longest turn of an event loop that has nothing else to do. A slower turn means a busy loop: do not spin. */
export const MAX_IDLE_TURN_MS = 0.005;
/** Pauses of the timer, and until how long after the last activity each applies. */
export const PAUSES = [
  { pauseMs: 0.05, untilMs: 5 },
  { pauseMs: 0.2, untilMs: 20 },
  { pauseMs: 1, untilMs: 100 },
  { pauseMs: 4, untilMs: 500 },
  { pauseMs: 10, untilMs: Number.POSITIVE_INFINITY },
] as const;
/** Asleep: a peer that takes on to ring and dies before it rings leaves no peer to ring. (wake.pml: NO_FALLBACK_POLL) */
export const FALLBACK_POLL_MS = 100;

/** The strategy of a runtime, between turns of Node's event loop. */
export class EventLoopIdleStrategy implements IdleStrategy {
  readonly #pollOnce: PollOnce;
  readonly #trySleep: TrySleep;
  readonly #loop: EventLoop;
  readonly #wait: Wait;
  readonly #account = new SpinAccount();
  /** The wait under way began here. */
  #lastActivity = 0;
  /** Until then the wait under way spins; undefined: that is not decided, because nothing was polled in vain yet. */
  #spinUntil: number | undefined;
  /** Whether the account pays for the spinning of the wait under way. */
  #paid = false;
  /** Whether what is found now is found awake: neither a doorbell nor a timer has led to it. */
  #awake = false;
  #passing = false;
  #lastTurnEnd = 0;
  /** Whether the last pause was one of the timer: a peer cannot ring. */
  #timed = false;
  #immediate: NodeJS.Immediate | undefined;
  #alarm: Alarm | undefined;
  /** When the alarm goes off; undefined: it is not set. It stays set when a pause ends early: setting costs a system call. */
  #alarmAt: number | undefined;
  #stopped = false;
  #rang = false;
  readonly #turn = () => {
    this.#immediate = undefined;
    if (this.#rang) {
      this.#rang = false;
      this.#begin(this.#loop.now(), false);
    }
    if (this.#stopped) return;
    const now = this.#loop.now();
    const spin = now < (this.#spinUntil ?? 0) && now - this.#lastTurnEnd < MAX_IDLE_TURN_MS;
    this.#passing = true;
    const found = this.#pollOnce(spin ? SPIN_ROUNDS : 0);
    this.#passing = false;
    const after = spin || found ? this.#loop.now() : now;
    if (found) {
      if (this.#awake) this.#account.found(after - this.#lastActivity);
      this.#begin(after, true);
    } else if (spin && this.#paid && after - now > PREEMPTED_MS) {
      this.#account.preempted(after);
      this.#stopSpinning();
    }
    this.#schedule(after);
    this.#lastTurnEnd = this.#loop.now();
  };

  constructor(wait: Wait, pollOnce: PollOnce, trySleep: TrySleep, loop: EventLoop = NODE) {
    this.#pollOnce = pollOnce;
    this.#trySleep = trySleep;
    this.#loop = loop;
    this.#wait = wait;
  }

  get spins(): boolean {
    if (this.#wait === 'adaptive') return this.#timed || this.#account.earned;
    return this.#wait === 'spin';
  }

  wake(): void {
    // Within its own pass, or before the turn that is due anyway: the wait begins there.
    if (this.#immediate || this.#stopped) return;
    this.#begin(this.#loop.now(), !this.#passing);
    this.#immediate = this.#loop.setImmediate(this.#turn);
  }

  rung(): void {
    this.#rang = true;
    if (!this.#stopped) this.#immediate ??= this.#loop.setImmediate(this.#turn);
  }

  stop(): void {
    this.#stopped = true;
    this.#loop.clearImmediate(this.#immediate);
    this.#alarm?.close();
    this.#alarm = undefined;
  }

  /** A wait begins. What it may spin is decided when it has something to wait for: it may begin anew until then. */
  #begin(now: number, awake: boolean): void {
    this.#lastActivity = now;
    this.#spinUntil = undefined;
    this.#paid = false;
    this.#awake = awake;
  }

  #startSpinning(now: number): number {
    let time = 0;
    if (this.#wait === 'spin') time = Number.POSITIVE_INFINITY;
    else if (this.#wait === 'adaptive' && this.#timed) time = SPIN_MS;
    else if (this.#wait === 'adaptive') {
      time = this.#account.allowance(now);
      this.#paid = time > 0;
    }
    return this.#lastActivity + time;
  }

  #stopSpinning(): void {
    this.#spinUntil = 0;
    this.#paid = false;
    this.#awake = false;
  }

  #schedule(now: number): void {
    if (this.#stopped || this.#immediate) return;
    this.#spinUntil ??= this.#startSpinning(now);
    if (now < this.#spinUntil) {
      this.#immediate = this.#loop.setImmediate(this.#turn);
      return;
    }
    if (this.#paid) this.#account.inVain(now - this.#lastActivity);
    this.#stopSpinning();
    const state = this.#trySleep();
    this.#timed = state === 'quiet';
    if (state === 'busy') {
      this.#immediate = this.#loop.setImmediate(this.#turn);
      return;
    }
    this.#setAlarm(now, this.#timed ? pauseAfter(now - this.#lastActivity) : FALLBACK_POLL_MS);
  }

  /** An alarm that goes off earlier stays as it is: its turn finds nothing, and sets it again. */
  #setAlarm(now: number, milliseconds: number): void {
    if (this.#alarmAt !== undefined && this.#alarmAt <= now + milliseconds) return;
    this.#alarm ??= this.#loop.newAlarm(() => {
      this.#alarmAt = undefined;
      // A doorbell that rang has left the alarm set, and its immediate is still to come.
      this.#loop.clearImmediate(this.#immediate);
      this.#turn();
    });
    this.#alarm.set(milliseconds);
    this.#alarmAt = now + milliseconds;
  }
}

function pauseAfter(idleMs: number): number {
  const { pauseMs } = PAUSES.find(({ untilMs }) => idleMs < untilMs) ?? PAUSES[PAUSES.length - 1]!;
  return pauseMs;
}

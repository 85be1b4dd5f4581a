/**
 * How a runtime waits while nothing happens: by spinning, by a doorbell, by a timer.
 *
 * While traffic flows it polls again and again, and lets the event loop turn in between. After a while it announces in the
 * core that it sleeps. Where all peers can ring the doorbell (region/doorbell.ts) nothing more is to be done. Where one
 * cannot, as in another virtual machine, a timer polls, less and less often.
 */
import type { Wait } from '../config/config.js';
import { type Alarm, newAlarm } from './alarm.js';

/** Polls whenever there may be something, until it is stopped. */
export interface IdleStrategy {
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
/** How long spinning goes on after the last activity. */
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
  readonly #spinMs: number;
  #lastActivity = 0;
  #lastTurnEnd = 0;
  #immediate: NodeJS.Immediate | undefined;
  #alarm: Alarm | undefined;
  /** Whether the alarm is set. */
  #pausing = false;
  #stopped = false;
  #rang = false;
  readonly #turn = () => {
    this.#immediate = undefined;
    if (this.#rang) {
      this.#rang = false;
      this.#lastActivity = this.#loop.now();
      if (this.#pausing) this.#alarm?.clear();
    }
    this.#pausing = false;
    if (this.#stopped) return;
    const now = this.#loop.now();
    const spin = now - this.#lastActivity < this.#spinMs && now - this.#lastTurnEnd < MAX_IDLE_TURN_MS;
    if (this.#pollOnce(spin ? SPIN_ROUNDS : 0)) this.#lastActivity = this.#loop.now();
    this.#schedule();
    this.#lastTurnEnd = this.#loop.now();
  };

  constructor(wait: Wait, pollOnce: PollOnce, trySleep: TrySleep, loop: EventLoop = NODE) {
    this.#pollOnce = pollOnce;
    this.#trySleep = trySleep;
    this.#loop = loop;
    this.#spinMs = wait === 'spin' ? Number.POSITIVE_INFINITY : wait === 'block' ? 0 : SPIN_MS;
  }

  wake(): void {
    this.#lastActivity = this.#loop.now();
    if (this.#immediate || this.#stopped) return;
    if (this.#pausing) this.#alarm?.clear();
    this.#pausing = false;
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

  #schedule(): void {
    if (this.#stopped || this.#immediate) return;
    const idleMs = this.#loop.now() - this.#lastActivity;
    const state = idleMs < this.#spinMs ? 'busy' : this.#trySleep();
    if (state === 'busy') {
      this.#immediate = this.#loop.setImmediate(this.#turn);
      return;
    }
    this.#alarm ??= this.#loop.newAlarm(() => {
      // A doorbell that rang has left the alarm set, and its immediate is still to come.
      this.#loop.clearImmediate(this.#immediate);
      this.#turn();
    });
    this.#alarm.set(state === 'asleep' ? FALLBACK_POLL_MS : pauseAfter(idleMs));
    this.#pausing = true;
  }
}

function pauseAfter(idleMs: number): number {
  const { pauseMs } = PAUSES.find(({ untilMs }) => idleMs < untilMs) ?? PAUSES[PAUSES.length - 1]!;
  return pauseMs;
}

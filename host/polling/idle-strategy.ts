/**
 * How a runtime waits when nothing happens: spinning, a doorbell, a timer.
 *
 * While traffic flows it looks again and again, letting the event loop turn in between. After a while it announces that it
 * sleeps (`rest` in the core); where all peers can ring (core/doorbell.ts) nothing more is to be done, where one of them
 * cannot, as in another virtual machine, a timer looks, less and less often.
 */
import { closeSync } from 'node:fs';
import type { Wait } from '../config/config.js';
import { mapper, mapperMissing, type Watch } from '../native/native.js';

/** Calls `look` whenever there may be something, as long as it is not stopped. */
export interface Waiter {
  /** Something is expected, or has come: look soon, and often for a while. */
  wake(): void;
  /** Somebody has rung, and what he brought has been looked at: look again, but let the application have it first. */
  rung(): void;
  stop(): void;
}

/** What a waiter calls. `rounds`: how often to look inside the core before giving up. True: there was something. */
export type Look = (rounds: number) => boolean;

/** Before a pause (wake.pml: quiet_until_timer, asleep_until_rung). `busy`: there is something after all; `quiet`: nothing, look by a timer; `asleep`: somebody will ring. */
export type Rest = () => 'busy' | 'quiet' | 'asleep';

/** Rounds over the hot connections inside the core, 10 to 20 µs: longer would keep the event loop waiting. */
const SPIN_ROUNDS = 2000;
/** How long to go on spinning after the last activity, in milliseconds. */
const HOT = 2;
/** An event loop that comes back later than this has other things to do than to wait with us, in milliseconds. */
const ALONE = 0.005;
/** Pauses of a timer, and until how long after the last activity each applies, in milliseconds. */
const PAUSES = [
  { pause: 0.05, until: 5 },
  { pause: 0.2, until: 20 },
  { pause: 1, until: 100 },
  { pause: 4, until: 500 },
  { pause: 10, until: Number.POSITIVE_INFINITY },
] as const;
/** Asleep: a peer that dies between taking over to ring and ringing leaves it to nobody. (wake.pml: NO_FALLBACK_POLL) */
const NET = 100;

/** Calls once, some time later. Keeps no process alive. */
interface Alarm {
  set(milliseconds: number): void;
  clear(): void;
  close(): void;
}

/** Node's own: at least a millisecond. */
class CoarseAlarm implements Alarm {
  readonly #called: () => void;
  #timer: NodeJS.Timeout | undefined;

  constructor(called: () => void) {
    this.#called = called;
  }

  set(milliseconds: number): void {
    this.#timer = setTimeout(this.#called, Math.max(1, milliseconds)).unref();
  }

  clear(): void {
    clearTimeout(this.#timer);
  }

  close(): void {
    this.clear();
  }
}

/** The kernel's, in the event loop: microseconds. */
class FineAlarm implements Alarm {
  readonly #fd: number;
  readonly #watch: Watch;

  constructor(called: () => void) {
    const native = mapper();
    this.#fd = native.createTimer();
    this.#watch = native.watchCounter(this.#fd, called);
  }

  set(milliseconds: number): void {
    mapper().setTimer(this.#fd, Math.round(milliseconds * 1000));
  }

  clear(): void {
    mapper().setTimer(this.#fd, 0);
  }

  close(): void {
    this.#watch.close();
    closeSync(this.#fd);
  }
}

function newAlarm(called: () => void): Alarm {
  if (mapperMissing() === undefined) {
    try {
      return new FineAlarm(called);
    } catch {
      // Out of descriptors.
    }
  }
  return new CoarseAlarm(called);
}

export class LoopWaiter implements Waiter {
  readonly #look: Look;
  readonly #rest: Rest;
  readonly #hot: number;
  #last = 0;
  /** When the last turn was over. */
  #over = 0;
  #immediate: NodeJS.Immediate | undefined;
  #alarm: Alarm | undefined;
  #waiting = false;
  #stopped = false;
  #rang = false;
  readonly #turn = () => {
    this.#immediate = undefined;
    if (this.#rang) this.#awake();
    this.#waiting = false;
    if (this.#stopped) return;
    const now = performance.now();
    // What others wait for is not to wait for us.
    const spin = now - this.#last < this.#hot && now - this.#over < ALONE;
    if (this.#look(spin ? SPIN_ROUNDS : 0)) this.#last = performance.now();
    this.#schedule();
    this.#over = performance.now();
  };

  constructor(wait: Wait, look: Look, rest: Rest) {
    this.#look = look;
    this.#rest = rest;
    this.#hot = wait === 'spin' ? Number.POSITIVE_INFINITY : wait === 'block' ? 0 : HOT;
  }

  wake(): void {
    this.#last = performance.now();
    if (this.#immediate || this.#stopped) return;
    if (this.#waiting) this.#alarm?.clear();
    this.#waiting = false;
    this.#immediate = setImmediate(this.#turn);
  }

  rung(): void {
    this.#rang = true;
    if (!this.#stopped) this.#immediate ??= setImmediate(this.#turn);
  }

  #awake(): void {
    this.#rang = false;
    this.#last = performance.now();
    if (this.#waiting) this.#alarm?.clear();
  }

  stop(): void {
    this.#stopped = true;
    clearImmediate(this.#immediate);
    this.#alarm?.close();
    this.#alarm = undefined;
  }

  #schedule(): void {
    if (this.#stopped || this.#immediate || this.#waiting) return;
    const quiet = performance.now() - this.#last;
    const rest = quiet < this.#hot ? 'busy' : this.#rest();
    if (rest === 'busy') {
      this.#immediate = setImmediate(this.#turn);
      return;
    }
    const { pause } = PAUSES.find(({ until }) => quiet < until) ?? PAUSES[PAUSES.length - 1]!;
    this.#alarm ??= newAlarm(() => {
      // Who was rung has left it set.
      clearImmediate(this.#immediate);
      this.#turn();
    });
    this.#alarm.set(rest === 'asleep' ? NET : pause);
    this.#waiting = true;
  }
}

/** How a runtime finds out that something happened in shared memory: which connections to look at, and how. */
import type { Wait } from '../config/config.js';
import type { Core } from '../core/core.js';
import { type Look, LoopWaiter, type Rest, type Waiter } from './idle-strategy.js';

/** A connection as the engine sees it. */
export interface Pollable {
  readonly core: Core;
  readonly index: number;
  /** Whether it has something to send for which there was no room. */
  readonly waitsForRoom: boolean;
  /** Do what can be done, bounded. False: there is nothing to do although the ring has something. */
  progress(): boolean;
}

/** One who polls a connection himself. */
export interface Direct {
  /** Set at each poll. */
  calls: boolean;
  /** False: it is ours again, ask anew. */
  valid: boolean;
}

/** Messages that one look takes care of before the event loop gets its turn. */
const BATCH = 64;
/** Refused: ask at the next poll. */
const NOT_YET: Direct = { calls: true, valid: false };
/** How often to see whether an application still polls a connection itself, in milliseconds. */
const RECLAIM = 200;

/** Calls that are answered at once between two looks at the clock, and how long that may go on, in milliseconds. */
const CALLS = 32;
const SPELL = 1;

/**
 * Lets the event loop have its turn while calls are answered at once: a chain of promises that are there already would keep
 * it from timers and sockets for as long as messages come.
 */
class Turns {
  #calls = 0;
  #since = 0;
  #due: Promise<void> | undefined;

  /**
   * @param cost of the answer, in calls that cost nothing more than that
   * @returns what it has to wait for; undefined: nothing. Those behind it wait for the same, so that they stay in order.
   */
  due(cost: number): Promise<void> | undefined {
    this.#calls += cost;
    if (this.#due !== undefined || this.#calls < CALLS) return this.#due;
    this.#calls = 0;
    const now = performance.now();
    if (now - this.#since < SPELL) return undefined;
    this.#due = new Promise((resolve) => {
      setImmediate(() => {
        this.#due = undefined;
        this.#since = performance.now();
        resolve();
      });
    });
    return this.#due;
  }
}

/** Looks after the polled connections of a runtime: which have something, and who should be looked at how. */
export class Progress {
  readonly #byCore = new Map<Core, (Pollable | undefined)[]>();
  readonly #waiter: Waiter;
  /** Connections that their application polls itself: nobody else looks at them meanwhile. */
  readonly #direct = new Map<Pollable, Direct>();
  /** Their backlog is full, so that what is in their ring stays there; but they wait for room: look at each pause. */
  readonly #blocked = new Set<Pollable>();
  #reclaim: NodeJS.Timeout | undefined;
  /** Whether one who finds nothing may look on for some microseconds before he waits. */
  readonly spins: boolean;
  readonly #turns = new Turns();
  #stopped = false;

  /** @param make in place of the waiter for `wait` */
  constructor(wait: Wait, make = (look: Look, rest: Rest): Waiter => new LoopWaiter(wait, look, rest)) {
    this.spins = wait !== 'block';
    this.#waiter = make(
      (rounds) => this.look(rounds),
      () => this.#rest(),
    );
  }

  /** What the answer of a call that is answered at once has to wait for; undefined: nothing. */
  due(cost: number): Promise<void> | undefined {
    return this.#turns.due(cost);
  }

  join(pollable: Pollable): void {
    let table = this.#byCore.get(pollable.core);
    if (!table) {
      table = [];
      this.#byCore.set(pollable.core, table);
      const { core } = pollable;
      const known = table;
      if (core.sleeper) core.sleeper.rung = () => this.#rung(core, known);
    }
    table[pollable.index] = pollable;
    pollable.core.call.addToPollSet(pollable.index);
    this.#waiter.wake();
  }

  leave(pollable: Pollable): void {
    this.#takeBack(pollable);
    this.#blocked.delete(pollable);
    const table = this.#byCore.get(pollable.core);
    if (table?.[pollable.index] !== pollable) return;
    table[pollable.index] = undefined;
    pollable.core.call.removeFromPollSet(pollable.index);
    if (table.every((entry) => entry === undefined)) this.#byCore.delete(pollable.core);
  }

  /** Somebody waits for something at this connection, so it is not left to whoever polls it, until he polls again. */
  wake(pollable: Pollable): void {
    if (this.#byCore.get(pollable.core)?.[pollable.index] !== pollable) return;
    this.#takeBack(pollable);
    pollable.core.call.addToPollSet(pollable.index);
    this.#waiter.wake();
  }

  /**
   * The application polls this connection itself from here on. When it has not called `touch` for a while, it is ours
   * again.
   * @returns what to set at each poll
   */
  direct(pollable: Pollable): Direct {
    // A promise of it waits for room, and he may poll no more before there is some.
    if (pollable.waitsForRoom) return NOT_YET;
    let mark = this.#direct.get(pollable);
    if (!mark) {
      mark = { calls: true, valid: true };
      this.#direct.set(pollable, mark);
      pollable.core.call.removeFromPollSet(pollable.index);
      this.#reclaim ??= setInterval(() => this.#reclaimDirect(), RECLAIM).unref();
    }
    mark.calls = true;
    return mark;
  }

  /** It is ours again. */
  #takeBack(pollable: Pollable): void {
    const mark = this.#direct.get(pollable);
    if (!mark) return;
    mark.valid = false;
    this.#direct.delete(pollable);
  }

  #reclaimDirect(): void {
    for (const [pollable, mark] of this.#direct) {
      if (mark.calls) {
        mark.calls = false;
        continue;
      }
      this.#takeBack(pollable);
      this.wake(pollable);
    }
    if (this.#direct.size === 0) {
      clearInterval(this.#reclaim);
      this.#reclaim = undefined;
    }
  }

  /**
   * A peer has rung. What he brought comes first: the process has slept, nothing of it is in a cache, and each step that can
   * wait costs the message some microseconds.
   */
  #rung(core: Core, table: readonly (Pollable | undefined)[]): void {
    if (this.#stopped) return;
    const found = core.call.poll(0) - 1;
    const pollable = found < 0 ? undefined : table[found];
    if (pollable && (this.#direct.size === 0 || !this.#direct.has(pollable))) pollable.progress();
    this.#waiter.rung();
  }

  /** One bounded pass over everything that has something. True: there was something. */
  look(rounds: number): boolean {
    let active = false;
    for (const pollable of this.#blocked) pollable.core.call.addToPollSet(pollable.index);
    this.#blocked.clear();
    for (const [core, table] of this.#byCore) {
      for (let i = 0; i < BATCH; i++) {
        const found = core.call.poll(i === 0 ? rounds : 0) - 1;
        if (found < 0) break;
        const pollable = table[found];
        // Nothing to do for it now: it comes back when its application takes something, or stops polling.
        if (!pollable || this.#direct.has(pollable)) core.call.removeFromPollSet(found);
        else if (pollable.progress()) active = true;
        else {
          core.call.removeFromPollSet(found);
          if (pollable.waitsForRoom) this.#blocked.add(pollable);
        }
      }
    }
    return active;
  }

  /** Before a pause: arm all rings, so that from here on one word per region tells of all of them, and sleep. */
  #rest(): ReturnType<Rest> {
    // Those wait for room, of which nobody tells.
    let found: ReturnType<Rest> = this.#blocked.size > 0 ? 'quiet' : 'asleep';
    for (const core of this.#byCore.keys()) {
      const rest = core.call.trySleep(core.sleeper?.heard ? 1 : 0);
      if (rest === core.layout.SLEEP_BUSY) found = 'busy';
      else if (rest !== core.layout.SLEEP_ASLEEP && found === 'asleep') found = 'quiet';
    }
    return found;
  }

  stop(): void {
    this.#stopped = true;
    this.#waiter.stop();
    clearInterval(this.#reclaim);
    this.#byCore.clear();
    this.#direct.clear();
    this.#blocked.clear();
  }
}

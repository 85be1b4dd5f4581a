/** Which connections over shared memory a runtime polls, and when. */
import type { Wait } from '../config/config.js';
import type { Core } from '../core/core.js';
import { EventLoopTurns } from './event-loop-turns.js';
import { EventLoopIdleStrategy, type IdleStrategy, type PollOnce, type TrySleep } from './idle-strategy.js';

/** A connection as the poller sees it. */
export interface Pollable {
  readonly core: Core;
  readonly index: number;
  /** Whether it has something to send for which there was no room. */
  readonly waitsForRoom: boolean;
  /** Do what can be done, bounded. @returns false: nothing can be done, although the ring holds something */
  progress(): boolean;
}

/** A connection that its application polls directly. */
export interface DirectPolling {
  /** Set by the connection at each poll. */
  used: boolean;
  /** False: the poller polls the connection again; the next direct poll has to ask for another one of these. */
  valid: boolean;
}

/** Connections of one core that are served in one pass, before the event loop gets its turn. */
export const MAX_BATCH = 64;
/** How often the poller checks whether an application still polls its connections directly. */
export const RECLAIM_MS = 200;
/** Refused: ask again at the next poll. */
const REFUSED: DirectPolling = { used: true, valid: false };

export class Poller {
  readonly #byCore = new Map<Core, (Pollable | undefined)[]>();
  readonly #idle: IdleStrategy;
  /** Connections that their application polls directly: the poller leaves them alone. */
  readonly #direct = new Map<Pollable, DirectPolling>();
  /** Their ring stays full, because the application takes nothing; but they wait for room: polled at each pause. */
  readonly #blocked = new Set<Pollable>();
  #reclaim: NodeJS.Timeout | undefined;
  /** Whether a caller that finds nothing may poll on for some microseconds before it waits. */
  readonly spins: boolean;
  readonly #turns = new EventLoopTurns();
  #stopped = false;

  /** @param newIdleStrategy in place of the strategy for `wait` */
  constructor(
    wait: Wait,
    newIdleStrategy = (pollOnce: PollOnce, trySleep: TrySleep): IdleStrategy =>
      new EventLoopIdleStrategy(wait, pollOnce, trySleep),
  ) {
    this.spins = wait !== 'block';
    this.#idle = newIdleStrategy(
      (rounds) => this.pollOnce(rounds),
      () => this.#trySleep(),
    );
  }

  /** What the answer of a call that is answered at once has to wait for; undefined: nothing. `cost`: in such calls. */
  turnDue(cost: number): Promise<void> | undefined {
    return this.#turns.due(cost);
  }

  add(pollable: Pollable): void {
    let table = this.#byCore.get(pollable.core);
    if (!table) {
      table = [];
      this.#byCore.set(pollable.core, table);
      const { core } = pollable;
      const known = table;
      if (core.sleeper) core.sleeper.rung = () => this.#onRung(core, known);
    }
    table[pollable.index] = pollable;
    pollable.core.call.addToPollSet(pollable.index);
    this.#idle.wake();
  }

  remove(pollable: Pollable): void {
    this.#endDirect(pollable);
    this.#blocked.delete(pollable);
    const table = this.#byCore.get(pollable.core);
    if (table?.[pollable.index] !== pollable) return;
    table[pollable.index] = undefined;
    pollable.core.call.removeFromPollSet(pollable.index);
    if (table.every((entry) => entry === undefined)) this.#byCore.delete(pollable.core);
  }

  /** A pending receive or send: poll this connection again, until its application polls it directly once more. */
  pollAgain(pollable: Pollable): void {
    if (this.#byCore.get(pollable.core)?.[pollable.index] !== pollable) return;
    this.#endDirect(pollable);
    pollable.core.call.addToPollSet(pollable.index);
    this.#idle.wake();
  }

  /**
   * The application polls this connection directly from here on. After a while without `used` the poller polls it again.
   * @returns what to set at each poll
   */
  startDirect(pollable: Pollable): DirectPolling {
    // A promise of the connection waits for room, and the application may not poll again before there is some.
    if (pollable.waitsForRoom) return REFUSED;
    let direct = this.#direct.get(pollable);
    if (!direct) {
      direct = { used: true, valid: true };
      this.#direct.set(pollable, direct);
      pollable.core.call.removeFromPollSet(pollable.index);
      this.#reclaim ??= setInterval(() => this.#reclaimUnused(), RECLAIM_MS).unref();
    }
    direct.used = true;
    return direct;
  }

  #endDirect(pollable: Pollable): void {
    const direct = this.#direct.get(pollable);
    if (!direct) return;
    direct.valid = false;
    this.#direct.delete(pollable);
  }

  #reclaimUnused(): void {
    for (const [pollable, direct] of this.#direct) {
      if (direct.used) {
        direct.used = false;
        continue;
      }
      this.#endDirect(pollable);
      this.pollAgain(pollable);
    }
    if (this.#direct.size === 0) {
      clearInterval(this.#reclaim);
      this.#reclaim = undefined;
    }
  }

  /**
   * A peer has rung. The connection that it rang for comes first: the process has slept, nothing of the message is in a
   * cache, and each step before it costs the message some microseconds.
   */
  #onRung(core: Core, table: readonly (Pollable | undefined)[]): void {
    if (this.#stopped) return;
    const found = core.call.poll(0) - 1;
    const pollable = found < 0 ? undefined : table[found];
    if (pollable && (this.#direct.size === 0 || !this.#direct.has(pollable))) pollable.progress();
    this.#idle.rung();
  }

  /** One bounded pass over everything that has something. @returns whether there was something */
  pollOnce(rounds: number): boolean {
    let active = false;
    for (const pollable of this.#blocked) pollable.core.call.addToPollSet(pollable.index);
    this.#blocked.clear();
    for (const [core, table] of this.#byCore) {
      if (core.lost) core.lostError();
      for (let i = 0; i < MAX_BATCH; i++) {
        const found = core.call.poll(i === 0 ? rounds : 0) - 1;
        if (found < 0) break;
        const pollable = table[found];
        // Nothing can be done for it now: it comes back when its application takes something, or stops polling directly.
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
  #trySleep(): ReturnType<TrySleep> {
    // Blocked connections wait for room, for which no peer rings.
    let result: ReturnType<TrySleep> = this.#blocked.size > 0 ? 'quiet' : 'asleep';
    for (const core of this.#byCore.keys()) {
      const { layout } = core;
      const state = core.call.trySleep(core.sleeper?.heard ? 1 : 0);
      if (core.lost) core.lostError();
      if (state === layout.SLEEP_BUSY) result = 'busy';
      else if (state !== layout.SLEEP_ASLEEP && result === 'asleep') result = 'quiet';
    }
    return result;
  }

  stop(): void {
    this.#stopped = true;
    this.#idle.stop();
    clearInterval(this.#reclaim);
    this.#byCore.clear();
    this.#direct.clear();
    this.#blocked.clear();
  }
}

/**
 * Time that passes only when a test says so: `setTimeout`, `clearTimeout`, `performance.now()` and the `setTimeout` of
 * `node:timers/promises`, for code that uses the globals or imports the last one.
 *
 * ```ts
 * using clock = new FakeClock();
 * const late = bounded(never, 1000);
 * await clock.advance(1000);
 * await late;
 * assert.is(clock.pending, 0);                 // no timer is left
 * ```
 */
import { syncBuiltinESMExports } from 'node:module';
import promises from 'node:timers/promises';

interface FakeTimer {
  readonly at: number;
  readonly run: () => void;
}

const real = { setTimeout, clearTimeout, now: performance.now, sleep: promises.setTimeout };

export class FakeClock implements Disposable {
  /** In the order in which they were set. */
  readonly #timers = new Set<FakeTimer>();
  #now = 0;

  constructor() {
    const set = (run: () => void, ms = 0) => {
      const timer = { at: this.#now + ms, run, ref: () => timer, unref: () => timer };
      this.#timers.add(timer);
      return timer;
    };
    const clear = (timer: unknown) => this.#timers.delete(timer as FakeTimer);
    const sleep = <T>(ms?: number, value?: T, { signal }: { signal?: AbortSignal } = {}) =>
      new Promise((resolve, reject) => {
        signal?.throwIfAborted();
        const abort = () => {
          clear(timer);
          reject(signal?.reason);
        };
        const timer = set(() => {
          signal?.removeEventListener('abort', abort);
          resolve(value);
        }, ms);
        signal?.addEventListener('abort', abort, { once: true });
      });
    this.#install({ setTimeout: set, clearTimeout: clear, now: () => this.#now, sleep });
  }

  #install(functions: { readonly [name in keyof typeof real]: unknown }): void {
    const { sleep, now, ...globals } = functions;
    Object.assign(globalThis, globals);
    performance.now = now as () => number;
    promises.setTimeout = sleep as typeof promises.setTimeout;
    syncBuiltinESMExports();
  }

  get now(): number {
    return this.#now;
  }

  /** Timers that are set. */
  get pending(): number {
    return this.#timers.size;
  }

  /** Milliseconds until the next timer; undefined: there is none. */
  get next(): number | undefined {
    const first = this.#first();
    return first && first.at - this.#now;
  }

  #first(): FakeTimer | undefined {
    // Of equal ones the one that was set first, as in Node.js.
    return [...this.#timers].reduce<FakeTimer | undefined>(
      (first, timer) => (first && first.at <= timer.at ? first : timer),
      undefined,
    );
  }

  /** Let that time pass. Each timer runs at its time, and promises settle in between. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    await turn();
    for (let timer = this.#first(); timer && timer.at <= end; timer = this.#first()) {
      this.#timers.delete(timer);
      this.#now = timer.at;
      timer.run();
      await turn();
    }
    this.#now = end;
  }

  [Symbol.dispose](): void {
    this.#install(real);
  }
}

/** Let promises settle. */
export async function turn(): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}

/**
 * Ping-pong as docs/protocol.md describes it ("Ping-pong"): the side that measures, and the side that echoes.
 *
 * Both poll. What runs for each message is a synchronous function that allocates nothing; it returns when it has used up
 * its budget, so that the function around it can let the event loop turn: an `await` within the loop would cost more than
 * the message.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Connection, IsthmusError, type ReceiveInfo, type Runtime } from '../../index.js';
import { CliError } from './output.js';

/** Looks between two turns of the event loop: about a millisecond. */
const BUDGET = 20_000;
/** A message counts as one look, and one more for each of so many bytes. */
const BYTES_PER_LOOK_LOG2 = 8;
/** After so long without a message the other side may need our processor, in milliseconds. */
const PATIENCE = 1;
/** A round is measured in at most so many blocks of at least so many loops; the median of the blocks counts. */
const BLOCKS = 200;
const BLOCK_LOOPS = 25;
/** Fewer loops than this are just done: no warm-up, one block. */
const FEW = 100;

/** Whether somebody has to look, because no event tells of messages. */
function isPolled(connection: Connection): boolean {
  return connection.plugin !== 'tcp' && connection.plugin !== 'loop';
}

// ─── measuring ───────────────────────────────────────────────────────────────────────────────────────────────────────

interface Rally {
  readonly connection: Connection;
  readonly out: Uint8Array;
  readonly options: { xheader: Uint8Array } | undefined;
  readonly target: Uint8Array;
  readonly info: ReceiveInfo;
  left: number;
  /** Whether a message of ours is on its way. */
  sent: boolean;
}

function wrongLength(size: number, xheader: number, rally: Rally): CliError {
  const { out, options } = rally;
  return new CliError(
    `the other side does not echo: sent ${out.length} bytes with an xheader of ${options?.xheader.length ?? 0}, ` +
      `got ${size} with ${xheader}`,
    "It should be an 'isthmus pp --listen' or pscom's ping-pong.",
  );
}

/** Play until `left` is 0 or the budget is used up. */
function play(rally: Rally, budget: number): void {
  const { connection, out, options, target, info } = rally;
  const size = out.length;
  const xlength = options === undefined ? 0 : options.xheader.length;
  const cost = 1 + (size >> BYTES_PER_LOOK_LOG2);
  let { left, sent } = rally;
  let rest = budget;
  while (left > 0 && rest > 0) {
    if (!sent) {
      if (!connection.trySend(out, options)) {
        rest--;
        continue;
      }
      sent = true;
    }
    let length = connection.tryReceiveInto(target, info);
    while (length < 0 && --rest > 0) length = connection.tryReceiveInto(target, info);
    if (length < 0) break;
    if (length !== size || info.xheaderLength !== xlength) throw wrongLength(length, info.xheaderLength, rally);
    sent = false;
    left--;
    rest -= cost;
  }
  rally.left = left;
  rally.sent = sent;
}

/** The two messages between rounds. */
const BETWEEN = Uint8Array.of(0x2a, 0x2a);

export interface PingOptions {
  /** Bytes of the xheader of each message. */
  readonly xheader: number;
  /** How long to wait for one answer, in milliseconds. */
  readonly timeout: number;
  /** Ends it: what runs then rejects with its reason. */
  readonly signal?: AbortSignal;
}

/** The side that measures. */
export class Ping {
  readonly #runtime: Runtime;
  readonly #connection: Connection;
  readonly #options: PingOptions;
  readonly #budget: number;
  readonly #info: ReceiveInfo;
  #buffer = new Uint8Array(4096);

  constructor(runtime: Runtime, connection: Connection, options: PingOptions) {
    this.#runtime = runtime;
    this.#connection = connection;
    this.#options = options;
    // Where bytes come by events of the loop it has to turn after every miss.
    this.#budget = isPolled(connection) ? BUDGET : 1;
    this.#info = { xheader: new Uint8Array(options.xheader), xheaderLength: 0 };
  }

  #rally(out: Uint8Array, xheader: Uint8Array, loops: number): Rally {
    if (this.#buffer.length < out.length) this.#buffer = new Uint8Array(out.length);
    return {
      connection: this.#connection,
      out,
      options: xheader.length > 0 ? { xheader } : undefined,
      target: this.#buffer,
      info: this.#info,
      left: loops,
      sent: false,
    };
  }

  async #run(rally: Rally): Promise<void> {
    let before = rally.left;
    let since = performance.now();
    for (;;) {
      play(rally, this.#budget);
      if (rally.left === 0) return;
      this.#options.signal?.throwIfAborted();
      const now = performance.now();
      if (rally.left !== before) {
        before = rally.left;
        since = now;
      } else if (now - since > this.#options.timeout) {
        throw new CliError(
          `no answer for ${this.#options.timeout / 1000} s`,
          'The other side may be paused; raise --timeout.',
        );
      } else if (now - since > PATIENCE) {
        await sleep(1);
      }
      await this.#runtime.turn();
    }
  }

  /** @returns nanoseconds for all of it */
  async #time(rally: Rally, loops: number): Promise<number> {
    rally.left = loops;
    const start = process.hrtime.bigint();
    await this.#run(rally);
    return Number(process.hrtime.bigint() - start);
  }

  /** What C's program does before each round. */
  async between(): Promise<void> {
    await this.#run(this.#rally(BETWEEN, new Uint8Array(0), 2));
  }

  /**
   * Measure one size. The median of the blocks is taken: whenever the system gives one of the two processors to somebody
   * else the other side waits some milliseconds, which says nothing about the way between them.
   * @param loops undefined: as many as take about `milliseconds`
   */
  async round(
    size: number,
    loops: number | undefined,
    milliseconds: number,
  ): Promise<{ loops: number; halfRoundTripNs: number }> {
    const rally = this.#rally(new Uint8Array(size).fill(0x2a), new Uint8Array(this.#options.xheader), 0);
    const few = loops !== undefined && loops < FEW;
    const perLoop = few ? 0 : await this.#warmUp(rally, milliseconds * 1e5);
    const count = loops ?? Math.min(10_000_000, Math.max(FEW / 4, Math.round((milliseconds * 1e6) / perLoop)));
    const block = few ? count : Math.max(BLOCK_LOOPS, Math.ceil(count / BLOCKS));
    const limit = loops === undefined ? milliseconds * 4e6 : Number.POSITIVE_INFINITY;
    const times: number[] = [];
    let done = 0;
    for (let total = 0; done < count && total < limit; ) {
      const now = Math.min(block, count - done);
      const took = await this.#time(rally, now);
      // A short last block is as likely to be odd as not to be.
      if (now === block || times.length === 0) times.push(took / now);
      total += took;
      done += now;
    }
    return { loops: done, halfRoundTripNs: median(times) / 2 };
  }

  /** Play until the code is compiled and the other side is awake. @returns nanoseconds for a loop */
  async #warmUp(rally: Rally, limit: number): Promise<number> {
    let best = Number.POSITIVE_INFINITY;
    let count = 4;
    // A pause of somebody else's making does not count for the limit, unless there is nothing else.
    for (let good = 0, total = 0; good < limit && total < limit * 20; ) {
      const took = await this.#time(rally, count);
      total += took;
      good += Math.min(took, best * count);
      best = Math.min(best, took / count);
      if (best * count < limit / 8) count *= 2;
    }
    return best;
  }

  /**
   * The same with content that changes from message to message, each answer compared. The time includes all that.
   * @throws CliError at the first difference
   */
  async verify(size: number, loops: number): Promise<{ loops: number; halfRoundTripNs: number }> {
    const { xheader: xlength } = this.#options;
    const pool = noise(size + xlength + 4099);
    const start = process.hrtime.bigint();
    for (let i = 0; i < loops; i++) {
      // A prime number of places, so that a message that comes late or twice does not look like the one that is due.
      const at = (i * 31) % 4099;
      const xheader = pool.subarray(at, at + xlength);
      const data = pool.subarray(at + xlength, at + xlength + size);
      const rally = this.#rally(data, xheader, 1);
      this.#buffer.fill(0, 0, size);
      this.#info.xheader?.fill(0);
      await this.#run(rally);
      const sameData = Buffer.compare(this.#buffer.subarray(0, size), data) === 0;
      if (!sameData || Buffer.compare(this.#info.xheader as Uint8Array, xheader) !== 0) {
        throw new CliError(
          `message ${i + 1} of ${loops} with ${size} bytes came back with another ${sameData ? 'xheader' : 'content'}`,
        );
      }
    }
    return { loops, halfRoundTripNs: loops === 0 ? 0 : Number(process.hrtime.bigint() - start) / loops / 2 };
  }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length % 2 === 1) return sorted[middle] as number;
  return ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

/** Bytes that do not repeat soon (xorshift32); the same each time. */
export function noise(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = 0x9e3779b9;
  for (let i = 0; i < length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[i] = state;
  }
  return bytes;
}

// ─── echoing ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** How long to poll a connection on which nothing comes, in milliseconds. Then the runtime wakes us. */
const AWAKE = 50;
/** Times that a connection is looked at before the next one has its turn. */
const LOOKS = 16;
const LARGEST_XHEADER = 65_535;

interface Served {
  readonly connection: Connection;
  readonly info: ReceiveInfo & { readonly xheader: Uint8Array };
  buffer: Uint8Array;
  /** What is to be sent, made anew only when a length changes. */
  answer: Uint8Array;
  options: { xheader: Uint8Array } | undefined;
  /** Whether the answer has not found room yet. */
  due: boolean;
  /** Messages since the last look at the clock, and when one came last. */
  messages: number;
  last: number;
  /** It is over: an error, or undefined for an orderly end. */
  readonly end: (error?: unknown) => void;
}

/** Point `answer` and `options` at what has come. */
function prepare(served: Served, length: number): void {
  const { info } = served;
  if (served.answer.length !== length || served.answer.buffer !== served.buffer.buffer) {
    served.answer = served.buffer.subarray(0, length);
  }
  const xlength = info.xheaderLength;
  if (xlength === 0) served.options = undefined;
  else if (served.options?.xheader.length !== xlength) served.options = { xheader: info.xheader.subarray(0, xlength) };
}

/** Echo what is there, looking at most `looks` times. @returns the looks that are left */
function echo(served: Served, looks: number): number {
  const { connection, info } = served;
  let rest = looks;
  while (rest > 0) {
    if (served.due) {
      rest--;
      if (!connection.trySend(served.answer, served.options)) continue;
      served.due = false;
    }
    const length = connection.tryReceiveInto(served.buffer, info);
    if (length < 0) {
      rest--;
      continue;
    }
    prepare(served, length);
    served.due = !connection.trySend(served.answer, served.options);
    served.messages++;
    rest -= 1 + (length >> BYTES_PER_LOOK_LOG2);
  }
  return rest;
}

/** The side that echoes: all of its connections, polled in turn while there is traffic on them. */
export class Echo {
  readonly #runtime: Runtime;
  readonly #awake: Served[] = [];
  #running = false;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /** Echo until the connection ends. @throws what ended it, if it was no orderly end */
  serve(connection: Connection): Promise<void> {
    return new Promise((resolve, reject) => {
      const served: Served = {
        connection,
        info: { xheader: new Uint8Array(LARGEST_XHEADER), xheaderLength: 0 },
        buffer: new Uint8Array(65536),
        answer: new Uint8Array(0),
        options: undefined,
        due: false,
        messages: 0,
        last: performance.now(),
        end: (error) => (error === undefined ? resolve() : reject(error)),
      };
      this.#wake(served);
    });
  }

  #wake(served: Served): void {
    served.last = performance.now();
    this.#awake.push(served);
    if (this.#running) return;
    this.#running = true;
    void this.#run();
  }

  async #run(): Promise<void> {
    while (this.#awake.length > 0) {
      this.#sweep();
      const now = performance.now();
      for (const served of [...this.#awake]) {
        if (served.messages > 0 || served.due) {
          served.messages = 0;
          served.last = now;
        } else if (now - served.last > AWAKE) {
          this.#drop(served);
          void this.#doze(served);
        }
      }
      if (this.#awake.every(({ last }) => now - last > PATIENCE)) await sleep(1);
      await this.#runtime.turn();
    }
    this.#running = false;
  }

  /** Look at all in turn, until it is time for the event loop. */
  #sweep(): void {
    const awake = this.#awake;
    // Over tcp nothing comes before the event loop has turned.
    const polled = awake.every(({ connection }) => isPolled(connection));
    const budget = polled ? BUDGET : 1;
    const looks = awake.length === 1 ? budget : Math.min(LOOKS, budget);
    for (let rest = budget; rest > 0 && awake.length > 0; ) {
      for (let i = awake.length - 1; i >= 0; i--) {
        const served = awake[i] as Served;
        try {
          rest -= looks - echo(served, looks);
        } catch (error) {
          this.#trouble(served, error);
        }
      }
    }
  }

  #trouble(served: Served, error: unknown): void {
    if (error instanceof IsthmusError && error.code === 'ERR_ISTHMUS_BUFFER_TOO_SMALL') {
      // Nothing was lost: it is still there, and fits the next time.
      served.buffer = new Uint8Array(Math.max(error.needed ?? 0, served.buffer.length * 2));
      return;
    }
    this.#drop(served);
    served.end(orderly(error) ? undefined : error);
  }

  #drop(served: Served): void {
    const place = this.#awake.indexOf(served);
    if (place >= 0) this.#awake.splice(place, 1);
  }

  /** Nothing has come for long: the runtime may wait for the next message in its own way. */
  async #doze(served: Served): Promise<void> {
    const { connection } = served;
    try {
      const message = await connection.receive();
      if (message === undefined) {
        served.end();
        return;
      }
      await connection.send(message.data, message.xheader.length > 0 ? { xheader: message.xheader } : undefined);
      this.#wake(served);
    } catch (error) {
      served.end(orderly(error) ? undefined : error);
    }
  }
}

function orderly(error: unknown): boolean {
  return error instanceof IsthmusError && error.code === 'ERR_ISTHMUS_CLOSED';
}

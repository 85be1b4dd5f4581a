/** The side of the ping-pong that measures, as `docs/protocol.md` describes it. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Connection, ReceiveInfo, Runtime } from '../../index.js';
import { CliError } from './errors.js';
import { BYTES_PER_POLL_LOG2, isPolled, MAX_BUSY_MS, POLLS_PER_TURN } from './polled.js';
import { median } from './units.js';

/** A round is measured in at most so many blocks, each of at least so many loops; the median of the blocks counts. */
const MAX_BLOCKS = 200;
const MIN_BLOCK_LOOPS = 25;
/** Fewer loops than this are played as they are: no warm-up, one block. */
const MIN_MEASURED_LOOPS = 100;
const MAX_LOOPS = 10_000_000;

interface Rally {
  readonly connection: Connection;
  readonly out: Uint8Array;
  readonly options: { xheader: Uint8Array } | undefined;
  readonly target: Uint8Array;
  readonly info: ReceiveInfo;
  /** Loops that are still to be played. */
  left: number;
  /** Whether a message was sent whose answer has not come. */
  sent: boolean;
}

function wrongLength(size: number, xheader: number, rally: Rally): CliError {
  const { out, options } = rally;
  return new CliError(
    `the peer does not echo: sent ${out.length} bytes with an xheader of ${options?.xheader.length ?? 0}, ` +
      `received ${size} with ${xheader}`,
    "The peer should be 'isthmus pp --listen' or the ping-pong of pscom.",
  );
}

/** Play until `left` is 0 or the budget of polls is spent. */
function play(rally: Rally, budget: number): void {
  const { connection, out, options, target, info } = rally;
  const size = out.length;
  const xlength = options === undefined ? 0 : options.xheader.length;
  const cost = 1 + (size >> BYTES_PER_POLL_LOG2);
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

/** The message that is exchanged twice between two rounds. */
const BETWEEN = Uint8Array.of(0x2a, 0x2a);

export interface PingOptions {
  /** Bytes of the xheader of each message. */
  readonly xheader: number;
  /** How long to wait for one answer, in milliseconds. */
  readonly timeout: number;
  /** Interrupts: the call that runs rejects with its reason. */
  readonly signal?: AbortSignal;
}

/** What a round has measured. */
export interface Round {
  readonly loops: number;
  readonly halfRoundTripNs: number;
}

/** Measures over one connection. */
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
    // Bytes that come by events need a turn of the event loop after each poll that finds nothing.
    this.#budget = isPolled(connection) ? POLLS_PER_TURN : 1;
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
          `no answer within ${this.#options.timeout / 1000} s`,
          'The peer may be paused. --timeout allows more time.',
        );
      } else if (now - since > MAX_BUSY_MS) {
        await sleep(1);
      }
      await this.#runtime.turn();
    }
  }

  /** @returns nanoseconds for all loops */
  async #time(rally: Rally, loops: number): Promise<number> {
    rally.left = loops;
    const start = process.hrtime.bigint();
    await this.#run(rally);
    return Number(process.hrtime.bigint() - start);
  }

  /** What the program of pscom does before each round. */
  async between(): Promise<void> {
    await this.#run(this.#rally(BETWEEN, new Uint8Array(0), 2));
  }

  /**
   * Measure one size. The median of the blocks counts: when the kernel gives one of the two processors to another process,
   * the peer waits some milliseconds, which says nothing about the path between the two.
   * @param loops undefined: as many as take about `milliseconds`
   */
  async round(size: number, loops: number | undefined, milliseconds: number): Promise<Round> {
    const rally = this.#rally(new Uint8Array(size).fill(0x2a), new Uint8Array(this.#options.xheader), 0);
    const few = loops !== undefined && loops < MIN_MEASURED_LOOPS;
    const perLoop = few ? 0 : await this.#warmUp(rally, milliseconds * 1e5);
    const fitting = Math.round((milliseconds * 1e6) / perLoop);
    const count = loops ?? Math.min(MAX_LOOPS, Math.max(MIN_MEASURED_LOOPS / 4, fitting));
    const block = few ? count : Math.max(MIN_BLOCK_LOOPS, Math.ceil(count / MAX_BLOCKS));
    const limit = loops === undefined ? milliseconds * 4e6 : Number.POSITIVE_INFINITY;
    const times: number[] = [];
    let done = 0;
    for (let total = 0; done < count && total < limit; ) {
      const now = Math.min(block, count - done);
      const took = await this.#time(rally, now);
      // A shorter last block would weigh as much as a whole one.
      if (now === block || times.length === 0) times.push(took / now);
      total += took;
      done += now;
    }
    return { loops: done, halfRoundTripNs: median(times) / 2 };
  }

  /** Play until the code is compiled and the peer is awake. @returns nanoseconds for a loop */
  async #warmUp(rally: Rally, limit: number): Promise<number> {
    let best = Number.POSITIVE_INFINITY;
    let count = 4;
    // A pause caused by other processes does not count against the limit, unless there is nothing but pauses.
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
   * A round in which the content of each message differs, and each answer is compared. The time includes both.
   * @throws CliError at the first difference
   */
  async verify(size: number, loops: number): Promise<Round> {
    const { xheader: xlength } = this.#options;
    const pool = noise(size + xlength + CONTENTS);
    const start = process.hrtime.bigint();
    for (let i = 0; i < loops; i++) {
      const at = (i * 31) % CONTENTS;
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

/** Different contents of messages: a prime number, so that a late or repeated message does not equal the expected one. */
const CONTENTS = 4099;

/** Bytes that do not repeat soon (xorshift32); the same at each call. */
function noise(length: number): Uint8Array {
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

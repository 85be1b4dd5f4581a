/** The results of a run, as in `results.json`. */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import type { Machine } from './machine.js';
import type { Flow } from './transports/transport.js';

/** A histogram counts in tenths of nanoseconds, to four digits. */
const SCALE = 10;
const HIGHEST = 1e13;

/** Half round trips of one size over one transport, in nanoseconds. */
export interface Latency {
  readonly size: number;
  /** Round trips between two clock readings: the percentiles are those of the means of so many round trips. */
  readonly batch: number;
  readonly samples: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

export interface Throughput {
  readonly size: number;
  /** From the median pace of blocks of messages. */
  readonly messagesPerSecond: number;
  readonly bytesPerSecond: number;
}

export interface TransportResult {
  readonly name: string;
  readonly title: string;
  readonly ours: boolean;
  /** The reason why the transport was left out. */
  readonly missing?: string;
  readonly latency: readonly Latency[];
  readonly throughput: readonly Throughput[];
}

/** The result of a micro-benchmark. */
export interface Measure {
  readonly name: string;
  readonly title: string;
  readonly value: number;
  readonly unit: string;
}

/** A goal of the project, and whether a run meets it. */
export interface Goal {
  readonly title: string;
  /** The measured values that are compared, as text. */
  readonly found: string;
  readonly limit: string;
  /** Undefined: a value that is needed was not measured. */
  readonly met: boolean | undefined;
}

export interface Results {
  readonly made: string;
  readonly commit: string;
  readonly quick: boolean;
  readonly seconds: number;
  readonly machine: Machine;
  readonly transports: readonly TransportResult[];
  readonly measures: readonly Measure[];
  /** Measures that failed, with the reason. */
  readonly failed: readonly string[];
  readonly goals: readonly Goal[];
}

/** Times in nanoseconds, for their median and percentiles. */
export class Times {
  readonly #histogram: RecordableHistogram = createHistogram({ lowest: 1, highest: HIGHEST, figures: 4 });

  add(nanoseconds: number): void {
    this.#histogram.record(Math.max(1, Math.min(HIGHEST, Math.round(nanoseconds * SCALE))));
  }

  addAll(nanoseconds: readonly number[]): this {
    for (const one of nanoseconds) this.add(one);
    return this;
  }

  get count(): number {
    return this.#histogram.count;
  }

  percentile(rank: number): number {
    return this.#histogram.percentile(rank) / SCALE;
  }

  latency(size: number, batch: number): Latency {
    return {
      size,
      batch,
      samples: this.count,
      p50: this.percentile(50),
      p90: this.percentile(90),
      p99: this.percentile(99),
      max: this.#histogram.max / SCALE,
    };
  }
}

/** A median needs this many blocks. */
const MIN_BLOCKS = 16;

/** The median pace of the slower end: queued messages may for a while arrive faster than they were sent. */
export function rateOf(size: number, flows: readonly Flow[]): Throughput {
  const paces = (['sent', 'received'] as const).flatMap((end) => {
    const blocks = flows.flatMap((flow) => flow[end] ?? []);
    if (blocks.length === 0) return [];
    // An end that reports only the mean of a whole pass: the best pass is the least disturbed.
    if (blocks.length < MIN_BLOCKS) return [Math.min(...blocks)];
    return [new Times().addAll(blocks).percentile(50)];
  });
  const messagesPerSecond = 1e9 / Math.max(...paces);
  return { size, messagesPerSecond, bytesPerSecond: messagesPerSecond * size };
}

/** What a client saw of its requests. Times in microseconds. */
export interface Asked {
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
  /** What carried them. */
  readonly over: string;
}

/** Medians over the rounds. Times in microseconds. */
export interface ScarceRow extends Asked {
  readonly setting: string;
  readonly title: string;
  readonly kind: string;
  readonly kindTitle: string;
  /** To the socket's, of the same rounds: of the requests per second, and of the 99th percentiles. */
  readonly ratio: number;
  readonly tailRatio: number;
}

export interface Scarce {
  readonly rows: readonly ScarceRow[];
  /** Why a setting is left out. */
  readonly skipped: readonly { readonly title: string; readonly why: string }[];
}

/** The results of `--scarce`. */
export interface ScarceResults extends Scarce {
  readonly made: string;
  readonly commit: string;
  readonly seconds: number;
  readonly machine: Machine;
}

/** The interface between the benchmark and a transport: Isthmus or another. */
import type { ChildProcess } from 'node:child_process';

/** One-way traffic: nanoseconds per message, for each block of messages ({@link Pace}), as measured at the two ends. */
export interface Flow {
  /** Undefined: this end does not measure. */
  readonly sent?: readonly number[];
  readonly received?: readonly number[];
}

/** The end that measures. */
export interface Near {
  /**
   * Play ping-pong.
   * @param milliseconds approximate length of the measurement
   * @param batch round trips between two clock readings; a reading takes some 40 ns itself
   * @returns half round trips in nanoseconds, each the mean of a batch
   */
  latency(size: number, milliseconds: number, batch: number): Promise<number[]>;
  /** Send as fast as possible for about `milliseconds`; undefined: not measured here. */
  throughput(size: number, milliseconds: number): Promise<Flow | undefined>;
  close(): Promise<void>;
}

/** The far end: a separate process, on the other processor. */
export interface Far {
  readonly child: ChildProcess;
  call<T>(name: string, argument?: unknown): Promise<T>;
}

export interface EndOptions {
  /** The library that is measured: a path of `dist/index.js`. */
  readonly library: string;
  /** The processors of the two ends, by number. */
  readonly cpus: readonly [number, number] | undefined;
  /** Part of names of files and of regions: unique for this run. */
  readonly tag: string;
  /** A folder that is removed at the end. */
  readonly folder: string;
}

/** The calls that a far end answers. */
export type Handlers = Readonly<Record<string, (argument: never) => unknown>>;

export interface Transport {
  /** For `--only` and in `results.json`. */
  readonly name: string;
  /** Name in the tables. */
  readonly title: string;
  /** Whether the transport is Isthmus. */
  readonly ours: boolean;
  /** Whether the transport pins the threads itself, because the far end is no Node process. */
  readonly pinsItself?: boolean;
  /** Why the transport cannot be measured here, and what to do about it; undefined: it can. */
  missing(): string | undefined;
  /** Runs in the process of the near end. `far` starts the far end, pinned. */
  near(options: EndOptions, far: () => Promise<Far>): Promise<Near>;
  far?(options: EndOptions): Handlers;
}

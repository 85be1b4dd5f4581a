/** What the benchmark wants of a transport: ours, or that of a peer. */
import type { ChildProcess } from 'node:child_process';

/** One-way traffic: nanoseconds of a message, for each block of messages ({@link Pace}), as the two ends see it. */
export interface Flow {
  /** Undefined: this end does not tell. */
  readonly sent?: readonly number[];
  readonly received?: readonly number[];
}

/** The end that measures. */
export interface Near {
  /**
   * Play ping-pong.
   * @param milliseconds for about so long
   * @param batch round trips between two looks at the clock, which takes some 40 ns itself
   * @returns half round trips in nanoseconds, each the mean of a batch
   */
  latency(size: number, milliseconds: number, batch: number): Promise<number[]>;
  /** Send as fast as it goes for about so many milliseconds; undefined: not measured here. */
  throughput(size: number, milliseconds: number): Promise<Flow | undefined>;
  close(): Promise<void>;
}

/** The far end: a process of its own, on the other processor. */
export interface Far {
  readonly child: ChildProcess;
  call<T>(name: string, argument?: unknown): Promise<T>;
}

export interface EndOptions {
  /** The library that is measured: a path of `dist/index.js`. */
  readonly library: string;
  /** Where the two ends run: numbers of processors. */
  readonly cpus: readonly [number, number] | undefined;
  /** Part of names of files and of regions: unique for this run. */
  readonly tag: string;
  /** A folder that is removed at the end. */
  readonly folder: string;
}

/** What a far end answers to. */
export type Handlers = Readonly<Record<string, (argument: never) => unknown>>;

export interface Transport {
  /** For `--only` and in `results.json`. */
  readonly name: string;
  /** What the two ends do, for people. */
  readonly title: string;
  /** Whether it is Isthmus. */
  readonly ours: boolean;
  /** Whether the threads are pinned by the transport itself, because the far end is no process of Node's. */
  readonly pinsItself?: boolean;
  /** Why it cannot be measured here, with what to do about it. */
  missing(): string | undefined;
  /** In the process of the near end. `far`: starts the other one, pinned. */
  near(options: EndOptions, far: () => Promise<Far>): Promise<Near>;
  far?(options: EndOptions): Handlers;
}

/** Ping-pong and streams over all transports, in turns: other load of the machine affects all of them. */
import type { Callee } from './calls.js';
import { type RunOptions, startEnd } from './ends.js';
import { type Latency, rateOf, type Throughput, Times, type TransportResult } from './results.js';
import { transports as all } from './transports/index.js';
import type { Flow, Transport } from './transports/transport.js';

export interface Plan {
  readonly quick: boolean;
  /** Message sizes in bytes. */
  readonly sizes: readonly number[];
  /** Turns of each transport with each size. */
  readonly passes: number;
  /** Length of one measurement in milliseconds. */
  readonly span: number;
  /** Names, or the beginning of a name and `*`; undefined: everything. */
  readonly only?: readonly string[] | undefined;
}

export const PLANS = {
  full: { quick: false, sizes: [8, 64, 512, 4096, 16384, 65536, 262144, 1048576], passes: 7, span: 100 },
  quick: { quick: true, sizes: [8, 4096, 65536, 1048576], passes: 2, span: 40 },
} as const satisfies Record<string, Plan>;

/** Two clock readings should take at most a hundredth of a sample. */
const MIN_SAMPLE_NS = 8000;
const MAX_BATCH = 64;

export function wanted(name: string, only: readonly string[] | undefined): boolean {
  // A name without `*` must match exactly.
  return (
    only === undefined ||
    only.some((part) => name === part || (part.endsWith('*') && name.startsWith(part.slice(0, -1))))
  );
}

export interface Runner {
  readonly transport: Transport;
  readonly near: Callee;
  readonly latency: Latency[];
  readonly throughput: Throughput[];
  failed?: string;
}

export type Step = (what: string) => void;

/** @returns the round trips of a sample, for one that takes this long, in nanoseconds */
export function batchFor(halfRoundTrip: number): number {
  return Math.max(1, Math.min(MAX_BATCH, Math.ceil(MIN_SAMPLE_NS / halfRoundTrip / 2)));
}

/** Start both ends of a transport; `failed` says why that did not work. */
export async function openRunner(transport: Transport, run: RunOptions): Promise<Runner> {
  const near = startEnd('near', transport.name, run);
  const runner: Runner = { transport, near, latency: [], throughput: [] };
  try {
    await near.call('open');
  } catch (error) {
    runner.failed = (error as Error).message;
    await near.end();
  }
  return runner;
}

async function measureSize(runners: readonly Runner[], size: number, plan: Plan, step: Step): Promise<void> {
  const times = new Map(runners.map((runner) => [runner, new Times()]));
  const flows = new Map(runners.map((runner) => [runner, [] as Flow[]]));
  const batches = new Map<Runner, number>();
  for (let pass = 0; pass < plan.passes; pass++) {
    for (const runner of runners) {
      const { near, transport } = runner;
      step(`${transport.title}, ${size} bytes`);
      if (runner.failed !== undefined) continue;
      try {
        if (!batches.has(runner)) {
          // The first measurement warms up, and gives the number of round trips per sample.
          const samples = new Times().addAll(
            await near.call<number[]>('latency', { size, milliseconds: plan.span, batch: 8 }),
          );
          batches.set(runner, batchFor(samples.percentile(50)));
        }
        const batch = batches.get(runner) as number;
        times.get(runner)?.addAll(await near.call<number[]>('latency', { size, milliseconds: plan.span, batch }));
        const flow = await near.call<Flow | undefined>('throughput', { size, milliseconds: plan.span });
        if (flow) flows.get(runner)?.push(flow);
      } catch (error) {
        runner.failed = `${size} bytes: ${(error as Error).message}`;
        await near.end();
      }
    }
  }
  for (const runner of runners) {
    const taken = times.get(runner) as Times;
    if (taken.count > 0) runner.latency.push(taken.latency(size, batches.get(runner) ?? 1));
    const flowed = flows.get(runner) as Flow[];
    if (flowed.length > 0) runner.throughput.push(rateOf(size, flowed));
  }
}

export const race = {
  /** @returns the number of steps, and the function that performs them */
  async prepare(plan: Plan, run: RunOptions) {
    const chosen = all.filter(({ name }) => wanted(name, plan.only));
    const missing = new Map(chosen.map((transport) => [transport, transport.missing()]));
    const here = chosen.filter((transport) => missing.get(transport) === undefined);
    return {
      total: here.length * plan.sizes.length * plan.passes,
      transports: async (step: Step): Promise<TransportResult[]> => {
        const runners: Runner[] = [];
        try {
          for (const transport of here) runners.push(await openRunner(transport, run));
          for (const size of plan.sizes) await measureSize(runners, size, plan, step);
          for (const runner of runners) if (runner.failed === undefined) await runner.near.call('close');
        } finally {
          await Promise.all(runners.map(({ near }) => near.end()));
        }
        return chosen.map((transport) => {
          const { name, title, ours } = transport;
          const runner = runners.find((one) => one.transport === transport);
          const why = missing.get(transport) ?? runner?.failed;
          return {
            name,
            title,
            ours,
            ...(why === undefined ? {} : { missing: why }),
            latency: runner?.latency ?? [],
            throughput: runner?.throughput ?? [],
          };
        });
      },
    };
  },
};

/** `npm run bench -- --before CHECKOUT`: this build of Isthmus against another one, in turns. */
import { median } from './clock.js';
import type { RunOptions } from './ends.js';
import { batchFor, openRunner, type Runner, type Step, wanted } from './race.js';
import { type Form, forms } from './transports/index.js';
import type { Flow } from './transports/transport.js';
import { type Comparison, compare, type Round, roundsFor } from './verdict.js';

export interface ComparePlan {
  /** Of the round trips, in bytes. */
  readonly sizes: readonly number[];
  readonly rounds: number;
  /** Length of one turn in milliseconds. */
  readonly span: number;
  readonly only: readonly string[] | undefined;
}

export const COMPARE_PLANS = {
  full: { sizes: [8, 1024, 65_536, 1 << 20], rounds: 12, span: 60 },
  quick: { sizes: [8, 65_536], rounds: 9, span: 40 },
} as const;

/** Bytes of a message of the streams. */
export const ONE_WAY_BYTES = 64;

/** A row of the table. */
export interface Row {
  readonly form: string;
  readonly title: string;
  readonly kind: 'half round trip' | 'one way';
  readonly size: number;
}

export interface ComparedRow extends Row {
  readonly compared?: Comparison;
  /** Why there is none. */
  readonly failed?: string;
}

type Side = 'before' | 'after';
const ORDERS: readonly (readonly Side[])[] = [
  ['before', 'after', 'after', 'before'],
  ['after', 'before', 'before', 'after'],
];

/** Turns that are repeated, each longer, because the system let no block of messages pass within one. */
const MAX_REPEATS = 4;

/**
 * The tenth percentile: the time while both ends have their processors. A median tells on a busy machine how long an end
 * waits for one: with a load of 12 on two processors the intervals of the ratios reach from 0.01 to 100, with this from 0.8
 * to 1.3.
 */
function decile(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 10)] as number;
}

/**
 * One turn.
 * @returns nanoseconds of a half round trip, or of a message at the slower end
 */
async function turn({ near }: Runner, row: Row, milliseconds: number, batch: number): Promise<number> {
  const { kind, size } = row;
  if (kind === 'half round trip') return decile(await near.call<number[]>('latency', { size, milliseconds, batch }));
  for (let repeat = 0; repeat <= MAX_REPEATS; repeat++) {
    const flow = await near.call<Flow>('throughput', { size, milliseconds: milliseconds << repeat });
    const paces = [flow.sent ?? [], flow.received ?? []].filter((blocks) => blocks.length > 0).map(decile);
    if (paces.length === 2) return Math.max(...paces);
  }
  throw new Error(`${kind}, ${size} bytes: hardly a message arrived; the machine has no time for it`);
}

/** @returns the number of steps, of rows and of rounds, and the function that performs the steps */
export function prepareComparison(plan: ComparePlan, run: RunOptions) {
  const chosen = forms.filter(({ name, compared }) => (plan.only === undefined ? compared : wanted(name, plan.only)));
  const rowsOf = ({ name, title }: Form): Row[] => [
    ...plan.sizes.map((size): Row => ({ form: name, title, kind: 'half round trip', size })),
    { form: name, title, kind: 'one way', size: ONE_WAY_BYTES },
  ];
  const rows = chosen.flatMap(rowsOf);
  const rounds = Math.max(plan.rounds, roundsFor(rows.length));
  const found = new Map<string, Round[]>();
  const batches = new Map<string, number>();
  const failed = new Map<string, string>();
  const keyOf = ({ form, kind, size }: Row) => `${form} ${kind} ${size}`;

  /** A round of one form: fresh processes, so that what the compiler made of one of them is in one round only. */
  async function play(form: Form, round: number, step: Step): Promise<void> {
    const sides = {
      before: await openRunner(form.before(run.baseline as string), run),
      after: await openRunner(form.after, run),
    };
    try {
      for (const side of ['before', 'after'] as const) {
        if (sides[side].failed !== undefined) throw new Error(`${side}: ${sides[side].failed}`);
      }
      for (const row of rowsOf(form)) {
        const key = keyOf(row);
        const warm = { before: 0, after: 0 };
        for (const side of ['before', 'after'] as const) {
          warm[side] = await turn(sides[side], row, plan.span / 2, batches.get(key) ?? 8);
        }
        // The same for both builds and all rounds.
        if (!batches.has(key)) batches.set(key, batchFor(median([warm.before, warm.after])));
        const turns: Record<Side, number[]> = { before: [], after: [] };
        for (const side of ORDERS[round % ORDERS.length] as readonly Side[]) {
          step(`${form.title}, ${row.kind}, ${row.size} bytes`);
          turns[side].push(await turn(sides[side], row, plan.span, batches.get(key) as number));
        }
        found.set(key, [...(found.get(key) ?? []), turns]);
      }
      await Promise.all([sides.before.near.call('close'), sides.after.near.call('close')]);
    } finally {
      await Promise.all([sides.before.near.end(), sides.after.near.end()]);
    }
  }

  return {
    total: rounds * rows.length * 4,
    rows: rows.length,
    rounds,
    async run(step: Step): Promise<ComparedRow[]> {
      for (let round = 0; round < rounds; round++) {
        for (const form of chosen) {
          if (failed.has(form.name)) continue;
          try {
            await play(form, round, step);
          } catch (error) {
            failed.set(form.name, (error as Error).message);
          }
        }
      }
      return rows.map((row) => {
        const why = failed.get(row.form);
        if (why !== undefined) return { ...row, failed: why };
        return { ...row, compared: compare(found.get(keyOf(row)) ?? [], rows.length) };
      });
    },
  };
}

/** The tables on the screen. */
import { renderTable } from '../host/cli/support/table.js';
import { bytes, duration, rate } from '../host/cli/support/units.js';
import type { ComparedRow } from './compare.js';
import type { Machine } from './machine.js';
import type { Latency, Results, ScarceResults, TransportResult } from './results.js';
import { describeRule, type Verdict } from './verdict.js';

const say = (text: string) => process.stdout.write(text);

/** A count in millions or thousands. */
function count(value: number): string {
  if (value >= 1e6) return `${(value / 1e6).toFixed(value >= 1e7 ? 1 : 2)} M`;
  return value >= 1000 ? `${(value / 1000).toFixed(value >= 1e4 ? 0 : 1)} k` : value.toFixed(0);
}

export function quantity(value: number, unit: string): string {
  if (unit === 'ns') return duration(value);
  if (unit === 'B') return bytes(Math.round(value));
  if (unit === 'B/s') return rate(value);
  if (unit === 'of a core') return `${(value * 100).toFixed(2)} % ${unit}`;
  return `${value} ${unit}`.trim();
}

/** With fewer samples the 99th percentile means nothing. */
const MIN_TAIL_SAMPLES = 200;

export function reliableTail(latency: Latency | undefined): number | undefined {
  return latency && latency.samples >= MIN_TAIL_SAMPLES ? latency.p99 : undefined;
}

function grid(results: Results, cell: (transport: TransportResult, size: number) => string | undefined): string {
  const sizes = [...new Set(results.transports.flatMap(({ latency }) => latency.map(({ size }) => size)))];
  return renderTable(
    [{ title: '' }, ...sizes.map((size) => ({ title: bytes(size), right: true }))],
    results.transports.map((transport) => [transport.title, ...sizes.map((size) => cell(transport, size) ?? '–')]),
  );
}

function describeMachine({ processor, processors, virtual, node, pinned }: Machine): string {
  return (
    `${processor}, ${processors} processors, virtual: ${virtual}; Node ${node}; ` +
    `${pinned ? `pinned to ${pinned.join(' and ')}` : 'not pinned'}`
  );
}

/** The results of `--before`. */
export interface ComparedBuilds {
  readonly made: string;
  readonly before: { readonly checkout: string; readonly commit: string };
  readonly after: { readonly checkout: string; readonly commit: string };
  readonly seconds: number;
  /** `load` is that of the minute before. */
  readonly machine: Machine;
  readonly loadAfter: number;
  readonly rounds: number;
  readonly rows: readonly ComparedRow[];
}

export function printComparison(results: ComparedBuilds): void {
  const { before, after, machine, rows, rounds } = results;
  say(`before: ${before.commit} in ${before.checkout}\nafter:  ${after.commit} in ${after.checkout}\n`);
  say(
    `${describeMachine(machine)}; load ${machine.load} at the start, ${results.loadAfter} at the end; ${results.seconds} s\n\n`,
  );
  const share = (value: number) => `${(value * 100).toFixed(1)} %`;
  const ratio = (value: number) => (Number.isFinite(value) ? value.toFixed(3) : '∞');
  say(
    renderTable(
      [
        { title: 'form' },
        { title: 'measured' },
        ...['before', 'after', 'ratio', 'interval', 'noise before', 'noise after'].map((title) => ({
          title,
          right: true,
        })),
        { title: 'verdict' },
      ],
      rows.map(({ form, kind, size, compared, failed }) => {
        const measured = `${kind}, ${bytes(size)}`;
        if (!compared) return [form, measured, '–', '–', '–', '–', '–', '–', `failed: ${failed?.split('\n')[0]}`];
        const [low, high] = compared.interval;
        return [
          form,
          measured,
          duration(compared.before),
          duration(compared.after),
          ratio(compared.ratio),
          `${ratio(low)} – ${ratio(high)}`,
          share(compared.noiseBefore),
          share(compared.noiseAfter),
          compared.verdict,
        ];
      }),
    ),
  );
  const count = (verdict: Verdict) => rows.filter(({ compared }) => compared?.verdict === verdict).length;
  const failed = rows.filter((row) => row.failed !== undefined).length;
  say(`\n${describeRule(rounds, rows.length)}\n\n`);
  const busiest = Math.max(machine.load, results.loadAfter - 2);
  if (busiest > machine.processors / 2) {
    say(
      `The machine was busy: a load of ${busiest.toFixed(1)} beside the two ends, on ${machine.processors} processors. Where they ` +
        'wait for a processor,\nthe times are those of the scheduler. Repeat it on a quiet machine.\n\n',
    );
  }
  say(
    `${count('slower')} slower, ${count('faster')} faster, ${count('no change beyond noise')} no change beyond noise` +
      `${failed > 0 ? `, ${failed} failed` : ''}\n`,
  );
}

export function print(results: Results): void {
  const { machine } = results;
  say(`${describeMachine(machine)}; load ${machine.load}\n`);
  const find = (transport: TransportResult, size: number) => transport.latency.find((one) => one.size === size);
  const flow = (transport: TransportResult, size: number) => transport.throughput.find((one) => one.size === size);
  const shown = (value: number | undefined, show: (value: number) => string) =>
    value === undefined ? undefined : show(value);
  if (results.transports.length > 0) {
    say('\nHalf round trip, median\n');
    say(grid(results, (transport, size) => shown(find(transport, size)?.p50, duration)));
    say('\nHalf round trip, 99th percentile\n');
    say(grid(results, (transport, size) => shown(reliableTail(find(transport, size)), duration)));
    say('\nOne way, messages per second\n');
    say(grid(results, (transport, size) => shown(flow(transport, size)?.messagesPerSecond, count)));
    say('\nOne way, throughput\n');
    say(grid(results, (transport, size) => shown(flow(transport, size)?.bytesPerSecond, rate)));
  }
  if (results.measures.length > 0) {
    say('\n');
    say(
      renderTable(
        [{ title: 'measure' }, { title: '', right: true }],
        results.measures.map(({ title, value, unit }) => [title, quantity(value, unit)]),
      ),
    );
  }
  if (results.goals.length > 0) {
    say('\n');
    say(
      renderTable(
        [{ title: 'goal' }, { title: 'measured' }, { title: 'limit' }, { title: '' }],
        results.goals.map(({ title, found, limit, met }) => [title, found, limit, met ? 'met' : 'NOT MET']),
      ),
    );
  }
  say('\n');
  for (const { title, missing } of results.transports) if (missing) say(`Left out: ${title}: ${missing}\n`);
  for (const failed of results.failed) say(`Failed: ${failed}\n`);
}

export function printScarce({ machine, seconds, rows, skipped }: ScarceResults): void {
  say(`${describeMachine({ ...machine, pinned: undefined })}; load ${machine.load} at the start; ${seconds} s\n\n`);
  const titles = ['requests/s', 'p50', 'p99', '/ socket', 'p99 / socket'].map((title) => ({ title, right: true }));
  say(
    renderTable(
      [{ title: 'where' }, { title: 'request and answer of 200 B' }, { title: 'over' }, ...titles],
      rows.map((row, i) => [
        rows[i - 1]?.title === row.title ? '' : row.title,
        row.kindTitle,
        row.over,
        count(row.perSecond),
        duration(row.p50 * 1000),
        duration(row.p99 * 1000),
        row.ratio.toFixed(2),
        row.tailRatio.toFixed(2),
      ]),
    ),
  );
  for (const { title, why } of skipped) say(`Left out: ${title}: ${why}\n`);
}

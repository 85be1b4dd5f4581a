/** Writes the part of docs/performance.md that shows the results of a whole run. */
import { readFileSync, writeFileSync } from 'node:fs';
import { bytes, duration, rate } from '../host/cli/support/units.js';
import { quantity, reliableTail } from './report.js';
import type { Results, TransportResult } from './results.js';

const BEGIN = '<!-- begin results: written by npm run bench -->';
const END = '<!-- end results -->';

const row = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;

function table(titles: readonly string[], rows: readonly (readonly string[])[]): string {
  return [row(titles), row(titles.map((_, i) => (i === 0 ? '---' : '---:'))), ...rows.map(row)].join('\n');
}

function grid({ transports }: Results, cell: (transport: TransportResult, size: number) => string | undefined): string {
  const sizes = [...new Set(transports.flatMap(({ latency }) => latency.map(({ size }) => size)))];
  const measured = transports.filter(({ latency }) => latency.length > 0);
  const rows = measured.map((one) => [one.title, ...sizes.map((size) => cell(one, size) ?? '–')]);
  return table(['', ...sizes.map((size) => bytes(size))], rows);
}

function describe({ machine, made, commit, seconds }: Results): string {
  const { processor, processors, pinned, virtual, memory, kernel, node, v8, load, stolen } = machine;
  return [
    `Run of ${made.slice(0, 16).replace('T', ' ')} UTC, ${seconds} s, commit ${commit}. ${processor}, ${processors} processors,`,
    `virtual machine: ${virtual}; ${bytes(memory)} of memory; Linux ${kernel}; Node ${node} (V8 ${v8}); the two ends are`,
    pinned ? `pinned to processors ${pinned.join(' and ')}.` : 'not pinned.',
    `Load before the run ${load}; the host took ${(stolen * 100).toFixed(1)} % of the processors' time during the run.`,
  ].join('\n');
}

function markdown(results: Results): string {
  const latency = (one: TransportResult, size: number) => one.latency.find((found) => found.size === size);
  const flow = (one: TransportResult, size: number) => one.throughput.find((found) => found.size === size);
  const shown = <T>(value: T | undefined, show: (value: T) => string) =>
    value === undefined ? undefined : show(value);
  return [
    describe(results),
    '### Goals',
    table(
      ['goal', 'measured', 'limit', ''],
      results.goals.map(({ title, found, limit, met }) => [title, found, limit, met ? 'met' : '**not met**']),
    ),
    '### Half round trip, median',
    grid(results, (one, size) => shown(latency(one, size)?.p50, duration)),
    '### Half round trip, 99th percentile',
    grid(results, (one, size) => shown(reliableTail(latency(one, size)), duration)),
    '### One way, throughput',
    grid(results, (one, size) => shown(flow(one, size)?.bytesPerSecond, rate)),
    '### One way, thousand messages per second',
    grid(results, (one, size) => shown(flow(one, size)?.messagesPerSecond, (value) => (value / 1000).toFixed(1))),
    '### Measures',
    table(
      ['measure', ''],
      results.measures.map(({ title, value, unit }) => [title, quantity(value, unit)]),
    ),
    ...results.transports
      .filter(({ missing }) => missing)
      .map(({ title, missing }) => `Left out: ${title}: ${missing}`),
    ...results.failed.map((failed) => `Failed: ${failed.split('\n')[0]}`),
  ].join('\n\n');
}

/** Replace the results of the run before in the document. */
export function document(path: string, results: Results): void {
  const text = readFileSync(path, 'utf8');
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`${path} has no lines '${BEGIN}' and '${END}'`);
  writeFileSync(path, `${text.slice(0, begin + BEGIN.length)}\n\n${markdown(results)}\n\n${text.slice(end)}`);
}

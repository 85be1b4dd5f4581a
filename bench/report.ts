/** The tables on the screen. */
import { renderTable } from '../host/cli/support/table.js';
import { bytes, duration, rate } from '../host/cli/support/units.js';
import type { Latency, Results, TransportResult } from './results.js';

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

export function print(results: Results): void {
  const { machine } = results;
  say(
    `${machine.processor}, ${machine.processors} processors, virtual: ${machine.virtual}; Node ${machine.node}; ` +
      `${machine.pinned ? `pinned to ${machine.pinned.join(' and ')}` : 'not pinned'}; load ${machine.load}\n`,
  );
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

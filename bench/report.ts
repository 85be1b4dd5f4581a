/** The tables on the screen. */
import { bytes, duration, rate, renderTable } from '../host/cli/output.js';
import type { Results, TransportResult } from './results.js';

const say = (text: string) => process.stdout.write(text);

/** Millions, thousands. */
function count(value: number): string {
  if (value >= 1e6) return `${(value / 1e6).toFixed(value >= 1e7 ? 1 : 2)} M`;
  return value >= 1000 ? `${(value / 1000).toFixed(value >= 1e4 ? 0 : 1)} k` : value.toFixed(0);
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
  if (results.transports.length > 0) {
    say('\nHalf round trip, median\n');
    say(grid(results, (transport, size) => duration(find(transport, size)?.p50 ?? Number.NaN)));
    say('\nHalf round trip, 99th percentile\n');
    say(grid(results, (transport, size) => duration(find(transport, size)?.p99 ?? Number.NaN)));
    say('\nOne way, messages per second\n');
    say(grid(results, (transport, size) => count(flow(transport, size)?.messagesPerSecond ?? Number.NaN)));
    say('\nOne way, throughput\n');
    say(grid(results, (transport, size) => rate(flow(transport, size)?.bytesPerSecond ?? Number.NaN)));
  }
  for (const { title, missing } of results.transports) if (missing) say(`Left out: ${title}: ${missing}\n`);
}

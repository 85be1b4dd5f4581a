/** The goals of the project, and whether a run meets them. Each goal compares numbers of the same run. */
import { bytes, duration, rate } from '../host/cli/support/units.js';
import type { Goal, Measure, TransportResult } from './results.js';

const ratio = (value: number) => `${value.toFixed(2)} x`;
const percent = (value: number) => `${(value * 100).toFixed(2)} %`;

export function judge(transports: readonly TransportResult[], measures: readonly Measure[]): Goal[] {
  const goals: Goal[] = [];
  const half = (name: string, size: number) =>
    transports.find((one) => one.name === name)?.latency.find((one) => one.size === size)?.p50;
  const flow = (name: string, size: number) =>
    transports.find((one) => one.name === name)?.throughput.find((one) => one.size === size);
  const measure = (name: string) => measures.find((one) => one.name === name)?.value;
  const least = (...values: (number | undefined)[]) => {
    const there = values.filter((value) => value !== undefined);
    return there.length === 0 ? undefined : Math.min(...there);
  };
  /** `ours` is at most `factor` times `theirs`. */
  const atMost = (title: string, ours: number | undefined, theirs: number | undefined, factor: number) => {
    if (ours === undefined || theirs === undefined) return;
    const found = ours / theirs;
    goals.push({
      title,
      found: `${ratio(found)} (${duration(ours)}, ${duration(theirs)})`,
      limit: `at most ${ratio(factor)}`,
      met: found <= factor,
    });
  };
  const fastest = (size: number) => least(half('into', size), half('poll', size));

  atMost('8 B, polled, against UCX posix', fastest(8), half('ucx', 8), 0.8);
  // In place the receiver reads only the first and the last byte; the others copy the whole message out.
  atMost('64 KiB, polled in place, against UCX posix', half('poll', 65_536), half('ucx', 65_536), 0.8);
  atMost('64 KiB, polled and copied out, against UCX posix', half('into', 65_536), half('ucx', 65_536), 0.8);
  atMost('1 MiB, polled in place, against MPICH', half('poll', 1 << 20), half('mpich', 1 << 20), 0.5);
  atMost('1 MiB, polled and copied out, against MPICH', half('into', 1 << 20), half('mpich', 1 << 20), 0.5);
  // Where a goal above is not met: whether Isthmus is the reason, or two copies on this machine.
  for (const [size, name] of [
    [65_536, '64 KiB'],
    [1 << 20, '1 MiB'],
  ] as const) {
    atMost(
      `${name}, polled and copied out, against only memcpy in and out in C`,
      half('into', size),
      half('copies', size),
      1.2,
    );
  }
  atMost('8 B, receive() with its copy, against the polled forms', half('receive', 8), fastest(8), 2);
  atMost('8 B, await under load, adaptive against spinning', half('await', 8), half('await-spin', 8), 1.5);
  const reference = half('reference', 1 << 20);
  if (reference !== undefined) {
    goals.push({
      title: '1 MiB as a loan, the reference only',
      found: duration(reference),
      limit: 'under 1 µs',
      met: reference < 1000,
    });
  }
  const small = Math.max(flow('into', 64)?.messagesPerSecond ?? 0, flow('poll', 64)?.messagesPerSecond ?? 0);
  if (small > 0) {
    goals.push({
      title: '64 B one way, messages per second',
      found: `${(small / 1e6).toFixed(2)} million`,
      limit: 'at least 12 million',
      met: small >= 12e6,
    });
  }
  // The harder of the two copy measures: within the caches.
  const copy = measure('core.copy');
  for (const [name, way] of [
    ['poll', 'in place'],
    ['into', 'copied out'],
  ] as const) {
    const large = flow(name, 65_536)?.bytesPerSecond;
    if (large === undefined || copy === undefined) continue;
    goals.push({
      title: `64 KiB one way, ${way}, against a copy within the caches`,
      found: `${percent(large / copy)} (${rate(large)}, ${rate(copy)})`,
      limit: 'at least 60 %',
      met: large / copy >= 0.6,
    });
  }
  const ours = flow('into', 65_536)?.bytesPerSecond;
  const bound = flow('copies', 65_536)?.bytesPerSecond;
  if (ours !== undefined && bound !== undefined) {
    goals.push({
      title: '64 KiB one way, copied out, against only memcpy in and out in C',
      found: `${percent(ours / bound)} (${rate(ours)}, ${rate(bound)})`,
      limit: 'at least 80 %',
      met: ours / bound >= 0.8,
    });
  }
  atMost(
    'message to a sleeping process, against a Unix-domain socket',
    measure('wake.isthmus'),
    measure('wake.unix'),
    0.8,
  );
  for (const form of ['into', 'await'] as const) {
    const title = `8 B, ${form === 'into' ? 'polled' : 'await'}, with 1,000 idle connections`;
    atMost(title, measure(`busy.${form}.among`), measure(`busy.${form}.alone`), 1.3);
  }
  const cpu = measure('idle.cpu');
  if (cpu !== undefined) {
    goals.push({
      title: '100 idle connections',
      found: `${percent(cpu)} of a core`,
      limit: 'under 1 %',
      met: cpu < 0.01,
    });
  }
  for (const form of ['into', 'poll'] as const) {
    const near = measure(`garbage.${form}.near.bytes`);
    const far = measure(`garbage.${form}.far.bytes`);
    if (near === undefined || far === undefined) continue;
    // The smallest object takes 16 bytes, the smallest number on the heap 12: less than one of them per message means none.
    const most = Math.max(near, far);
    goals.push({
      title: `garbage per round trip, ${form}`,
      found: `under ${bytes(Math.ceil(most))}`,
      limit: 'under 8 B on each side: no object',
      met: most < 8,
    });
  }
  return goals;
}

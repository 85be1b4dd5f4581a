/** The measurement of `isthmus demo`: a ping-pong through the region, and one over a Unix-domain socket. */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { print } from '../support/output.js';
import { indent, renderTable } from '../support/table.js';
import { bytes, duration, median } from '../support/units.js';
import type { DemoRun } from './role-process.js';

const SIZES_BYTES = [8, 1024, 65536] as const;
/** The two take turns so many times. */
const PASSES = 5;
/** Of one measurement. */
const MEASUREMENT_MS = 60;

export async function showLatency(run: DemoRun): Promise<void> {
  if (availableParallelism() < 2)
    print('(This machine has one processor: two processes that poll hinder each other.)\n');
  const { signal } = run;
  const regionEcho = run.start('region echo', {});
  const { port } = await regionEcho.report('listening', signal);
  const path = join(run.folder, 'socket');
  const socketEcho = run.start('socket echo', { path });
  await socketEcho.report('ready', signal);
  const socket = run.start('socket ping', { path });
  const region = run.start('region ping', { port });
  await Promise.all([socket.report('ready', signal), region.report('ready', signal)]);
  const rows: string[][] = [];
  for (const size of SIZES_BYTES) {
    const times = { region: [] as number[], socket: [] as number[] };
    for (let pass = 0; pass < PASSES; pass++) {
      for (const [way, ping] of [
        ['region', region],
        ['socket', socket],
      ] as const) {
        ping.order({ size, milliseconds: MEASUREMENT_MS });
        times[way].push((await ping.report('measured', signal)).halfRoundTripNs);
      }
    }
    const [throughRegion, overSocket] = [median(times.region), median(times.socket)];
    const ratio = overSocket / throughRegion;
    rows.push([bytes(size), duration(throughRegion), duration(overSocket), `1/${ratio.toFixed(ratio < 10 ? 1 : 0)}`]);
  }
  print('Ping-pong between two processes, half round trip; through the region both sides poll:\n');
  const table = renderTable(
    [
      { title: 'size', right: true },
      { title: 'region', right: true },
      { title: 'Unix socket', right: true },
      { title: 'ratio', right: true },
    ],
    rows,
  );
  print(`${indent(table)}\n`);
}

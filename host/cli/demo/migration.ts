/**
 * The migration of `isthmus demo`: two peers stream messages to each other; one of them moves to another host, and comes
 * back.
 *
 * Here a host is a region. A "seat" stands for what a virtual machine sees of the host that it runs on: a path at which the
 * region of that host is linked. (test/support/hosts.ts does the same for tests.)
 */

import { linkSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { basename } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { startBroker } from '../support/embedded-broker.js';
import { CliError } from '../support/errors.js';
import { print } from '../support/output.js';
import { indent, renderTable } from '../support/table.js';
import { DEFECT } from './advice.js';
import { ProcessSteering } from './process-steering.js';
import type { DemoRun, RoleProcess } from './role-process.js';

/** MiB of the region of the other host. */
export const OTHER_MB = 16;
/** How long messages stream before, between and after the migrations. */
const STREAM_MS = 250;

/** Mappings and descriptors that a process has of files whose paths contain `path`. */
function held({ pid }: RoleProcess, path: string): { mappings: number; descriptors: number } {
  const mappings = readFileSync(`/proc/${pid}/maps`, 'latin1').split('\n');
  const descriptors = readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch (error) {
      // It was closed after the list was read.
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
      throw error;
    }
  });
  const count = (lines: string[]) => lines.filter((line) => line.includes(path)).length;
  return { mappings: count(mappings), descriptors: count(descriptors) };
}

interface Peers {
  readonly run: DemoRun;
  readonly steering: ProcessSteering;
  readonly mover: RoleProcess;
  readonly stayer: RoleProcess;
  /** That of the peer that moves. */
  readonly seat: string;
}

interface Destination {
  readonly host: string;
  readonly region: string;
  /** Plugin before the move, and the one that is expected after it. */
  readonly from: string;
  readonly plugin: string;
}

/** @throws CliError unless the peers use the expected plugin, and the process has released its region */
async function migrate(peers: Peers, { host, region, from, plugin }: Destination): Promise<void> {
  const { run, steering, mover, stayer, seat } = peers;
  const back = Promise.all([mover.report('back', run.signal), stayer.report('back', run.signal)]);
  const early = back.then(() => {
    throw new CliError('the connection was resumed before it was suspended', DEFECT);
  });
  const before = held(mover, run.region);
  if (before.mappings === 0) throw new CliError(`no mapping of the region in /proc/${mover.pid}/maps`, DEFECT);
  const suspended = await Promise.race([steering.ask('suspend'), early]);
  rmSync(seat);
  const after = held(mover, run.region);
  if (after.mappings + after.descriptors > 0) {
    throw new CliError(
      `process ${mover.pid} still has ${after.mappings} mappings and ${after.descriptors} descriptors of the region`,
      DEFECT,
    );
  }
  linkSync(region, seat);
  const [resumed, [there, here]] = await Promise.all([steering.ask('resume'), back]);
  const events: [number, string][] = [
    [suspended.asked, 'suspend requested over MQTT'],
    [suspended.answered, 'ALLOWED'],
    [resumed.asked, `resume requested; the process now sees the region of host ${host}`],
    [resumed.answered, 'COMPLETED'],
    [there.at, `first message to process ${mover.pid}`],
    [here.at, `first message from process ${mover.pid}`],
  ];
  const rows = events.toSorted(([a], [b]) => a - b).map(([at, what]) => [(at - suspended.asked).toFixed(1), what]);
  print(`Process ${mover.pid} moves to host ${host}: ${from} → ${there.plugin}\n`);
  print(indent(renderTable([{ title: 'ms', right: true }, { title: '' }], rows)));
  print(
    `  Mappings and descriptors of the region in /proc/${mover.pid}: ${before.mappings} and ${before.descriptors} before, ` +
      'none when the migration was allowed\n',
  );
  for (const { why, pid } of [
    { ...there, pid: mover.pid },
    { ...here, pid: stayer.pid },
  ]) {
    if (why !== undefined) print(`  Why: ${why} (process ${pid})\n`);
  }
  print('\n');
  for (const { plugin: got, why } of [there, here]) {
    if (got !== plugin) {
      throw new CliError(`after the migration to host ${host} the peers use ${got}, not ${plugin}: ${why}`, DEFECT);
    }
  }
}

/** End the streams, and compare their counts. @throws CliError unless each message has arrived once and in order */
async function compare({ run, mover, stayer }: Peers): Promise<void> {
  for (const peer of [mover, stayer]) peer.order({ stop: true });
  const [one, other] = await Promise.all([mover.report('streamed', run.signal), stayer.report('streamed', run.signal)]);
  const directions = [
    { from: mover, to: stayer, sent: one.sent, got: other },
    { from: stayer, to: mover, sent: other.sent, got: one },
  ].map(({ from, to, sent, got }) => {
    const { received, doubled, disordered, damaged } = got;
    const wrong = [sent - received + doubled, doubled, disordered, damaged];
    return { wrong, row: [`${from.pid} to ${to.pid}`, sent, received, ...wrong].map(String) };
  });
  const counts = ['sent', 'received', 'lost', 'doubled', 'out of order', 'damaged'];
  const columns = [{ title: 'messages' }, ...counts.map((count) => ({ title: count, right: true }))];
  const rows = directions.map(({ row }) => row);
  print(`${indent(renderTable(columns, rows))}\n`);
  if (directions.some(({ wrong }) => wrong.some((count) => count !== 0))) {
    throw new CliError('not all messages arrived once and in order', DEFECT);
  }
}

/** Let messages stream for a while. */
async function stream({ signal }: DemoRun): Promise<void> {
  await pause(STREAM_MS);
  signal.throwIfAborted();
}

/** @throws CliError unless everything is as expected */
export async function showMigration(run: DemoRun): Promise<void> {
  const { region, signal } = run;
  const other = `${region}-other`;
  const seats = { mover: `${region}-mover`, stayer: `${region}-stayer` };
  const broker = await startBroker();
  const started: RoleProcess[] = [];
  let steering: ProcessSteering | undefined;
  try {
    const server = run.start('region server', { name: basename(other), megabytes: OTHER_MB });
    const start = (name: keyof typeof seats, args: { port?: number } = {}) => {
      const seat = seats[name];
      linkSync(region, seat);
      const env = { PSP_IVSHMEM_REGIONS: seat, PSP_SUSPEND_RESUME: '1', PSP_MQTT_BROKER: broker.url };
      const peer = run.start('streamer', { name, seat, ...args }, env);
      started.push(peer);
      return peer;
    };
    const stayer = start('stayer');
    const { port } = await stayer.report('listening', signal);
    const mover = start('mover', { port });
    const { plugin, why } = await mover.report('connected', signal);
    if (plugin !== 'ivshmem') {
      throw new CliError(`the peers use ${plugin}, not ivshmem: ${why}`, "See 'isthmus info'.");
    }
    steering = await ProcessSteering.open(broker.url, mover.pid, signal);
    await Promise.all([steering.ready(), server.report('ready', signal)]);
    print(
      `Migration: processes ${mover.pid} and ${stayer.pid} on host A stream messages to each other, over plugin ${plugin}.\n` +
        `Process ${mover.pid} is suspended and resumed through an MQTT broker at ${broker.url}.\n\n`,
    );
    const peers = { run, steering, mover, stayer, seat: seats.mover };
    await stream(run);
    await migrate(peers, { host: 'B', region: other, from: plugin, plugin: 'tcp' });
    await stream(run);
    await migrate(peers, { host: 'A', region, from: 'tcp', plugin: 'ivshmem' });
    await stream(run);
    await compare(peers);
  } finally {
    // Before the broker, to which they publish that they end.
    await Promise.all(started.map((peer) => peer.end()));
    await steering?.close();
    await broker.close();
  }
}

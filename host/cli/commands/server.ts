/** `isthmus server`: keeps a region file for the peers on this host and in its VMs. What it does is in region/server.ts. */
import { spawn } from 'node:child_process';
import { basename, dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Users } from '../../device/holders.js';
import { SHM } from '../../device/posix.js';
import { type CloseResult, RegionServer } from '../../region/server.js';
import { accountId } from '../support/accounts.js';
import { interval, mebibytes } from '../support/args.js';
import { UsageError } from '../support/errors.js';
import { withExamples } from '../support/help.js';
import { print, printError, printJsonLine } from '../support/output.js';
import { clearScreen, showInPlace } from '../support/progress.js';
import {
  type PeerEvent,
  type PeerState,
  peerKey,
  type RegionState,
  RegionWatch,
  SILENT_AFTER_MS,
} from '../support/region-watch.js';
import { stopSignal } from '../support/signals.js';
import { indent, renderTable } from '../support/table.js';
import { bytes, counted, elapsed, MIB } from '../support/units.js';

// ─── what is printed ─────────────────────────────────────────────────────────────────────────────────────────────────

const LIVES = { alive: 'alive', dead: 'dead', unknown: 'unknown' } as const;

function render(path: string, size: number, { peers, frames }: RegionState): string {
  const { frameSize, total, tables, free } = frames;
  const table = renderTable(
    [
      { title: 'slot', right: true },
      { title: 'host' },
      { title: 'process' },
      { title: 'pid', right: true },
      { title: 'heartbeat', right: true },
      { title: 'its lock' },
      { title: 'frames', right: true },
      { title: 'connections', right: true },
    ],
    peers.map(({ slot, host, name, pid, heartbeatAgeMs, silent, lives, frames: taken, connections }) => [
      String(slot),
      host,
      name,
      String(pid),
      `${heartbeatAgeMs === null ? 'none seen' : `${elapsed(heartbeatAgeMs)} ago`}${silent ? ' (silent)' : ''}`,
      LIVES[lives],
      String(taken),
      String(connections),
    ]),
  );
  return (
    `${path}: ${bytes(size)}, ${peers.length} attached, ` +
    `${free} of ${total - tables} frames of ${bytes(frameSize)} free\n\n${peers.length === 0 ? '' : indent(table)}`
  );
}

const label = ({ slot, generation, name, host, pid }: PeerState) =>
  `slot ${slot} (generation ${generation}): ${name} on ${host}, pid ${pid}`;

function eventLine({ what, peer }: PeerEvent): string {
  const held = `${counted(peer.frames, 'frame')}, ${counted(peer.connections, 'connection')}`;
  switch (what) {
    case 'attached':
      return `attached: ${label(peer)}`;
    case 'left':
      return `left: ${label(peer)}`;
    case 'dead':
      return `dead, taken back: ${label(peer)}; it had ${held}`;
    case 'silent':
      return (
        `silent for more than ${SILENT_AFTER_MS / 1000} s: ${label(peer)}; it has ${held}. ` +
        (peer.lives === 'alive'
          ? 'Its process is alive: stopped, or very busy'
          : "It may be paused. If it will never run again: 'isthmus region confirm-dead'")
      );
    case 'back':
      return `back: ${label(peer)}`;
  }
}

/** How the server reports. */
interface Reporter {
  ready(): void;
  polled(state: RegionState, events: readonly PeerEvent[]): void;
  /** The path does not lead to the file any more. */
  removed(): void;
  ended(leaving: CloseResult): void;
}

function describe({ path, origin }: RegionServer): string {
  const how = {
    created: '',
    adopted: ', adopted: the file was there',
    replaced: ', replaced: the file that was there was not usable',
  };
  return `${path} is ready${how[origin]}`;
}

function textReporter(server: RegionServer, size: number): Reporter {
  const { isTTY } = process.stdout;
  const { path, stranded } = server;
  return {
    ready() {
      const name = dirname(path) === SHM ? basename(path) : path;
      print(
        `isthmus: region ${describe(server)}, ${bytes(size)}, pid ${process.pid}; ` +
          `processes of this host use it with PSP_IVSHMEM_REGIONS=${name}\n`,
      );
      const still = describeUse(stranded, 'the old file');
      if (still !== undefined) {
        printError(`isthmus: ${still}: detach the device of such a machine and attach it again\n`);
      }
      if (isTTY) clearScreen();
    },
    polled(state, events) {
      if (isTTY) showInPlace(render(path, size, state));
      else for (const event of events) print(`${eventLine(event)}\n`);
    },
    removed: () => printError(`isthmus: ${path} was removed: new peers do not find it\n`),
    ended({ removed, peers, failure, ...users }) {
      if (removed) return;
      if (failure) return printError(`isthmus: ${path} is not removed: ${failure.message}\n`);
      const still = describeUse(users, 'it');
      const reasons = [
        ...(peers.length === 0 ? [] : [`${peers.length} attached`]),
        ...(still === undefined ? [] : [still]),
      ];
      if (reasons.length === 0) return;
      const remedy = users.use === 'unknown' ? `. If no process and no machine uses it: 'rm ${path}'` : '';
      printError(`isthmus: ${path} is not removed: ${reasons.join('; ')}; the next server adopts it${remedy}\n`);
    },
  };
}

/** For people. @param what the file. @returns undefined: no process uses it */
function describeUse({ use, holders }: Users, what: string): string | undefined {
  if (use === 'none') return undefined;
  if (use === 'unknown') return `this user cannot see whether a process uses ${what}`;
  if (holders.length === 0) return `a process that this user cannot see uses ${what}`;
  return `${what} is in use by ${holders.map(({ name, pid }) => `${name}[${pid}]`).join(' ')}`;
}

function jsonReporter({ path, origin, stranded }: RegionServer, size: number): Reporter {
  const line = (event: string, more: object) => printJsonLine({ time: new Date().toISOString(), event, path, ...more });
  return {
    ready: () => line('ready', { size, origin, pid: process.pid, stranded }),
    polled(state, events) {
      for (const { what, peer } of events) line(what, { peer });
      line('state', state);
    },
    removed: () => line('lost', {}),
    ended: ({ failure, ...leaving }) => line('end', { ...leaving, failure: failure?.message ?? null }),
  };
}

// ─── the server ──────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Notify systemd, if it started the server: units that wait for it, such as VMs, can start. By a program, because Node.js
 * has no Unix datagram sockets.
 */
function notifySystemd(state: string): void {
  if (process.env['NOTIFY_SOCKET'] === undefined) return;
  // Not awaited: a failure does not stop the server, and systemd has its own limit.
  spawn('systemd-notify', [state], { stdio: 'ignore' })
    .on('error', (error) => printError(`isthmus: cannot notify systemd of ${state}: ${error.message}\n`))
    .unref();
}

interface Options {
  readonly name: string;
  readonly megabytes: number;
  readonly owner?: string;
  readonly group?: string;
  readonly mode: number;
  readonly force?: true;
  readonly interval: number;
  readonly json?: true;
}

async function serve(options: Options): Promise<void> {
  const { name, megabytes, owner, group, mode, force, json = false } = options;
  const size = megabytes * MIB;
  using stop = stopSignal();
  using server = await RegionServer.open({
    name,
    size,
    force,
    access: {
      mode,
      uid: owner === undefined ? undefined : accountId('user', owner),
      gid: group === undefined ? undefined : accountId('group', group),
    },
  });
  const reporter = json ? jsonReporter(server, size) : textReporter(server, size);
  {
    using watch = new RegionWatch(server.path);
    if (!stop.aborted) reporter.ready();
    notifySystemd('--ready');
    let inPlace = true;
    // Also once standard output is closed: the server is there for the region.
    while (!stop.aborted) {
      const dead = new Set(server.reap().map(peerKey));
      const state = watch.poll();
      reporter.polled(state, watch.changes(state, dead));
      if (inPlace && !server.inPlace) reporter.removed();
      inPlace = server.inPlace;
      await sleep(options.interval * 1000, undefined, { signal: stop }).catch(() => {});
    }
  }
  notifySystemd('STOPPING=1');
  reporter.ended(server.close());
}

function permissions(text: string): number {
  const mode = Number.parseInt(text, 8);
  if (!/^0?[0-7]{3}$/.test(text) || (mode & 0o600) !== 0o600 || mode & 0o007) {
    throw new InvalidArgumentError('Expected permissions such as 0660: read and write for the owner, none for others.');
  }
  return mode;
}

export function addServer(program: Command): void {
  const command = program
    .command('server')
    .summary('create a region, and keep it until the server is stopped')
    .description(
      'Create, reserve and format a region file in /dev/shm (or at a path), before the VMs that share it are started; or ' +
        'adopt a healthy one that exists. Prints the peers: a table on a terminal; elsewhere a line for each peer that ' +
        'attaches, leaves, dies or falls silent. Takes back the frames of peers whose death is proven; a peer that is only ' +
        'silent keeps them. On SIGTERM or SIGINT the file is removed, unless a peer is attached, or a process of any user ' +
        'has it open or mapped, or that cannot be told.',
    )
    .requiredOption('-s, --name <NAME>', 'name in /dev/shm, or a path with a slash')
    .requiredOption('-m, --megabytes <MB>', 'size in MiB, a power of two', mebibytes)
    .addOption(
      new Option('-c, --client <KIND>', 'kind of the client that decides on the regions')
        .choices(['migration-framework'])
        .default('migration-framework'),
    )
    .option('--owner <USER>', 'owner of the file (default: this user)')
    .option('--group <GROUP>', 'group of the file: for example that of the QEMU processes')
    .addOption(new Option('--mode <MODE>', 'permissions of the file').default(0o660, '0660').argParser(permissions))
    .option('--force', 'replace a file that is not usable, unless a process of this host uses it')
    .option('--interval <SECONDS>', 'time between two polls of the region', interval, 1)
    .option('--json', 'print one JSON object per line: each event, and the state after each poll');
  withExamples(
    command,
    `
  $ isthmus server -s demo -m 64 -c migration-framework &
  $ export PSP_IVSHMEM_REGIONS=demo         # processes of this host use a region file only if they name it
  $ PSP_SHM=0 isthmus pp --listen 7100 &    # PSP_SHM=0: processes of one user prefer shm
  $ isthmus pp 127.0.0.1:7100
  $ kill %1                                 # removes the file, exit code 0

  # isthmus server -s ivshmem0 -m 512 --owner libvirt-qemu --group kvm    # for VMs`,
  ).action(async (options: Options) => {
    // PSP_IVSHMEM_REGIONS could not name such a region.
    if (/[\s,*?]/.test(options.name)) {
      throw new UsageError(`'${options.name}' is not the name of a region: it must not have blanks, commas, * or ?`);
    }
    await serve(options);
  });
}

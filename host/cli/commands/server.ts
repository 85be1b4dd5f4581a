/**
 * `isthmus server`: a region file for the peers on this host, or for its VMs, as long as the server runs. What it does with
 * the file is host/core/keeper.ts.
 */
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { type FrameCount, Heartbeats, Onlooker, type PeerSlot } from '../../region/inspection.js';
import { Keeper, type Leaving } from '../../region/server.js';
import { idOf } from '../support/accounts.js';
import { interval, powerOfTwo, stopSignal } from '../support/args.js';
import {
  bytes,
  clearScreen,
  complain,
  elapsed,
  indent,
  renderTable,
  say,
  showInPlace,
  UsageError,
} from '../support/output.js';

const MIB = 0x100000;
/** Whoever has not counted up his heartbeat for so long is called silent, in milliseconds. That proves nothing. */
const SILENT = 5000;

/** A peer, as the server sees it. */
interface Row extends PeerSlot {
  /** When its heartbeat last changed, in milliseconds; null: not since the server looks. */
  readonly heartbeatAgeMs: number | null;
  /** No change of it for a while. */
  readonly silent: boolean;
  /** What its lock proves: nothing of somebody on another kernel. */
  readonly lives: 'alive' | 'dead' | 'unknown';
  /** That it has taken. */
  readonly frames: number;
  readonly connections: number;
}

interface View {
  readonly peers: readonly Row[];
  readonly frames: FrameCount;
}

type Happening = 'attached' | 'left' | 'dead' | 'silent' | 'back';

/** What has happened to somebody. */
interface Event {
  readonly what: Happening;
  readonly peer: Row;
}

const key = ({ slot, generation }: Pick<Row, 'slot' | 'generation'>) => `${slot}.${generation}`;

/** Looks at the region again and again. */
class Lookout implements Disposable {
  readonly #onlooker: Onlooker;
  readonly #heartbeats = new Heartbeats();
  #before = new Map<string, Row>();

  constructor(path: string) {
    this.#onlooker = Onlooker.ofFile(path);
  }

  look(): View {
    const onlooker = this.#onlooker;
    onlooker.look();
    const slots = onlooker.peers();
    this.#heartbeats.look(slots);
    const holdings = onlooker.holdings();
    const peers = slots.map((peer): Row => {
      const { frames = 0, connections = 0 } = holdings.get(peer.slot) ?? {};
      const age = this.#heartbeats.age(peer);
      return {
        ...peer,
        heartbeatAgeMs: age === undefined ? null : Math.round(age),
        silent: this.#heartbeats.silence(peer) > SILENT,
        lives: onlooker.lives(peer),
        frames,
        connections,
      };
    });
    return { peers, frames: onlooker.frames() };
  }

  /** What is different from the last time. @param dead whom somebody has declared so since then */
  changes({ peers }: View, dead: ReadonlySet<string>): Event[] {
    const before = this.#before;
    const now = new Map(peers.map((peer) => [key(peer), peer]));
    this.#before = now;
    const gone = [...before].filter(([name]) => !now.has(name));
    return [
      ...gone.map(([name, peer]): Event => ({ what: dead.has(name) ? 'dead' : 'left', peer })),
      ...peers.flatMap((peer): Event[] => {
        const then = before.get(key(peer));
        if (!then) return [{ what: 'attached', peer }];
        return then.silent === peer.silent ? [] : [{ what: peer.silent ? 'silent' : 'back', peer }];
      }),
    ];
  }

  [Symbol.dispose](): void {
    this.#onlooker.close();
  }
}

const LIVES = { alive: 'alive', dead: 'dead', unknown: 'elsewhere' } as const;

function render(path: string, size: number, { peers, frames }: View): string {
  const { frameSize, total, tables, free } = frames;
  const table = renderTable(
    [
      { title: 'slot', right: true },
      { title: 'host' },
      { title: 'process' },
      { title: 'pid', right: true },
      { title: 'heartbeat', right: true },
      { title: 'kernel' },
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

const who = ({ slot, generation, name, host, pid }: Row) =>
  `slot ${slot} (generation ${generation}): ${name} on ${host}, pid ${pid}`;

function tell({ what, peer }: Event): string {
  const held = `${peer.frames} frames, ${peer.connections} connections`;
  switch (what) {
    case 'attached':
      return `attached: ${who(peer)}`;
    case 'left':
      return `left: ${who(peer)}`;
    case 'dead':
      return `dead, taken back: ${who(peer)}; it had ${held}`;
    case 'silent':
      return (
        `silent for more than ${SILENT / 1000} s: ${who(peer)}; it has ${held}. ` +
        (peer.lives === 'alive'
          ? 'It lives: stopped, or very busy'
          : "It may be paused; if it is known to be dead: 'isthmus region confirm-dead'")
      );
    case 'back':
      return `back: ${who(peer)}`;
  }
}

/** How the server says what it sees. */
interface Voice {
  ready(): void;
  saw(view: View, events: readonly Event[]): void;
  /** The path does not lead to the file any more. */
  lost(): void;
  left(leaving: Leaving): void;
}

function describe({ path, origin }: Keeper): string {
  const how = { created: '', adopted: ', adopted: it was there', replaced: ', replaced: what was there was of no use' };
  return `${path} is ready${how[origin]}`;
}

function inWords(keeper: Keeper, size: number): Voice {
  const { isTTY } = process.stdout;
  const { path, stranded } = keeper;
  return {
    ready() {
      say(`isthmus: region ${describe(keeper)}, ${bytes(size)}, pid ${process.pid}\n`);
      for (const { pid, name } of stranded) {
        complain(`isthmus: ${name}[${pid}] still has the old file: take its device away and give it to it again\n`);
      }
      if (isTTY) clearScreen();
    },
    saw(view, events) {
      if (isTTY) showInPlace(render(path, size, view));
      else for (const event of events) say(`${tell(event)}\n`);
    },
    lost: () => complain(`isthmus: somebody has removed ${path}: whoever comes now does not find it\n`),
    left({ removed, peers, holders }) {
      if (removed || peers.length + holders.length === 0) return;
      const names = holders.map(({ pid, name }) => `${name}[${pid}]`).join(' ');
      complain(
        `isthmus: ${path} stays: ${peers.length} attached${names === '' ? '' : `, in the memory of ${names}`}; ` +
          'the next server adopts it\n',
      );
    },
  };
}

function inJson({ path, origin, stranded }: Keeper, size: number): Voice {
  const line = (event: string, more: object) =>
    say(`${JSON.stringify({ time: new Date().toISOString(), event, path, ...more })}\n`);
  return {
    ready: () => line('ready', { size, origin, pid: process.pid, stranded }),
    saw(view, events) {
      for (const { what, peer } of events) line(what, { peer });
      line('state', view);
    },
    lost: () => line('lost', {}),
    left: (leaving) => line('end', leaving),
  };
}

/** Tell systemd, if it has started us: VMs may start now. It takes a socket of a kind that Node.js does not have. */
function notify(state: string): void {
  if (process.env['NOTIFY_SOCKET'] === undefined) return;
  // Not waited for, nor without it missed: systemd has a limit of its own.
  spawn('systemd-notify', [state], { stdio: 'ignore' })
    .on('error', (error) => complain(`isthmus: systemd is not told ${state}: ${error.message}\n`))
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
  const stop = stopSignal();
  using keeper = await Keeper.open({
    name,
    size,
    force,
    access: {
      mode,
      uid: owner === undefined ? undefined : idOf('user', owner),
      gid: group === undefined ? undefined : idOf('group', group),
    },
  });
  const voice = json ? inJson(keeper, size) : inWords(keeper, size);
  {
    using lookout = new Lookout(keeper.path);
    if (!stop.aborted) voice.ready();
    notify('--ready');
    let inPlace = true;
    // Also when nobody reads any more what it prints: the region is what it is there for.
    while (!stop.aborted) {
      const dead = new Set(keeper.reap().map(key));
      const view = lookout.look();
      voice.saw(view, lookout.changes(view, dead));
      if (inPlace && !keeper.inPlace) voice.lost();
      inPlace = keeper.inPlace;
      await sleep(options.interval * 1000, undefined, { signal: stop }).catch(() => {});
    }
  }
  notify('STOPPING=1');
  voice.left(keeper.close());
}

function permissions(text: string): number {
  const mode = Number.parseInt(text, 8);
  if (!/^0?[0-7]{3}$/.test(text) || (mode & 0o600) !== 0o600 || mode & 0o007) {
    throw new InvalidArgumentError('Permissions are wanted that give others nothing and the owner all, as 0660.');
  }
  return mode;
}

export function addServer(program: Command): void {
  program
    .command('server')
    .summary('create a region and keep it until the server is stopped')
    .description(
      'Create, reserve and format a region file in /dev/shm (or at a path), before the VMs that share it are started; ' +
        'adopt a healthy one that is there. Shows who is attached: on a terminal as a table, elsewhere a line for each ' +
        'who comes, goes, dies or falls silent. Takes back what the provably dead held; whoever is only silent keeps it. ' +
        'On SIGTERM or SIGINT it removes the file, unless somebody is attached or has it in memory.',
    )
    .requiredOption('-s, --name <NAME>', 'name in /dev/shm, or a path with a slash')
    .requiredOption('-m, --megabytes <MB>', 'size in MiB, a power of two', powerOfTwo)
    .addOption(
      new Option('-c, --client <KIND>', 'who tells it which regions to make')
        .choices(['migration-framework'])
        .default('migration-framework'),
    )
    .option('--owner <USER>', 'whose the file is to be (the default: yours)')
    .option('--group <GROUP>', "and of which group, as that of QEMU's user or of those who may attach")
    .addOption(new Option('--mode <MODE>', 'permissions').default(0o660, '0660').argParser(permissions))
    .option('--force', 'replace a file that cannot be used; never one that is in use on this host')
    .option('--interval <SECONDS>', 'pause between two looks', interval, 1)
    .option('--json', 'print a JSON object per line: what happens, and the state at each look')
    .addHelpText(
      'after',
      `
Example:
  $ isthmus server -s demo -m 64 -c migration-framework &
  $ PSP_SHM=0 isthmus pp --listen 7100 &    # without it processes of one user meet over shm
  $ isthmus pp 127.0.0.1:7100
  $ kill %1                                 # the file is gone, the exit code 0

  # isthmus server -s ivshmem0 -m 512 --owner libvirt-qemu --group kvm    # for VMs`,
    )
    .action(async (options: Options) => {
      // Such a name could not be written into PSP_IVSHMEM_REGIONS.
      if (/[\s,*?]/.test(options.name)) {
        throw new UsageError(`'${options.name}' is not the name of a region: no blanks, commas, * or ?`);
      }
      await serve(options);
    });
}

/** The host server: creates, adopts, refuses, survives its own death and that of peers, and never calls silence death. */
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  readlinkSync,
  readSync,
  statSync,
  writeSync,
} from 'node:fs';
import { resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { Core } from '../../host/core/core.js';
import { usersOf } from '../../host/device/holders.js';
import { identityOf } from '../../host/device/identity.js';
import { createPosix, posixBacking } from '../../host/device/posix.js';
import { Runtime, type RuntimeOptions } from '../../host/index.js';
import { addon } from '../../host/native/native.js';
import { Region } from '../../host/region/region.js';
import { RegionServer } from '../../host/region/server.js';
import { printed } from '../support/cli.js';
import { constant } from '../support/core.js';
import { rejection } from '../support/outcomes.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve } from '../support/process.js';
import { MIB, namedRegions, newPath, newRegion, only, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

// Servers of other users create theirs.
namedRegions();

const test = chosen(register);
const CLI = process.env['ISTHMUS_CLI'] ?? resolve('dist/cli.js');
const SIZE = 16 * MIB;
const CYCLES = Number(process.env['ISTHMUS_ATTACH_CYCLES'] ?? 1000);

/** Users of this machine that have a group in common, and see nothing of each other's processes. */
const USER = 12_345;
const OTHER = 23_456;
const GROUP = 34_567;
const root = process.geteuid?.() === 0;
const asUser = (uid: number) => ['setpriv', '--reuid', `${uid}`, '--regid', `${GROUP}`, '--clear-groups'];

const roles: Record<string, () => Promise<void>> = {
  /** Has the file mapped without a slot, like the QEMU of a VM in which no process is attached. */
  async machine() {
    const { path } = roleOptions<{ path: string }>();
    const fd = openSync(path, 'r+');
    const core = new Core(SIZE);
    const mapping = addon().map(core.memory.buffer, core.layout.WINDOW, SIZE, fd, 0);
    closeSync(fd);
    serve({ attached: () => mapping.attached });
  },

  /** What this user can tell of the users of a file, and what closing a server does with it. */
  async user() {
    const { path } = roleOptions<{ path: string }>();
    serve({
      users() {
        const fd = openSync(path, 'r+');
        try {
          return usersOf(fd, identityOf(fd));
        } finally {
          closeSync(fd);
        }
      },
      async close(always: boolean) {
        const server = await RegionServer.open({ name: path, size: SIZE, access: { mode: 0o660 } });
        const { use, removed, failure } = server.close(always);
        return { use, removed, failure: failure?.code };
      },
    });
  },

  /** A runtime with one connection, which echoes messages. */
  async peer() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    let connection: Connection | undefined;
    const { port } = await runtime.listen({}, async (come) => {
      connection = come;
      for await (const { data } of come) await come.send(data);
    });
    serve({
      port: () => port,
      async connect(to: number) {
        connection = await runtime.connect({ host: '127.0.0.1', port: to });
        return connection.plugin;
      },
      async echo(text: string) {
        await connection?.send(text);
        const message = await connection?.receive();
        return message && Buffer.from(message.data).toString();
      },
      async over() {
        const end = await connection?.closed;
        return { reason: end?.reason, code: end?.error?.code };
      },
      close: () => runtime.close(),
    });
  },
};

interface Line {
  readonly event: string;
  readonly path: string;
  readonly origin?: string;
  readonly removed?: boolean;
  readonly peer?: {
    readonly slot: number;
    readonly name: string;
    readonly frames: number;
    readonly connections: number;
  };
  readonly peers?: readonly {
    readonly slot: number;
    readonly name: string;
    readonly pid: number;
    readonly lives: string;
    readonly frames: number;
    readonly connections: number;
    readonly heartbeatAgeMs: number | null;
  }[];
  readonly frames?: { readonly free: number };
  readonly use?: string;
  readonly stranded?: { readonly use: string; readonly holders: readonly { readonly pid: number }[] };
}

/** A server with JSON output. */
class Server {
  readonly child: Child;

  private constructor(path: string, more: readonly string[], uid?: number) {
    const args = ['server', '-s', path, '-m', String(SIZE / MIB), '--json', '--interval', '0.2', ...more];
    this.child = Child.run(CLI, args, { PSP_DEBUG: '0' }, uid === undefined ? {} : { uid, gid: GROUP });
  }

  static start(path: string, ...more: string[]): Promise<Server> {
    return Server.#ready(new Server(path, more));
  }

  /** As another user. */
  static startAs(uid: number, path: string, ...more: string[]): Promise<Server> {
    return Server.#ready(new Server(path, more, uid));
  }

  static async #ready(server: Server): Promise<Server> {
    await server.child.printed(/"event":"ready"/);
    return server;
  }

  get lines(): Line[] {
    return this.child.output
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as Line);
  }

  get origin(): string | undefined {
    return this.lines.find(({ event }) => event === 'ready')?.origin;
  }

  /** The first line from that one on that matches. */
  async saw(like: (line: Line) => boolean, from = 0): Promise<Line> {
    for (;;) {
      const found = this.lines.slice(from).find(like);
      if (found) return found;
      if (this.child.process.exitCode !== null) throw new Error(this.child.output);
      await pause(20);
    }
  }

  /** Its state from now on. */
  state(like: (line: Line) => boolean = () => true): Promise<Line> {
    return this.saw((line) => line.event === 'state' && like(line), this.lines.length);
  }

  async stop(): Promise<Line> {
    await this.child.kill('SIGTERM');
    assert.is((await this.child.exited).code, 0, this.child.output);
    return this.lines.at(-1) as Line;
  }
}

/** Output of `isthmus server` when it does not start. */
async function refused(path: string, ...more: string[]): Promise<string> {
  const run = Child.run(CLI, ['server', '-s', path, '-m', String(SIZE / MIB), ...more]);
  const { code } = await run.ended();
  assert.is(code, 1, run.output);
  return run.output;
}

/** Two processes with a connection over a region. */
async function pair(path: string): Promise<[Child, Child]> {
  const start = (name: string) => Child.start(import.meta.url, 'peer', only(path, { name }));
  const [here, there] = [start('here'), start('there')];
  assert.is(await here.call('connect', await there.call('port')), 'ivshmem');
  assert.is(await here.call('echo', 'hello'), 'hello');
  return [here, there];
}

/** Offsets of the words of a slot in the file. */
function slotAt(slot: number): number {
  const core = new Core(MIB);
  core.call.geometry(SIZE);
  return core.call.slotAddress(slot) - core.layout.WINDOW;
}

/** Change the owner of a slot to another kernel, as for the peers in a VM: nothing can be proven about it. */
function moveAway(path: string, slot: number): void {
  const fd = openSync(path, 'r+');
  const word = Buffer.alloc(8);
  const at = slotAt(slot) + constant('SLOT_WORD');
  readSync(fd, word, 0, 8, at);
  word[2] = (word[2] as number) ^ 0x55;
  writeSync(fd, word, 0, 8, at);
  closeSync(fd);
}

async function main(): Promise<void> {
  test(
    'creates the file with owner, group and mode, all of it reserved, and removes it',
    timebox(60, async () => {
      const path = newPath();
      const root = process.getuid?.() === 0;
      const server = await Server.start(
        path,
        ...(root ? ['--owner', 'nobody', '--group', '12345', '--mode', '0640'] : []),
      );
      assert.is(server.origin, 'created');
      const { uid, gid, mode, size, blocks } = statSync(path);
      assert.is(size, SIZE);
      assert.ok(blocks * 512 >= SIZE, 'reserved');
      assert.is(mode & 0o777, root ? 0o640 : 0o660);
      if (root) assert.equal([uid, gid], [65534, 12345]);
      assert.ok((await server.stop()).removed);
      assert.not(existsSync(path));
    }),
  );

  test(
    'refuses permissions for others, an unknown user, and a size that is not a power of two',
    timebox(30, async () => {
      for (const [args, why] of [
        [['--mode', '0666'], /none for others/],
        [['--mode', '99'], /Expected permissions/],
        [['--owner', 'no-such-user'], /no user/],
        [['--group', 'no-such-group'], /no group/],
      ] as const) {
        const { code, stderr } = await printed(['server', '-s', newPath(), '-m', '1', ...args]);
        assert.is(code, 2, stderr);
        assert.match(stderr, why);
      }
      assert.is((await printed(['server', '-s', newPath(), '-m', '3'])).code, 2);
    }),
  );

  test(
    'killed and restarted with peers attached: they do not notice, and stay attached',
    timebox(120, async () => {
      const path = newPath();
      const first = await Server.start(path);
      const [here, there] = await pair(path);
      await first.state(({ peers = [] }) => peers.length === 2 && peers.every(({ connections }) => connections === 1));
      await first.child.kill('SIGKILL');
      assert.is(await here.call('echo', 'without a server'), 'without a server');
      const second = await Server.start(path);
      assert.is(second.origin, 'adopted');
      const { peers = [] } = await second.state(({ peers: now = [] }) =>
        now.every((peer) => peer.heartbeatAgeMs !== null),
      );
      assert.equal(peers.map(({ name, lives }) => [name, lives]).sort(), [
        ['here', 'alive'],
        ['there', 'alive'],
      ]);
      assert.equal(peers.map(({ pid }) => pid).sort(), [here.pid, there.pid].sort());
      assert.ok(peers.every(({ frames }) => frames > 0));
      assert.is(await here.call('echo', 'with another'), 'with another');

      const ino = statSync(path).ino;
      const end = await second.stop();
      assert.is(end.removed, false, 'a peer is attached');
      assert.is(end.peers?.length, 2);
      assert.is(statSync(path).ino, ino);
      assert.is(await here.call('echo', 'still'), 'still');
      await Promise.all([here, there].map((child) => child.call('close')));
      await endChildren();
      const third = await Server.start(path);
      assert.is(third.origin, 'adopted');
      assert.ok((await third.stop()).removed);
    }),
  );

  test(
    'reclaims from a killed peer, and reports it',
    timebox(90, async () => {
      const path = newPath();
      const server = await Server.start(path);
      const before = (await server.state()).frames?.free;
      const [here, there] = await pair(path);
      await server.state(({ peers = [] }) => peers.length === 2);
      await there.kill('SIGKILL');
      // Either the server or the peer may detect it first.
      const { peer } = await server.saw(({ event, peer: its }) => /^(dead|left)$/.test(event) && its?.name === 'there');
      assert.ok((peer?.frames ?? 0) > 0);
      assert.equal(await here.call('over'), { reason: 'error', code: 'ERR_ISTHMUS_PEER_DIED' });
      await here.call('close');
      await server.state(({ peers = [], frames }) => peers.length === 0 && frames?.free === before);
      assert.ok((await server.stop()).removed);
    }),
  );

  test(
    'refuses an unhealthy region, and replaces it with --force',
    timebox(120, async () => {
      const foreign = newRegion(SIZE, Buffer.from('another format'));
      assert.match(await refused(foreign), /not adopted \('--force' replaces it\).*ERR_ISTHMUS_REGION_FOREIGN/);
      assert.match(readFileSync(foreign).toString('latin1', 0, 30), /another format/, 'untouched');
      const ino = statSync(foreign).ino;
      const server = await Server.start(foreign, '--force');
      assert.is(server.origin, 'replaced');
      assert.is(statSync(foreign).ino, ino, 'in place: a VM that has it mapped still shares it');
      await pair(foreign);
      await endChildren();

      const small = newRegion(SIZE / 2);
      assert.match(await refused(small), /has 8388608 bytes, not 16777216.*ERR_ISTHMUS_REGION_SIZE/);
      const other = await Server.start(small, '--force');
      assert.is(other.origin, 'replaced');
      assert.is(statSync(small).size, SIZE);

      const broken = newPath();
      createPosix(broken, SIZE);
      const fd = openSync(broken, 'r+');
      writeSync(fd, 'ISTHMUS\0', 0);
      writeSync(fd, Buffer.alloc(64, 0xff), 0, 64, 8);
      closeSync(fd);
      assert.match(await refused(broken), /--force/);
      assert.is((await Server.start(broken, '--force')).origin, 'replaced');
    }),
  );

  test(
    'does not replace a region that a process uses, even with --force',
    timebox(60, async () => {
      const path = newPath();
      createPosix(path, SIZE);
      const peer = Child.start(import.meta.url, 'peer', only(path, { name: 'inside' }));
      await peer.call('port');
      const fd = openSync(path, 'r+');
      writeSync(fd, Buffer.alloc(8, 0xee), 0, 8, 0);
      closeSync(fd);
      assert.match(await refused(path, '--force'), /a process of this host has it.*ERR_ISTHMUS_REGION_IN_USE/);
      assert.is(readFileSync(path)[0], 0xee, 'untouched');
    }),
  );

  test(
    'the file stays while a process has it mapped, attached or not',
    timebox(60, async () => {
      const path = newPath();
      const server = await Server.start(path);
      // Like the QEMU of a VM in which no process is attached.
      const holder = Child.start(import.meta.url, 'peer', only(path, { name: 'holder' }));
      await holder.call('port');
      moveAway(path, 0);
      await holder.process.kill('SIGSTOP');
      await printed(['region', 'confirm-dead', path, '0', '--force']);
      await server.state(({ peers = [] }) => peers.length === 0);
      const end = await server.stop();
      assert.is(end.removed, false);
      assert.ok(existsSync(path));
    }),
  );

  const users = root ? test : test.skip;
  const skipped = root ? '' : ' (skipped: needs root, to be other users)';

  users(
    `the file stays while a process of another user has it mapped, which the server does not see${skipped}`,
    timebox(90, async () => {
      const path = newPath();
      const server = await Server.startAs(USER, path);
      const machine = Child.start(import.meta.url, 'machine', { path }, { under: asUser(OTHER) });
      assert.ok(await machine.call('attached'));
      let end = await server.stop();
      assert.equal([end.removed, end.use], [false, 'some']);
      assert.ok(existsSync(path));
      // The next one says it to people.
      const second = Child.run(CLI, ['server', '-s', path, '-m', String(SIZE / MIB)], {}, { uid: USER, gid: GROUP });
      await second.printed(/adopted/);
      await second.kill('SIGTERM');
      assert.match(
        second.output,
        /is not removed: a process that this user cannot see uses it; the next server adopts it/,
      );
      assert.ok(existsSync(path));
      // Without it, the file goes.
      await machine.kill();
      end = await (await Server.startAs(USER, path)).stop();
      assert.equal([end.removed, end.use], [true, 'none']);
      assert.not(existsSync(path));
    }),
  );

  users(
    `what cannot be seen is not none: of a file of another user the answer is unknown, and the file stays${skipped}`,
    timebox(90, async () => {
      const path = newPath();
      createPosix(path, SIZE);
      chownSync(path, 0, GROUP);
      const user = Child.start(import.meta.url, 'user', { path }, { under: asUser(USER) });
      assert.equal(await user.call('users'), { use: 'unknown', holders: [] });
      const machine = Child.start(import.meta.url, 'machine', { path }, { under: asUser(USER) });
      assert.ok(await machine.call('attached'));
      const seen = await user.call<ReturnType<typeof usersOf>>('users');
      assert.equal([seen.use, seen.holders.map(({ pid }) => pid)], ['some', [machine.pid]]);
      await machine.kill();
      assert.equal(await user.call('close', false), { use: 'unknown', removed: false });
      // What it may not do is not taken for done.
      assert.equal(await user.call('close', true), {
        use: 'unknown',
        removed: false,
        failure: 'ERR_ISTHMUS_REGION_PERMISSIONS',
      });
      const text = Child.run(CLI, ['server', '-s', path, '-m', String(SIZE / MIB)], {}, { uid: USER, gid: GROUP });
      await text.printed(/adopted/);
      await text.kill('SIGTERM');
      assert.match(text.output, /cannot see whether a process uses it; .* If no process and no machine uses it: 'rm /);
      assert.ok(existsSync(path));

      // Root has the proof, of a file of any owner.
      chownSync(path, OTHER, GROUP);
      const fd = openSync(path, 'r+');
      assert.is(usersOf(fd, identityOf(fd)).use, 'none');
      const other = openSync(path, 'r');
      assert.is(usersOf(fd, identityOf(fd)).use, 'some', 'a reader is one, too');
      closeSync(other);
      closeSync(fd);
    }),
  );

  users(
    `a server adopts no file of a stranger, unless it is told the owner${skipped}`,
    timebox(60, async () => {
      const path = newPath();
      createPosix(path, SIZE);
      chownSync(path, OTHER, 0);
      assert.match(await refused(path), /belongs to uid 23456, neither root nor this user.*'--owner'/);
      assert.match(await refused(path, '--force'), /ERR_ISTHMUS_REGION_PERMISSIONS/);
      assert.ok(existsSync(path));
      chmodSync(path, 0o660);
      const server = await Server.start(path, '--owner', `${OTHER}`);
      assert.is(server.origin, 'adopted');
      await server.stop();
    }),
  );

  test(
    'a replacement that fails closes what it has opened, once, and leaves the file in place',
    timebox(30, async () => {
      const path = newRegion(SIZE, Buffer.from('another format'));
      const open = () =>
        Array.from({ length: 200 }, (_, fd) => {
          try {
            return readlinkSync(`/proc/self/fd/${fd}`);
          } catch {
            return '';
          }
        }).filter((target) => target.includes(path)).length;
      const before = open();
      // With this mode the server does not trust its own file any more.
      const options = { name: path, size: SIZE, access: { mode: 0o662 }, force: true };
      // Closing twice is EBADF, or closes what another part of the process has opened meanwhile.
      assert.is((await rejection(RegionServer.open(options))).code, 'ERR_ISTHMUS_REGION_PERMISSIONS');
      assert.is(open(), before);
      assert.ok(existsSync(path), 'a machine may have it mapped');
      chmodSync(path, 0o660);
      using server = await RegionServer.open({ ...options, access: { mode: 0o660 } });
      assert.is(server.close().removed, true);
    }),
  );

  test(
    'silence is not death: without proof, only an operator declares a peer dead',
    timebox(120, async () => {
      const path = newPath();
      const server = await Server.start(path);
      const [here, there] = await pair(path);
      const { peers = [] } = await server.state(({ peers: now = [] }) => now.length === 2);
      const slot = peers.find(({ name }) => name === 'there')?.slot as number;
      const confirm = (...more: string[]) => printed(['region', 'confirm-dead', path, String(slot), ...more]);

      there.process.kill('SIGSTOP');
      let said = await confirm('--force');
      assert.is(said.code, 1);
      assert.match(said.stderr, /is alive: it holds its lock/);
      there.process.kill('SIGCONT');
      moveAway(path, slot);
      said = await confirm();
      assert.is(said.code, 1);
      assert.match(said.stderr, /is alive: its heartbeat changes/);
      assert.is(await here.call('echo', 'yes'), 'yes');

      there.process.kill('SIGSTOP');
      const silent = await server.saw(({ event, peer }) => event === 'silent' && peer?.slot === slot);
      assert.ok((silent.peer?.frames ?? 0) > 0, 'it keeps what it holds');
      said = await confirm();
      assert.is(said.code, 0, said.stderr);
      assert.match(said.stdout, /declared dead; \d+ frames taken back, 1 connection will report it/);
      // Its guard stays open all the time.
      assert.equal(await here.call('over'), { reason: 'error', code: 'ERR_ISTHMUS_PEER_DIED' });
      there.process.kill('SIGCONT');
      // It learns that it was fenced, and begins nothing in the region any more.
      assert.is(await here.call('connect', await there.call('port')), 'tcp');
      assert.is(await here.call('echo', 'over the network'), 'over the network');
      said = await confirm();
      assert.is(said.code, 1);
      assert.match(said.stderr, /no peer has slot/);
      await here.call('close');
    }),
  );

  test(
    `${CYCLES} times attached and detached: nothing leaks`,
    timebox(300, async () => {
      const path = newPath();
      const server = await Server.start(path);
      const before = (await server.state()).frames?.free;
      const backing = posixBacking(path);
      for (let i = 0; i < CYCLES; i++) {
        const region = await Region.attach(backing, `cycle ${i}`);
        assert.ok(region.usable);
        region.detach();
      }
      // It also reports the events in between.
      await server.state(({ peers = [], frames }) => peers.length === 0 && frames?.free === before);
      assert.ok((await server.stop()).removed);
    }),
  );

  test.after.each(async () => {
    await endChildren();
    removeRegions();
  });
  test.run();
}

if (role) await play(roles);
else await main();

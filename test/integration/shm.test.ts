/**
 * Plugin `shm`: one region file per user and host, made by the first and removed by the last, whatever happens to any of
 * them; and `isthmus region show`, which looks into regions. Other processes and threads are test/children/shm.ts.
 *
 * ISTHMUS_TEST_KILLS: how many processes are killed at random moments, default 8.
 */

import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  closeSync,
  copyFileSync,
  existsSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { isOwn } from '../../host/base/network.js';
import { run } from '../../host/cli/program.js';
import { coreLayout } from '../../host/core/core.js';
import { identityOf } from '../../host/device/identity.js';
import { discoverPosix } from '../../host/device/posix-discovery.js';
import { addon } from '../../host/native/native.js';
import type { AttemptChannel } from '../../host/plugins/plugin.js';
import { ShmPlugin } from '../../host/plugins/shm.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { printed } from '../support/cli.js';
import { echo, type Met, meet, ping } from '../support/meeting.js';
import { eventually } from '../support/outcomes.js';
import { Child, chosen, endChildren, program } from '../support/process.js';
import { MIB, newPath, newRegion, newShm, only, onlyShm, removeRegions } from '../support/regions.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const kills = Number(process.env['ISTHMUS_TEST_KILLS'] ?? 8);

// ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const runtimes: Runtime[] = [];
async function newRuntime(options: RuntimeOptions): Promise<Runtime> {
  const runtime = await Runtime.create(options);
  runtimes.push(runtime);
  return runtime;
}
async function tidy(): Promise<void> {
  await Promise.all(runtimes.splice(0).map((runtime) => runtime.close({ timeout: 500 })));
  await endChildren();
}

interface Peer {
  readonly child: Child;
  readonly port: number;
}
async function start(options: RuntimeOptions, under: readonly string[] = []): Promise<Peer> {
  const child = Child.start(program('shm'), 'peer', options, { under });
  return { child, port: await child.event<number>('ready') };
}

/** State of a file as others see it: all that must not change when it is to be left alone. */
function looks(path: string): unknown {
  const { ino, mode, uid, size, mtimeMs } = lstatSync(path);
  return { ino, mode, uid, size, mtimeMs };
}

const u32 = (value: number) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
};

function write(path: string, at: number, bytes: Uint8Array): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}

function newFile(path: string, size: number, head: Uint8Array = new Uint8Array(0), mode = 0o600): void {
  const fd = openSync(path, 'wx+', 0o600);
  if (size > 0) ftruncateSync(fd, size);
  if (head.length > 0) writeSync(fd, head, 0, head.length, 0);
  closeSync(fd);
  chmodSync(path, mode);
}

/** A region as left by a process that was killed in the middle of a connection. */
async function newLeftover(): Promise<string> {
  const { shmName, path } = newShm();
  const a = await newRuntime(onlyShm(shmName));
  const b = await newRuntime(onlyShm(shmName));
  const { port } = await b.listen({}, echo);
  assert.is((await a.connect({ host: '127.0.0.1', port })).plugin, 'shm');
  const copy = newPath('leftover');
  copyFileSync(path, copy);
  await tidy();
  return copy;
}

/** Output of a command of the CLI with these variables. */
async function cli(args: readonly string[], variables: Readonly<Record<string, string>>): Promise<string> {
  const before = { ...process.env };
  Object.assign(process.env, { PSP_IVSHMEM_REGIONS: '' }, variables);
  try {
    return (await printed(args)).stdout;
  } finally {
    process.env = before;
  }
}

const size = 4 * MIB;

// ── Tests ────────────────────────────────────────────────────────────────────────────────────────────────────────────

function main(seed: number): void {
  test(
    'addresses of this host, and the answer to a peer on another host',
    timebox(10, () => {
      for (const own of ['127.0.0.1', '127.3.2.1', '::1', '::ffff:127.0.0.1']) assert.ok(isOwn(own), own);
      for (const other of ['192.0.2.1', '::ffff:192.0.2.1', '2001:db8::1', '::', '']) {
        assert.not(isOwn(other), other);
      }
      const { shmName, path } = newShm();
      const plugin = new ShmPlugin({
        name: 'x',
        file: shmName,
        size,
        ringSize: undefined,
        guard: true,
        survivesLoss: true,
        limit: 1000,
        attached: () => {},
        warn: () => {},
        leaving: () => [],
      });
      const channel = { role: 'accept', address: { host: '192.0.2.1', port: 1 } } as AttemptChannel;
      assert.throws(() => plugin.accept(channel), /the address of the peer, 192\.0\.2\.1, is none of this host/);
      assert.throws(() => plugin.proposals()[0]?.attempt({ ...channel, role: 'connect' }), /is none of this host/);
      assert.not(existsSync(path));
    }),
  );

  test(
    'two processes connect over shm; the file is created with them and removed with the last',
    timebox(60, async () => {
      const { shmName, path } = newShm();
      const runtime = await newRuntime(onlyShm(shmName));
      const { child, port } = await start(onlyShm(shmName));
      assert.not(existsSync(path), 'not used yet');
      assert.equal(
        runtime
          .plugins()
          .map(({ name, archId, priority, unavailable, path: file }) => [name, archId, priority, unavailable, file])[1],
        ['shm', 204, 90, undefined, path],
      );
      assert.equal(runtime.regions(), []);
      const connection = await runtime.connect({ host: '127.0.0.1', port });
      assert.is(connection.plugin, 'shm');
      assert.is(connection.why, undefined);
      await ping(connection);
      const stat = statSync(path);
      assert.is(stat.size, size);
      assert.is(stat.blocks * 512, size, 'reserved');
      assert.is(stat.mode & 0o777, 0o600);
      assert.equal(
        discoverPosix('*').filter((candidate) => candidate.path === path),
        [],
        'is no device',
      );
      const [mine] = runtime.regions();
      const [its] = await child.call('regions');
      assert.is(mine?.path, path);
      assert.is(mine?.uuid, its.uuid);
      assert.is.not(mine?.slot, its.slot);
      await runtime.close();
      assert.ok(existsSync(path), 'the other process still uses it');
      await child.call('close');
      assert.not(existsSync(path));
      await tidy();
    }),
  );

  test(
    'the file is removed with the last connection, and the next connection creates another',
    timebox(60, async () => {
      const { shmName, path } = newShm();
      const [a, b] = [await newRuntime(onlyShm(shmName)), await newRuntime(onlyShm(shmName))];
      const { port } = await b.listen({}, echo);
      for (const how of ['close', 'destroy'] as const) {
        const pair = await Promise.all([1, 2, 3].map(() => a.connect({ host: '127.0.0.1', port })));
        for (const connection of pair) {
          assert.is(connection.plugin, 'shm');
          await ping(connection);
        }
        assert.is(a.regions().length, 1, 'three connections, one region');
        for (const connection of pair) await connection[how]();
        await eventually('the file is removed', () => !existsSync(path));
        assert.equal([a.regions(), b.regions()], [[], []]);
      }
      await tidy();
    }),
  );

  test(
    'disabled or of another name on the other side: the next plugin, with the reason',
    timebox(30, async () => {
      const { shmName, path } = newShm();
      const other = newShm();
      const disabled = await meet(onlyShm(shmName), only(''));
      assert.is(disabled.plugin, 'tcp');
      assert.match(disabled.why ?? '', /^shm: refused by the peer/);
      const apart = await meet(onlyShm(shmName), onlyShm(other.shmName));
      assert.is(apart.plugin, 'tcp');
      assert.match(apart.why ?? '', /shm: no region in common/);
      assert.not(existsSync(path) || existsSync(other.path));
      // A region besides is the second choice.
      const region = newRegion(size);
      assert.is((await meet(onlyShm(shmName, { regions: region }))).plugin, 'shm');
      const second = await meet(onlyShm(shmName, { regions: region }), only(region));
      assert.is(second.plugin, 'ivshmem');
      assert.match(second.why ?? '', /^shm: refused by the peer/);
    }),
  );

  test(
    'handshakes at the same time share one attachment, and cancelled ones leave nothing',
    timebox(60, async () => {
      const { shmName, path } = newShm();
      const [a, b] = [await newRuntime(onlyShm(shmName)), await newRuntime(onlyShm(shmName))];
      const { port } = await b.listen({}, echo);
      const cancel = new AbortController();
      const all = Array.from({ length: 12 }, (_, i) =>
        a.connect({ host: '127.0.0.1', port }, i % 3 === 0 ? { signal: cancel.signal } : {}),
      );
      setImmediate(() => cancel.abort(new Error('changed my mind')));
      const settled = await Promise.allSettled(all);
      for (const [i, result] of settled.entries()) {
        if (result.status === 'fulfilled') assert.is(result.value.plugin, 'shm');
        else assert.ok(i % 3 === 0 && /changed my mind/.test(String(result.reason)), String(result.reason));
      }
      assert.equal([a.regions().length, b.regions().length], [1, 1]);
      await tidy();
      // Closed in the middle of a handshake.
      for (let i = 0; i < 10; i++) {
        const [c, d] = [await newRuntime(onlyShm(shmName)), await newRuntime(onlyShm(shmName))];
        const listening = await d.listen({}, echo);
        const connecting = c.connect({ host: '127.0.0.1', port: listening.port }).catch(() => {});
        for (let turns = 0; turns < i; turns++) await c.turn();
        await Promise.all([c.close({ timeout: 100 }), d.close({ timeout: 100 }), connecting]);
        assert.not(existsSync(path), `after ${i} turns`);
      }
    }),
  );

  test(
    'runtimes of one process and of its threads have separate slots',
    timebox(40, async () => {
      const { shmName, path } = newShm();
      const options = onlyShm(shmName);
      const runtime = await newRuntime(options);
      const second = await newRuntime(options);
      const { port } = await second.listen({}, echo);
      assert.is((await runtime.connect({ host: '127.0.0.1', port })).plugin, 'shm');
      const worker = new Worker(program('shm'), { workerData: { options, port } });
      const { plugin, slot } = await new Promise<{ plugin: string; slot: number }>((done, reject) => {
        worker.once('message', done);
        worker.once('error', reject);
      });
      assert.is(plugin, 'shm');
      assert.equal(
        [runtime, second]
          .map((each) => each.regions()[0]?.slot)
          .concat(slot)
          .sort(),
        [0, 1, 2],
      );
      await tidy();
      assert.ok(existsSync(path), 'the thread uses it');
      worker.postMessage('end');
      await new Promise((done) => worker.once('exit', done));
      assert.not(existsSync(path));
    }),
  );

  const namespaces = ['unshare', '--pid', '--fork', '--kill-child'];
  const separate = spawnSync(namespaces[0] as string, [...namespaces.slice(1), 'true']).status === 0;
  (separate ? test : test.skip)(
    `in different pid namespaces${separate ? '' : ' (skipped: no permission to make one)'}`,
    timebox(60, async () => {
      const { shmName, path } = newShm();
      const [one, two] = await Promise.all([start(onlyShm(shmName), namespaces), start(onlyShm(shmName), namespaces)]);
      assert.equal([await one.child.call('pid'), await two.child.call('pid')], [1, 1]);
      assert.is((await one.child.call<Met>('connect', two.port)).plugin, 'shm');
      await one.child.kill();
      const runtime = await newRuntime(onlyShm(shmName));
      assert.is((await runtime.connect({ host: '127.0.0.1', port: two.port })).plugin, 'shm');
      await two.child.call('close');
      await tidy();
      assert.not(existsSync(path));
    }),
  );

  // ── Coming and going ───────────────────────────────────────────────────────────────────────────────────────────────

  test(
    'six processes start and end at the same time, in random order',
    timebox(90, async () => {
      const random = seeded(seed);
      const { shmName, path } = newShm();
      const options = onlyShm(shmName);
      let previous: Peer | undefined;
      const peers = await Promise.all(
        Array.from({ length: 6 }, async () => {
          await pause(random(200));
          const peer = await start(options);
          const to = previous;
          previous = peer;
          if (to) {
            const { plugin, why } = await peer.child.call<Met>('connect', to.port);
            assert.is(plugin, 'shm', why);
          }
          return peer;
        }),
      );
      assert.ok(existsSync(path));
      const order = peers.map((peer) => ({ peer, at: random(150), how: random(3) })).sort((a, b) => a.at - b.at);
      await Promise.all(
        order.map(async ({ peer, at, how }) => {
          await pause(at);
          // In order, or without having closed anything.
          if (how > 0) await peer.child.call('close');
          else await peer.child.call('end').then(() => peer.child.ended());
        }),
      );
      assert.not(existsSync(path));
      await tidy();
    }),
  );

  test(
    'six processes create and remove the file all the time',
    timebox(120, async () => {
      const { shmName, path } = newShm();
      const options = onlyShm(shmName, { shmSize: MIB });
      const children = Array.from({ length: 6 }, (_, i) =>
        Child.start(program('shm'), 'churn', { options, rounds: 10, seed: seed + i }),
      );
      const odd = await Promise.all(children.map((child) => child.event<string[]>('done', 80)));
      assert.equal(odd.flat(), []);
      assert.not(existsSync(path));
      await tidy();
    }),
  );

  test(
    `${kills} of many are killed at any moment; the others continue, and the last one removes the file`,
    timebox(100 + 10 * kills, async () => {
      const random = seeded(seed);
      const { shmName, path } = newShm();
      // Large, so that many are killed while they create it.
      const options = onlyShm(shmName, { shmSize: 32 * MIB });
      const survivor = Child.start(program('shm'), 'churn', { options, rounds: 10 + 2 * kills, seed });
      for (let killed = 0; killed < kills; ) {
        const victims = Array.from({ length: Math.min(3, kills - killed) }, (_, i) =>
          Child.start(program('shm'), 'churn', { options, rounds: 1000, seed: seed + killed + i }),
        );
        killed += victims.length;
        await Promise.all(
          victims.map(async (victim) => {
            await victim.event('going', 60);
            await pause(random(300));
            await victim.kill();
          }),
        );
      }
      assert.equal(await survivor.event<string[]>('done', 50 + 8 * kills), []);
      // If the last one was killed the file is left: the next process takes it over and removes it.
      assert.is((await meet(options)).plugin, 'shm');
      assert.not(existsSync(path));
      await tidy();
    }),
  );

  test(
    'a process that ends without closing anything removes the file, if it is the last',
    timebox(60, async () => {
      const { shmName, path } = newShm();
      const [one, two] = await Promise.all([start(onlyShm(shmName)), start(onlyShm(shmName))]);
      assert.is((await one.child.call<Met>('connect', two.port)).plugin, 'shm');
      await one.child.call('end');
      assert.equal(await one.child.ended(), { code: 0, signal: null });
      assert.ok(existsSync(path));
      await two.child.call('end');
      await two.child.ended();
      assert.not(existsSync(path));
      await tidy();
    }),
  );

  test(
    'the file is removed by hand: connections continue, newcomers meet in another file',
    timebox(60, async () => {
      const { shmName, path } = newShm();
      const [a, b, c] = await Promise.all([1, 2, 3].map(() => newRuntime(onlyShm(shmName))));
      const { port } = await (b as Runtime).listen({}, echo);
      const old = await (a as Runtime).connect({ host: '127.0.0.1', port });
      rmSync(path);
      for (const runtime of [c as Runtime, a as Runtime]) {
        const connection = await runtime.connect({ host: '127.0.0.1', port });
        assert.is(connection.plugin, 'shm', connection.why);
        await ping(connection);
      }
      await ping(old);
      assert.is(a?.regions().length, 2);
      await old.close();
      await eventually('the old region is detached', () => a?.regions().length === 1 && b?.regions().length === 1);
      await tidy();
      assert.not(existsSync(path));
    }),
  );

  // ── Other files under its name ─────────────────────────────────────────────────────────────────────────────────────

  test(
    'left by a process that is gone: taken over, whatever its state',
    timebox(90, async () => {
      const leftover = await newLeftover();
      const { LAYOUT_VERSION, SLOT_SIZE, FRAME } = coreLayout();
      const states: Record<string, (path: string) => void> = {
        empty: (path) => newFile(path, 0),
        'cut short': (path) => newFile(path, 100),
        'reserved zeros': (path) => newFile(path, size, Buffer.alloc(8192)),
        'zeros of another size': (path) => newFile(path, 2 * size),
        'formatting, begun here': (path) => {
          newFile(path, size);
          const fd = openSync(path, 'r');
          const { hash } = identityOf(fd);
          closeSync(fd);
          write(path, 16, Buffer.alloc(20_000, 0x5a));
          write(path, 12, u32((hash << 8) | 1));
        },
        'formatting, begun elsewhere': (path) => {
          newFile(path, size);
          write(path, 12, u32((0x123456 << 8) | 1));
        },
        'with peers in it': (path) => copyFileSync(leftover, path),
        'another version': (path) => {
          copyFileSync(leftover, path);
          write(path, 8, u32(LAYOUT_VERSION + 1));
        },
        'another size': (path) => {
          copyFileSync(leftover, path);
          const fd = openSync(path, 'r+');
          ftruncateSync(fd, 2 * size);
          closeSync(fd);
        },
        'all slots taken': (path) => {
          copyFileSync(leftover, path);
          for (let slot = 0; slot < 64; slot++) write(path, FRAME + slot * SLOT_SIZE, Buffer.of(2, 1, 1, 1, 1));
        },
        'tables with random contents': (path) => {
          const random = seeded(seed);
          copyFileSync(leftover, path);
          write(path, 4096, Buffer.from(Array.from({ length: 100_000 }, () => random(256))));
        },
        'open to others': (path) => {
          copyFileSync(leftover, path);
          chmodSync(path, 0o666);
        },
      };
      for (const [state, make] of Object.entries(states)) {
        const { shmName, path } = newShm();
        make(path);
        if (state !== 'open to others') chmodSync(path, 0o600);
        const { plugin, why } = await meet(onlyShm(shmName));
        assert.is(plugin, 'shm', `${state}: ${why}`);
        assert.not(existsSync(path), state);
      }
    }),
  );

  test(
    'files of other programs: left alone, with the reason',
    timebox(60, async () => {
      const states: Record<string, readonly [make: (path: string) => void, why: RegExp]> = {
        'of the C plugin': [(path) => newFile(path, size, Buffer.of(0xcb)), /C pscom plugin.*REGION_FOREIGN/],
        'another format': [(path) => newFile(path, size, Buffer.from('precious')), /REGION_FOREIGN/],
        'after zeros': [(path) => newFile(path, size, Buffer.from('\0\0\0\0\0\0\0\0\0precious')), /REGION_FOREIGN/],
      };
      for (const [state, [make, expected]] of Object.entries(states)) {
        const { shmName, path } = newShm();
        make(path);
        const before = looks(path);
        const { plugin, why } = await meet(onlyShm(shmName));
        assert.is(plugin, 'tcp', state);
        assert.match(why ?? '', expected, state);
        assert.equal(looks(path), before, state);
        const runtime = await newRuntime(onlyShm(shmName));
        await tidy();
        assert.is(runtime.plugins().find(({ name }) => name === 'shm')?.priority, 90);
      }
    }),
  );

  // ── Its name is taken ──────────────────────────────────────────────────────────────────────────────────────────────

  const root = process.geteuid?.() === 0;
  const users = root ? test : test.skip;
  const skipped = root ? '' : ' (skipped: needs root, to be other users)';
  /** What `touch` of another user leaves. */
  const squat = (path: string) => {
    newFile(path, 0);
    chownSync(path, 12_345, 12_345);
  };
  const asOther = ['setpriv', '--reuid', '12345', '--regid', '12345', '--clear-groups'];
  const next = (path: string, number = 1) => `${path}~${number}`;

  test(
    `whatever another user puts there, the next name is used${root ? '' : ' (without a file of one: needs root)'}`,
    timebox(60, async () => {
      const target = newPath('target');
      newFile(target, size);
      const states: Record<string, readonly [make: (path: string) => void, why: RegExp]> = {
        'a link': [(path) => symlinkSync(target, path), /not a regular file/],
        'a link to nowhere': [(path) => symlinkSync('/nonexistent', path), /not a regular file/],
        'a folder': [(path) => mkdirSync(path), /not a regular file/],
        'a pipe': [(path) => spawnSync('mkfifo', [path]), /not a regular file/],
        'a second name of a file': [(path) => linkSync(target, path), /2 names/],
        ...(root && {
          'another user’s': [squat, /belongs to uid 12345, not to 0: another user has taken the name/] as const,
        }),
      };
      for (const [state, [make, expected]] of Object.entries(states)) {
        const { shmName, path } = newShm();
        make(path);
        const before = looks(path);
        const lines: string[] = [];
        const options = onlyShm(shmName, { debug: 2, log: (_, line) => lines.push(line) });
        const [a, b] = [await newRuntime(options), await newRuntime(options)];
        assert.is(a.plugins().find(({ name }) => name === 'shm')?.path, next(path));
        const { port } = await b.listen({}, echo);
        const connection = await a.connect({ host: '127.0.0.1', port });
        assert.is(connection.plugin, 'shm', `${state}: ${connection.why}`);
        assert.is(connection.why, undefined);
        await ping(connection);
        assert.is(a.regions()[0]?.path, next(path));
        assert.is(statSync(next(path)).mode & 0o777, 0o600);
        assert.is(lines.filter((line) => line.includes(`${path} is taken`)).length, 2, 'once for each runtime');
        const said = await cli(['info'], { PSP_SHM_NAME: shmName });
        assert.match(said, new RegExp(`${path} .*${expected.source}.*; ${next(path)} is used instead`));
        assert.match(said, new RegExp(`usable: ${next(path)}`));
        assert.match(await cli(['doctor'], { PSP_SHM_NAME: shmName }), /is used instead/);
        await tidy();
        assert.equal(looks(path), before, state);
        assert.not(existsSync(next(path)), state);
        rmSync(path, { recursive: true });
      }
      assert.ok(readFileSync(target).equals(Buffer.alloc(size)), 'nothing was written to the target of the link');
    }),
  );

  users(
    `processes meet at one place, in any order, whatever else they share${skipped}`,
    timebox(120, async () => {
      const { shmName, path } = newShm();
      for (const each of [path, next(path), next(path, 2)]) squat(each);
      const options = onlyShm(shmName, { shmSize: MIB });
      // As in two containers that have /dev/shm in common, and nothing else.
      const apart = ['env', 'XDG_RUNTIME_DIR=/nonexistent', 'TMPDIR=/nonexistent'];
      const [one, two] = await Promise.all([start(options, apart), start(options)]);
      assert.is((await one.child.call<Met>('connect', two.port)).plugin, 'shm');
      assert.equal(
        (await Promise.all([one, two].map(({ child }) => child.call('regions')))).map(([region]) => region.path),
        [next(path, 3), next(path, 3)],
      );
      await tidy();
      rmSync(next(path, 3), { force: true }); // They were killed.
      // Many create and remove it at the same time.
      const children = Array.from({ length: 6 }, (_, i) =>
        Child.start(program('shm'), 'churn', { options, rounds: 10, seed: seed + i }),
      );
      const odd = await Promise.all(children.map((child) => child.event<string[]>('done', 80)));
      assert.equal(odd.flat(), []);
      assert.not(existsSync(next(path, 3)));
      await tidy();
      for (const each of [path, next(path), next(path, 2)]) {
        assert.is(statSync(each).size, 0);
        rmSync(each);
      }
    }),
  );

  users(
    `the name is given back, and taken again, while connections are open${skipped}`,
    timebox(60, async () => {
      const { shmName, path } = newShm();
      squat(path);
      const [a, b, c] = [1, 2, 3].map(() => newRuntime(onlyShm(shmName, { shmSize: MIB })));
      const [first, second, third] = await Promise.all([a, b, c] as Promise<Runtime>[]);
      const { port } = await (second as Runtime).listen({}, echo);
      const to = { host: '127.0.0.1', port };
      const connect = async (runtime: Runtime | undefined) => {
        const connection = await (runtime as Runtime).connect(to);
        assert.is(connection.plugin, 'shm', connection.why);
        await ping(connection);
        return connection;
      };
      const old = await connect(first);
      rmSync(path);
      // A newcomer goes to the first name, and a process that had been there before meets it there.
      await connect(third);
      await connect(first);
      assert.equal(
        first
          ?.regions()
          .map((region) => region.path)
          .sort(),
        [path, next(path)],
      );
      await ping(old);
      rmSync(path);
      squat(path);
      await connect(third);
      await connect(first);
      await ping(old);
      await tidy();
      assert.is(statSync(path).uid, 12_345, 'of the other user, still there');
      assert.not(existsSync(next(path)));
      rmSync(path);
    }),
  );

  users(
    `another user takes names and gives them back all the time: nothing hangs, nothing is left, and they meet again${skipped}`,
    timebox(120, async () => {
      const { shmName, path } = newShm();
      const options = onlyShm(shmName, { shmSize: MIB });
      const paths = [path, next(path), next(path, 2)];
      const squatter = Child.start(program('shm'), 'squat', { paths, seed }, { under: asOther });
      await squatter.event('going');
      const children = Array.from({ length: 4 }, (_, i) =>
        Child.start(program('shm'), 'churn', { options, rounds: 15, seed: seed + i }),
      );
      // Two that look while a name changes hands come to different places: they connect over tcp, with that reason.
      const odd = (await Promise.all(children.map((child) => child.event<string[]>('done', 90)))).flat();
      for (const line of odd) assert.match(line, /tcp, .*shm: (?:no region in common|refused by the peer)/);
      assert.ok(odd.length < 4 * 15, 'most meet');
      await squatter.kill();
      await tidy();
      assert.is((await meet(options)).plugin, 'shm');
      for (const each of [...paths, next(path, 3)]) {
        if (!existsSync(each)) continue;
        assert.is(statSync(each).uid, 12_345, `${each} is left`);
        rmSync(each);
      }
    }),
  );

  users(
    `two users with the same PSP_SHM_NAME each have a region of their own${skipped}`,
    timebox(60, async () => {
      const { shmName, path } = newShm();
      const options = onlyShm(shmName, { shmSize: MIB });
      const theirs = await Promise.all([start(options, asOther), start(options, asOther)]);
      assert.is((await theirs[0].child.call<Met>('connect', theirs[1].port)).plugin, 'shm');
      const ours = await Promise.all([start(options), start(options)]);
      assert.is((await ours[0].child.call<Met>('connect', ours[1].port)).plugin, 'shm');
      assert.equal([statSync(path).uid, statSync(next(path)).uid], [12_345, 0]);
      // Each of them over shm, but not with one another.
      assert.is((await ours[0].child.call<Met>('connect', theirs[0].port)).plugin, 'tcp');
      for (const { child } of [...theirs, ...ours]) await child.call('close');
      assert.not(existsSync(path) || existsSync(next(path)));
      await tidy();
    }),
  );

  users(
    `all names are taken: connected over tcp, with the remedy${skipped}`,
    timebox(60, async () => {
      const { shmName, path } = newShm();
      const all = [path, ...Array.from({ length: 1023 }, (_, i) => next(path, i + 1))];
      for (const each of all) squat(each);
      try {
        const { plugin, why } = await meet(onlyShm(shmName));
        assert.is(plugin, 'tcp');
        assert.match(why ?? '', /uid 12345.*1023 other names are taken.*PSP_SHM_NAME.*REGION_PERMISSIONS/);
        assert.is((await meet(onlyShm(newShm().shmName))).plugin, 'shm', 'another name');
        assert.match(await cli(['info'], { PSP_SHM_NAME: shmName }), /not usable: .*1023 other names/);
      } finally {
        for (const each of all) rmSync(each);
      }
    }),
  );

  test(
    'what was left at a later name is removed by the next process, unless it is in use',
    timebox(60, async () => {
      const leftover = await newLeftover();
      const { shmName, path } = newShm();
      copyFileSync(leftover, next(path));
      copyFileSync(leftover, next(path, 2));
      for (const each of [next(path), next(path, 2)]) chmodSync(each, 0o600);
      const fd = openSync(next(path, 2), 'r+');
      assert.ok(addon().lock(fd, 3), 'as a process that has slot 3');
      assert.is((await meet(onlyShm(shmName))).plugin, 'shm');
      assert.equal([existsSync(path), existsSync(next(path)), existsSync(next(path, 2))], [false, false, true]);
      closeSync(fd);
      rmSync(next(path, 2));
    }),
  );

  test(
    'another version, size or mode, in use: left alone until its user is gone',
    timebox(60, async () => {
      const leftover = await newLeftover();
      const states: Record<string, readonly [make: (path: string) => void, why: RegExp]> = {
        version: [
          (path) => write(path, 8, u32(coreLayout().LAYOUT_VERSION + 1)),
          new RegExp(
            `version ${coreLayout().LAYOUT_VERSION + 1}, this is ${coreLayout().LAYOUT_VERSION}.*REGION_VERSION`,
          ),
        ],
        size: [
          (path) => {
            const fd = openSync(path, 'r+');
            ftruncateSync(fd, 2 * size);
            closeSync(fd);
          },
          /other processes use it with 8388608 bytes, PSP_SHM_SIZE is 4194304 here.*REGION_SIZE/,
        ],
        mode: [(path) => chmodSync(path, 0o640), /mode 640.*REGION_PERMISSIONS/],
      };
      for (const [state, [make, expected]] of Object.entries(states)) {
        for (const byte of [0, 37, coreLayout().LOCK_FORMAT]) {
          const { shmName, path } = newShm();
          copyFileSync(leftover, path);
          chmodSync(path, 0o600);
          make(path);
          const fd = openSync(path, 'r+');
          assert.ok(addon().lock(fd, byte));
          const before = looks(path);
          const { plugin, why } = await meet(onlyShm(shmName));
          assert.is(plugin, 'tcp', state);
          assert.match(why ?? '', expected, state);
          assert.equal(looks(path), before, state);
          closeSync(fd);
          assert.is((await meet(onlyShm(shmName))).plugin, 'shm', state);
          assert.not(existsSync(path));
        }
      }
    }),
  );

  test(
    'another process holds the lock for ever: connected without shm, in bounded time',
    timebox(60, async () => {
      const { shmName, path } = newShm();
      newFile(path, 0);
      const fd = openSync(path, 'r+');
      assert.ok(addon().lock(fd, coreLayout().LOCK_LIFECYCLE));
      const { plugin, why } = await meet(onlyShm(shmName, { handshakeTimeout: 10_000 }));
      assert.is(plugin, 'tcp');
      assert.match(why ?? '', /REGION_FORMATTING|refused by the peer/);
      closeSync(fd);
      assert.is((await meet(onlyShm(shmName))).plugin, 'shm');
    }),
  );

  const privately = [
    ['unshare', '--mount'],
    ['unshare', '--mount', '--map-root-user'],
  ].find(
    ([command, ...args]) =>
      spawnSync(command as string, [...args, 'mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', '/dev/shm']).status ===
      0,
  );
  (privately ? test : test.skip)(
    `its file system is full${privately ? '' : ' (skipped: no permission to mount one)'}`,
    timebox(60, () => {
      const { shmName, path } = newShm();
      const [command, ...args] = [
        ...(privately as string[]),
        'sh',
        '-c',
        'mount -t tmpfs -o size=6m tmpfs /dev/shm && exec "$@"',
        'sh',
      ];
      const options = onlyShm(shmName, { shmSize: 16 * MIB });
      const line = [
        ...args,
        process.execPath,
        fileURLToPath(program('shm')),
        'role:full',
        JSON.stringify({ options, path }),
      ];
      const child = spawnSync(command as string, line, { encoding: 'utf8', timeout: 50_000 });
      assert.is(child.signal, null, 'killed, as by an access to a missing page');
      assert.is(child.status, 0, child.stderr);
      const { first, again, left } = JSON.parse(child.stdout.trim().split('\n').at(-1) as string);
      for (const { plugin, why } of [first, again]) {
        assert.is(plugin, 'tcp');
        assert.match(why, /of 16777216 bytes have no block.*ERR_ISTHMUS_REGION_NO_SPACE/);
      }
      assert.not(left, 'nothing is left of it');
    }),
  );

  // ── isthmus region show ────────────────────────────────────────────────────────────────────────────────────────────

  /** The program in this process; test/integration/cli.test.ts starts it as users do. */
  const isthmus = async (...args: string[]) => {
    const { write: print } = process.stdout;
    let [stdout, stderr] = ['', ''];
    process.stdout.write = ((text: string) => {
      stdout += text;
      return true;
    }) as typeof print;
    try {
      const code = await run(args, (text) => {
        stderr += text;
      });
      return { code, stdout, stderr };
    } finally {
      process.stdout.write = print;
    }
  };

  for (const plugin of ['shm', 'ivshmem'] as const) {
    test(
      `region show: ${plugin}, with peers alive and dead`,
      timebox(90, async () => {
        const shm = newShm();
        const path = plugin === 'shm' ? shm.path : newRegion(size);
        const options = plugin === 'shm' ? onlyShm(shm.shmName) : only(path);
        const a = await newRuntime({ ...options, name: 'the first' });
        const b = await newRuntime({ ...options, name: 'the second' });
        const { port } = await b.listen({}, echo);
        const connection = await a.connect({ host: '127.0.0.1', port });
        assert.is(connection.plugin, plugin);
        const ino = statSync(path).ino;
        const { code, stdout, stderr } = await isthmus('region', 'show', path, '--json');
        assert.is(code, 0, stderr);
        const report = JSON.parse(stdout);
        assert.is(report.path, path);
        assert.is(report.state, 'formatted');
        assert.is(report.uuid.replaceAll('-', ''), a.regions()[0]?.uuid);
        assert.is(report.version, coreLayout().LAYOUT_VERSION);
        assert.equal(report.owner, { uid: process.geteuid?.(), mode: '600' });
        assert.equal(
          report.slots.map(({ name, pid, state, lives }: any) => [name, pid, state, lives]).sort(),
          ['the first', 'the second'].map((name) => [name, process.pid, 'attached', 'alive']),
        );
        for (const { heartbeatAgeMs } of report.slots) assert.ok(heartbeatAgeMs >= 0 && heartbeatAgeMs < 3000);
        const { total, tables, free, taken, inUse } = report.frames;
        assert.is(total, size / 4096);
        assert.is(tables + free + taken, total);
        const [mine, its] = [a.regions()[0]?.slot, b.regions()[0]?.slot];
        assert.equal(
          report.rings.map(({ from, to }: any) => `${from}-${to}`).sort(),
          [`${mine}-${its}`, `${its}-${mine}`].sort(),
        );
        const frames = report.rings.reduce((sum: number, { capacity }: any) => sum + capacity / 4096 + 1, 0);
        assert.is(inUse, frames);
        assert.ok(taken >= inUse);
        assert.equal(
          report.rings.map(({ used }: any) => used),
          [0, 0],
        );
        // It has neither attached nor changed anything.
        assert.is(statSync(path).ino, ino);
        const text = (await isthmus('region', 'show', path)).stdout;
        for (const word of ['Slots: 2 of', 'the second', 'its lock is held', 'Rings: 2', 'Frames of 4 KiB']) {
          assert.ok(text.includes(word), `${word} in\n${text}`);
        }

        // As left by a killed process; and a copy of it gives no proof about any process.
        const copy = newPath('copy');
        copyFileSync(path, copy);
        const unknown = JSON.parse((await isthmus('region', 'show', copy, '--json')).stdout);
        assert.equal(
          unknown.slots.map(({ lives }: any) => lives),
          ['unknown', 'unknown'],
        );
        assert.equal(
          unknown.slots.map(({ heartbeatAgeMs }: any) => heartbeatAgeMs),
          [null, null],
        );
        const { child } = await start({ ...options, name: 'the victim' });
        if (plugin === 'shm') await child.call('connect', port);
        await child.kill();
        await eventually('its death is detected', async () => {
          const { slots } = JSON.parse((await isthmus('region', 'show', path, '--json')).stdout);
          return slots.every(({ name }: any) => name !== 'the victim');
        });
        await tidy();
        if (plugin === 'shm') assert.not(existsSync(path));
      }),
    );
  }

  test(
    'region show: a dead peer that is not reclaimed yet',
    timebox(60, async () => {
      const { shmName, path } = newShm();
      const [one, two] = await Promise.all([start(onlyShm(shmName)), start(onlyShm(shmName))]);
      await one.child.call('connect', two.port);
      await Promise.all([one.child.kill(), two.child.kill()]);
      const { slots, frames, rings } = JSON.parse((await isthmus('region', 'show', path, '--json')).stdout);
      assert.equal(
        slots.map(({ lives, heartbeatAgeMs }: any) => [lives, heartbeatAgeMs]),
        [
          ['dead', null],
          ['dead', null],
        ],
      );
      assert.ok(frames.inUse > 0);
      assert.is(rings.length, 2);
      assert.is((await meet(onlyShm(shmName))).plugin, 'shm');
      assert.not(existsSync(path));
    }),
  );

  test(
    'region show: no file, garbage, blanks, random contents in the tables',
    timebox(120, async () => {
      const missing = await isthmus('region', 'show', newPath());
      assert.is(missing.code, 1);
      assert.match(missing.stderr, /REGION_NOT_FOUND/);
      assert.match((await isthmus('region', 'show', 'uio99')).stderr, /no device \/dev\/uio99.*REGION_NOT_FOUND/);
      assert.match((await isthmus('region', 'show', '/dev/null')).stderr, /REGION_PERMISSIONS/);
      const small = newPath();
      newFile(small, 1000);
      assert.match((await isthmus('region', 'show', small)).stderr, /REGION_TOO_SMALL/);

      const blank = newRegion(MIB);
      assert.match((await isthmus('region', 'show', blank)).stdout, /State: blank/);
      assert.is(statSync(blank).blocks, 0, 'still sparse');
      const garbage = newRegion(MIB, Buffer.alloc(MIB, 0xcb));
      const refused = await isthmus('region', 'show', garbage, '--json');
      assert.is(refused.code, 1);
      assert.is(JSON.parse(refused.stdout).refused.code, 'ERR_ISTHMUS_REGION_FOREIGN');

      const random = seeded(seed);
      const leftover = await newLeftover();
      write(leftover, 4096, Buffer.from(Array.from({ length: 400_000 }, () => random(256))));
      const rubbish = await isthmus('region', 'show', leftover);
      assert.is(rubbish.code, 0, rubbish.stderr);
      assert.is(JSON.parse((await isthmus('region', 'show', leftover, '--json')).stdout).frames.total, size / 4096);
    }),
  );

  test.after(async () => {
    await tidy();
    removeRegions();
  });
  test.run();
}

main(testSeed());

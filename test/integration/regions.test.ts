/**
 * Regions that are not as they should be, and what becomes of them: an error where one was named, a note and another
 * plugin where one was only found. Other processes and threads are test/children/regions.ts.
 */

import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  symlinkSync,
  writeSync,
} from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { IsthmusError } from '../../host/base/errors.js';
import { coreLayout } from '../../host/core/core.js';
import { identityOf } from '../../host/device/identity.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { rejection } from '../support/outcomes.js';
import { Child, chosen, endChildren, program } from '../support/process.js';
import {
  copyRegion,
  MIB,
  namedRegions,
  nameOf,
  newPath,
  newRegion,
  only,
  prefix,
  removeRegions,
} from '../support/regions.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

namedRegions();

const test = chosen(register);

const code = (error: unknown) => (error instanceof IsthmusError ? error.code : String(error));

// ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const runtimes: Runtime[] = [];
async function newRuntime(options: RuntimeOptions): Promise<Runtime> {
  const runtime = await Runtime.create(options);
  runtimes.push(runtime);
  return runtime;
}

const closeAll = () => Promise.all(runtimes.splice(0).map((runtime) => runtime.close({ timeout: 500 })));

/** A region with everything in it that Isthmus writes, and no process attached. */
async function formatted(size = 4 * MIB, label?: string): Promise<string> {
  const path = newRegion(size, undefined, label);
  await (await Runtime.create(only(path))).close();
  return path;
}

function write(path: string, at: number, bytes: Uint8Array): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, bytes, 0, bytes.length, at);
  closeSync(fd);
}

function read(path: string, at: number, length: number): Buffer {
  const fd = openSync(path, 'r');
  const bytes = Buffer.alloc(length);
  readSync(fd, bytes, 0, length, at);
  closeSync(fd);
  return bytes;
}

const u32 = (value: number) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
};

interface Pair {
  readonly near: Connection;
  readonly far: Connection;
}

async function connect(client: Runtime, server: Runtime): Promise<Pair> {
  let far: Connection | undefined;
  const { port } = await server.listen({}, async (connection) => {
    far = connection;
    await connection.closed;
  });
  const near = await client.connect(`127.0.0.1:${port}`);
  while (!far) await pause(1);
  await near.send('there');
  assert.is((await far.receive())?.text(), 'there');
  await far.send('and back');
  assert.is((await near.receive())?.text(), 'and back');
  return { near, far };
}

/** The fault of a region that is named, and found: an error in the one case; a note, and tcp instead, in the other. */
async function refused(path: string, expected: string, found: string | null = expected): Promise<IsthmusError> {
  const descriptors = spawnlessDescriptors();
  const error = await rejection(Runtime.create(only(path)));
  assert.is(code(error), expected, error.message);
  assert.is(error.path, path);
  assert.ok(error.message.includes(path), error.message);
  // A name in /dev/shm means the same.
  assert.is(code(await rejection(Runtime.create(only(nameOf(path))))), expected);

  const lines: string[] = [];
  const pattern = `${nameOf(path).slice(0, -1)}?`;
  const server = await newRuntime(only(pattern, { debug: 2, log: (_level, line) => lines.push(line) }));
  const client = await newRuntime(only(''));
  const noted = server.refusedRegions().filter((candidate) => candidate.path === path);
  assert.equal(
    noted.map((candidate) => candidate.error.code),
    found === null ? [] : [found],
  );
  if (found !== null)
    assert.ok(
      lines.some((line) => line.includes(path) && line.includes(found)),
      lines.join('\n'),
    );
  const { near } = await connect(server, client);
  assert.is(near.plugin, 'tcp');
  assert.match(near.why ?? '', /^ivshmem: /);
  if (found !== null) assert.ok(near.why?.includes(path), near.why);
  await closeAll();
  assert.is(spawnlessDescriptors(), descriptors, 'a descriptor leaked');
  return error;
}

const spawnlessDescriptors = () =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(prefix)).length;

// ── Tests ────────────────────────────────────────────────────────────────────────────────────────────────────────────

function main(seed: number): void {
  test(
    'no region of that name',
    timebox(20, async () => {
      const path = newPath();
      const error = await rejection(Runtime.create(only(path)));
      assert.is(error.code, 'ERR_ISTHMUS_REGION_NOT_FOUND');
      assert.is(error.path, path);
      // A valid region before it in the list is detached.
      const good = await formatted();
      assert.is((await rejection(Runtime.create(only([good, path])))).code, 'ERR_ISTHMUS_REGION_NOT_FOUND');
      const runtime = await newRuntime(only(good));
      assert.is(runtime.regions()[0]?.slot, 0);
      await closeAll();
      assert.is(spawnlessDescriptors(), 0);
    }),
  );

  test(
    'too small',
    timebox(20, async () => {
      for (const size of [0, 1, 23, 4096, MIB / 2, MIB - 1]) {
        const error = await refused(newRegion(size), 'ERR_ISTHMUS_REGION_TOO_SMALL', null);
        assert.is(error.needed, MIB);
        assert.is(error.available, size);
      }
    }),
  );

  test(
    'truncated: larger according to its header',
    timebox(20, async () => {
      const path = newRegion(2 * MIB, read(await formatted(4 * MIB), 0, 65_536));
      const error = await refused(path, 'ERR_ISTHMUS_REGION_TOO_SMALL');
      assert.is(error.needed, 4 * MIB);
      assert.is(error.available, 2 * MIB);
    }),
  );

  test(
    'larger than according to its header',
    timebox(20, async () => {
      await refused(newRegion(4 * MIB, read(await formatted(2 * MIB), 0, 65_536)), 'ERR_ISTHMUS_REGION_CORRUPT');
    }),
  );

  test(
    'not a power of two',
    timebox(20, async () => {
      const head = read(await formatted(2 * MIB), 0, 65_536);
      for (const size of [3 * MIB, 2 * MIB + 4096, 2 * MIB + 1]) {
        await refused(newRegion(size, head), 'ERR_ISTHMUS_REGION_SIZE');
      }
    }),
  );

  test(
    'other users may write to it',
    timebox(20, async () => {
      const path = await formatted();
      chmodSync(path, 0o602);
      const error = await refused(path, 'ERR_ISTHMUS_REGION_PERMISSIONS');
      assert.match(error.message, 'o-w');
      chmodSync(path, 0o660);
      await newRuntime(only(path));
      await closeAll();
    }),
  );

  test(
    'a link, a folder, a device',
    timebox(20, async () => {
      const link = newPath();
      symlinkSync(await formatted(), link);
      await refused(link, 'ERR_ISTHMUS_REGION_PERMISSIONS', null);
      const folder = newPath();
      mkdirSync(folder);
      await refused(folder, 'ERR_ISTHMUS_REGION_PERMISSIONS', null);
      assert.is((await rejection(Runtime.create(only('/dev/null')))).code, 'ERR_ISTHMUS_REGION_PERMISSIONS');
    }),
  );

  const root = process.geteuid?.() === 0;
  (root ? test : test.skip)(
    `found, and it belongs to another user${root ? '' : ' (skipped: only root can change owners)'}`,
    timebox(20, async () => {
      const path = await formatted();
      // That this process is in its group says nothing.
      chownSync(path, 12_345, process.getegid?.() ?? 0);
      const lines: string[] = [];
      const pattern = `${nameOf(path).slice(0, -1)}?`;
      const runtime = await newRuntime(only(pattern, { debug: 2, log: (_level, line) => lines.push(line) }));
      assert.equal(runtime.regions(), []);
      assert.equal(
        runtime.refusedRegions().map((candidate) => [candidate.path, candidate.error.code]),
        [[path, 'ERR_ISTHMUS_REGION_PERMISSIONS']],
      );
      assert.ok(
        lines.some((line) => line.includes(path) && line.includes('12345')),
        lines.join('\n'),
      );
      await closeAll();
      // Its name is the consent.
      assert.is((await newRuntime(only(path))).regions().length, 1);
      await closeAll();
    }),
  );

  test(
    'another layout version',
    timebox(20, async () => {
      const path = await formatted();
      write(path, 8, u32(coreLayout().LAYOUT_VERSION + 1));
      const before = read(path, 0, 65_536);
      const error = await refused(path, 'ERR_ISTHMUS_REGION_VERSION');
      assert.match(error.message, `version ${coreLayout().LAYOUT_VERSION + 1}`);
      assert.ok(before.equals(read(path, 0, 65_536)), 'it was written to');
    }),
  );

  test(
    'in use by the C plugin; random bytes',
    timebox(20, async () => {
      const random = seeded(seed);
      for (const head of [Buffer.of(0xcb), Buffer.of(0xcb, 1, 2, 3)]) {
        const path = newRegion(2 * MIB, head);
        const error = await refused(path, 'ERR_ISTHMUS_REGION_FOREIGN', null);
        assert.match(error.message, 'in use by the C pscom plugin');
        assert.ok(read(path, 0, 4).equals(Buffer.concat([head, Buffer.alloc(4)]).subarray(0, 4)));
      }
      for (let i = 0; i < 10; i++) {
        const path = newRegion(
          2 * MIB,
          Buffer.from(Array.from({ length: 4096 }, (_, at) => (at === 0 ? 1 + random(200) : random(256)))),
        );
        const before = read(path, 0, 8192);
        const error = await rejection(Runtime.create(only(path)));
        assert.is(error.code, 'ERR_ISTHMUS_REGION_FOREIGN');
        assert.ok(error.message.includes(before.toString('hex', 0, 8)), error.message);
        assert.ok(before.equals(read(path, 0, 8192)), 'it was written to');
      }
      // Zeros in place of the magic, and other bytes after it.
      for (const at of [8, 12, 64, 4088]) {
        const path = newRegion(2 * MIB);
        write(path, at, Buffer.of(0x77));
        const error = await rejection(Runtime.create(only(path)));
        assert.ok(['ERR_ISTHMUS_REGION_FOREIGN', 'ERR_ISTHMUS_REGION_CORRUPT'].includes(error.code), error.message);
      }
    }),
  );

  test(
    'headers that contradict themselves, one bit at a time',
    timebox(30, async () => {
      const random = seeded(seed);
      const path = await formatted(2 * MIB);
      const head = read(path, 0, 64);
      for (let at = 0; at < 64; at++) {
        const byte = head[at] as number;
        write(path, at, Buffer.of(byte ^ (1 << random(8))));
        const error = await rejection(Runtime.create(only(path)));
        assert.match(error.code, /^ERR_ISTHMUS_REGION_(FOREIGN|VERSION|CORRUPT|TOO_SMALL|FORMATTING)$/, `byte ${at}`);
        write(path, at, Buffer.of(byte));
      }
      await newRuntime(only(path));
      await closeAll();
    }),
  );

  test(
    'tables with random contents after a valid header do no harm',
    timebox(30, async () => {
      const random = seeded(seed);
      for (let round = 0; round < 5; round++) {
        const path = await formatted(2 * MIB);
        const rubbish = Buffer.from(Array.from({ length: 100_000 }, () => random(256)));
        write(path, 4096, rubbish);
        // It may attach or be full; it must not hang or crash.
        const runtime = await Runtime.create(only(path)).catch((error: IsthmusError) => error);
        if (runtime instanceof Runtime) {
          const other = await newRuntime(only(''));
          assert.ok(['ivshmem', 'tcp'].includes((await connect(runtime, other)).near.plugin));
          await runtime.close();
          await closeAll();
        } else {
          assert.match(runtime.code, /^ERR_ISTHMUS_REGION_/);
        }
      }
    }),
  );

  // ── Formatting ─────────────────────────────────────────────────────────────────────────────────────────────────────

  test(
    'formatted by several processes at the same moment',
    timebox(60, async () => {
      for (let round = 0; round < 2; round++) {
        const path = newRegion(16 * MIB);
        const at = Date.now() + 1500;
        const children = Array.from({ length: 6 }, () => Child.start(program('regions'), 'attach', { path, at }));
        const results = await Promise.all(children.map((child) => child.event<Record<string, unknown>>('attached')));
        assert.equal(
          results.map(({ error }) => error),
          results.map(() => undefined),
        );
        assert.is(new Set(results.map(({ uuid }) => uuid)).size, 1);
        assert.is(new Set(results.map(({ slot }) => slot)).size, children.length);
        await Promise.all(children.map((child) => child.call('close')));
        const runtime = await newRuntime(only(path));
        assert.is(runtime.regions()[0]?.uuid, results[0]?.['uuid']);
        await closeAll();
        await endChildren();
      }
    }),
  );

  test(
    'formatted by several threads at the same moment, many times',
    timebox(60, async () => {
      const rounds = 60;
      const paths = Array.from({ length: rounds }, () => newRegion(MIB));
      const start = new SharedArrayBuffer(4 * rounds);
      const workers = Array.from(
        { length: 3 },
        () => new Worker(program('regions'), { workerData: { paths, start, count: 3 } }),
      );
      const results = await Promise.all(
        workers.map(
          (worker) =>
            new Promise<string[]>((resolve, reject) => {
              worker.on('message', resolve);
              worker.on('error', reject);
            }),
        ),
      );
      for (const [first, ...others] of paths.map((_, round) => results.map((result) => result[round]))) {
        assert.match(first ?? '', /^[0-9a-f]{32}$/);
        for (const other of others) assert.is(other, first);
      }
      await Promise.all(workers.map((worker) => worker.terminate()));
    }),
  );

  test(
    'a process on this kernel began to format and was killed: taken over',
    timebox(20, async () => {
      const { hash } = hashOf(newRegion(2 * MIB));
      assert.ok(hash > 0 && hash < 2 ** 24);
      for (const garbage of [false, true]) {
        const path = newRegion(2 * MIB);
        if (garbage) write(path, 16, Buffer.alloc(20_000, 0x5a));
        write(path, 12, u32((hashOf(path).hash << 8) | 1));
        const runtime = await newRuntime(only(path));
        const other = await newRuntime(only(path));
        assert.is(runtime.regions()[0]?.uuid, other.regions()[0]?.uuid);
        assert.is((await connect(runtime, other)).near.plugin, 'ivshmem');
        await closeAll();
      }
    }),
  );

  test(
    'a process on another kernel began to format and does not finish',
    timebox(30, async () => {
      const path = newRegion(2 * MIB);
      write(path, 12, u32((((hashOf(path).hash ^ 0x123456) & 0xffffff) << 8) | 1));
      const start = performance.now();
      assert.is((await rejection(Runtime.create(only(path)))).code, 'ERR_ISTHMUS_REGION_FORMATTING');
      assert.ok(performance.now() - start < 15_000);
    }),
  );

  test(
    'a region that was only found is never formatted',
    timebox(20, async () => {
      const path = newRegion(2 * MIB);
      const runtime = await newRuntime(only(`${nameOf(path).slice(0, -1)}?`));
      assert.equal(runtime.regions(), []);
      assert.ok(read(path, 0, 4096).equals(Buffer.alloc(4096)));
      assert.is(statSync(path).blocks, 0);
      await closeAll();
    }),
  );

  // ── Room ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  const mountPoint = newPath('mount');
  mkdirSync(mountPoint);
  const privately = [
    ['unshare', '--mount'],
    ['unshare', '--mount', '--map-root-user'],
  ].find(
    ([command, ...args]) =>
      spawnSync(command as string, [...args, 'mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', mountPoint]).status ===
      0,
  );
  (privately ? test : test.skip)(
    `sparse, and its file system is full${privately ? '' : ' (skipped: no permission to mount one)'}`,
    timebox(30, () => {
      for (const create of [false, true]) {
        const path = `${mountPoint}/region`;
        const script = `mount -t tmpfs -o size=4m tmpfs "$0" && ${create ? 'true' : `truncate -s 16M '${path}'`} && exec "$@"`;
        const [command, ...args] = [...(privately as string[]), 'sh', '-c', script, mountPoint];
        const line = [
          ...args,
          process.execPath,
          fileURLToPath(program('regions')),
          'role:full',
          JSON.stringify({ path, create }),
        ];
        const child = spawnSync(command as string, line, { encoding: 'utf8', timeout: 20_000 });
        assert.is(child.signal, null, 'killed, as by an access to a missing page');
        assert.is(child.status, 0, child.stderr);
        const { message, ...error } = JSON.parse(child.stdout);
        assert.is(error.code, 'ERR_ISTHMUS_REGION_NO_SPACE');
        assert.is(error.errno, 'ENOSPC');
        assert.ok(error.needed > 12 * MIB && error.needed <= 16 * MIB, message);
        assert.ok(error.available <= 4 * MIB, message);
        assert.ok(message.includes(String(error.needed)) && message.includes(String(error.available)), message);
        assert.is(error.left, !create, 'only a file that existed before stays');
      }
    }),
  );

  test(
    'all blocks of a sparse file are allocated',
    timebox(20, async () => {
      const path = newRegion(8 * MIB);
      await newRuntime(only(path));
      assert.ok(statSync(path).blocks * 512 >= 8 * MIB);
      await closeAll();
    }),
  );

  test(
    'all slots are in use',
    timebox(40, async () => {
      const path = await formatted(MIB);
      const holders: Runtime[] = [];
      let error: IsthmusError | undefined;
      while (!error && holders.length < 300) {
        await Runtime.create(only(path)).then(
          (runtime) => {
            holders.push(runtime);
            runtimes.push(runtime);
          },
          (thrown: IsthmusError) => {
            error = thrown;
          },
        );
      }
      assert.is(error?.code, 'ERR_ISTHMUS_REGION_FULL');
      assert.ok(holders.length >= 16);
      assert.equal(
        holders.map((runtime) => runtime.regions()[0]?.slot),
        holders.map((_, slot) => slot),
      );
      // For a region found by a pattern it is no error.
      const other = await newRuntime(only(`${nameOf(path).slice(0, -1)}?`));
      assert.equal(
        other.refusedRegions().map((refusal) => refusal.error.code),
        ['ERR_ISTHMUS_REGION_FULL'],
      );
      await holders[3]?.close();
      assert.is((await newRuntime(only(path))).regions()[0]?.slot, 3);
      await closeAll();
    }),
  );

  test(
    'out of frames: tcp, and the connection gives the reason',
    timebox(40, async () => {
      const path = await formatted(MIB);
      const [client, server] = [await newRuntime(only(path)), await newRuntime(only(path))];
      const before = client.regions()[0]?.freeFrames;
      const pairs: Pair[] = [];
      do pairs.push(await connect(client, server));
      while (pairs.at(-1)?.near.plugin === 'ivshmem' && pairs.length < 200);
      const last = pairs.at(-1) as Pair;
      assert.is(last.near.plugin, 'tcp');
      assert.is(last.far.plugin, 'tcp');
      assert.match(`${last.near.why} ${last.far.why}`, 'frames');
      assert.ok(pairs.length > 10, `${pairs.length} connections`);
      await pairs[0]?.near.close();
      await pairs[0]?.far.closed;
      assert.is((await connect(client, server)).near.plugin, 'ivshmem');
      await server.close();
      await Promise.all(pairs.map(({ near }) => near.closed));
      assert.is(client.regions()[0]?.freeFrames, before);
      await closeAll();
    }),
  );

  // ── The same memory, or not ────────────────────────────────────────────────────────────────────────────────────────

  test(
    'one region: ivshmem; two different ones: tcp, with the reason',
    timebox(30, async () => {
      const [one, two] = [newRegion(4 * MIB), newRegion(4 * MIB)];
      const a = await newRuntime(only(one));
      const b = await newRuntime(only(two));
      const both = await newRuntime(only([two, one]));
      assert.is((await connect(a, both)).near.plugin, 'ivshmem');
      assert.is((await connect(both, a)).near.plugin, 'ivshmem');
      assert.is((await connect(b, both)).near.plugin, 'ivshmem');
      const { near, far } = await connect(a, b);
      assert.is(near.plugin, 'tcp');
      assert.match(near.why ?? '', `ivshmem (${nameOf(one)}): `);
      assert.match(far.why ?? '', 'no region in common');
      await closeAll();
    }),
  );

  for (const [when, attached] of [
    ['before any process attached', false],
    ['while attached', true],
  ] as const) {
    test(
      `a copy made ${when} has the same UUID, and is not the same memory`,
      timebox(30, async () => {
        const original = await formatted();
        const server = attached ? await newRuntime(only(original)) : undefined;
        const early = attached ? await newRuntime(only(original)) : undefined;
        if (server && early) assert.is((await connect(early, server)).near.plugin, 'ivshmem');
        const copy = copyRegion(original);
        const a = server ?? (await newRuntime(only(original)));
        const b = await newRuntime(only(copy));
        assert.is(a.regions()[0]?.uuid, b.regions()[0]?.uuid);
        for (const [client, listener] of [
          [a, b],
          [b, a],
        ] as const) {
          const { near, far } = await connect(client, listener);
          assert.is(near.plugin, 'tcp');
          assert.match(near.why ?? '', 'ivshmem');
          assert.match(`${near.why} ${far.why}`, /not the same memory|claims the slot of this process/);
        }
        // A process with both regions finds the right one.
        const both = await newRuntime(only([copy, original]));
        for (const other of [a, b]) {
          assert.is((await connect(both, other)).near.plugin, 'ivshmem');
          assert.is((await connect(other, both)).near.plugin, 'ivshmem');
        }
        await closeAll();
      }),
    );
  }

  test(
    'another name of the same file is the same memory',
    timebox(30, async () => {
      const path = newRegion(4 * MIB);
      const a = await newRuntime(only(path));
      const b = await newRuntime(only(`/dev/shm/../shm/${nameOf(path)}`));
      assert.is((await connect(a, b)).near.plugin, 'ivshmem');
      await closeAll();
    }),
  );

  test(
    'a region whose file was removed continues to work',
    timebox(30, async () => {
      const path = newRegion(4 * MIB);
      const a = await newRuntime(only(path));
      const b = await newRuntime(only(path));
      removeRegions();
      assert.is((await connect(a, b)).near.plugin, 'ivshmem');
      await closeAll();
    }),
  );

  test.after(async () => {
    await closeAll();
    await endChildren();
    removeRegions();
  });
  test.run();
}

function hashOf(path: string): { hash: number } {
  const fd = openSync(path, 'r');
  assert.ok(fstatSync(fd).isFile());
  try {
    return identityOf(fd);
  } finally {
    closeSync(fd);
  }
}

main(testSeed());

/**
 * Doorbells between users: a peer of another user, in a region that both may use, puts at the place of its doorbell what
 * would block a process that uses it. The other process opens and rings nothing of that, its event loop keeps turning, and
 * both find each other's messages by a timer. A stranger without access to the region finds nothing to talk to.
 *
 * Needs root, which becomes the user 12345 in its children.
 */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  constants,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { posixBacking, SHM } from '../../host/device/posix.js';
import { addon, addonMissing } from '../../host/native/native.js';
import type { Attachment } from '../../host/region/peer-table.js';
import { Region } from '../../host/region/region.js';
import { Runtime } from '../../host/runtime/runtime.js';
import { echo } from '../support/meeting.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve, tell } from '../support/process.js';
import { newPath, newRegion, only, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const UID = 12_345;

/** Path of the doorbell whose random part is `id`. */
const bellAt = ({ identity }: Region, id: Uint8Array) =>
  join(SHM, `isthmus-bell-${identity.dev}-${identity.ino}-${Buffer.from(id).toString('hex')}`);

function becomeOther(): void {
  process.setgroups?.([]);
  process.setgid?.(UID);
  process.setuid?.(UID);
}

const codeOf = (body: () => unknown): string => {
  try {
    body();
    return 'done';
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error);
  }
};

/** What the other user puts at the path. Each is open to all users, so that only the check keeps a process from it. */
const TRAPS: Readonly<Record<string, (path: string) => unknown>> = {
  'a FIFO that is full, and blocks': (path) => {
    assert.is(spawnSync('mkfifo', [path]).status, 0);
    chmodSync(path, 0o666);
    const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    assert.is(
      codeOf(() => {
        for (;;) writeSync(fd, Buffer.alloc(4096));
      }),
      'EAGAIN',
    );
    return spawnSync('true', { stdio: [fd, 'ignore', 'ignore'] });
  },
  'a FIFO without a reader, of mode 0600': (path) => assert.is(spawnSync('mkfifo', ['-m', '600', path]).status, 0),
  'a link to a FIFO': (path) => {
    assert.is(spawnSync('mkfifo', ['-m', '666', `${path}-x`]).status, 0);
    symlinkSync(`${path}-x`, path);
  },
  'a link to a terminal': (path) => symlinkSync('/dev/ptmx', path),
  'a file': (path) => {
    writeFileSync(path, '');
    chmodSync(path, 0o666);
  },
  'a socket that accepts nothing': (path) =>
    new Promise<void>((resolve) => {
      const server = createServer().listen(path, resolve);
      server.unref();
      chmodSync(path, 0o777);
    }),
};

const roles: Record<string, () => Promise<void>> = {
  /** Attached to the region; what its slot says of its doorbell is as the test wants it. */
  async trapper() {
    becomeOther();
    const region = await Region.attach(posixBacking(roleOptions<string>(), false), 'trapper');
    let rung = 0;
    region.doorbells.rung = () => rung++;
    const own = Buffer.from(region.doorbells.id);
    const say = (id: Uint8Array) => {
      region.core.bytes.set(id, region.core.call.slotAddress(region.slot) + region.core.layout.SLOT_DOORBELL);
    };
    let trap: string | undefined;
    const remove = () => {
      for (const path of [trap, `${trap}-x`]) rmSync(path ?? '', { force: true });
    };
    serve({
      self: (): Attachment => ({ slot: region.slot, generation: region.generation }),
      genuine: () => say(own),
      async set(name: string) {
        remove();
        const id = Buffer.alloc(16, 1 + Object.keys(TRAPS).indexOf(name));
        trap = bellAt(region, id);
        await TRAPS[name]?.(trap);
        say(id);
      },
      rung: () => rung,
      end: () => {
        remove();
        region.detach();
      },
      /** Use the doorbell of a process of root. */
      async intrude(path: string) {
        return {
          ring: codeOf(() => new (addon().PeerDoorbell)(path, 0, 1).ring()),
          open: codeOf(() => openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)),
          remove: codeOf(() => unlinkSync(path)),
          replace: codeOf(() => symlinkSync('/dev/null', path)),
        };
      },
    });
    tell('ready');
  },

  /** In a user namespace without users: this one, and every other, appears as the overflow uid. */
  async unmapped() {
    const { own, foreign } = roleOptions<{ own: string; foreign: string }>();
    const open = (path: string) => codeOf(() => new (addon().PeerDoorbell)(path, 1, 1).close());
    tell('done', {
      uids: [process.geteuid?.(), statSync(own).uid, statSync(foreign).uid],
      own: open(own),
      foreign: open(foreign),
    });
  },

  /** A runtime of the other user. */
  async runtime() {
    becomeOther();
    const { region, port } = roleOptions<{ region: string; port: number }>();
    const runtime = await Runtime.create(only(region));
    const connection: Connection = await runtime.connect({ host: '127.0.0.1', port });
    const plugin = connection.plugin;
    for (let i = 0; i < 5; i++) {
      // Both ends have nothing to do for longer than they spin.
      await pause(50 * i);
      await connection.send(`message ${i}`);
      assert.is((await connection.receive())?.text(), `message ${i}`);
    }
    await runtime.close();
    tell('done', plugin);
  },
};

/** Names of the Unix-domain sockets of this process. */
function ownSockets(): string[] {
  const inodes = readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/self/fd/${fd}`))?.[1] ?? [];
    } catch {
      return [];
    }
  });
  return readFileSync('/proc/net/unix', 'latin1')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([, , , , , , inode = '', name]) => inodes.includes(inode) && name !== undefined)
    .map(([, , , , , , , name]) => name as string);
}

function main(): void {
  const possible = process.geteuid?.() === 0 && !addonMissing();
  const asRoot = possible ? test : test.skip;
  const skipped = possible ? '' : ' (skipped: needs root and the native part)';

  /** A region that root and the other user may use. */
  const shared = () => {
    const path = newRegion();
    chownSync(path, 0, UID);
    chmodSync(path, 0o660);
    return path;
  };

  asRoot(
    `what another user has put at the place of its doorbell is not opened, and a ring goes nowhere${skipped}`,
    timebox(60, async () => {
      const path = shared();
      const region = await Region.attach(posixBacking(path, true), 'victim');
      const child = Child.start(import.meta.url, 'trapper', path);
      await child.event('ready');
      const peer = await child.call<Attachment>('self');
      const ring = () => {
        const before = readdirSync('/proc/self/fd').length;
        const { bell, release } = region.doorbells.link(peer);
        for (let i = 0; i < 1000; i++) bell.ring();
        assert.not(region.doorbells.heard, 'it cannot ring either');
        assert.is(readdirSync('/proc/self/fd').length, before, 'nothing of it is open');
        release();
      };
      // Its true doorbell, which is as it should be, except that it belongs to another user.
      ring();
      for (const name of Object.keys(TRAPS)) {
        await child.call('set', name);
        ring();
      }
      await child.call('genuine');
      ring();
      await pause(50);
      assert.is(await child.call('rung'), 0);
      await child.call('end');
      region.detach();
      await endChildren();
    }),
  );

  asRoot(
    `another user cannot ring, read, remove or replace a doorbell${skipped}`,
    timebox(60, async () => {
      const path = shared();
      const region = await Region.attach(posixBacking(path, true), 'victim');
      let rung = 0;
      region.doorbells.rung = () => rung++;
      const child = Child.start(import.meta.url, 'trapper', path);
      await child.event('ready');
      const bell = bellAt(region, region.doorbells.id);
      assert.is(statSync(bell).mode & 0o7777, 0o600);
      const outcomes = await child.call<Record<string, string>>('intrude', bell);
      assert.equal(outcomes, { ring: 'EACCES', open: 'EACCES', remove: 'EPERM', replace: 'EEXIST' });
      await pause(50);
      assert.is(rung, 0);
      await child.call('end');
      region.detach();
      await endChildren();
    }),
  );

  const unmapped = ['setpriv', `--reuid=${UID}`, `--regid=${UID}`, '--clear-groups', 'unshare', '--user'];
  const inNamespace = possible && spawnSync(unmapped[0] as string, [...unmapped.slice(1), 'true']).status === 0;
  (inNamespace ? test : test.skip)(
    `in a user namespace, where users that are not mapped have one number${inNamespace ? '' : ' (skipped: none can be made)'}`,
    timebox(60, async () => {
      const [own, foreign] = [newPath('own'), newPath('foreign')] as [string, string];
      for (const [path, uid] of [
        [own, UID],
        [foreign, UID + 1],
      ] as const) {
        assert.is(spawnSync('mkfifo', ['-m', '600', path]).status, 0);
        chownSync(path, uid, uid);
      }
      const child = Child.start(import.meta.url, 'unmapped', { own, foreign }, { under: unmapped });
      assert.equal(await child.event('done'), { uids: [65_534, 65_534, 65_534], own: 'done', foreign: 'EACCES' });
      await child.ended();
    }),
  );

  asRoot(
    `two users find each other's messages by a timer${skipped}`,
    timebox(60, async () => {
      const region = shared();
      const runtime = await Runtime.create(only(region));
      const { port } = await runtime.listen({}, echo);
      const child = Child.start(import.meta.url, 'runtime', { region, port });
      assert.is(await child.event('done'), 'ivshmem');
      await child.ended();
      await runtime.close();
    }),
  );

  (addonMissing() ? test.skip : test)(
    'a process that can be woken listens at no socket: a stranger could send it a descriptor whose end blocks',
    timebox(60, async () => {
      const before = ownSockets();
      const runtimes: Runtime[] = [];
      for (let i = 0; i < 2; i++) runtimes.push(await Runtime.create(only(newRegion())));
      for (const runtime of runtimes) assert.is(runtime.regions().length, 1);
      assert.equal(ownSockets(), before);
      for (const runtime of runtimes) await runtime.close();
    }),
  );

  test.after(async () => {
    await endChildren();
    removeRegions();
  });
  test.run();
}

if (role) await play(roles);
else main();

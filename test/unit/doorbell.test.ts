/** Doorbells: FIFOs by which processes wake each other, and the event loop that waits for them; timers of the native part. */
import { spawnSync } from 'node:child_process';
import fs, {
  chmodSync,
  chownSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { addon } from '../../host/native/native.js';
import { Doorbells, removeStaleDoorbells } from '../../host/region/doorbell.js';
import type { Attachment } from '../../host/region/peer-table.js';
import { Child, endChildren, play, program, role, tell } from '../support/process.js';
import { timebox } from '../support/timebox.js';

const native = addon();
const SHM = '/dev/shm';
/** Of a region. */
const SLOTS = 16;
const root = process.geteuid?.() === 0;

/** A region without memory: the doorbells that are attached to it, and what their slots say. */
class Neighbourhood {
  static #count = 0;
  /** A file that no other process has. */
  readonly file = { dev: BigInt(process.pid), ino: BigInt(++Neighbourhood.#count) };
  readonly slots = new Map<string, Uint8Array>();

  attach(self: Attachment): Doorbells {
    const bells: Doorbells = new Doorbells(this.file, {
      slots: SLOTS,
      self: () => self,
      doorbellOf: ({ slot, generation }) => this.slots.get(`${slot}/${generation}`),
    });
    this.slots.set(`${self.slot}/${self.generation}`, bells.id);
    return bells;
  }

  /** Paths of the doorbells that exist. */
  get paths(): string[] {
    const { dev, ino } = this.file;
    return readdirSync(SHM)
      .filter((name) => name.startsWith(`isthmus-bell-${dev}-${ino}-`))
      .map((name) => join(SHM, name));
  }
}

const [one, other, third] = [1, 2, 3].map((slot) => ({ slot, generation: slot * 7 })) as [
  Attachment,
  Attachment,
  Attachment,
];

async function until(what: string, holds: () => boolean): Promise<void> {
  for (let i = 0; !holds(); i++) {
    if (i === 2000) throw new Error(`not ${what}`);
    await pause(5);
  }
}

/** What this process has open, by kind. */
function descriptors(): Record<string, number> {
  const kinds: Record<string, number> = {};
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      const [kind = ''] = readlinkSync(`/proc/self/fd/${fd}`)
        .replace(/^\/.*/, 'file')
        .split(/:?\[?\d/);
      kinds[kind] = (kinds[kind] ?? 0) + 1;
    } catch {
      // The descriptor of the folder itself.
    }
  }
  return kinds;
}

async function allBack(before: Record<string, number>): Promise<void> {
  for (let i = 0; i < 400 && JSON.stringify(descriptors()) !== JSON.stringify(before); i++) await pause(5);
  assert.equal(descriptors(), before);
}

function codeOf(body: () => unknown): string | undefined {
  try {
    body();
  } catch (error) {
    return (error as NodeJS.ErrnoException).code;
  }
  return undefined;
}

let scratch: string | undefined;
let made = 0;
/** Not in a child, which may be killed. */
function newPath(): string {
  if (scratch === undefined) {
    const folder = mkdtempSync(join(SHM, 'isthmus-test-bell-'));
    chmodSync(folder, 0o777);
    process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
    scratch = folder;
  }
  return join(scratch, String(made++));
}
/** A FIFO as another process could have made it. */
function fifo(mode: number, uid?: number): string {
  const path = newPath();
  assert.is(spawnSync('mkfifo', [path]).status, 0);
  chmodSync(path, mode);
  if (uid !== undefined) chownSync(path, uid, uid);
  return path;
}

function main(): void {
  test(
    'a timer and a doorbell are each reported once, at the right time',
    timebox(20, async () => {
      const seen: string[] = [];
      const timer = new native.Timer(() => seen.push('timer'));
      const path = newPath();
      const bell = new native.Doorbell(path, (rung, callers) => {
        if (callers) seen.push(`caller ${callers}`);
        if (rung) seen.push('bell');
      });
      assert.is(statSync(path).mode & 0o7777, 0o600);
      await pause(20);
      assert.equal(seen, []);
      const peer = new native.PeerDoorbell(path, 3, 0xffffffff);
      await until('introduced', () => seen.length > 0);
      await pause(20);
      assert.equal(seen.splice(0), ['caller 3,4294967295']);
      peer.ring();
      peer.ring();
      await until('rung', () => seen.length > 0);
      await pause(20);
      assert.equal(seen, ['bell']);
      timer.set(200);
      await until('run off', () => seen.length > 1);
      timer.set(5_000_000);
      timer.set(0);
      await pause(20);
      assert.equal(seen, ['bell', 'timer']);
      for (const each of [timer, bell, timer, bell]) each.close();
      assert.not(existsSync(path));
      peer.ring();
      timer.set(1);
      peer.close();
      peer.close();
      peer.ring();
      await pause(20);
      assert.is(seen.length, 2);
    }),
  );

  test(
    'many callers at once are all told, and a ring between them is not lost',
    timebox(20, async () => {
      const path = newPath();
      const seen = new Set<number>();
      let rung = 0;
      const bell = new native.Doorbell(path, (isRung, callers) => {
        for (let i = 0; i < (callers?.length ?? 0); i += 2) seen.add(callers?.[i] as number);
        if (isRung) rung++;
      });
      const peers = Array.from({ length: 1500 }, (_, i) => {
        const peer = new native.PeerDoorbell(path, i, 1);
        if (i === 700) peer.ring();
        peer.close();
        return i;
      });
      await until('all told', () => seen.size === peers.length);
      assert.is(rung, 1);
      bell.close();
    }),
  );

  test(
    'a ring never blocks: the doorbell is full, its owner does not read, its flags were changed elsewhere',
    timebox(20, async () => {
      const path = newPath();
      let rung = 0;
      const bell = new native.Doorbell(path, () => rung++);
      const peer = new native.PeerDoorbell(path, 1, 1);
      // Another process of this user opens it, blocking, and keeps it full.
      const fd = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
      const fill = () =>
        codeOf(() => {
          for (;;) writeSync(fd, Buffer.alloc(4096));
        });
      assert.is(fill(), 'EAGAIN');
      spawnSync('true', { stdio: [fd, 'ignore', 'ignore'] });
      for (let i = 0; i < 1000; i++) peer.ring();
      assert.is(
        codeOf(() => new native.PeerDoorbell(path, 2, 1)),
        'EAGAIN',
      );
      assert.is(rung, 0);
      await until('woken all the same', () => rung > 0);
      // It was drained, and works on.
      const before = rung;
      await pause(20);
      const last = rung;
      peer.ring();
      await until('rung again', () => rung > last);
      assert.ok(last >= before);
      // Another reader is faster: the owner just sleeps on.
      const thief = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
      closeSync(thief);
      bell.close();
      // There is no reader but the ringer itself: no SIGPIPE, also where it would end the process.
      process.on('SIGPIPE', () => {}).removeAllListeners('SIGPIPE');
      for (let i = 0; i < 10_000; i++) peer.ring();
      peer.close();
      closeSync(fd);
    }),
  );

  test(
    'what stands at the path is not used unless only its owner may open it, and that is this user or root',
    timebox(20, async () => {
      const open = (path: string) => codeOf(() => new native.PeerDoorbell(path, 1, 1).close());
      assert.is(open(fifo(0o600)), undefined);
      for (const mode of [0o622, 0o660, 0o606, 0o604, 0o400, 0o4600]) {
        assert.is(open(fifo(mode)), 'EPERM', mode.toString(8));
      }
      const [file, folder, link, socket] = [newPath(), newPath(), newPath(), newPath()];
      writeFileSync(file, '', { mode: 0o600 });
      mkdirSync(folder, { mode: 0o600 });
      symlinkSync(fifo(0o600), link);
      const server = createServer();
      await new Promise<void>((resolve) => server.listen(socket, resolve));
      chmodSync(socket, 0o600);
      for (const path of [file, folder, link, socket, '/dev/null']) assert.is(open(path), 'EPERM', path);
      server.close();
      assert.is(open(newPath()), 'ENOENT');
      assert.is(open(join(file, 'x')), 'ENOTDIR');
      if (root) {
        assert.is(open(fifo(0o600, 12_345)), 'EPERM', 'another user');
        assert.is(open(fifo(0o600, 65_534)), 'EPERM', 'the overflow uid');
      }
      // Nothing may be there before.
      for (const path of [file, folder, link, fifo(0o600)]) {
        assert.is(
          codeOf(() => new native.Doorbell(path, () => {})),
          'EEXIST',
        );
        assert.ok(existsSync(path), 'it is left alone');
      }
      const mask = process.umask(0o777);
      const path = newPath();
      const bell = new native.Doorbell(path, () => {});
      process.umask(mask);
      assert.is(open(path), undefined, 'whatever the umask is');
      bell.close();
    }),
  );

  test(
    'a peer that has to ring without a doorbell looks for it again',
    timebox(20, async () => {
      const place = new Neighbourhood();
      const ringer = place.attach(other);
      // There is none yet.
      const { bell, release } = ringer.link(one);
      bell.ring();
      const sleeper = place.attach(one);
      let rung = 0;
      sleeper.rung = () => rung++;
      await pause(20);
      assert.is(rung, 0);
      bell.ring();
      await until('rung', () => rung === 1);
      release();
      bell.ring();
      for (const bells of [ringer, sleeper]) bells.close();
      assert.equal(place.paths, []);
    }),
  );

  test(
    'a slot that says no doorbell, or one that is not there: the peer cannot ring, and that is all',
    timebox(20, async () => {
      const place = new Neighbourhood();
      const a = place.attach(one);
      for (const id of [new Uint8Array(16), new Uint8Array(16).fill(255), new Uint8Array(0)]) {
        place.slots.set(`${third.slot}/${third.generation}`, id);
        const { bell, release } = a.link(third);
        bell.ring();
        assert.not(a.heard);
        release();
      }
      // A doorbell of another region has another name.
      const elsewhere = new Neighbourhood();
      const b = elsewhere.attach(other);
      place.slots.set(`${third.slot}/${third.generation}`, b.id);
      let rung = 0;
      b.rung = () => rung++;
      a.link(third).bell.ring();
      await pause(20);
      assert.is(rung, 0);
      for (const bells of [a, b]) bells.close();
    }),
  );

  test(
    'invalid arguments are refused',
    timebox(5, () => {
      const { Timer, Doorbell, PeerDoorbell } = native as unknown as Record<
        string,
        new (
          ...values: unknown[]
        ) => unknown
      >;
      const code = (what: new (...values: unknown[]) => unknown, ...values: unknown[]) =>
        codeOf(() => new what(...values));
      assert.is(code(Timer!), 'ERR_INVALID_ARG_TYPE');
      assert.is(code(Timer!, 'x'), 'ERR_INVALID_ARG_TYPE');
      assert.is(
        codeOf(() => {
          const timer = new native.Timer(() => {});
          try {
            timer.set(-1);
          } finally {
            timer.close();
          }
        }),
        'ERR_OUT_OF_RANGE',
      );
      for (const what of [Doorbell, PeerDoorbell]) {
        assert.is(
          code(what!, 1, () => {}),
          'ERR_INVALID_ARG_TYPE',
        );
        assert.is(
          code(what!, '', () => {}),
          'ERR_OUT_OF_RANGE',
        );
        assert.is(
          code(what!, 'a\0b', () => {}),
          'ERR_OUT_OF_RANGE',
        );
        assert.is(code(what!, newPath(), 'x', 'x'), 'ERR_INVALID_ARG_TYPE');
      }
      assert.is(code(PeerDoorbell!, fifo(0o600), 1, 0), 'ERR_OUT_OF_RANGE');
      assert.is(
        code(Doorbell!, join(SHM, 'x'.repeat(300)), () => {}),
        'ENAMETOOLONG',
      );
      assert.is(
        code(Doorbell!, '/proc/x', () => {}),
        'ENOENT',
      );
    }),
  );

  test(
    'two attachments: each rings the other, until one is gone',
    timebox(20, async () => {
      const before = descriptors();
      const place = new Neighbourhood();
      const [a, b] = [place.attach(one), place.attach(other)];
      let [ringsAtA, ringsAtB] = [0, 0];
      a.rung = () => ringsAtA++;
      b.rung = () => ringsAtB++;
      assert.ok(a.heard, 'no peer is unable to ring');
      const toB = [a.link(other), a.link(other)] as const;
      assert.not(a.heard);
      const toA = b.link(one);
      await until('heard', () => a.heard && b.heard);
      toB[0].bell.ring();
      await until('heard at b', () => ringsAtB === 1);
      toA.bell.ring();
      await until('heard at a', () => ringsAtA === 1);
      assert.is(ringsAtB, 1);
      assert.is(place.paths.length, 2);
      // One doorbell for all links, while there is a link.
      toB[0].release();
      toB[0].release();
      toB[1].bell.ring();
      await until('heard again', () => ringsAtB === 2);
      toB[1].release();
      b.close();
      // A peer without a doorbell cannot ring.
      const late = a.link(other);
      late.bell.ring();
      late.release();
      const silent = a.link(third);
      assert.not(a.heard);
      silent.bell.ring();
      silent.release();
      assert.ok(a.heard);
      a.close();
      await allBack(before);
      assert.equal(place.paths, []);
    }),
  );

  test(
    'a doorbell whose owner was killed is removed, a living one is not',
    timebox(60, async () => {
      const child = Child.start(import.meta.url, 'owner');
      const { path } = await child.event<{ path: string }>('ready');
      const exits = Child.start(import.meta.url, 'exits');
      const { path: closed } = await exits.event<{ path: string }>('ready');
      await exits.ended();
      assert.not(existsSync(closed), 'process.exit() removes it');
      const place = new Neighbourhood();
      const own = place.attach(one);
      const foreign = join(SHM, `isthmus-bell-0-0-${process.pid}`);
      assert.is(spawnSync('mkfifo', [foreign]).status, 0);
      if (root) chownSync(foreign, 12_345, 12_345);
      await pause(1500);
      removeStaleDoorbells();
      assert.ok(existsSync(path), 'its owner lives');
      await child.kill('SIGKILL');
      assert.ok(existsSync(path), 'a killed process removes nothing');
      // Behind a death there is one more search, when the pause behind the last one is over.
      removeStaleDoorbells();
      await until('removed', () => !existsSync(path));
      assert.is(place.paths.length, 1, 'that of this process stays');
      assert.is(existsSync(foreign), root, 'that of another user stays');
      rmSync(foreign, { force: true });
      own.close();
    }),
  );

  test(
    'names of others in /dev/shm cost a bounded number of system calls, and not with each search that is asked for',
    timebox(60, async () => {
      const prefix = `isthmus-bell-0-0-${process.pid}-`;
      const files = Array.from({ length: 300 }, (_, i) => join(SHM, `${prefix}file-${i}`));
      const fifos = Array.from({ length: 4500 }, (_, i) => join(SHM, `${prefix}fifo-${i}`));
      const { opendirSync, readdirSync: list, lstatSync } = fs;
      const calls = { searches: 0, looked: [] as string[] };
      try {
        for (const path of files) writeFileSync(path, '');
        assert.is(spawnSync('mkfifo', fifos).status, 0);
        const counted = {
          opendirSync: (path: string, options: object) => {
            calls.searches++;
            return opendirSync(path, options);
          },
          readdirSync: (path: string) => {
            calls.searches++;
            return list(path);
          },
          lstatSync: (path: string) => {
            calls.looked.push(path);
            return lstatSync(path);
          },
        };
        Object.assign(fs, counted);
        syncBuiltinESMExports();
        for (let i = 0; i < 5; i++) removeStaleDoorbells();
        await until('a search', () => calls.searches > 0);
        assert.is(calls.searches, 1, 'the others are one, later');
        assert.ok(calls.looked.length <= 4096, `${calls.looked.length} files were looked at`);
        assert.not(
          calls.looked.some((path) => path.startsWith(`${SHM}/${prefix}file-`)),
          'what is no FIFO is passed',
        );
      } finally {
        Object.assign(fs, { opendirSync, readdirSync: list, lstatSync });
        syncBuiltinESMExports();
        for (const path of [...files, ...fifos]) rmSync(path, { force: true });
      }
    }),
  );

  test(
    'a server that thousands of peers have rung, one after the other, still hears a new one',
    timebox(60, async () => {
      const place = new Neighbourhood();
      const server = place.attach(one);
      for (let generation = 1; generation <= 5000; generation++) {
        const passing = place.attach({ slot: 2 + (generation % (SLOTS - 2)), generation });
        passing.link(one);
        passing.close();
        if (generation % 500 === 0) await pause(1);
      }
      // A slot that the region does not have.
      const stray = place.attach({ slot: SLOTS, generation: 1 });
      stray.link(one);
      const newest = { slot: 2, generation: 9999 };
      const late = place.attach(newest);
      late.link(one);
      server.link(newest);
      await until('heard', () => server.heard);
      server.link({ slot: SLOTS, generation: 1 });
      await pause(20);
      assert.not(server.heard);
      for (const each of [server, stray, late]) each.close();
    }),
  );

  test(
    'a worker that closes, ends, exits, throws or is terminated gives every descriptor back, without a warning',
    timebox(120, async () => {
      const bells = () => readdirSync(SHM).filter((name) => name.startsWith('isthmus-bell-1-')).length;
      const warnings: string[] = [];
      const warned = (warning: Error) => warnings.push(warning.message);
      process.on('warning', warned);
      for (const how of ['close', 'end', 'exit', 'throw', 'terminate']) {
        for (const trackUnmanagedFds of [true, false]) {
          const before = descriptors();
          const there = bells();
          const workers = Array.from({ length: 3 }, async () => {
            const worker = new Worker(program('doorbell'), { workerData: how, trackUnmanagedFds, stderr: true });
            const failed: unknown[] = [];
            let said = '';
            worker.stderr.setEncoding('utf8').on('data', (text: string) => {
              said += text;
            });
            worker.on('error', (error) => failed.push(error));
            const ended = new Promise((resolve) => worker.on('exit', resolve));
            await new Promise((resolve) => worker.once('message', resolve));
            if (how === 'terminate') await worker.terminate();
            await ended;
            assert.is(failed.length, how === 'throw' ? 1 : 0);
            assert.is(said, '');
          });
          await Promise.all(workers);
          await allBack(before);
          assert.is(bells(), there, `${how}: the doorbells are removed`);
        }
      }
      process.off('warning', warned);
      assert.equal(warnings, []);
    }),
  );

  test.after(endChildren);
  test.run();
}

const roles = {
  /** Has a doorbell and waits. */
  async owner() {
    const place = new Neighbourhood();
    place.attach(one);
    tell('ready', { path: place.paths[0] });
    setInterval(() => {}, 1000);
  },
  /** Has a doorbell and exits. */
  async exits() {
    const place = new Neighbourhood();
    place.attach(one);
    tell('ready', { path: place.paths[0] });
    setTimeout(() => process.exit(), 50);
  },
};

if (role) await play(roles);
else main();

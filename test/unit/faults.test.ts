/**
 * SIGBUS in the windows of the native addon (native/faults.cc): a window that has lost its pages gets zeros and is marked;
 * every other SIGBUS ends the process, or reaches the handlers of others, as without the addon.
 */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { threadId, Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { addon, type Mapping } from '../../host/native/native.js';
import { thrownBy } from '../support/outcomes.js';
import { play, role } from '../support/process.js';
import { timebox } from '../support/timebox.js';
import {
  assertUsable,
  BOTTOM,
  type Memory,
  mapFile,
  newMemory,
  SIZE,
  type SystemError,
  timesMapped,
  windowOf,
} from '../support/windows.js';

const own = fileURLToPath(import.meta.url);
/** Offset of the mark, below the window. */
const MARK = 64;
const FILL = 0x5a;

interface Guarded {
  readonly path: string;
  readonly memory: Memory;
  readonly mapping: Mapping;
  readonly bytes: Uint8Array;
  mark(): number;
}

/** One for all processes of the test: some of them end by a signal, and remove nothing. */
const given = process.env['ISTHMUS_TEST_FOLDER'];
const folder = given ?? mkdtempSync('/dev/shm/isthmus-faults-');
if (given === undefined) process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
let files = 0;

function newFile(): string {
  const path = join(folder, `file-${process.pid}-${threadId}-${files++}`);
  writeFileSync(path, Buffer.alloc(SIZE, FILL));
  return path;
}

function guarded(memory = newMemory(), path = newFile()): Guarded {
  const mapping = mapFile(memory, path, 'r+', { lost: MARK });
  const words = new Uint32Array(memory.buffer);
  return { path, memory, mapping, bytes: windowOf(memory), mark: () => words[MARK / 4] as number };
}

/** Signals that this process handles. */
function handled(signal: number): boolean {
  const mask = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] as string;
  return (BigInt(`0x${mask}`) & (1n << BigInt(signal - 1))) !== 0n;
}

const SIGBUS = 7;

// ── Other processes ──────────────────────────────────────────────────────────────────────────────────────────────────

const say = (line: string) => writeSync(1, `${line}\n`);

/** Accesses a page that is gone, in a window that the addon does not guard. */
function accessForeign(): void {
  const path = newFile();
  const memory = newMemory();
  mapFile(memory, path);
  truncateSync(path, 0);
  say(`accesses ${addressOf(path)}`);
  say(`read ${windowOf(memory)[0]}`);
}

/** The address of the mapping of a file. */
function addressOf(path: string): string {
  const line = readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .find((one) => one.includes(path)) as string;
  return `0x${line.slice(0, line.indexOf('-'))}`;
}

function lose(one: Guarded): void {
  truncateSync(one.path, 0);
  assert.is(one.bytes[0], 0);
  assert.is(one.mark(), 1);
}

/** Node resets ignored signals at its start, so the library ignores it now. */
function ignoreIfAsked(): void {
  if (process.env['ISTHMUS_TEST_HANDLER'] === 'ignored') process.kill(process.pid, 'SIGUSR2');
}

const roles = {
  /** A window is lost; then a page of another mapping. */
  foreign() {
    ignoreIfAsked();
    lose(guarded());
    accessForeign();
  },

  off() {
    accessForeign();
  },

  sent() {
    ignoreIfAsked();
    const one = guarded();
    process.kill(process.pid, 'SIGBUS');
    say('still here');
    one.mapping.detach();
  },

  /** Handlers of others come and go: by signals to the library of `later`. */
  later() {
    const first = guarded();
    process.kill(process.pid, 'SIGUSR2');
    // The later handler gets it first, and passes it on.
    lose(first);
    const second = guarded();
    lose(second);
    first.mapping.detach();
    second.mapping.detach();
    say('survived');
    accessForeign();
  },

  /** Node itself resets the action when the last listener is gone. */
  listener() {
    const first = guarded();
    const listener = () => {};
    process.on('SIGBUS', listener);
    process.off('SIGBUS', listener);
    const second = guarded();
    lose(second);
    lose(first);
    say('survived');
    accessForeign();
  },

  /** In a worker that had the addon first, and alone; and behind its end. */
  async worker() {
    for (const end of ['return', 'terminate']) {
      const worker = new Worker(own, { argv: ['role:thread', end] });
      assert.is((await once(worker, 'message'))[0], 'lost');
      if (end === 'terminate') {
        process.kill(process.pid, 'SIGURG'); // nothing waits for it
        await worker.terminate();
      } else {
        await once(worker, 'exit');
      }
      assert.not(handled(SIGBUS));
    }
    lose(guarded());
    say('survived');
    accessForeign();
  },

  async thread() {
    const { parentPort } = await import('node:worker_threads');
    lose(guarded());
    guarded();
    parentPort!.postMessage('lost');
    if (process.argv[3] === 'terminate') for (;;);
  },
};

interface Ended {
  readonly stdout: string;
  readonly signal: NodeJS.Signals | null;
  readonly status: number | null;
}

function run(name: keyof typeof roles, env: NodeJS.ProcessEnv = {}): Ended {
  // Without a core dump.
  const line = `ulimit -c 0; exec "$0" "$@"`;
  const args = ['-c', line, process.execPath, '--enable-source-maps', own, `role:${name}`];
  const child = spawnSync('bash', args, {
    encoding: 'utf8',
    timeout: 20_000,
    env: { ...process.env, ISTHMUS_TEST_FOLDER: folder, ...env },
  });
  return { ...child, stdout: child.stdout + child.stderr };
}

/** A library that installs handlers of its own. */
const LIBRARY = `
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static struct sigaction saved;
static void say(const char *who, siginfo_t *info) {
  char line[80];
  int length = snprintf(line, sizeof line, "%s %p\\n", who, info ? info->si_addr : 0);
  if (write(1, line, length) < 0) abort();
}
static void earlier(int signal, siginfo_t *info, void *context) {
  sigset_t blocked;
  pthread_sigmask(SIG_BLOCK, 0, &blocked);
  say(sigismember(&blocked, SIGUSR1) ? "earlier" : "earlier, without its mask", info);
  _exit(42);
}
static void plain(int signal) {
  say("plain", 0);
  _exit(43);
}
static void later(int signal, siginfo_t *info, void *context) {
  say("later", info);
  if (saved.sa_flags & SA_SIGINFO) saved.sa_sigaction(signal, info, context);
  else _exit(44);
}
static void install_later(int signal) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = later;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, &saved);
}
static void ignore(int unused) {
  signal(SIGBUS, SIG_IGN);
}
__attribute__((constructor)) static void begin(void) {
  const char *kind = getenv("ISTHMUS_TEST_HANDLER");
  struct sigaction action;
  memset(&action, 0, sizeof action);
  if (!kind) return;
  if (!strcmp(kind, "later") || !strcmp(kind, "ignored")) {
    action.sa_handler = !strcmp(kind, "later") ? install_later : ignore;
    sigaction(SIGUSR2, &action, 0);
    return;
  }
  if (!strcmp(kind, "plain")) action.sa_handler = plain;
  else {
    action.sa_sigaction = earlier;
    action.sa_flags = SA_SIGINFO;
    sigaddset(&action.sa_mask, SIGUSR1);
  }
  sigaction(SIGBUS, &action, 0);
}`;

function main(): void {
  test(
    'a window that has lost its pages has zeros, and is marked; it is found by an access, or by the size of the file',
    timebox(20, () => {
      for (const left of [0, SIZE / 4, SIZE - 1]) {
        for (const asked of [false, true]) {
          const one = guarded();
          assert.is(one.bytes[SIZE - 1], FILL);
          assert.ok(one.mapping.whole());
          assert.is(one.mark(), 0);
          truncateSync(one.path, left);
          // A last page that the file still begins has zeros behind its end, and no fault.
          if (asked || left === SIZE - 1) assert.not(one.mapping.whole());
          else assert.is(one.bytes[SIZE - 1], 0);
          assert.is(one.mark(), 1);
          assert.not(one.mapping.whole());
          // All of it, also the part that the file still has: nothing more is written there.
          assert.ok(one.bytes.every((byte) => byte === 0));
          assertUsable(one.bytes);
          assert.ok(readFileSync(one.path).every((byte) => byte === FILL));
          assert.is(timesMapped(one.path), 0);
          assert.ok(one.mapping.attached);
          assert.ok(one.mapping.lock(3), 'its locks stay until it is detached');
          one.mapping.detach();
          assert.ok(one.mapping.whole());
          assertUsable(one.bytes);
        }
      }
      assert.not(handled(SIGBUS));
    }),
  );

  test(
    'in the middle of a copy, in both directions and in any part of it; atomics and Wasm go on as well',
    timebox(20, () => {
      const accesses: ((bytes: Uint8Array) => unknown)[] = [
        (bytes) => new Uint8Array(SIZE).set(bytes),
        (bytes) => bytes.set(new Uint8Array(SIZE).fill(1)),
        (bytes) => bytes.copyWithin(0, SIZE / 2),
        (bytes) => bytes.slice(),
        (bytes) => bytes.fill(3),
        (bytes) => Buffer.from(bytes.buffer, bytes.byteOffset, SIZE).copy(Buffer.alloc(SIZE)),
        (bytes) => Atomics.compareExchange(new Int32Array(bytes.buffer), (BOTTOM + SIZE - 4) >> 2, 0, 5),
      ];
      for (const access of accesses) {
        const one = guarded();
        truncateSync(one.path, SIZE / 2);
        access(one.bytes);
        if (one.mark() === 0) access(one.bytes.subarray(SIZE / 2));
        assert.is(one.mark(), 1, String(access));
        assertUsable(one.bytes);
        one.mapping.detach();
      }
    }),
  );

  test(
    'only the window that was hit: others of the same memory, and of other memories, stay',
    timebox(20, () => {
      const all: Guarded[] = [];
      // More than one part of the handler's table has.
      for (let i = 0; i < 70; i++) all.push(guarded());
      const hit = new Set([0, 13, 63, 64, 69]);
      for (const i of hit) truncateSync(all[i]!.path, 0);
      for (const one of all) one.bytes[SIZE - 1]!++;
      for (const [i, one] of all.entries()) {
        assert.is(one.mark(), hit.has(i) ? 1 : 0, `window ${i}`);
        assert.is(one.bytes[0], hit.has(i) ? 0 : FILL, `window ${i}`);
        one.mapping.detach();
      }
      // Two windows of one memory, each with a mark of its own.
      const pages = 8;
      const memory = newMemory();
      const { pageSize } = addon();
      const paths = [newFile(), newFile()];
      const maps = paths.map((path, i) => {
        const fd = openSync(path, 'r+');
        const mapping = addon().map(memory.buffer, BOTTOM + i * pageSize, pageSize, fd, 0, { lost: i * 4 });
        closeSync(fd);
        return mapping;
      });
      truncateSync(paths[1]!, 0);
      const bytes = new Uint8Array(memory.buffer);
      assert.is(bytes[BOTTOM], FILL);
      assert.is(bytes[BOTTOM + pageSize], 0);
      assert.equal([...new Uint32Array(memory.buffer, 0, 2)], [0, 1], String(pages));
      for (const mapping of maps) mapping.detach();
    }),
  );

  test(
    'system calls on a window: EFAULT where a page is gone, and its own error',
    timebox(10, () => {
      const one = guarded();
      truncateSync(one.path, 0);
      const source = openSync(newFile(), 'r+');
      const error = thrownBy<SystemError>(() => readSync(source, one.bytes, 0, SIZE, 0));
      assert.is(error.code, 'EFAULT');
      // No signal comes of it: the size of the file tells.
      assert.is(one.mark(), 0);
      assert.not(one.mapping.whole());
      assert.is(one.mark(), 1);
      assert.is(readSync(source, one.bytes, 0, SIZE, 0), SIZE);
      closeSync(source);
      one.mapping.detach();
    }),
  );

  test(
    'a page without a block on a full file system: the same',
    timebox(20, () => {
      const line = `mount -t tmpfs -o size=1m tmpfs ${folder} && exec "$0" "$@"`;
      const args = ['-m', 'bash', '-c', line, process.execPath, own, 'role:full', folder];
      const { stdout, stderr, status } = spawnSync('unshare', args, { encoding: 'utf8', timeout: 15_000 });
      if (/unshare|mount/.test(stderr)) return console.log(`skipped: no mount namespaces (${stderr.trim()})`);
      assert.is(status, 0, stderr);
      assert.match(stdout, /survived/);
    }),
  );

  test(
    'lost: the offset of a word beside the window',
    timebox(10, () => {
      for (const lost of [BOTTOM, BOTTOM + SIZE - 4, 2, 2 ** 40, newMemory().buffer.byteLength - 2]) {
        const error = thrownBy<SystemError>(() => mapFile(newMemory(), newFile(), 'r+', { lost }));
        assert.is(error.code, 'ERR_OUT_OF_RANGE', String(lost));
      }
      const wrong = { lost: 'x' as unknown as number };
      assert.is(thrownBy<SystemError>(() => mapFile(newMemory(), newFile(), 'r+', wrong)).code, 'ERR_INVALID_ARG_TYPE');
      assert.not(handled(SIGBUS), 'nothing stays behind');
    }),
  );

  test(
    'the handler is there as long as a window wants it, and only then',
    timebox(10, () => {
      assert.not(handled(SIGBUS));
      const plain = mapFile(newMemory(), newFile());
      assert.not(handled(SIGBUS));
      const [first, second] = [guarded(), guarded()];
      assert.ok(handled(SIGBUS));
      first.mapping.detach();
      assert.ok(handled(SIGBUS));
      second.mapping.detach();
      assert.not(handled(SIGBUS));
      plain.detach();
    }),
  );

  test(
    'a foreign SIGBUS ends the process by SIGBUS, and so does one that a process sends',
    timebox(40, () => {
      for (const name of ['off', 'foreign', 'sent'] as const) {
        const { signal, stdout } = run(name);
        assert.is(signal, 'SIGBUS', `${name}: ${stdout}`);
        assert.not.match(stdout, /read|still here/);
      }
    }),
  );

  test(
    'worker threads: a window that is lost in one; the handler stays when the thread that brought it ends',
    timebox(40, () => {
      const { signal, stdout } = run('worker');
      assert.match(stdout, /survived/);
      assert.is(signal, 'SIGBUS', stdout);
    }),
  );

  test(
    "Node's own handler resets the action: the next window brings ours back",
    timebox(40, () => {
      const { signal, stdout } = run('listener');
      assert.match(stdout, /survived/);
      assert.is(signal, 'SIGBUS', stdout);
    }),
  );

  const compiler = spawnSync('cc', ['--version']).status === 0;
  (compiler ? test : test.skip)(
    `handlers of others get what is theirs${compiler ? '' : ' (skipped: there is no C compiler)'}`,
    timebox(60, () => {
      const [source, library] = [join(folder, 'handlers.c'), join(folder, 'handlers.so')];
      writeFileSync(source, LIBRARY);
      const compiled = spawnSync('cc', ['-shared', '-fPIC', '-o', library, source], { encoding: 'utf8' });
      assert.is(compiled.status, 0, compiled.stderr);
      const LD_PRELOAD = [process.env['LD_PRELOAD'], library].filter(Boolean).join(' ');
      const under = (kind: string, name: keyof typeof roles) => run(name, { LD_PRELOAD, ISTHMUS_TEST_HANDLER: kind });

      // With the address of the access, and with its own mask.
      let ended = under('earlier', 'foreign');
      const address = /accesses (0x[0-9a-f]+)/.exec(ended.stdout)?.[1];
      assert.match(ended.stdout, new RegExp(`^earlier ${address}$`, 'm'));
      assert.is(ended.status, 42, ended.stdout);
      ended = under('earlier', 'sent');
      assert.is(ended.status, 42, ended.stdout);
      ended = under('plain', 'foreign');
      assert.is(ended.status, 43, ended.stdout);

      // Ignored: the kernel ignores what is sent, and an access ends the process all the same.
      ended = under('ignored', 'sent');
      assert.match(ended.stdout, /still here/);
      assert.is(ended.status, 0, ended.stdout);
      ended = under('ignored', 'foreign');
      assert.is(ended.signal, 'SIGBUS', ended.stdout);

      // One that came after ours gets all first; ours covers the window, and lets the rest pass.
      ended = under('later', 'later');
      assert.match(ended.stdout, /^later .*\n(.*\n)*later .*\n(.*\n)*survived\n(.*\n)*accesses .*\n(.*\n)*later /m);
      assert.is(ended.signal, 'SIGBUS', ended.stdout);
    }),
  );

  test.run();
}

/** In a file system of 1 MiB, where a sparse file gets no more blocks. */
function full(): void {
  const path = join(process.argv[3] as string, 'sparse');
  const fd = openSync(path, 'wx+');
  ftruncateSync(fd, SIZE);
  const memory = newMemory();
  const mapping = mapFile(memory, path, 'r+', { lost: MARK });
  assert.is(
    thrownBy<SystemError>(() => writeFileSync(join(process.argv[3] as string, 'rest'), Buffer.alloc(2 << 20))).code,
    'ENOSPC',
  );
  windowOf(memory).fill(1);
  assert.is(new Uint32Array(memory.buffer)[MARK / 4], 1);
  // The file is as long as it was: what an access has found is remembered.
  assert.not(mapping.whole());
  say('survived');
}

if (role) await play({ ...roles, full });
else main();

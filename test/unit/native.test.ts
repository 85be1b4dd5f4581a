/**
 * The native addon: pages of files in memories, locks on bytes, blocks for files.
 * Other processes and worker threads are test/children/native.ts, by role.
 */

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { addon, type Mapping } from '../../host/native/native.js';
import { thrownBy } from '../support/outcomes.js';
import { program } from '../support/process.js';
import { timebox } from '../support/timebox.js';
import {
  assertUsable,
  BOTTOM,
  mapFile,
  newMemory,
  openDescriptors,
  SIZE,
  type SystemError,
  timesMapped,
  windowOf,
} from '../support/windows.js';

const another = fileURLToPath(program('native'));
const { pageSize } = addon();

// ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

async function collectGarbage(): Promise<void> {
  setFlagsFromString('--expose-gc');
  const gc: () => void = runInNewContext('gc');
  // Finalizers run in a later turn, and the objects that they release are garbage only for the next collection.
  for (let i = 0; i < 5; i++) {
    gc();
    await turn();
  }
}

function runRole(role: string, path: string, before: string[] = [], env: NodeJS.ProcessEnv = {}): string {
  const [command, ...args] = [...before, process.execPath, another, `role:${role}`, path];
  const child = spawnSync(command!, args, { encoding: 'utf8', timeout: 20_000, env: { ...process.env, ...env } });
  assert.is(child.status, 0, `${role}: ${child.signal ?? ''} ${child.error ?? ''} ${child.stderr}`);
  return child.stdout;
}

/** A folder of its own in shared memory, removed at the end whatever happens. */
const folder = mkdtempSync('/dev/shm/isthmus-native-');
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
let files = 0;

function newFile(size = SIZE): string {
  const path = join(folder, `file-${files++}`);
  const fd = openSync(path, 'wx+', 0o600);
  ftruncateSync(fd, size);
  closeSync(fd);
  return path;
}

// ── Mapping ──────────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'two mappings of a file show the writes of each other',
  timebox(5, () => {
    const path = newFile();
    const memories = [newMemory(), newMemory()] as const;
    const mappings = memories.map((memory) => mapFile(memory, path));
    const [a, b] = [windowOf(memories[0]), windowOf(memories[1])];
    a[0] = 1;
    b[SIZE - 1] = 2;
    assert.equal([b[0], a[SIZE - 1]], [1, 2]);
    assert.equal([...readFileSync(path)].filter(Boolean), [1, 2]);
    for (const mapping of mappings) mapping.detach();
    assert.equal([...readFileSync(path)].filter(Boolean), [1, 2], 'the file keeps its bytes');
  }),
);

test(
  'a child process sees the writes of its parent, and the reverse',
  timebox(20, () => {
    const path = newFile();
    const memory = newMemory();
    const mapping = mapFile(memory, path);
    windowOf(memory).fill(41);
    runRole('increment', path);
    assert.ok(windowOf(memory).every((byte) => byte === 42));
    mapping.detach();
  }),
);

test(
  'only the window changes, and the file offset counts',
  timebox(5, () => {
    const path = newFile(4 * pageSize);
    const fd = openSync(path, 'r+');
    writeSync(fd, 'third', 2 * pageSize);
    const memory = newMemory();
    const all = new Uint8Array(memory.buffer).fill(9);
    const mapping = addon().map(memory.buffer, 3 * pageSize, pageSize, fd, 2 * pageSize);
    closeSync(fd);
    assert.is(Buffer.from(all.slice(3 * pageSize, 3 * pageSize + 6)).toString(), 'third\0');
    assert.ok(all.subarray(0, 3 * pageSize).every((byte) => byte === 9));
    assert.ok(all.subarray(4 * pageSize).every((byte) => byte === 9));
    mapping.detach();
    assert.ok(all.subarray(0, 3 * pageSize).every((byte) => byte === 9));
    assert.ok(all.subarray(4 * pageSize).every((byte) => byte === 9));
  }),
);

test(
  'a detached window has zeros, is usable, and the file is no longer mapped',
  timebox(5, () => {
    const path = newFile();
    const memory = newMemory();
    const bytes = windowOf(memory).fill(3);
    const descriptors = openDescriptors();
    const mapping = mapFile(memory, path);
    assert.ok(mapping.attached);
    assert.is(timesMapped(path), 1);
    assert.is(openDescriptors(), descriptors + 1);
    bytes.fill(4);
    for (let i = 0; i < 3; i++) {
      mapping.detach();
      assert.not(mapping.attached);
    }
    assert.is(timesMapped(path), 0);
    assert.is(openDescriptors(), descriptors);
    assert.ok(bytes.every((byte) => byte === 0));
    assertUsable(bytes);
    assert.ok(readFileSync(path).every((byte) => byte === 4));
  }),
);

test(
  'a window can be mapped again',
  timebox(5, () => {
    const paths = [newFile(), newFile()];
    const memory = newMemory();
    const bytes = windowOf(memory);
    for (let i = 0; i < 10; i++) {
      const mapping = mapFile(memory, paths[i % 2]!);
      bytes[0]!++;
      mapping.detach();
    }
    assert.equal(
      paths.map((path) => readFileSync(path)[0]),
      [5, 5],
    );
  }),
);

test(
  'a read-only descriptor gives read-only pages',
  timebox(5, () => {
    const path = newFile();
    writeFileSync(path, Buffer.alloc(SIZE, 6));
    const memory = newMemory();
    const mapping = mapFile(memory, path, 'r', { readOnly: true });
    assert.ok(windowOf(memory).every((byte) => byte === 6));
    mapping.detach();
    assertUsable(windowOf(memory));
  }),
);

test(
  'a device has no size to check',
  timebox(5, () => {
    const memory = newMemory();
    const mapping = mapFile(memory, '/dev/zero');
    assertUsable(windowOf(memory));
    mapping.detach();
    assert.ok(windowOf(memory).every((byte) => byte === 0));
  }),
);

// ── Refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'arguments are checked',
  timebox(5, () => {
    const path = newFile();
    const fd = openSync(path, 'r+');
    const memory = newMemory();
    const { buffer } = memory;
    new Uint8Array(buffer).fill(8);
    const length = SIZE;
    const map = addon().map as (...values: unknown[]) => Mapping;
    const cases: [typeof TypeError | typeof RangeError, RegExp, unknown[]][] = [
      [TypeError, /buffer must be an ArrayBuffer/, []],
      [TypeError, /buffer must be an ArrayBuffer/, [new Uint8Array(buffer), 0, length, fd, 0]],
      [TypeError, /buffer must be an ArrayBuffer/, [new SharedArrayBuffer(65536), 0, length, fd, 0]],
      [TypeError, /windowOffset must be a number/, [buffer]],
      [TypeError, /length must be a number/, [buffer, 0, `${length}`, fd, 0]],
      [TypeError, /fd must be a number/, [buffer, 0, length, null, 0]],
      [TypeError, /fileOffset must be a number/, [buffer, 0, length, fd, 0n]],
      [TypeError, /options must be an object/, [buffer, 0, length, fd, 0, true]],
      [TypeError, /readOnly must be a boolean/, [buffer, 0, length, fd, 0, { readOnly: 1 }]],
      [RangeError, /windowOffset must be an integer .* is -4096/, [buffer, -4096, length, fd, 0]],
      [RangeError, /windowOffset must be an integer .* is NaN/, [buffer, Number.NaN, length, fd, 0]],
      [RangeError, /length must be an integer .* is 0.5/, [buffer, 0, 0.5, fd, 0]],
      [RangeError, /length must be an integer .* is Infinity/, [buffer, 0, Number.POSITIVE_INFINITY, fd, 0]],
      [RangeError, /fileOffset must be an integer/, [buffer, 0, length, fd, 2 ** 53]],
      [RangeError, /fd must be a file descriptor, is 2147483648/, [buffer, 0, length, 2 ** 31, 0]],
      [RangeError, /fd must be an integer/, [buffer, 0, length, -1, 0]],
      [RangeError, /length must not be 0/, [buffer, 0, 0, fd, 0]],
      [RangeError, /length must be a multiple of the page size/, [buffer, 0, length - 1, fd, 0]],
      [RangeError, /fileOffset must be a multiple of the page size/, [buffer, 0, pageSize, fd, 512]],
      [RangeError, /must start at a page, starts 8 bytes after one/, [buffer, pageSize + 8, length, fd, 0]],
      [RangeError, /does not lie within the buffer/, [buffer, buffer.byteLength - SIZE + pageSize, length, fd, 0]],
      [RangeError, /does not lie within the buffer/, [buffer, buffer.byteLength, pageSize, fd, 0]],
      [RangeError, /does not lie within the buffer/, [buffer, 0, 2 ** 52, fd, 0]],
      [RangeError, /does not lie within the buffer/, [buffer, 2 ** 53 - pageSize, length, fd, 0]],
      [RangeError, /reach past the end of the file of 16384 bytes/, [buffer, 0, SIZE + pageSize, fd, 0]],
      [RangeError, /reach past the end of the file/, [buffer, 0, SIZE, fd, pageSize]],
      [RangeError, /reach past the end of the file/, [buffer, 0, pageSize, fd, 2 ** 53 - pageSize]],
    ];
    for (const [type, message, values] of cases) {
      const error = thrownBy<SystemError>(() => map(...values));
      assert.instance(error, type, `${message} ${error.message}`);
      assert.match(error.message, message);
      assert.is(error.code, type === TypeError ? 'ERR_INVALID_ARG_TYPE' : 'ERR_OUT_OF_RANGE');
    }
    assert.ok(new Uint8Array(buffer).every((byte) => byte === 8));
    assert.is(timesMapped(path), 0);
    closeSync(fd);
  }),
);

test(
  'a refused mapping leaves the window as it was',
  timebox(5, () => {
    const path = newFile();
    const memory = newMemory();
    const bytes = windowOf(memory).fill(8);
    const descriptors = openDescriptors();

    const readOnly = thrownBy<SystemError>(() => mapFile(memory, path, 'r'));
    assert.is(readOnly.code, 'EACCES');
    assert.is(readOnly.errno, 13);
    assert.is(readOnly.syscall, 'mmap');
    assert.is(readOnly.message, `mmap of ${SIZE} bytes at file offset 0: Permission denied (EACCES)`);

    const closed = thrownBy<SystemError>(() => addon().map(memory.buffer, BOTTOM, SIZE, 999_999, 0));
    assert.is(closed.code, 'EBADF');
    assert.is(closed.errno, 9);
    assert.is(closed.syscall, 'fcntl');
    assert.match(closed.message, '999999');

    const noPages = thrownBy<SystemError>(() => mapFile(memory, folder, 'r', { readOnly: true }));
    assert.is(noPages.code, 'ENODEV');
    assert.match(noPages.message, 'read-only');

    assert.ok(bytes.every((byte) => byte === 8));
    assertUsable(bytes);
    assert.is(openDescriptors(), descriptors);
    mapFile(memory, path).detach();
  }),
);

test(
  'a getter of the options that changes the buffer is detected',
  timebox(5, () => {
    const path = newFile();
    const memory = newMemory();
    const options = {
      get readOnly() {
        memory.grow(0); // gives the pages to a new buffer
        return false;
      },
    };
    const error = thrownBy<SystemError>(() => mapFile(memory, path, 'r+', options));
    assert.match(error.message, 'does not lie within the buffer of 0 bytes');
    assertUsable(windowOf(memory));
  }),
);

test(
  'a buffer that has lost its pages is left alone, and detach() reports it',
  timebox(5, () => {
    const path = newFile();
    const memory = newMemory();
    const descriptors = openDescriptors();
    const mapping = mapFile(memory, path);
    memory.grow(0);
    assert.is(thrownBy<SystemError>(() => mapping.detach()).code, 'ERR_INVALID_STATE');
    assert.not(mapping.attached);
    assert.is(openDescriptors(), descriptors);
    mapping.detach();
    assertUsable(windowOf(memory));
  }),
);

const compiler = folder && spawnSync('cc', ['--version']).status === 0;
(compiler ? test : test.skip)(
  `no hole remains when the kernel refuses to move pages${compiler ? '' : ' (skipped: there is no C compiler)'}`,
  timebox(30, () => {
    const source = join(folder, 'refuse.c');
    writeFileSync(
      source,
      `#define _GNU_SOURCE
      #include <errno.h>
      #include <stdarg.h>
      #include <stdlib.h>
      #include <string.h>
      #include <sys/mman.h>
      #include <sys/syscall.h>
      #include <unistd.h>
      void *mremap(void *from, size_t old_length, size_t length, int flags, ...) {
        va_list rest;
        va_start(rest, flags);
        void *to = flags & MREMAP_FIXED ? va_arg(rest, void *) : NULL;
        va_end(rest);
        const char *when = getenv("ISTHMUS_TEST_MREMAP");
        if (to && when) {
          if (!strcmp(when, "after unmapping")) munmap(to, length);
          errno = ENOMEM;
          return MAP_FAILED;
        }
        return (void *)syscall(SYS_mremap, from, old_length, length, flags, to);
      }`,
    );
    const library = join(folder, 'refuse.so');
    const { status, stderr } = spawnSync('cc', ['-shared', '-fPIC', '-o', library, source], { encoding: 'utf8' });
    assert.is(status, 0, stderr);
    runRole('refuse', newFile(), [], {
      LD_PRELOAD: [process.env['LD_PRELOAD'], library].filter(Boolean).join(' '),
    });
  }),
);

// ── Lifetime ─────────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'a terminated worker holds nothing of the file',
  timebox(20, async () => {
    const path = newFile();
    const fd = openSync(path, 'r+');
    const descriptors = openDescriptors();
    const worker = new Worker(another, { argv: ['role:spin', path] });
    assert.is((await once(worker, 'message'))[0], 'spinning');
    assert.is(timesMapped(path), 1);
    assert.ok(addon().locked(fd, 7));
    await worker.terminate();
    assert.is(timesMapped(path), 0);
    assert.not(addon().locked(fd, 7));
    assert.ok(openDescriptors() <= descriptors);
    closeSync(fd);
  }),
);

test(
  'a worker that has ended holds nothing of the file',
  timebox(20, async () => {
    const path = newFile();
    const worker = new Worker(another, { argv: ['role:end', path] });
    const [code] = await once(worker, 'exit');
    assert.is(code, 0);
    assert.is(timesMapped(path), 0);
  }),
);

for (const way of ['end', 'exit']) {
  test(
    `a process may ${way === 'end' ? 'end normally' : 'call process.exit'} with a mapping attached`,
    timebox(20, () => {
      runRole(way, newFile());
    }),
  );
}

test(
  'an unreferenced mapping is collected and its pages are unmapped; the memory stays',
  timebox(20, async () => {
    const path = newFile();
    const fd = openSync(path, 'r+');
    const memory = newMemory();
    const descriptors = openDescriptors();
    (() => {
      assert.ok(mapFile(memory, path).lock(1));
      windowOf(memory).fill(5);
    })();
    assert.ok(addon().locked(fd, 1));
    await collectGarbage();
    assert.is(timesMapped(path), 0);
    assert.is(openDescriptors(), descriptors);
    assert.not(addon().locked(fd, 1));
    assert.ok(windowOf(memory).every((byte) => byte === 0));
    assertUsable(windowOf(memory));
    closeSync(fd);
  }),
);

test(
  'an unreferenced mapping and its unreferenced memory are collected',
  timebox(20, async () => {
    const path = newFile();
    const descriptors = openDescriptors();
    for (let i = 0; i < 20; i++) mapFile(newMemory(), path);
    await collectGarbage();
    assert.is(timesMapped(path), 0);
    assert.is(openDescriptors(), descriptors);
  }),
);

test(
  'a mapping keeps the addresses of an unreferenced memory, so that detaching harms no other memory',
  timebox(20, async () => {
    const path = newFile();
    const mapping = mapFile(newMemory(), path);
    await collectGarbage();
    assert.is(timesMapped(path), 1);
    const others = Array.from({ length: 20 }, newMemory);
    for (const memory of others) new Uint8Array(memory.buffer).fill(7);
    mapping.detach();
    assert.is(timesMapped(path), 0);
    // After this the addresses are free; a second detach must not use them.
    await collectGarbage();
    for (let i = 0; i < 20; i++) {
      const memory = newMemory();
      new Uint8Array(memory.buffer).fill(7);
      others.push(memory);
    }
    mapping.detach();
    for (const memory of others) assert.ok(new Uint8Array(memory.buffer).every((byte) => byte === 7));
  }),
);

test(
  'descriptors do not leak, neither into this process nor into a child',
  timebox(20, () => {
    const path = newFile();
    const memory = newMemory();
    const descriptors = openDescriptors();
    for (let i = 0; i < 300; i++) {
      mapFile(memory, path).detach();
      thrownBy<SystemError>(() => mapFile(memory, path, 'r'));
      thrownBy<SystemError>(() => addon().map(memory.buffer, BOTTOM, SIZE, 999_999, 0));
    }
    assert.is(openDescriptors(), descriptors);
    assert.is(timesMapped(path), 0);
    const mapping = mapFile(memory, path);
    const { stdout } = spawnSync('ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' });
    assert.match(stdout, '/proc/');
    assert.not.match(stdout, path);
    mapping.detach();
  }),
);

// ── Locks ────────────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'the lease tells whether a file is open or mapped elsewhere, and a process that opens it meanwhile does no harm',
  timebox(10, async () => {
    const path = newFile();
    const fd = openSync(path, 'r+');
    const alone = () => {
      if (!addon().lease(fd)) return false;
      addon().dropLease(fd);
      return true;
    };
    assert.ok(alone());
    for (const flags of ['r', 'r+']) {
      const other = openSync(path, flags);
      assert.not(alone(), flags);
      closeSync(other);
    }
    const mapping = mapFile(newMemory(), path);
    assert.not(alone(), 'mapped');
    mapping.detach();
    assert.ok(alone());

    assert.ok(addon().lease(fd));
    // The kernel tells the holder by a signal: with SIGIO this process would end here.
    const error = thrownBy(() => openSync(path, constants.O_RDWR | constants.O_NONBLOCK)) as NodeJS.ErrnoException;
    assert.is(error.code, 'EAGAIN');
    await turn();
    addon().dropLease(fd);
    assert.ok(alone());
    closeSync(fd);
    assert.is((thrownBy(() => addon().lease(fd)) as SystemError).code, 'EBADF');
    const device = openSync('/dev/null', 'r+');
    assert.is((thrownBy(() => addon().lease(device)) as SystemError).code, 'EINVAL');
    closeSync(device);
  }),
);

test(
  'a byte is locked by one opening at a time',
  timebox(5, () => {
    const path = newFile();
    const mapping = mapFile(newMemory(), path);
    const fd = openSync(path, 'r+');
    const far = 2 ** 53 - 1;
    for (const byte of [0, 3, far]) {
      assert.not(mapping.locked(byte));
      assert.ok(mapping.lock(byte));
      assert.ok(mapping.lock(byte), 'a second lock changes nothing');
      assert.not(mapping.locked(byte), 'its own lock does not count');
      assert.ok(addon().locked(fd, byte));
      assert.not(addon().lock(fd, byte));
    }
    assert.ok(addon().lock(fd, 4), 'the next byte is free');
    assert.ok(mapping.locked(4));
    assert.not(mapping.lock(4));
    mapping.unlock(3);
    assert.not(addon().locked(fd, 3));
    assert.ok(addon().lock(fd, 3));
    assert.ok(mapping.locked(3));
    assert.ok(addon().locked(fd, far));
    closeSync(fd);
    assert.not(mapping.locked(3));
    mapping.detach();
  }),
);

test(
  'detaching drops the locks, unless the opening stays open',
  timebox(5, () => {
    const path = newFile();
    const fd = openSync(path, 'r+');
    const own = mapFile(newMemory(), path);
    own.lock(1);
    own.detach();
    assert.not(addon().locked(fd, 1));

    const opening = openSync(path, 'r+');
    const shared = addon().map(newMemory().buffer, BOTTOM, SIZE, opening, 0);
    assert.ok(addon().lock(opening, 2));
    assert.not(shared.locked(2), 'a duplicate of the same opening');
    shared.detach();
    assert.ok(addon().locked(fd, 2));
    closeSync(opening);
    assert.not(addon().locked(fd, 2));
    closeSync(fd);
  }),
);

test(
  'a killed process holds no lock',
  timebox(20, async () => {
    const path = newFile();
    const fd = openSync(path, 'r+');
    const child = spawn(process.execPath, [another, 'role:hold', path], { stdio: ['ignore', 'pipe', 'inherit'] });
    try {
      await once(child.stdout, 'data');
      assert.ok(addon().locked(fd, 3));
      assert.not(addon().lock(fd, 3));
    } finally {
      const exit = once(child, 'exit');
      child.kill('SIGKILL');
      await exit;
    }
    assert.not(addon().locked(fd, 3));
    assert.ok(addon().lock(fd, 3));
    closeSync(fd);
  }),
);

test(
  'locking an invalid byte or descriptor is an error',
  timebox(5, () => {
    const path = newFile();
    const mapping = mapFile(newMemory(), path);
    for (const byte of [-1, 0.5, 2 ** 53])
      assert.instance(
        thrownBy<SystemError>(() => mapping.lock(byte)),
        RangeError,
      );
    assert.instance(
      thrownBy<SystemError>(() => mapping.locked('0' as any)),
      TypeError,
    );
    mapping.detach();
    for (const method of ['lock', 'unlock', 'locked'] as const) {
      const error = thrownBy<SystemError>(() => mapping[method](0));
      assert.is(error.code, 'EBADF');
      assert.is(error.syscall, 'fcntl');
    }
    const fd = openSync(path, 'r');
    assert.is(
      thrownBy<SystemError>(() => addon().lock(fd, 0)).code,
      'EBADF',
      'a write lock needs a writable descriptor',
    );
    assert.not(addon().locked(fd, 0), 'a test of the lock does not');
    closeSync(fd);
    assert.is(thrownBy<SystemError>(() => addon().locked(999_999, 0)).code, 'EBADF');
  }),
);

// ── Blocks ───────────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'reserve allocates the blocks of a sparse file',
  timebox(5, () => {
    const path = newFile();
    const fd = openSync(path, 'r+');
    assert.is(fstatSync(fd).blocks, 0);
    addon().reserve(fd, SIZE);
    assert.ok(fstatSync(fd).blocks * 512 >= SIZE);
    assert.is(fstatSync(fd).size, SIZE);
    assert.instance(
      thrownBy<SystemError>(() => addon().reserve(fd, 0)),
      RangeError,
    );
    closeSync(fd);
    const error = thrownBy<SystemError>(() => addon().reserve(999_999, SIZE));
    assert.is(error.code, 'EBADF');
    assert.is(error.syscall, 'posix_fallocate');
  }),
);

/** How to run a program with mounts of its own, which end with it; undefined where that is not permitted. */
const privately = [
  ['unshare', '--mount'],
  ['unshare', '--mount', '--map-root-user'],
].find(
  ([command, ...args]) =>
    folder && spawnSync(command!, [...args, 'mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', folder]).status === 0,
);
(privately ? test : test.skip)(
  `reserve reports a full file system${privately ? '' : ' (skipped: no permission to mount one)'}`,
  timebox(20, () => {
    const mount = 'mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"';
    const output = runRole('reserve', join(folder, 'big'), [...privately!, 'sh', '-c', mount, folder]);
    assert.equal(JSON.parse(output), {
      code: 'ENOSPC',
      errno: 28,
      syscall: 'posix_fallocate',
      message: 'posix_fallocate of 1048576 bytes: No space left on device (ENOSPC)',
    });
  }),
);

test.run();

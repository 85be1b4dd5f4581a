/** Processes and worker threads that map a file, by role. */
import { openSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import * as assert from 'uvu/assert';
import { addon } from '../../host/native/native.js';
import { thrownBy } from '../support/outcomes.js';
import { play } from '../support/process.js';
import {
  assertUsable,
  mapFile,
  newMemory,
  openDescriptors,
  SIZE,
  type SystemError,
  timesMapped,
  windowOf,
} from '../support/windows.js';

const path = process.argv[3] as string;
const { pageSize } = addon();

const roles: Record<string, () => void> = {
  increment() {
    const memory = newMemory();
    const bytes = windowOf(memory);
    const mapping = mapFile(memory, path);
    for (let i = 0; i < SIZE; i++) bytes[i]!++;
    mapping.detach();
  },

  hold() {
    addon().lock(openSync(path, 'r+'), 3);
    console.log('locked');
    setInterval(() => {}, 1000);
  },

  /** Ends with a mapping attached. */
  end() {
    (globalThis as any).kept = mapFile(newMemory(), path);
  },

  exit() {
    roles['end']?.();
    process.exit();
  },

  /** A worker that never returns to its event loop. */
  spin() {
    const memory = newMemory();
    const mapping = mapFile(memory, path);
    assert.ok(mapping.lock(7));
    parentPort!.postMessage('spinning');
    const bytes = windowOf(memory);
    for (;;) bytes[0]!++;
  },

  reserve() {
    const fd = openSync(path, 'w+');
    addon().reserve(fd, pageSize);
    const { code, errno, syscall, message } = thrownBy<SystemError>(() => addon().reserve(fd, 1 << 20));
    console.log(JSON.stringify({ code, errno, syscall, message }));
  },

  /** Runs with a `mremap` that fails at the given point. */
  refuse() {
    const memory = newMemory();
    const bytes = windowOf(memory).fill(1);
    const descriptors = openDescriptors();

    process.env['ISTHMUS_TEST_MREMAP'] = 'before unmapping';
    let error = thrownBy<SystemError>(() => mapFile(memory, path));
    assert.is(error.code, 'ENOMEM');
    assert.is(error.syscall, 'mremap');
    assert.ok(bytes.every((byte) => byte === 1));

    process.env['ISTHMUS_TEST_MREMAP'] = 'after unmapping';
    error = thrownBy<SystemError>(() => mapFile(memory, path));
    assert.is(error.code, 'ENOMEM');
    assert.ok(bytes.every((byte) => byte === 0));
    assertUsable(bytes);
    assert.is(timesMapped(path), 0);
    assert.is(openDescriptors(), descriptors);

    delete process.env['ISTHMUS_TEST_MREMAP'];
    const mapping = mapFile(memory, path);
    bytes.fill(2);
    process.env['ISTHMUS_TEST_MREMAP'] = 'before unmapping';
    error = thrownBy<SystemError>(() => mapping.detach());
    assert.is(error.code, 'ENOMEM');
    assert.ok(mapping.attached);
    assert.is(bytes[0], 2);

    delete process.env['ISTHMUS_TEST_MREMAP'];
    mapping.detach();
    assert.not(mapping.attached);
    assert.is(timesMapped(path), 0);
    assertUsable(bytes);
  },
};

await play(roles);

/** Doorbells: eventfds passed between processes, and the event loop that waits for them. */
import { spawnSync } from 'node:child_process';
import { closeSync, constants, readdirSync, readFileSync, readSync } from 'node:fs';
import { connect } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Identity } from '../../host/device/identity.js';
import { addon } from '../../host/native/native.js';
import { Doorbells } from '../../host/region/doorbell.js';
import { program } from '../support/process.js';
import { timebox } from '../support/timebox.js';

const native = addon();
let files = 0;
/** A file that no other process has open. */
const newFile = () => ({ dev: BigInt(process.pid), ino: BigInt(++files) }) as Identity;
const [one, other, third] = [1, 2, 3].map((slot) => ({ slot, generation: slot * 7 })) as [
  Attachment,
  Attachment,
  Attachment,
];
type Attachment = { slot: number; generation: number };

async function until(what: string, holds: () => boolean): Promise<void> {
  for (let i = 0; !holds(); i++) {
    if (i === 2000) throw new Error(`not ${what}`);
    await pause(5);
  }
}

const descriptors = () => readdirSync('/proc/self/fd').length;

test(
  'a timer and an eventfd are each reported once, at the right time',
  timebox(20, async () => {
    const [timer, bell] = [native.createTimer(), native.createDoorbell()];
    const seen: string[] = [];
    const watches = [
      native.watchCounter(timer, () => seen.push('timer')),
      native.watchCounter(bell, () => seen.push('bell')),
    ];
    await pause(20);
    assert.equal(seen, []);
    native.ring(bell);
    native.ring(bell);
    await until('rung', () => seen.length > 0);
    await pause(20);
    assert.equal(seen, ['bell']);
    native.setTimer(timer, 200);
    await until('run off', () => seen.length > 1);
    native.setTimer(timer, 5_000_000);
    native.setTimer(timer, 0);
    await pause(20);
    assert.equal(seen, ['bell', 'timer']);
    for (const watch of watches) watch.close();
    for (const watch of watches) watch.close();
    native.ring(bell);
    await pause(20);
    assert.is(seen.length, 2);
    for (const fd of [timer, bell]) closeSync(fd);
  }),
);

test(
  'a doorbell that another process made blocking and read first does not block the event loop',
  timebox(20, async () => {
    const [first, bell] = [native.createDoorbell(), native.createDoorbell()];
    let stolen = 0;
    let rung = 0;
    const watches = [
      // The loop has been told of both when it calls the first.
      native.watchCounter(first, () => {
        stolen += readSync(bell, Buffer.alloc(8));
      }),
      native.watchCounter(bell, () => rung++),
    ];
    // A program that is started with the eventfd makes it blocking, for all holders.
    spawnSync('true', { stdio: [bell, 'ignore', 'ignore'] });
    const flags = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${bell}`, 'utf8'));
    assert.is(Number.parseInt(flags?.[1] ?? '', 8) & constants.O_NONBLOCK, 0);
    native.ring(first);
    native.ring(bell);
    await until('stolen', () => stolen === 8);
    await pause(20);
    assert.is(rung, 0);
    native.ring(bell);
    await until('rung', () => rung === 1);
    for (const watch of watches) watch.close();
    for (const fd of [first, bell]) closeSync(fd);
  }),
);

test(
  'a peer that has to ring without a doorbell asks for it again',
  timebox(20, async () => {
    const file = newFile();
    const ringer = new Doorbells(file, other);
    // No process listens yet: the call fails, as it does without free descriptors.
    const { bell, release } = ringer.link(one);
    const sleeper = new Doorbells(file, one);
    let rung = 0;
    sleeper.rung = () => rung++;
    await pause(20);
    bell.ring();
    await until('rung', () => rung === 1);
    release();
    for (const bells of [ringer, sleeper]) bells.close();
  }),
);

test(
  'invalid arguments are refused',
  timebox(5, () => {
    const code = (body: () => unknown) => {
      try {
        body();
      } catch (error) {
        return (error as NodeJS.ErrnoException).code;
      }
      return undefined;
    };
    assert.is(
      code(() => native.watch(-1, () => {})),
      'ERR_OUT_OF_RANGE',
    );
    assert.is(
      code(() => native.watch(0, 'x' as unknown as () => void)),
      'ERR_INVALID_ARG_TYPE',
    );
    assert.is(
      code(() => native.watch(0x7fffffff, () => {})),
      'EBADF',
    );
    assert.is(
      code(() => native.ring(0x7fffffff)),
      'EBADF',
    );
    assert.is(
      code(() => native.connectAbstract(`unused-${process.pid}`, 0, 0)),
      'ECONNREFUSED',
    );
    assert.is(
      code(() => native.listenAbstract('')),
      'ERR_OUT_OF_RANGE',
    );
    assert.is(
      code(() => native.listenAbstract('x'.repeat(200))),
      'ERR_OUT_OF_RANGE',
    );
    const name = `isthmus-test-${process.pid}`;
    const listening = native.listenAbstract(name);
    assert.is(
      code(() => native.listenAbstract(name)),
      'EADDRINUSE',
    );
    assert.is(native.acceptFrom(listening), -1);
    closeSync(listening);
  }),
);

test(
  'two attachments: each rings the other, until one is gone',
  timebox(20, async () => {
    const before = descriptors();
    const file = newFile();
    const [a, b] = [new Doorbells(file, one), new Doorbells(file, other)];
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
    // One doorbell for all links, while there is a link.
    toB[0].release();
    toB[0].release();
    toB[1].bell.ring();
    await until('heard again', () => ringsAtB === 2);
    toB[1].release();
    b.close();
    // A peer without a listener cannot ring.
    const late = a.link(other);
    late.bell.ring();
    late.release();
    const silent = a.link(third);
    assert.not(a.heard);
    silent.bell.ring();
    silent.release();
    assert.ok(a.heard);
    a.close();
    await until('all descriptors back', () => descriptors() === before);
  }),
);

test(
  'a ring requested before the doorbell arrived is made later',
  timebox(20, async () => {
    const file = newFile();
    const [a, b] = [new Doorbells(file, one), new Doorbells(file, other)];
    let rings = 0;
    a.rung = () => rings++;
    b.link(one).bell.ring();
    await until('rung', () => rings > 0);
    a.close();
    b.close();
  }),
);

test(
  'callers that send nothing, send something else or hang up do no harm',
  timebox(20, async () => {
    const file = newFile();
    const name = `isthmus/${file.dev}:${file.ino}/${one.slot}/${one.generation}`;
    const before = descriptors();
    const a = new Doorbells(file, one);
    const calls = Array.from({ length: 50 }, (_, i) => native.connectAbstract(name, i, i));
    for (const fd of calls.slice(25)) closeSync(fd);
    const silent = Array.from({ length: 70 }, () => connect({ path: `\0${name}` }).on('error', () => {}));
    silent[0]?.write('12345');
    await pause(50);
    // The listener still accepts calls.
    const b = new Doorbells(file, other);
    b.link(one);
    let rings = 0;
    a.rung = () => rings++;
    const bell = b.link(one).bell;
    for (let i = 0; rings === 0 && i < 1000; i++) {
      bell.ring();
      await pause(5);
    }
    assert.ok(rings > 0);
    a.close();
    b.close();
    for (const fd of calls.slice(0, 25)) closeSync(fd);
    for (const socket of silent) socket.destroy();
    await until('all descriptors back', () => descriptors() === before);
  }),
);

test(
  'a worker that ends, or is terminated, while it watches a descriptor',
  timebox(60, async () => {
    for (const how of ['end', 'terminate', 'throw']) {
      const worker = new Worker(program('doorbell'), { workerData: how });
      const failed: unknown[] = [];
      worker.on('error', (error) => failed.push(error));
      const ended = new Promise((resolve) => worker.on('exit', resolve));
      if (how === 'terminate') {
        await new Promise((resolve) => worker.once('message', resolve));
        await worker.terminate();
      }
      await ended;
      assert.is(failed.length, how === 'throw' ? 1 : 0);
    }
  }),
);

test.run();

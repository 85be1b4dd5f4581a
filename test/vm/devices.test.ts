/**
 * Two virtual machines, and devices that are plugged in and out under applications that send all the time: none, one,
 * the same in both, different ones, a copy; with the driver and without it. One conversation continues through all of
 * it, and at the end every message is counted.
 *
 * Environment: ISTHMUS_TEST_SEED, ISTHMUS_VM_LONGEST (the longest message in bytes), ISTHMUS_VM_FILE (bytes of the file
 * that crosses), ISTHMUS_VM_CONFORMANCE (a regular expression: which tests of the conformance suite run).
 */
import { copyFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { printed } from '../support/cli.js';
import type { Guest } from './guest.js';
import { complaints, driven, memoryTypes } from './inside.js';
import { type Application, type Flow, Lab, messages, scenario, seed, suite } from './lab.js';
import { Host, Segment } from './segment.js';

let lab: Lab;
/** The device that both machines can have. */
let shared: Host;
let a: Guest;
let b: Guest;
let one: Application;
let other: Application;
let talk: Flow;

const MIB = 0x100000;

/** Sends a request to the processes of a guest over MQTT, as an operator does, and waits for their answers. */
async function ask(what: 'suspend' | 'resume', guest: Guest): Promise<void> {
  const { code, stdout, stderr } = await printed([
    ...[what, '--host', guest.name, '--broker', lab.broker.url, '--wait', '120'],
  ]);
  assert.is(code, 0, stdout + stderr);
}

/** Run while the processes of a guest are suspended; they choose their plugins again afterwards. */
async function whileSuspended(guest: Guest, body: () => Promise<void>): Promise<void> {
  await ask('suspend', guest);
  await body();
  await ask('resume', guest);
}

scenario('a device in one machine only: the applications use tcp, and report the reason', 400, async () => {
  [lab, shared] = await Promise.all([Lab.start(), Host.start('shared')]);
  // This machine has the device from its start; the other machine gets it later.
  [a, b] = await Promise.all([lab.guest('vm-a', { devices: [shared] }), lab.guest('vm-b')]);
  [one, other] = await Promise.all([lab.application(a), lab.application(b)]);
  talk = await one.connect(other);
  await talk.over('tcp');
  const { why } = await talk.near.view();
  console.log(`  why not ivshmem: ${why}`);
  assert.match(why ?? '', /ivshmem/);
  await talk.start(messages);
  await talk.flows();
});

scenario('hot-plugged during the conversation: after suspend and resume it uses ivshmem', 300, async () => {
  await b.plug(shared, 'ivshmem0');
  await driven(b, 1);
  // Without a suspension nothing changes.
  await talk.flows();
  await talk.over('tcp');
  await whileSuspended(b, async () => {});
  await talk.over('ivshmem');
  await talk.flows();
  // The driver moved one BAR above 4 GiB, the other was placed there at once.
  for (const guest of [a, b]) assert.equal(await memoryTypes(guest), ['write-back']);
  assert.is((await one.call<{ path: string }[]>('regions'))[0]?.path, '/dev/uio0');
});

scenario('unplugged while suspended: tcp; plugged in again: ivshmem', 400, async () => {
  assert.ok((await other.held()).length > 0);
  await whileSuspended(b, async () => {
    assert.equal(await other.held(), []);
    await b.unplug('ivshmem0');
  });
  await talk.over('tcp');
  await talk.flows();
  await b.plug(shared, 'ivshmem0');
  await driven(b, 1);
  await whileSuspended(b, async () => {});
  await talk.over('ivshmem');
  await talk.flows();
});

scenario('different devices, and a copy of a region (equal UUIDs, another memory): tcp', 500, async () => {
  const different = await Host.start('different');
  const copy = new Segment('copy', 32 * MIB);
  try {
    for (const memory of [different, copy]) {
      await whileSuspended(b, async () => {
        await b.unplug('ivshmem0');
        // The region as it is now, with a peer in it.
        if (memory === copy) copyFileSync(shared.path, copy.path);
        await b.plug(memory, 'ivshmem0');
        await driven(b, 1);
      });
      await talk.over('tcp');
      console.log(`  why not ivshmem: ${(await talk.near.view()).why}`);
      await talk.flows();
    }
  } finally {
    await whileSuspended(b, () => b.unplug('ivshmem0'));
    copy.remove();
    await different.end();
  }
});

scenario('without the driver: through resource2, with the same results', 300, async () => {
  await b.plug(shared, 'ivshmem0');
  await driven(b, 1);
  await whileSuspended(b, async () => {
    await b.shell('rmmod uio_ivshmem');
  });
  await talk.over('ivshmem');
  assert.is((await other.call<{ kind: string }[]>('regions'))[0]?.kind, 'pci');
  assert.match(await b.shell('isthmus info', 120), /resource2/);
  await talk.flows();
  await whileSuspended(b, async () => {
    await b.shell('insmod /modules/uio_ivshmem.ko');
    await driven(b, 1);
  });
  await talk.over('ivshmem');
  assert.is((await other.call<{ kind: string }[]>('regions'))[0]?.kind, 'uio');
});

scenario('no message of the conversation was lost, doubled or out of order', 120, async () => {
  const { sent, received, wrong } = await talk.stop();
  console.log(`  ${received} of ${sent} messages`);
  assert.ok(sent > 100);
  assert.is(wrong, 0);
  assert.is(received, sent);
  await Promise.all([one.close(), other.close()]);
  for (const guest of [a, b]) assert.equal(await complaints(guest), []);
});

scenario('a file crosses through the device, with its checksum', 200, async () => {
  const bytes = Number(process.env['ISTHMUS_VM_FILE'] ?? 3_000_000);
  await a.shell(`head -c ${bytes} /dev/urandom >/tmp/file`);
  await b.shell('isthmus pipe --host 0.0.0.0 --listen 7200 </dev/null >/tmp/file 2>/tmp/pipe.log &');
  const { output } = await a.run(`isthmus pipe ${lab.address(b)}:7200 </tmp/file 2>&1`, 120);
  console.log(output.trim());
  await b.until('pidof node || echo none', (text) => text.includes('none'));
  assert.is(await b.shell('sha256sum /tmp/file'), await a.shell('sha256sum /tmp/file'));
});

scenario('the conformance suite, between the two machines', 600, async () => {
  const output = await suite({ lab, near: a, far: b, plugin: 'ivshmem', seed });
  console.log(output.replace(/^/gm, '  '));
  const [, passed, total] = /Total: +(\d+)\n +Passed: +(\d+)/.exec(output) ?? [];
  assert.ok(Number(total) > 0);
  assert.is(passed, total);
  for (const guest of [a, b]) assert.equal(await complaints(guest), []);
});

test.after(async () => {
  await lab?.end();
  await shared?.end();
});
test.run();

/**
 * A live migration: A and B on one host stream to each other over its device. `isthmus migrate` moves B to another
 * host, under its running application; there it meets C over that host's device; then it moves back. Both "hosts" are
 * on this machine: each has a region of its own, which is all that makes a host.
 */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { printed } from '../support/cli.js';
import type { Guest } from './guest.js';
import { complaints } from './inside.js';
import { type Application, type Flow, Lab, messages, scenario } from './lab.js';
import { Host } from './segment.js';

let lab: Lab;
let hosts: readonly [Host, Host];
let a: Guest;
let b: Guest;
let c: Guest;
let applications: { a: Application; b: Application; c: Application };
let ab: Flow;
let bc: Flow;

/** Moves B, as an operator does. */
async function migrate(to: Host): Promise<void> {
  const { there, uri } = await lab.destination(b);
  const broker = ['--broker', lab.broker.url];
  const selected = ['--host', 'vm-b', '--pid', String(applications.b.pid)];
  assert.is((await printed(['status', ...selected, ...broker, '--wait', '120'])).code, 0, 'B is not at the broker');
  const { code, stdout, stderr } = await printed([
    ...['migrate', '--qmp', b.control, '--to-qmp', there.control, '--uri', uri, '--host', 'vm-b'],
    ...[...broker, '--attach', `${to.path}:${to.size >> 20}`, '--wait', '120'],
  ]);
  console.log(stdout.replace(/^/gm, '  '));
  assert.is(code, 0, stderr);
  await b.end();
  b = there;
  applications.b.guest = b;
}

scenario('A and B on one host, C on another: A and B stream over ivshmem', 500, async () => {
  lab = await Lab.start();
  hosts = await Promise.all([Host.start('one'), Host.start('two')]);
  [a, b, c] = await Promise.all([
    lab.guest('vm-a', { devices: [hosts[0]] }),
    lab.guest('vm-b', { devices: [hosts[0]] }),
    lab.guest('vm-c', { devices: [hosts[1]] }),
  ]);
  const [one, two, three] = await Promise.all([a, b, c].map((guest) => lab.application(guest)));
  applications = { a: one as Application, b: two as Application, c: three as Application };
  ab = await applications.a.connect(applications.b);
  await ab.over('ivshmem');
  await ab.start(messages);
  await ab.flows();
});

scenario(
  'a process in B takes no part, and is attached: B keeps its device, and its processes resume',
  400,
  async () => {
    const silent = await lab.application(b, { suspendResume: false, name: 'silent' });
    const { there, uri } = await lab.destination(b);
    const { code, stdout, stderr } = await printed([
      ...['migrate', '--qmp', b.control, '--to-qmp', there.control, '--uri', uri, '--host', 'vm-b'],
      ...['--broker', lab.broker.url, '--wait', '120'],
    ]);
    assert.is(code, 1, stdout);
    assert.match(stderr, new RegExp(`'vm-b' still has \\S+ mapped: slot \\d+ \\(silent, pid ${silent.pid} on vm-b\\)`));
    await there.end();
    await silent.close();
    await ab.over('ivshmem');
    await ab.flows();
  },
);

scenario('B moves to the other host: A and B continue over tcp, B and C meet over ivshmem', 400, async () => {
  await migrate(hosts[1]);
  await ab.over('tcp');
  await ab.flows();
  bc = await applications.b.connect(applications.c);
  await bc.over('ivshmem');
  await bc.start(messages);
  await bc.flows();
});

scenario('B moves back: A and B over ivshmem, B and C over tcp', 400, async () => {
  await migrate(hosts[0]);
  await ab.over('ivshmem');
  await bc.over('tcp');
  await Promise.all([ab.flows(), bc.flows()]);
});

scenario('every message is counted: none lost, doubled or out of order', 200, async () => {
  for (const [pair, flow] of Object.entries({ 'A and B': ab, 'B and C': bc })) {
    const { sent, received, wrong } = await flow.stop();
    console.log(`  ${pair}: ${received} of ${sent} messages`);
    assert.ok(sent > 100);
    assert.is(wrong, 0);
    assert.is(received, sent);
  }
  for (const guest of [a, b, c]) assert.equal(await complaints(guest), []);
});

test.after(async () => {
  await lab?.end();
  for (const host of hosts ?? []) await host.end();
});
test.run();

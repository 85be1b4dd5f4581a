/** A machine that is paused, and one that is killed: across machines silence is not death. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { printed } from '../support/cli.js';
import type { Guest } from './guest.js';
import { type Application, type Flow, Lab, messages, scenario } from './lab.js';
import { Host } from './segment.js';

let lab: Lab;
let host: Host;
let a: Guest;
let b: Guest;
let one: Application;
let other: Application;
let talk: Flow;
let free = 0;

const region = async () => JSON.parse((await printed(['region', 'show', host.path, '--json'])).stdout);

scenario('a machine is paused in the middle of traffic: stalled, then continued, with nothing lost', 500, async () => {
  [lab, host] = await Promise.all([Lab.start(), Host.start('one')]);
  free = (await region()).frames.free;
  [a, b] = await Promise.all([lab.guest('vm-a', { devices: [host] }), lab.guest('vm-b', { devices: [host] })]);
  [one, other] = await Promise.all([lab.application(a), lab.application(b)]);
  talk = await one.connect(other);
  await talk.over('ivshmem');
  await talk.start(messages);
  await talk.flows();
  await b.qmp('stop');
  await one.until('happened', (happened: string[]) => happened.includes('0 stalled'), 120);
  // Nothing of it is reclaimed, and nothing ends.
  assert.is((await talk.near.view()).state, 'open');
  await b.qmp('cont');
  await one.until('happened', (happened: string[]) => happened.includes('0 recovered'), 120);
  await talk.over('ivshmem');
  await talk.flows();
  const { sent, received, wrong } = await talk.stop();
  console.log(`  ${received} of ${sent} messages`);
  assert.is(wrong, 0);
  assert.is(received, sent);
});

scenario(
  'a machine is killed: its peer gets an error when an operator confirms it, and its frames are free again',
  300,
  async () => {
    const stalls = (happened: string[]) => happened.filter((what) => what === '0 stalled').length;
    const before = stalls(await one.call('happened'));
    await b.end();
    await one.until('happened', (happened: string[]) => stalls(happened) > before, 120);
    assert.is((await talk.near.view()).state, 'open');
    const { slots } = await region();
    const dead = slots.find((slot: { host: string }) => slot.host === 'vm-b');
    assert.ok(dead, JSON.stringify(slots));
    const confirmed = await printed(['region', 'confirm-dead', host.path, String(dead.slot)]);
    assert.is(confirmed.code, 0, confirmed.stderr);
    await talk.near.until('ended', ({ error }) => error === 'ERR_ISTHMUS_PEER_DIED', 120);
    await one.close();
    const end = performance.now() + 60_000;
    while ((await region()).frames.free !== free && performance.now() < end)
      await new Promise((r) => setTimeout(r, 500));
    assert.is((await region()).frames.free, free);
  },
);

test.after(async () => {
  await lab?.end();
  await host?.end();
});
test.run();

/** A peer whose host is gone: nothing tells of it but silence. Two network namespaces, and a cable that is cut. */
import { once } from 'node:events';
import net from 'node:net';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { type Connection, Runtime, type RuntimeOptions } from '../../host/index.js';
import { Guard } from '../../host/plugins/guard.js';
import { Cable, OWN_NETWORK, withoutNetworks } from '../support/networks.js';
import { eventually } from '../support/outcomes.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve } from '../support/process.js';
import { newRegion, only, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);

/** The side that stays: connections by name. */
async function near() {
  const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
  const connections = new Map<string, Connection>();
  const ends = new Map<string, string>();
  const got = (name: string) => connections.get(name) as Connection;
  let guarded: string[] = [];
  let guard: Guard | undefined;
  serve({
    async connect(name: string, host: string, port: number, keepAlive?: number) {
      const connection = await runtime.connect({ host, port });
      connections.set(name, connection);
      if (keepAlive !== undefined) {
        connection
          .stream()
          .on('error', () => {})
          .setKeepAlive(true, keepAlive);
      }
      connection.closed.then(({ reason, error }) => {
        ends.set(name, `${reason} ${error?.code} ${(error?.cause as NodeJS.ErrnoException | undefined)?.code}`);
      });
      return connection.plugin;
    },
    /** Send until there is no room. */
    fill(name: string) {
      let sent = 0;
      while (got(name).trySend(Buffer.alloc(16_384))) sent++;
      return sent;
    },
    send: (name: string, text: string) => got(name).trySend(text),
    ended: (name: string) => ends.get(name),
    stalled: (name: string) => got(name).stalled > 0,
    state: (name: string) => got(name).state,
    /** A guard by itself. */
    async guard(host: string, port: number) {
      const socket = net.connect(port, host);
      await once(socket, 'connect');
      guarded = [];
      guard = new Guard(socket, Buffer.alloc(0), (bye) => guarded.push(`ended ${bye}`));
      socket.on('error', (error: NodeJS.ErrnoException) => guarded.push(String(error.code)));
      socket.on('close', () => guarded.push('close'));
    },
    say: () => guard?.requestDrain(),
    guarded: () => guarded,
  });
}

/** The side that goes: it counts messages when it is told to. */
async function far() {
  const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
  const accepted: Connection[] = [];
  const texts: string[] = [];
  const listening = await runtime.listen({ host: '0.0.0.0' }, (connection) => {
    accepted.push(connection);
  });
  const plain = net.createServer((socket) => socket.on('error', () => {}).resume()).listen(0, '0.0.0.0');
  await once(plain, 'listening');
  serve({
    ports: () => [listening.port, (plain.address() as net.AddressInfo).port],
    read() {
      for (const connection of accepted) {
        (async () => {
          for await (const message of connection) texts.push(message.data.length > 100 ? '' : message.text());
        })().catch(() => {});
      }
    },
    texts: () => texts,
  });
}

/** Two hosts with a cable, and a second process on the first one, which stays. */
async function hosts(nearOptions: RuntimeOptions, regions = '') {
  const at = (name: string, options: RuntimeOptions, under: readonly string[]) =>
    Child.start(import.meta.url, name, only(regions, options), { under });
  const here = at('near', nearOptions, OWN_NETWORK);
  const there = at('far', {}, OWN_NETWORK);
  const [[port, plain]] = await Promise.all([there.call<number[]>('ports'), here.call('state', '').catch(() => {})]);
  const cable = new Cable(here, there);
  const stays = at('far', {}, ['nsenter', `--target=${here.pid}`, '--net']);
  const [portHere] = await stays.call<number[]>('ports');
  return { here, there, stays, cable, port: port as number, plain: plain as number, portHere: portHere as number };
}

const LOST = /^error ERR_ISTHMUS_PEER_DIED (ETIMEDOUT|EHOSTUNREACH)$/;
/** Seconds of silence before the first probe: the shortest. The kernel asks for ten seconds more. */
const SHORT = { keepAlive: 1 };

function main(): void {
  const why = withoutNetworks();
  const check = (name: string, body: () => Promise<void>) => {
    if (why === undefined) test(name, timebox(90, body));
    else register.skip(`${name} (skipped: ${why})`, () => {});
  };
  if (why !== undefined) console.log(`! a host that is gone is not tested: ${why}`);

  check('over tcp the connection ends, while nothing is sent and while something is', async () => {
    const { here, there, stays, cable, port, portHere } = await hosts(SHORT);
    const [, host] = cable.addresses;
    for (const name of ['idle', 'full', 'sender']) assert.is(await here.call('connect', name, host, port), 'tcp');
    // A live peer that does not read: its window is closed, and its kernel answers.
    await here.call('connect', 'patient', cable.addresses[0], portHere);
    for (const name of ['full', 'patient']) {
      // The ring empties into the buffers of two kernels, until these are full.
      let turns = 0;
      await eventually('there is no room', async () => {
        turns = (await here.call<number>('fill', name)) === 0 ? turns + 1 : 0;
        return turns > 100;
      });
    }
    cable.cut();
    await here.call('send', 'sender', 'unheard');
    for (const name of ['full', 'idle', 'sender']) {
      await eventually(`${name} ends`, async () => LOST.test(String(await here.call('ended', name))), 60);
    }
    assert.is(await here.call('state', 'patient'), 'open');
    assert.is(await here.call('ended', 'patient'), undefined);
    await stays.call('read');
    assert.is(await here.call('send', 'patient', 'still there'), true);
    await eventually('the rest arrives', async () => (await stays.call<string[]>('texts')).includes('still there'));
    await there.kill();
  });

  check('stream.setKeepAlive takes the place of the setting', async () => {
    const { here, cable, port } = await hosts({ keepAlive: 0 });
    const [, host] = cable.addresses;
    await here.call('connect', 'asks', host, port, 1000);
    await here.call('connect', 'never', host, port);
    cable.cut();
    await eventually('it ends', async () => LOST.test(String(await here.call('ended', 'asks'))), 60);
    assert.is(await here.call('state', 'never'), 'open');
  });

  check('a guard ends nothing: through the region the connection goes on', async () => {
    const region = newRegion();
    const { here, there, cable, port, plain } = await hosts(SHORT, region);
    const [, host] = cable.addresses;
    assert.is(await here.call('connect', 'shared', host, port), 'ivshmem');
    await here.call('guard', host, plain);
    cable.cut();
    cable.retries(3);
    await here.call('say');
    await eventually('the kernel gives up', async () => (await here.call<string[]>('guarded')).includes('close'), 60);
    const [what, ...more] = await here.call<string[]>('guarded');
    assert.match(String(what), /^(ETIMEDOUT|EHOSTUNREACH)$/);
    assert.equal(more, ['close']);
    assert.is(await here.call('state', 'shared'), 'open');
    await there.call('read');
    assert.is(await here.call('send', 'shared', 'through the region'), true);
    await eventually('it arrives', async () => (await there.call<string[]>('texts')).includes('through the region'));
    // The peer stands still, as in a paused virtual machine.
    there.process.kill('SIGSTOP');
    await eventually('silence is reported', () => here.call('stalled', 'shared'));
    there.process.kill('SIGCONT');
    await eventually('and its end', async () => !(await here.call('stalled', 'shared')));
    assert.is(await here.call('state', 'shared'), 'open');
  });

  register.after.each(endChildren);
  register.after(removeRegions);
  register.run();
}

if (role) await play({ near, far });
else main();

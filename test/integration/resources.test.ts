/**
 * Exhausted resources: descriptors, address space, frames, entries. And clocks that jump, or differ. Each case ends in
 * an error with its reason, or in tcp; nothing hangs or leaks, and when there is room again, work continues. Full file
 * systems and slots: regions.test.ts and shm.test.ts.
 *
 * The limits are those of separate processes: this file again, with a role.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, openSync, readdirSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { IsthmusError } from '../../host/base/errors.js';
import { addonMissing } from '../../host/native/native.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve, tell } from '../support/process.js';
import { MIB, newRegion, newShm, only, onlyShm, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const LIMIT = 20_000 * Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);

type Outcome = {
  readonly plugin?: string;
  readonly why?: string | undefined;
  readonly code?: string;
  readonly message?: string;
};

/** The operation ends in time, with success or an error with a code. */
async function outcome(body: () => Promise<Outcome>): Promise<Outcome> {
  const late = pause(LIMIT, undefined, { ref: false }).then(() => {
    throw new Error('it hangs');
  });
  try {
    return await Promise.race([body(), late]);
  } catch (error) {
    if (!(error instanceof IsthmusError)) throw error;
    return { code: error.code, message: error.message };
  }
}

async function echoTo(connection: Connection): Promise<void> {
  try {
    for await (const { data } of connection) await connection.send(data);
  } catch {
    // The caller is gone.
  }
}

/** Attach, connect, exchange a message, and leave. */
function visit(options: RuntimeOptions, port: number): Promise<Outcome> {
  return outcome(async () => {
    await using runtime = await Runtime.create(options);
    const connection = await runtime.connect({ host: '127.0.0.1', port });
    await connection.send('hello');
    assert.is((await connection.receive())?.text(), 'hello');
    const { plugin, why } = connection;
    await connection.close();
    return { plugin, why };
  });
}

const descriptors = () => readdirSync('/proc/self/fd').length;

const roles: Record<string, () => Promise<void>> = {
  /** A process that can use up its descriptors, and free some. */
  async descriptors() {
    const { options, port } = roleOptions<{ options: RuntimeOptions; port: number }>();
    const spare: number[] = [];
    // Modules loaded at the first use need some as well.
    await visit(options, port);
    let runtime: Runtime | undefined;
    serve({
      /** Leave this many free. */
      leave(free: number) {
        try {
          for (;;) spare.push(openSync('/dev/null', 'r'));
        } catch {
          for (const fd of spare.splice(spare.length - free)) closeSync(fd);
        }
      },
      giveBack() {
        for (const fd of spare.splice(0)) closeSync(fd);
      },
      visit: () => visit(options, port),
      async listen() {
        runtime = await Runtime.create(options);
        return (await runtime.listen({}, echoTo)).port;
      },
      open: () => descriptors() - spare.length,
      /** Share of a processor that the process uses while idle for this many milliseconds. */
      async idle(ms: number) {
        const { user, system } = process.cpuUsage();
        await pause(ms);
        const now = process.cpuUsage();
        return (now.user - user + now.system - system) / (ms * 1000);
      },
    });
    tell('ready');
  },
  async visitor() {
    const { options, port } = roleOptions<{ options: RuntimeOptions; port: number }>();
    console.log(`OUTCOME ${JSON.stringify(await visit(options, port))}`);
  },
  /** The wall clock jumps by a day, forth and back, during an exchange of messages. */
  async jumper() {
    const { options, port } = roleOptions<{ options: RuntimeOptions; port: number }>();
    const stalls: string[] = [];
    const runtime = await Runtime.create({ ...options, stallTimeout: 1500, peerTimeout: 4000 });
    const connection = await runtime.connect({ host: '127.0.0.1', port });
    connection.on('stalled', () => stalls.push('stalled'));
    const { now } = Date;
    for (const jump of [0, 86_400_000, -86_400_000, 0]) {
      Date.now = () => now() + jump;
      await connection.send(`at ${jump}`);
      assert.is((await connection.receive())?.text(), `at ${jump}`);
      await pause(700);
    }
    const { reason } = await Promise.race([connection.closed, pause(0, { reason: 'open' })]);
    await runtime.close();
    tell('outcome', { plugin: connection.plugin, why: `${reason} ${stalls}` });
  },
};

const runtimes: Runtime[] = [];
async function listening(options: RuntimeOptions): Promise<{ runtime: Runtime; port: number }> {
  const runtime = await Runtime.create(options);
  runtimes.push(runtime);
  const { port } = await runtime.listen({}, echoTo);
  return { runtime, port };
}
async function tidy(): Promise<void> {
  await Promise.all(runtimes.splice(0).map((runtime) => runtime.close({ timeout: 500 })));
  await endChildren();
}

/** A shell that sets a limit and executes the program that follows. */
const limited = (limit: string) => ['sh', '-c', `ulimit ${limit} && exec "$@"`, 'sh'];
const works = (under: readonly string[]) => spawnSync(under[0]!, [...under.slice(1), 'true']).status === 0;

function main(): void {
  const ways: [string, () => RuntimeOptions][] = [['tcp', () => only('')]];
  if (!addonMissing()) {
    ways.push(['ivshmem', () => only(newRegion())], ['shm', () => onlyShm(newShm().shmName)]);
  }

  for (const [plugin, way] of ways) {
    test(
      `${plugin}: out of descriptors`,
      timebox(120, async () => {
        const options = { ...way(), retry: 0 };
        const { port } = await listening(options);
        const child = Child.start(import.meta.url, 'descriptors', { options, port }, { under: limited('-n 96') });
        await child.event('ready');
        const before = await child.call<number>('open');
        const outcomes = new Map<string, number>();
        for (let free = 0; free <= 16; free++) {
          await child.call('leave', free);
          const { plugin: over, code, message } = await child.call<Outcome>('visit');
          outcomes.set(over ?? code ?? '', (outcomes.get(over ?? code ?? '') ?? 0) + 1);
          if (code) assert.match(`${code} ${message}`, /EMFILE|ERR_ISTHMUS_(CONNECT|HANDSHAKE_REFUSED|PEER_DIED)/);
          await child.call('giveBack');
          const after = await child.call<number>('open');
          assert.ok(after <= before + 1, `${after} descriptors are open after it, ${before} before`);
        }
        console.log(Object.fromEntries(outcomes));
        assert.is((await child.call<Outcome>('visit')).plugin, plugin);
        assert.ok(
          [...outcomes.keys()].some((key) => key.startsWith('ERR_')),
          'descriptors never ran out',
        );

        // Now the listening side has no descriptors.
        const there = await child.call<number>('listen');
        await child.call('leave', 0);
        await pause(300);
        const share = await child.call<number>('idle', 1500);
        assert.ok(share < 0.3, `${share} of a processor while idle`);
        const { code } = await visit({ ...options, handshakeTimeout: 1500 }, there);
        assert.match(code ?? 'success', /^ERR_ISTHMUS_(CONNECT|HANDSHAKE_REFUSED|HANDSHAKE_TIMEOUT|PEER_DIED)$/);
        await child.call('giveBack');
        assert.is((await visit(options, there)).plugin, plugin);
        await tidy();
      }),
    );

    test(
      `${plugin}: the wall clock jumps`,
      timebox(60, async () => {
        const options = way();
        const { port } = await listening(options);
        const child = Child.start(import.meta.url, 'jumper', { options, port });
        assert.equal(await child.event('outcome'), { plugin, why: 'open ' });
        await tidy();
      }),
    );

    const elsewhen = ['unshare', '--time', '--monotonic', '1000000', '--boottime', '1000000', '--fork', '--kill-child'];
    (works(elsewhen) ? test : test.skip)(
      `${plugin}: a peer with a monotonic clock days ahead${works(elsewhen) ? '' : ' (skipped: no time namespace)'}`,
      timebox(60, async () => {
        const options = way();
        const { port } = await listening({ ...options, stallTimeout: 1500, peerTimeout: 4000 });
        const child = Child.start(import.meta.url, 'jumper', { options, port }, { under: elsewhen });
        assert.equal(await child.event('outcome'), { plugin, why: 'open ' });
        await tidy();
      }),
    );
  }

  (addonMissing() ? test.skip : test)(
    'no address space: an error that names the limit, or a smaller private memory',
    timebox(120, async () => {
      const region = newRegion(64 * MIB);
      const { port } = await listening(only(region));
      const seen: string[] = [];
      // In KiB: first as much as Node itself needs, then less and less for memories.
      for (const gib of [48, 24, 20, 16, 12, 8]) {
        const under = limited(`-v ${gib << 20}`);
        const child = Child.start(import.meta.url, 'visitor', { options: only(region), port }, { under });
        await child.ended();
        const said = /^OUTCOME (.*)$/m.exec(child.output)?.[1];
        // Node itself may not start with so little.
        if (!said) {
          assert.match(child.output, /out of memory|allocat|Fatal/i);
          seen.push(`${gib} GiB: no Node`);
          continue;
        }
        const found = JSON.parse(said) as Outcome;
        const { plugin, why, code, message } = found;
        seen.push(`${gib} GiB: ${plugin ?? code} ${why ?? message ?? ''}`);
        if (code) assert.match(message ?? '', /ulimit -v/);
        else assert.ok(plugin === 'ivshmem' || /ulimit -v/.test(why ?? ''), `${plugin}: ${why}`);
      }
      console.log(seen.join('\n'));
      await tidy();
    }),
  );

  (addonMissing() ? test.skip : test)(
    'out of frames: over tcp, with the reason; and through the region as soon as there is room',
    timebox(60, async () => {
      const options = only(newRegion(MIB), { ringSize: 65_536 });
      const { runtime, port } = await listening(options);
      const other = await Runtime.create(options);
      runtimes.push(other);
      const connections: Connection[] = [];
      for (let i = 0; i < 40 && connections.at(-1)?.plugin !== 'tcp'; i++) {
        connections.push(await other.connect({ host: '127.0.0.1', port }));
      }
      const last = connections.at(-1)!;
      assert.is(last.plugin, 'tcp');
      // Either side may have no room: the other one is only told to use the next plugin.
      assert.match(last.why ?? '', /frames|refused by the peer/);
      assert.ok(connections.length > 1, 'the first connection found no room');
      await last.send('hello');
      assert.is((await last.receive())?.text(), 'hello');
      // Memory to be shared is then allocated outside the region.
      using memory = other.allocate(900_000);
      assert.not(memory.inRegion);
      await Promise.all(connections.map((connection) => connection.close()));
      for (let i = 0; runtime.connections().length > 0 && i < 500; i++) await pause(10);
      const again = await other.connect({ host: '127.0.0.1', port });
      assert.is(again.plugin, 'ivshmem');
      await tidy();
    }),
  );

  test.after(async () => {
    await tidy();
    removeRegions();
  });
  test.run();
}

if (role) await play(roles);
else main();

/**
 * Peers that fall silent without being dead: stopped by a signal, as in a paused virtual machine. The other processes
 * are this file again, with the role `peer`.
 *
 * No test asserts how long something takes. Waits have generous limits; where nothing is to happen, a count of the same
 * rounds tells when to check.
 */

import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import type { SharedMemory } from '../../host/api/shared-memory.js';
import { IsthmusError } from '../../host/base/errors.js';
import type { RuntimeConnection } from '../../host/connection/connection.js';
import type { DiagnosticEvents } from '../../host/runtime/diagnostics.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { printed } from '../support/cli.js';
import { checkNumbered, numbered } from '../support/numbered.js';
import { eventually } from '../support/outcomes.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve, tell } from '../support/process.js';
import { newRegion, newShm, only, onlyShm, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);
/** Seconds until an event has happened; on an idle machine all happen within a few. */
const LIMIT = 30 * slowness;
/** In milliseconds: silence longer than this is a stop, not only a wait for a processor. */
const SILENCE = 2500 * Math.min(slowness, 3);
/** Messages: far more than two rings hold. */
const MANY = 200_000;
/** Bytes of the longest of them. */
const LONGEST = 3000;

const code = (error: unknown) => (error instanceof IsthmusError ? error.code : String(error));

/** Behaviour of the other process for each connection, chosen by the first message. */
async function behave(connection: Connection): Promise<void> {
  const what = (await connection.receive())?.text();
  if (what === 'echo') for await (const { data } of connection) await connection.send(data);
  else if (what?.startsWith('send ')) {
    const count = Number(what.slice(5));
    try {
      for (let number = 0; number < count; number++) await connection.send(numbered(number, LONGEST));
      tell('sent');
    } catch {
      // The reason is reported below.
    }
  }
  const { reason, error } = await connection.closed;
  tell('closed', error?.code ?? reason);
}

const roles: Record<string, () => Promise<void>> = {
  async peer() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    const { port } = await runtime.listen({}, (connection) => behave(connection).catch(() => {}));
    let connection: Connection;
    const heard: string[] = [];
    serve({
      async connect(to: number) {
        connection = await open(runtime, to, 'echo');
        connection.on('stalled', (ms) => heard.push(`stalled ${ms}`)).on('recovered', (ms) => heard.push(`back ${ms}`));
      },
      ping: (text: string) => ping(connection, text),
      heard: () => heard,
      block(ms: number) {
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
      },
    });
    tell('ready', port);
  },
};

// ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const runtimes: Runtime[] = [];
async function newRuntime(options: RuntimeOptions): Promise<Runtime> {
  const runtime = await Runtime.create(options);
  runtimes.push(runtime);
  return runtime;
}
async function tidy(): Promise<void> {
  await Promise.all(runtimes.splice(0).map((runtime) => runtime.close({ timeout: 500 })));
  await endChildren();
}

async function start(options: RuntimeOptions): Promise<{ child: Child; port: number }> {
  const child = Child.start(import.meta.url, 'peer', options);
  return { child, port: await child.event<number>('ready') };
}

async function open(runtime: Runtime, port: number, what: string): Promise<Connection> {
  const connection = await runtime.connect({ host: '127.0.0.1', port });
  await connection.send(what);
  return connection;
}

async function ping(connection: Connection, text: string): Promise<void> {
  await connection.send(text);
  assert.is((await connection.receive())?.text(), text);
}

/** The events of a connection, in order. */
function events(connection: Connection): string[] {
  const seen: string[] = [];
  connection.on('stalled', () => seen.push('stalled')).on('recovered', () => seen.push('recovered'));
  return seen;
}

const region = (runtime: Runtime) => runtime.inspect().regions[0]!;

// ── Tests ────────────────────────────────────────────────────────────────────────────────────────────────────────────

const ways: Record<string, () => RuntimeOptions> = {
  ivshmem: () => only(newRegion()),
  shm: () => onlyShm(newShm().shmName),
};

function main(): void {
  const home = mkdtempSync(join(tmpdir(), 'isthmus-test-'));
  process.env['XDG_RUNTIME_DIR'] = home;

  for (const [plugin, way] of Object.entries(ways)) {
    test(
      `${plugin}: a stopped peer stalls its connection, which continues from the same point when the peer does`,
      timebox(90, async () => {
        const options = way();
        const lines: string[] = [];
        const log = (level: string, line: string) => lines.push(`${level}: ${line}`);
        const runtime = await newRuntime({ ...options, stallTimeout: SILENCE, debug: 2, log, control: true });
        const published: string[] = [];
        const listener = (name: string) => (event: unknown) => {
          const { connection: one, silence } = event as DiagnosticEvents['isthmus:connection:stalled'];
          published.push(`${name} ${one === connection} ${silence > 0}`);
        };
        const channels = ['stalled', 'recovered'].map((name) => [name, listener(name)] as const);
        for (const [name, listen] of channels) subscribe(`isthmus:connection:${name}`, listen);

        const [other, { child, port }] = await Promise.all([start(options), start(options)]);
        const good = await open(runtime, other.port, 'echo');
        const connection = await open(runtime, port, 'echo');
        assert.is(connection.plugin, plugin);
        const seen = events(connection);
        const seenAtOther = events(good);
        let sent = 0;
        let received = 0;
        let done = false;
        const sending = (async () => {
          while (!done) await connection.send(numbered(sent++, LONGEST));
        })();
        const receiving = (async () => {
          while (!done || received < sent) {
            const message = await connection.receive();
            if (!message)
              throw new Error(`ended by '${(await connection.closed).reason}' in front of message ${received}`);
            checkNumbered(received++, message.data, LONGEST);
          }
        })();
        await eventually('traffic', () => received > 100);

        child.process.kill('SIGSTOP');
        const before = region(runtime);
        // Long enough for a second event, if there were one.
        await eventually('silence', () => connection.stalled >= SILENCE + 1000);
        assert.equal(seen, ['stalled']);
        assert.is(connection.state, 'open');
        assert.equal(region(runtime), before, 'frames and slots have the same owners');
        assert.ok(connection.stats().pendingSends > 0, 'sent messages wait');
        assert.ok(runtime.inspect().connections.find(({ number }) => number === 2)!.stalled > SILENCE);
        const { stdout } = await printed(['inspect', runtime.id]);
        assert.match(stdout, /^ +2 is stalled: no sign of life of its peer for [\d.]+ s$/m);
        assert.not.match(stdout, /1 is stalled/);
        await ping(good, 'meanwhile');

        child.process.kill('SIGCONT');
        await eventually('recovery', () => seen.length > 1);
        assert.is(connection.stalled, 0);
        const then = received;
        await eventually('traffic again', () => received > then + 100);
        done = true;
        await Promise.all([sending, receiving]);
        assert.is(received, sent);
        assert.equal(seen, ['stalled', 'recovered']);
        assert.equal(published, ['stalled true true', 'recovered true true']);
        assert.equal(seenAtOther, []);
        assert.is(lines.length, 2, lines.join('\n'));
        const peer = `warning: isthmus\\[${child.pid}\\] over ${plugin} is`;
        assert.match(lines[0]!, new RegExp(`^${peer} stalled: no sign of life for \\d+ ms$`));
        assert.match(lines[1]!, new RegExp(`^${peer} back after \\d+ ms$`));

        // A connection that is being closed is not stalled, and does not recover.
        child.process.kill('SIGSTOP');
        await eventually('silence again', () => connection.stalled > 0);
        const closing = connection.close({ timeout: 100 }).catch(code);
        assert.is(connection.stalled, 0);
        assert.is(await closing, 'ERR_ISTHMUS_CLOSE_TIMEOUT');
        child.process.kill('SIGCONT');
        await child.event('closed');
        assert.equal(seen, ['stalled', 'recovered', 'stalled']);
        for (const [name, listen] of channels) unsubscribe(`isthmus:connection:${name}`, listen);
        await tidy();
      }),
    );
  }

  test(
    'a pause of this process is not taken for silence of a peer, even if the peer had the same pause',
    timebox(90, async () => {
      const options = only(newRegion(), { stallTimeout: 3000 });
      const [{ child, port }, stopped, blocked] = await Promise.all([start(options), start(options), start(options)]);
      for (const one of [stopped, blocked]) await one.child.call('connect', port);
      child.process.kill('SIGSTOP');
      // The others have seen it silent, but not for long.
      await pause(1100);
      stopped.child.process.kill('SIGSTOP');
      await blocked.child.call('block', 4000);
      stopped.child.process.kill('SIGCONT');
      // The others check before it continues: their own pause counts as one round.
      for (const one of [stopped, blocked]) assert.equal(await one.child.call('heard'), []);
      await pause(100);
      child.process.kill('SIGCONT');
      for (const one of [stopped, blocked]) {
        await one.child.call('ping', 'hello');
        assert.equal(await one.child.call('heard'), []);
      }
      // Only a pause of the peer alone counts.
      child.process.kill('SIGSTOP');
      let heard: string[] = [];
      const begin = performance.now();
      while (heard.length === 0 && performance.now() - begin < LIMIT * 1000) {
        await pause(50);
        heard = await stopped.child.call('heard');
      }
      assert.equal(heard, ['stalled 3000']);
      await tidy();
    }),
  );

  test(
    'peerTimeout: committed messages, then the error; what the peer holds stays its own until it continues, or ends',
    timebox(90, async () => {
      const options = only(newRegion());
      const runtime = await newRuntime({ ...options, stallTimeout: SILENCE, peerTimeout: 2 * SILENCE, unread: 0 });
      const [other, ...silent] = await Promise.all([start(options), start(options), start(options)]);
      const good = await open(runtime, other.port, 'echo');
      await ping(good, 'before');
      const free = () => region(runtime).freeFrames;
      const initial = free();
      const bad = await Promise.all(silent.map(({ port }) => open(runtime, port, 'send 20')));
      const seen = bad.map(events);
      for (const { child } of silent) await child.event('sent');
      const { freeFrames: during, slotsUsed } = region(runtime);
      assert.ok(during < initial);

      for (const { child } of silent) child.process.kill('SIGSTOP');
      for (const connection of bad) {
        const closed = await connection.closed;
        assert.is(closed.reason, 'error');
        assert.is(closed.error?.code, 'ERR_ISTHMUS_PEER_TIMEOUT');
        assert.is(connection.stalled, 0);
        for (let number = 0; number < 20; number++) checkNumbered(number, (await connection.receive())!.data, LONGEST);
        assert.is(await connection.receive().catch(code), 'ERR_ISTHMUS_PEER_TIMEOUT');
        assert.is(await connection.send('x').catch(code), 'ERR_ISTHMUS_PEER_TIMEOUT');
      }
      assert.equal(seen, [['stalled'], ['stalled']]);
      await ping(good, 'meanwhile');
      // A process that attaches, leaves and sweeps; and some rounds of this runtime's own upkeep.
      const next = await newRuntime(options);
      const another = await open(next, other.port, 'echo');
      await ping(another, 'another');
      await another.close();
      await next.close();
      await eventually('halves that others held are free', () => free() === during);
      await pause(1200);
      assert.equal([free(), region(runtime).slotsUsed], [during, slotsUsed], 'quarantined');

      const [first, second] = silent.map(({ child }) => child);
      first!.process.kill('SIGCONT');
      assert.is(await first!.event('closed'), 'ERR_ISTHMUS_PEER_DIED');
      await eventually('halves that one peer has released', () => free() > during);
      assert.ok(free() < initial, 'but not what the other holds');
      await second!.kill();
      await eventually('all frames', () => free() === initial);
      await ping(good, 'after');
      assert.equal(runtime.connections(), [good]);
      await tidy();
    }),
  );

  test(
    'a process that was fenced while paused finds that out; its pending writes go to its own frames',
    timebox(90, async () => {
      const path = newRegion();
      const options = only(path, { unread: 0 });
      const runtime = await newRuntime({ ...options, stallTimeout: SILENCE });
      const other = await start(options);
      const good = await open(runtime, other.port, 'echo');
      await ping(good, 'before');
      const free = () => region(runtime).freeFrames;
      const initial = free();
      const { child, port } = await start(options);
      // It writes all the time, so it is stopped in the middle of a write.
      const bad = await open(runtime, port, `send ${MANY}`);
      for (let number = 0; number < 1000; number++) checkNumbered(number, (await bad.receive())!.data, LONGEST);
      child.process.kill('SIGSTOP');
      await eventually('silence', () => bad.stalled >= SILENCE);
      const during = free();
      assert.ok(during < initial);

      const { stdout } = await printed(['region', 'show', path, '--json']);
      const { slots } = JSON.parse(stdout) as { slots: { slot: number; pid: number }[] };
      const slot = slots.find(({ pid }) => pid === child.pid)!.slot;
      const fenced = await printed(['region', 'fence', path, String(slot)]);
      assert.is(fenced.code, 0, fenced.stderr);
      assert.match(fenced.stdout, /shut out; its \d+ frames are kept for it, 1 connection will report it/);
      assert.match((await printed(['region', 'show', path])).stdout, /fenced/);
      const verdict = await printed(['region', 'check', path]);
      assert.is(verdict.code, 0, verdict.stdout);
      assert.match(verdict.stdout, new RegExp(`^note: slot ${slot}: generation \\d+ is fenced`, 'm'));
      await eventually('the error', () => bad.state === 'closed');
      assert.is((await bad.closed).error?.code, 'ERR_ISTHMUS_PEER_DIED');
      // Others take all the frames that they can get, and sweep: its frames are not among them.
      const next = await newRuntime(options);
      const another = await open(next, other.port, 'echo');
      const everything: SharedMemory[] = [];
      for (let memory = next.allocate(65_536); memory.inRegion; memory = next.allocate(65_536)) {
        memory.write(0, Buffer.alloc(65_536, 0x77));
        everything.push(memory);
      }
      await pause(1200);
      child.process.kill('SIGCONT');
      assert.is(await child.event('closed'), 'ERR_ISTHMUS_REGION_FENCED');
      for (const memory of everything) {
        const copy = new Uint8Array(65_536);
        memory.read(0, copy);
        assert.ok(
          copy.every((byte) => byte === 0x77),
          'it wrote into foreign frames',
        );
        memory.release();
      }
      await ping(another, 'meanwhile');
      await another.close();
      await next.close();
      await eventually('all frames', () => free() === initial);
      // It can connect over another plugin, and the region is not used.
      assert.is((await runtime.connect({ host: '127.0.0.1', port })).plugin, 'tcp');
      await ping(good, 'after');
      const again = await printed(['region', 'fence', path, String(slot)]);
      assert.match(again.stderr, /no peer has slot/, again.stdout);
      await tidy();
    }),
  );

  test(
    'a process that was fenced and then killed: its frames are free again',
    timebox(90, async () => {
      const path = newRegion();
      const options = only(path);
      const runtime = await newRuntime(options);
      const initial = region(runtime).freeFrames;
      const { child, port } = await start(options);
      const bad = await open(runtime, port, 'echo');
      await ping(bad, 'before');
      child.process.kill('SIGSTOP');
      await printed(['region', 'fence', path, '1']);
      await eventually('the error', () => bad.state === 'closed');
      assert.ok(region(runtime).freeFrames < initial);
      await child.kill();
      await eventually('all frames', () => region(runtime).freeFrames === initial);
      await tidy();
    }),
  );

  test(
    'a peer that writes while its ring is drained for the last time does not keep the drain from ending',
    timebox(90, async () => {
      const options = only(newRegion(), { unread: 0 });
      const [runtime, other] = [await newRuntime(options), await newRuntime(options)];
      let far: Connection | undefined;
      const { port } = await other.listen({}, (connection) => {
        far = connection;
      });
      const near = (await runtime.connect({ host: '127.0.0.1', port })) as RuntimeConnection;
      await eventually('the other end exists', () => far !== undefined);
      const bytes = Buffer.alloc(100);
      let written = 0;
      const fill = () => {
        while (written < MANY && far?.trySend(bytes)) written++;
      };
      fill();
      assert.ok(written < MANY / 10);
      // Called for each message on its way out of the ring: reads none, and writes as fast as they are read.
      const request = runtime.endpoint().postReceive({
        match: () => {
          fill();
          return false;
        },
      });
      const error = new IsthmusError('ERR_ISTHMUS_PEER_TIMEOUT', 'simulated silence');
      near.lifetime.onEnded({ kind: 'lost', error });
      assert.ok(written < MANY, 'everything written was read');
      assert.is((await near.closed).error?.code, 'ERR_ISTHMUS_PEER_TIMEOUT');
      request.cancel();
      for (let i = 0; i < written; i++) assert.is((await near.receive())?.data.length, bytes.length);
      assert.is(await near.receive().catch(code), 'ERR_ISTHMUS_PEER_TIMEOUT');
      await tidy();
    }),
  );

  test(
    'over tcp and loop no connection stalls',
    timebox(90, async () => {
      const limits = { stallTimeout: SILENCE, peerTimeout: 2 * SILENCE };
      const options = only(newRegion());
      const runtime = await newRuntime({ ...options, ...limits });
      const { port: own } = await runtime.listen({}, async (connection) => {
        for await (const { data } of connection) await connection.send(data);
      });
      const [near, far] = await Promise.all([start(options), start(only(''))]);
      const shared = await open(runtime, near.port, 'echo');
      const tcp = await open(runtime, far.port, 'echo');
      const loop = await runtime.connect({ host: '127.0.0.1', port: own });
      assert.equal([shared.plugin, tcp.plugin, loop.plugin], ['ivshmem', 'tcp', 'loop']);
      const seen = [tcp, loop].map(events);
      const seenAtShared = events(shared);
      far.child.process.kill('SIGSTOP');
      near.child.process.kill('SIGSTOP');
      await tcp.send('are you there?');
      const answer = tcp.receive();
      // As long as it takes where a connection can stall.
      assert.is((await shared.closed).error?.code, 'ERR_ISTHMUS_PEER_TIMEOUT');
      assert.equal(seenAtShared, ['stalled']);
      assert.equal([tcp.stalled, loop.stalled], [0, 0]);
      far.child.process.kill('SIGCONT');
      assert.is((await answer)?.text(), 'are you there?');
      await ping(loop, 'hello');
      assert.equal(seen, [[], []]);
      await tidy();
    }),
  );

  test.after(async () => {
    await tidy();
    removeRegions();
    rmSync(home, { recursive: true, force: true });
  });
  test.run();
}

if (role) await play(roles);
else main();

/**
 * A region whose file is truncated under the processes that use it: they go on, each connection over it ends with
 * ERR_ISTHMUS_REGION_LOST, and no message is delivered that was never sent. Other regions of the processes do not notice.
 * The handler itself: unit/faults.test.ts.
 */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { closeSync, constants, existsSync, openSync, readdirSync, statSync, truncateSync, writeSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import type { Loan } from '../../host/api/loan.js';
import type { SharedMemory } from '../../host/api/shared-memory.js';
import { IsthmusError } from '../../host/base/errors.js';
import type { BorrowedMessage } from '../../host/base/message.js';
import type { RuntimeConnection } from '../../host/connection/connection.js';
import { posixBacking } from '../../host/device/posix.js';
import type { RegionMemory } from '../../host/memory/shared-memory.js';
import { addonMissing } from '../../host/native/native.js';
import { MappedRegion } from '../../host/region/mapped.js';
import { Region } from '../../host/region/region.js';
import { RegionServer } from '../../host/region/server.js';
import { joinShm, leaveShm } from '../../host/region/shm-lifecycle.js';
import { attachRegions } from '../../host/runtime/discovery.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { eventually, rejection, thrownBy } from '../support/outcomes.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve, tell } from '../support/process.js';
import { MIB, newPath, newRegion, newShm, only, onlyShm, removeRegions } from '../support/regions.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

/** Every byte of every message. */
const FILL = 0x5a;
const LOST = 'ERR_ISTHMUS_REGION_LOST';
const codeOf = (error: unknown) => (error instanceof IsthmusError ? error.code : String(error));

/** How the receiving side takes the messages. */
type Way = 'receive' | 'tryReceiveInto' | 'poll' | 'borrow' | 'nothing';

// ── A process ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A runtime with one connection. */
class Party {
  runtime!: Runtime;
  connection: Connection | undefined;
  messages = 0;
  /** Messages that were delivered, but never sent so. */
  wrong = 0;
  #held: readonly unknown[] = [];

  async open(options: RuntimeOptions): Promise<number> {
    this.runtime = await Runtime.create(options);
    this.messages = 0;
    const { port } = await this.runtime.listen({}, async (connection) => {
      this.connection = connection;
      await connection.closed;
    });
    return port;
  }

  async connect(port: number): Promise<string> {
    this.connection = await this.runtime.connect(`127.0.0.1:${port}`);
    return this.connection.plugin;
  }

  get #now(): Connection {
    return this.connection as Connection;
  }

  /** Until the connection ends. */
  send(size: number, loans: boolean): void {
    const connection = this.#now;
    const bytes = new Uint8Array(size).fill(FILL);
    const run = async () => {
      for (;;) {
        if (!loans) await connection.send(bytes);
        else {
          const loan = await connection.loan(size);
          loan.data.set(bytes);
          await connection.send(loan);
        }
      }
    };
    run().catch(() => {});
  }

  #check(bytes: Uint8Array): void {
    this.messages++;
    if (!Buffer.from(bytes).equals(Buffer.alloc(bytes.length, FILL))) this.wrong++;
  }

  /** Until the connection ends. */
  take(way: Way, size: number): void {
    const connection = this.#now;
    const target = new Uint8Array(size);
    const run = async () => {
      for (;;) {
        if (way === 'receive') {
          const message = await connection.receive();
          if (!message) return;
          this.#check(message.data);
        } else if (way === 'borrow') {
          const message = await connection.borrow();
          if (!message) return;
          const copy = message.data.slice();
          message.release();
          // Bytes in place may change at any time. The application asks behind its copy whether they were there.
          if (this.runtime.regions().length > 0) this.#check(copy);
        } else if (way === 'tryReceiveInto') {
          const length = connection.tryReceiveInto(target);
          if (length >= 0) this.#check(target.subarray(0, length));
          else await this.runtime.turn();
        } else {
          // What the handler saw counts when poll() has returned.
          const seen: Uint8Array[] = [];
          connection.poll((memory, offset, length) => seen.push(memory.slice(offset, offset + length)), 1);
          for (const bytes of seen) this.#check(bytes);
          await this.runtime.turn();
        }
      }
    };
    if (way !== 'nothing') run().catch(() => {});
  }

  /** Have a loan, a borrowed message and memory of the region in the hands of the application. */
  async hold(): Promise<void> {
    const loan = await this.#now.loan(100_000);
    loan.data.fill(1);
    const borrowing = this.#now.borrow();
    // A message that is there before it is asked for would have been copied out of the region.
    tell('borrowing');
    const message = await borrowing;
    const memory = this.runtime.allocate(50_000, { connection: this.#now });
    assert.ok(memory.inRegion && loan.inRegion && message?.inPlace);
    this.#held = [loan, message, memory];
  }

  /** @returns what became of each use of them */
  async use(): Promise<string[]> {
    const [loan, message, memory] = this.#held as [Loan, BorrowedMessage, SharedMemory];
    const outcomes: string[] = [];
    const attempt = async (what: () => unknown) => {
      try {
        outcomes.push(String(await what()));
      } catch (error) {
        outcomes.push(codeOf(error));
      }
    };
    await attempt(() => memory.read(0, new Uint8Array(10)));
    await attempt(() => memory.write(0, new Uint8Array(10)));
    await attempt(() => loan.data.fill(2).length);
    await attempt(() => this.#now.send(loan));
    await attempt(() => message.data.slice().length);
    await attempt(() => message.release());
    loan.release();
    memory.release();
    return outcomes;
  }

  async closed(): Promise<string | undefined> {
    return (await this.#now.closed).error?.code;
  }

  async echo(): Promise<string | undefined> {
    await this.#now.send('over there');
    return (await this.#now.receive())?.text();
  }

  async answer(): Promise<void> {
    const message = await this.#now.receive();
    await this.#now.send(message!.data);
  }
}

async function party(): Promise<void> {
  // The second one goes through another region.
  const parties = [new Party(), new Party()] as const;
  const detached: unknown[] = [];
  subscribe('isthmus:region:detach', (message) => {
    const { region, error } = message as { region: { path: string }; error: IsthmusError | undefined };
    detached.push([region.path, error?.code]);
  });
  let turns = 0;
  setInterval(() => turns++, 5).unref();
  serve({
    open: (which: 0 | 1, options: RuntimeOptions) => parties[which].open(options),
    connect: (which: 0 | 1, port: number) => parties[which].connect(port),
    connected: (which: 0 | 1) => parties[which].connection?.state === 'open',
    send: (size: number, loans: boolean) => parties[0].send(size, loans),
    take: (way: Way, size: number) => parties[0].take(way, size),
    one: (size: number) => parties[0].connection!.send(new Uint8Array(size).fill(FILL)),
    hold: () => parties[0].hold(),
    use: () => parties[0].use(),
    closed: () => parties[0].closed(),
    echo: (which: 0 | 1) => parties[which].echo(),
    answer: (which: 0 | 1) => parties[which].answer(),
    messages: () => parties[0].messages,
    wrong: () => parties[0].wrong,
    regions: () => parties[0].runtime.regions().length,
    detached: () => detached.splice(0),
    turns: () => turns,
    close: (which: 0 | 1) => parties[which].runtime.close({ timeout: 500 }),
  });
  tell('ready');
}

/** The handler is switched off. */
async function off(): Promise<void> {
  const { path } = roleOptions<{ path: string }>();
  const runtime = await Runtime.create(only(path, { sigbusHandler: false }));
  assert.is(runtime.regions().length, 1);
  serve({});
  tell('attached');
}

// ── The tests ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Two processes, connected over the region that will be lost, and over another one. */
class Meeting {
  readonly #far = Child.start(import.meta.url, 'party');
  readonly near = Child.start(import.meta.url, 'party');
  #port = 0;

  async begin(): Promise<void> {
    await Promise.all(this.both.map((child) => child.event('ready')));
    await this.#connect(1, only(newRegion(4 * MIB)));
  }

  get both(): readonly [Child, Child] {
    return [this.near, this.#far];
  }

  async #connect(which: 0 | 1, options: RuntimeOptions): Promise<string> {
    await this.near.call('open', which, options);
    const port = await this.#far.call<number>('open', which, options);
    const plugin = await this.near.call<string>('connect', which, port);
    await eventually('the connection', () => this.#far.call('connected', which));
    if (which === 0) this.#port = port;
    return plugin;
  }

  async open(options: RuntimeOptions): Promise<string> {
    return this.#connect(0, options);
  }

  async echo(which: 0 | 1): Promise<void> {
    const [there] = await Promise.all([this.near.call('echo', which), this.#far.call('answer', which)]);
    assert.is(there, 'over there');
  }

  /** Both have lost the region, and nothing else. */
  async ended(path: string): Promise<void> {
    for (const child of this.both) {
      assert.is(await child.call('closed'), LOST);
      await eventually('the region is left', async () => (await child.call<number>('regions')) === 0);
      assert.equal(await child.call('detached'), [[path, LOST]]);
      assert.is(await child.call('wrong'), 0, 'a message that was never sent');
      const turns = await child.call<number>('turns');
      await eventually('the event loop turns', async () => (await child.call<number>('turns')) > turns);
    }
    await this.echo(1);
    assert.is(await this.near.call('connect', 0, this.#port), 'tcp');
    await this.echo(0);
  }

  async close(which: 0 | 1 = 0): Promise<void> {
    await Promise.all(this.both.map((child) => child.call('close', which)));
  }
}

/** Where the file ends from then on. */
const LEFT = [0, MIB, 5 * 4096, 0];

async function main(): Promise<void> {
  const missing = addonMissing();
  const test = missing ? (name: string) => register.skip(`${name} (${missing.message})`, () => {}) : chosen(register);
  const random = seeded(testSeed());

  const traffic: readonly (readonly [Way, number, boolean])[] = [
    ['receive', 100, false],
    ['receive', 300_000, false],
    ['receive', 2 * MIB, false],
    ['tryReceiveInto', 20_000, false],
    ['tryReceiveInto', 2 * MIB, false],
    ['poll', 40_000, false],
    ['poll', 300_000, false],
    ['borrow', 40_000, false],
    ['receive', 500_000, true],
    ['nothing', 20_000, false],
  ];

  test(
    'truncated at any moment of any traffic: both processes go on, over tcp; a bystander notices nothing',
    timebox(110, async () => {
      const meeting = new Meeting();
      await meeting.begin();
      const [near, far] = meeting.both;
      for (const [round, [way, size, loans]] of [...traffic, ...traffic].entries()) {
        const path = newRegion(16 * MIB);
        assert.is(await meeting.open(only(path)), 'ivshmem');
        await far.call('take', way, size);
        await near.call('send', size, loans);
        if (way !== 'nothing') await eventually('messages', async () => (await far.call<number>('messages')) > 3);
        await pause(random(20));
        truncateSync(path, LEFT[round % LEFT.length]);
        await meeting.ended(path);
        await meeting.close();
      }
      await meeting.echo(1);
      await endChildren();
    }),
  );

  // The page of the header is there, and a page of the body is not: the fault comes in the middle of the copy.
  const middles: readonly (readonly [string, (connection: RuntimeConnection) => unknown])[] = [
    ['receive', (connection) => connection.receive()],
    ['tryReceiveInto', (connection) => connection.tryReceiveInto(new Uint8Array(MIB))],
    ['poll', (connection) => connection.poll((memory, offset, length) => memory.slice(offset, offset + length))],
    ['posted', async (connection) => connection.receive()],
  ];
  for (const [name, take] of middles) {
    for (const loans of [false, true]) {
      test(
        `truncated in the middle of the copy: ${name}${loans ? ', of a loan' : ''}`,
        timebox(20, async () => {
          const path = newRegion(8 * MIB);
          const [near, far] = [await Runtime.create(only(path)), await Runtime.create(only(path))];
          let there: RuntimeConnection | undefined;
          const { port } = await far.listen({}, async (connection) => {
            there = connection as RuntimeConnection;
            await connection.closed;
          });
          const here = (await near.connect(`127.0.0.1:${port}`)) as RuntimeConnection;
          await eventually('the connection', () => there?.state === 'open');
          const pending = name === 'posted' ? there!.receive() : undefined;
          const size = 30_000;
          // From here on without the event loop.
          if (loans) {
            const loan = here.tryLoan(size)!;
            loan.data.fill(FILL);
            assert.ok(here.trySend(loan));
          } else {
            assert.ok(here.trySend(new Uint8Array(size).fill(FILL)));
          }
          const { core, index, words, bytes, dlength } = there!.link!;
          let data = core.call.peek(index);
          assert.ok(data > 0);
          if (loans) {
            // The announcement has the run: its first frame, then the data.
            const frame = core.view.getUint32(data + core.layout.REQUEST_FRAME, true);
            data = (core.call.addressOf(frame) >>> 0) + core.layout.FRAME;
          } else {
            assert.is(words[dlength], size);
          }
          assert.is(bytes[data], FILL);
          const left = Math.ceil((data - core.layout.WINDOW) / 4096 + 1) * 4096;
          truncateSync(path, left);
          const outcome = await rejection((async () => pending ?? take(there!))());
          assert.is(outcome.code, LOST);
          for (const connection of [here, there!]) assert.is((await connection.closed).error?.code, LOST);
          assert.is((await near.connect(`127.0.0.1:${port}`)).plugin, 'tcp');
          await Promise.all([near.close(), far.close()]);
        }),
      );
    }
  }

  for (const oneSided of [false, true]) {
    test(
      `memory that a peer reads and writes, ${oneSided ? 'in the region of both' : 'by messages over tcp'}: no zeros in its place`,
      timebox(20, async () => {
        for (const write of [false, true]) {
          const path = newRegion(8 * MIB);
          const near = await Runtime.create(only(oneSided ? path : ''));
          const far = await Runtime.create(only(path));
          let there: Connection | undefined;
          const { port } = await far.listen({}, async (connection) => {
            there = connection;
            await connection.closed;
          });
          const here = await near.connect(`127.0.0.1:${port}`);
          await eventually('the connection', () => there?.state === 'open');
          const memory = far.allocate(100_000);
          memory.write(0, new Uint8Array(100_000).fill(FILL));
          assert.ok(memory.inRegion);
          const { token } = there!.expose(memory, { write: true });
          const remote = here.token(token);
          assert.is(remote.oneSided, oneSided);
          const target = new Uint8Array(100_000);
          await remote.read(target);
          assert.ok(target.every((byte) => byte === FILL));
          // The grant and the first bytes are there, the rest is not.
          const { region, address } = (memory as RegionMemory).place as { region: Region; address: number };
          truncateSync(path, address - region.core.layout.WINDOW + 4096);
          const failed = await rejection(write ? remote.write(target) : remote.read(target));
          assert.is(failed.code, oneSided ? LOST : 'ERR_ISTHMUS_RMA_DENIED');
          await eventually('the region is left', () => far.regions().length === 0);
          assert.is(thrownBy(() => memory.read(0, target)).code, LOST);
          await eventually('it is in no region', () => !memory.inRegion);
          await Promise.all([near.close(), far.close()]);
        }
      }),
    );
  }

  test(
    'idle processes notice it too, and before one of them is sent anything',
    timebox(60, async () => {
      const meeting = new Meeting();
      await meeting.begin();
      for (const left of LEFT.slice(0, 3)) {
        const path = newRegion(16 * MIB);
        await meeting.open(only(path));
        await meeting.echo(0);
        truncateSync(path, left);
        await meeting.ended(path);
        await meeting.close();
      }
      await endChildren();
    }),
  );

  test(
    'what the application has in its hands: errors with the code, and no crash',
    timebox(60, async () => {
      const meeting = new Meeting();
      await meeting.begin();
      const [near, far] = meeting.both;
      for (const late of [false, true]) {
        const path = newRegion(16 * MIB);
        await meeting.open(only(path));
        const held = near.call('hold');
        await near.event('borrowing');
        await far.call('one', 30_000);
        await held;
        truncateSync(path, 0);
        if (late) assert.is(await near.call('closed'), LOST);
        // Bytes of the region are zeros from then on.
        assert.equal(await near.call('use'), [LOST, LOST, '100000', LOST, '30000', 'undefined']);
        await meeting.ended(path);
        await meeting.close();
      }
      await endChildren();
    }),
  );

  test(
    'shm: over tcp until the last process has left the file, then over a new one',
    timebox(60, async () => {
      const meeting = new Meeting();
      await meeting.begin();
      const { shmName, path } = newShm();
      const options = onlyShm(shmName);
      assert.is(await meeting.open(options), 'shm');
      truncateSync(path, 0);
      for (const child of meeting.both) assert.is(await child.call('closed'), LOST);
      await meeting.close();
      await eventually('the file is removed', () => !existsSync(path) || statSync(path).size > 0);
      assert.is(await meeting.open(options), 'shm');
      await meeting.echo(0);
      await meeting.echo(1);
      await endChildren();
    }),
  );

  test(
    'a file that got its length back: a region of zeros is lost as well',
    timebox(30, async () => {
      const path = newRegion(4 * MIB);
      await using runtime = await Runtime.create(only(path));
      const told: string[] = [];
      const listener = (message: unknown) => told.push((message as { error: IsthmusError }).error.code);
      subscribe('isthmus:region:detach', listener);
      truncateSync(path, 0);
      truncateSync(path, 4 * MIB);
      // Without an access in between there was no fault: slot and header are gone.
      await eventually('the region is given up', () => runtime.regions().length === 0 && told.length > 0);
      unsubscribe('isthmus:region:detach', listener);
      assert.equal(told, [LOST]);
    }),
  );

  /** Two runtimes of this process, connected over the region; what follows each other without a pause is one event. */
  async function pair(options: RuntimeOptions): Promise<{
    readonly runtimes: readonly [Runtime, Runtime];
    readonly here: RuntimeConnection;
    readonly there: RuntimeConnection;
  }> {
    const runtimes = [await Runtime.create(options), await Runtime.create(options)] as const;
    let there: RuntimeConnection | undefined;
    const { port } = await runtimes[1].listen({}, async (connection) => {
      there = connection as RuntimeConnection;
      await connection.closed;
    });
    const here = (await runtimes[0].connect(`127.0.0.1:${port}`)) as RuntimeConnection;
    await eventually('the connection', () => there?.state === 'open');
    return { runtimes, here, there: there as RuntimeConnection };
  }

  for (const restored of [false, true]) {
    for (const early of [false, true]) {
      test(
        `a peer that closes ${early ? 'before' : 'after'} the file is truncated${restored ? ' and has its length again' : ''}: not as if nothing was lost`,
        timebox(20, async () => {
          const path = newRegion(4 * MIB);
          const { runtimes, here, there } = await pair(only(path));
          const truncate = () => {
            truncateSync(path, 0);
            if (restored) truncateSync(path, 4 * MIB);
          };
          assert.ok(here.trySend(new Uint8Array(1000).fill(FILL)));
          if (!early) truncate();
          const closing = here.close().catch(() => {});
          // Where it has noticed, it does not say that it has sent all.
          if (!early && !restored) assert.is.not(here.lifecycle.phase, 'eofSent');
          if (early) truncate();
          // The receiver was blocked, and comes to the word of the guard before it comes to the ring.
          const sentBye = early || restored;
          if (sentBye) there.lifetime.onEnded({ kind: 'peer-closed' });
          else assert.is((await here.closed).error?.code, LOST, 'the closing side has lost what it sent');
          assert.is((await rejection(there.receive())).code, LOST);
          assert.is((await there.closed).error?.code, LOST);
          await closing;
          await Promise.all(runtimes.map((runtime) => runtime.close()));
        }),
      );
    }
  }

  test(
    'a region that is left before its loss was noticed: each attach event has its detach event, with error and identity',
    timebox(20, async () => {
      const { shmName, path } = newShm();
      for (const shm of [false, true]) {
        const file = shm ? path : newRegion(4 * MIB);
        const told: unknown[][] = [];
        const listeners = ['attach', 'detach'].map((what) => {
          const listener = (message: unknown) => {
            const { region, error } = message as { region: { path: string; uuid: string }; error?: IsthmusError };
            told.push([what, region.path, region.uuid, error?.code]);
          };
          subscribe(`isthmus:region:${what}`, listener);
          return () => unsubscribe(`isthmus:region:${what}`, listener);
        });
        const lines: string[] = [];
        const log = (_level: string, line: string) => lines.push(line);
        const { runtimes, here, there } = await pair(
          shm ? onlyShm(shmName, { debug: 1, log }) : only(file, { debug: 1, log }),
        );
        await Promise.all([here.close(), there.close()]);
        const uuid = told[0]?.[2] as string;
        assert.equal(told.splice(0), Array(2).fill(['attach', file, uuid, undefined]));
        assert.is.not(uuid, '0'.repeat(32));
        truncateSync(file, 0);
        await Promise.all(runtimes.map((runtime) => runtime.close()));
        assert.equal(told, Array(2).fill(['detach', file, uuid, LOST]));
        assert.is(lines.filter((line) => line.includes('pages of the region are gone')).length, 2);
        for (const stop of listeners) stop();
      }
    }),
  );

  test(
    'the file of shm outlives a process that has lost it, while another has its slot',
    timebox(20, async () => {
      const { shmName, path } = newShm();
      const join = (name: string) =>
        joinShm({
          file: shmName,
          size: 4 * MIB,
          name,
          limit: 5000,
          signal: new AbortController().signal,
          survivesLoss: true,
        });
      const first = await join('first');
      truncateSync(path, 0);
      assert.is(first.verify()?.code, LOST);
      // As long as it has not left, the file is that of a region.
      const refused = await rejection(join('early'));
      assert.equal([refused.code, /was truncated/.test(refused.message)], [LOST, true]);
      // What the runtime does when it is told. The file is left later.
      first.detach();
      const next = await join('next');
      assert.equal([next.slot, next.identity.ino], [first.slot, first.identity.ino]);
      await leaveShm(first);
      assert.ok(existsSync(path), 'it is the region of another process');
      const met = await join('met');
      assert.equal(met.uuid, next.uuid);
      for (const region of [met, next]) await leaveShm(region);
      assert.not(existsSync(path));
    }),
  );

  test(
    'attaching to a region whose locks are refused: an error of the system, and nothing stays behind',
    timebox(20, async () => {
      const path = newRegion(4 * MIB);
      const bystander = await Region.attach(posixBacking(path, true), 'bystander');
      const { reap } = MappedRegion.prototype;
      const open = () => readdirSync('/proc/self/fd').length;
      const bells = () => readdirSync('/dev/shm').filter((name) => name.includes(`-${bystander.identity.ino}-`)).length;
      const before = [open(), bells()];
      // Such as of a sandbox: fcntl(2) begins to fail behind the first locks.
      MappedRegion.prototype.reap = () => {
        throw Object.assign(new Error('ENOLCK: no locks available, fcntl'), { code: 'ENOLCK', syscall: 'fcntl' });
      };
      try {
        const failed = await rejection(Region.attach(posixBacking(path, true), 'refused'));
        assert.equal([failed.code, failed.errno, failed.path], ['ERR_ISTHMUS_SYSCALL', 'ENOLCK', path]);
        // A device that is only found is not used, and that is all.
        const found = await attachRegions(
          { files: path, pci: false, roots: { sysfs: '/nonexistent', dev: '/nonexistent' } },
          'found',
          false,
        );
        assert.equal(
          [found.regions.length, found.refused.map(({ error }) => error.code)],
          [0, ['ERR_ISTHMUS_SYSCALL']],
        );
      } finally {
        MappedRegion.prototype.reap = reap;
      }
      await eventually('all is given back', () => open() === before[0] && bells() === before[1]);
      const { call, layout } = bystander.core;
      const taken = [...Array(bystander.slots).keys()].filter((slot) => call.slotState(slot) !== layout.SLOT_FREE);
      assert.equal(taken, [bystander.slot]);
      bystander.detach();
    }),
  );

  test(
    'a doorbell that could not be opened when the link began is opened later, by the upkeep',
    timebox(20, async () => {
      const path = newRegion(4 * MIB);
      const [near, far] = [
        await Region.attach(posixBacking(path, true), 'near'),
        await Region.attach(posixBacking(path, true), 'far'),
      ];
      const { dev, ino } = near.identity;
      const id = Buffer.from(far.doorbells.id).toString('hex');
      const fifo = openSync(`/dev/shm/isthmus-bell-${dev}-${ino}-${id}`, constants.O_WRONLY | constants.O_NONBLOCK);
      // Its owner does not come to read before the link is there.
      assert.is(
        thrownBy(() => {
          for (;;) writeSync(fifo, Buffer.alloc(4096));
        }).code,
        'EAGAIN',
      );
      const links = [
        near.doorbells.link({ slot: far.slot, generation: far.generation }),
        far.doorbells.link({ slot: near.slot, generation: near.generation }),
      ];
      closeSync(fifo);
      assert.not(far.doorbells.heard);
      await eventually('the peer can ring', () => far.doorbells.heard);
      for (const link of links) link.release();
      for (const region of [near, far]) region.detach();
    }),
  );

  test(
    'a server of a truncated file, and what is just being attached',
    timebox(30, async () => {
      const name = newPath();
      using server = await RegionServer.open({ name, size: 4 * MIB, access: { mode: 0o600 } });
      const backing = posixBacking(name, true);
      const region = await Region.attach(backing, 'here');
      assert.equal(server.reap(), []);
      truncateSync(name, 0);
      assert.is(thrownBy(() => server.reap()).code, LOST);
      assert.is(region.whyLost()?.code, LOST);
      assert.not(region.usable);
      region.detach();
      assert.is((await rejection(Region.attach(backing, 'here'))).code, 'ERR_ISTHMUS_REGION_TOO_SMALL');
      assert.equal(server.close(), {
        use: 'none',
        removed: true,
        peers: [],
        holders: [],
        failure: undefined,
      });
    }),
  );

  test(
    'switched off: the process ends by SIGBUS, as without a handler',
    timebox(30, async () => {
      const path = newRegion(4 * MIB);
      const child = Child.start(import.meta.url, 'off', { path });
      await child.event('attached');
      truncateSync(path, 0);
      assert.is((await child.ended()).signal, 'SIGBUS');
    }),
  );

  register.after(async () => {
    await endChildren();
    removeRegions();
  });
  register.run();
}

if (role) await play({ party, off });
else await main();

/**
 * Loans: messages that are written where the peer reads them. The conformance suite tests that they cross like all
 * others; this file tests what only loans have. The far end that is killed is this file again, with the role `far`.
 */

import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { MessageChannel } from 'node:worker_threads';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { BorrowedMessage, Connection, Loan, Message } from '../../host/index.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { eventually, rejection, thrownBy } from '../support/outcomes.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve } from '../support/process.js';
import { MIB, newRegion, newShm, only, onlyShm, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
/** Messages: several times as many as the region has frames. */
const FLOOD = 60_000;

const roles: Record<string, () => Promise<void>> = {
  /** Borrows or sends one message, and waits to be killed. */
  async far() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    let connection: Connection | undefined;
    let held: BorrowedMessage | undefined;
    const { port } = await runtime.listen({}, async (one) => {
      connection = one;
      await one.closed;
    });
    const one = () => connection as Connection;
    serve({
      port: () => port,
      async borrow() {
        held = await one().borrow();
        return held?.data.length;
      },
      async send(length: number, fill: number) {
        const loan = await one().loan(length);
        loan.data.fill(fill);
        await one().send(loan);
      },
      /** Sends as fast as possible, each message with its number. */
      async flood(count: number) {
        for (let number = 0, misses = 0; number < count; ) {
          const loan = one().tryLoan(64);
          if (loan) {
            new DataView(loan.data.buffer, loan.data.byteOffset).setUint32(0, number);
            if (one().trySend(loan)) {
              number++;
              continue;
            }
            loan.release();
          }
          if (++misses % 1000 === 0) await runtime.turn();
        }
      },
      /** Never sent. */
      async lend(length: number) {
        await one().loan(length);
      },
    });
  },
};

const runtimes: Runtime[] = [];

interface Meeting {
  readonly a: Runtime;
  readonly b: Runtime;
  readonly near: Connection;
  readonly far: Connection;
}

async function meet(options: RuntimeOptions): Promise<Meeting> {
  const [a, b] = await Promise.all([Runtime.create(options), Runtime.create(options)]);
  runtimes.push(a, b);
  let came!: (connection: Connection) => void;
  const accepted = new Promise<Connection>((resolve) => {
    came = resolve;
  });
  const { port } = await b.listen({}, came);
  return { a, b, near: await a.connect({ host: '127.0.0.1', port }), far: await accepted };
}

const freeFrames = (runtime: Runtime) => runtime.regions().reduce((sum, region) => sum + region.freeFrames, 0);

const filled = ({ data }: { readonly data: Uint8Array }, length: number, fill: number) =>
  assert.ok(data.length === length && data.slice().every((byte) => byte === fill), `${length} bytes of ${fill}`);

async function main(): Promise<void> {
  const shared = {
    ivshmem: (size: number, more: RuntimeOptions = {}) => only(newRegion(size), more),
    shm: (size: number, more: RuntimeOptions = {}) => onlyShm(newShm().shmName, { shmSize: size, ...more }),
  };

  for (const [plugin, options] of Object.entries(shared)) {
    test(
      `${plugin}: the receiver borrows exactly the sender's bytes, and the frames are free again`,
      timebox(20, async () => {
        const { a, near, far } = await meet(options(16 * MIB));
        assert.is(near.plugin, plugin);
        const before = freeFrames(a);
        for (const length of [1, 4096, 100_000, 3 * MIB]) {
          const loan = await near.loan(length);
          assert.ok(loan.inRegion);
          assert.is(loan.length, length);
          const { data } = loan;
          data.fill(1);
          await near.send(loan, { xheader: Uint8Array.of(7) });
          assert.is(thrownBy(() => loan.data).code, 'ERR_ISTHMUS_RELEASED');
          loan.release(); // It belongs to the receiver: nothing happens.
          const borrowed = (await far.borrow()) as BorrowedMessage;
          assert.ok(borrowed.inPlace);
          assert.equal([...borrowed.xheader], [7]);
          filled(borrowed, length, 1);
          // Nothing was copied: a write by the sender, against the rule, is visible.
          data[0] = 99;
          assert.is(borrowed.data[0], 99);
          assert.ok(freeFrames(a) < before);
          borrowed.release();
        }
        await eventually('the frames are free', () => freeFrames(a) === before);
      }),
    );

    test(
      `${plugin}: a loan and a borrowed message to another thread: as a copy; the memory itself stays, whatever is tried`,
      timebox(20, async () => {
        const { near, far } = await meet(options(16 * MIB));
        const loan = await near.loan(100);
        loan.data.fill(5);
        const whole = loan.data.buffer.byteLength;
        assert.ok(whole > 8 * MIB);
        const { port1, port2 } = new MessageChannel();
        const posted = async (value: unknown, transfer: ArrayBuffer[] = []) => {
          const came = once(port2, 'message');
          port1.postMessage(value, transfer);
          return ((await came) as [Uint8Array])[0];
        };
        // What the documentation says of it: with the view comes all that is around it.
        assert.is((await posted(loan.data)).buffer.byteLength, whole);
        const copy = await posted(loan.data.slice());
        assert.equal([copy.length, copy.buffer.byteLength], [100, 100]);
        filled({ data: copy }, 100, 5);
        await near.send(loan);
        const borrowed = (await far.borrow()) as BorrowedMessage;
        // Node 20 copies, later versions refuse: the memory is not detached.
        const buffer = borrowed.data.buffer as ArrayBuffer;
        await posted(borrowed.data, [buffer]).catch(({ name }) => assert.is(name, 'DataCloneError'));
        assert.is(borrowed.data.buffer.byteLength, whole);
        filled(borrowed, 100, 5);
        const slice = await posted(borrowed.data.slice());
        assert.equal([slice.length, slice.buffer.byteLength], [100, 100]);
        borrowed.release();
        port1.close();
        await near.send('and on');
        const received = (await far.receive()) as Message;
        assert.is(received.text(), 'and on');
        assert.is(structuredClone(received.data).buffer.byteLength, 6);
      }),
    );

    test(
      `${plugin}: a sleeping receiver, a handler of poll, a copy: each reads the bytes in place`,
      timebox(20, async () => {
        const { a, near, far } = await meet(options(16 * MIB));
        const before = freeFrames(a);
        const send = async (fill: number) => {
          const loan = near.tryLoan(50_000) as Loan;
          loan.data.fill(fill);
          assert.ok(near.trySend(loan));
        };
        const waiting = far.borrow();
        await pause(20);
        await send(1);
        const borrowed = (await waiting) as BorrowedMessage;
        assert.ok(borrowed.inPlace);
        filled(borrowed, 50_000, 1);
        borrowed.release();

        await send(2);
        let seen = 0;
        while (seen === 0) {
          far.poll((memory, offset, length) => {
            filled({ data: memory.slice(offset, offset + length) }, 50_000, 2);
            assert.ok(memory.length > 16 * MIB, 'the memory of the region itself');
            seen++;
          });
          await pause(1);
        }
        await send(3);
        const target = new Uint8Array(60_000);
        while (far.tryReceiveInto(target) < 0) await pause(1);
        filled({ data: target.subarray(0, 50_000) }, 50_000, 3);
        await send(4);
        const message = await far.receive();
        filled(message as NonNullable<typeof message>, 50_000, 4);
        await eventually('the frames are free', () => freeFrames(a) === before);
      }),
    );

    test(
      `${plugin}: no room: tryLoan returns undefined, loan waits until a peer releases; both end with the connection`,
      timebox(30, async () => {
        const { near, far } = await meet(options(8 * MIB));
        const size = 1 * MIB;
        const held: BorrowedMessage[] = [];
        for (let loan = near.tryLoan(size); loan; loan = near.tryLoan(size)) {
          await near.send(loan);
          held.push((await far.borrow()) as BorrowedMessage);
        }
        assert.ok(held.length >= 4 && held.every(({ inPlace }) => inPlace), `${held.length}`);
        const reason = new Error('enough');
        assert.is(
          await rejection(near.loan(size, { signal: AbortSignal.timeout(30) })).then((e) => e.name),
          'TimeoutError',
        );
        const controller = new AbortController();
        const aborted = rejection(near.loan(size, { signal: controller.signal }));
        controller.abort(reason);
        assert.is(await aborted, reason);
        const waiting = near.loan(size);
        await pause(30);
        held.shift()?.release();
        const loan = await waiting;
        assert.ok(loan.inRegion);
        const never = rejection(near.loan(size));
        near.destroy();
        assert.is((await never).code, 'ERR_ISTHMUS_CLOSED');
        // Lent and borrowed memory stays until it is given back.
        loan.data.fill(5);
        filled(loan, size, 5);
        for (const message of held) filled(message, size, 0);
        for (const message of held) message.release();
        loan.release();
      }),
    );

    test(
      `${plugin}: larger than the region could ever lend: private memory, and the message arrives`,
      timebox(30, async () => {
        const { near, far } = await meet(options(4 * MIB));
        const loan = await near.loan(6 * MIB);
        assert.not(loan.inRegion);
        loan.data.fill(6);
        const sent = near.send(loan);
        const message = await far.receive();
        filled(message as NonNullable<typeof message>, 6 * MIB, 6);
        await sent;
      }),
    );

    test(
      `${plugin}: a migration, with loans unsent, sent, and borrowed`,
      timebox(60, async () => {
        for (const by of ['a', 'b', 'both'] as const) {
          const meeting = await meet(options(16 * MIB));
          const { a, b, near, far } = meeting;
          const before = freeFrames(a);
          const fill = async (value: number) => {
            const loan = await near.loan(200_000);
            loan.data.fill(value);
            return loan;
          };
          await near.send(await fill(1));
          const borrowed = (await far.borrow()) as BorrowedMessage;
          assert.ok(borrowed.inPlace);
          await near.send(await fill(2)); // Unread.
          const unsent = await fill(3);
          const those = by === 'both' ? [a, b] : [meeting[by]];
          await Promise.all(those.map((runtime) => runtime.suspend()));
          filled(borrowed, 200_000, 1);
          filled(unsent, 200_000, 3);
          unsent.data.fill(4);
          const meanwhile = await near.loan(1000);
          assert.ok(by === 'b' || !meanwhile.inRegion);
          meanwhile.data.fill(5);
          assert.not(near.trySend(meanwhile));
          const sends = [near.send(unsent), near.send(meanwhile)];
          await Promise.all(those.map((runtime) => runtime.resume()));
          filled(borrowed, 200_000, 1);
          borrowed.release();
          for (const [length, value] of [
            [200_000, 2],
            [200_000, 4],
            [1000, 5],
          ] as const) {
            const message = await far.receive();
            filled(message as NonNullable<typeof message>, length, value);
          }
          await Promise.all(sends);
          await near.send(await fill(6));
          const last = (await far.borrow()) as BorrowedMessage;
          assert.ok(last.inPlace);
          last.release();
          await eventually('the frames are free', () => freeFrames(a) === before);
          await Promise.all([a.close(), b.close()]);
        }
      }),
    );

    test(
      `${plugin}: the borrower dies, the lender dies: the other keeps what it holds, and the frames are free again`,
      timebox(60, async () => {
        const more = { peerTimeout: 0 };
        const opts = options(16 * MIB, more);
        const runtime = await Runtime.create(opts);
        runtimes.push(runtime);
        const before = freeFrames(runtime);
        const start = async () => {
          const child = Child.start(import.meta.url, 'far', opts);
          const port = await child.call<number>('port');
          return { child, near: await runtime.connect({ host: '127.0.0.1', port }) };
        };
        {
          const { child, near } = await start();
          const loan = await near.loan(300_000);
          await near.send(loan);
          assert.is(await child.call('borrow'), 300_000);
          const unsent = await near.loan(100_000);
          unsent.data.fill(8);
          await child.kill('SIGKILL');
          assert.is((await near.closed).reason, 'error');
          filled(unsent, 100_000, 8);
          unsent.release();
          await eventually('the frames are free', () => freeFrames(runtime) === before);
        }
        {
          const { child, near } = await start();
          await child.call('send', 300_000, 9);
          await child.call('lend', 300_000);
          const borrowed = (await near.borrow()) as BorrowedMessage;
          assert.ok(borrowed.inPlace);
          await child.kill('SIGKILL');
          assert.is((await near.closed).reason, 'error');
          await eventually('all frames but the borrowed ones are free', () => freeFrames(runtime) >= before - 256);
          filled(borrowed, 300_000, 9);
          borrowed.release();
          await eventually('the frames are free', () => freeFrames(runtime) === before);
        }
      }),
    );

    test(
      `${plugin}: a flood of loans, reclaimed by one side at the moment at which the other adopts them`,
      timebox(60, async () => {
        const opts = options(8 * MIB);
        const runtime = await Runtime.create(opts);
        runtimes.push(runtime);
        const child = Child.start(import.meta.url, 'far', opts);
        const near = await runtime.connect({ host: '127.0.0.1', port: await child.call<number>('port') });
        const flood = child.call('flood', FLOOD);
        let number = 0;
        for (let misses = 0; number < FLOOD; ) {
          const before = number;
          near.poll((memory, offset) => {
            const found = new DataView(memory.slice(offset, offset + 4).buffer).getUint32(0);
            if (found !== number) throw new Error(`message ${found} in place of ${number}`);
            number++;
          }, 64);
          if (number === before && ++misses % 1000 === 0) await runtime.turn();
        }
        await flood;
        await child.kill();
      }),
    );

    test(
      `${plugin}: the runtime is closed while loans are in use: their bytes stay`,
      timebox(20, async () => {
        const { a, b, near, far } = await meet(options(16 * MIB));
        const unsent = await near.loan(50_000);
        unsent.data.fill(1);
        const loan = await near.loan(50_000);
        loan.data.fill(2);
        await near.send(loan);
        const borrowed = (await far.borrow()) as BorrowedMessage;
        await Promise.all([a.close(), b.close()]);
        filled(unsent, 50_000, 1);
        filled(borrowed, 50_000, 2);
        assert.not(unsent.inRegion);
        unsent.release();
        borrowed.release();
      }),
    );
  }

  test(
    'tcp: no region: private memory',
    timebox(20, async () => {
      const { near, far } = await meet(only(''));
      assert.is(near.plugin, 'tcp');
      const loan = await near.loan(100_000);
      assert.not(loan.inRegion);
      loan.data.fill(3);
      const sent = near.send(loan);
      const message = await far.receive();
      filled(message as NonNullable<typeof message>, 100_000, 3);
      await sent;
      // Private memory can be transferred away: then there is nothing to send.
      for (const send of [(loan: Loan) => near.send(loan), async (loan: Loan) => near.trySend(loan)]) {
        const lost = await near.loan(100);
        structuredClone(lost.data, { transfer: [lost.data.buffer as ArrayBuffer] });
        assert.is((await rejection(send(lost))).code, 'ERR_ISTHMUS_INVALID_ARGUMENT');
        lost.release();
      }
      await near.send('and on');
      assert.is((await far.receive())?.text(), 'and on');
    }),
  );

  test(
    'misuse: sent twice, over another connection, after release, without a size',
    timebox(20, async () => {
      const { near, far } = await meet(only(newRegion()));
      const loan = await near.loan(10);
      assert.is((await rejection(far.send(loan))).code, 'ERR_ISTHMUS_INVALID_ARGUMENT');
      assert.is(thrownBy(() => far.trySend(loan)).code, 'ERR_ISTHMUS_INVALID_ARGUMENT');
      await near.send(loan);
      assert.is((await rejection(near.send(loan))).code, 'ERR_ISTHMUS_RELEASED');
      assert.is(thrownBy(() => near.trySend(loan)).code, 'ERR_ISTHMUS_RELEASED');
      let released: Loan;
      {
        using one = near.tryLoan(10) as Loan;
        released = one;
      }
      assert.is(thrownBy(() => near.trySend(released)).code, 'ERR_ISTHMUS_RELEASED');
      for (const size of [-1, 1.5, Number.NaN]) {
        assert.is(thrownBy(() => near.tryLoan(size)).code, 'ERR_ISTHMUS_INVALID_ARGUMENT');
        assert.is((await rejection(near.loan(size))).code, 'ERR_ISTHMUS_INVALID_ARGUMENT');
      }
      assert.is(thrownBy(() => near.tryLoan(2 ** 40)).code, 'ERR_ISTHMUS_MESSAGE_TOO_LARGE');
      const big = { xheader: new Uint8Array(65_536) };
      const kept = near.tryLoan(10) as Loan;
      assert.is((await rejection(near.send(kept, big))).code, 'ERR_ISTHMUS_MESSAGE_TOO_LARGE');
      kept.data.fill(1); // Not sent, and still writable here.
      near.destroy();
      assert.is((await rejection(near.send(kept))).code, 'ERR_ISTHMUS_CLOSED');
      assert.is(thrownBy(() => near.tryLoan(10)).code, 'ERR_ISTHMUS_CLOSED');
      kept.release();
    }),
  );

  register.after(async () => {
    await Promise.all(runtimes.map((runtime) => runtime.close({ timeout: 500 })));
    await endChildren();
    removeRegions();
  });
  register.run();
}

if (role) await play(roles);
else await main();

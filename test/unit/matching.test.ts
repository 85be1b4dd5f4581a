/** Which receive gets which message, by the rule of MPI, and which probes are told. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import type { Envelope } from '../../host/api/envelope.js';
import { IsthmusError } from '../../host/base/errors.js';
import { BorrowedMessage, Message } from '../../host/base/message.js';
import type { Announced } from '../../host/matching/announced.js';
import { Matching, type Prober } from '../../host/matching/matching.js';
import { PendingReceives, ReceiveCall } from '../../host/matching/pending-receives.js';
import { UnreadQueue } from '../../host/matching/unread-queue.js';
import { bytesOf, NONE, TestReceive, textOf } from '../support/channel.js';
import { timebox } from '../support/timebox.js';

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

interface Site {
  readonly connection: Connection;
  readonly unread: UnreadQueue;
  readonly pending: PendingReceives;
}

/** Connections of one endpoint. */
function sites(count: number): { matching: Matching; sites: Site[] } {
  const matching = new Matching();
  return {
    matching,
    sites: Array.from({ length: count }, (_, i) => {
      const connection = { name: `${i}` } as unknown as Connection;
      const unread = new UnreadQueue();
      return { connection, unread, pending: new PendingReceives(connection, matching, unread) };
    }),
  };
}

const site = () => {
  const { matching, sites: all } = sites(1);
  return { matching, ...(all[0] as Site) };
};

const take = ({ pending }: Site, xheader = '', length = 1) => pending.take(() => bytesOf(xheader), length);

class TestProber implements Prober {
  readonly connection: Connection | undefined;
  readonly match: Prober['match'];
  envelope: Envelope | undefined;
  error: unknown;

  constructor(connection?: Connection, match?: Prober['match']) {
    this.connection = connection;
    this.match = match;
  }

  found(envelope: Envelope): void {
    assert.is(this.envelope, undefined, 'told twice');
    this.envelope = envelope;
  }

  reject(error: unknown): void {
    assert.is(this.error, undefined, 'rejected twice');
    this.error = error;
  }
}

// ─── which receive ─────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'of the receives for one connection and for any source the one that was posted first gets the message',
  timebox(5, () => {
    const { matching, sites: all } = sites(2);
    const [here, there] = all as [Site, Site];
    const receives = Array.from({ length: 6 }, () => new TestReceive());
    const [a, b, c, d, e, f] = receives as [
      TestReceive,
      TestReceive,
      TestReceive,
      TestReceive,
      TestReceive,
      TestReceive,
    ];
    here.pending.add(b);
    here.pending.add(c);
    here.pending.add(f);
    there.pending.add(d);
    matching.add(a);
    matching.add(e);
    assert.equal(
      [take(here), take(here), take(there), take(here), take(there), take(here), take(here)],
      [a, b, d, c, e, f, undefined],
    );
  }),
);

test(
  'match functions: asked in the order of posting, with a copy of the xheader that is made once, and only for them',
  timebox(5, () => {
    const { matching, ...one } = site();
    const asked: string[] = [];
    const says = (name: string, answer: unknown) =>
      new TestReceive({
        match: ({ connection, xheader, length }) => {
          assert.is(connection, one.connection);
          asked.push(`${name} ${textOf(xheader)} ${length}`);
          return answer as boolean;
        },
      });
    const [no, any, yes, all] = [says('no', false), says('truthy', 1), says('yes', true), new TestReceive()];
    one.pending.add(no);
    matching.add(any);
    one.pending.add(yes);
    matching.add(all);
    let copies = 0;
    const xheader = () => {
      copies++;
      return bytesOf('h');
    };
    assert.is(one.pending.take(xheader, 7), yes);
    assert.equal(asked, ['no h 7', 'truthy h 7', 'yes h 7']);
    assert.is(copies, 1);
    assert.is(one.pending.take(xheader, 8), all);
    assert.is(one.pending.length, 1);
    assert.ok(matching.waiting, 'what only looks true is not true');
    matching.remove(any);
    assert.not(matching.waiting);
    one.pending.remove(no);
    one.pending.add(new TestReceive());
    one.pending.take(xheader, 9);
    assert.is(copies, 2, 'no function, no copy');
  }),
);

test(
  'a function that throws rejects its receive, and the search goes on with the next one',
  timebox(5, () => {
    const throwing = () =>
      new TestReceive({
        match: () => {
          throw new Error('oh');
        },
      });
    for (const order of ['own', 'any', 'mixed']) {
      const { matching, ...one } = site();
      const bad = [throwing(), throwing(), throwing()];
      for (const [i, each] of bad.entries()) {
        if (order === 'own' || (order === 'mixed' && i === 1)) one.pending.add(each);
        else matching.add(each);
      }
      const good = new TestReceive();
      if (order === 'any') one.pending.add(good);
      else matching.add(good);
      assert.is(take(one), good, order);
      assert.equal(
        bad.map(({ outcome }) => outcome),
        Array(3).fill('error Error: oh'),
        order,
      );
      assert.not(one.pending.awaited);
    }
  }),
);

test(
  'a function may take receives back, its own too',
  timebox(5, () => {
    const { matching, ...one } = site();
    const first = new TestReceive({ match: () => false });
    const selfish: TestReceive = new TestReceive({
      match: () => {
        one.pending.remove(selfish);
        throw new Error('not told: it is not pending');
      },
    });
    const meddling = new TestReceive({
      match: () => {
        one.pending.remove(first);
        return false;
      },
    });
    const last = new TestReceive();
    for (const each of [first, selfish, meddling, last]) one.pending.add(each);
    assert.is(take(one), last);
    assert.is(selfish.outcome, undefined);
    assert.is(one.pending.length, 1);
    assert.ok(one.pending.remove(meddling));
    assert.not(one.pending.remove(meddling));
    assert.not(matching.remove(last));
  }),
);

test(
  'a receive that has been promised the next message is put back in front',
  timebox(5, () => {
    const one = site();
    const [promised, other] = [new TestReceive(), new TestReceive()];
    one.pending.add(other);
    one.pending.putBack(promised);
    assert.equal([take(one), take(one)], [promised, other]);
  }),
);

test(
  'in place: only a receive with a target or a limit, only if it is its turn; then it has begun',
  timebox(5, () => {
    const { matching, ...one } = site();
    const [plain, target, limit] = [
      new TestReceive(),
      new TestReceive({ target: new Uint8Array(1) }),
      new TestReceive({ maxLength: 5 }),
    ];
    one.pending.add(plain);
    matching.add(target);
    one.pending.add(limit);
    assert.is(one.pending.takeInPlace(NONE, 5), undefined);
    assert.is(one.pending.length, 2, 'it stays for the whole message');
    assert.is(plain.begun, 0);
    one.pending.remove(plain);
    assert.is(one.pending.takeInPlace(NONE, 5), target);
    assert.is(one.pending.takeInPlace(NONE, 5), limit);
    assert.equal([target.begun, limit.begun], [1, 1]);
    assert.not(one.pending.awaited);
    assert.is(one.pending.takeInPlace(NONE, 5), undefined);
  }),
);

test(
  'receives for any source keep all connections reading, own ones only theirs',
  timebox(5, () => {
    const { matching, sites: all } = sites(2);
    const [here, there] = all as [Site, Site];
    const own = new TestReceive();
    here.pending.add(own);
    assert.equal([here.pending.awaited, there.pending.awaited], [true, false]);
    here.pending.remove(own);
    matching.add(own);
    assert.equal([here.pending.awaited, there.pending.awaited], [true, true]);
  }),
);

// ─── probes ────────────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'probes are told once of the first message that they look for, and leave it where it is',
  timebox(5, () => {
    const { matching, sites: all } = sites(2);
    const [here, there] = all as [Site, Site];
    const any = new TestProber();
    const own = new TestProber(here.connection);
    const other = new TestProber(there.connection);
    const long = new TestProber(here.connection, ({ length }) => length > 3);
    const truthy = new TestProber(here.connection, () => 1 as unknown as boolean);
    for (const each of [any, own, other, long, truthy]) matching.addProber(each);
    assert.ok(here.pending.probed);
    here.pending.announce(new Message(bytesOf('abc'), bytesOf('h')));
    for (const { envelope } of [any, own]) {
      assert.is(envelope?.connection, here.connection);
      assert.equal([textOf(envelope!.xheader), envelope!.length], ['h', 3]);
    }
    assert.equal([other.envelope, long.envelope, truthy.envelope], [undefined, undefined, undefined]);
    here.pending.announce(new Message(bytesOf('abcd')));
    assert.is(long.envelope?.length, 4);
    assert.ok(matching.removeProber(truthy));
    assert.not(matching.removeProber(truthy));
    assert.not(here.pending.probed, 'the other one is of another connection');
    assert.ok(there.pending.probed);
  }),
);

test(
  'a probe whose function throws is rejected; the others are told',
  timebox(5, () => {
    const { matching, ...one } = site();
    const bad = new TestProber(undefined, () => {
      throw new Error('oh');
    });
    const good = new TestProber();
    for (const each of [bad, good]) matching.addProber(each);
    one.pending.announce(new Message(NONE));
    assert.is((bad.error as Error).message, 'oh');
    assert.ok(good.envelope);
    assert.not(one.pending.probed);
  }),
);

test(
  'a probe that is taken back by another one is not told',
  timebox(5, () => {
    const { matching, ...one } = site();
    const second = new TestProber();
    const first = new TestProber(undefined, () => matching.removeProber(second));
    const third = new TestProber(undefined, () => {
      matching.removeProber(third);
      throw new Error('oh');
    });
    for (const each of [first, second, third]) matching.addProber(each);
    one.pending.announce(new Message(NONE));
    assert.ok(first.envelope);
    assert.is(second.envelope, undefined);
    assert.is(third.error, undefined);
  }),
);

test(
  'the end of a connection ends its probes; those for any source wait on, until the endpoint is closed',
  timebox(5, () => {
    const { matching, sites: all } = sites(2);
    const [here, there] = all as [Site, Site];
    const [own, other, any] = [new TestProber(here.connection), new TestProber(there.connection), new TestProber()];
    for (const each of [own, other, any]) matching.addProber(each);
    const error = new Error('ended');
    matching.endProbes(here.connection, error);
    assert.equal([own.error, other.error, any.error], [error, undefined, undefined]);
    const receive = new TestReceive();
    matching.add(receive);
    const closed = new IsthmusError('ERR_ISTHMUS_CLOSED', 'closed');
    matching.rejectAll(closed);
    assert.equal([other.error, any.error], [closed, closed]);
    assert.is(receive.outcome, 'error ERR_ISTHMUS_CLOSED');
    assert.not(matching.waiting);
    assert.not(here.pending.probed);
  }),
);

// ─── delivery ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const announced = (
  text: string,
  here: boolean,
  more: Partial<Announced> = {},
): Announced & { targets: (Uint8Array | undefined)[] } => {
  const targets: (Uint8Array | undefined)[] = [];
  return {
    targets,
    xheader: bytesOf('h'),
    length: text.length,
    here,
    fetch: (target) => {
      targets.push(target);
      const bytes = bytesOf(text);
      target?.set(bytes.subarray(0, target.length));
      const data = target ?? bytes;
      return here ? data : Promise.resolve(data);
    },
    lend: () => undefined,
    drop() {},
    ...more,
  };
};

test(
  'a message in memory: as it is, into the target, cut to the limit; with the length as sent',
  timebox(5, () => {
    const { pending } = site();
    const cases: [{ target?: Uint8Array; maxLength?: number }, string][] = [
      [{}, '0123456789'],
      [{ target: new Uint8Array(20) }, '0123456789'],
      [{ target: new Uint8Array(4) }, '0123'],
      [{ target: new Uint8Array(4), maxLength: 2 }, '01'],
      [{ target: new Uint8Array(2), maxLength: 4 }, '01'],
      [{ maxLength: 3 }, '012'],
    ];
    for (const [options, text] of cases) {
      const receive = new TestReceive(options);
      pending.deliver(receive, new Message(bytesOf('0123456789'), bytesOf('h')));
      assert.is(receive.outcome, text);
      assert.equal([receive.got!.length, textOf(receive.got!.xheader)], [10, 'h']);
      if (options.target) assert.is(receive.got!.data.buffer, options.target.buffer);
    }
  }),
);

test(
  'an announced message is fetched as far as it is kept, to its place',
  timebox(5, async () => {
    const { pending } = site();
    const cases: [{ target?: Uint8Array; maxLength?: number }, string, number | undefined][] = [
      [{}, '0123456789', undefined],
      [{ target: new Uint8Array(20) }, '0123456789', 10],
      [{ target: new Uint8Array(4) }, '0123', 4],
      [{ target: new Uint8Array(4), maxLength: 2 }, '01', 2],
      [{ maxLength: 3 }, '012', 3],
    ];
    for (const here of [true, false]) {
      for (const [options, text, asked] of cases) {
        const receive = new TestReceive(options);
        const message = announced('0123456789', here);
        pending.deliver(receive, message);
        assert.is(receive.begun, 1);
        if (!here) {
          assert.is(receive.outcome, undefined);
          await turn();
        }
        assert.is(receive.outcome, text);
        assert.is(receive.got!.length, 10);
        assert.is(message.targets[0]?.length, asked);
      }
    }
  }),
);

test(
  'a fetch that fails, at once or later, rejects the receive',
  timebox(5, async () => {
    const { pending } = site();
    const error = new Error('gone');
    const [now, later] = [new TestReceive(), new TestReceive()];
    pending.deliver(
      now,
      announced('x', true, {
        fetch: () => {
          throw error;
        },
      }),
    );
    pending.deliver(later, announced('x', false, { fetch: () => Promise.reject(error) }));
    await turn();
    assert.equal([now.error, later.error], [error, error]);
  }),
);

test(
  'a receive that borrows gets an announced message where it lies, unless a part of it is on its way',
  timebox(5, async () => {
    const { pending, unread } = site();
    const memory = bytesOf('....0123....');
    let released = 0;
    const lend = () => ({ memory, offset: 4, release: () => released++ });
    const receive = new TestReceive({ borrows: true });
    const message = announced('0123', true, { lend });
    pending.deliver(receive, message);
    assert.equal([receive.outcome, receive.got!.lent, textOf(receive.got!.xheader)], ['0123', true, 'h']);
    assert.is(receive.got!.data.buffer, memory.buffer);
    assert.is(message.targets.length, 0);
    receive.release();
    assert.is(released, 1);

    const nowhere = new TestReceive({ borrows: true });
    pending.deliver(nowhere, announced('0123', true));
    assert.equal([nowhere.outcome, nowhere.got!.lent], ['0123', false]);

    const fetching = announced('0123', false, { lend });
    unread.push(fetching);
    unread.head();
    assert.is(pending.lend(fetching), undefined);
    await turn();
    assert.is(fetching.targets.length, 1);
  }),
);

test(
  'a message whose data is on its way is not fetched a second time',
  timebox(5, async () => {
    const { pending, unread } = site();
    const cases: [{ target?: Uint8Array; maxLength?: number; borrows?: boolean }, string][] = [
      [{}, '0123456789'],
      [{ borrows: true }, '0123456789'],
      [{ target: new Uint8Array(4) }, '0123'],
      [{ maxLength: 3 }, '012'],
    ];
    for (const [options, text] of cases) {
      const message = announced('0123456789', false);
      unread.push(message);
      assert.is(unread.head(), undefined);
      assert.ok(unread.remove(message));
      const receive = new TestReceive(options);
      pending.deliver(receive, message);
      assert.is(receive.begun, 1);
      await turn();
      assert.equal([receive.outcome, receive.got!.length, textOf(receive.got!.xheader)], [text, 10, 'h']);
      assert.is(message.targets.length, 1);
      if (options.target) assert.is(receive.got!.data.buffer, options.target.buffer);
    }
    const error = new Error('gone');
    const failing = announced('x', false, { fetch: () => Promise.reject(error) });
    unread.push(failing);
    unread.head();
    unread.remove(failing);
    const receive = new TestReceive();
    pending.deliver(receive, failing);
    await turn();
    assert.is(receive.error, error);
  }),
);

// ─── calls of receive and borrow, and the end ──────────────────────────────────────────────────────────────────────────

test(
  'a call of receive gets the message, a call of borrow a borrowed one, and both undefined at the end',
  timebox(5, () => {
    const { pending } = site();
    const got: unknown[] = [];
    const call = (borrows: boolean) =>
      new ReceiveCall(
        borrows,
        (message) => got.push(message),
        (error) => got.push(error),
      );
    const message = new Message(bytesOf('x'), bytesOf('h'));
    pending.deliver(call(false), message);
    pending.deliver(call(true), message);
    const [plain, borrowed] = got.splice(0) as [Message, BorrowedMessage];
    assert.ok(plain instanceof Message && plain.text() === 'x');
    assert.ok(borrowed instanceof BorrowedMessage && !borrowed.inPlace);
    assert.equal([textOf(borrowed.data), textOf(borrowed.xheader)], ['x', 'h']);
    const posted = new TestReceive();
    for (const each of [call(false), call(true), posted]) pending.add(each);
    pending.end();
    assert.equal(got, [undefined, undefined]);
    assert.is(posted.outcome, 'error ERR_ISTHMUS_CLOSED');
    assert.is(pending.length, 0);
  }),
);

test(
  'at the end of what the peer sends: calls get undefined, posted receives and probes an error, each its own end',
  timebox(5, () => {
    const { matching, pending, unread, connection } = site();
    const got: unknown[] = [];
    const call = () =>
      new ReceiveCall(
        false,
        (message) => got.push(message),
        (error) => got.push(error),
      );
    const posted = new TestReceive();
    const prober = new TestProber(connection);
    for (const each of [call(), posted]) pending.add(each);
    matching.addProber(prober);
    let ends = 0;
    pending.dismiss(() => ends++);
    assert.equal([got, posted.outcome, ends], [[undefined], 'error ERR_ISTHMUS_CLOSED', 2]);
    assert.is((prober.error as IsthmusError).code, 'ERR_ISTHMUS_CLOSED');

    const died = new IsthmusError('ERR_ISTHMUS_PEER_DIED', 'it died');
    const other = new TestReceive();
    for (const each of [call(), other]) pending.add(each);
    pending.dismiss(() => {
      throw died;
    });
    assert.is(got[1], died);
    assert.is(other.error, died);

    unread.push(new Message(NONE));
    const third = new TestReceive();
    pending.add(third);
    pending.dismiss(() => assert.unreachable('something is unread: the application has not seen the end'));
    assert.is(third.outcome, 'error ERR_ISTHMUS_CLOSED');
  }),
);

test.run();

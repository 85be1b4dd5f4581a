/** The receiving half of a connection: from the ring to receives, to the queue of unread messages, to the router. */
import { getEventListeners } from 'node:events';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { IsthmusError } from '../../host/base/errors.js';
import type { BorrowedMessage, Message } from '../../host/base/message.js';
import { MAX_RECORDS } from '../../host/channel/ring-reader.js';
import type { MessageHandler } from '../../host/link/protocol-router.js';
import {
  bytesOf,
  channel,
  type End,
  fill,
  LONG,
  linkPair,
  NONE,
  Records,
  type TestLink,
  TestReceive,
  textOf,
  write,
} from '../support/channel.js';
import { assertBytes, L, MIB, pattern, recordHeader } from '../support/core.js';
import { rejection } from '../support/outcomes.js';
import { timebox } from '../support/timebox.js';

const record = (link: TestLink) => link.core.call.position(link.peer!.index);
/** Whether the reader has taken everything. */
const isEmpty = ({ core, peer }: TestLink) => core.call.readable(peer!.index) === 0;
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Write all of a message, while `b` reads. */
function stream(link: TestLink, b: End, body: Uint8Array, type = 0, xlength = 0): void {
  const records = new Records(link, body, type, xlength);
  while (!records.next()) b.receiver.ring.progress();
  b.receiver.ring.progress();
}

const short = (xheader: Uint8Array) => (xheader.length < 20 ? textOf(xheader) : `(${xheader.length})`);

/** A handler that writes down what it is told. */
function handler(told: string[], sink?: ReturnType<MessageHandler['begin']>): MessageHandler {
  return {
    begin: (xheader, length) => {
      told.push(`begin ${short(xheader)} ${length}`);
      return sink;
    },
    complete: (xheader, data) => {
      told.push(`complete ${short(xheader)} ${data.length}`);
      return undefined;
    },
  };
}

// ─── the ring ──────────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'whole messages and messages in fragments, in order, in memory of their own',
  timebox(5, () => {
    const { b, near } = channel({ polled: false });
    write(near, 'hd1', 0, 2);
    stream(near, b, LONG, 0, 1500);
    write(near, '3');
    b.receiver.ring.progress();
    const [one, two, three] = [...b.receiver.unread] as [Message, Message, Message];
    assert.is(b.receiver.unread.length, 3);
    assert.equal([textOf(one.xheader), textOf(one.data), textOf(three.data)], ['hd', '1', '3']);
    assertBytes(two.xheader, LONG.subarray(0, 1500));
    assertBytes(two.data, LONG.subarray(1500));
    near.core.bytes.fill(0xee, L.WINDOW + near.core.call.tableBytes());
    assert.is(textOf(one.data), '1');
    assertBytes(two.data, LONG.subarray(1500));
  }),
);

test(
  'a link that is not polled is told of each record that was released',
  timebox(5, () => {
    const { b, near, far } = channel({ polled: false });
    for (const text of ['1', '2', '3']) write(near, text);
    b.receiver.ring.progress();
    assert.is(far.releases, 3);
  }),
);

test(
  'beyond the limit of unread bytes nothing is read; each message counts 64 bytes beside its own',
  timebox(5, () => {
    const { b, near } = channel({ limits: { unread: 200 } });
    for (const text of ['1', '2', '3', '4', '5']) write(near, text);
    b.receiver.ring.progress();
    assert.is(b.receiver.unread.length, 4);
    assert.not(isEmpty(near));
    b.receiver.ring.progress();
    assert.is(b.receiver.unread.length, 4);
    b.receiver.unread.shift();
    b.receiver.ring.progress();
    assert.is(b.receiver.unread.length, 4);
    assert.ok(isEmpty(near));
  }),
);

/** An end that has stopped reading, with messages in the ring. */
function stopped(): { b: End; near: TestLink; far: TestLink } {
  const both = channel({ limits: { unread: 1 } });
  for (const text of ['1', '2', '3']) write(both.near, text);
  both.b.receiver.ring.progress();
  assert.is(both.b.receiver.unread.length, 1);
  return both;
}

test(
  'a pending receive, a probe, a demand, a request to drain, a shutdown under way and a close read on beyond it',
  timebox(5, () => {
    const reasons: Record<string, (b: End) => void> = {
      'a receive that takes other messages': (b) => b.receiver.post(new TestReceive({ match: () => false })),
      'a receive for any source': (b) => b.matching.add(new TestReceive({ match: () => false })),
      'a probe of this connection': (b) => {
        b.matching.addProber({ connection: b.connection, match: () => false, found() {}, reject() {} });
      },
      'a probe of any source': (b) => {
        b.matching.addProber({ connection: undefined, match: () => false, found() {}, reject() {} });
      },
      'a demand': (b) => b.receiver.ring.addDemand({ expects: true, heldBytes: 0 }),
      'a request to drain': (b) => {
        b.receiver.ring.drainRequested = true;
      },
      'a shutdown under way': (b) => b.lifecycle.raise('suspend'),
    };
    for (const [what, begin] of Object.entries(reasons)) {
      const { b, near } = stopped();
      begin(b);
      b.receiver.ring.progress();
      assert.ok(isEmpty(near), what);
      assert.is(b.receiver.unread.length, 3, what);
    }
    const others: Record<string, (b: End) => void> = {
      'a demand that expects nothing': (b) => b.receiver.ring.addDemand({ expects: false, heldBytes: 0 }),
      'a probe of another connection': (b) => {
        const connection = {} as End['connection'];
        b.matching.addProber({ connection, match: undefined, found() {}, reject() {} });
      },
    };
    for (const [what, begin] of Object.entries(others)) {
      const { b } = stopped();
      begin(b);
      b.receiver.ring.progress();
      assert.is(b.receiver.unread.length, 1, what);
    }
    const { b, near } = stopped();
    b.receiver.ring.addDemand({ expects: false, heldBytes: 1 });
    b.lifecycle.close('local');
    b.receiver.discard();
    b.receiver.ring.progress();
    assert.ok(isEmpty(near), 'a close');
    assert.is(b.receiver.unread.length, 0);
  }),
);

test(
  'a responder whose link is not confirmed reads on for the confirmation',
  timebox(5, () => {
    const { b, near } = stopped();
    b.lifecycle.phase = 'confirming';
    b.receiver.ring.progress();
    assert.ok(isEmpty(near));
  }),
);

test(
  'bytes that a part of the runtime holds for the application count as unread',
  timebox(5, () => {
    const { b, near } = channel({ limits: { unread: 1000 } });
    const demand = { expects: false, heldBytes: 1000 };
    b.receiver.ring.addDemand(demand);
    write(near, '1');
    b.receiver.ring.progress();
    assert.is(b.receiver.unread.length, 0);
    demand.heldBytes = 999;
    b.receiver.ring.progress();
    assert.is(b.receiver.unread.length, 1);
  }),
);

test(
  'a receive that was served last stops the reading beyond the limit, but not in the middle of a message',
  timebox(5, () => {
    const { b, near } = stopped();
    const receive = new TestReceive();
    b.receiver.post(receive);
    b.receiver.ring.progress();
    assert.is(receive.outcome, '2', 'the queue is not asked: what is unread matched no receive');
    assert.is(b.receiver.unread.length, 1);
    assert.not(isEmpty(near), 'the third one stays');
    for (const target of [undefined, new Uint8Array(LONG.length)]) {
      const other = stopped();
      const long = new TestReceive({ match: ({ length }) => length > 5000, ...(target && { target }) });
      other.b.receiver.post(long);
      other.b.receiver.ring.progress();
      const unread = other.b.receiver.unread.length;
      stream(other.near, other.b, LONG);
      assert.is(long.got?.length, LONG.length, 'also of a message that it gets in place');
      write(other.near, '4');
      other.b.receiver.ring.progress();
      assert.is(other.b.receiver.unread.length, unread);
    }
  }),
);

test(
  'while the connection closes, messages are discarded and the protocol goes on',
  timebox(5, () => {
    const { b, near } = channel();
    const told: string[] = [];
    b.router.register(6, () => handler(told));
    b.lifecycle.close('local');
    write(near, '1');
    write(near, 'xy', 6);
    write(near, '2');
    b.receiver.ring.progress();
    assert.ok(isEmpty(near));
    assert.is(b.receiver.unread.length, 0);
    assert.equal(told, ['begin  2', 'complete  2']);
  }),
);

test(
  'the end of what the peer sends: nothing behind it is read',
  timebox(5, () => {
    const { b, near } = channel({ polled: false });
    write(near, '1');
    near.core.call.sendEof(near.index);
    b.receiver.ring.progress();
    assert.ok(b.receiver.ring.ended);
    assert.is(b.receiver.unread.length, 1);
    assert.is(near.peer!.releases, 2);
  }),
);

test(
  'one pass takes a bounded number of records, and a stream asks for another pass',
  timebox(5, async () => {
    const { b, near, core } = channel({ polled: false, capacity: 65_536 });
    for (let i = 0; i < MAX_RECORDS + 5; i++) write(near, '');
    b.receiver.ring.progress();
    assert.is(b.receiver.unread.length, MAX_RECORDS);
    assert.is(b.passes, 0);
    await turn();
    assert.is(b.passes, 1);
    assert.is(b.receiver.unread.length, MAX_RECORDS + 5);
    await turn();
    assert.is(b.passes, 1, 'nothing is left');
    assert.is(core.call.readable(near.peer!.index), 0);
  }),
);

// ─── violations ────────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'a message over the limit ends the connection before anything is allocated for it',
  timebox(5, () => {
    const { b, near } = channel({ limits: { maxMessageSize: 100 } });
    write(near, pattern(100, 1), 0, 50);
    write(near, pattern(101, 1), 0, 50);
    b.receiver.ring.progress();
    assert.is(b.violations.length, 1);
    const [error] = b.violations as [IsthmusError];
    assert.is(error.code, 'ERR_ISTHMUS_MESSAGE_TOO_LARGE');
    assert.equal([error.needed, error.available], [101, 100]);
    assert.is(b.receiver.unread.length, 1, 'what came before stays');
    assert.ok(b.receiver.ring.ended);
  }),
);

test(
  'so does one that a call of receive would take at once',
  timebox(5, async () => {
    const { b, near } = channel({ limits: { maxMessageSize: 100 } });
    write(near, pattern(101, 1), 0, 50);
    assert.is(await b.receiver.receive(undefined), undefined);
    assert.is(b.violations[0]?.code, 'ERR_ISTHMUS_MESSAGE_TOO_LARGE');
  }),
);

test(
  'what the core calls broken ends the connection; what came before stays',
  timebox(5, () => {
    const forge = (header: bigint) => {
      const { b, near, core, far } = channel();
      write(near, '1');
      b.receiver.ring.progress();
      const at = core.call.ringAddress(far.index) + L.RING_DATA + record(near);
      core.setU64(at, header);
      b.receiver.ring.progress();
      assert.is(b.receiver.unread.length, 1);
      assert.is(b.violations.length, 1);
      return b.violations[0] as IsthmusError;
    };
    const record24 = recordHeader(0xffff, L.RECORD_FIRST, 24);
    assert.match(forge(record24).message, /a record that cannot be/);
    const more = forge(recordHeader(8, L.RECORD_MORE, 24));
    assert.is(more.code, 'ERR_ISTHMUS_PEER_PROTOCOL');
    assert.match(more.message, /fragments that do not fit together/);
  }),
);

test(
  'a type that no handler takes, and a handler that throws, end the connection',
  timebox(5, () => {
    const { b, near } = channel();
    write(near, '', 77);
    b.receiver.ring.progress();
    assert.match(b.violations[0]!.message, /type 77, which is not supported/);
    const failing: Record<string, MessageHandler> = {
      begin: {
        begin: () => {
          throw new IsthmusError('ERR_ISTHMUS_RMA_DENIED', 'begin');
        },
        complete: () => undefined,
      },
      complete: {
        begin: () => undefined,
        complete: () => {
          throw new Error('complete');
        },
      },
    };
    const codes = Object.values(failing).map((one) => {
      const { b, near } = channel();
      b.router.register(6, () => one);
      write(near, '', 6);
      b.receiver.ring.progress();
      return b.violations.map(({ code, message }) => `${code} ${message}`);
    });
    assert.equal(codes, [['ERR_ISTHMUS_RMA_DENIED begin'], ['ERR_ISTHMUS_PEER_PROTOCOL Error: complete']]);
  }),
);

// ─── the router ────────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'a handler gets the beginning with the xheader, and the end with the data in its sink',
  timebox(5, () => {
    const { b, near } = channel();
    const told: string[] = [];
    const target = new Uint8Array(6000);
    b.router.register(6, () => handler(told, { target }));
    b.router.register(7, () => handler(told));
    write(near, 'xdata', 6, 1);
    b.receiver.ring.progress();
    assert.is(textOf(target.subarray(0, 4)), 'data');
    stream(near, b, LONG, 6, 2000);
    assertBytes(target, LONG.subarray(2000, 8000), 'the rest is dropped');
    stream(near, b, LONG, 7, 0);
    assert.equal(told, [
      'begin x 4',
      'complete x 4',
      'begin (2000) 8000',
      'complete (2000) 6000',
      'begin  10000',
      'complete  10000',
    ]);
    assert.is(b.receiver.unread.length, 0);
  }),
);

test(
  'a sink that closes between two fragments gets nothing more',
  timebox(5, () => {
    const { b, near } = channel();
    const told: string[] = [];
    const target = new Uint8Array(10_000);
    let open = true;
    b.router.register(6, () => handler(told, { target, open: () => open }));
    const records = new Records(near, LONG, 6);
    records.next();
    records.next();
    b.receiver.ring.progress();
    const have = 1072 + 1080;
    assertBytes(target.subarray(0, have), LONG.subarray(0, have));
    open = false;
    while (!records.next()) b.receiver.ring.progress();
    b.receiver.ring.progress();
    assert.ok(target.subarray(have).every((byte) => byte === 0));
    assert.equal(told, ['begin  10000', 'complete  0']);
  }),
);

test(
  'a message that a handler announces is the application’s: to a receive, to the queue, or dropped while it closes',
  timebox(5, () => {
    const { b, near } = channel();
    const dropped: number[] = [];
    b.router.register(4, () => ({
      begin: () => undefined,
      complete: (xheader, data) => ({
        xheader,
        length: 3,
        here: true,
        fetch: () => bytesOf(`<${textOf(data)}>`),
        lend: () => undefined,
        drop: () => dropped.push(data.length),
      }),
    }));
    const receive = new TestReceive({ match: ({ length }) => length === 3 });
    b.receiver.post(receive);
    write(near, 'x', 4);
    write(near, 'y', 4);
    b.receiver.ring.progress();
    assert.is(receive.outcome, '<x>');
    assert.is(b.receiver.unread.length, 1);
    b.lifecycle.close('local');
    write(near, 'zz', 4);
    b.receiver.ring.progress();
    assert.equal(dropped, [2]);
  }),
);

// ─── receive and borrow ────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'receive takes what is unread, then what is in the ring, and waits',
  timebox(5, async () => {
    const { b, near } = channel();
    write(near, 'h1', 0, 1);
    b.receiver.ring.progress();
    write(near, 'h2', 0, 1);
    const texts: string[] = [];
    for (let i = 0; i < 2; i++) {
      const message = (await b.receiver.receive(undefined)) as Message;
      texts.push(textOf(message.xheader) + message.text());
    }
    assert.equal(texts, ['h1', 'h2']);
    const next = b.receiver.receive(undefined);
    const third = b.receiver.receive(undefined);
    write(near, '3');
    write(near, '4');
    b.poller.pollOnce(0);
    assert.is((await next)?.text(), '3');
    assert.is((await third)?.text(), '4');
  }),
);

test(
  'receive gives the event loop its turn when one is due',
  timebox(5, async () => {
    const { b, near } = channel();
    let go = () => {};
    for (const unread of [false, true]) {
      write(near, 'x');
      if (unread) b.receiver.ring.progress();
      b.poller.due = new Promise((resolve) => {
        go = resolve;
      });
      let done = false;
      const received = b.receiver.receive(undefined).then((message) => {
        done = true;
        return message;
      });
      await turn();
      assert.not(done);
      go();
      assert.is((await received)?.text(), 'x');
    }
  }),
);

test(
  'aborting a receive loses no message, and leaves no listener',
  timebox(5, async () => {
    const { b, near } = channel();
    const controller = new AbortController();
    const { signal } = controller;
    const first = b.receiver.receive(undefined);
    const waits = b.receiver.receive(signal);
    const borrows = b.receiver.borrow(signal);
    assert.is(getEventListeners(signal, 'abort').length, 2);
    controller.abort(new Error('enough'));
    assert.is((await rejection(waits)).message, 'enough');
    assert.is((await rejection(borrows)).message, 'enough');
    assert.is(getEventListeners(signal, 'abort').length, 0);
    assert.is(b.receiver.pending.length, 1);
    write(near, '1');
    write(near, '2');
    b.poller.pollOnce(0);
    assert.is((await first)?.text(), '1');
    assert.is((await b.receiver.receive(undefined))?.text(), '2');

    const other = new AbortController();
    const served = b.receiver.receive(other.signal);
    write(near, '3');
    b.poller.pollOnce(0);
    assert.is((await served)?.text(), '3');
    assert.is(getEventListeners(other.signal, 'abort').length, 0);
  }),
);

test(
  'the end of input: undefined for all that wait and all that ask; what ended the connection where that was an error',
  timebox(5, async () => {
    const { b, near } = channel();
    let ends = 0;
    b.receiver.onEndOfInput = () => {
      ends++;
      return undefined;
    };
    const waits = [b.receiver.receive(undefined), b.receiver.borrow(undefined)];
    near.core.call.sendEof(near.index);
    b.poller.pollOnce(0);
    assert.equal(await Promise.all(waits), [undefined, undefined]);
    assert.is(await b.receiver.receive(undefined), undefined);
    assert.is(await b.receiver.borrow(undefined), undefined);
    assert.is(ends, 4);
    const error = new IsthmusError('ERR_ISTHMUS_PEER_DIED', 'it died');
    b.receiver.onEndOfInput = () => {
      throw error;
    };
    assert.is(await rejection(b.receiver.receive(undefined)), error);
    assert.is(await rejection(b.receiver.borrow(undefined)), error);
  }),
);

test(
  'an end behind unread messages is seen when those are taken',
  timebox(5, async () => {
    const { b, near } = channel();
    let ends = 0;
    b.receiver.onEndOfInput = () => {
      ends++;
      return undefined;
    };
    const other = new TestReceive({ match: () => false });
    b.receiver.post(other);
    write(near, '1');
    near.core.call.sendEof(near.index);
    b.poller.pollOnce(0);
    assert.is(other.outcome, 'error ERR_ISTHMUS_CLOSED');
    assert.is(ends, 0, 'the application has not seen the end');
    assert.is((await b.receiver.receive(undefined))?.text(), '1');
    assert.is(await b.receiver.receive(undefined), undefined);
    assert.is(ends, 1);
  }),
);

test(
  'borrowed messages lie in the ring; their room comes back in the order of the ring',
  timebox(5, async () => {
    const { a, b, core, near } = channel();
    const texts = ['h1', 'h2', 'h3'];
    for (const text of texts) write(near, text, 0, 1);
    const borrowed = (await Promise.all(texts.map(() => b.receiver.borrow(undefined)))) as BorrowedMessage[];
    assert.equal(
      borrowed.map(({ xheader, data, inPlace }) => `${textOf(xheader)}${textOf(data)} ${inPlace}`),
      ['h1 true', 'h2 true', 'h3 true'],
    );
    const [one, two, three] = borrowed as [BorrowedMessage, BorrowedMessage, BorrowedMessage];
    assert.is(one.data.buffer, core.bytes.buffer);
    const unread = () => a.sender.unread();
    const each = unread() / 3;
    two.release();
    assert.is(unread(), 3 * each, 'the first one is still there');
    one.release();
    assert.is(unread(), each);
    one.release();
    assert.is(unread(), each, 'once');
    write(near, 'h4', 0, 1);
    const four = (await b.receiver.borrow(undefined)) as BorrowedMessage;
    three.release();
    assert.is(unread(), each);
    four.release();
    assert.is(unread(), 0);
  }),
);

test(
  'a pending borrow gets the record in place; what came in fragments, or over a stream, is a copy',
  timebox(5, async () => {
    const { b, near, core } = channel();
    const borrow = b.receiver.borrow(undefined);
    write(near, 'hx', 0, 1);
    b.poller.pollOnce(0);
    const lent = (await borrow) as BorrowedMessage;
    assert.ok(lent.inPlace);
    assert.is(lent.data.buffer, core.bytes.buffer);
    assert.is(textOf(lent.xheader), 'h');
    lent.release();
    const fragments = b.receiver.borrow(undefined);
    stream(near, b, LONG);
    const copy = (await fragments) as BorrowedMessage;
    assert.not(copy.inPlace);
    assertBytes(copy.data, LONG);

    const other = channel({ polled: false });
    write(other.near, '1');
    const now = (await other.b.receiver.borrow(undefined)) as BorrowedMessage;
    const later = other.b.receiver.borrow(undefined);
    write(other.near, '2');
    other.b.receiver.ring.progress();
    assert.equal([now.inPlace, textOf(now.data)], [false, '1']);
    const next = (await later) as BorrowedMessage;
    assert.equal([next.inPlace, textOf(next.data)], [false, '2']);
    assert.is(other.far.releases, 2);
  }),
);

test(
  'an unread message that is borrowed is a copy',
  timebox(5, async () => {
    const { b, near } = channel();
    write(near, '1');
    b.receiver.ring.progress();
    const borrowed = (await b.receiver.borrow(undefined)) as BorrowedMessage;
    assert.equal([borrowed.inPlace, textOf(borrowed.data)], [false, '1']);
  }),
);

test(
  'taking the last unread message reads on',
  timebox(5, async () => {
    const { b } = stopped();
    const wakes = b.poller.wakes;
    assert.is((await b.receiver.receive(undefined))?.text(), '1');
    assert.ok(b.poller.wakes > wakes);
    b.poller.pollOnce(0);
    assert.is(b.receiver.unread.length, 1);
  }),
);

// ─── posted receives ───────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'a posted receive gets its message whole or in fragments, in its target, cut to what it keeps',
  timebox(5, () => {
    const { b, near } = channel();
    const [tiny, wide] = [new Uint8Array(4), new Uint8Array(20)];
    const receives = [
      new TestReceive(),
      new TestReceive({ target: tiny }),
      new TestReceive({ target: wide, maxLength: 6 }),
      new TestReceive({ maxLength: 2 }),
    ];
    for (const receive of receives) b.receiver.post(receive);
    for (const _ of receives) write(near, 'h0123456789', 0, 1);
    b.receiver.ring.progress();
    assert.equal(
      receives.map(({ got }) => `${textOf(got!.xheader)} ${textOf(got!.data)} ${got!.length}`),
      ['h 0123456789 10', 'h 0123 10', 'h 012345 10', 'h 01 10'],
    );
    assert.is(receives[1]!.got!.data.buffer, tiny.buffer);

    const long = [
      new TestReceive(),
      new TestReceive({ target: new Uint8Array(3000) }),
      new TestReceive({ target: new Uint8Array(20_000) }),
      new TestReceive({ maxLength: 1100 }),
    ];
    for (const receive of long) b.receiver.post(receive);
    for (const _ of long) stream(near, b, LONG, 0, 1000);
    for (const [i, { got, target, begun }] of long.entries()) {
      const kept = [9000, 3000, 9000, 1100][i]!;
      assert.is(got!.data.length, kept, `${i}`);
      assert.is(got!.length, 9000);
      assertBytes(got!.data, LONG.subarray(1000, 1000 + kept));
      assert.is(got!.xheader.length, 1000);
      if (target) assert.is(got!.data.buffer, target.buffer);
      assert.is(begun, i === 0 ? 0 : 1, 'what goes into its place cannot be cancelled');
    }
  }),
);

test(
  'an unread message goes to the receive that is offered it; the others stay in their order',
  timebox(5, () => {
    const { b, near } = channel();
    for (const text of ['1', '22', '3']) write(near, text);
    b.receiver.ring.progress();
    const two = new TestReceive({ match: ({ length }) => length === 2 });
    assert.ok(b.receiver.offer(two));
    assert.is(two.outcome, '22');
    assert.not(b.receiver.offer(new TestReceive({ match: () => false })));
    const any = new TestReceive();
    assert.ok(b.receiver.offer(any));
    assert.is(any.outcome, '1');
    assert.equal(b.texts(), ['3']);
    assert.throws(
      () => {
        write(near, '4');
        b.receiver.ring.progress();
        b.receiver.find(() => {
          throw new Error('oh');
        });
      },
      (error: Error) => error.message === 'oh',
    );
  }),
);

test(
  'a match function that throws rejects its own receive; the message goes to the next one',
  timebox(5, () => {
    const { b, near } = channel();
    const bad = new TestReceive({
      match: () => {
        throw new Error('oh');
      },
    });
    const good = new TestReceive();
    b.receiver.post(bad);
    b.receiver.post(good);
    write(near, '1');
    b.receiver.ring.progress();
    assert.equal([bad.outcome, good.outcome], ['error Error: oh', '1']);
    assert.is(b.violations.length, 0);
  }),
);

test(
  'a match function may end the connection: the message is lost, and nothing is read behind it',
  timebox(5, () => {
    const cases = [true, false].flatMap((whole) =>
      [true, false].flatMap((takes) => [true, false].map((own) => ({ whole, takes, own }))),
    );
    for (const { whole, takes, own } of cases) {
      {
        const what = JSON.stringify({ whole, takes, own });
        const { b, near, core, far } = channel();
        const error = new IsthmusError('ERR_ISTHMUS_CLOSED', 'by its own function');
        const match = () => {
          b.cut(error);
          return takes;
        };
        const receive = new TestReceive({ match, target: new Uint8Array(10) });
        if (own) b.receiver.post(receive);
        else b.matching.add(receive);
        if (whole) write(near, '1');
        else new Records(near, LONG).next();
        write(near.peer!, 'from the other side');
        b.receiver.ring.progress();
        // One for any source goes on waiting for other connections, unless it has taken the message.
        assert.is(receive.outcome, own || takes ? 'error ERR_ISTHMUS_CLOSED' : undefined, what);
        assert.is(b.matching.waiting, !own && !takes, what);
        assert.is(b.receiver.unread.length, 0);
        assert.is(b.receiver.ring.partial, undefined);
        assert.equal(
          [b.violations.length, core.call.position(far.index)],
          [0, 0],
          'nothing is done to a link that is gone',
        );
      }
    }
  }),
);

// ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'draining takes at most a ring full, however fast the peer writes on',
  timebox(5, () => {
    const { b, near, core } = channel({ limits: { unread: 1 } });
    let taken = 0;
    const { call } = core;
    const release = call.release;
    // Each record that is taken is followed by another one.
    (core as { call: unknown }).call = {
      ...call,
      release: (index: number) => {
        taken++;
        release(index);
        call.peek(index);
        if (taken < 10_000) write(near, '12345678');
      },
    };
    write(near, '12345678');
    b.detach();
    b.lifecycle.phase = 'idle';
    b.attach(near.peer!);
    b.receiver.ring.drain();
    const records = 4096 / 24;
    assert.ok(taken > records && taken < records + MAX_RECORDS + 1, `${taken}`);
  }),
);

test(
  'draining reads whatever is unread; a lost peer gets no room back',
  timebox(5, () => {
    const { a, b, near } = channel({ limits: { unread: 1 } });
    fill(a);
    const before = a.sender.unread();
    b.receiver.ring.drain(true);
    assert.ok(isEmpty(near));
    assert.is(a.sender.unread(), before);
    assert.not(a.sender.trySend(0, NONE, NONE));
    const other = channel();
    fill(other.a);
    other.b.receiver.ring.drain();
    assert.is(other.a.sender.unread(), 0);
  }),
);

test(
  'what has begun comes again from its beginning over the next link, to the receive that it was promised to',
  timebox(5, () => {
    const { a, b, near, core } = channel();
    const target = new Uint8Array(20_000);
    const promised = new TestReceive({ target });
    b.receiver.post(promised);
    const next = new TestReceive();
    b.receiver.post(next);
    new Records(near, LONG).next();
    b.receiver.ring.progress();
    assert.is(promised.begun, 1);
    assert.is(b.receiver.pending.length, 1);
    b.receiver.drainAndForget();
    assert.is(b.receiver.ring.partial, undefined);
    assert.is(b.receiver.pending.length, 2);
    a.detach();
    b.detach();
    b.lifecycle.phase = 'suspended';
    const [again, far] = linkPair(core);
    a.attach(again);
    b.attach(far);
    stream(again, b, LONG);
    write(again, '2');
    b.receiver.ring.progress();
    assertBytes(promised.got!.data, LONG);
    assert.is(next.outcome, '2');
  }),
);

test(
  'a cut rejects the receive that has begun, and keeps what is unread',
  timebox(5, () => {
    const { b, near } = channel();
    write(near, '0');
    b.receiver.ring.progress();
    const receive = new TestReceive({ target: new Uint8Array(20_000) });
    b.receiver.post(receive);
    new Records(near, LONG).next();
    b.receiver.ring.progress();
    b.receiver.cut(new IsthmusError('ERR_ISTHMUS_PEER_DIED', 'it died'));
    assert.is(receive.outcome, 'error ERR_ISTHMUS_PEER_DIED');
    assert.equal(b.texts(), ['0']);
  }),
);

test(
  'a close drops what is unread and the rest of what has begun, but fills a target',
  timebox(5, () => {
    const { b, near } = channel();
    const records = new Records(near, LONG);
    records.next();
    b.receiver.ring.progress();
    assert.is(b.receiver.unread.length, 0);
    b.lifecycle.close('local');
    b.receiver.discard();
    assert.is(b.receiver.ring.partial?.room, 0);
    while (!records.next()) b.receiver.ring.progress();
    write(near, '2');
    b.receiver.ring.progress();
    assert.is(b.receiver.unread.length, 0);
    assert.ok(isEmpty(near));

    const other = channel();
    const receive = new TestReceive({ target: new Uint8Array(20_000) });
    other.b.receiver.post(receive);
    const rest = new Records(other.near, LONG);
    rest.next();
    other.b.receiver.ring.progress();
    other.b.lifecycle.close('local');
    other.b.receiver.discard();
    while (!rest.next()) other.b.receiver.ring.progress();
    other.b.receiver.ring.progress();
    assertBytes(receive.got!.data, LONG);
  }),
);

test(
  'a message that begins while the connection closes takes no memory',
  timebox(5, () => {
    const { b, near } = channel();
    b.lifecycle.close('local');
    b.receiver.discard();
    const body = new Uint8Array(MIB);
    const records = new Records(near, body);
    records.next();
    b.receiver.ring.progress();
    assert.is(b.receiver.ring.partial?.data.length, 0);
    while (!records.next()) b.receiver.ring.progress();
    b.receiver.ring.progress();
    assert.is(b.receiver.unread.length, 0);
  }),
);

test(
  'a failed fetch of an announced message ends the connection, unless that is closing and has discarded it',
  timebox(5, async () => {
    const announced = {
      xheader: NONE,
      length: 5,
      here: false,
      fetch: () => Promise.reject(new Error('gone')),
      lend: () => undefined,
      drop() {},
    };
    const closing = channel();
    closing.b.receiver.unread.push(announced);
    closing.b.receiver.unread.head();
    closing.b.lifecycle.close('local');
    closing.b.receiver.discard();
    await turn();
    assert.is(closing.b.violations.length, 0);
    const { b } = channel();
    b.receiver.unread.push(announced);
    assert.is(b.receiver.unread.head(), undefined);
    await turn();
    assert.equal(
      b.violations.map(({ code, message }) => `${code} ${message}`),
      ['ERR_ISTHMUS_PEER_PROTOCOL Error: gone'],
    );
  }),
);

test.run();

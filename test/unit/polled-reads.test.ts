/** Reads that never wait: `tryReceiveInto` and `poll`; and what the sender is told about how messages are read. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ReceiveInfo } from '../../host/api/connection.js';
import { IsthmusError } from '../../host/base/errors.js';
import type { Message } from '../../host/base/message.js';
import { ReceiveMode } from '../../host/link/receive-mode.js';
import {
  bytesOf,
  type Channel,
  channel,
  type End,
  fill,
  LONG,
  linkPair,
  NONE,
  Records,
  TestReceive,
  TestRegion,
  textOf,
  write,
} from '../support/channel.js';
import { assertBytes, L } from '../support/core.js';
import { thrownBy } from '../support/outcomes.js';
import { timebox } from '../support/timebox.js';

const CLOSED = 'ERR_ISTHMUS_CLOSED';
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** The text that tryReceiveInto gives; its number, where that is negative. */
function read({ polled }: End, target = new Uint8Array(64), info?: ReceiveInfo): string | number {
  const length = polled.tryReceiveInto(target, info);
  return length < 0 ? length : textOf(target.subarray(0, length));
}

/** The texts that a poll hands over. */
function poll({ polled }: End, limit = 100): string[] {
  const texts: string[] = [];
  const count = polled.poll((memory, offset, length) => {
    texts.push(textOf(memory.subarray(offset, offset + length)));
  }, limit);
  assert.is(count, texts.length);
  return texts;
}

/** An announced message that lies nowhere near, until the test says so. */
function announced(text: string, here: boolean) {
  const told: string[] = [];
  let arrive: (data: Uint8Array) => void = () => {};
  return {
    told,
    arrive: () => arrive(bytesOf(text)),
    xheader: bytesOf('h'),
    length: text.length,
    here,
    fetch: (target: Uint8Array | undefined) => {
      told.push(`fetch ${target?.length}`);
      if (!here) {
        return new Promise<Uint8Array>((resolve) => {
          arrive = resolve;
        });
      }
      const place = target?.subarray(0, text.length) ?? new Uint8Array(text.length);
      place.set(bytesOf(text));
      return place;
    },
    lend: () => {
      if (!here) return undefined;
      told.push('lend');
      return { memory: bytesOf(`..${text}`), offset: 2, release: () => told.push('release') };
    },
    drop() {},
  };
}

// ─── tryReceiveInto ────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'a message in one piece is copied to the beginning of the target, and no byte more',
  timebox(5, () => {
    const { b, near } = channel();
    assert.is(read(b), -1);
    write(near, 'abc');
    write(near, '');
    const target = new Uint8Array(8).fill(0xee);
    assert.is(b.polled.tryReceiveInto(target), 3);
    assert.is(textOf(target.subarray(0, 3)), 'abc');
    assert.ok(target.subarray(3).every((byte) => byte === 0xee));
    assert.is(b.polled.tryReceiveInto(target), 0, 'an empty message');
    assert.is(b.polled.tryReceiveInto(target), -1);
  }),
);

test(
  'a target that is too small: the message stays, and the error says what it needs',
  timebox(5, () => {
    const lie: Record<string, (both: Channel) => void> = {
      'in the ring': ({ near }) => write(near, '12345'),
      unread: ({ b, near }) => {
        write(near, '12345');
        b.receiver.ring.progress();
      },
    };
    for (const [where, put] of Object.entries(lie)) {
      const both = channel();
      put(both);
      for (let time = 0; time < 2; time++) {
        const error = thrownBy(() => both.b.polled.tryReceiveInto(new Uint8Array(4)));
        assert.equal([error.code, error.needed, error.available], ['ERR_ISTHMUS_BUFFER_TOO_SMALL', 5, 4], where);
      }
      assert.is(read(both.b), '12345', where);
      assert.is(read(both.b), -1);
    }
    const { b, near } = channel();
    const records = new Records(near, LONG);
    while (!records.next()) assert.is(read(b, new Uint8Array(100)), -1);
    for (let time = 0; time < 2; time++) {
      const error = thrownBy(() => b.polled.tryReceiveInto(new Uint8Array(100)));
      assert.equal([error.code, error.needed], ['ERR_ISTHMUS_BUFFER_TOO_SMALL', LONG.length]);
    }
    const target = new Uint8Array(LONG.length);
    assert.is(b.polled.tryReceiveInto(target), LONG.length);
    assertBytes(target, LONG);
  }),
);

test(
  'the xheader: its length always, its bytes where there is room for all of them',
  timebox(5, () => {
    const put: Record<string, (both: Channel) => void> = {
      'in the ring': () => {},
      unread: ({ b }) => b.receiver.ring.progress(),
    };
    for (const [where, then] of Object.entries(put)) {
      for (const [room, expected] of [
        [2, 'hd'],
        [3, 'hd.'],
        [1, '.'],
      ] as const) {
        const both = channel();
        write(both.near, 'hd12', 0, 2);
        then(both);
        const info: ReceiveInfo = { xheader: bytesOf('.'.repeat(room)), xheaderLength: -1 };
        assert.is(read(both.b, undefined, info), '12');
        assert.equal([info.xheaderLength, textOf(info.xheader!)], [2, expected], where);
        write(both.near, '3');
        then(both);
        const bare: ReceiveInfo = { xheaderLength: -1 };
        assert.is(read(both.b, undefined, bare), '3');
        assert.is(bare.xheaderLength, 0);
      }
    }
  }),
);

test(
  'a message in pieces goes to the target as it comes, and to memory of its own when it is interrupted',
  timebox(5, () => {
    const { b, near } = channel();
    const body = LONG.subarray(0, 3000);
    const whole = new Records(near, body);
    while (!whole.next());
    const info: ReceiveInfo = { xheader: NONE, xheaderLength: -1 };
    const target = new Uint8Array(3000);
    assert.is(b.polled.tryReceiveInto(target, info), 3000);
    assertBytes(target, body);
    assert.is(info.xheaderLength, 0);

    const parts = new Records(near, LONG);
    const first = new Uint8Array(LONG.length);
    parts.next();
    assert.is(b.polled.tryReceiveInto(first), -1);
    first.fill(0xee);
    const second = new Uint8Array(LONG.length).fill(0xdd);
    while (!parts.next()) assert.is(b.polled.tryReceiveInto(second), -1);
    assert.is(b.polled.tryReceiveInto(second), LONG.length);
    assertBytes(second, LONG);
    assert.ok(
      first.every((byte) => byte === 0xee),
      'the first target was the caller’s again',
    );
    assert.is(b.violations.length, 0);
  }),
);

test(
  'a message in pieces with an xheader, or too long for the target, is put together; also in the caller’s memory',
  timebox(5, () => {
    const { b, near } = channel();
    const records = new Records(near, LONG, 0, 1500);
    records.next();
    const [first, second] = [new Uint8Array(LONG.length), new Uint8Array(LONG.length)];
    assert.is(b.polled.tryReceiveInto(first), -1);
    records.next();
    assert.is(b.polled.tryReceiveInto(first), -1, 'the data has begun in the target');
    first.fill(0xee);
    while (!records.next()) assert.is(b.polled.tryReceiveInto(second), -1);
    const info: ReceiveInfo = { xheader: new Uint8Array(1500), xheaderLength: -1 };
    assert.is(b.polled.tryReceiveInto(second, info), LONG.length - 1500);
    assertBytes(second.subarray(0, LONG.length - 1500), LONG.subarray(1500));
    assert.is(info.xheaderLength, 1500);
    assertBytes(info.xheader!, LONG.subarray(0, 1500));
    assert.ok(first.every((byte) => byte === 0xee));

    // All of it in the ring: straight to the target.
    const short = new Records(near, LONG.subarray(0, 3000), 0, 5);
    while (!short.next());
    const target = new Uint8Array(4000);
    assert.is(b.polled.tryReceiveInto(target), 2995);
    assertBytes(target.subarray(0, 2995), LONG.subarray(5, 3000));
  }),
);

test(
  'pieces that do not fit together end the connection',
  timebox(5, () => {
    const { b, near, core, far } = channel();
    new Records(near, LONG).next();
    const at = core.call.ringAddress(far.index) + L.RING_DATA + 1088;
    core.setU64(at, 0xff00000000000001n);
    assert.is(b.polled.tryReceiveInto(new Uint8Array(LONG.length)), -1);
    assert.is(b.violations.length, 1);
    assert.is(b.violations[0]!.code, 'ERR_ISTHMUS_PEER_PROTOCOL');
  }),
);

test(
  'a message over the limit ends the connection here as well',
  timebox(5, () => {
    const { b, near } = channel({ limits: { maxMessageSize: 2000 } });
    new Records(near, LONG).next();
    const target = new Uint8Array(LONG.length);
    assert.is(thrownBy(() => b.polled.tryReceiveInto(target)).code, CLOSED);
    assert.is(b.violations[0]?.code, 'ERR_ISTHMUS_MESSAGE_TOO_LARGE');
  }),
);

test(
  'what is unread comes first, then what is in the ring',
  timebox(5, () => {
    const { b, near } = channel();
    write(near, '1');
    b.receiver.ring.progress();
    write(near, '2');
    assert.equal([read(b), read(b), read(b)], ['1', '2', -1]);
    write(near, '3');
    b.receiver.ring.progress();
    write(near, '4');
    assert.equal(poll(b), ['3', '4']);
  }),
);

test(
  'the end of input: an error with its code, whatever ended it; what came before is read first',
  timebox(5, () => {
    const readers = [(b: End) => read(b), (b: End) => poll(b)[0]];
    for (const reader of readers) {
      const { b, near } = channel();
      let ends = 0;
      b.receiver.onEndOfInput = () => {
        ends++;
        return undefined;
      };
      write(near, '1');
      near.core.call.sendEof(near.index);
      assert.is(reader(b), '1');
      assert.is(thrownBy(() => reader(b)).code, CLOSED);
      assert.is(thrownBy(() => reader(b)).code, CLOSED);
      assert.is(ends, 2);
      const error = new IsthmusError('ERR_ISTHMUS_PEER_DIED', 'it died');
      b.receiver.onEndOfInput = () => {
        throw error;
      };
      assert.is(
        thrownBy(() => reader(b)),
        error,
      );
    }
    const { b, near } = channel();
    write(near, '1');
    near.core.call.sendEof(near.index);
    assert.equal(poll(b, 100), ['1'], 'the end is told with the next call');
    assert.is(thrownBy(() => poll(b)).code, CLOSED);
  }),
);

test(
  'a call that finds nothing sends what waits',
  timebox(5, () => {
    for (const reader of [(b: End) => read(b), (b: End) => poll(b)]) {
      const { a, b } = channel();
      fill(b);
      b.sender.queue(0, NONE, bytesOf('1'), -1);
      a.texts();
      reader(b);
      assert.is(b.sender.waiting, 0);
    }
  }),
);

test(
  'the poller leaves the rings to an application that polls, until a receive waits',
  timebox(5, () => {
    for (const reader of [(b: End) => read(b), (b: End) => poll(b)]) {
      const { b, near } = channel();
      reader(b);
      write(near, '1');
      b.poller.pollOnce(0);
      assert.is(b.passes, 0, 'the application polls');
      const receive = new TestReceive();
      b.receiver.post(receive);
      b.binding.wake();
      b.poller.pollOnce(0);
      assert.is(receive.outcome, '1');
      reader(b);
    }
  }),
);

test(
  'a call of receive or borrow takes the rings back to the poller',
  timebox(5, async () => {
    for (const borrows of [false, true]) {
      const { b, near } = channel();
      read(b);
      const call = borrows ? b.receiver.borrow(undefined) : b.receiver.receive(undefined);
      write(near, '1');
      b.poller.pollOnce(0);
      assert.is(textOf((await call)!.data), '1');
    }
  }),
);

test(
  'a receive that is posted within the handler of a poll is served behind it',
  timebox(5, async () => {
    for (const polledLink of [true, false]) {
      const { b, near } = channel({ polled: polledLink });
      for (const text of ['1', '2']) write(near, text);
      const receive = new TestReceive();
      b.polled.poll(() => b.receiver.post(receive), 1);
      b.poller.pollOnce(0);
      await turn();
      assert.is(receive.outcome, '2');
    }
  }),
);

test(
  'a message that a pending receive takes is not the caller’s',
  timebox(5, () => {
    for (const reader of [(b: End) => [read(b)].filter((text) => text !== -1), poll]) {
      const { b, near } = channel();
      const receive = new TestReceive({ match: ({ length }) => length === 2 });
      b.receiver.post(receive);
      write(near, '22');
      write(near, '1');
      assert.equal(reader(b), ['1']);
      assert.is(receive.outcome, '22');
    }
  }),
);

test(
  'announced messages: copied from where they lie; -1 while the data is on its way',
  timebox(5, async () => {
    const { b } = channel();
    const info: ReceiveInfo = { xheader: new Uint8Array(1), xheaderLength: 0 };
    const near = announced('12345', true);
    b.receiver.unread.push(near);
    assert.is(read(b, new Uint8Array(8), info), '12345');
    assert.equal([near.told, info.xheaderLength, textOf(info.xheader!)], [['fetch 8'], 1, 'h']);
    const large = announced('12345', true);
    b.receiver.unread.push(large);
    const error = thrownBy(() => read(b, new Uint8Array(4)));
    assert.equal([error.code, error.needed], ['ERR_ISTHMUS_BUFFER_TOO_SMALL', 5]);
    assert.is(read(b), '12345');
    const distant = announced('678', false);
    b.receiver.unread.push(distant);
    assert.equal([read(b), read(b), poll(b)], [-1, -1, []]);
    distant.arrive();
    await turn();
    assert.equal([read(b), distant.told], ['678', ['fetch undefined']]);
  }),
);

// ─── poll ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'a poll hands over at most as many messages as it may, where they lie',
  timebox(5, () => {
    const { b, near, core } = channel();
    for (const text of ['h1', 'h2', 'h3']) write(near, text, 0, 1);
    assert.equal(poll(b, 0), []);
    assert.equal(poll(b, 2), ['1', '2']);
    b.polled.poll((memory, offset, length) => {
      assert.is(memory, core.bytes);
      assert.is(textOf(memory.subarray(offset, offset + length)), '3');
    }, 1);
    assert.equal(poll(b), []);
    const records = new Records(near, LONG);
    while (!records.next()) assert.equal(poll(b), []);
    assert.equal(poll(b), [textOf(LONG)]);
  }),
);

test(
  'a handler that throws has had its message: the record is released, and the next one follows',
  timebox(5, () => {
    const { a, b, near } = channel();
    write(near, '1');
    write(near, '2');
    const oh = () => {
      throw new Error('oh');
    };
    assert.is(thrownBy<Error>(() => b.polled.poll(oh, 5)).message, 'oh');
    assert.equal(poll(b), ['2']);
    assert.is(a.sender.unread(), 0);
    write(near, '3');
    b.receiver.ring.progress();
    assert.throws(() => b.polled.poll(oh, 5));
    assert.equal(poll(b), [], 'the same for one that was unread');
    const lent = announced('4', true);
    b.receiver.unread.push(lent);
    assert.throws(() => b.polled.poll(oh, 5));
    assert.equal(lent.told, ['lend', 'release']);
  }),
);

test(
  'within the handler of a poll: no other poll, and no other read gets the record that it has',
  timebox(5, async () => {
    const { b, near } = channel();
    write(near, '1');
    write(near, '2');
    const found: unknown[] = [];
    const waits: Promise<unknown>[] = [];
    b.polled.poll(() => {
      found.push(thrownBy(() => b.polled.poll(() => {}, 1)).code);
      found.push(b.polled.tryReceiveInto(new Uint8Array(8)));
      b.receiver.ring.progress();
      found.push(b.receiver.unread.length);
      waits.push(b.receiver.receive(undefined), b.receiver.borrow(undefined));
    }, 1);
    assert.equal(found, ['ERR_ISTHMUS_INVALID_ARGUMENT', -1, 0]);
    write(near, '3');
    b.poller.pollOnce(0);
    const [two, three] = (await Promise.all(waits)) as [Message, { data: Uint8Array }];
    assert.equal([two.text(), textOf(three.data)], ['2', '3']);
    assert.equal(poll(b), [], 'and a poll is possible again');
  }),
);

test(
  'the record that a handler has is not borrowed a second time',
  timebox(5, async () => {
    const { b, near } = channel();
    for (const text of ['1', '2']) write(near, text);
    let borrow: Promise<{ data: Uint8Array } | undefined> | undefined;
    b.polled.poll(() => {
      borrow = b.receiver.borrow(undefined);
    }, 1);
    b.poller.pollOnce(0);
    assert.is(textOf((await borrow)!.data), '2');
  }),
);

test(
  'a handler may end the connection',
  timebox(5, () => {
    const { b, near, core, far } = channel();
    write(near, '1');
    write(near, '2');
    const count = b.polled.poll(() => b.cut(new IsthmusError('ERR_ISTHMUS_CLOSED', 'enough')), 1);
    assert.is(count, 1);
    assert.is(core.call.position(far.index), 0, 'nothing is released on a link that is gone');
    assert.is(thrownBy(() => poll(b)).code, CLOSED);
  }),
);

test(
  'unread announced messages are lent to the handler',
  timebox(5, () => {
    const { b } = channel();
    const message = announced('123', true);
    b.receiver.unread.push(message);
    assert.equal(poll(b), ['123']);
    assert.equal(message.told, ['lend', 'release']);
    assert.is(b.receiver.unread.length, 0);
  }),
);

/** A connection through a region, with a run that `a` announces. */
function withRun(text: string, maxMessageSize = 1 << 20) {
  const both = channel({ limits: { maxMessageSize } });
  const { a, b, core } = both;
  const region = new TestRegion(core);
  const [near, far] = linkPair(core, { region: region.asRegion });
  a.detach();
  b.detach();
  a.attach(near);
  b.attach(far);
  const { call } = core;
  const frame = call.takeRun(text.length);
  core.bytes.set(bytesOf(text), call.addressOf(frame) + L.FRAME);
  const place = call.grant(frame, 1, 2, 0, text.length, 1) - 1;
  assert.ok(a.sender.announce(frame, place, text.length, 1, 2));
  return { ...both, near, far, region, frame };
}

test(
  'a message in a run is adopted, read in place, and the run released behind the handler',
  timebox(5, () => {
    const { b, core, frame, near } = withRun('in a run');
    const { call } = core;
    const half = () => call.halfKind(frame, L.HALF_CONSUMER);
    assert.is(half(), L.KIND_OFFERED);
    const texts: string[] = [];
    b.polled.poll((memory, offset, length) => {
      assert.is(half(), L.KIND_HELD);
      texts.push(textOf(memory.subarray(offset, offset + length)));
    }, 5);
    assert.equal(texts, ['in a run']);
    assert.is(half(), 0);
    assert.is(b.binding.receivedOutOfBand, 8 - L.REQUEST_SIZE);
    assert.is(core.call.readable(near.peer!.index), 0);
    const failing = withRun('in a run');
    assert.throws(() =>
      failing.b.polled.poll(() => {
        throw new Error('oh');
      }, 5),
    );
    assert.is(failing.core.call.halfKind(failing.frame, L.HALF_CONSUMER), 0, 'also behind one that throws');
  }),
);

test(
  'a run that is longer than a message may be is not read in place: the router has it',
  timebox(5, () => {
    const { b, core, frame } = withRun('in a run'.repeat(10), 79);
    const seen: number[] = [];
    b.router.register(4, () => ({
      begin: () => undefined,
      complete: (_xheader, data) => {
        seen.push(data.length);
        return undefined;
      },
    }));
    assert.equal(poll(b), []);
    assert.equal([seen, b.violations], [[L.REQUEST_SIZE], []]);
    assert.is(core.call.halfKind(frame, L.HALF_CONSUMER), 0, 'nothing is held');
  }),
);

// ─── the receive mode ──────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'the sender is told how messages are read after 8 calls of the other kind, and at each new link',
  timebox(5, () => {
    const { b, core } = channel();
    const mode = () => core.u32(core.call.ringAddress(b.index) + L.RING_RECEIVE_MODE);
    const calls = (count: number, call: () => unknown) => {
      for (let i = 0; i < count; i++) call();
    };
    assert.is(mode(), 0);
    calls(7, () => read(b));
    assert.is(mode(), 0);
    read(b);
    assert.is(mode(), L.RECEIVE_MODE_COPY);
    calls(7, () => poll(b));
    read(b);
    assert.is(mode(), L.RECEIVE_MODE_COPY);
    poll(b);
    assert.is(mode(), L.RECEIVE_MODE_IN_PLACE, 'calls of the told kind in between do not count');
    calls(100, () => poll(b));
    calls(7, () => b.receiver.receive(AbortSignal.abort()).catch(() => {}));
    assert.is(mode(), L.RECEIVE_MODE_IN_PLACE);
    b.receiver.receive(AbortSignal.abort()).catch(() => {});
    assert.is(mode(), L.RECEIVE_MODE_COPY, 'receive copies');
    calls(8, () => b.receiver.borrow(AbortSignal.abort()).catch(() => {}));
    assert.is(mode(), L.RECEIVE_MODE_IN_PLACE, 'borrow reads in place');
    b.detach();
    const [, next] = linkPair(core);
    b.attach(next);
    assert.is(mode(), L.RECEIVE_MODE_IN_PLACE);
  }),
);

test(
  'what is said without a link, or over a stream, is not written anywhere',
  timebox(5, () => {
    const mode = new ReceiveMode();
    for (let i = 0; i < 8; i++) mode.noteOther(true);
    assert.is(mode.copies, true);
    const { b, core } = channel({ polled: false });
    for (let i = 0; i < 20; i++) read(b);
    assert.is(core.u32(core.call.ringAddress(b.index) + L.RING_RECEIVE_MODE), 0);
    assert.is(b.receiver.mode.copies, true);
  }),
);

test.run();

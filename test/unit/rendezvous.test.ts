/** Messages by announcement: adopted where both map a region, fetched by reads elsewhere. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { BorrowedMessage } from '../../host/base/message.js';
import { linkPair, Records, TestLink, TestReceive, TestRegion, write } from '../support/channel.js';
import { type Connected, connected, fate, newConnection } from '../support/connection.js';
import { assertBytes, L, newCore, pattern } from '../support/core.js';
import { rejection } from '../support/outcomes.js';
import { timebox } from '../support/timebox.js';

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
const REQ = L.MESSAGE_RENDEZVOUS_REQ;

/** Connections that announce data from 100 bytes on; `region`: both map one. */
function scene(region: boolean): Connected & { region: TestRegion } {
  const core = newCore(4);
  const one = new TestRegion(core);
  const both = connected(region ? { region: one.asRegion } : {}, { rendezvous: () => 100 }, core);
  return Object.assign(both, { region: one });
}

async function settledIn(both: Connected, promise: Promise<unknown>): Promise<boolean> {
  let done = false;
  promise.then(
    () => {
      done = true;
    },
    () => {
      done = true;
    },
  );
  await both.settle();
  return done;
}

/** Halves of runs that are held or offered, beside those of the rings. */
function tags({ core }: Connected): number {
  core.call.collect();
  return core.tags().length;
}

test(
  'without a region: the sender keeps the bytes until the peer has fetched them; in the order of messages',
  timebox(5, async () => {
    const both = scene(false);
    const { a, b } = both;
    const data = pattern(5000, 1);
    const sent = [
      a.connection.send('1'),
      a.connection.send(data, { xheader: new Uint8Array([9]) }),
      a.connection.send('3'),
    ];
    assert.not(await settledIn(both, sent[1]!), 'not fetched yet');
    assert.is(b.connection.stats().unreadMessages, 3);
    assert.is((await b.connection.receive())?.text(), '1');
    const received = b.connection.receive();
    await both.settle();
    const message = await received;
    assertBytes(message!.data, data);
    assert.equal([...message!.xheader], [9]);
    assert.ok(await settledIn(both, sent[1]!));
    assert.is((await b.connection.receive())?.text(), '3');
  }),
);

test(
  'with a region: the bytes are the caller’s at once; they are adopted, and the run comes back',
  timebox(5, async () => {
    const both = scene(true);
    const { a, b } = both;
    const before = tags(both);
    const data = pattern(5000, 1);
    await a.connection.send(data);
    data.fill(0);
    assert.is(tags(both), before + 2);
    assertBytes((await b.connection.receive())!.data, pattern(5000, 1));
    await a.connection.send(new Uint8Array(200), { xheader: new Uint8Array(300) });
    const second = (await b.connection.receive())!;
    assert.equal([second.data.length, second.xheader.length], [200, 300]);
    assert.ok(a.connection.trySend(pattern(300, 2)));
    assertBytes((await b.connection.receive())!.data, pattern(300, 2));
    const { bytesSent } = a.connection.stats();
    assert.is(bytesSent, 5000 + 200 + 300 + 300, 'counted as sent, not as announced');
    assert.is(b.connection.stats().bytesReceived, bytesSent);
    await a.connection.send(data);
    await b.connection.receive();
    a.connection.destroy();
    b.connection.destroy();
    assert.is(tags(both), 0, 'nothing of the region is held');
    assert.is(before, 4);
  }),
);

test(
  'borrowed where it lies: in place until it is released, and the connection released behind it',
  timebox(5, async () => {
    const both = scene(true);
    const { a, b, core } = both;
    await a.connection.send(pattern(5000, 1));
    const borrowed = (await b.connection.borrow()) as BorrowedMessage;
    assert.ok(borrowed.inPlace);
    assert.is(borrowed.data.buffer, core.bytes.buffer);
    const offset = borrowed.data.byteOffset;
    assert.equal(b.connection.abandon(newCore(1)), []);
    b.connection.destroy();
    assert.not(b.told.includes('released'));
    const [kept] = b.connection.abandon(core);
    assert.equal([kept?.offset, kept?.length], [offset, 5000]);
    assertBytes(borrowed.data, pattern(5000, 1));
    borrowed.release();
    assert.is(b.told.at(-1), 'released');
    assert.equal(b.connection.abandon(core), []);
  }),
);

test(
  'a region without room: through the ring',
  timebox(5, async () => {
    const both = scene(true);
    const { a, b } = both;
    const long = new Uint8Array(5 << 20);
    const sent = a.connection.send(long);
    for (let i = 0; i < 5000 && a.connection.wantsToSend; i++) {
      b.connection.progress();
      a.connection.progress();
    }
    await sent;
    assert.is((await b.connection.receive())?.data.length, long.length);
  }),
);

test(
  'an announcement that waits for room can be withdrawn, one that is out cannot',
  timebox(5, async () => {
    for (const region of [false, true]) {
      const both = scene(region);
      const { a, b } = both;
      const before = tags(both);
      const controller = new AbortController();
      const out = a.connection.send(pattern(500, 1), { signal: controller.signal });
      while (a.connection.trySend(new Uint8Array(0)));
      const waits = rejection(a.connection.send(pattern(500, 2), { signal: controller.signal }));
      const reason = new Error('enough');
      await turn();
      const { bytesSent } = a.connection.stats();
      controller.abort(reason);
      assert.is(await waits, reason as unknown);
      if (region) assert.is(a.connection.stats().bytesSent, bytesSent - (500 - L.REQUEST_SIZE));
      const received = b.connection.receive();
      await both.settle();
      assertBytes((await received)!.data, pattern(500, 1));
      if (region) await out;
      else assert.ok(await settledIn(both, out));
      b.connection.poll(() => {});
      await both.settle();
      assert.is(b.connection.stats().unreadMessages, 0);
      // The run of the message that was withdrawn is free; of the other one the sender sees it later.
      assert.ok(tags(both) <= before + 1, `${tags(both)}`);
    }
  }),
);

test(
  'an announcement that found room is not withdrawn any more',
  timebox(5, async () => {
    const both = scene(false);
    const { a, b } = both;
    while (a.connection.trySend(new Uint8Array(0)));
    const controller = new AbortController();
    const sent = a.connection.send(pattern(500, 1), { signal: controller.signal });
    await both.settle();
    assert.not(a.connection.wantsToSend);
    controller.abort();
    assert.not(await settledIn(both, sent));
    for (let i = 0; i < 1000 && b.connection.stats().unreadMessages > 1; i++) await b.connection.receive();
    const received = b.connection.receive();
    await both.settle();
    assertBytes((await received)!.data, pattern(500, 1));
    await sent;
  }),
);

test(
  'a suspension keeps what the peer has not adopted: it asks for it over the next link',
  timebox(5, async () => {
    const both = scene(true);
    const { a, b } = both;
    await a.connection.send(pattern(500, 1));
    const suspended = a.connection.suspend();
    await both.settle();
    await suspended;
    assert.is(b.connection.stats().unreadMessages, 1);
    both.relink({});
    const received = b.connection.receive();
    await both.settle();
    assertBytes((await received)!.data, pattern(500, 1));
  }),
);

test(
  'so it does with what the peer could not adopt, and the run comes back at once',
  timebox(5, async () => {
    const core = newCore(4);
    const region = new TestRegion(core).asRegion;
    const [near, farther] = linkPair(core, { region });
    const far = new TestLink(core, farther.index, {});
    const [a, b] = ['a', 'b'].map((name) => newConnection(name, { rendezvous: () => 100 })) as [
      ReturnType<typeof newConnection>,
      ReturnType<typeof newConnection>,
    ];
    a.attach(near);
    b.attach(far);
    const settle = async () => {
      for (let i = 0; i < 10; i++) {
        for (const { connection } of [a, b]) connection.progress();
        await turn();
      }
    };
    await a.connection.send(pattern(500, 1));
    const suspended = a.connection.suspend();
    await settle();
    await suspended;
    core.call.collect();
    assert.is(core.tags().length, 0);
    core.bytes.fill(0xee, core.call.addressOf(0) + core.call.tableBytes());
    const [again, other] = linkPair(core);
    a.attach(again);
    b.attach(other);
    const received = b.connection.receive();
    await settle();
    assertBytes((await received)!.data, pattern(500, 1));
    const closing = a.connection.close();
    assert.is(a.connection.lifecycle.phase, 'eofSent', 'the message is fetched');
    again.owner!.onEnded({ kind: 'peer-closed' });
    await closing;
  }),
);

test(
  'a close waits until the peer has fetched what was offered',
  timebox(5, async () => {
    const both = scene(false);
    const { a, b, near } = both;
    const sent = a.connection.send(pattern(500, 1));
    const closing = a.connection.close();
    await both.settle();
    assert.equal([a.connection.lifecycle.phase, near.told], ['open', ['ref']]);
    const received = b.connection.receive();
    a.connection.progress();
    b.connection.progress();
    assertBytes((await received)!.data, pattern(500, 1));
    assert.is(a.connection.lifecycle.phase, 'open');
    a.connection.progress();
    await sent;
    assert.is(a.connection.lifecycle.phase, 'eofSent', 'at once');
    near.owner!.onEnded({ kind: 'peer-closed' });
    await closing;
  }),
);

test(
  'a receiver that closes discards what was announced, and the sender is told',
  timebox(5, async () => {
    const both = scene(false);
    const { a, b } = both;
    const sent = a.connection.send(pattern(500, 1));
    await both.settle();
    void b.connection.close();
    assert.ok(await settledIn(both, sent));
    a.connection.destroy();
    b.connection.destroy();
  }),
);

test(
  'what was offered is rejected when the connection ends',
  timebox(5, async () => {
    const { a } = scene(false);
    const sent = rejection(a.connection.send(pattern(500, 1)));
    await turn();
    a.connection.destroy();
    assert.is((await sent).code, 'ERR_ISTHMUS_CLOSED');
  }),
);

test(
  'posted receives get announced messages in their targets, by parts',
  timebox(5, async () => {
    for (const region of [false, true]) {
      const both = scene(region);
      const { a, b } = both;
      const receives = [
        new TestReceive({ target: new Uint8Array(300) }),
        new TestReceive({ maxLength: 50 }),
        new TestReceive({ borrows: true }),
      ];
      for (const receive of receives) b.connection.receiver.post(receive);
      const sent = receives.map(() => a.connection.send(pattern(500, 1)));
      await both.settle();
      await Promise.all(sent);
      for (const [i, { got }] of receives.entries()) {
        assert.is(got?.length, 500);
        assertBytes(got!.data, pattern(500, 1).subarray(0, [300, 50, 500][i]));
      }
      assert.is(receives[2]!.got!.lent, region);
    }
  }),
);

test(
  'announcements that make no sense, or of too much, end the connection',
  timebox(5, async () => {
    const request = (length: number, size = 20) => {
      const bytes = Buffer.alloc(size);
      bytes.writeUInt32LE(length, 16);
      return new Uint8Array(bytes);
    };
    const cases: [Uint8Array, string][] = [
      [new Uint8Array(19), 'error ERR_ISTHMUS_PEER_PROTOCOL'],
      [request(10, 4097), 'error ERR_ISTHMUS_PEER_PROTOCOL'],
      [request((1 << 24) + 1), 'error ERR_ISTHMUS_MESSAGE_TOO_LARGE'],
      [request(1 << 24), 'open'],
    ];
    for (const [bytes, expected] of cases) {
      const both = scene(true);
      new Records(both.near, bytes, REQ).next();
      both.b.connection.progress();
      assert.is(await fate(both.b.connection), expected, `${bytes.length}`);
      assert.is(both.b.connection.stats().unreadMessages, expected === 'open' ? 1 : 0);
    }
  }),
);

test(
  'a reference to a run that is not there, or was not granted so, is fetched by messages instead: and denied',
  timebox(5, async () => {
    const both = scene(true);
    const { near, b } = both;
    const request = Buffer.alloc(28);
    request.writeBigUInt64LE(5n, 0);
    request.writeBigUInt64LE(6n, 8);
    request.writeUInt32LE(100, 16);
    request.writeUInt32LE(0xffff_ffff, 20);
    write(near, new Uint8Array(request), REQ);
    const received = rejection(b.connection.receive());
    await both.settle();
    assert.is((await received).code, 'ERR_ISTHMUS_RMA_DENIED');
  }),
);

test.run();

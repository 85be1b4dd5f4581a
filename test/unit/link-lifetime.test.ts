/** What follows from each transition of a connection, and from what its link tells. On real rings, with a link that a test steers. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { IsthmusError } from '../../host/base/errors.js';
import type { BorrowedMessage } from '../../host/base/message.js';
import type { LinkOwner } from '../../host/plugins/plugin.js';
import { LONG, linkPair, NONE, Records, TestRegion, textOf, write } from '../support/channel.js';
import { type Connected, connected, fate, newConnection } from '../support/connection.js';
import { L, newCore } from '../support/core.js';
import { rejection } from '../support/outcomes.js';
import { timebox } from '../support/timebox.js';

const { MESSAGE_SHUTDOWN_REQ: REQ, MESSAGE_SUSPEND: SUSPEND } = L;
const died = () => new IsthmusError('ERR_ISTHMUS_PEER_DIED', 'it died');
const lost = () => ({ kind: 'lost', error: died() }) as const;
const closed = { kind: 'peer-closed' } as const;
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** Whether a promise has settled. */
async function settled(promise: Promise<unknown>): Promise<boolean> {
  let done = false;
  promise.then(
    () => {
      done = true;
    },
    () => {
      done = true;
    },
  );
  await turn();
  return done;
}

const receiveText = async ({ connection }: Connected['a']) => (await connection.receive())?.text();

// ─── a link comes ──────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'a link opens the connection: the route is known, its owner is told, and what waited goes out',
  timebox(5, async () => {
    const core = newCore(4);
    const [near, far] = linkPair(core);
    const asked: string[] = [];
    const a = newConnection('a', {
      rendezvous: (plugin) => {
        asked.push(plugin);
        return Number.POSITIVE_INFINITY;
      },
    });
    const b = newConnection('b');
    const sent = a.connection.send('early');
    assert.equal([a.connection.state, a.told], ['connecting', ['bringUp']]);
    assert.equal([a.connection.linked, a.connection.everLinked, a.connection.plugin], [false, false, '?']);
    a.attach(near, undefined, 'special');
    assert.equal([a.connection.state, a.told.splice(0)], ['open', ['bringUp', 'up open']]);
    assert.equal([a.connection.plugin, a.connection.peer.name], ['special', 'peer of a']);
    assert.equal([asked, near.told], [['special'], ['ref']]);
    await sent;
    b.attach(far);
    assert.is(await receiveText(b), 'early');
  }),
);

test(
  'the initiator confirms its link in front of all that waits; the responder waits for that',
  timebox(5, async () => {
    const core = newCore(4);
    const [near, far] = linkPair(core);
    const [a, b] = [newConnection('a'), newConnection('b')];
    const early = [a.connection.send('1'), b.connection.send('2')];
    a.told.splice(0);
    b.told.splice(0);
    b.attach(far, 'responder');
    assert.equal([b.connection.state, b.told, b.connection.linked], ['connecting', [], true]);
    assert.equal([b.connection.plugin, b.connection.everLinked], ['?', true]);
    assert.not(await settled(early[1]!), 'nothing goes over a link that is not confirmed');
    a.attach(near, 'initiator');
    await early[0];
    assert.is(core.call.peek(far.index) > 0 && core.result(L.RESULT_TYPE), SUSPEND);
    b.poller.pollOnce(0);
    assert.equal([b.connection.state, b.told, b.connection.plugin], ['open', ['up open'], 'test']);
    await early[1];
    assert.equal([await receiveText(a), await receiveText(b)], ['2', '1']);
  }),
);

test(
  'what waited at the responder goes out with the confirmation, without another event',
  timebox(5, async () => {
    const [near, far] = linkPair(newCore(4), { polled: false });
    const b = newConnection('b');
    const sent = b.connection.send('1');
    b.attach(far, 'responder');
    write(near, NONE, SUSPEND);
    far.owner!.onReadable();
    assert.not(b.connection.wantsToSend);
    await sent;
  }),
);

for (const [how, end] of Object.entries({
  'its initiator calls again': ({ a }: { a: ReturnType<typeof newConnection> }) => a.connection.revert(),
  'it is lost': ({ owner }: { owner: LinkOwner }) => owner.onEnded(lost()),
  'its peer closes it': ({ owner }: { owner: LinkOwner }) => owner.onEnded(closed),
})) {
  test(
    `a link that is not confirmed is given up when ${how}: the connection is as before`,
    timebox(5, async () => {
      const core = newCore(4);
      const [near, far] = linkPair(core);
      const a = newConnection('a');
      const sent = a.connection.send('1');
      a.attach(near, 'responder');
      a.told.splice(0);
      end({ a, owner: near.owner! });
      assert.equal([a.connection.state, a.connection.linked, a.told], ['connecting', false, ['suspended']]);
      assert.equal(near.told, ['ref', 'destroy', 'free']);
      assert.is(a.connection.lifecycle.error, undefined, 'not an error');
      a.connection.revert();
      assert.is(a.told.length, 1, 'once');
      far.destroy();
      const [again, farther] = linkPair(core);
      a.attach(again);
      const b = newConnection('b');
      b.attach(farther);
      await sent;
      assert.is(await receiveText(b), '1');
      again.owner!.onEnded(closed);
      assert.is(await fate(a.connection), 'peer', 'the end of this link is told anew');
    }),
  );
}

test(
  'a link that was confirmed is not reverted',
  timebox(5, () => {
    const { a } = connected();
    a.connection.revert();
    assert.equal([a.connection.state, a.connection.linked], ['open', true]);
  }),
);

test(
  'a confirmation that lies in the ring of a lost peer opened the connection first: then its loss is an error',
  timebox(5, async () => {
    const core = newCore(4);
    const [near, far] = linkPair(core);
    const b = newConnection('b');
    b.attach(far, 'responder');
    write(near, NONE, SUSPEND);
    write(near, 'last words');
    far.owner!.onEnded(lost());
    assert.is(await receiveText(b), 'last words');
    assert.is((await rejection(b.connection.receive())).code, 'ERR_ISTHMUS_PEER_DIED');
    assert.is(await fate(b.connection), 'error ERR_ISTHMUS_PEER_DIED');
    assert.ok(b.told.includes('up open'));
  }),
);

test(
  'ref and unref hold for this link and the next ones',
  timebox(5, async () => {
    const both = connected();
    both.a.connection.unref();
    assert.equal(both.near.told, ['ref', 'unref']);
    const suspended = both.a.connection.suspend();
    await both.settle();
    await suspended;
    both.relink();
    assert.equal(both.near.told, ['unref']);
    both.a.connection.ref();
    assert.equal(both.near.told, ['unref', 'ref']);
  }),
);

test(
  'a link may end within start()',
  timebox(5, async () => {
    const [near] = linkPair(newCore(4));
    near.onStart = (owner) => owner.onEnded(lost());
    const a = newConnection('a');
    a.attach(near);
    assert.is(await fate(a.connection), 'error ERR_ISTHMUS_PEER_DIED');
    assert.equal(near.told, ['ref', 'destroy', 'free']);
    assert.equal(a.told, ['up open', 'released']);
  }),
);

// ─── the end of a link ─────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'a lost peer: what it committed is delivered, what waits is rejected, and the loss is an error while the connection is open',
  timebox(5, async () => {
    const { a, b, near } = connected();
    for (const text of ['1', '2']) await b.connection.send(text);
    const waits: Promise<void>[] = [];
    for (let i = 0; i < 4; i++) waits.push(a.connection.send(LONG));
    const failures = Promise.allSettled(waits);
    near.owner!.onEnded(lost());
    near.owner?.onEnded(closed);
    assert.equal([await receiveText(a), await receiveText(a)], ['1', '2']);
    assert.is((await rejection(a.connection.receive())).code, 'ERR_ISTHMUS_PEER_DIED');
    for (const result of await failures) {
      assert.is(result.status === 'rejected' && (result.reason as IsthmusError).code, 'ERR_ISTHMUS_PEER_DIED');
    }
    assert.is((await rejection(a.connection.send('x'))).code, 'ERR_ISTHMUS_PEER_DIED');
    assert.is(await fate(a.connection), 'error ERR_ISTHMUS_PEER_DIED');
    assert.equal(near.told, ['ref', 'destroy', 'free']);
    assert.is(a.told.at(-1), 'released');
  }),
);

test(
  'a peer that is lost while this side closes is no error',
  timebox(5, async () => {
    const { a, near } = connected();
    const closing = a.connection.close();
    near.owner!.onEnded(lost());
    await closing;
    assert.is(await fate(a.connection), 'local');
  }),
);

test(
  'a peer that closes in order: messages, then the end; this side answers with its own end',
  timebox(5, async () => {
    const both = connected();
    const { a, b, near } = both;
    await b.connection.send('1');
    const closing = b.connection.close();
    assert.equal(both.far.told, ['ref', 'finish']);
    near.owner!.onEnded(closed);
    assert.is(await receiveText(a), '1');
    assert.is(await receiveText(a), undefined);
    assert.is(await fate(a.connection), 'peer');
    assert.equal(near.told, ['ref', 'finish', 'destroy', 'free']);
    b.poller.pollOnce(0);
    assert.ok(b.connection.receiver.ring.ended, 'its end is in the ring');
    both.far.owner!.onEnded(closed);
    await closing;
    assert.is(await fate(b.connection), 'local');
    assert.equal(both.far.told, ['ref', 'finish', 'destroy', 'free'], 'the end is announced once');
  }),
);

test(
  'an application that sees the end of input closes: because of the peer',
  timebox(5, async () => {
    const { a, b, near, far } = connected();
    void b.connection.close();
    assert.is(await receiveText(a), undefined);
    assert.is(a.connection.state, 'closing');
    assert.equal(near.told, ['ref', 'finish']);
    near.owner!.onEnded(closed);
    far.owner!.onEnded(closed);
    assert.equal([await fate(a.connection), await fate(b.connection)], ['peer', 'local']);
  }),
);

test(
  'closing: what is queued goes out first, then the end, as soon as there is room',
  timebox(5, async () => {
    const { a, b, near, settle } = connected();
    const sent = a.connection.send(LONG);
    const closing = a.connection.close();
    assert.equal(near.told, ['ref']);
    assert.is((await rejection(a.connection.send('x'))).code, 'ERR_ISTHMUS_CLOSED');
    await settle();
    await sent;
    assert.equal(near.told, ['ref', 'finish']);
    assert.is(a.connection.lifecycle.phase, 'eofSent');
    assert.is((await b.connection.receive())?.data.length, LONG.length);
    near.owner!.onEnded(closed);
    await closing;
  }),
);

test(
  'a protocol violation ends this connection, and its close tells it',
  timebox(5, async () => {
    const { a, b, near, far, settle } = connected();
    const receive = rejection(a.connection.receive());
    write(far, NONE, 77);
    await settle();
    assert.is((await receive).code, 'ERR_ISTHMUS_PEER_PROTOCOL');
    assert.is(await fate(a.connection), 'error ERR_ISTHMUS_PEER_PROTOCOL');
    assert.equal(near.told, ['ref', 'destroy', 'free'], 'without a word');
    assert.is(await fate(b.connection), 'open');
    a.connection.fail(died());
    assert.is((await a.connection.closed).error?.code, 'ERR_ISTHMUS_PEER_PROTOCOL', 'the first one stays');
  }),
);

test(
  'destroy: at once, with the error that was given, if any',
  timebox(5, async () => {
    const cases = [
      [undefined, 'local'],
      [died(), 'local ERR_ISTHMUS_PEER_DIED'],
      [new Error('mine'), 'local ERR_ISTHMUS_CLOSED'],
    ] as const;
    for (const [error, expected] of cases) {
      const { a, near } = connected();
      a.connection.destroy(error);
      assert.is(await fate(a.connection), expected);
      assert.equal(near.told, ['ref', 'destroy', 'free']);
      a.connection.destroy(died());
      assert.is(await fate(a.connection), expected, 'once');
      await a.connection.close();
    }
  }),
);

test(
  'close and destroy from callbacks',
  timebox(5, async () => {
    const match = { 'by destroy': 'local', 'by close': 'closing' };
    for (const [how, expected] of Object.entries(match)) {
      const { a, b } = connected();
      const call = () => (how === 'by destroy' ? a.connection.destroy() : void a.connection.close());
      a.matching.addProber({ connection: a.connection, match: undefined, found: call, reject() {} });
      for (const text of ['1', '2']) await b.connection.send(text);
      a.poller.pollOnce(0);
      assert.is(await fate(a.connection), expected, how);
      if (how === 'by close') assert.is(a.connection.stats().unreadMessages, 0);
      a.connection.destroy();
    }
    const { a, b, near } = connected();
    near.onTold = (what) => {
      if (what === 'finish') a.connection.destroy();
    };
    await a.connection.close();
    assert.is(await fate(a.connection), 'local');
    await b.connection.send('x');
    const ups = newConnection('c');
    const [link] = linkPair(newCore(4));
    link.onStart = () => ups.connection.destroy();
    ups.attach(link, 'initiator');
    assert.is(await fate(ups.connection), 'local');
    assert.equal(link.told, ['ref', 'destroy', 'free']);
  }),
);

test(
  'a handler of poll may destroy the connection that it reads',
  timebox(5, async () => {
    const { a, b, near } = connected();
    await b.connection.send('1');
    await b.connection.send('2');
    assert.is(
      a.connection.poll(() => a.connection.destroy(), 1),
      1,
    );
    assert.is(await fate(a.connection), 'local');
    assert.equal(near.told, ['ref', 'destroy', 'free']);
  }),
);

test(
  'silence is reported, and ends the connection if that is asked for; only while it is open',
  timebox(5, async () => {
    const { a, near } = connected({}, { peerTimeout: 3000 });
    near.owner!.onSilence(1000);
    assert.equal([a.told.at(-1), a.connection.stalled], ['stalled 1000', 1000]);
    near.owner!.onSilence(3000);
    assert.is(await fate(a.connection), 'error ERR_ISTHMUS_PEER_TIMEOUT');
    const other = connected({}, { peerTimeout: 3000 });
    void other.a.connection.close();
    other.near.owner!.onSilence(3000);
    assert.not(other.a.told.includes('stalled 3000'));
    assert.is(await fate(other.a.connection), 'closing');
    other.a.connection.destroy();
  }),
);

// ─── suspensions ───────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'suspending: both let go of their links; what waited goes over the next one',
  timebox(5, async () => {
    const both = connected();
    const { a, b, settle } = both;
    await b.connection.send('unread');
    const sent = a.connection.send(LONG);
    const suspended = a.connection.suspend();
    assert.not(await settled(suspended));
    const later = a.connection.send('later');
    await settle();
    await suspended;
    await sent;
    for (const [{ connection, told }, { told: linkTold }] of [
      [a, both.near],
      [b, both.far],
    ] as const) {
      assert.equal([connection.state, connection.linked, told.at(-1)], ['suspended', false, 'suspended']);
      assert.equal(linkTold, ['ref', 'finish', 'destroy', 'free']);
    }
    assert.is(await settled(a.connection.suspend()), true, 'nothing is left to do');
    const counts = a.connection.counts;
    assert.is(counts.sent, 2, 'with the SHUTDOWN message');
    both.relink();
    await settle();
    await later;
    assert.equal([await receiveText(a), (await b.connection.receive())?.data.length], ['unread', LONG.length]);
    assert.is(await receiveText(b), 'later');
    assert.is(a.connection.counts.sent, counts.sent + 1, 'counted over all links');
    both.near.owner!.onEnded(closed);
    assert.is(await fate(a.connection), 'peer', 'the end of this link is told anew');
  }),
);

test(
  'a link that ends with the last message of the peer in its ring is let go of in order, and the next one ends anew',
  timebox(5, async () => {
    const { a, near, far, core } = connected();
    const suspended = a.connection.suspend();
    await turn();
    write(far, NONE, L.MESSAGE_SHUTDOWN_ACK);
    near.owner!.onEnded(lost());
    await suspended;
    assert.is(a.connection.state, 'suspended');
    const [again] = linkPair(core);
    a.attach(again);
    again.owner!.onEnded(closed);
    assert.is(await fate(a.connection), 'peer');
    assert.is(await a.connection.receive(), undefined, 'the loss of the link before is no error');
  }),
);

test(
  'over a stream the link stays until it has taken the last message',
  timebox(5, async () => {
    const { a, near, far, core } = connected({ polled: false });
    const suspended = a.connection.suspend();
    await turn();
    write(far, NONE, L.MESSAGE_SHUTDOWN_ACK);
    a.connection.progress();
    assert.equal([a.connection.lifecycle.phase, near.told], ['draining', ['ref']]);
    near.owner!.onWritable();
    assert.equal(near.told, ['ref']);
    core.call.peek(far.index);
    core.call.release(far.index);
    core.call.peek(far.index);
    near.owner!.onWritable();
    await suspended;
    assert.equal([a.connection.state, near.told], ['suspended', ['ref', 'finish', 'destroy', 'free']]);
  }),
);

test(
  'a peer that suspends in the middle of a message breaks the protocol',
  timebox(5, async () => {
    const { a, near, far } = connected({ outOfBand: true });
    const suspended = a.connection.suspend();
    await turn();
    new Records(far, LONG).next();
    a.connection.progress();
    // As if the answer came while a message is incomplete, which the core rules out in a ring.
    a.connection.shutdown.receive(L.MESSAGE_SHUTDOWN_ACK, NONE, NONE);
    assert.is(await fate(a.connection), 'error ERR_ISTHMUS_PEER_PROTOCOL');
    await suspended;
    assert.equal(near.told.slice(-2), ['destroy', 'free']);
  }),
);

test(
  'a shutdown message out of band: the ring is emptied first, and what was incomplete comes again',
  timebox(5, async () => {
    const both = connected();
    const { a, near, far } = both;
    write(far, '1');
    new Records(far, LONG).next();
    near.owner!.onShutdownReceived(REQ, 7000);
    assert.is(a.connection.shutdown.peerPort, 7000);
    await turn();
    assert.is(a.connection.state, 'suspended');
    assert.is(await receiveText(a), '1');
    const [again, farther] = linkPair(both.core);
    a.attach(again);
    write(farther, 'again');
    assert.is(await receiveText(a), 'again');
  }),
);

test(
  'a ring that breaks the protocol, or ends, while it is emptied for that',
  timebox(5, async () => {
    const { a, near, far } = connected();
    write(far, NONE, 77);
    near.owner!.onShutdownReceived(REQ, 7000);
    assert.is(await fate(a.connection), 'error ERR_ISTHMUS_PEER_PROTOCOL');
  }),
);

test(
  'suspending a connection whose link is not confirmed waits for that, and begins then; or ends with a revert',
  timebox(5, async () => {
    const core = newCore(4);
    const [near, far] = linkPair(core);
    const b = newConnection('b');
    b.attach(far, 'responder');
    const suspended = b.connection.suspend();
    assert.not(await settled(suspended));
    assert.is(b.connection.lifecycle.phase, 'confirming');
    write(near, NONE, SUSPEND);
    b.poller.pollOnce(0);
    await turn();
    assert.is(b.connection.lifecycle.phase, 'shutdownSent');
    write(near, NONE, L.MESSAGE_SHUTDOWN_ACK);
    b.connection.progress();
    await suspended;
    assert.is(b.connection.state, 'suspended');

    const c = newConnection('c');
    c.attach(linkPair(core)[0], 'responder');
    const reverted = c.connection.suspend();
    c.connection.revert();
    await reverted;
    assert.is(c.connection.state, 'connecting');
  }),
);

test(
  'suspending ends when the connection ends; one that is being closed ends by itself',
  timebox(5, async () => {
    const { a, near } = connected();
    const suspended = a.connection.suspend();
    near.owner!.onEnded(lost());
    await suspended;
    assert.is(await fate(a.connection), 'error ERR_ISTHMUS_PEER_DIED');
    const other = connected();
    void other.a.connection.close();
    const never = other.a.connection.suspend();
    assert.is(other.a.connection.lifecycle.phase, 'eofSent');
    other.near.owner!.onEnded(closed);
    await never;
    assert.is(await fate(other.a.connection), 'local');
  }),
);

test(
  'a request to drain: of the peer, and to the peer, by the link or by way of its listener',
  timebox(5, async () => {
    const { a, near } = connected({ outOfBand: true });
    void a.connection.suspend();
    assert.equal([near.told, a.told.includes('requestDrain')], [['ref', 'requestDrain'], false]);
    const other = connected({}, { limits: { unread: 1, maxMessageSize: 100 } });
    void other.a.connection.suspend();
    assert.ok(other.a.told.includes('requestDrain'));
    for (const text of ['1', '2']) await other.b.connection.send(text).catch(() => {});
    const third = connected({}, { limits: { unread: 1, maxMessageSize: 100 } });
    for (const text of ['1', '2']) await third.b.connection.send(text);
    third.a.poller.pollOnce(0);
    assert.is(third.a.connection.stats().unreadMessages, 1);
    third.near.owner!.onDrainRequested();
    third.a.poller.pollOnce(0);
    assert.is(third.a.connection.stats().unreadMessages, 2);
  }),
);

// ─── what the application holds ────────────────────────────────────────────────────────────────────────────────────────

test(
  'a link is freed when the last record that was borrowed from its ring is back, and only then is the connection released',
  timebox(5, async () => {
    const { a, b, near, core } = connected();
    for (const text of ['1', '2']) await b.connection.send(text);
    const borrowed = [await a.connection.borrow(), await a.connection.borrow()] as [BorrowedMessage, BorrowedMessage];
    a.connection.destroy();
    assert.equal(near.told, ['ref', 'destroy']);
    assert.equal([a.connection.lifecycle.phase, a.told.includes('released')], ['closed', false]);
    assert.is(textOf(borrowed[0].data), '1');
    assert.is(borrowed[0].data.buffer, core.bytes.buffer);
    borrowed[1].release();
    assert.equal(near.told, ['ref', 'destroy']);
    borrowed[0].release();
    assert.equal(near.told, ['ref', 'destroy', 'free']);
    assert.equal([a.connection.lifecycle.phase, a.told.at(-1)], ['released', 'released']);
  }),
);

test(
  'letting go of a link leaves borrowed records where they are; the connection goes on',
  timebox(5, async () => {
    const both = connected();
    const { a, b, settle } = both;
    await b.connection.send('1');
    const borrowed = (await a.connection.borrow()) as BorrowedMessage;
    const old = both.near;
    const suspended = a.connection.suspend();
    await settle();
    await suspended;
    assert.equal(old.told, ['ref', 'finish', 'destroy']);
    both.relink();
    await b.connection.send('2');
    assert.is(await receiveText(a), '2');
    assert.is(textOf(borrowed.data), '1');
    a.connection.destroy();
    assert.equal(both.near.told, ['ref', 'destroy', 'free']);
    assert.not(a.told.includes('released'));
    borrowed.release();
    assert.equal([old.told.at(-1), a.told.at(-1)], ['free', 'released']);
  }),
);

test(
  'a closed connection is released when the last loan is back',
  timebox(5, async () => {
    const { a } = connected();
    const loans = [a.connection.tryLoan(10), a.connection.tryLoan(10)];
    a.connection.destroy();
    loans[0]!.release();
    assert.not(a.told.includes('released'));
    loans[1]!.release();
    assert.is(a.told.at(-1), 'released');
    assert.is(a.told.filter((what) => what === 'released').length, 1);
  }),
);

test(
  'a region that goes away: the connection is cut, the bytes that are borrowed are named, and their release releases it',
  timebox(5, async () => {
    const core = newCore(4);
    const region = new TestRegion(core);
    const { a, b, near } = connected({ region: region.asRegion }, {}, core);
    await b.connection.send('1');
    const borrowed = (await a.connection.borrow()) as BorrowedMessage;
    const loan = a.connection.tryLoan(5000)!;
    const at = loan.data.byteOffset;
    const ring = core.call.ringAddress(near.index);
    assert.equal(a.connection.abandon(newCore(1)), [], 'another region');
    assert.is(a.connection.state, 'open');
    const kept = a.connection.abandon(core);
    assert.equal(kept, [
      { offset: ring, length: L.FRAME + 4096 },
      { offset: at, length: 5000 },
    ]);
    assert.is(await fate(a.connection), 'local');
    assert.equal(a.connection.abandon(core), [], 'named once');
    region.attached = false;
    const head = core.u32(ring + L.RING_HEAD);
    assert.not(a.told.includes('released'));
    loan.release();
    assert.not(a.told.includes('released'));
    borrowed.release();
    assert.is(a.told.at(-1), 'released');
    assert.is(core.u32(ring + L.RING_HEAD), head, 'nothing is written to the ring');
  }),
);

// ─── the end of this direction ─────────────────────────────────────────────────────────────────────────────────────────

test(
  'a peer that asks for memory behind the end of this side gets no answer: that is no violation',
  timebox(5, async () => {
    const { a, b, near, settle } = connected();
    const exposure = a.connection.expose(new Uint8Array(10));
    const token = b.connection.token(exposure.token);
    const closing = a.connection.close();
    assert.is(a.connection.lifecycle.phase, 'eofSent');
    const read = rejection(token.read(new Uint8Array(10)));
    await settle();
    assert.is(await fate(a.connection), 'closing');
    near.owner!.onEnded(closed);
    await closing;
    assert.is(await fate(a.connection), 'local');
    b.connection.destroy();
    assert.is((await read).code, 'ERR_ISTHMUS_CLOSED');
  }),
);

test.run();

/** The sending half of a connection: what goes into the ring, what waits for room, and what becomes of it. */
import { getEventListeners } from 'node:events';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { IsthmusError } from '../../host/base/errors.js';
import type { Message } from '../../host/base/message.js';
import type { PendingSend } from '../../host/channel/sender.js';
import { BoundLink } from '../../host/link/bound-link.js';
import {
  bytesOf,
  type Channel,
  channel,
  type End,
  fill,
  LONG,
  linkPair,
  NONE,
  TestLink,
  TestRegion,
  textOf,
} from '../support/channel.js';
import { assertBytes, L, newCore, pattern, type TestCore } from '../support/core.js';
import { rejection, thrownBy } from '../support/outcomes.js';
import { timebox } from '../support/timebox.js';

/** What waits behind a full ring, with the order in which it was settled. */
function queue(end: End, texts: readonly string[], settled: string[]): PendingSend[] {
  return texts.map((text) =>
    end.sender.queue(
      0,
      NONE,
      bytesOf(text),
      -1,
      () => settled.push(text),
      (error) => settled.push(`${text}: ${(error as IsthmusError).code}`),
    ),
  );
}

/** All messages that get through when both ends go on. */
function transfer({ a, b }: { a: End; b: End }): string[] {
  const texts: string[] = [];
  for (;;) {
    const more = b.texts();
    const moved = a.sender.pump();
    texts.push(...more.filter((text) => text !== ''));
    if (more.length === 0 && !moved) return texts;
  }
}

test(
  'a message goes out at once, with its xheader, and the link is told',
  timebox(5, () => {
    const { a, b, near } = channel({ polled: false });
    const sent = a.sender.begin(5, bytesOf('head'), bytesOf('data'));
    assert.is(sent, 8);
    assert.is(near.commits, 1);
    const { link } = b.receiver.ring;
    assert.ok(link && link.call.peek(link.index) > 0);
    assert.is(link.words[link.type], 5);
    assert.is(link.words[link.xlength], 4);
    const at = link.call.peek(link.index);
    assert.is(textOf(link.bytes.subarray(at, at + 8)), 'headdata');
  }),
);

test(
  'what finds no room waits, and is taken in order',
  timebox(5, () => {
    const both = channel();
    const { a } = both;
    fill(a);
    assert.is(a.sender.begin(0, NONE, bytesOf('x')), -1);
    const settled: string[] = [];
    queue(a, ['1', '2', '3'], settled);
    assert.is(a.sender.waiting, 3);
    assert.not(a.sender.pump(), 'there is no room');
    assert.equal(settled, []);
    assert.is(a.sender.begin(0, NONE, NONE), -1, 'nothing overtakes what waits');
    assert.equal(transfer(both), ['1', '2', '3']);
    assert.equal(settled, ['1', '2', '3']);
    assert.is(a.sender.waiting, 0);
  }),
);

test(
  'without a link everything waits, and goes over the next one',
  timebox(5, () => {
    const { a, b, core } = channel();
    a.detach();
    let blocked = 0;
    a.sender.onBlocked = () => blocked++;
    assert.is(a.sender.begin(0, NONE, bytesOf('x')), -1);
    assert.not(a.sender.trySend(0, NONE, bytesOf('x')), 'and nothing was taken');
    assert.is(blocked, 1, 'a send that found no link asks for one');
    assert.not(a.sender.announce(0, 0, 0, 0, 0));
    assert.not(a.sender.pump());
    assert.not(a.sender.sendEof());
    assert.is(a.sender.unread(), 0);
    const settled: string[] = [];
    queue(a, ['1', '2'], settled);
    assert.is(blocked, 3);
    b.detach();
    const [near, far] = linkPair(core);
    a.attach(near);
    b.attach(far);
    assert.is(blocked, 4, 'what waits asks for room on the new link');
    assert.equal(transfer({ a, b }), ['1', '2']);
    assert.equal(settled, ['1', '2']);
  }),
);

test(
  'a message longer than the ring goes in fragments; it resolves with the last',
  timebox(5, () => {
    const { a, b } = channel();
    const xheader = pattern(3000, 2);
    const sent = a.sender.begin(0, xheader, LONG);
    assert.ok(sent > 1000 && sent < LONG.length, `${sent}`);
    let done = false;
    a.sender.queue(0, xheader, LONG, sent, () => {
      done = true;
    });
    for (let i = 0; i < 10 && !done; i++) {
      assert.is(b.receiver.ring.pull(0), undefined);
      assert.ok(a.sender.pump());
    }
    assert.ok(done);
    const message = b.receiver.ring.pull(0);
    assertBytes((message as { data: Uint8Array }).data, LONG);
    assertBytes((message as { xheader: Uint8Array }).xheader, xheader);
  }),
);

test(
  'a message that has begun is not withdrawn; another one is, and the queue is told when it is empty',
  timebox(5, () => {
    const both = channel();
    const { a } = both;
    let empties = 0;
    a.sender.onQueueEmpty = () => {
      empties++;
      return false;
    };
    const sent = a.sender.begin(0, NONE, LONG);
    const begun = a.sender.queue(0, NONE, LONG, sent);
    const [one, two] = queue(a, ['1', '2'], []) as [PendingSend, PendingSend];
    assert.not(a.sender.cancel(begun));
    assert.ok(a.sender.cancel(one));
    assert.not(a.sender.cancel(one), 'once');
    assert.is(a.sender.waiting, 2);
    assert.is(empties, 0);
    const texts = transfer(both);
    assert.is(texts.length, 2);
    assert.is(texts[1], '2');
    assert.not(a.sender.cancel(two), 'it was sent');
    assert.ok(empties > 0);
    empties = 0;
    fill(a);
    const [last] = queue(a, ['3'], []) as [PendingSend];
    assert.ok(a.sender.cancel(last));
    assert.is(a.sender.waiting, 0);
    assert.is(empties, 1);
  }),
);

/** Whether the core reports room to the poller. */
const wantsRoom = ({ core, near }: Channel) => core.field(near.index, L.TX_WANTS_ROOM) === 1;

test(
  'a link that is not polled is told when what waited is in the ring',
  timebox(5, () => {
    const { a, b, near } = channel({ polled: false });
    fill(a);
    queue(a, ['1', '2'], []);
    const { commits } = near;
    a.sender.pump();
    assert.is(near.commits, commits, 'nothing moved');
    b.texts();
    a.sender.pump();
    assert.is(near.commits, commits + 1);
    const begun = a.sender.begin(0, NONE, LONG);
    const before = near.commits;
    a.sender.queue(0, NONE, LONG, begun);
    b.receiver.ring.progress();
    a.sender.pump();
    assert.ok(near.commits > before, 'and of each fragment');
  }),
);

test(
  'the poller looks for room as long as something waits, and no longer',
  timebox(5, () => {
    const both = channel();
    const { a, b } = both;
    fill(a);
    assert.not(wantsRoom(both));
    const wakes = a.poller.wakes;
    const [entry] = queue(a, ['1'], []) as [PendingSend];
    assert.ok(wantsRoom(both));
    assert.ok(a.poller.wakes > wakes);
    a.sender.cancel(entry);
    assert.not(wantsRoom(both));
    queue(a, ['2'], []);
    b.texts();
    assert.ok(a.poller.pollOnce(0), 'the core reports room');
    assert.is(a.sender.waiting, 0);
    assert.not(wantsRoom(both));
  }),
);

test(
  'trySend refuses without a change where the first record finds no room, or others wait',
  timebox(5, () => {
    const { a, b, core, near } = channel();
    fill(a);
    const tail = () => core.field(near.index, L.TX_TAIL);
    const before = tail();
    assert.not(a.sender.trySend(0, bytesOf('h'), bytesOf('x')));
    assert.is(a.sender.waiting, 0);
    assert.is(tail(), before);
    queue(a, ['1'], []);
    assert.not(a.sender.trySend(0, NONE, bytesOf('2')));
    assert.is(a.sender.waiting, 1);
    b.texts();
    assert.ok(a.sender.trySend(0, NONE, bytesOf('3')), 'it sends first what waits');
    assert.equal(b.texts(), ['1', '3']);
  }),
);

test(
  'trySend goes on with what has begun from a copy: the caller reuses its bytes',
  timebox(5, () => {
    const both = channel();
    const { a, b } = both;
    // Of a Buffer `slice` makes a view.
    const [xheader, data] = [Buffer.from(pattern(2000, 4)), Buffer.from(LONG)];
    const expected = [xheader, data].map((bytes) => new Uint8Array(bytes)) as [Uint8Array, Uint8Array];
    assert.ok(a.sender.trySend(0, xheader, data));
    assert.is(a.sender.waiting, 1);
    xheader.fill(0xee);
    data.fill(0xee);
    for (let i = 0; i < 20 && a.sender.waiting > 0; i++) {
      b.receiver.ring.progress();
      a.sender.pump();
    }
    b.receiver.ring.progress();
    const message = b.receiver.unread.shift() as Message;
    assertBytes(message.xheader, expected[0]);
    assertBytes(message.data, expected[1]);
  }),
);

test(
  'the shutdown message goes behind the message under way and in front of all others; they wait for the next link',
  timebox(5, () => {
    const both = channel();
    const { a, b, core, near } = both;
    const settled: string[] = [];
    const sent = a.sender.begin(0, NONE, LONG);
    a.sender.queue(0, NONE, LONG, sent, () => settled.push('long'));
    queue(a, ['1'], settled);
    let empties = 0;
    a.sender.onQueueEmpty = () => {
      empties++;
      return false;
    };
    const types: number[] = [];
    b.router.register(9, () => ({
      begin: () => undefined,
      complete: (_xheader, data) => {
        types.push(data.length);
        return undefined;
      },
    }));
    a.sender.sendShutdown(9, new Uint8Array(4), () => settled.push('shutdown'));
    assert.equal(settled, [], 'the message under way comes first');
    assert.ok(wantsRoom(both));
    for (let i = 0; i < 20; i++) {
      b.receiver.ring.progress();
      a.sender.pump();
    }
    assert.equal(settled, ['long', 'shutdown']);
    assert.not(wantsRoom(both), 'what waits asks for no room on this link');
    assert.equal(types, [4]);
    assert.is(b.receiver.unread.length, 1);
    b.receiver.unread.drop();
    assert.is(a.sender.begin(0, NONE, bytesOf('2')), -1, 'nothing goes behind it');
    assert.not(a.sender.trySend(0, NONE, bytesOf('2')));
    assert.not(a.sender.sendEof());
    queue(a, ['2'], settled);
    assert.not(a.sender.pump());
    const counted = core.count(near.index, L.COUNT_SENT);
    assert.is(counted, 2, 'the long message and the shutdown message');
    assert.is(empties, 0);
    const [again, farther] = linkPair(core);
    a.detach();
    b.detach();
    a.attach(again);
    b.attach(farther);
    assert.equal(transfer(both), ['1', '2']);
    assert.equal(settled.slice(2), ['1', '2']);
  }),
);

test(
  'a shutdown message that found no room is taken back; the message under way begins anew over the next link',
  timebox(5, () => {
    const both = channel();
    const { a, b, core } = both;
    const sent = a.sender.begin(0, NONE, LONG);
    const begun = a.sender.queue(0, NONE, LONG, sent);
    assert.ok(begun.sent > 0);
    let said = false;
    a.sender.sendShutdown(9, new Uint8Array(4), () => {
      said = true;
    });
    assert.ok(a.sender.withdrawShutdown());
    assert.not(a.sender.withdrawShutdown(), 'once');
    assert.not(wantsRoom(both));
    assert.is(begun.sent, -1);
    b.receiver.drainAndForget();
    assert.not(a.sender.pump(), 'nothing more goes over this link');
    const [near, far] = linkPair(core);
    a.detach();
    b.detach();
    a.attach(near);
    b.attach(far);
    const [text] = transfer({ a, b });
    assert.is(text, textOf(LONG));
    assert.not(said);
  }),
);

test(
  'a shutdown message in the ring is not taken back',
  timebox(5, () => {
    const { a } = channel();
    let said = 0;
    a.sender.sendShutdown(9, new Uint8Array(4), () => said++);
    assert.is(said, 1);
    assert.not(a.sender.withdrawShutdown());
  }),
);

test(
  'data that waits and lies in the memory of the link is copied when that goes away',
  timebox(5, () => {
    const { a, core } = channel();
    fill(a);
    const inside = core.bytes.subarray(L.WINDOW + 0x80000, L.WINDOW + 0x80000 + 100);
    inside.fill(7);
    const moved = a.sender.queue(0, NONE, inside, -1);
    const other = new Uint8Array(10);
    const stays = a.sender.queue(0, NONE, other, -1);
    a.sender.evacuate(core.bytes.buffer);
    inside.fill(8);
    assert.ok(moved.data.every((byte) => byte === 7));
    assert.is(moved.data.length, 100);
    assert.is(stays.data, other);
  }),
);

test(
  'the first message of a link goes in front of all that waits',
  timebox(5, () => {
    const { a, b, core } = channel();
    a.detach();
    b.detach();
    queue(a, ['1'], []);
    const [near, far] = linkPair(core, { polled: false });
    const types: string[] = [];
    b.router.register(11, () => ({
      begin: () => undefined,
      complete: (_xheader, data) => {
        types.push(`first ${data.length}, ${b.receiver.unread.length} before`);
        return undefined;
      },
    }));
    a.attach(near);
    b.attach(far);
    a.sender.sendFirst(11);
    assert.is(near.commits, 1);
    a.sender.pump();
    assert.equal(b.texts(), ['1']);
    assert.equal(types, ['first 0, 0 before']);
  }),
);

test(
  'the end waits for room; behind it nothing can be sent',
  timebox(5, () => {
    const both = channel({ polled: false });
    const polled = channel();
    fill(polled.a);
    assert.not(polled.a.sender.sendEof());
    assert.ok(wantsRoom(polled), 'the poller reports room for it');
    polled.b.texts();
    assert.ok(polled.a.sender.sendEof());
    assert.not(wantsRoom(polled));
    const { a, b, near } = both;
    fill(a);
    const { commits } = near;
    assert.not(a.sender.sendEof());
    assert.is(near.commits, commits);
    b.texts();
    assert.ok(a.sender.sendEof());
    assert.is(near.commits, commits + 1);
    b.receiver.ring.progress();
    assert.ok(b.receiver.ring.ended);
  }),
);

test(
  'a peer that sleeps is rung for each record, the end included',
  timebox(5, () => {
    const { a, core, near } = channel();
    // The core is both peers: the rings are armed, and it sleeps.
    const sleep = () => assert.is(core.call.trySleep(1), L.SLEEP_ASLEEP);
    a.sender.begin(0, NONE, NONE);
    assert.is(near.rings, 0, 'it polls');
    core.call.peek(near.peer!.index);
    core.call.release(near.peer!.index);
    sleep();
    a.sender.begin(0, NONE, NONE);
    assert.is(near.rings, 1);
    a.sender.begin(0, NONE, NONE);
    assert.is(near.rings, 1, 'it has been rung');
    for (let i = 0; i < 2; i++) {
      core.call.peek(near.peer!.index);
      core.call.release(near.peer!.index);
    }
    core.call.poll(0);
    sleep();
    assert.ok(a.sender.sendEof());
    assert.is(near.rings, 2);
  }),
);

test(
  'all that waits is rejected at the end of the connection; what was not asked for as a promise is dropped',
  timebox(5, () => {
    const { a } = channel();
    fill(a);
    const settled: string[] = [];
    queue(a, ['1', '2'], settled);
    a.sender.queue(0, NONE, NONE, -1);
    a.sender.rejectAll(new IsthmusError('ERR_ISTHMUS_CLOSED', 'it is over'));
    assert.equal(settled, ['1: ERR_ISTHMUS_CLOSED', '2: ERR_ISTHMUS_CLOSED']);
    assert.is(a.sender.waiting, 0);
  }),
);

test(
  'messages of the protocol: behind what waits, and dropped when the connection is over',
  timebox(5, () => {
    const both = channel();
    const { a, b } = both;
    const order: string[] = [];
    b.router.register(6, () => ({
      begin: () => undefined,
      complete: (xheader, data) => {
        order.push(`${textOf(xheader)} ${textOf(data)}`);
        return undefined;
      },
    }));
    const control = (text: string) =>
      a.sender.control(6, bytesOf('h'), bytesOf(text), () => order.push(`${text} is out`));
    assert.is(control('1'), undefined);
    fill(a);
    const waiting = control('2');
    assert.ok(waiting);
    transfer(both);
    assert.equal(order, ['1 is out', 'h 1', '2 is out', 'h 2']);
    // The core refuses whatever comes behind the end.
    a.lifecycle.close('local');
    assert.ok(a.sender.sendEof());
    a.lifecycle.raise('queueEmpty');
    assert.is(control('3'), undefined);
    a.lifecycle.raise('destroy');
    assert.is(control('4'), undefined);
    transfer(both);
    assert.equal([order.length, a.violations.length], [4, 0]);
  }),
);

test(
  'a peer that waits to copy gets large messages through the ring, no other one',
  timebox(5, () => {
    const { a, b } = channel({ capacity: 65_536 });
    const says = (copies: boolean) => {
      for (let i = 0; i < 8; i++) b.receiver.mode.noteOther(copies);
    };
    assert.not(a.sender.shouldStream(20_000), 'it has not said how it reads');
    says(false);
    assert.not(a.sender.shouldStream(20_000), 'it reads in place');
    says(true);
    assert.ok(a.sender.shouldStream(20_000));
    assert.ok(a.sender.shouldStream(4 << 20));
    assert.not(a.sender.shouldStream((4 << 20) + 1), 'too long for one call');
    a.sender.begin(0, NONE, NONE);
    assert.not(a.sender.shouldStream(20_000), 'it has something to read');
    b.texts();
    assert.ok(a.sender.shouldStream(20_000));
    a.sender.queue(0, NONE, NONE, -1);
    assert.not(a.sender.shouldStream(20_000), 'others wait');
  }),
);

/**
 * A channel whose peer waits to copy, and may read while the sender waits for room. The time is the test's: a slow machine
 * would end the wait otherwise.
 */
function streaming() {
  const both = channel({ capacity: 65_536 });
  const { a, b, core, near } = both;
  for (let i = 0; i < 8; i++) b.receiver.mode.noteOther(true);
  const { now } = performance;
  const peer = { reads: false, msForEach: 0, waits: 0 };
  let time = 0;
  performance.now = () => time;
  const { call } = core;
  const claimMoreSpin = (index: number, rounds: number) => {
    peer.waits++;
    time += peer.msForEach;
    if (peer.reads) b.receiver.ring.pull(0);
    return call.claimMoreSpin(index, rounds);
  };
  const watched = Object.create(core, { call: { value: { ...call, claimMoreSpin } } }) as TestCore;
  const link = new TestLink(watched, near.index, {});
  const attach = () => a.sender.attach(new BoundLink(link));
  attach();
  return {
    ...both,
    peer,
    attach,
    [Symbol.dispose]: () => {
      performance.now = now;
    },
  };
}

test(
  'a peer that did not take a large message out at once is spared 1, 2, 4, … 1,024 of them, and a new link begins anew',
  timebox(10, () => {
    using both = streaming();
    const { a, b, peer, attach } = both;
    const large = new Uint8Array(200_000);
    const refused = () => {
      let count = 0;
      while (!a.sender.shouldStream(large.length)) count++;
      return count;
    };
    let tries = false;
    const stream = () => {
      tries = !tries;
      if (tries) assert.ok(a.sender.trySend(0, NONE, large, true));
      else {
        const sent = a.sender.begin(0, NONE, large, true);
        if (sent < large.length) a.sender.queue(0, NONE, large, sent);
      }
      while (a.sender.waiting > 0) {
        b.texts();
        a.sender.pump();
      }
      b.texts();
    };
    assert.is(refused(), 0);
    for (const expected of [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024]) {
      stream();
      assert.is(refused(), expected);
    }
    peer.reads = true;
    stream();
    assert.is(refused(), 0, 'taken out at once');
    peer.reads = false;
    stream();
    assert.is(refused(), 1, 'and it begins again');
    stream();
    attach();
    assert.is(refused(), 0, 'a new link');
    stream();
    assert.is(refused(), 1);
  }),
);

test(
  'a call waits for a peer that reads on for at most 1 ms',
  timebox(5, () => {
    for (const [msForEach, most] of [
      [0, Number.POSITIVE_INFINITY],
      [0.3, 6],
    ] as const) {
      using both = streaming();
      Object.assign(both.peer, { reads: true, msForEach });
      const large = new Uint8Array(400_000);
      const sent = both.a.sender.begin(0, NONE, large, true);
      assert.ok(both.peer.waits > 3 && both.peer.waits <= most, `${both.peer.waits} waits`);
      assert.is(sent === large.length, msForEach === 0);
    }
  }),
);

test(
  'a peer that reads in place wants a run for what does not fit into one record',
  timebox(5, () => {
    const core = newCore(4);
    const region = new TestRegion(core).asRegion;
    const { a, b } = channel();
    for (let i = 0; i < 8; i++) b.receiver.mode.noteOther(false);
    assert.not(a.sender.wantsRun(100_000), 'not without a region');
    const [near, far] = linkPair(core, { region });
    a.detach();
    b.detach();
    a.attach(near);
    b.attach(far);
    assert.ok(a.sender.wantsRun(100_000), 'the new link was told how the peer reads');
    assert.not(a.sender.wantsRun(1000));
    for (let i = 0; i < 8; i++) b.receiver.mode.noteOther(true);
    assert.not(a.sender.wantsRun(100_000));
  }),
);

test(
  'no abort listener is left on a signal, whatever becomes of the message',
  timebox(5, async () => {
    const both = channel();
    const { a } = both;
    const controller = new AbortController();
    const { signal } = controller;
    const listeners = () => getEventListeners(signal, 'abort').length;
    fill(a);
    const sent = a.sender.wait(0, NONE, bytesOf('1'), -1, signal);
    const aborted = a.sender.wait(0, NONE, bytesOf('2'), -1, signal);
    assert.is(listeners(), 2);
    transfer(both);
    await Promise.all([sent, aborted]);
    assert.is(listeners(), 0);

    // The first part of a message is in the ring: the signal does not withdraw it, unless a suspension puts it back.
    const begun = a.sender.begin(0, NONE, LONG);
    assert.ok(begun > 0);
    const rest = a.sender.wait(0, NONE, LONG, begun, signal);
    const waits = a.sender.wait(0, NONE, bytesOf('3'), -1, signal);
    assert.is(listeners(), 2);
    const reason = new Error('enough');
    controller.abort(reason);
    assert.is(await rejection(waits), reason as unknown);
    assert.is(listeners(), 0);
    assert.is(a.sender.waiting, 1);
    assert.equal(transfer(both), [textOf(LONG)]);
    await rest;

    fill(a);
    assert.is(await rejection(a.sender.wait(0, NONE, NONE, -1, signal)), reason as unknown);
    assert.is(a.sender.waiting, 0, 'an aborted signal: nothing was queued');
    const other = new AbortController();
    const rejected = a.sender.wait(0, NONE, NONE, -1, other.signal);
    const error = new IsthmusError('ERR_ISTHMUS_CLOSED', 'over');
    a.sender.rejectAll(error);
    assert.is(await rejection(rejected), error);
    assert.is(getEventListeners(other.signal, 'abort').length, 0);
  }),
);

test(
  'a message that begins to move while it waits is not withdrawn by its signal',
  timebox(5, async () => {
    const both = channel();
    const { a, b } = both;
    fill(a);
    const controller = new AbortController();
    const sent = a.sender.wait(0, NONE, LONG, -1, controller.signal);
    b.texts();
    a.sender.pump();
    controller.abort();
    assert.is(a.sender.waiting, 1);
    assert.equal(transfer(both), [textOf(LONG)]);
    await sent;
    assert.is(getEventListeners(controller.signal, 'abort').length, 0);
  }),
);

test(
  'a ring that was taken away because the peer is gone is like a full one',
  timebox(5, () => {
    const { a, core, near } = channel();
    core.call.lose(near.index);
    core.call.dropTransmit(near.index);
    assert.is(a.sender.begin(0, NONE, bytesOf('x')), -1);
    assert.not(a.sender.trySend(0, NONE, bytesOf('x')));
    assert.not(a.sender.announce(0, 0, 0, 0, 0));
    const settled: string[] = [];
    queue(a, ['1'], settled);
    assert.not(a.sender.pump());
    assert.equal([a.sender.waiting, settled, a.violations], [1, [], []]);
    const other = channel();
    const begun = other.a.sender.begin(0, NONE, LONG);
    other.a.sender.queue(0, NONE, LONG, begun);
    other.core.call.lose(other.near.index);
    other.core.call.dropTransmit(other.near.index);
    assert.not(other.a.sender.pump(), 'also in the middle of a message');
    assert.equal([other.a.sender.waiting, other.a.violations], [1, []]);
  }),
);

test(
  'a head position that cannot be ends the connection, and rejects what waits',
  timebox(5, () => {
    const { a, core, near } = channel();
    fill(a);
    const settled: string[] = [];
    queue(a, ['1', '2'], settled);
    core.setU32(core.call.ringAddress(near.peer!.index) + L.RING_HEAD, 12);
    assert.ok(a.sender.pump(), 'that was progress');
    assert.equal(settled, ['1: ERR_ISTHMUS_PEER_PROTOCOL', '2: ERR_ISTHMUS_PEER_PROTOCOL']);
    assert.is(a.violations.length, 1);
    assert.match(a.violations[0]!.message, /a head position that cannot be/);

    for (const act of [
      ({ sender }: End) => sender.begin(0, NONE, NONE),
      ({ sender }: End) => sender.trySend(0, NONE, NONE),
      ({ sender }: End) => sender.announce(0, 0, 0, 0, 0),
      ({ sender }: End) => sender.unread(),
    ]) {
      const other = channel();
      fill(other.a);
      other.core.setU32(other.core.call.ringAddress(other.far.index) + L.RING_HEAD, 12);
      const error = thrownBy(() => act(other.a));
      assert.is(error.code, 'ERR_ISTHMUS_PEER_PROTOCOL');
      assert.equal(other.a.violations, [error]);
    }
  }),
);

test(
  'an invalid head between two fragments ends the connection too',
  timebox(5, () => {
    const { a, core, far } = channel();
    const begun = a.sender.begin(0, NONE, LONG);
    const settled: string[] = [];
    a.sender.queue(
      0,
      NONE,
      LONG,
      begun,
      () => settled.push('sent'),
      (error) => settled.push((error as IsthmusError).code),
    );
    core.setU32(core.call.ringAddress(far.index) + L.RING_HEAD, 12);
    assert.ok(a.sender.pump());
    assert.equal(settled, ['ERR_ISTHMUS_PEER_PROTOCOL']);
  }),
);

test(
  'bytes in the ring that the peer has not consumed',
  timebox(5, () => {
    const { a, b } = channel();
    assert.is(a.sender.unread(), 0);
    a.sender.begin(0, NONE, bytesOf('12345678'));
    assert.is(a.sender.unread(), 24);
    b.texts();
    assert.is(a.sender.unread(), 0);
  }),
);

test(
  'with the queue empty its owner is told, also that this moved something',
  timebox(5, () => {
    const { a } = channel();
    let answer = false;
    a.sender.onQueueEmpty = () => answer;
    assert.not(a.sender.pump());
    answer = true;
    assert.ok(a.sender.pump());
  }),
);

test.run();

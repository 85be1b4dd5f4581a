/** The exchange of SHUTDOWN messages: what each side sends, when, and in which phase it is then. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Shutdown } from '../../host/connection/shutdown.js';
import { bytesOf, channel, type End, fill, type LinkOptions, LONG, NONE, Records, write } from '../support/channel.js';
import { FakeClock } from '../support/clock.js';
import { L } from '../support/core.js';
import { timebox } from '../support/timebox.js';

const { MESSAGE_SHUTDOWN_REQ: REQ, MESSAGE_SHUTDOWN_ACK: ACK, MESSAGE_SUSPEND: SUSPEND } = L;
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

interface Side {
  readonly end: End;
  readonly shutdown: Shutdown;
  drains: number;
  port: () => Promise<number>;
}

function side(end: End): Side {
  const one: Side = {
    end,
    drains: 0,
    port: () => Promise.resolve(8000),
    shutdown: new Shutdown(
      end.binding,
      end.sender,
      end.router,
      () => one.drains++,
      () => one.port(),
    ),
  };
  return one;
}

function scene(options: LinkOptions = {}) {
  const both = channel(options);
  const [a, b] = [side(both.a), side(both.b)];
  b.port = () => Promise.resolve(9000);
  return {
    a,
    b,
    near: both.near,
    far: both.far,
    core: both.core,
    phases: () => [a.end.lifecycle.phase, b.end.lifecycle.phase],
    /** Let both sides go on until nothing moves. */
    async settle() {
      for (let i = 0; i < 10; i++) {
        a.end.progress();
        b.end.progress();
        await turn();
      }
    },
  };
}

/** The value of a SHUTDOWN message. */
function value(port: number): Uint8Array {
  const data = Buffer.alloc(4);
  data.writeInt32LE(port);
  return data;
}

// ─── the exchange ──────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'one side asks, the other one answers; each tells where it listens',
  timebox(5, async () => {
    const { a, b, phases, settle } = scene();
    a.shutdown.start();
    assert.equal([a.shutdown.asked, a.drains, a.end.lifecycle.phase], [true, 1, 'suspending']);
    await turn();
    assert.is(a.end.lifecycle.phase, 'shutdownSent');
    b.end.progress();
    assert.equal([b.end.lifecycle.phase, b.drains, b.shutdown.asked], ['shutdownReceived', 1, false]);
    await settle();
    assert.equal(phases(), ['draining', 'draining']);
    assert.equal([a.shutdown.peerPort, b.shutdown.peerPort], [9000, 8000]);
    a.shutdown.start();
    assert.is(a.drains, 1, 'nothing is begun again');
    a.shutdown.linkUp();
    assert.not(a.shutdown.asked);
  }),
);

test(
  'both ask at once: each takes the other’s request for the answer, and sends none',
  timebox(5, async () => {
    const { a, b, near, far, core, phases, settle } = scene();
    a.shutdown.start();
    b.shutdown.start();
    await settle();
    assert.equal(phases(), ['draining', 'draining']);
    assert.equal([core.count(near.index, L.COUNT_SENT), core.count(far.index, L.COUNT_SENT)], [1, 1]);
    assert.equal([a.shutdown.asked, b.shutdown.asked], [true, true]);
  }),
);

test(
  'a request that comes while this side still looks for its port: its own request is the answer',
  timebox(5, async () => {
    const { a, b, far, core, phases, settle } = scene();
    let tell: (port: number) => void = () => {};
    b.port = () =>
      new Promise((resolve) => {
        tell = resolve;
      });
    b.shutdown.start();
    a.shutdown.start();
    await settle();
    assert.equal(phases(), ['shutdownSent', 'shutdownReceived']);
    assert.is(b.drains, 1, 'no second one');
    tell(7000);
    await settle();
    assert.equal(phases(), ['draining', 'draining']);
    assert.is(core.count(far.index, L.COUNT_SENT), 1);
    assert.is(a.shutdown.peerPort, 7000);
  }),
);

test(
  'the message under way is finished first, and what the peer has sent before is delivered',
  timebox(5, async () => {
    const { a, b, phases, settle } = scene();
    const sent = a.end.sender.begin(0, NONE, LONG);
    a.end.sender.queue(0, NONE, LONG, sent);
    a.end.sender.queue(0, NONE, bytesOf('next'), -1);
    a.shutdown.start();
    await turn();
    assert.is(a.end.lifecycle.phase, 'suspending', 'the request is not in the ring');
    await settle();
    assert.equal(phases(), ['draining', 'draining']);
    assert.is(b.end.receiver.unread.length, 1);
    assert.is(a.end.sender.waiting, 1, 'the other one waits for the next link');
  }),
);

// ─── ports ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'a peer that listens nowhere, or where no port is: 0',
  timebox(5, () => {
    for (const [data, expected] of [
      [value(0), 0],
      [value(1), 1],
      [value(65_535), 65_535],
      [value(65_536), 0],
      [value(-1), 0],
    ] as const) {
      const { b, near } = scene();
      write(near, new Uint8Array(data), REQ);
      b.end.receiver.ring.progress();
      assert.is(b.end.lifecycle.phase, 'shutdownReceived');
      assert.is(b.shutdown.peerPort, expected, `${data.join()}`);
    }
  }),
);

test(
  'a request of another form suspends nothing: the connection is not kept for its sender',
  timebox(5, () => {
    for (const [data, xheader] of [
      [NONE, 0],
      [new Uint8Array(3).fill(1), 0],
      [new Uint8Array(5), 0],
      [Buffer.concat([value(80), Buffer.alloc(60)]), 0],
      [value(80), 4],
      [NONE, 4],
    ] as const) {
      const { b, near } = scene();
      write(near, new Uint8Array(data), REQ, xheader);
      b.end.receiver.ring.progress();
      assert.is(b.end.violations.length, 1, `${data.length} bytes, ${xheader} in the xheader`);
      assert.is(b.shutdown.peerPort, 0);
      assert.is(b.drains, 0);
    }
  }),
);

test(
  'a message that means nothing in this phase changes no port',
  timebox(5, async () => {
    const { a, b, near, settle } = scene();
    write(near, value(1), ACK);
    b.end.receiver.ring.progress();
    assert.equal([b.shutdown.peerPort, b.end.lifecycle.phase], [0, 'open']);
    write(near, value(2), REQ);
    write(near, value(3), REQ);
    b.end.receiver.ring.progress();
    assert.is(b.shutdown.peerPort, 2);
    await settle();
    assert.is(a.end.lifecycle.phase, 'open', 'an answer that was not asked for');
  }),
);

test(
  'a listener that cannot be opened is no reason not to suspend',
  timebox(5, async () => {
    const { a, b, phases, settle } = scene();
    a.port = () => Promise.reject(new Error('no port'));
    b.port = () => Promise.resolve(0);
    b.shutdown.peerPort = 5;
    a.shutdown.start();
    await settle();
    assert.equal(phases(), ['draining', 'draining']);
    assert.equal([a.shutdown.peerPort, b.shutdown.peerPort], [0, 0]);
  }),
);

test(
  'a port that is known too late is not sent',
  timebox(5, async () => {
    const { a, near, core } = scene();
    let tell: (port: number) => void = () => {};
    a.port = () =>
      new Promise((resolve) => {
        tell = resolve;
      });
    a.shutdown.start();
    a.end.lifecycle.raise('lost');
    tell(7000);
    await turn();
    assert.is(core.count(near.index, L.COUNT_SENT), 0);
  }),
);

// ─── out of band ───────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'without room for 100 ms the request goes out of band, where the link has such a way',
  timebox(5, async () => {
    using clock = new FakeClock();
    const { a, near } = scene({ outOfBand: true });
    fill(a.end);
    const waits = a.end.sender.queue(0, NONE, LONG, -1);
    a.shutdown.start();
    await clock.advance(99);
    assert.equal([near.told, a.end.lifecycle.phase], [[], 'suspending']);
    await clock.advance(1);
    assert.equal([near.told, a.end.lifecycle.phase], [[`sendShutdown ${REQ} 8000`], 'shutdownSent']);
    assert.is(a.end.sender.waiting, 1);
    assert.is(waits.sent, -1);
    await clock.advance(1000);
    assert.equal([near.told.length, clock.pending], [1, 0]);
  }),
);

test(
  'the answer goes that way too, in the place of a message under way, which begins anew',
  timebox(5, async () => {
    using clock = new FakeClock();
    const { b, near, far } = scene({ outOfBand: true });
    const begun = b.end.sender.begin(0, NONE, LONG);
    const entry = b.end.sender.queue(0, NONE, LONG, begun);
    write(near, value(1), REQ);
    b.end.receiver.ring.progress();
    await clock.advance(100);
    assert.equal([far.told, b.end.lifecycle.phase], [[`sendShutdown ${ACK} 9000`], 'draining']);
    assert.is(entry.sent, -1);
  }),
);

test(
  'a message that found room in time leaves no timer; without such a way it goes on waiting',
  timebox(5, async () => {
    using clock = new FakeClock();
    const quick = scene({ outOfBand: true });
    quick.a.shutdown.start();
    await clock.advance(0);
    assert.equal([quick.a.end.lifecycle.phase, clock.pending], ['shutdownSent', 0]);
    await clock.advance(1000);
    assert.equal(quick.near.told, []);

    const { a, b } = scene();
    fill(a.end);
    a.shutdown.start();
    await clock.advance(1000);
    assert.is(a.end.lifecycle.phase, 'suspending');
    b.end.progress();
    a.end.progress();
    assert.is(a.end.lifecycle.phase, 'shutdownSent');
    assert.is(clock.pending, 0);
  }),
);

test(
  'a connection that has ended meanwhile sends nothing out of band',
  timebox(5, async () => {
    using clock = new FakeClock();
    const { a, near } = scene({ outOfBand: true });
    fill(a.end);
    a.shutdown.start();
    await clock.advance(10);
    a.end.lifecycle.raise('lost');
    await clock.advance(1000);
    assert.equal(near.told, []);
  }),
);

// ─── other events ──────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'a close overtakes the exchange: the end of this direction is sent instead, and nothing behind it',
  timebox(5, async () => {
    const { b, near, far, core } = scene();
    let tell: (port: number) => void = () => {};
    b.port = () =>
      new Promise((resolve) => {
        tell = resolve;
      });
    write(near, value(1), REQ);
    b.end.receiver.ring.progress();
    b.end.lifecycle.close('local');
    assert.ok(b.end.sender.sendEof());
    assert.ok(b.end.lifecycle.raise('queueEmpty'));
    tell(9000);
    await turn();
    assert.is(core.count(far.index, L.COUNT_SENT), 1);
    assert.is(b.end.lifecycle.phase, 'eofSent');
  }),
);

test(
  'a peer that suspends when this side has sent its end need not come back: that is the end',
  timebox(5, () => {
    for (const type of [REQ, ACK, SUSPEND]) {
      const { b, near } = scene();
      b.end.lifecycle.close('local');
      b.end.lifecycle.raise('queueEmpty');
      write(near, value(5), type);
      b.end.receiver.ring.progress();
      assert.equal([b.end.lifecycle.phase, b.shutdown.peerPort, b.drains], ['closed', 0, 0], `${type}`);
    }
  }),
);

test(
  'an empty SUSPEND confirms a link, and otherwise means nothing; C’s has a port in its xheader, and never means anything',
  timebox(5, () => {
    const { b, near } = scene();
    const { lifecycle } = b.end;
    lifecycle.phase = 'confirming';
    write(near, value(5), SUSPEND, 4);
    write(near, value(5), SUSPEND);
    b.end.receiver.ring.progress();
    assert.is(lifecycle.phase, 'confirming');
    write(near, NONE, SUSPEND);
    b.end.receiver.ring.progress();
    assert.is(lifecycle.phase, 'open');
    const { ignored } = lifecycle;
    write(near, NONE, SUSPEND);
    write(near, value(5), SUSPEND, 4);
    b.end.receiver.ring.progress();
    assert.equal([lifecycle.phase, lifecycle.ignored, b.drains], ['open', ignored, 0]);
    lifecycle.phase = 'eofSent';
    write(near, NONE, SUSPEND);
    b.end.receiver.ring.progress();
    assert.is(lifecycle.phase, 'eofSent', 'an empty one is not the end');
  }),
);

test(
  'a message of more than 64 bytes is no SHUTDOWN message: it ends the connection before it is stored',
  timebox(5, () => {
    for (const type of [REQ, ACK, SUSPEND]) {
      const { b, near } = scene();
      new Records(near, new Uint8Array(65), type).next();
      b.end.receiver.ring.progress();
      assert.is(b.end.violations.length, 1);
      assert.match(b.end.violations[0]!.message, new RegExp(`type ${type}, which is not supported`));
    }
  }),
);

test.run();

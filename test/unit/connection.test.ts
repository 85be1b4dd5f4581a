/** Connections over links of a test, in cases that once went wrong: what an application and an operator are told. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { IsthmusError } from '../../host/base/errors.js';
import { RuntimeConnection } from '../../host/connection/connection.js';
import { coreLayout } from '../../host/core/core.js';
import { createPrivateCore, openPair } from '../../host/core/private.js';
import { Matching } from '../../host/matching/matching.js';
import { PendingReceive } from '../../host/matching/pending-receive.js';
import type { Link, LinkOwner } from '../../host/plugins/plugin.js';
import { Poller } from '../../host/polling/poller.js';
import { rejection } from '../support/outcomes.js';
import { timebox } from '../support/timebox.js';

const core = createPrivateCore();
const RING_BYTES = 8192;
const NONE = new Uint8Array(0);
const PEER = { node: '127.0.0.1', pid: 1, id: 1n, name: 'peer', address: undefined };
const ROUTE = { plugin: 'test', why: undefined, peer: PEER };

/** A link of which the test is the peer. */
class TestLink implements Link {
  readonly core = core;
  readonly polled = true;
  readonly index: number;
  /** Entry of the peer. */
  readonly far: number;
  readonly outOfBand: number[] = [];
  owner: LinkOwner | undefined;

  constructor() {
    [this.index, this.far] = openPair(core, RING_BYTES);
  }

  start(owner: LinkOwner): void {
    this.owner = owner;
  }

  /** The peer sends a message of one record. */
  send(type: number, data: Uint8Array = NONE): void {
    const at = core.call.claim(this.far, type, 0, data.length);
    assert.ok(at > 0, 'there is room');
    core.bytes.set(data, at);
    core.call.commit(this.far);
  }

  sendShutdown(type: number): void {
    this.outOfBand.push(type);
  }

  committed(): void {}
  released(): void {}
  finish(): void {}
  destroy(): void {}
  free(): void {}
  ref(): void {}
  unref(): void {}
}

function connect(lines: string[] = []) {
  const poller = new Poller('block', () => ({ spins: false, wake() {}, rung() {}, stop() {} }));
  const connection = new RuntimeConnection(ROUTE, {
    poller,
    matching: new Matching(),
    limits: { unread: 1 << 20, maxMessageSize: 1 << 20 },
    closeTimeout: 1000,
    stallTimeout: 0,
    peerTimeout: 0,
    log: (_level, line) => lines.push(line),
    rendezvous: () => Number.POSITIVE_INFINITY,
    bringUp: () => {},
    onSuspended: () => {},
    requestDrain: () => {},
    listenPort: async () => 0,
    onSilence: () => {},
    onReleased: () => {},
  });
  const link = new TestLink();
  const attach = (next: TestLink) => connection.attach(next, ROUTE, () => {});
  attach(link);
  return { connection, link, attach };
}

class Posted extends PendingReceive {
  complete(): void {}
  reject(): void {}
}

const lost = () => new IsthmusError('ERR_ISTHMUS_PEER_DIED', 'the peer died');
const tick = () => new Promise((resolve) => setImmediate(resolve));

test(
  'a message that a suspension has put back can be aborted again',
  timebox(5, async () => {
    const { connection, link } = connect();
    const { MESSAGE_SHUTDOWN_ACK } = coreLayout();
    const abort = new AbortController();
    const sent = rejection(connection.send(new Uint8Array(4 * RING_BYTES), { signal: abort.signal }));
    assert.is(connection.stats().pendingSends, 1, 'begun, and the ring is full');
    const suspended = connection.suspend();
    while (link.outOfBand.length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
    link.owner?.onShutdownReceived(MESSAGE_SHUTDOWN_ACK, 0);
    await suspended;
    assert.is(connection.state, 'suspended');
    assert.ok(connection.wantsToSend, 'it begins again over the next link');
    abort.abort(new Error('no longer'));
    assert.is(((await sent) as Error).message, 'no longer');
    assert.not(connection.wantsToSend);
    connection.destroy();
  }),
);

test(
  'close is traced as what it is, and a second one as ignored',
  timebox(5, async () => {
    const lines: string[] = [];
    const { connection } = connect(lines);
    lines.length = 0;
    const closed = [connection.close(), connection.close()];
    connection.destroy();
    await Promise.all(closed);
    assert.equal(lines.slice(0, 3), [
      'connection to peer[1]: open, close → closing',
      'connection to peer[1]: open, queueEmpty → eofSent',
      'connection to peer[1]: eofSent, close ignored',
    ]);
  }),
);

test(
  'a violation among the last messages of a lost peer: `closed` names it, calls get the loss',
  timebox(5, async () => {
    const { connection, link } = connect();
    const received = rejection(connection.receive());
    link.send(200);
    const error = lost();
    link.owner?.onEnded({ kind: 'lost', error });
    const closed = await connection.closed;
    assert.is(closed.reason, 'error');
    assert.is(closed.error?.code, 'ERR_ISTHMUS_PEER_PROTOCOL');
    assert.is(await received, error);
  }),
);

test(
  'destroyed by a match function while a lost peer is drained: it is closed without an error of its own',
  timebox(5, async () => {
    const { connection, link } = connect();
    link.send(0, new Uint8Array(8));
    connection.receiver.post(
      new Posted(() => {
        connection.destroy();
        return false;
      }),
    );
    link.owner?.onEnded({ kind: 'lost', error: lost() });
    assert.equal(await connection.closed, { reason: 'local' });
  }),
);

test(
  'a link that breaks behind the last messages of a suspension leaves no error for the next one',
  timebox(5, async () => {
    const { connection, link, attach } = connect();
    const { MESSAGE_SHUTDOWN_ACK } = coreLayout();
    const suspended = connection.suspend();
    await tick();
    link.send(MESSAGE_SHUTDOWN_ACK, new Uint8Array(4));
    link.owner?.onEnded({ kind: 'lost', error: lost() });
    await suspended;
    assert.is(connection.state, 'suspended');
    const next = new TestLink();
    attach(next);
    assert.is(connection.state, 'open');
    next.owner?.onEnded({ kind: 'peer-closed' });
    assert.equal(await connection.closed, { reason: 'peer' });
  }),
);

test.run();

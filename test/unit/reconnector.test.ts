/**
 * Connections that come up by themselves: which side dials, which process counts as the peer, how long they wait, and
 * what is left behind. Dialer, listeners and connections are stand-ins, and time passes when a test says so.
 */
import { getEventListeners } from 'node:events';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ConInfo, MessageCounts } from '../../host/api/peer.js';
import { abortable } from '../../host/base/abortable.js';
import { type ErrorCode, IsthmusError } from '../../host/base/errors.js';
import type { RuntimeConnection } from '../../host/connection/connection.js';
import type { ConfirmRole } from '../../host/connection/link-lifetime.js';
import { compareNames, Reconnection } from '../../host/endpoint/reconnection.js';
import { Reconnector, type ReconnectorOptions } from '../../host/endpoint/reconnector.js';
import type { AskOptions } from '../../host/handshake/ask-listener.js';
import type { Connected } from '../../host/handshake/attach.js';
import type { DialOptions } from '../../host/handshake/dial.js';
import type { OnDemandAnswer } from '../../host/handshake/outcome.js';
import { FakeClock, turn } from '../support/clock.js';
import { timebox } from '../support/timebox.js';

const CONNECT_MS = 1000;
const RESUME_MS = 60_000;
const SUSPENDED_LIMIT = 8;
const LOCAL: ConInfo = { node: '10.0.0.1', pid: 1, id: 10n, name: 'M' };
const SMALLER = 'A';
const GREATER = 'Z';

const error = (code: ErrorCode, message = 'as the test says') => new IsthmusError(code, message);

// ── Stand-ins ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A call to another process: a dial, or a request to a listener. */
interface Call {
  readonly kind: 'dial' | 'ask';
  readonly where: string;
  readonly options: Omit<DialOptions, 'host' | 'port'> & Partial<AskOptions>;
  readonly signal: AbortSignal;
  readonly resolve: (connected?: Connected) => void;
  readonly reject: (error: unknown) => void;
  /** Not answered yet, and not aborted. */
  open: boolean;
}

class FakeDialer {
  readonly calls: Call[] = [];
  readonly closing = new AbortController();
  readonly ending = this.closing.signal;

  options(signal: AbortSignal) {
    return { registry: undefined as never, retry: 10, listens: 7100, signal };
  }

  dial({ host, port }: { host: string; port: number }, options: Call['options']): Promise<Connected> {
    return this.#call('dial', `${host}:${port}`, options) as Promise<Connected>;
  }

  askBack(options: AskOptions): Promise<void> {
    return this.#call('ask', `${options.host}:${options.port}`, options as never) as Promise<void>;
  }

  #call(kind: Call['kind'], where: string, options: Call['options']): Promise<unknown> {
    const signal = options.signal as AbortSignal;
    return abortable(signal, (resolve, reject) => {
      const call: Call = { kind, where, options, signal, open: true, resolve: answer, reject: fail };
      function answer(connected?: Connected): void {
        call.open = false;
        resolve(connected);
      }
      function fail(reason: unknown): void {
        call.open = false;
        reject(reason);
      }
      this.calls.push(call);
      return () => {
        call.open = false;
      };
    });
  }

  /** The only call that is under way. */
  get call(): Call {
    const open = this.calls.filter((one) => one.open);
    assert.is(open.length, 1, `${open.length} calls are under way`);
    return open[0] as Call;
  }

  get idle(): boolean {
    return this.calls.every((one) => !one.open);
  }
}

/** The result of a handshake. */
class FakeConnected {
  readonly kind = 'agreed';
  discarded = 0;
  readonly attempt = { undo: () => this.discarded++ };
  readonly socket = { destroy: () => this.discarded++ };

  constructor(
    readonly peer: ConInfo,
    readonly local: ConInfo,
    readonly counts: MessageCounts | undefined,
  ) {}

  get real(): Connected {
    return this as unknown as Connected;
  }

  /** Both the attempt and the socket are gone. */
  get isDiscarded(): boolean {
    return this.discarded === 2;
  }
}

class FakeConnection {
  state: RuntimeConnection['state'] = 'connecting';
  linked = false;
  wantsToSend = false;
  destroyed = false;
  counts: MessageCounts = { sent: 0, received: 0 };
  link: object | undefined;
  passes = 0;
  drains = 0;
  reverts = 0;
  failed: IsthmusError | undefined;
  readonly shutdown = { asked: false, peerPort: 7200 };
  readonly lifecycle = {
    exchanging: false,
    unconfirmed: false,
    events: [] as string[],
    raise: (event: string) => this.lifecycle.events.push(event),
    phase: 'idle',
  };
  readonly peer: ConInfo & { address: { host: string; port: number } | undefined };
  readonly route: { ends: object | undefined };
  onPass: (() => void) | undefined;

  constructor(
    readonly bed: Bed,
    name: string,
    local: ConInfo,
  ) {
    this.peer = { node: '10.0.0.2', pid: 2, id: 20n, name, address: { host: '10.0.0.2', port: 4242 } };
    this.route = { ends: { local, host: '10.0.0.1', listens: 7200 } };
  }

  get real(): RuntimeConnection {
    return this as unknown as RuntimeConnection;
  }

  /** It has been up, and is suspended. */
  suspend(asked: boolean): void {
    this.state = 'suspended';
    this.lifecycle.phase = 'suspended';
    this.linked = false;
    this.lifecycle.unconfirmed = false;
    this.link = undefined;
    this.shutdown.asked = asked;
    this.bed.reconnector.onSuspended(this.real);
  }

  up(): void {
    this.state = 'open';
    this.linked = true;
    this.lifecycle.unconfirmed = false;
    this.shutdown.asked = false;
    this.link = {};
  }

  fail(reason: IsthmusError): void {
    if (this.state === 'closed') return;
    this.failed = reason;
    this.close();
  }

  destroy(): void {
    this.destroyed = true;
    this.close();
  }

  close(): void {
    this.state = 'closed';
    this.linked = false;
    this.bed.reconnector.remove(this.real);
  }

  revert(): void {
    if (!this.lifecycle.unconfirmed) return;
    this.reverts++;
    this.suspend(this.shutdown.asked);
  }

  progress(): boolean {
    this.passes++;
    this.onPass?.();
    return false;
  }

  onDrainRequested(): void {
    this.drains++;
  }
}

/** A reconnector among stand-ins. */
class Bed implements Disposable {
  readonly clock = new FakeClock();
  readonly dialer = new FakeDialer();
  readonly listeners = { size: 1 };
  readonly all: FakeConnection[] = [];
  /** Links that were given to connections. */
  readonly links: {
    connection: FakeConnection;
    connected: Connected;
    role: ConfirmRole | undefined;
    up: () => void;
  }[] = [];
  readonly lines: string[] = [];
  readonly reconnector: Reconnector;

  constructor() {
    const connections = {
      resume: (one: RuntimeConnection, connected: Connected, up: () => void, role?: ConfirmRole) => {
        const connection = one as unknown as FakeConnection;
        const begin = () => {
          connection.up();
          up();
        };
        this.links.push({ connection, connected, role, up: begin });
        if (role === 'responder') {
          connection.linked = true;
          connection.lifecycle.unconfirmed = true;
          connection.link = {};
        } else {
          begin();
        }
      },
      linkedTo: (id: bigint) => this.all.find((one) => one.peer.id === id && one.linked)?.real,
      suspendingTo: (id: bigint) =>
        this.all.find((one) => one.peer.id === id && one.linked && one.lifecycle.exchanging)?.real,
    };
    this.reconnector = new Reconnector({
      dialer: this.dialer as ReconnectorOptions['dialer'],
      listeners: this.listeners,
      connections,
      config: { handshakeTimeout: CONNECT_MS, resumeTimeout: RESUME_MS, suspendedLimit: SUSPENDED_LIMIT },
      log: (level, line) => this.lines.push(`${level}: ${line}`),
    });
  }

  /** An on-demand connection to an endpoint of that name, never up yet. */
  onDemand(name: string, local: ConInfo = LOCAL): FakeConnection {
    const connection = new FakeConnection(this, name, local);
    this.all.push(connection);
    this.reconnector.add(connection.real, { host: '10.0.0.2', port: 7200, name }, local);
    return connection;
  }

  /** A connection that has been up, and is suspended. */
  suspended(name: string, asked: boolean, local: ConInfo = LOCAL): FakeConnection {
    const connection = new FakeConnection(this, name, local);
    this.all.push(connection);
    connection.up();
    connection.suspend(asked);
    return connection;
  }

  bringUp(connection: FakeConnection): void {
    connection.wantsToSend = true;
    this.reconnector.bringUp(connection.real);
  }

  connected(
    connection: FakeConnection,
    more: { id?: bigint; local?: ConInfo; counts?: MessageCounts | undefined } = {},
  ) {
    const { sent, received } = connection.counts;
    const { id = connection.peer.id, local = LOCAL } = more;
    const counts = 'counts' in more ? more.counts : { sent: received, received: sent };
    return new FakeConnected({ ...connection.peer, id }, local, counts);
  }

  /** A handshake of the peer on a listener of this side. */
  peerConnects(connection: FakeConnection, more: Parameters<Bed['connected']>[1] = {}): FakeConnected {
    const connected = this.connected(connection, more);
    assert.is(this.reconnector.agreed(connected.real), true);
    return connected;
  }

  asked(kind: 'connect' | 'back-connect' | 'drain', { peer }: FakeConnection, more: Partial<ConInfo> = {}) {
    return this.reconnector.asked({ kind, peer: { ...peer, ...more } });
  }

  /** Nothing is under way, no timer is set, and no listener is left on a signal. */
  assertIdle(): void {
    assert.ok(this.dialer.idle, 'no call is under way');
    assert.is(this.clock.pending, 0, 'no timer is set');
    for (const { signal } of this.dialer.calls) assert.is(getEventListeners(signal, 'abort').length, 0);
    assert.is(getEventListeners(this.dialer.ending, 'abort').length, 0);
  }

  [Symbol.dispose](): void {
    this.clock[Symbol.dispose]();
  }
}

/** A test among stand-ins. */
function check(name: string, body: (bed: Bed) => Promise<void>): void {
  test(
    name,
    timebox(10, async () => {
      using bed = new Bed();
      await body(bed);
    }),
  );
}

// ── Which side dials ─────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'names are compared by their first eight bytes, padded with zeros',
  timebox(5, () => {
    assert.is(compareNames('same', 'same'), 0);
    assert.is(compareNames('a', 'b'), -1);
    assert.is(compareNames('b', 'a'), 1);
    assert.is(compareNames('a', 'aa'), -1);
    assert.is(compareNames('eightby8', 'eightby8 and more'), 0);
    // Bytes of UTF-8, not letters.
    assert.is(compareNames('Ā', 'z'), 1);
    assert.is(compareNames('ääääx', 'ääääy'), 0);
  }),
);

check('the smaller name dials, and confirms the link', async (bed) => {
  const connection = bed.onDemand(GREATER);
  connection.counts = { sent: 0, received: 0 };
  bed.bringUp(connection);
  const { kind, where, options, resolve } = bed.dialer.call;
  assert.equal([kind, where], ['dial', '10.0.0.2:7200']);
  assert.is(options.demand, true);
  assert.is(options.local, LOCAL);
  assert.is(options.handshakeTimeoutMs, CONNECT_MS);
  assert.equal(options.counts, { sent: 0, received: 0 });
  assert.is(options.listens, 7100, 'what all handshakes of the endpoint share');
  assert.equal([options.retry, options.connectTimeoutMs], [10, undefined]);
  resolve(bed.connected(connection).real);
  await turn();
  assert.is(bed.links.length, 1);
  assert.is(bed.links[0]?.role, 'initiator');
  assert.is(connection.state, 'open');
  bed.assertIdle();
});

check('the greater name asks the peer to dial, and waits', async (bed) => {
  const connection = bed.onDemand(SMALLER);
  bed.bringUp(connection);
  const { kind, where, options, resolve } = bed.dialer.call;
  assert.equal([kind, where], ['ask', '10.0.0.2:7200']);
  assert.is(options.local, LOCAL);
  assert.is(options.handshakeTimeoutMs, CONNECT_MS);
  resolve();
  await turn();
  assert.is(bed.links.length, 0);
  bed.peerConnects(connection);
  assert.is(bed.links[0]?.role, 'responder');
  bed.links[0]?.up();
  await turn();
  assert.is(bed.dialer.calls.length, 1);
  assert.is(connection.failed, undefined);
  bed.assertIdle();
});

check('the greater name that listens nowhere cannot be reached, and asks for nothing', async (bed) => {
  bed.listeners.size = 0;
  const connection = bed.onDemand(SMALLER);
  bed.bringUp(connection);
  await turn();
  assert.is(connection.failed?.code, 'ERR_ISTHMUS_CONNECT');
  assert.match(
    connection.failed?.message ?? '',
    /'M' is greater than 'A', so 10\.0\.0\.2:7200 .* call listen\(\) first/,
  );
  assert.is(bed.dialer.calls.length, 0);
  bed.assertIdle();
});

check('a peer that listens nowhere has to come by itself', async (bed) => {
  for (const name of [SMALLER, GREATER]) {
    const connection = new FakeConnection(bed, name, LOCAL);
    connection.shutdown.peerPort = 0;
    connection.suspend(true);
    await turn();
    assert.is(bed.dialer.calls.length, 0, name);
    bed.peerConnects(connection);
    bed.links.at(-1)?.up();
    await turn();
    connection.close();
  }
  bed.assertIdle();
});

check('without counts the peer is a C program: the link is not confirmed', async (bed) => {
  const dialled = bed.onDemand(GREATER);
  bed.bringUp(dialled);
  bed.dialer.call.resolve(bed.connected(dialled, { counts: undefined }).real);
  await turn();
  assert.is(bed.links[0]?.role, undefined);
  const called = bed.suspended(SMALLER, false, { ...LOCAL, id: 11n });
  bed.peerConnects(called, { counts: undefined, local: { ...LOCAL, id: 11n } });
  assert.is(bed.links[1]?.role, undefined);
  bed.assertIdle();
});

check('a suspended peer is called at the port that it has told last', async (bed) => {
  const connection = bed.onDemand(GREATER);
  bed.bringUp(connection);
  bed.dialer.call.resolve(bed.connected(connection).real);
  await turn();
  connection.shutdown.peerPort = 7300;
  connection.suspend(true);
  assert.is(bed.dialer.call.where, '10.0.0.2:7300');
  connection.close();
  await turn();
  bed.assertIdle();
});

check('one effort at a time', async (bed) => {
  const connection = bed.onDemand(GREATER);
  bed.bringUp(connection);
  bed.bringUp(connection);
  assert.is(bed.dialer.calls.length, 1);
  bed.dialer.call.resolve(bed.connected(connection).real);
  await turn();
  assert.is(bed.dialer.calls.length, 1);
  bed.assertIdle();
});

check('a connection that is not of these is left alone', async (bed) => {
  const connection = new FakeConnection(bed, GREATER, LOCAL);
  bed.bringUp(connection);
  bed.reconnector.remove(connection.real);
  assert.is(bed.dialer.calls.length, 0);
  assert.is(bed.reconnector.agreed(bed.connected(connection).real), false);
  // Both of its ends are in this process: there is no way to meet again, and none is needed.
  connection.route.ends = undefined;
  connection.suspend(true);
  assert.is(bed.dialer.calls.length, 0);
  bed.assertIdle();
});

check('an error of the handshake ends the connection; a link that has come meanwhile stays', async (bed) => {
  for (const name of [GREATER, SMALLER]) {
    const connection = bed.onDemand(name);
    bed.bringUp(connection);
    bed.dialer.call.reject(error('ERR_ISTHMUS_HANDSHAKE_REFUSED'));
    await turn();
    assert.is(connection.failed?.code, 'ERR_ISTHMUS_HANDSHAKE_REFUSED', name);
  }
  const strange = bed.onDemand(GREATER);
  bed.bringUp(strange);
  bed.dialer.call.reject(new TypeError('a fault'));
  await turn();
  assert.is(strange.failed?.code, 'ERR_ISTHMUS_CONNECT');
  assert.is(strange.failed?.message, 'a fault');
  const up = bed.onDemand(GREATER);
  bed.bringUp(up);
  up.up();
  bed.dialer.call.reject(error('ERR_ISTHMUS_CONNECT'));
  await turn();
  assert.is(up.failed, undefined);
  bed.assertIdle();
});

check('a handshake that ends too late is discarded', async (bed) => {
  const linked = bed.onDemand(GREATER);
  bed.bringUp(linked);
  linked.up();
  const late = bed.connected(linked);
  bed.dialer.call.resolve(late.real);
  await turn();
  assert.ok(late.isDiscarded);
  // Closed in the turn in which the handshake ends.
  const closed = bed.onDemand(GREATER);
  bed.bringUp(closed);
  const second = bed.connected(closed);
  bed.dialer.call.resolve(second.real);
  closed.close();
  await turn();
  assert.ok(second.isDiscarded);
  assert.is(bed.links.length, 0);
  // At a listener.
  const third = bed.peerConnects(bed.onDemand(GREATER, { ...LOCAL, id: 99n }), { local: { ...LOCAL, id: 99n } });
  assert.not(third.isDiscarded);
  const again = bed.peerConnects(bed.links[0]?.connection as FakeConnection, { local: { ...LOCAL, id: 99n } });
  assert.is(bed.links[0]?.connection.reverts, 1, 'a link that has not begun yields');
  assert.not(again.isDiscarded);
  bed.links[1]?.up();
  const fourth = bed.peerConnects(bed.links[1]?.connection as FakeConnection, { local: { ...LOCAL, id: 99n } });
  assert.ok(fourth.isDiscarded, 'one that has begun does not');
  bed.assertIdle();
});

check('what is closed while it is brought up is no error', async (bed) => {
  for (const name of [GREATER, SMALLER]) {
    const connection = bed.onDemand(name);
    bed.bringUp(connection);
    const { signal } = bed.dialer.call;
    connection.close();
    assert.is((signal.reason as IsthmusError).code, 'ERR_ISTHMUS_CLOSED');
    await turn();
    assert.is(connection.failed, undefined);
  }
  const waiting = bed.onDemand(SMALLER);
  bed.bringUp(waiting);
  bed.dialer.call.resolve();
  await turn();
  assert.is(bed.clock.pending, 1);
  waiting.close();
  await turn();
  assert.is(waiting.failed, undefined);
  bed.assertIdle();
});

check('what ends all connects of the endpoint ends these as well', async (bed) => {
  const dialled = bed.onDemand(GREATER);
  const asking = bed.onDemand(SMALLER);
  const waiting = bed.onDemand(SMALLER);
  bed.bringUp(dialled);
  bed.bringUp(waiting);
  bed.dialer.calls.at(-1)?.resolve();
  bed.bringUp(asking);
  await turn();
  bed.dialer.closing.abort(error('ERR_ISTHMUS_CLOSED', 'the runtime was closed'));
  await turn();
  for (const one of [dialled, asking, waiting]) assert.is(one.failed?.code, 'ERR_ISTHMUS_CLOSED');
  bed.assertIdle();
});

// ── Equal names ──────────────────────────────────────────────────────────────────────────────────────────────────────

check('equal names: both sides dial; of two calls that of the smaller id counts', async (bed) => {
  const smaller = bed.onDemand(LOCAL.name);
  bed.bringUp(smaller);
  assert.is(bed.dialer.call.kind, 'dial');
  assert.is(await bed.asked('connect', smaller, { id: 11n }), undefined, 'the own call counts');
  const answer = (await bed.asked('connect', smaller, { id: 9n })) as OnDemandAnswer;
  assert.equal(answer, { local: LOCAL, counts: smaller.counts }, 'that of the peer counts');
  // Its own call is refused there; the one of the peer comes.
  bed.dialer.call.reject(error('ERR_ISTHMUS_HANDSHAKE_REFUSED'));
  await turn();
  assert.is(smaller.failed, undefined);
  bed.peerConnects(smaller, { id: 9n });
  bed.links[0]?.up();
  await turn();
  assert.is(smaller.state, 'open');
  bed.assertIdle();
});

check('equal names: a peer that calls while this side does not is answered, whatever its id', async (bed) => {
  const connection = bed.onDemand(LOCAL.name);
  for (const id of [9n, 11n]) {
    assert.equal(await bed.asked('connect', connection, { id }), { local: LOCAL, counts: connection.counts });
  }
  const other = bed.onDemand(SMALLER, { ...LOCAL, id: 8n });
  bed.bringUp(other);
  // Its name is smaller, so its call is the one that was asked for.
  assert.ok(await bed.asked('connect', other, { id: 11n }));
  other.close();
  await turn();
  bed.assertIdle();
});

check('equal names: the call of the peer that counts does not come', async (bed) => {
  const connection = bed.onDemand(LOCAL.name);
  bed.bringUp(connection);
  bed.dialer.call.reject(error('ERR_ISTHMUS_HANDSHAKE_REFUSED'));
  await bed.clock.advance(CONNECT_MS - 1);
  assert.is(connection.failed, undefined);
  await bed.clock.advance(1);
  assert.is(connection.failed?.code, 'ERR_ISTHMUS_CONNECT');
  assert.match(connection.failed?.message ?? '', /10\.0\.0\.2:7200 .* 1000 ms/);
  bed.assertIdle();
  // Without a listener there is nothing to wait for.
  bed.listeners.size = 0;
  const alone = bed.onDemand(LOCAL.name);
  bed.bringUp(alone);
  bed.dialer.call.reject(error('ERR_ISTHMUS_HANDSHAKE_REFUSED'));
  await turn();
  assert.is(alone.failed?.code, 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
  bed.assertIdle();
});

check('equal names: five refusals of a peer that has been up, each with a wait for its call', async (bed) => {
  const connection = bed.suspended(LOCAL.name, true);
  for (let refusal = 1; refusal <= 5; refusal++) {
    bed.dialer.call.reject(error('ERR_ISTHMUS_HANDSHAKE_REFUSED', `refusal ${refusal}`));
    await bed.clock.advance(CONNECT_MS);
    if (refusal < 5) await bed.clock.advance(5 * 2 ** (refusal - 1));
  }
  assert.is(connection.failed?.code, 'ERR_ISTHMUS_HANDSHAKE_REFUSED', 'not that of the wait');
  assert.is(connection.failed?.message, 'refusal 5');
  assert.is(bed.dialer.calls.length, 5);
  bed.assertIdle();
});

check('another name: a peer that has been up and refuses may call itself; then it is over', async (bed) => {
  const comes = bed.suspended(GREATER, true);
  bed.dialer.call.reject(error('ERR_ISTHMUS_HANDSHAKE_REFUSED'));
  await bed.clock.advance(CONNECT_MS / 2);
  bed.peerConnects(comes);
  bed.links[0]?.up();
  await turn();
  assert.is(comes.state, 'open');
  comes.close();
  const fails = bed.suspended(GREATER, true);
  bed.dialer.call.reject(new IsthmusError('ERR_ISTHMUS_HANDSHAKE_REFUSED', 'no', { temporary: false }));
  await bed.clock.advance(CONNECT_MS);
  assert.is(fails.failed?.code, 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
  assert.is(bed.dialer.calls.length, 2);
  bed.assertIdle();
});

// ── Holding ──────────────────────────────────────────────────────────────────────────────────────────────────────────

check('held: efforts are given up, none begins, and afterwards they begin again', async (bed) => {
  const calling = bed.onDemand(GREATER);
  const back = bed.suspended(GREATER, true, { ...LOCAL, id: 11n });
  const silent = bed.onDemand(GREATER, { ...LOCAL, id: 12n });
  bed.bringUp(calling);
  assert.is(bed.dialer.calls.length, 2);
  bed.reconnector.hold();
  for (const { signal } of bed.dialer.calls) assert.is((signal.reason as IsthmusError).code, 'ERR_ISTHMUS_SUSPEND');
  await turn();
  assert.ok(bed.dialer.idle);
  assert.equal([calling.failed, back.failed], [undefined, undefined]);
  assert.equal(back.lifecycle.events, ['dial', 'hold']);
  assert.equal(calling.lifecycle.events, ['dial', 'hold']);
  bed.bringUp(silent);
  bed.bringUp(calling);
  await bed.clock.advance(100);
  assert.is(bed.dialer.calls.length, 2, 'nothing begins');
  silent.wantsToSend = false;
  bed.reconnector.release();
  assert.equal(
    bed.dialer.calls.slice(2).map(({ options }) => options.local.id),
    [10n, 11n],
    'those that were given up; not the one that has nothing to send',
  );
  assert.equal(back.lifecycle.events, ['dial', 'hold', 'dial']);
  for (const one of [calling, back, silent]) one.close();
  await turn();
  bed.assertIdle();
});

check('held and released in one turn: what was given up begins again when it has ended', async (bed) => {
  const connection = bed.onDemand(GREATER);
  bed.bringUp(connection);
  connection.wantsToSend = false;
  bed.reconnector.hold();
  bed.reconnector.release();
  assert.is(bed.dialer.calls.length, 1);
  await turn();
  assert.is(bed.dialer.calls.length, 2);
  assert.ok(bed.dialer.call.open);
  // Once more, and held for good: then not.
  bed.reconnector.hold();
  await turn();
  assert.is(bed.dialer.calls.length, 2);
  connection.close();
  bed.assertIdle();
});

check('released: suspended by this side, or with something to send; the latter first', async (bed) => {
  bed.reconnector.hold();
  const end = (id: bigint) => ({ ...LOCAL, id });
  const asked = bed.suspended(GREATER, true, end(1n));
  const waits = bed.suspended(GREATER, false, end(2n));
  const idle = bed.onDemand(GREATER, end(3n));
  const sends = bed.onDemand(GREATER, end(4n));
  const urgent = bed.suspended(GREATER, true, end(5n));
  const linked = bed.suspended(GREATER, true, end(6n));
  sends.wantsToSend = true;
  urgent.wantsToSend = true;
  // Something to send alone brings none back that the peer has suspended.
  waits.wantsToSend = true;
  linked.linked = true;
  bed.reconnector.release();
  assert.equal(
    bed.dialer.calls.map(({ options }) => options.local.id),
    [4n, 5n, 1n],
  );
  for (const one of [asked, waits, idle, sends, urgent, linked]) one.close();
  await turn();
  bed.assertIdle();
});

check('released: an effort of this process that the peer waits for, even one that it had not to make', async (bed) => {
  // The peer has suspended, and asks this side to call: that is given up for a suspension of this side.
  const connection = bed.suspended(GREATER, false);
  await bed.asked('back-connect', connection);
  assert.is(bed.dialer.call.kind, 'dial');
  bed.reconnector.hold();
  await turn();
  bed.reconnector.release();
  assert.is(bed.dialer.calls.length, 2);
  bed.dialer.call.resolve(bed.connected(connection).real);
  await turn();
  connection.suspend(false);
  bed.reconnector.hold();
  bed.reconnector.release();
  assert.is(bed.dialer.calls.length, 2, 'up since: it is not owed any more');
  connection.close();
  bed.assertIdle();
});

check('released: asked to call while held, since the peer does not ask again', async (bed) => {
  const connection = bed.suspended(GREATER, false);
  bed.reconnector.hold();
  // The handshake of the request was under way when this process was suspended.
  assert.ok(await bed.asked('back-connect', connection));
  assert.is(bed.dialer.calls.length, 0);
  bed.reconnector.release();
  assert.is(bed.dialer.call.kind, 'dial');
  connection.close();
  await turn();
  bed.assertIdle();
});

check('released: an effort that has ended is not owed, although its link was another one', async (bed) => {
  const connection = bed.suspended(GREATER, false);
  await bed.asked('back-connect', connection);
  bed.reconnector.hold();
  await turn();
  bed.reconnector.release();
  // The call of the peer comes first, and is given up again; that of this side has ended meanwhile.
  bed.peerConnects(connection);
  bed.dialer.call.resolve(bed.connected(connection).real);
  await turn();
  connection.revert();
  bed.reconnector.hold();
  bed.reconnector.release();
  assert.ok(bed.dialer.idle);
  connection.close();
  bed.assertIdle();
});

check('coming: efforts under way, until their connections are up', async (bed) => {
  const calling = bed.onDemand(GREATER);
  bed.onDemand(GREATER, { ...LOCAL, id: 11n });
  const linked = bed.onDemand(GREATER, { ...LOCAL, id: 12n });
  bed.bringUp(linked);
  linked.up();
  bed.bringUp(calling);
  const coming = bed.reconnector.coming();
  assert.is(coming.length, 1);
  let settled = false;
  void coming[0]?.then(() => {
    settled = true;
  });
  await turn();
  assert.not(settled);
  const [first, second] = bed.dialer.calls;
  second?.resolve(bed.connected(calling).real);
  first?.reject(error('ERR_ISTHMUS_CONNECT'));
  await turn();
  assert.ok(settled);
  assert.equal(bed.reconnector.coming(), []);
  bed.assertIdle();
});

check('coming: settles for a connection that fails, or is closed', async (bed) => {
  const end = (id: bigint) => ({ ...LOCAL, id });
  const [fails, closes] = [bed.suspended(GREATER, true, end(1n)), bed.suspended(GREATER, true, end(2n))];
  const coming = bed.reconnector.coming();
  assert.is(coming.length, 2);
  bed.dialer.calls[0]?.reject(error('ERR_ISTHMUS_NO_PLUGIN'));
  closes.close();
  await Promise.all(coming);
  assert.is(fails.failed?.code, 'ERR_ISTHMUS_NO_PLUGIN');
  await turn();
  bed.assertIdle();
});

// ── Which peer ───────────────────────────────────────────────────────────────────────────────────────────────────────

check('a peer that has been up is known by its id, not by its name', async (bed) => {
  const first = bed.suspended('N', false, { ...LOCAL, id: 11n });
  (first.peer as { id: bigint }).id = 20n;
  const second = new FakeConnection(bed, 'N', { ...LOCAL, id: 12n });
  (second.peer as { id: bigint }).id = 21n;
  second.suspend(false);
  const local = async (id: bigint, name: string) =>
    ((await bed.asked('connect', first, { id, name })) as OnDemandAnswer | undefined)?.local?.id;
  assert.is(await local(20n, 'N'), 11n);
  assert.is(await local(21n, 'N'), 12n);
  assert.is(await local(21n, 'renamed'), 12n);
  assert.is(await local(22n, 'N'), undefined, 'a stranger of the same name');
  first.close();
  second.close();
  bed.assertIdle();
});

check('a peer that has never been up is known by its name: rather the one that is being brought up', async (bed) => {
  const first = bed.onDemand(GREATER, { ...LOCAL, id: 11n });
  const second = bed.onDemand(GREATER, { ...LOCAL, id: 12n });
  const third = bed.onDemand(GREATER, { ...LOCAL, id: 13n });
  const local = async (name: string) =>
    ((await bed.asked('connect', first, { name })) as OnDemandAnswer | undefined)?.local?.id;
  assert.is(await local(GREATER), 11n);
  bed.bringUp(second);
  bed.bringUp(third);
  assert.is(await local(GREATER), 12n);
  assert.is(await local(SMALLER), undefined);
  for (const one of [first, second, third]) one.close();
  await turn();
  bed.assertIdle();
});

check('another process at the address of the peer is refused, by whichever way it comes', async (bed) => {
  const dialled = bed.suspended(GREATER, true);
  const stranger = bed.connected(dialled, { id: 66n });
  bed.dialer.call.resolve(stranger.real);
  await turn();
  assert.ok(stranger.isDiscarded);
  assert.is(dialled.failed?.code, 'ERR_ISTHMUS_PEER_PROTOCOL');
  const called = bed.suspended(SMALLER, false);
  assert.ok(bed.peerConnects(called, { id: 66n }).isDiscarded);
  assert.is(called.failed?.code, 'ERR_ISTHMUS_PEER_PROTOCOL');
  assert.is(bed.links.length, 0);
  bed.assertIdle();
});

check('the id of the first link is the one that counts from then on', async (bed) => {
  const connection = bed.onDemand(GREATER);
  bed.bringUp(connection);
  bed.dialer.call.resolve(bed.connected(connection, { id: 20n }).real);
  await turn();
  connection.suspend(true);
  const stranger = bed.connected(connection, { id: 21n });
  bed.dialer.call.resolve(stranger.real);
  await turn();
  assert.ok(stranger.isDiscarded);
  bed.assertIdle();
});

check('messages that were lost, on either side, end the connection', async (bed) => {
  for (const counts of [
    { sent: 5, received: 6 },
    { sent: 5, received: 8 },
    { sent: 4, received: 7 },
    { sent: 6, received: 7 },
  ]) {
    const connection = new FakeConnection(bed, GREATER, LOCAL);
    connection.counts = { sent: 7, received: 5 };
    connection.suspend(true);
    assert.equal(bed.dialer.call.options.counts, connection.counts);
    const connected = bed.connected(connection, { counts });
    bed.dialer.call.resolve(connected.real);
    await turn();
    assert.ok(connected.isDiscarded);
    assert.is(connection.failed?.code, 'ERR_ISTHMUS_PEER_PROTOCOL');
    assert.match(connection.failed?.message ?? '', `of 7 sent the peer has ${counts.received}`);
    assert.match(connection.failed?.message ?? '', `of ${counts.sent} sent by the peer this side has 5`);
  }
  // Those of a connection that has never been up say nothing.
  const fresh = bed.onDemand(GREATER);
  fresh.counts = { sent: 1, received: 0 };
  bed.bringUp(fresh);
  bed.dialer.call.resolve(bed.connected(fresh, { counts: { sent: 3, received: 3 } }).real);
  await turn();
  assert.is(fresh.state, 'open');
  bed.assertIdle();
});

// ── What a peer asks for ─────────────────────────────────────────────────────────────────────────────────────────────

check('asked to call back: only if there is no link that has begun', async (bed) => {
  const connection = bed.onDemand(GREATER);
  assert.equal(await bed.asked('back-connect', connection), { local: LOCAL });
  assert.is(bed.dialer.calls.length, 1);
  assert.equal(await bed.asked('back-connect', connection), { local: LOCAL });
  assert.is(bed.dialer.calls.length, 1, 'under way already');
  bed.dialer.call.resolve(bed.connected(connection).real);
  await turn();
  assert.equal(await bed.asked('back-connect', connection), { local: LOCAL }, 'even up');
  assert.is(bed.dialer.calls.length, 1);
  connection.lifecycle.unconfirmed = true;
  assert.equal(await bed.asked('back-connect', connection), { local: LOCAL });
  assert.is(bed.dialer.calls.length, 2, 'a link that has not begun may be given up by the peer');
  assert.is(await bed.asked('back-connect', connection, { id: 66n }), undefined);
  connection.close();
  await turn();
  bed.assertIdle();
});

check('called again: a link that has not begun is given up, one that has begun is not', async (bed) => {
  const connection = bed.suspended(SMALLER, false);
  bed.peerConnects(connection);
  assert.ok(connection.lifecycle.unconfirmed);
  assert.equal(await bed.asked('connect', connection), { local: LOCAL, counts: connection.counts });
  assert.is(connection.reverts, 1);
  bed.peerConnects(connection);
  bed.links.at(-1)?.up();
  assert.is(await bed.asked('connect', connection), undefined);
  assert.is(connection.state, 'open');
  bed.assertIdle();
});

check('asked to drain: whatever has a link to that peer', async (bed) => {
  const connection = bed.suspended(GREATER, false);
  assert.is(await bed.asked('drain', connection), undefined, 'no link');
  assert.is(connection.drains, 0);
  connection.up();
  assert.equal(await bed.asked('drain', connection), {});
  assert.is(connection.drains, 1);
  assert.is(await bed.asked('drain', connection, { id: 66n }), undefined);
  connection.close();
  bed.assertIdle();
});

check('a peer that is back before this side has let go waits until then', async (bed) => {
  const connection = bed.suspended(SMALLER, false);
  bed.peerConnects(connection);
  bed.links[0]?.up();
  connection.lifecycle.exchanging = true;
  for (const kind of ['connect', 'back-connect'] as const) {
    connection.up();
    let answer: OnDemandAnswer | undefined | 'none' = 'none';
    void Promise.resolve(bed.asked(kind, connection)).then((found) => {
      answer = found;
    });
    await bed.clock.advance(50);
    assert.is(answer, 'none');
    assert.ok(connection.passes > 40, `${connection.passes} passes: this side reads meanwhile`);
    connection.passes = 0;
    connection.suspend(false);
    await bed.clock.advance(1);
    assert.ok((answer as unknown as OnDemandAnswer)?.local, kind);
    connection.lifecycle.events.length = 0;
    for (const call of bed.dialer.calls) if (call.open) call.reject(error('ERR_ISTHMUS_NO_PLUGIN'));
    await turn();
  }
});

check('let go of within the pass: the peer is answered at once', async (bed) => {
  const connection = bed.suspended(SMALLER, false);
  connection.up();
  connection.lifecycle.exchanging = true;
  connection.onPass = () => connection.suspend(false);
  assert.ok(await bed.asked('connect', connection));
  assert.is(connection.passes, 1);
  connection.close();
  bed.assertIdle();
});

check('a link that came meanwhile is not the one that was to go: the peer is refused', async (bed) => {
  const connection = bed.suspended(GREATER, false);
  connection.up();
  connection.lifecycle.exchanging = true;
  const answer = bed.asked('connect', connection);
  await bed.clock.advance(5);
  // Let go, and back by a call of its own, before anything looks.
  connection.link = {};
  connection.lifecycle.exchanging = false;
  await bed.clock.advance(1);
  assert.is(await answer, undefined);
  connection.close();
  bed.assertIdle();
});

check('one that does not let go, or is closed, does not keep the peer for ever', async (bed) => {
  const stuck = bed.suspended(SMALLER, false);
  stuck.up();
  stuck.lifecycle.exchanging = true;
  let answered = false;
  const answer = Promise.resolve(bed.asked('connect', stuck)).then((found) => {
    answered = true;
    return found;
  });
  await bed.clock.advance(9_990);
  assert.not(answered);
  await bed.clock.advance(20);
  assert.is(await answer, undefined);
  const closed = bed.asked('connect', stuck);
  stuck.close();
  await bed.clock.advance(1);
  assert.is(await closed, undefined);
  bed.assertIdle();
});

// ── Limits of time ───────────────────────────────────────────────────────────────────────────────────────────────────

check('on demand: the peer acknowledges, and does not connect in time', async (bed) => {
  const connection = bed.onDemand(SMALLER);
  bed.bringUp(connection);
  bed.dialer.call.resolve();
  await bed.clock.advance(CONNECT_MS - 1);
  assert.is(connection.failed, undefined);
  await bed.clock.advance(1);
  assert.is(connection.failed?.code, 'ERR_ISTHMUS_CONNECT');
  bed.assertIdle();
});

check('suspended by the peer: it has so long to come back', async (bed) => {
  const connection = bed.suspended(GREATER, false);
  assert.is(bed.dialer.calls.length, 0, 'this side only waits');
  await bed.clock.advance(RESUME_MS - 1);
  assert.is(connection.failed, undefined);
  await bed.clock.advance(1);
  assert.is(connection.failed?.code, 'ERR_ISTHMUS_RESUME_TIMEOUT');
  assert.match(connection.failed?.message ?? '', `${RESUME_MS} ms`);
  bed.assertIdle();
});

check('the limit begins anew with each suspension, and ends with a link', async (bed) => {
  const connection = bed.suspended(SMALLER, false);
  await bed.clock.advance(RESUME_MS - 10);
  bed.peerConnects(connection);
  bed.links[0]?.up();
  await bed.clock.advance(RESUME_MS);
  assert.is(connection.failed, undefined);
  connection.suspend(false);
  await bed.clock.advance(RESUME_MS / 2);
  connection.suspend(false);
  await bed.clock.advance(RESUME_MS - 1);
  assert.is(connection.failed, undefined);
  assert.is(bed.clock.pending, 1, 'one limit');
  await bed.clock.advance(1);
  assert.is(connection.failed?.code, 'ERR_ISTHMUS_RESUME_TIMEOUT');
  bed.assertIdle();
});

check('suspended by this side: tried again, with growing pauses, as long as the limit lets it', async (bed) => {
  const connection = bed.suspended(GREATER, true);
  assert.equal(connection.lifecycle.events, ['dial']);
  const pauses: number[] = [];
  for (let tries = 0; tries < 10; tries++) {
    const { options, reject } = bed.dialer.call;
    assert.is(options.retry, 0, 'this loop tries again, not the dial');
    assert.is(options.connectTimeoutMs, 3000);
    assert.is(options.handshakeTimeoutMs, RESUME_MS - bed.clock.now, 'the time that is left');
    reject(error(tries % 2 ? 'ERR_ISTHMUS_HANDSHAKE_TIMEOUT' : 'ERR_ISTHMUS_CONNECT', 'on its way'));
    await turn();
    const pause = bed.clock.next ?? 0;
    pauses.push(pause);
    await bed.clock.advance(pause);
  }
  assert.equal(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
  assert.is(bed.lines[0], 'info: cannot reach 10.0.0.2:7200 yet: on its way');
  bed.dialer.call.resolve(bed.connected(connection).real);
  await turn();
  assert.is(connection.state, 'open');
  bed.assertIdle();
});

check('suspended by this side: in the end it is given up', async (bed) => {
  const connection = bed.suspended(GREATER, true);
  while (bed.clock.now < RESUME_MS) {
    for (const call of bed.dialer.calls) if (call.open) call.reject(error('ERR_ISTHMUS_CONNECT'));
    await bed.clock.advance(Math.min(500, RESUME_MS - bed.clock.now));
    if (bed.clock.now < RESUME_MS) assert.is(connection.failed, undefined);
  }
  assert.is(connection.failed?.code, 'ERR_ISTHMUS_RESUME_TIMEOUT');
  bed.assertIdle();
});

check('suspended by this side: a peer that cannot be is an error at once', async (bed) => {
  for (const code of ['ERR_ISTHMUS_NO_PLUGIN', 'ERR_ISTHMUS_HANDSHAKE_VERSION'] as const) {
    const connection = bed.suspended(GREATER, true);
    bed.dialer.call.reject(error(code));
    await turn();
    assert.is(connection.failed?.code, code);
  }
  bed.assertIdle();
});

check('suspended by this side: a link of the peer ends the tries', async (bed) => {
  const connection = bed.suspended(SMALLER, true);
  bed.dialer.call.reject(error('ERR_ISTHMUS_CONNECT'));
  await turn();
  bed.peerConnects(connection);
  bed.links[0]?.up();
  await bed.clock.advance(5);
  // The try that was due finds the link.
  for (const call of bed.dialer.calls) if (call.open) call.reject(error('ERR_ISTHMUS_CONNECT'));
  await bed.clock.advance(2000);
  assert.ok(bed.dialer.calls.length <= 2);
  assert.is(connection.failed, undefined);
  assert.is(connection.state, 'open');
  bed.assertIdle();
});

check('held during a pause between two tries', async (bed) => {
  const connection = bed.suspended(GREATER, true);
  bed.dialer.call.reject(error('ERR_ISTHMUS_CONNECT'));
  await turn();
  bed.reconnector.hold();
  await bed.clock.advance(1000);
  assert.is(bed.dialer.calls.length, 1);
  assert.is(connection.failed, undefined);
  bed.reconnector.release();
  assert.is(bed.dialer.calls.length, 2);
  connection.close();
  await turn();
  bed.assertIdle();
});

check('suspended by this side: a listener that closes without an answer has too much to do', async (bed) => {
  const connection = bed.suspended(GREATER, true);
  const later = () => new IsthmusError('ERR_ISTHMUS_HANDSHAKE_REFUSED', 'closed', { temporary: true });
  let tries = 0;
  for (; tries < 1000 && !connection.failed; tries++) {
    bed.dialer.call.reject(later());
    await turn();
    if (!connection.failed) await bed.clock.advance(bed.clock.next ?? 0);
  }
  // Often, but not for as long as a peer may be away: a C program refuses in this way.
  assert.ok(tries > 5 && tries < 50, `${tries} tries`);
  assert.is(connection.failed?.code, 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
  const said = bed.suspended(GREATER, true);
  const calls = bed.dialer.calls.length;
  const no = new IsthmusError('ERR_ISTHMUS_HANDSHAKE_REFUSED', 'no', { temporary: false });
  bed.dialer.call.reject(no);
  await bed.clock.advance(CONNECT_MS);
  assert.is(said.failed?.code, 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
  assert.is(bed.dialer.calls.length, calls, 'refused in words: not tried again');
  const equal = bed.onDemand(LOCAL.name);
  bed.bringUp(equal);
  assert.is(bed.dialer.call.options.retryUnanswered, false, 'the call of the other end comes');
  equal.close();
  await turn();
  bed.assertIdle();
});

// ── How many suspended peers are waited for ──────────────────────────────────────────────────────────────────────────

/** Connections whose peers have suspended, one after the other. */
function away(bed: Bed, count: number, host: string, messages = 0): FakeConnection[] {
  return Array.from({ length: count }, (_, index) => {
    const connection = new FakeConnection(bed, SMALLER, { ...LOCAL, id: BigInt(index) });
    connection.peer.address = { host, port: 4242 };
    connection.counts = { sent: 0, received: messages };
    bed.all.push(connection);
    connection.up();
    connection.suspend(false);
    return connection;
  });
}

const left = (all: readonly FakeConnection[]) => all.filter(({ state }) => state === 'suspended');

check('peers that suspend and do not come back: so many are waited for, the newest', async (bed) => {
  const all = away(bed, 100, '127.0.0.1');
  assert.equal(left(all), all.slice(-SUSPENDED_LIMIT));
  assert.is(all[0]?.failed?.code, 'ERR_ISTHMUS_SUSPENDED_LIMIT');
  assert.match(all[0]?.failed?.message ?? '', `more than ${SUSPENDED_LIMIT} connections in all`);
  assert.is(bed.clock.pending, SUSPENDED_LIMIT, 'each has its limit of time');
  for (const one of left(all)) one.close();
  bed.assertIdle();
});

check('connections that messages went over are kept longer than those of strangers', async (bed) => {
  const used = away(bed, SUSPENDED_LIMIT - 2, '127.0.0.1', 1);
  const strangers = away(bed, 100, '127.0.0.1');
  assert.equal([left(used).length, left(strangers).length], [used.length, 2]);
  const more = away(bed, SUSPENDED_LIMIT, '127.0.0.1', 1);
  assert.equal([left(used).length, left(strangers).length, left(more).length], [0, 0, SUSPENDED_LIMIT]);
  for (const one of left(more)) one.close();
  bed.assertIdle();
});

check('one remote address has half of them', async (bed) => {
  const other = away(bed, 2, '10.0.0.8');
  const greedy = away(bed, 100, '10.0.0.9', 1);
  assert.equal([left(other).length, left(greedy).length], [2, SUSPENDED_LIMIT / 2]);
  assert.match(greedy[0]?.failed?.message ?? '', 'from one address');
  for (const one of left([...other, ...greedy])) one.close();
  bed.assertIdle();
});

check('those that are back, or were suspended by this side, do not count', async (bed) => {
  const all: FakeConnection[] = [];
  for (let round = 0; round < 3; round++) {
    const some = away(bed, SUSPENDED_LIMIT, '127.0.0.1').map((one, index) => {
      const local = { ...LOCAL, id: BigInt(index) };
      const before = bed.links.length;
      bed.peerConnects(one, { local });
      bed.links[before]?.up();
      one.route.ends = undefined;
      return one;
    });
    all.push(...some);
    for (const one of some) bed.reconnector.remove(one.real);
  }
  for (let index = 0; index < SUSPENDED_LIMIT * 2; index++) {
    all.push(bed.suspended(GREATER, true, { ...LOCAL, id: BigInt(100 + index) }));
  }
  assert.ok(all.every(({ failed }) => failed === undefined));
  for (const one of all) one.close();
  await turn();
  bed.assertIdle();
});

check('the endpoint is closed: connections that wait for their peers end at once', async (bed) => {
  const [waits] = away(bed, 1, '127.0.0.1') as [FakeConnection];
  const calls = bed.suspended(GREATER, true, { ...LOCAL, id: 50n });
  bed.reconnector.giveUpWaiting();
  assert.equal([waits.destroyed, calls.destroyed], [true, false]);
  calls.close();
  await turn();
  bed.assertIdle();
});

// ── What is left behind ──────────────────────────────────────────────────────────────────────────────────────────────

test(
  'waiting for a peer leaves nothing behind, however it ends',
  timebox(10, async () => {
    using clock = new FakeClock();
    const address = { host: '10.0.0.2', port: 7200, name: SMALLER };
    const connection = { linked: false } as unknown as RuntimeConnection;
    const entry = new Reconnection(connection, address, LOCAL);
    const { signal, abort } = (() => {
      const controller = new AbortController();
      return { signal: controller.signal, abort: () => controller.abort(error('ERR_ISTHMUS_CLOSED')) };
    })();
    const outcome = (waiting: Promise<void>) =>
      waiting.then(
        () => 'up',
        ({ code }: IsthmusError) => code,
      );
    const idle = () =>
      assert.equal([entry.waiting, clock.pending, getEventListeners(signal, 'abort').length], [0, 0, 0]);

    const late = outcome(entry.untilPeerConnects(signal, 100));
    assert.equal([entry.waiting, clock.pending], [1, 1]);
    await clock.advance(100);
    assert.is(await late, 'ERR_ISTHMUS_CONNECT');
    idle();

    const both = [outcome(entry.untilPeerConnects(signal, 100)), outcome(entry.untilUpOrGone())];
    entry.interrupted = true;
    entry.up();
    assert.equal(await Promise.all(both), ['up', 'up']);
    assert.not(entry.interrupted);
    idle();

    const cut = outcome(entry.untilPeerConnects(signal, 100));
    abort();
    assert.is(await cut, 'ERR_ISTHMUS_CLOSED');
    idle();
    assert.is(await outcome(entry.untilPeerConnects(signal, 100)), 'ERR_ISTHMUS_CLOSED');
    idle();
    (connection as { linked: boolean }).linked = true;
    assert.is(await outcome(entry.untilPeerConnects(signal, 100)), 'up');
    idle();
  }),
);

test.run();

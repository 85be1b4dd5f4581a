/** Which peers of a listener get a place, which of them wait, and which go: without sockets, in time that the test makes pass. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { IsthmusError } from '../../host/base/errors.js';
import { networkOf } from '../../host/base/network.js';
import {
  Admission,
  type AdmissionOptions,
  type Handshake,
  MAX_SILENCE_MS,
  type Visitor,
} from '../../host/handshake/admission.js';
import { FakeClock, turn } from '../support/clock.js';
import { timebox } from '../support/timebox.js';

const TIMEOUT_MS = 10_000;

/** A peer, as the admission sees it. */
class Peer implements Handshake {
  attempting = false;
  waitsForPeer = true;
  aborted: IsthmusError | undefined;
  /** Whether it goes on: undefined at once. */
  turn: Promise<void> | undefined;
  went = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    readonly admission: Admission,
    readonly visitor: Visitor,
  ) {
    visitor.begin(this);
  }

  limit(ms: number | undefined): void {
    clearTimeout(this.#timer);
    if (ms === undefined || this.aborted) return;
    const late = () => this.abort(new IsthmusError('ERR_ISTHMUS_HANDSHAKE_TIMEOUT', `${ms} ms`));
    this.#timer = setTimeout(late, ms);
  }

  abort(error: IsthmusError): void {
    if (this.aborted) return;
    this.aborted = error;
    this.attempting = false;
    this.end();
  }

  end(): void {
    clearTimeout(this.#timer);
    this.visitor.ended();
  }

  get state(): string {
    return this.visitor.state;
  }

  speak(): this {
    this.visitor.spoke();
    return this;
  }

  introduce(): this {
    return this.#pass('introduced');
  }

  propose(): this {
    return this.#pass('proposed');
  }

  #pass(stage: 'introduced' | 'proposed'): this {
    const its = this.visitor.pass(stage);
    if (!its) this.went++;
    else {
      its.then(() => {
        this.went++;
      });
    }
    return this;
  }
}

class Bed implements Disposable {
  readonly clock = new FakeClock();
  readonly admission: Admission;

  constructor(options: AdmissionOptions = {}) {
    this.admission = new Admission({ timeoutMs: TIMEOUT_MS, ...options });
  }

  /** @param network undefined: this host */
  peer(network?: string): Peer {
    const peer = this.tryPeer(network);
    assert.ok(peer, 'turned away');
    return peer as Peer;
  }

  tryPeer(network?: string): Peer | undefined {
    const visitor = this.admission.enter(network);
    return visitor && new Peer(this.admission, visitor);
  }

  peers(count: number, network?: string): Peer[] {
    return Array.from({ length: count }, () => this.peer(network));
  }

  [Symbol.dispose](): void {
    this.clock[Symbol.dispose]();
  }
}

function check(name: string, options: AdmissionOptions, body: (bed: Bed) => Promise<void> | void): void {
  test(
    name,
    timebox(10, async () => {
      using bed = new Bed(options);
      await body(bed);
    }),
  );
}

const states = (peers: readonly Peer[]) => peers.map(({ state }) => state);
const alive = (peers: readonly Peer[]) => peers.filter(({ aborted }) => !aborted).length;

// ── Places ───────────────────────────────────────────────────────────────────────────────────────────────────────────

check('peers that have not introduced themselves take no place, however many they are', { maxHandshakes: 2 }, (bed) => {
  bed.peers(1000);
  for (const peer of bed.peers(1000)) peer.speak();
  const real = bed.peer().introduce();
  assert.equal([real.state, real.went], ['admitted', 1]);
  assert.is(bed.admission.size, 2001);
});

check('a limit lets peers wait, in their order, before it refuses any', { maxHandshakes: 2 }, async (bed) => {
  const peers = bed.peers(50).map((peer) => peer.introduce());
  assert.equal(states(peers).slice(0, 4), ['admitted', 'admitted', 'waiting', 'waiting']);
  for (const [index, peer] of peers.entries()) {
    await turn();
    assert.is(peer.went, 1, `${index}`);
    if (index + 2 < peers.length) assert.is(peers[index + 2]?.went, 0);
    peer.end();
  }
  assert.is(alive(peers), 50);
  assert.is(bed.admission.size, 0);
  assert.is(bed.clock.pending, 0, 'no timer is left');
});

check('a peer that waits for a place has the time of a handshake for that', { maxHandshakes: 1 }, async (bed) => {
  const first = bed.peer().introduce();
  first.waitsForPeer = false;
  const second = bed.peer();
  await bed.clock.advance(MAX_SILENCE_MS - 1);
  second.introduce();
  await bed.clock.advance(TIMEOUT_MS - MAX_SILENCE_MS);
  first.end();
  await turn();
  assert.equal([second.state, second.went], ['admitted', 1]);
  await bed.clock.advance(TIMEOUT_MS - 1);
  assert.is(second.aborted, undefined, 'and once more for the handshake');
  const third = bed.peer().introduce();
  await bed.clock.advance(1);
  assert.is(second.aborted?.code, 'ERR_ISTHMUS_HANDSHAKE_TIMEOUT');
  assert.is(third.state, 'admitted');
});

check('while others wait, a peer that does not go on has half of the time', { maxHandshakes: 2 }, async (bed) => {
  const [slow, asking] = [bed.peer().introduce(), bed.peer().introduce()];
  // The application, or a plugin of this side, takes its time: that is not the peer's fault.
  asking.waitsForPeer = false;
  await bed.clock.advance(TIMEOUT_MS / 2 + 1);
  assert.is(slow.aborted, undefined, 'no peer waits');
  const next = bed.peer().introduce();
  await bed.clock.advance(100);
  assert.match(slow.aborted?.message ?? '', 'gave way');
  assert.equal([next.state, asking.aborted], ['admitted', undefined]);
  next.end();
  asking.end();
  assert.is(bed.clock.pending, 0);
});

// ── Strangers ────────────────────────────────────────────────────────────────────────────────────────────────────────

check('a silent peer has a second, one that has begun to speak the time of a handshake', {}, async (bed) => {
  const [silent, speaking] = bed.peers(2) as [Peer, Peer];
  speaking.speak();
  await bed.clock.advance(MAX_SILENCE_MS - 1);
  assert.is(silent.aborted, undefined);
  await bed.clock.advance(1);
  assert.is(silent.aborted?.code, 'ERR_ISTHMUS_HANDSHAKE_TIMEOUT');
  assert.is(speaking.aborted, undefined);
  await bed.clock.advance(TIMEOUT_MS - MAX_SILENCE_MS);
  assert.is(speaking.aborted?.code, 'ERR_ISTHMUS_HANDSHAKE_TIMEOUT');
  assert.equal([bed.admission.size, bed.clock.pending], [0, 0]);
});

check(
  'too many: the oldest silent one goes, then the oldest without a name; never one that waits its turn',
  { maxHandshakes: 1, maxWaiting: 4 },
  (bed) => {
    const busy = bed.peer().introduce();
    const waiting = bed.peer().introduce();
    const [speaking, ...silent] = bed.peers(3) as [Peer, Peer, Peer];
    speaking.speak();
    assert.ok(bed.peer().introduce());
    assert.equal(states([waiting, speaking, ...silent]), ['waiting', 'speaking', 'gone', 'silent']);
    bed.peer().introduce();
    assert.equal(states([waiting, speaking, ...silent]), ['waiting', 'speaking', 'gone', 'gone']);
    bed.peer().introduce();
    assert.equal(states([waiting, speaking]), ['waiting', 'gone']);
    assert.is(speaking.aborted?.code, 'ERR_ISTHMUS_HANDSHAKE_TIMEOUT');
    assert.is(bed.tryPeer(), undefined, 'all have a name');
    busy.end();
    assert.ok(bed.tryPeer());
  },
);

check(
  'one remote address has half of the places and half of the waiting; this host has all',
  { maxHandshakes: 4, maxWaiting: 8 },
  async (bed) => {
    const greedy = Array.from({ length: 6 }, () => bed.peer('10.0.0.9').introduce());
    assert.equal(states(greedy), ['admitted', 'admitted', 'waiting', 'waiting', 'waiting', 'waiting']);
    assert.is(bed.tryPeer('10.0.0.9'), undefined);
    // Behind those in the queue, and still at once.
    const other = bed.peer('10.0.0.8').introduce();
    assert.is(other.state, 'admitted');
    other.end();
    await turn();
    assert.is(greedy[2]?.state, 'waiting', 'its share is taken');
    greedy[0]?.end();
    await turn();
    assert.equal([greedy[2]?.state, greedy[2]?.went], ['admitted', 1]);
    for (const peer of greedy) peer.end();
    const own = bed.peers(8).map((peer) => peer.introduce());
    assert.equal(new Set(states(own.slice(0, 4))), new Set(['admitted']));
    // A silent one of the same address makes room for the next.
    const silent = bed.peers(4, '10.0.0.9');
    assert.ok(bed.tryPeer('10.0.0.9'));
    assert.equal(states(silent), ['gone', 'silent', 'silent', 'silent']);
  },
);

test(
  'what counts as one address',
  timebox(5, () => {
    for (const [remote, local] of [
      ['127.0.0.1', '127.0.0.1'],
      ['127.1.2.3', '10.0.0.1'],
      ['::1', '::1'],
      ['::ffff:127.0.0.1', '::ffff:127.0.0.1'],
      // A process of this host that has connected to another address of it.
      ['10.0.0.1', '10.0.0.1'],
    ] as const) {
      assert.is(networkOf(remote, local), undefined, remote);
    }
    const same = (...all: string[]) => assert.is(new Set(all.map((one) => networkOf(one, '::5'))).size, 1, all.join());
    const different = (a: string, b: string) => assert.is.not(networkOf(a, '::5'), networkOf(b, '::5'));
    same('10.0.0.9', '::ffff:10.0.0.9');
    different('10.0.0.9', '10.0.0.8');
    same('2001:db8::1', '2001:db8:0:0:ffff::', '2001:0db8::2:3', '2001:db8:0:0:1:2:3:4');
    same('fe80::1%eth0', 'fe80::2%eth0');
    different('2001:db8::1', '2001:db8:0:1::1');
    same('2001:db8:1:2::', '2001:db8:1:2:3:4:5:6');
    same('1::', '1::2');
  }),
);

// ── Suspending ───────────────────────────────────────────────────────────────────────────────────────────────────────

check('a suspension waits for attempts under way, and for no stranger', {}, async (bed) => {
  const [silent, speaking, idle, asking, attempting] = bed.peers(5) as [Peer, Peer, Peer, Peer, Peer];
  speaking.speak();
  for (const peer of [idle, asking, attempting]) peer.introduce();
  asking.waitsForPeer = false;
  attempting.propose();
  attempting.attempting = true;
  let held = false;
  const holding = bed.admission.hold().then(() => {
    held = true;
  });
  await turn();
  assert.not(held);
  attempting.end();
  await holding;
  assert.equal(states([silent, speaking, idle, asking]), ['silent', 'speaking', 'admitted', 'admitted']);
  assert.is(alive([silent, speaking, idle, asking]), 4);
});

check('an attempt that does not end is cut', {}, async (bed) => {
  const [stuck, other] = bed.peers(2) as [Peer, Peer];
  for (const peer of [stuck, other]) {
    peer.introduce().propose();
    peer.attempting = true;
  }
  const holding = bed.admission.hold();
  // The plugin gave up: the peer's next proposal waits.
  other.attempting = false;
  other.propose();
  assert.is(other.went, 2);
  bed.admission.cut();
  await holding;
  assert.is(stuck.aborted?.code, 'ERR_ISTHMUS_SUSPEND');
  assert.is(other.aborted, undefined);
  bed.admission.release();
  await turn();
  assert.is(other.went, 3);
});

check('while held nothing goes on and nothing is in a hurry; what was said counts afterwards', {}, async (bed) => {
  const early = bed.peer().introduce();
  await bed.admission.hold();
  early.propose();
  const silent = bed.peer();
  const speaking = bed.peer().speak();
  const introduced = bed.peer().introduce();
  await bed.clock.advance(100 * TIMEOUT_MS);
  const all = [early, silent, speaking, introduced];
  assert.equal([alive(all), states(all)], [4, ['admitted', 'silent', 'speaking', 'waiting']]);
  assert.equal([early.went, introduced.went], [1, 0]);
  bed.admission.release();
  await turn();
  assert.equal([early.went, introduced.went, introduced.state], [2, 1, 'admitted']);
  // Exempt from the second of a new one.
  await bed.clock.advance(TIMEOUT_MS - 1);
  assert.is(alive(all), 4);
  const late = bed.peer();
  await bed.clock.advance(1);
  assert.equal([alive(all), late.aborted], [0, undefined]);
});

check(
  'held silent peers are bounded, and keep no other out, neither then nor afterwards',
  { maxHandshakes: 4, maxWaiting: 100 },
  async (bed) => {
    await bed.admission.hold();
    const strangers = bed.peers(5000);
    const real = bed.peers(50).map((peer) => peer.introduce());
    const more = bed.peers(5000);
    assert.is(bed.admission.size, 100);
    assert.equal([alive(strangers), alive(real), alive(more)], [0, 50, 50]);
    bed.admission.release();
    for (const peer of real) {
      await turn();
      assert.is(peer.went, 1);
      peer.end();
    }
    const late = bed.peer().introduce();
    assert.is(late.went, 1);
  },
);

check('closing ends all, those that wait included', { maxHandshakes: 1 }, async (bed) => {
  const peers = [bed.peer(), bed.peer().speak(), bed.peer().introduce(), bed.peer().introduce()];
  bed.admission.close(new IsthmusError('ERR_ISTHMUS_CLOSED', 'closed'));
  assert.equal(new Set(peers.map(({ aborted }) => aborted?.code)), new Set(['ERR_ISTHMUS_CLOSED']));
  await turn();
  assert.is(peers[3]?.went, 0);
  assert.equal([bed.admission.size, bed.clock.pending], [0, 0]);
});

test.run();

/** The state machine of a connection, and the nonce of the handshake. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  BROKEN,
  constant,
  L,
  NOTHING,
  newCore,
  openEntry,
  Pair,
  pattern,
  shared,
  type TestCore,
} from '../support/core.js';
import { timebox } from '../support/timebox.js';

const core = newCore();
const { call } = core;
const initial = core.freeFrames();

const STATES = ['FREE', 'OPENING', 'OPEN', 'CLOSING', 'PEER_CLOSED', 'CLOSED', 'BROKEN'] as const;
const EVENTS = ['OPEN', 'EOF_SENT', 'EOF_RECEIVED', 'FAIL'] as const;
type State = (typeof STATES)[number];

/** Every state and every event; blank: the event has no meaning there. */
const TABLE: Record<State, readonly (State | '')[]> = {
  //            OPEN    EOF_SENT   EOF_RECEIVED   FAIL
  FREE: ['', '', '', ''],
  OPENING: ['OPEN', '', '', 'BROKEN'],
  OPEN: ['', 'CLOSING', 'PEER_CLOSED', 'BROKEN'],
  CLOSING: ['', '', 'CLOSED', 'BROKEN'],
  PEER_CLOSED: ['', 'CLOSED', '', 'BROKEN'],
  CLOSED: ['', '', '', ''],
  BROKEN: ['', '', '', ''],
};

const stateNumber = (name: State) => constant(`STATE_${name}`);
const stateName = (index: number) => STATES.find((name) => stateNumber(name) === core.state(index));
const setState = (index: number, name: State) => core.setU32(call.entry(index) + L.C_STATE, stateNumber(name));

test(
  'every event in every state',
  timebox(5, () => {
    assert.is(STATES.length, L.STATES);
    assert.is(EVENTS.length, L.EVENTS);
    for (const state of STATES) {
      for (const [i, event] of EVENTS.entries()) {
        const expected = TABLE[state][i] || state;
        const found = call.transition(stateNumber(state), constant(`EVENT_${event}`));
        assert.is(found, stateNumber(expected), `${event} in ${state}`);
      }
    }
  }),
);

test(
  'the same through the interface; an event without a meaning is counted and changes nothing else',
  timebox(5, () => {
    const pair = new Pair(core);
    const { a, b } = pair;
    const does: Record<(typeof EVENTS)[number], () => void> = {
      OPEN: () => call.start(b),
      EOF_SENT: () => call.sendEof(b),
      EOF_RECEIVED: () => {
        assert.is(call.sendEof(a), 1);
        assert.ok(call.peek(b) > 0);
        call.release(b);
      },
      FAIL: () => call.lose(b),
    };
    for (const state of STATES) {
      for (const [i, event] of EVENTS.entries()) {
        // A state that may not send refuses, without an event.
        const refuses = event === 'EOF_SENT' && state !== 'OPEN' && state !== 'PEER_CLOSED';
        setState(a, 'OPEN');
        setState(b, state);
        for (const field of [L.C_FAILURE, L.C_IGNORED]) core.setU32(call.entry(b) + field, 0);
        does[event]();
        const expected = TABLE[state][i] || state;
        assert.is(stateName(b), expected, `${event} in ${state}`);
        assert.is(core.field(b, L.C_IGNORED), TABLE[state][i] || refuses ? 0 : 1, `${event} in ${state}: ignored`);
        assert.is(core.failure(b), event === 'FAIL' ? L.FAILURE_LOST : L.FAILURE_NONE);
        while (call.peek(a) > 0) call.release(a);
      }
    }
    pair.free();
  }),
);

test(
  'which states may begin a message, and which may continue one',
  timebox(5, () => {
    const pair = new Pair(core);
    const { a, b } = pair;
    for (const state of STATES) {
      setState(a, state);
      const may = state === 'OPEN' || state === 'PEER_CLOSED';
      assert.is(call.claim(a, 0, 0, 8) > 0, may, state);
      if (may) {
        call.commit(a);
        assert.ok(pair.receive());
      }
      assert.is(call.claimMore(a), BROKEN, 'no message is incomplete');
    }
    for (const state of ['BROKEN', 'CLOSED'] as const) {
      setState(a, 'OPEN');
      assert.ok(call.claim(a, 0, 0, 5000) > 0);
      call.commit(a);
      assert.is(call.claim(a, 0, 0, 8), BROKEN, 'a message is incomplete');
      assert.is(call.sendEof(a), BROKEN);
      assert.is(stateName(a), 'OPEN');
      setState(a, state);
      assert.is(call.claimMore(a), BROKEN);
      core.setU64(call.entry(a) + constant('TX_REST'), 0n);
    }
    assert.is(call.state(b), L.STATE_OPEN);
    pair.free();
  }),
);

test(
  'nothing is written to a released ring',
  timebox(5, () => {
    const pair = new Pair(core);
    call.dropTransmit(pair.a);
    const before = core.bytes.slice(0, L.TABLE);
    for (let i = 0; i < 3; i++) assert.is(call.claim(pair.a, 0, 0, 100), BROKEN);
    assert.is(call.unread(pair.a), 0);
    assert.equal(core.bytes.slice(0, L.TABLE), before);
    assert.is(call.peek(pair.b), NOTHING);
    pair.free();
  }),
);

test(
  'entries: all can be opened, none twice; a freed entry is blank when opened again',
  timebox(5, () => {
    const used = new Set<number>();
    for (let i = 0; i < L.CONNECTIONS; i++) {
      const index = call.open() - 1;
      assert.ok(index >= 0 && index < L.CONNECTIONS && !used.has(index));
      assert.is(core.state(index), L.STATE_OPENING);
      used.add(index);
    }
    assert.is(call.open(), NOTHING);
    core.bytes.fill(0xff, call.entry(77) + L.COUNT_SENT, call.entry(77) + L.COUNT_SENT + 40);
    call.free(77);
    assert.is(core.state(77), L.STATE_FREE);
    assert.is(call.open() - 1, 77);
    const entry = core.bytes.slice(call.entry(77), call.entry(78));
    entry[0] = 0;
    assert.ok(entry.every((byte) => byte === 0));
    for (const index of used) call.free(index);
    assert.is(core.freeFrames(), initial);
  }),
);

test(
  'rings of an invalid size or start are refused',
  timebox(5, () => {
    const index = call.open() - 1;
    for (const capacity of [0, 1, 2048, 4095, 4097, 4096 + 8, 12288, 49152, 0x8000000, 0x80000000, 0xffffffff]) {
      assert.is(call.createRing(index, capacity, 0), NOTHING, `capacity ${capacity}`);
    }
    for (const start of [1, 4, 7, 0xffffffff])
      assert.is(call.createRing(index, 4096, start), NOTHING, `start ${start}`);
    assert.is(call.createRing(index, 1 << 20, 0), NOTHING, 'more than the region has');
    assert.is(core.freeFrames(), initial);
    assert.ok(call.createRing(index, 4096, 8) > 0);
    call.free(index);
    assert.is(core.freeFrames(), initial);
  }),
);

// ── The rings of two processes ───────────────────────────────────────────────────────────────────────────────────────

const frameOf = (core: TestCore, index: number) => core.field(index, L.RX_FRAME);

/** Attach an entry of `core` to the ring of an entry of `peer`. */
function attach(core: TestCore, index: number, peer: TestCore, theirs: number, more: Partial<Offer> = {}): number {
  const offer: Offer = {
    frame: frameOf(peer, theirs),
    capacity: peer.call.ringCapacity(theirs),
    slot: peer.slot,
    generation: peer.generation,
    low: 0x11223344,
    high: 0x55667788,
    ...more,
  };
  return core.call.attachRing(index, offer.frame, offer.capacity, offer.slot, offer.generation, offer.low, offer.high);
}

interface Offer {
  frame: number;
  capacity: number;
  slot: number;
  generation: number;
  low: number;
  high: number;
}

test(
  'two processes: each attaches to the ring of the other, messages arrive, all frames are free at the end',
  timebox(10, () => {
    shared(2, 1, (one, two) => {
      const free = one.unclaimed();
      const i = openEntry(one, 8192, 0xfffffff0);
      for (let n = 0; n < 70; n++) two.call.open();
      const j = openEntry(two, 4096, 4088);
      one.call.setNonce(i, 0x11223344, 0x55667788);
      two.call.setNonce(j, 0x11223344, 0x55667788);
      assert.is(attach(one, i, two, j), L.ATTACH_OK);
      assert.is(attach(two, j, one, i), L.ATTACH_OK);
      for (const [core, index] of [
        [one, i],
        [two, j],
      ] as const) {
        core.call.start(index);
      }
      for (const [from, a, to, b] of [
        [one, i, two, j],
        [two, j, one, i],
      ] as const) {
        assert.is(to.call.arm(b), 1);
        const body = pattern(500, a);
        const offset = from.call.claim(a, 0, 0, 500);
        from.bytes.set(body, offset);
        assert.is(from.call.commit(a), 1);
        assert.is(to.call.poll(0), b + 1, 'the ready bit is set');
        const at = to.call.peek(b);
        assert.equal(Buffer.from(to.bytes.slice(at, at + 500)), Buffer.from(body));
        to.call.release(b);
        assert.is(to.call.peek(b), NOTHING);
        assert.is(from.call.unread(a), 0);
      }
      one.call.free(i);
      assert.ok(one.unclaimed() < free, 'the peer still writes there');
      two.call.free(j);
      one.call.collect();
      two.call.collect();
      assert.is(one.unclaimed(), free);
      assert.equal(one.tags(), []);
    });
  }),
);

test(
  'a refused attachRing leaves the offer for the right peer',
  timebox(10, () => {
    shared(3, 1, (one, two, three) => {
      const i = openEntry(one, 4096);
      one.call.setNonce(i, 0x11223344, 0x55667788);
      const j = two.call.open() - 1;
      const ring = one.call.ringAddress(i);
      const refused = (more: Partial<Offer>, answer: number, what: string) => {
        const before = two.bytes.slice(two.call.entry(j), two.call.entry(j) + L.CONNECTION_SIZE);
        assert.is(attach(two, j, one, i, more), answer, what);
        assert.equal(two.bytes.slice(two.call.entry(j), two.call.entry(j) + L.CONNECTION_SIZE), before, what);
      };
      const frame = frameOf(one, i);
      for (const other of [0, 1, frame - 1, frame + 1, one.frames - 1, one.frames, 0x7fffffff, 0xffffffff]) {
        refused({ frame: other }, L.ATTACH_OFFER, `frame ${other}`);
      }
      for (const slot of [1, 2, 15, 16, 0x400, 0x1000, 0x80000000, 0xffffffff]) {
        refused({ slot }, L.ATTACH_OFFER, `slot ${slot}`);
      }
      refused({ generation: one.generation + 1 }, L.ATTACH_OFFER, 'generation');
      refused({ generation: 0 }, L.ATTACH_OFFER, 'generation 0');
      refused({ low: 0x11223345 }, L.ATTACH_NONCE, 'low half of the nonce');
      refused({ high: 0 }, L.ATTACH_NONCE, 'high half of the nonce');
      // Process three gives up: as if it had adopted the ring of an earlier handshake.
      assert.is(attach(three, three.call.open() - 1, one, i, { low: 1 }), L.ATTACH_NONCE);
      assert.is(attach(two, j, one, i), L.ATTACH_OK, 'a wrong nonce used the offer up');
      assert.is(attach(three, three.call.open() - 1, one, i), L.ATTACH_OFFER, 'there is one producer');
      two.call.free(j);
      assert.is(attach(two, two.call.open() - 1, one, i), L.ATTACH_OFFER, 'an offer is good once');
      one.call.free(i);

      // Shapes: a refusal for the shape uses the offer up, because the peer is not to be trusted.
      const wrong: [string, Partial<Offer>, (readonly [number, number])?][] = [
        ['capacity', { capacity: 8192 }],
        ['capacity 0', { capacity: 0 }],
        ['not a power of two', { capacity: 4104 }, [L.RING_CAPACITY, 4104]],
        ['too large', { capacity: 0x8000000 }, [L.RING_CAPACITY, 0x8000000]],
        ['too large for its run', { capacity: 8192 }, [L.RING_CAPACITY, 8192]],
        ['ready index', {}, [L.RING_READY, L.CONNECTIONS]],
        ['ready index out of range', {}, [L.RING_READY, 0xffffffff]],
        ['start', {}, [L.RING_START, 4]],
      ];
      for (const [what, more, word] of wrong) {
        const index = openEntry(one, 4096);
        assert.is(one.call.ringAddress(index), ring);
        one.call.setNonce(index, 0x11223344, 0x55667788);
        const k = two.call.open() - 1;
        if (word) one.setU32(ring + word[0], word[1]);
        assert.is(attach(two, k, one, index, { capacity: 4096, ...more }), L.ATTACH_SHAPE, what);
        two.call.free(k);
        one.call.free(index);
      }
      assert.equal(one.tags(), []);
      for (const core of [one, two, three]) core.call.leave();
      assert.ok(one.extents().every((tag) => tag === 0n));
    });
  }),
);

test(
  'an invalid head at the attach breaks the connection only at its first use',
  timebox(5, () => {
    shared(2, 1, (one, two) => {
      const i = openEntry(one, 4096, 64);
      one.call.setNonce(i, 0x11223344, 0x55667788);
      const j = two.call.open() - 1;
      one.setU32(one.call.ringAddress(i) + L.RING_HEAD, 0x4000);
      assert.is(attach(two, j, one, i), L.ATTACH_OK);
      two.call.start(j);
      assert.is(two.call.unread(j), BROKEN);
      assert.is(two.state(j), L.STATE_BROKEN);
      assert.is(two.failure(j), L.FAILURE_HEAD);
    });
  }),
);

test.run();

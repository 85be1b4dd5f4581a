/**
 * The victim of a hostile peer at the level of the core: connections between cores on one region, and every call that a
 * host makes, with a check that the result is a valid one.
 */
import * as assert from 'uvu/assert';
import {
  assertBytes,
  BROKEN,
  constant,
  L,
  NOTHING,
  pattern,
  Receiver,
  recordHeader,
  Sender,
  type TestCore,
} from './core.js';
import { type Forged, NONCE, type RingPlace } from './hostile.js';

const CAPACITY = 8192;

type Random = (n: number) => number;

/** One end of a connection: an entry of a core, with the two rings. */
export interface End {
  readonly core: TestCore;
  readonly index: number;
  /** The rings that it reads from, and writes to. */
  readonly rx: RingPlace;
  readonly tx: RingPlace;
  /** Bytes of the body of the current message that have not arrived. */
  rest: number;
}

function place(core: TestCore, index: number): RingPlace {
  const address = core.call.ringAddress(index);
  return { address, capacity: core.call.ringCapacity(index), position: () => core.field(index, L.RX_READ) };
}

/** Attach to the ring of another entry, as the handshake does. @returns ATTACH_… */
function attach(from: TestCore, index: number, to: TestCore, address: number, capacity: number): number {
  const frame = (address - L.WINDOW) / L.FRAME;
  return from.call.attachRing(index, frame, capacity, to.slot, to.generation | 0, ...NONCE);
}

/**
 * Connect two cores.
 * @param start first position
 * @returns undefined: the region does not permit it any more
 */
export function connect(a: TestCore, b: TestCore, start = 0, capacity = CAPACITY): [End, End] | undefined {
  const ends = [a, b].map((core) => {
    const index = core.call.open() - 1;
    return index >= 0 && core.call.createRing(index, capacity, start)
      ? { core, index, rx: place(core, index) }
      : { core, index };
  });
  const [one, two] = ends as [End, End];
  const give = () => {
    for (const { core, index } of ends) if (index >= 0) core.call.free(index);
    return undefined;
  };
  if (!one.rx || !two.rx) return give();
  for (const { core, index } of [one, two]) core.call.setNonce(index, ...NONCE);
  if (attach(a, one.index, b, two.rx.address, capacity) !== L.ATTACH_OK) return give();
  if (attach(b, two.index, a, one.rx.address, capacity) !== L.ATTACH_OK) return give();
  for (const { core, index } of [one, two]) core.call.start(index);
  return [
    { ...one, tx: two.rx, rest: 0 },
    { ...two, tx: one.rx, rest: 0 },
  ];
}

/** Check that `[offset, offset + length)` lies among the records of a ring. */
function assertWithin({ address, capacity }: RingPlace, offset: number, length: number, what: string): void {
  const from = address + L.RING_DATA;
  if (offset >= from && length >= 0 && offset + length <= from + capacity) return;
  assert.unreachable(`${what}: ${length} bytes at 0x${offset.toString(16)}, not in the ring at 0x${from.toString(16)}`);
}

/** Check that the peeked record, and the padding before it, follow the protocol. */
function assertRecord({ core, index, rx }: End, from: number): void {
  const { address, capacity } = rx;
  const at = (position: number) => address + L.RING_DATA + ((position & (capacity - 1)) >>> 0);
  const read = core.field(index, L.RX_READ);
  if (read !== from) {
    const toEnd = capacity - (from & (capacity - 1));
    assert.is(read, (from + toEnd) >>> 0, 'the read position');
    assert.is(core.u64(at(from)), recordHeader(toEnd - L.RECORD_HEADER, L.RECORD_PAD, from), 'padding');
  }
  const header = core.u64(at(read));
  const kind = Number(header >> 56n);
  assert.ok(kind === L.RECORD_FIRST || kind === L.RECORD_MORE, `kind ${kind}`);
  assert.is(header, recordHeader(Number(header & 0xffffffffn), kind, read), 'the record');
}

/**
 * One operation of an application on a connection.
 * @param still no peer writes meanwhile: results can be compared with the memory
 */
export function act(end: End, random: Random, still = false): void {
  const { core, index, rx, tx } = end;
  const { call } = core;
  const claimed = (offset: number) => {
    if (offset === NOTHING || offset === BROKEN) return;
    const length = core.result(L.RESULT_LENGTH);
    assertWithin(tx, offset, length, 'claim');
    core.bytes.fill(random(256), offset, offset + length);
    call.commit(index);
  };
  const peeked = (offset: number) => {
    if (offset === NOTHING || offset === BROKEN) return;
    const length = core.result(L.RESULT_LENGTH);
    assertWithin(rx, offset, length, 'peek');
    if (still) assertRecord(end, before);
    const flags = core.result(L.RESULT_FLAGS);
    const total = core.result(L.RESULT_XLENGTH) + core.result(L.RESULT_DLENGTH);
    const whole = length + ((flags & L.FLAG_FIRST) !== 0 ? L.NET_HEADER : 0);
    assert.is(core.field(index, constant('RX_SPAN')), (whole + L.RECORD_HEADER + 7) & ~7, 'the span of the record');
    const rest = ((flags & L.FLAG_FIRST) !== 0 ? total : end.rest) - length;
    assert.ok(rest >= 0, `a fragment of ${length} bytes, ${-rest} more than the message has`);
    assert.is((flags & L.FLAG_LAST) !== 0, rest === 0, 'LAST');
    if (flags === (L.FLAG_FIRST | L.FLAG_LAST)) {
      assert.is(core.result(L.RESULT_XLENGTH) + core.result(L.RESULT_DLENGTH), length, 'a message in one record');
    }
    if (random(4) === 0) {
      // It may have changed by now.
      const again = call.peek(index);
      if (still) assert.is(again, offset, 'peeked again');
      return;
    }
    if (random(4) === 0) return;
    call.release(index);
    end.rest = rest;
    assert.is(core.u64(call.entry(index) + constant('RX_REST')), BigInt(rest), 'the rest of the message');
  };
  const before = core.field(index, L.RX_READ);
  switch (random(14)) {
    case 0:
    case 1:
    case 2:
      return claimed(call.claim(index, random(12), random(3) ? 0 : random(40), random(random(2) ? 100 : 9000)));
    case 3:
      return claimed(call.claimMore(index));
    case 4:
      return claimed(call.claimMoreSpin(index, random(4)));
    case 5:
    case 6:
    case 7:
      return peeked(call.peek(index));
    case 8:
      return peeked(call.peekSpin(index, random(4)));
    case 9: {
      const unread = call.unread(index);
      assert.ok(unread === BROKEN || (unread >= 0 && unread <= tx.capacity && unread % 8 === 0), `${unread} unread`);
      return;
    }
    case 10:
      if (call.arm(index) && random(2)) call.disarm(index);
      return;
    case 11: {
      const from = call.position(index);
      call.hold(index);
      peeked(call.peek(index));
      call.publish(index, random(2) ? from : call.position(index));
      return;
    }
    case 12: {
      call.addToPollSet(index);
      call.wantRoom(index, random(2) ? 1 : 0);
      const found = call.poll(random(3)) - 1;
      assert.ok(found >= -1 && found < L.CONNECTIONS, `poll says ${found}`);
      call.trySleep(random(2) ? 1 : 0);
      return;
    }
    default:
      if (random(8) === 0) call.sendEof(index);
      else assert.ok([0, 1].includes(call.readable(index)));
  }
}

/** A connection that was found broken has one of the known failure codes. */
export function checkState({ core, index, tx }: End): void {
  const unread = (core.field(index, L.TX_TAIL) - core.field(index, constant('TX_HEAD'))) >>> 0;
  assert.ok(unread <= tx.capacity, `${unread} positions that the peer has not read`);
  const state = core.state(index);
  assert.ok(state < L.STATES, `state ${state}`);
  const failure = core.failure(index);
  assert.ok(failure <= L.FAILURE_LOST, `failure ${failure}`);
  if (state === L.STATE_BROKEN) assert.is.not(failure, L.FAILURE_NONE);
}

/** A message through a connection and back, byte for byte. */
export function echo([one, two]: readonly [End, End], number: number): void {
  const body = pattern(1 + ((number * 977) % 5000), number);
  for (const [from, to] of [
    [one, two],
    [two, one],
  ] as const) {
    const sender = new Sender(from.core, from.index, body);
    const receiver = new Receiver(to.core, to.index);
    for (let i = 0; ; i++) {
      const all = sender.go();
      const message = receiver.next();
      assert.not(sender.broken || receiver.broken, 'a connection without hostile writes is broken');
      if (message) {
        assert.ok(all);
        assertBytes(message.body, body, `message ${number}`);
        break;
      }
      assert.ok(i < 100, `message ${number} does not arrive`);
    }
  }
}

/** Check that a run begins at the frame, after the tables, and that `end` is not after the end of the region. */
function assertRun(core: TestCore, frame: number, end: number): void {
  assert.ok(frame >= core.call.tableBytes() / L.FRAME && frame < core.frames, `a run at frame ${frame}`);
  assert.ok(end <= core.bytes.length, `0x${end.toString(16)} is after the end of the region`);
}

const adoptGranted = ({ call }: TestCore, end: End, frame: number, length: number) =>
  call.adoptGranted(end.index, frame, 0, ...NONCE, length) >>> 0;

/** As announced in a ring, although it lies elsewhere. */
function adoptAnnounced(core: TestCore, end: End, frame: number, length: number, random: Random): number {
  const at = L.WINDOW + L.FRAME - L.REQUEST_SIZE;
  const before = core.bytes.slice(at, at + L.REQUEST_SIZE);
  // With another id a FIN is expected.
  const id = random(4) ? NONCE : [1, 2];
  for (const [i, word] of [...id, ...NONCE, length, frame, 0].entries()) core.view.setUint32(at + i * 4, word, true);
  const adopted = core.call.adoptAnnounced(end.index, at) >>> 0;
  core.bytes.set(before, at);
  return adopted;
}

/**
 * All requests of a runtime to the region besides messages.
 * @param mine runs that it holds
 * @param forged runs that the peer pretends to offer
 */
export function useRegion(
  core: TestCore,
  end: End | undefined,
  random: Random,
  mine: Map<number, number>,
  forged?: Forged,
  still = false,
): void {
  const { call } = core;
  const frames = core.frames;
  const some = () => [forged?.frame ?? 1, random(frames), random(96), random(0x100000000)][random(4)]!;
  const took = (frame: number, count: number) => {
    if (frame === 0) return;
    assert.ok(frame > 0 && frame + count <= frames, `a run of ${count} frames at ${frame}`);
    for (const [at, size] of mine) {
      assert.ok(
        frame + count <= at || at + size <= frame,
        `frames ${frame} to ${frame + count} are own frames already`,
      );
    }
    mine.set(frame, count);
    core.bytes.fill(1, core.call.addressOf(frame), core.call.addressOf(frame) + count * L.FRAME);
  };
  switch (random(16)) {
    case 0:
    case 1: {
      const count = 1 + random(6);
      return took(call.take(count, random(2) ? L.HALF_CONSUMER : L.HALF_PRODUCER), count);
    }
    case 2: {
      const bytes = 1 + random(20_000);
      const frame = call.takeRun(bytes);
      took(frame, 1 + Math.ceil(bytes / L.FRAME));
      if (frame === 0) return;
      const place = call.grant(frame, 5, 6, 0, bytes, 3);
      assert.ok(place >= 0 && place <= L.FRAME / 32);
      if (place > 0 && random(2)) call.revoke(frame, place - 1);
      return;
    }
    case 3: {
      const [first] = mine;
      if (!first) return;
      mine.delete(first[0]);
      if (first[1] > 1 && random(2)) call.giveBackRun(first[0], (first[1] - 1) * L.FRAME);
      else call.giveBack(first[0], first[1], random(2) ? L.HALF_CONSUMER : L.HALF_PRODUCER);
      return;
    }
    case 4: {
      const frame = some();
      const slot = random(4);
      const generation = call.slotGeneration(slot);
      const which = random(2) ? L.HALF_CONSUMER : L.HALF_PRODUCER;
      const count = core.call.adopt(frame, which, slot, generation);
      assert.ok(count === 0 || (count > 0 && frame + count <= frames), `adopted ${count} frames at ${frame}`);
      if (count > 0) core.call.letGo(frame, which, count);
      return;
    }
    case 5: {
      if (end && random(8) === 0 && call.announce(end.index, random(frames), 0, random(1000), ...NONCE) > 0) {
        call.commit(end.index);
        return;
      }
      if (!end || !forged) return;
      const { frame, offset, length, rights } = random(2) ? forged : { ...forged, frame: some() };
      const [low, high] = random(4) ? NONCE : [0, 0];
      // Without a grant, the token is 0.
      const place = low === 0 ? 1 + random(100) : random(4) ? 0 : random(200);
      const at = core.call.granted(end.index, frame, place, low, high, offset, length, rights) >>> 0;
      if (at !== 0) assertRun(core, frame, at + length);
      return;
    }
    case 6: {
      if (!end || !forged) return;
      const { frame, length } = random(2)
        ? forged
        : { ...forged, frame: random(2) ? some() : forged.frame, length: forged.length + random(3) };
      const at = (random(2) ? adoptAnnounced : adoptGranted)(core, end, frame, length, random);
      if (at === 0) return;
      assertRun(core, frame, at + length);
      call.letGoRun(frame, length);
      if (still) assert.is.not(call.halfKind(frame, L.HALF_CONSUMER), L.KIND_HELD, 'it is still held');
      return;
    }
    case 7:
      if (random(2)) call.collect();
      else call.trim();
      call.sweep();
      return;
    case 8: {
      const free = core.freeFrames();
      assert.ok(free >= 0 && free <= frames, `${free} frames are free`);
      return;
    }
    case 9: {
      const slot = random(core.slots + 2);
      const generation = call.slotGeneration(slot);
      if (random(3) === 0) call.fence(slot, random(4) ? generation : generation + 1);
      else if (call.declareDead(slot, generation)) call.reclaim(slot, generation);
      assert.ok(slot !== core.slot || core.generation === 0 || !call.fence(slot, core.generation | 0));
      assert.ok(slot !== core.slot || core.generation === 0 || !call.declareDead(slot, core.generation | 0));
      return;
    }
    case 10:
      call.beat();
      call.heartbeat(random(core.slots + 2));
      call.holdsSlot();
      return;
    case 11:
      assert.ok(call.inspect() <= L.INSPECT_SIZE);
      call.formattingKernel();
      return;
    case 12: {
      const frame = some();
      for (const which of [L.HALF_CONSUMER, L.HALF_PRODUCER]) {
        call.halfKind(frame, which);
        call.halfSlot(frame, which);
        call.halfFrames(frame, which);
      }
      call.extentUse(frame);
      call.extentSlot(frame);
      return;
    }
    case 13: {
      // A handshake with false values.
      const index = call.open() - 1;
      if (index < 0) return;
      const { frame, capacity, slot, generation } = forged ?? { frame: some(), capacity: 4096, slot: 1, generation: 1 };
      const result = call.attachRing(index, random(4) ? frame : some(), capacity, slot, generation | 0, ...NONCE);
      assert.ok([L.ATTACH_OK, L.ATTACH_OFFER, L.ATTACH_NONCE, L.ATTACH_SHAPE].includes(result));
      if (result === L.ATTACH_OK) {
        const at = core.field(index, L.TX_RING);
        const size = core.field(index, L.TX_RING + 4) + 1;
        assertRun(core, (at - L.WINDOW) / L.FRAME, at + L.RING_DATA + size);
        assert.is(size & (size - 1), 0, `a ring of ${size} bytes`);
        assert.ok(core.field(index, L.TX_SLOT) < core.slots, 'the slot of its owner');
        assert.ok(core.field(index, L.TX_SLOT + 4) < L.CONNECTIONS, 'its ready index');
        assert.is(core.field(index, L.TX_TAIL) & 7, 0, 'its first position');
        call.start(index);
        const tx = { address: at, capacity: size };
        const offset = call.claim(index, 0, 0, random(size));
        if (offset > 0) {
          assertWithin(tx, offset, core.result(L.RESULT_LENGTH), 'claim');
          call.commit(index);
        }
      }
      call.free(index);
      return;
    }
    case 14: {
      const index = call.open() - 1;
      if (index < 0) return;
      if (call.createRing(index, 4096, 0)) {
        const { address } = place(core, index);
        assert.ok(address >= L.WINDOW && address + 8192 <= core.bytes.length);
        for (const [at, size] of mine) {
          const frame = (address - L.WINDOW) / L.FRAME;
          assert.ok(frame + 2 <= at || at + size <= frame, `the ring lies in the run at ${at}`);
        }
      }
      call.free(index);
      return;
    }
    default: {
      call.poll(random(3));
      call.trySleep(random(2) ? 1 : 0);
    }
  }
}

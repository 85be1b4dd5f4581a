/**
 * The victim of a hostile peer at the level of the core: connections between cores on one region, and every call that a
 * host makes, with the question whether the answer is one that can be.
 */
import * as assert from 'uvu/assert';
import { assertBytes, BROKEN, L, NOTHING, pattern, Receiver, Sender, type TestCore } from './core.js';
import type { RingPlace } from './hostile.js';

const CAPACITY = 8192;

type Random = (n: number) => number;

/** One end of a connection: an entry of a core, with the two rings. */
export interface End {
  readonly core: TestCore;
  readonly index: number;
  /** Those that it reads from, and writes to. */
  readonly rx: RingPlace;
  readonly tx: RingPlace;
}

function place(core: TestCore, index: number): RingPlace {
  const address = core.call.ringAddress(index);
  return { address, capacity: core.call.ringCapacity(index), position: () => core.field(index, L.RX_READ) };
}

/** Attach to the ring of another, as the handshake does. @returns ATTACH_… */
function attach(from: TestCore, index: number, to: TestCore, address: number, capacity: number): number {
  const frame = (address - L.WINDOW) / L.FRAME;
  return from.call.attachRing(index, frame, capacity, to.slot, to.generation | 0, 11, 12);
}

/** Connect two cores. @returns undefined: the region does not allow it any more */
export function connect(a: TestCore, b: TestCore, capacity = CAPACITY): [End, End] | undefined {
  const ends = [a, b].map((core) => {
    const index = core.call.open() - 1;
    return index >= 0 && core.call.createRing(index, capacity, 0)
      ? { core, index, rx: place(core, index) }
      : { core, index };
  });
  const [one, two] = ends as [End, End];
  const give = () => {
    for (const { core, index } of ends) if (index >= 0) core.call.free(index);
    return undefined;
  };
  if (!one.rx || !two.rx) return give();
  for (const { core, index } of [one, two]) core.call.setNonce(index, 11, 12);
  if (attach(a, one.index, b, two.rx.address, capacity) !== L.ATTACH_OK) return give();
  if (attach(b, two.index, a, one.rx.address, capacity) !== L.ATTACH_OK) return give();
  for (const { core, index } of [one, two]) core.call.start(index);
  return [
    { ...one, tx: two.rx },
    { ...two, tx: one.rx },
  ];
}

/** That `[offset, offset + length)` lies among the records of a ring. */
function assertWithin({ address, capacity }: RingPlace, offset: number, length: number, what: string): void {
  const from = address + L.RING_DATA;
  if (offset >= from && length >= 0 && offset + length <= from + capacity) return;
  assert.unreachable(`${what}: ${length} bytes at 0x${offset.toString(16)}, not in the ring at 0x${from.toString(16)}`);
}

/** Something that an application does with a connection. @returns what it did */
export function act(end: End, random: Random): void {
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
    const flags = core.result(L.RESULT_FLAGS);
    if (flags === (L.FLAG_FIRST | L.FLAG_LAST)) {
      assert.is(core.result(L.RESULT_XLENGTH) + core.result(L.RESULT_DLENGTH), length, 'a message in one record');
    }
    const again = call.peek(index);
    if (again === offset) assertWithin(rx, again, core.result(L.RESULT_LENGTH), 'peek again');
    if (again !== BROKEN && random(4)) call.release(index);
  };
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
      assert.ok(unread === BROKEN || (unread >= 0 && unread <= tx.capacity), `${unread} unread`);
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
      call.heat(index);
      call.wantRoom(index, random(2));
      const found = call.poll(random(3)) - 1;
      assert.ok(found >= -1 && found < L.CONNECTIONS, `poll says ${found}`);
      call.rest(random(2));
      return;
    }
    default:
      if (random(8) === 0) call.sendEof(index);
      else assert.ok([0, 1].includes(call.readable(index)));
  }
}

/** A connection that was found broken says why, with one of the codes that there are for it. */
export function checkState({ core, index }: End): void {
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
      assert.not(sender.broken || receiver.broken, 'a connection that nobody has written to is broken');
      if (message) {
        assert.ok(all);
        assertBytes(message.body, body, `message ${number}`);
        break;
      }
      assert.ok(i < 100, `message ${number} does not come`);
    }
  }
}

/** Whatever a runtime asks of the region besides messages. */
export function useRegion(core: TestCore, end: End | undefined, random: Random, mine: Map<number, number>): void {
  const { call } = core;
  const frames = core.frames;
  const some = () => (random(2) ? random(frames) : random(96));
  const took = (frame: number, count: number) => {
    if (frame === 0) return;
    assert.ok(frame > 0 && frame + count <= frames, `a run of ${count} frames at ${frame}`);
    for (const [at, size] of mine) {
      assert.ok(frame + count <= at || at + size <= frame, `frames ${frame} to ${frame + count} are ours already`);
    }
    mine.set(frame, count);
    core.bytes.fill(1, core.fn.addressOf(frame), core.fn.addressOf(frame) + count * L.FRAME);
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
      call.giveBack(first[0], first[1], random(2) ? L.HALF_CONSUMER : L.HALF_PRODUCER);
      return;
    }
    case 4: {
      const frame = some();
      const slot = random(4);
      const generation = call.slotGeneration(slot);
      const which = random(2) ? L.HALF_CONSUMER : L.HALF_PRODUCER;
      const count = core.fn.adopt(frame, which, slot, generation);
      assert.ok(count >= 0 && frame + count <= frames, `adopted ${count} frames at ${frame}`);
      if (count > 0) core.fn.letGo(frame, which, count);
      return;
    }
    case 5: {
      if (!end) return;
      const frame = some();
      const length = random(2) ? random(5000) : random(0x100000000);
      const offset = random(3) ? 0 : random(0x100000000);
      const at = core.fn.granted(end.index, frame, random(200), 5, 6, offset, length, random(4)) >>> 0;
      if (at !== 0)
        assert.ok(at >= L.WINDOW && at + length <= core.bytes.length, 'a grant that reaches out of the window');
      return;
    }
    case 6: {
      if (!end) return;
      const frame = some();
      const token = core.fn.addressOf(frame);
      const length = core.u32(token + 12);
      const at = call.adoptGranted(end.index, frame, 0, core.u32(token), core.u32(token + 4), length) >>> 0;
      if (at === 0) return;
      assert.ok(at >= L.WINDOW && at + length <= core.bytes.length);
      call.letGoRun(frame, length);
      return;
    }
    case 7:
      call.collect();
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
      if (call.declareDead(slot, generation)) call.reclaim(slot, generation);
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
      call.formatter();
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
      // A handshake with lies.
      const index = call.open() - 1;
      if (index < 0) return;
      const capacity = [4096, 8192, 8191, 0, 0x4000000, 0x80000000, 0xffffffff][random(7)]!;
      call.attachRing(index, some(), capacity, random(2) ? random(4) : random(0x100000000), random(4), 11, 12);
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
      call.rest(random(2));
    }
  }
}

/** The peer table: slots and generations, ready bits, the poll set. */
import fc from 'fast-check';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  assertBytes,
  constant,
  L,
  NOTHING,
  newCore,
  openEntry,
  Pair,
  pattern,
  peek,
  shared,
  type TestCore,
} from '../support/core.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const seed = testSeed();
const core = newCore(4);
const { call } = core;
const initial = core.freeFrames();

/** Set the word of a slot: generation, kernel, state. */
function setWord(view: TestCore, slot: number, generation: number, state: number, kernel = 0): void {
  view.setU64(view.call.slotAddress(slot), (BigInt(generation) << 32n) | BigInt(((kernel << 8) | state) >>> 0));
}

const generationOf = (view: TestCore, slot: number) => view.call.slotGeneration(slot) >>> 0;

// ── Slots ────────────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'a slot from claim to leave, as another process sees it',
  timebox(5, () => {
    shared(2, 1, (one, two) => {
      const slot = 5;
      one.call.leave();
      assert.is(one.call.holdsSlot(), 0);
      assert.is(two.call.slotState(0), L.SLOT_FREE);
      assert.is(generationOf(two, 0), 1, 'the generation stays');
      assert.is(two.call.alive(0, 1), 0);

      two.bytes.fill(0xff, two.call.slotAddress(slot) + 8, two.call.slotAddress(slot + 1));
      assert.is(one.call.claimSlot(slot, 0xabcdef), 1);
      assert.equal([one.slot, one.generation], [slot, 1]);
      assert.is(two.call.slotState(slot), L.SLOT_CLAIMED);
      assert.is(two.call.slotKernel(slot), 0xabcdef);
      assert.is(two.call.alive(slot, 1), 1, 'attaching');
      assert.is(one.call.holdsSlot(), 1);
      const at = one.call.slotAddress(slot);
      assert.ok(
        one.bytes.slice(at + 8, at + L.SLOT_SIZE).every((byte) => byte === 0),
        'old contents are cleared',
      );
      assert.is(two.call.claimSlot(slot, 0), 0, 'taken');
      assert.is(two.slot, 1, 'and two still has its slot');

      assert.is(one.call.publishSlot(), 1);
      assert.is(one.call.publishSlot(), 0, 'once');
      assert.is(two.call.slotState(slot), L.SLOT_ATTACHED);
      assert.is(two.call.slotKernel(slot), 0xabcdef);
      for (let i = 1; i <= 3; i++) {
        one.call.beat();
        assert.is(two.u64(at + L.SLOT_HEARTBEAT), BigInt(i));
        assert.is(two.call.heartbeat(slot), i);
      }
      assert.is(two.call.heartbeat(one.slots), 0, 'there is no such slot');
      assert.is(two.call.claimSlot(slot, 0), 0, 'taken');
      for (const [index, generation] of [
        [slot, 0],
        [slot, 2],
        [slot + 1, 1],
        [one.slots, 1],
        [-1, 1],
      ] as const) {
        assert.is(two.call.alive(index, generation), 0);
      }
      one.call.leave();
      assert.is(two.call.slotState(slot), L.SLOT_FREE);
      assert.is(generationOf(two, slot), 1);
      // The next claimer clears the rest. Cleared before the slot is free, nothing would name the lock that proves death.
      assert.ok(two.bytes.slice(at + 8, at + L.SLOT_SIZE).some((byte) => byte !== 0));
      one.call.leave();
      assert.is(two.call.slotState(slot), L.SLOT_FREE, 'twice does no harm');
      assert.is(two.call.claimSlot(slot, 0), 1);
      assert.ok(two.bytes.slice(at + 8, at + L.SLOT_SIZE).every((byte) => byte === 0));
    });
  }),
);

test(
  'generations never repeat, and wrap from the last one to 1',
  timebox(5, () => {
    shared(2, 1, (one, two) => {
      const seen = new Set<number>();
      for (let i = 0; i < 1000; i++) {
        one.call.leave();
        one.join(0);
        assert.ok(!seen.has(one.generation));
        seen.add(one.generation);
        assert.is(generationOf(two, 0), one.generation);
      }
      one.call.leave();
      setWord(one, 0, 0xfffffffe, L.SLOT_FREE);
      one.join(0);
      assert.is(one.generation, 0xffffffff);
      assert.is(two.call.alive(0, -1), 1);
      const frame = one.call.take(3, L.HALF_CONSUMER);
      assert.ok(frame > 0);
      assert.is(two.call.adopt(frame, L.HALF_PRODUCER, 0, -1), 3);
      two.call.letGo(frame, L.HALF_PRODUCER, 3);
      one.call.leave();
      one.join(0);
      assert.is(one.generation, 1, '0 means none');
    });
  }),
);

test(
  'slots out of range',
  timebox(5, () => {
    for (const slot of [core.slots, core.slots + 1, 0x7fffffff, -1]) {
      assert.is(call.claimSlot(slot, 0), 0);
      assert.is(call.slotState(slot), L.SLOT_FREE);
      assert.is(call.slotGeneration(slot), 0);
      assert.is(call.slotKernel(slot), 0);
      assert.is(call.declareDead(slot, 0), 0);
      call.reclaim(slot, 0);
    }
    assert.is(core.slot, 0);
    assert.is(call.holdsSlot(), 1);
  }),
);

test(
  'declared dead: only the right generation, never the own slot, once; then reclaimed by any number of peers',
  timebox(5, () => {
    shared(3, 1, (one, two, three) => {
      const free = three.unclaimed();
      assert.is(one.call.declareDead(one.slot, one.generation), 0, 'not the own slot');
      assert.is(one.call.declareDead(1, two.generation + 1), 0, 'another generation');
      assert.is(one.call.declareDead(1, two.generation - 1), 0);
      assert.is(one.call.declareDead(7, 0), 0, 'a free slot');
      assert.ok(two.call.take(5, L.HALF_CONSUMER) > 0);
      const { generation } = two;
      two.setU64(two.call.slotAddress(1) + 16, 77n);
      assert.is(one.call.declareDead(1, generation), 1);
      assert.is(one.call.declareDead(1, generation), 1, 'already');
      assert.is(three.call.declareDead(1, generation), 1);
      assert.is(one.call.slotState(1), L.SLOT_DEAD);
      assert.is(one.call.alive(1, generation), 0);
      assert.is(two.call.holdsSlot(), 0, 'the declared process finds out');
      assert.is(two.call.take(1, L.HALF_CONSUMER), 0, 'and takes nothing any more');
      assert.is(one.call.claimSlot(1, 0), 0, 'not free yet');
      one.call.reclaim(1, generation);
      assert.is(one.call.slotState(1), L.SLOT_FREE);
      assert.is(generationOf(one, 1), generation);
      assert.is(three.unclaimed(), free);
      three.call.reclaim(1, generation);

      // A new owner: a late reclaimer of the old one does it no harm, nor does the old owner if it is still running.
      const four = one;
      four.call.leave();
      four.join(1);
      assert.is(four.generation, generation + 1);
      const frame = four.call.take(5, L.HALF_CONSUMER);
      four.setU64(four.call.slotAddress(1) + 16, 99n);
      three.call.reclaim(1, generation);
      assert.is(three.call.declareDead(1, generation), 0);
      two.call.leave();
      assert.is(three.call.slotState(1), L.SLOT_ATTACHED);
      assert.is(three.u64(three.call.slotAddress(1) + 16), 99n);
      assert.is(three.u64(three.half(frame, L.HALF_CONSUMER)), four.tag(L.KIND_HELD, 5));
      assert.is(four.call.holdsSlot(), 1);
    });
  }),
);

test(
  'a claimer that dies before it is attached, and one that is declared dead while it leaves',
  timebox(5, () => {
    shared(2, 1, (one, two) => {
      one.call.leave();
      assert.is(one.call.claimSlot(4, 1), 1);
      assert.is(two.call.declareDead(4, one.generation), 1);
      assert.is(one.call.publishSlot(), 0, 'too late');
      assert.is(two.call.slotState(4), L.SLOT_DEAD);
      // It leaves in good order while it is being reclaimed.
      one.call.leave();
      assert.is(two.call.slotState(4), L.SLOT_DEAD, 'only the reclaimer frees the slot');
      two.call.reclaim(4, 1);
      assert.is(two.call.slotState(4), L.SLOT_FREE);
    });
  }),
);

// ── Ready bits ───────────────────────────────────────────────────────────────────────────────────────────────────────

const bitsOf = (view: TestCore, slot: number) =>
  Array.from({ length: L.CONNECTIONS / 64 }, (_, i) => view.u64(view.call.slotAddress(slot) + L.SLOT_READY + i * 8));
const summaryOf = (view: TestCore, slot: number) => view.u64(view.call.slotAddress(slot) + L.SLOT_SUMMARY);

test(
  'a commit to an armed ring sets its bit and the summary; poll clears both and finds the connection',
  timebox(10, () => {
    const opened: number[] = [];
    for (let i = 0; i < L.CONNECTIONS; i++) opened.push(call.open() - 1);
    opened.sort((a, b) => a - b);
    const sender = opened[1]!;
    for (const index of [0, 2, 63, 64, 65, 127, 128, 1000, 2047, 2048, 4031, 4032, 4095]) {
      for (const entry of [index, sender]) assert.ok(call.createRing(entry, 4096, 0) > 0);
      call.join(sender, index);
      call.start(index);
      call.start(sender);
      assert.is(call.arm(index), 1);
      assert.is(call.poll(3), NOTHING);
      const offset = call.claim(sender, 0, 0, 0);
      assert.ok(offset > 0);
      assert.is(call.commit(sender), 1);
      const bits = bitsOf(core, 0);
      assert.is(bits[index >> 6], 1n << BigInt(index & 63));
      assert.ok(bits.every((word, i) => i === index >> 6 || word === 0n));
      assert.is(summaryOf(core, 0), 1n << BigInt(index >> 6));
      assert.is(call.pollSetSize(), 0);
      assert.is(call.poll(0), index + 1);
      assert.is(call.pollSetSize(), 1);
      assert.is(summaryOf(core, 0), 0n);
      assert.is(bitsOf(core, 0)[index >> 6], 0n);
      assert.is(core.u32(call.ringAddress(index) + L.RING_ARMED), 0, 'polled from here on');
      assert.is(call.poll(0), index + 1, 'until it is read');
      assert.ok(call.peek(index) > 0);
      call.release(index);
      assert.is(call.poll(3), NOTHING);
      for (const entry of [index, sender]) {
        call.removeFromPollSet(entry);
        call.dropTransmit(entry);
        call.dropReceive(entry);
        core.setU32(call.entry(entry), L.STATE_OPENING);
      }
    }
    for (const index of opened) call.free(index);
    assert.is(core.freeFrames(), initial);
  }),
);

test(
  'bits without an open connection are ignored; the bit of an empty ring only adds it to the poll set',
  timebox(5, () => {
    const pair = new Pair(core);
    const setAllBits = () => {
      const at = call.slotAddress(0);
      core.bytes.fill(0xff, at + L.SLOT_SUMMARY, at + L.SLOT_SUMMARY + 8);
      core.bytes.fill(0xff, at + L.SLOT_READY, at + L.SLOT_SIZE);
    };
    const lonely = call.open() - 1;
    const opening = openEntry(core, 4096);
    setAllBits();
    assert.is(call.poll(2), NOTHING);
    assert.is(call.pollSetSize(), 2, 'only the pair');
    assert.ok(bitsOf(core, 0).every((word) => word === 0n));
    assert.is(summaryOf(core, 0), 0n);
    setAllBits();
    assert.is(call.poll(2), NOTHING);
    assert.is(call.pollSetSize(), 2, 'none twice');
    // A bit without its summary bit has no effect yet.
    call.removeFromPollSet(pair.a);
    call.removeFromPollSet(pair.b);
    core.setU64(call.slotAddress(0) + L.SLOT_READY + (pair.b >> 6) * 8, 1n << BigInt(pair.b & 63));
    assert.is(call.poll(2), NOTHING);
    assert.is(call.pollSetSize(), 0);
    core.setU64(call.slotAddress(0) + L.SLOT_SUMMARY, 1n << BigInt(pair.b >> 6));
    assert.is(call.poll(2), NOTHING);
    assert.is(call.pollSetSize(), 1);
    pair.free();
    for (const index of [lonely, opening]) call.free(index);
    assert.is(call.pollSetSize(), 0);
    assert.is(core.freeFrames(), initial);
  }),
);

test(
  'poll reads only the bits of its own slot, and none without a slot',
  timebox(5, () => {
    shared(2, 1, (one, two) => {
      one.bytes.fill(0xff, one.call.slotAddress(1) + L.SLOT_SUMMARY, one.call.slotAddress(2));
      assert.is(one.call.poll(1), NOTHING);
      assert.is(summaryOf(one, 1), 0xffffffffffffffffn);
      assert.is(two.call.poll(1), NOTHING);
      assert.is(summaryOf(one, 1), 0n);
      one.call.leave();
      one.bytes.fill(0xff, one.call.slotAddress(0) + L.SLOT_SUMMARY, one.call.slotAddress(1));
      assert.is(one.call.poll(1), NOTHING);
      assert.is(summaryOf(one, 0), 0xffffffffffffffffn);
    });
  }),
);

test(
  'trySleep: arms quiet connections, keeps those with a record and those that wait for room',
  timebox(5, () => {
    const pairs = [0, 1, 2, 3].map(() => new Pair(core));
    const [quiet, full, waiting, other] = pairs as [Pair, Pair, Pair, Pair];
    const armed = (pair: Pair) => core.u32(pair.ring + L.RING_ARMED);
    for (const { b } of pairs) call.addToPollSet(b);
    call.wantRoom(waiting.b, 1);
    assert.ok(full.send(pattern(9, 1)));
    assert.is(call.trySleep(0), 0, 'there is a record');
    assert.is(call.pollSetSize(), 2);
    assert.equal(pairs.map(armed), [1, 0, 1, 1]);
    // A connection that waits for room is reported too: as far as is known, there is room.
    assert.equal(
      [call.poll(0), call.poll(0), call.poll(0)].map((n) => n - 1).filter((n) => n === full.b).length > 0,
      true,
    );
    assertBytes(full.receive()!.body, pattern(9, 1));
    assert.is(call.trySleep(0), 1);
    assert.is(call.pollSetSize(), 1);
    call.wantRoom(waiting.b, 0);
    assert.is(call.trySleep(0), 1);
    assert.is(call.pollSetSize(), 0);
    assert.equal(pairs.map(armed), [1, 1, 1, 1]);
    for (const pair of pairs) {
      assert.ok(pair.send(pattern(3, 3)));
      assert.is(call.poll(0), pair.b + 1, 'the bit is set');
      assertBytes(pair.receive()!.body, pattern(3, 3));
    }
    assert.is(call.pollSetSize(), 4);
    assert.is(call.trySleep(0), 1);
    assert.ok(quiet && other);
    for (const pair of pairs) pair.free();
    assert.is(core.freeFrames(), initial);
  }),
);

test(
  'sleep: only one of the producers that find the process asleep rings; a bit set earlier prevents the sleep',
  timebox(5, () => {
    const [first, second] = [new Pair(core), new Pair(core)];
    const { COMMIT_POLLED: POLLED, COMMIT_READY_SET: READY_SET, COMMIT_ASLEEP: ASLEEP } = L;
    const { SLEEP_BUSY: BUSY, SLEEP_QUIET: QUIET, SLEEP_ASLEEP: SLEEPING } = L;
    const sleeping = () => core.u32(call.slotAddress(0) + constant('SLOT_SLEEPING'));
    const send = (pair: Pair) => {
      assert.ok(call.claim(pair.a, 0, 0, 4) > 0);
      return call.commit(pair.a);
    };
    const drain = () => {
      for (let found = call.poll(0); found !== NOTHING; found = call.poll(0)) {
        const pair = found - 1 === first.b ? first : second;
        assert.ok(pair.receive());
      }
    };
    for (const { b } of [first, second]) call.addToPollSet(b);
    assert.is(send(first), POLLED, 'it is polled');
    assert.is(call.trySleep(1), BUSY, 'there is a record');
    drain();
    assert.is(call.trySleep(0), QUIET, 'a peer cannot ring');
    assert.is(sleeping(), 0);
    assert.is(send(first), READY_SET);
    assert.is(call.trySleep(1), BUSY, 'the bit was set before the sleep');
    assert.is(sleeping(), 0);
    drain();
    assert.is(call.trySleep(1), SLEEPING);
    assert.is(sleeping(), 1);
    assert.is(send(second), ASLEEP);
    assert.is(sleeping(), 0);
    assert.is(send(first), READY_SET, 'another producer rings already');
    drain();
    assert.is(call.trySleep(1), SLEEPING);
    assert.is(call.poll(0), NOTHING);
    assert.is(sleeping(), 0, 'poll ends the sleep');
    call.wantRoom(first.b, 1);
    call.addToPollSet(first.b);
    assert.is(call.trySleep(1), QUIET, 'no peer rings for room');
    for (const pair of [first, second]) pair.free();
  }),
);

test(
  'a record that arrives during trySleep is never missed, in any order of calls',
  timebox(10, () => {
    const random = seeded(seed);
    const pair = new Pair(core);
    let sent = 0;
    let received = 0;
    const receive = () => {
      const found = call.poll(0);
      if (found === NOTHING) return false;
      assert.is(found, pair.b + 1);
      assertBytes(pair.receive()!.body, pattern(4, received++));
      return true;
    };
    call.addToPollSet(pair.b);
    for (let i = 0; i < 20_000; i++) {
      switch (random(4)) {
        case 0:
          if (pair.send(pattern(4, sent))) sent++;
          break;
        case 1:
          receive();
          break;
        case 2:
          call.trySleep(0);
          break;
        default:
          // A receive past poll(): it adds the connection to the poll set.
          if (received < sent && random(4) === 0) {
            call.addToPollSet(pair.b);
            assertBytes(pair.receive()!.body, pattern(4, received++));
          }
      }
      if (random(50) === 0) {
        while (receive());
        assert.is(received, sent, `step ${i}: a record was missed`);
      }
    }
    pair.free();
    call.poll(0);
    assert.is(core.freeFrames(), initial);
  }),
);

// ── The poll set ─────────────────────────────────────────────────────────────────────────────────────────────────────

function permutations<T>(items: readonly T[]): T[][] {
  if (items.length < 2) return [[...items]];
  return items.flatMap((item, i) => permutations(items.filter((_, j) => j !== i)).map((rest) => [item, ...rest]));
}

test(
  'adding and removing in every order: poll finds those with a record, in turn, and no others',
  timebox(10, () => {
    const pairs = [0, 1, 2, 3].map(() => new Pair(core));
    for (const pair of pairs) assert.ok(pair.send(pattern(1, 1)));
    const all = pairs.map(({ b }) => b);
    const check = (hot: ReadonlySet<number>) => {
      assert.is(call.pollSetSize(), hot.size);
      const found = [...hot].map(() => call.poll(0) - 1);
      assert.equal([...found].sort(), [...hot].sort(), 'each once a round');
      assert.equal(
        [...hot].map(() => call.poll(0) - 1),
        found,
        'and again',
      );
      if (hot.size === 0) assert.is(call.poll(5), NOTHING);
    };
    for (const heats of permutations(all)) {
      for (const cools of permutations(all)) {
        const hot = new Set<number>();
        for (const index of heats) {
          call.addToPollSet(index);
          call.addToPollSet(index);
          hot.add(index);
        }
        check(hot);
        for (const index of cools) {
          call.removeFromPollSet(index);
          call.removeFromPollSet(index);
          hot.delete(index);
          check(hot);
        }
      }
    }
    for (const pair of pairs) pair.free();
    assert.is(core.freeFrames(), initial);
  }),
);

test(
  'property: any sequence of add, remove, fill, empty and sleep behaves like a set',
  timebox(20, () => {
    const count = 12;
    const step = fc.record({
      what: fc.constantFrom('add', 'remove', 'fill', 'empty', 'sleep'),
      which: fc.nat(count - 1),
    });
    const pairs = Array.from({ length: count }, () => new Pair(core));
    const property = fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const hot = new Set<number>();
      const full = new Set<number>();
      for (const { what, which } of steps) {
        const pair = pairs[which]!;
        if (what === 'add') {
          call.addToPollSet(pair.b);
          hot.add(which);
        } else if (what === 'remove') {
          call.removeFromPollSet(pair.b);
          hot.delete(which);
        } else if (what === 'fill') {
          // An armed connection is added by its ready bit.
          if (core.u32(pair.ring + L.RING_ARMED)) hot.add(which);
          assert.ok(pair.send(pattern(2, 2)));
          full.add(which);
        } else if (what === 'empty') {
          while (pair.receive());
          full.delete(which);
        } else {
          const quiet = [...hot].every((n) => !full.has(n));
          assert.is(call.trySleep(0), quiet ? 1 : 0);
          for (const n of [...hot]) if (!full.has(n)) hot.delete(n);
        }
        const expected = [...hot].filter((n) => full.has(n)).map((n) => pairs[n]!.b);
        const found = expected.map(() => call.poll(0) - 1);
        assert.equal(found.sort(), expected.sort());
        if (expected.length === 0) assert.is(call.poll(0), NOTHING);
        assert.is(call.pollSetSize(), hot.size);
      }
      for (const pair of pairs) {
        while (pair.receive());
        call.disarm(pair.b);
      }
      call.poll(0);
      for (const pair of pairs) call.removeFromPollSet(pair.b);
    });
    fc.assert(property, { seed: seed | 0, numRuns: 300 });
    for (const pair of pairs) pair.free();
    assert.is(core.freeFrames(), initial);
  }),
);

test(
  'poll reports room for a connection that waits for it, and only then',
  timebox(5, () => {
    const pair = new Pair(core);
    call.addToPollSet(pair.a);
    let sent = 0;
    while (pair.send(pattern(200, sent))) sent++;
    assert.is(call.poll(3), NOTHING, 'no claim waits');
    call.wantRoom(pair.a, 1);
    assert.is(call.poll(3), NOTHING, 'no room');
    assertBytes(pair.receive()!.body, pattern(200, 0));
    assert.is(call.poll(3), NOTHING, 'the head is not published yet');
    for (let i = 1; pair.head === 0; i++) assertBytes(pair.receive()!.body, pattern(200, i));
    assert.is(call.poll(0), pair.a + 1);
    call.wantRoom(pair.a, 0);
    assert.is(call.poll(3), NOTHING);
    assert.ok(pair.send(pattern(200, sent)));
    pair.free();
    assert.is(core.freeFrames(), initial);
  }),
);

test(
  'peekSpin: finds a record, gives up after its rounds',
  timebox(5, () => {
    const pair = new Pair(core);
    assert.is(call.peekSpin(pair.b, 1000), NOTHING);
    assert.ok(pair.send(pattern(10, 1)));
    assert.is(call.peekSpin(pair.b, 0), NOTHING);
    const offset = call.peekSpin(pair.b, 1);
    const record = peek(core, pair.b);
    assert.is(typeof record === 'string' ? 0 : record.offset, offset);
    pair.free();
  }),
);

test.run();

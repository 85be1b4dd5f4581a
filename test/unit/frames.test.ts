/** Frames: extents, runs and the holders of their halves, with one process and with several. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { L, newCore, shared, type TestCore } from '../support/core.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const seed = testSeed();
const { HALF_CONSUMER: READER, HALF_PRODUCER: WRITER } = L;
const HALVES = [READER, WRITER] as const;
const otherOf = (half: number) => half ^ WRITER;

/** No frame is held any more, and a newcomer could take every frame. */
function assertAllFree(view: TestCore, free: number, what = 'at the end'): void {
  assert.equal(view.tags(), [], `${what}: tags`);
  assert.is(view.unclaimed(), free, `${what}: free frames`);
}

// ── One process ──────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'runs of every size: inside the extents, tagged, given back completely',
  timebox(10, () => {
    for (const mib of [1, 4, 8]) {
      const core = newCore(mib);
      const { call } = core;
      const first = core.u32(L.HEADER_FIRST) * core.u32(L.HEADER_EXTENT);
      const free = core.freeFrames();
      assert.is(free, core.frames - first);
      for (let count = 1; count <= free; count += mib === 1 ? 1 : 7) {
        for (const half of HALVES) {
          const frame = call.take(count, half);
          assert.ok(frame >= first && frame + count <= core.frames, `${count} frames at ${frame}`);
          assert.is(core.u64(core.half(frame, half)), core.tag(L.KIND_HELD, count));
          assert.is(core.u64(core.half(frame, otherOf(half))), core.tag(L.KIND_OFFERED, count));
          assert.is(call.addressOf(frame), L.WINDOW + frame * L.FRAME);
          assert.is(core.freeFrames(), free - count);
          call.giveBack(frame, count, half);
          assert.is(core.freeFrames(), free);
          assertAllFree(core, free, `${count} frames`);
        }
      }
      assert.ok(call.take(free, READER) > 0, 'all frames');
      assert.is(call.take(1, READER), 0);
      core.call.leave();
      assertAllFree(core, free);
    }
  }),
);

test(
  'invalid sizes of runs, and more frames than there are',
  timebox(5, () => {
    const core = newCore();
    const free = core.freeFrames();
    for (const count of [0, free + 1, core.frames - 1, core.frames, 0x100000, 0x7fffffff, -1]) {
      assert.is(core.call.take(count, READER), 0, `${count}`);
    }
    assertAllFree(core, free);
    core.call.leave();
    assert.is(core.call.take(1, READER), 0, 'without a slot');
    assertAllFree(core, free);
  }),
);

test(
  'a hole is filled again by a run of its size, wherever it begins and ends in the extents',
  timebox(10, () => {
    const core = newCore(8);
    const { call } = core;
    const free = core.freeFrames();
    for (const count of [2, 3, 5, 21, 65, 129]) {
      const runs: number[] = [];
      for (let frame = call.take(count, READER); frame !== 0; frame = call.take(count, READER)) runs.push(frame);
      assert.is(runs.length, Math.floor(free / count), `${count} frames each, one after the other`);
      for (const hole of runs) {
        call.giveBack(hole, count, READER);
        assert.is(call.take(count, READER), hole);
      }
      for (const frame of runs) call.giveBack(frame, count, READER);
      assertAllFree(core, free, `${count} frames`);
    }
  }),
);

test(
  'runs of messages that are given back stay as spare ones, up to a sixteenth of the region, until trim()',
  timebox(10, () => {
    const core = newCore(16);
    const { call } = core;
    const free = core.freeFrames();
    const frame = call.takeRun(200 * L.FRAME);
    assert.is(call.giveBackRun(frame, 200 * L.FRAME), 1);
    assert.is(core.freeFrames(), free, 'free for this process');
    assert.ok(core.unclaimed() < free, 'not for others');
    assert.is(call.takeRun(200 * L.FRAME), frame, 'the same frames again');
    call.giveBackRun(frame, 200 * L.FRAME);
    // Together with free frames after it.
    const longer = call.take(300, WRITER);
    assert.is(longer, frame);
    assert.is(call.giveBackRun(longer, 299 * L.FRAME), 1);
    assertAllFree(core, free, 'more than is kept');
    call.giveBackRun(call.takeRun(200 * L.FRAME), 200 * L.FRAME);
    assert.ok(core.unclaimed() < free);
    call.trim();
    assertAllFree(core, free, 'trimmed');
    call.trim();
    // Frames in use stay.
    const held = call.takeRun(8);
    call.trim();
    assert.is(call.takeRun(8), held + 2);
    // Out of range.
    const { extentTagValid, extentSlot, extentUse, extentGeneration, halfFree, halfFrames, halfKind, halfGeneration } =
      call;
    for (const ask of [extentTagValid, extentSlot, extentUse, extentGeneration]) assert.is(ask(0xffffffff), 0);
    assert.is(halfFree(core.frames, READER), 1);
    for (const ask of [halfFrames, halfKind, halfGeneration]) assert.is(ask(core.frames, READER), 0);
  }),
);

test(
  'random takes and returns: no two runs overlap, the counts add up, fragmented space is used',
  timebox(10, () => {
    const random = seeded(seed);
    for (let round = 0; round < 20; round++) {
      const core = round % 2 ? shareable4 : shareable1;
      const { call } = core;
      const free = core.freeFrames();
      const runs: { frame: number; count: number; half: number }[] = [];
      const owner = new Int32Array(core.frames);
      let used = 0;
      for (let step = 0; step < 600; step++) {
        if (random(100) < (step < 400 ? 60 : 40)) {
          const count = 1 + random(random(3) ? 10 : 70);
          const half = HALVES[random(2)]!;
          const frame = call.take(count, half);
          if (frame === 0) continue;
          assert.ok(frame + count <= core.frames);
          for (let i = frame; i < frame + count; i++) {
            assert.is(owner[i], 0, `frame ${i} was handed out twice`);
            owner[i] = step + 1;
          }
          runs.push({ frame, count, half });
          used += count;
        } else if (runs.length > 0) {
          const { frame, count, half } = runs.splice(random(runs.length), 1)[0]!;
          call.giveBack(frame, count, half);
          owner.fill(0, frame, frame + count);
          used -= count;
        }
        assert.is(call.freeFrames(), free - used, `step ${step}`);
        // An extent is owned only while a run lies in it.
        if (step % 50 === 0) {
          const per = core.u32(L.HEADER_EXTENT);
          const first = core.u32(L.HEADER_FIRST);
          for (const [i, tag] of core.extents().entries()) {
            const from = (first + i) * per;
            const inUse = owner.subarray(from, from + per).some((n) => n !== 0);
            assert.is(tag !== 0n, inUse, `step ${step}: extent ${first + i}`);
          }
        }
      }
      for (const { frame, count, half } of runs) call.giveBack(frame, count, half);
      assertAllFree(core, free, `round ${round}`);
    }
  }),
);
const shareable1 = newCore(1);
const shareable4 = newCore(4);

test(
  'a run that begins in an extent owned before gives back the extent that it does not need',
  timebox(5, () => {
    shared(2, 1, (one, two) => {
      const free = two.unclaimed();
      // Extents of 4 frames: one frame is left after the first run; the second takes two more extents and needs less.
      const a = one.call.take(5, READER);
      const b = one.call.take(5, READER);
      assert.is(b, a + 5, 'right after it');
      assert.is(two.unclaimed(), free - 12);
      one.call.giveBack(a, 5, READER);
      one.call.giveBack(b, 5, READER);
      assertAllFree(two, free);
    });
  }),
);

// ── Two halves ───────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'offered, adopted, released and given back in either order',
  timebox(5, () => {
    for (const half of HALVES) {
      for (const ownerFirst of [true, false]) {
        shared(2, 1, (one, two) => {
          const free = one.unclaimed();
          const frame = one.call.take(9, half);
          const theirs = otherOf(half);
          assert.is(two.call.adopt(frame, theirs, one.slot, one.generation), 9);
          assert.is(one.u64(one.half(frame, theirs)), two.tag(L.KIND_HELD, 9));
          assert.is(two.call.adopt(frame, theirs, one.slot, one.generation), 0, 'taken');
          if (ownerFirst) {
            one.call.giveBack(frame, 9, half);
            assert.is(one.freeFrames(), free - 9, 'the other half is held');
            const next = one.call.take(9, half);
            assert.ok(next >= frame + 9 || next + 9 <= frame, 'not handed out again');
            one.call.giveBack(next, 9, half);
            two.call.letGo(frame, theirs, 9);
            assert.is(one.call.freeFrames(), free - 9, 'until its owner collects');
            one.call.collect();
            assert.is(one.call.freeFrames(), free);
          } else {
            two.call.letGo(frame, theirs, 9);
            two.call.letGo(frame, theirs, 9);
            assert.is(one.freeFrames(), free - 9, 'the owner holds its half');
            one.call.giveBack(frame, 9, half);
            assert.is(one.call.freeFrames(), free);
          }
          assertAllFree(two, free);
        });
      }
    }
  }),
);

test(
  'take() collects released runs itself',
  timebox(5, () => {
    shared(2, 1, (one, two) => {
      const free = one.unclaimed();
      const frame = one.call.take(free, READER);
      assert.is(two.call.adopt(frame, WRITER, one.slot, one.generation), free);
      one.call.giveBack(frame, free, READER);
      assert.is(one.call.take(1, READER), 0);
      assert.is(two.call.take(1, READER), 0);
      two.call.letGo(frame, WRITER, free);
      assert.is(two.call.take(1, READER), 0, 'its extents are the owner’s');
      assert.is(one.call.take(free, READER), frame);
      one.call.giveBack(frame, free, READER);
      assertAllFree(two, free);
    });
  }),
);

test(
  'neighbouring runs that wait for their other halves are distinguished',
  timebox(5, () => {
    shared(2, 1, (one, two) => {
      const free = one.unclaimed();
      const runs = [3, 1, 2, 4].map((count) => ({ count, frame: one.call.take(count, READER) }));
      for (const [i, { frame, count }] of runs.entries()) {
        if (i > 0) assert.is(frame, runs[i - 1]!.frame + runs[i - 1]!.count);
        assert.is(two.call.adopt(frame, WRITER, one.slot, one.generation), count);
        one.call.giveBack(frame, count, READER);
      }
      let left = free - 10;
      for (const i of [2, 0, 3, 1]) {
        two.call.letGo(runs[i]!.frame, WRITER, runs[i]!.count);
        left += runs[i]!.count;
        assert.is(one.freeFrames(), left);
      }
      assertAllFree(two, free);
    });
  }),
);

test(
  'missing offers: other frames, slots, generations, counts; given back; forged',
  timebox(5, () => {
    shared(3, 1, (one, two, three) => {
      const free = one.unclaimed();
      const frame = one.call.take(6, READER);
      const adopt = (at: number, half: number, slot: number, generation: number) =>
        two.call.adopt(at, half, slot, generation);
      const { slot, generation } = one;
      for (const at of [0, 1, frame - 1, frame + 1, frame + 5, one.frames - 1, one.frames, 0x7fffffff, -1]) {
        assert.is(adopt(at, WRITER, slot, generation), 0, `frame ${at}`);
      }
      assert.is(adopt(frame, READER, slot, generation), 0, 'the half that its owner holds');
      for (const wrong of [1, 2, 3, 0x400, 0x1000, 0x100000, -1]) assert.is(adopt(frame, WRITER, wrong, generation), 0);
      for (const wrong of [0, generation + 1, generation - 1, -1]) assert.is(adopt(frame, WRITER, slot, wrong), 0);
      // A tag with a count that reaches beyond the region, or with none.
      for (const count of [0, one.frames - frame + 1, 0xfffff]) {
        one.setU64(one.half(frame, READER), one.tag(L.KIND_HELD, count));
        one.setU64(one.half(frame, WRITER), one.tag(L.KIND_OFFERED, count));
        assert.is(adopt(frame, WRITER, slot, generation), 0, `count ${count}`);
      }
      // Halves that do not match.
      one.setU64(one.half(frame, READER), one.tag(L.KIND_HELD, 6));
      one.setU64(one.half(frame, WRITER), one.tag(L.KIND_OFFERED, 5));
      assert.is(adopt(frame, WRITER, slot, generation), 0);
      // A run under the tables.
      one.setU64(one.half(1, READER), one.tag(L.KIND_HELD, 2));
      one.setU64(one.half(1, WRITER), one.tag(L.KIND_OFFERED, 2));
      assert.is(adopt(1, WRITER, slot, generation), 0, 'the tables');
      for (const half of HALVES) one.setU64(one.half(1, half), 0n);

      one.setU64(one.half(frame, WRITER), one.tag(L.KIND_OFFERED, 6));
      one.call.giveBack(frame, 6, READER);
      assert.is(adopt(frame, WRITER, slot, generation), 0, 'given back');
      // Another owner has the frames now: the old offer names the old owner.
      assert.is(three.call.take(6, READER), frame);
      assert.is(adopt(frame, WRITER, slot, generation), 0, 'another owner');
      three.call.giveBack(frame, 6, READER);
      // The same owner in a later generation.
      one.call.leave();
      one.join(0);
      assert.is(one.call.take(6, READER), frame);
      assert.is(adopt(frame, WRITER, slot, generation), 0, 'an earlier generation');
      // Offered again, with another count: the old offer is over.
      one.call.giveBack(frame, 6, READER);
      assert.is(one.call.take(7, READER), frame);
      assert.is(adopt(frame, WRITER, slot, one.generation), 7);
      two.call.letGo(frame, WRITER, 6);
      assert.is(one.u64(one.half(frame, WRITER)), two.tag(L.KIND_HELD, 7), 'another count is another run');
      two.call.letGo(frame, WRITER, 7);
      one.call.giveBack(frame, 7, READER);
      assertAllFree(two, free);
    });
  }),
);

// ── The gone and the dead ────────────────────────────────────────────────────────────────────────────────────────────

test(
  'an owner leaves: runs that others still hold are freed with their last half, over several extents',
  timebox(5, () => {
    shared(3, 1, (one, two, three) => {
      const free = one.unclaimed();
      const long = one.call.take(11, READER);
      const short = one.call.take(2, READER);
      const unadopted = one.call.take(30, READER);
      assert.is(two.call.adopt(long, WRITER, 0, one.generation), 11);
      assert.is(three.call.adopt(short, WRITER, 0, one.generation), 2);
      const generation = one.generation;
      one.call.leave();
      assert.is(two.call.adopt(unadopted, WRITER, 0, generation), 0, 'no offer is left');
      const held = free - two.unclaimed();
      assert.ok(held >= 13 && held <= 16, `${held} frames in the extents of both runs`);
      two.call.sweep();
      assert.is(two.unclaimed(), free - held);
      // No other process gets a frame under them.
      const rest: number[] = [];
      for (let frame = two.call.take(1, READER); frame; frame = two.call.take(1, READER)) rest.push(frame);
      assert.is(rest.length, free - held);
      for (const frame of rest) {
        assert.ok(frame < long || frame >= long + 11);
        assert.ok(frame < short || frame >= short + 2);
        two.call.giveBack(frame, 1, READER);
      }
      // A new owner in the same slot changes nothing.
      one.join(0);
      two.call.letGo(long, WRITER, 11);
      const kept = free - two.unclaimed();
      assert.is(kept, 4 * (((short + 1) >> 2) - (short >> 2) + 1), 'the extents of the short one');
      three.call.letGo(short, WRITER, 2);
      assertAllFree(two, free);
    });
  }),
);

test(
  'only unneeded extents are freed: heads and tails of runs, held at either end',
  timebox(10, () => {
    // Runs that begin and end anywhere in extents of four frames; one of them is held while its owner leaves.
    for (let before = 0; before < 9; before++) {
      for (let count = 1; count <= 13; count++) {
        shared2((one, two) => {
          const free = two.unclaimed();
          if (before) assert.ok(one.call.take(before, READER));
          const frame = one.call.take(count, READER);
          const next = one.call.take(5, READER);
          assert.is(next, frame + count);
          assert.is(two.call.adopt(frame, WRITER, 0, one.generation), count);
          one.call.leave();
          const from = frame >> 2;
          const to = (frame + count - 1) >> 2;
          assert.is(two.unclaimed(), free - (to - from + 1) * 4, `${before} + ${count}`);
          for (let extent = from; extent <= to; extent++) assert.ok(two.u64(two.extent(extent)) !== 0n);
          two.call.letGo(frame, WRITER, count);
          assertAllFree(two, free, `${before} + ${count}`);
          one.join(0);
        });
      }
    }
  }),
);

let pair: [TestCore, TestCore] | undefined;
let closePair: (() => void) | undefined;
/** Two views for many tests. */
function shared2(body: (one: TestCore, two: TestCore) => void): void {
  if (!pair) throw new Error('not open');
  body(...pair);
}

test.before(async () => {
  const { Shared } = await import('../support/core.js');
  const region = new Shared(2, 1);
  pair = region.cores as [TestCore, TestCore];
  closePair = () => region.close();
});
test.after(() => closePair?.());

test(
  'a fenced process keeps what it holds, until it leaves or is declared dead',
  timebox(5, () => {
    for (const end of ['leaves', 'is declared dead']) {
      shared(3, 1, (one, two, three) => {
        const free = two.unclaimed();
        const own = one.call.take(10, READER);
        const spare = one.call.take(3, READER);
        const theirs = two.call.take(7, WRITER);
        assert.is(one.call.adopt(theirs, READER, 1, two.generation), 7);
        const before = one.extents();
        // An extent of its own in which it holds nothing at this moment: it may be about to take a run there.
        one.setU64(one.half(spare, READER), 0n);
        one.setU64(one.half(spare, WRITER), 0n);
        const { generation } = one;
        assert.is(three.call.fence(0, generation + 1), 0, 'another generation');
        assert.is(three.call.fence(2, three.generation), 0, 'itself');
        assert.is(three.call.fence(5, three.call.slotGeneration(5)), 0, 'a free slot');
        assert.is(three.call.fence(99, 1), 0, 'no slot');
        assert.is(three.call.fence(0, generation), 1);
        assert.is(two.call.fence(0, generation), 1, 'once more');
        assert.is(one.call.holdsSlot(), 0);
        assert.is(two.call.alive(0, generation), 0);
        assert.is(one.call.take(1, READER), 0, 'it takes nothing any more');
        for (const core of [two, three]) core.call.sweep();
        assert.equal(two.extents(), before, 'no other process gets its extents');
        assert.is(two.u64(two.half(own, READER)), one.tag(L.KIND_HELD, 10, 0, generation));
        assert.is(three.call.claimSlot(0, 0), 0, 'nor its slot');
        two.call.giveBack(theirs, 7, WRITER);
        if (end === 'leaves') one.call.leave();
        else {
          assert.is(three.call.declareDead(0, generation), 1);
          three.call.reclaim(0, generation);
          assert.is(three.call.fence(0, generation), 0, 'it is gone');
        }
        assert.is(three.call.slotState(0), L.SLOT_FREE);
        two.call.collect();
        assertAllFree(two, free);
      });
    }
  }),
);

test(
  'reclaim clears only the halves of the dead process, held and offered, as owner and as adopter',
  timebox(5, () => {
    shared(3, 1, (one, two, three) => {
      const free = one.unclaimed();
      const own = one.call.take(10, READER);
      const offered = one.call.take(3, WRITER);
      const theirs = two.call.take(7, WRITER);
      assert.is(two.call.adopt(own, WRITER, 0, one.generation), 10);
      assert.is(one.call.adopt(theirs, READER, 1, two.generation), 7);
      const { generation } = one;
      assert.is(three.call.declareDead(0, generation), 1);
      // Its extents are not free while its halves stand, even if another process sweeps now.
      two.call.sweep();
      assert.is(two.call.adopt(offered, READER, 0, generation), 3, 'an offer is good until it is reclaimed');
      two.call.letGo(offered, READER, 3);
      three.call.reclaim(0, generation);
      assert.is(three.u64(three.half(own, READER)), 0n);
      assert.is(three.u64(three.half(own, WRITER)), two.tag(L.KIND_HELD, 10));
      assert.is(three.u64(three.half(theirs, WRITER)), two.tag(L.KIND_HELD, 7));
      assert.is(three.u64(three.half(theirs, READER)), 0n);
      assert.is(three.call.slotState(0), L.SLOT_FREE);
      two.call.giveBack(theirs, 7, WRITER);
      assert.is(two.freeFrames(), free - 12, 'three extents of the dead process, under the run that this one holds');
      two.call.letGo(own, WRITER, 10);
      assertAllFree(three, free);
    });
  }),
);

test(
  'a process that was declared dead and runs on does no harm to the new owner of its frames',
  timebox(5, () => {
    shared(3, 1, (one, two, three) => {
      const free = one.unclaimed();
      const frame = one.call.take(6, READER);
      const { generation } = one;
      assert.is(two.call.declareDead(0, generation), 1);
      two.call.reclaim(0, generation);
      assert.is(three.call.take(6, READER), frame);
      one.call.giveBack(frame, 6, READER);
      one.call.leave();
      assert.is(three.u64(three.half(frame, READER)), three.tag(L.KIND_HELD, 6));
      assert.is(three.u64(three.half(frame, WRITER)), three.tag(L.KIND_OFFERED, 6));
      assert.is(three.unclaimed(), free - 8);
      three.call.giveBack(frame, 6, READER);
      assertAllFree(two, free);
    });
  }),
);

test(
  'a process died between leaving and sweeping: a process that needs frames sweeps',
  timebox(5, () => {
    shared(2, 1, (one, two) => {
      const free = one.unclaimed();
      const frame = one.call.take(free, READER);
      // As if it had died after freeSlot() in leave().
      for (const half of HALVES) one.setU64(one.half(frame, half), 0n);
      one.setU64(one.call.slotAddress(0), BigInt(one.generation) << 32n);
      assert.is(two.unclaimed(), 0);
      assert.is(two.call.take(free, READER), frame);
      two.call.giveBack(frame, free, READER);
      assertAllFree(two, free);
    });
  }),
);

test(
  'random life of three processes: take, adopt, give back, release, leave, die',
  timebox(20, () => {
    const random = seeded(seed ^ 0x46524d45);
    interface Run {
      owner: number;
      frame: number;
      count: number;
      half: number;
      slot: number;
      generation: number;
      owned: boolean;
      /** Holder of the other half; -1: no process ever held it. */
      adopter: number;
      adopted: boolean;
    }
    for (let round = 0; round < 6; round++) {
      shared(3, round % 2 ? 4 : 1, (...views) => {
        const free = views[0]!.unclaimed();
        let runs: Run[] = [];
        const used = new Uint8Array(views[0]!.frames);
        const settle = (run: Run) => {
          if (run.owned || run.adopted) return;
          used.fill(0, run.frame, run.frame + run.count);
          runs = runs.filter((other) => other !== run);
        };
        /** The process is gone, in any way: it holds nothing. */
        const forget = (index: number) => {
          for (const run of [...runs]) {
            if (run.owner === index) run.owned = false;
            if (run.adopter === index) run.adopted = false;
            settle(run);
          }
        };
        for (let step = 0; step < 3000; step++) {
          const index = random(3);
          const view = views[index]!;
          const what = random(100);
          if (what < 40) {
            const count = 1 + random(random(4) ? 6 : 40);
            const half = HALVES[random(2)]!;
            const frame = view.call.take(count, half);
            if (frame === 0) continue;
            for (let i = frame; i < frame + count; i++) {
              assert.is(used[i], 0, `round ${round}, step ${step}: frame ${i} is in use`);
              used[i] = 1;
            }
            const { slot, generation } = view;
            runs.push({ owner: index, frame, count, half, slot, generation, owned: true, adopter: -1, adopted: false });
          } else if (what < 60) {
            const run = runs[random(runs.length)];
            if (!run || run.owner === index) continue;
            const found = view.call.adopt(run.frame, otherOf(run.half), run.slot, run.generation);
            const may = run.owned && run.adopter < 0;
            assert.is(found, may ? run.count : 0, `round ${round}, step ${step}: adopt`);
            if (may) Object.assign(run, { adopter: index, adopted: true });
          } else if (what < 78) {
            const run = runs.filter(({ owner, owned }) => owned && owner === index)[random(8)];
            if (!run) continue;
            view.call.giveBack(run.frame, run.count, run.half);
            run.owned = false;
            settle(run);
          } else if (what < 95) {
            const run = runs.filter(({ adopter, adopted }) => adopted && adopter === index)[random(8)];
            if (!run) continue;
            view.call.letGo(run.frame, otherOf(run.half), run.count);
            run.adopted = false;
            settle(run);
          } else if (what < 97) {
            view.call.collect();
          } else if (random(4) === 0) {
            const { slot, generation } = view;
            const died = random(2) === 1;
            if (died) {
              // Dead: two others find out, and both reclaim.
              for (const other of views) if (other !== view) assert.is(other.call.declareDead(slot, generation), 1);
              for (const other of views) if (other !== view) other.call.reclaim(slot, generation);
            }
            view.call.leave();
            // Readers of its rings may have kept its slot; upkeep reclaims again.
            if (died) views[(index + 1) % 3]!.call.reclaim(slot, generation);
            forget(index);
            view.join(slot);
            assert.is(view.generation, generation + 1);
          }
        }
        for (const view of views) view.call.collect();
        const inUse = used.reduce((sum, n) => sum + n, 0);
        assert.ok(views[0]!.unclaimed() <= free - inUse);
        for (const view of views) view.call.leave();
        assertAllFree(views[0]!, free, `round ${round}`);
      });
    }
  }),
);

test(
  'tables with random contents: nothing traps, no access leaves the window, no run is handed out twice',
  timebox(10, () => {
    const random = seeded(seed ^ 0x7ab1e5);
    shared(2, 1, (one, two) => {
      const map = one.half(0, 0);
      const extents = one.extent(0);
      const owned = new Set<number>();
      for (let i = 0; i < 3000; i++) {
        const word = () =>
          random(3)
            ? one.tag(random(4), random(300), random(3), random(3))
            : BigInt(random(2 ** 32)) << BigInt(random(33));
        one.setU64(map + random(one.frames * 2) * 8, word());
        if (random(3) === 0) one.setU64(extents + random(one.u32(L.HEADER_EXTENTS)) * 8, word());
        switch (random(7)) {
          case 0: {
            const frame = two.call.take(1, READER);
            if (frame) {
              assert.ok(!owned.has(frame) && frame < two.frames);
              owned.add(frame);
            }
            break;
          }
          case 1: {
            const count = two.call.adopt(random(300), HALVES[random(2)]!, random(20), random(3));
            assert.ok(count >= 0 && count < two.frames);
            break;
          }
          case 2:
            two.call.letGo(8 + random(240), HALVES[random(2)]!, 1 + random(8));
            break;
          case 3:
            two.call.sweep();
            break;
          case 4:
            two.call.reclaim(random(16), random(4));
            break;
          case 5: {
            const [frame] = owned;
            if (frame !== undefined) {
              two.call.giveBack(frame, 1, READER);
              // It may wait for a half with random contents.
              owned.delete(frame);
            }
            break;
          }
          default:
            two.call.collect();
        }
      }
      two.call.leave();
    });
  }),
);

test.run();

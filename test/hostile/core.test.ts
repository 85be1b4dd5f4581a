/**
 * The core against a peer that writes anything into the region, between any two calls: nothing traps, nothing outside
 * the window or the arguments of the call changes, and every result is a valid one. All in one process, so that a
 * failure can be repeated from its seed; for peers that write at the very same moment, see region.test.ts.
 *
 * ISTHMUS_HOSTILE_MUTATIONS: stores of the peer, half of them into its own rings, half anywhere. ISTHMUS_TEST_SEED.
 */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { addonMissing } from '../../host/native/native.js';
import { assertBytes, constant, L, newCore, Pair, pattern, Shared, type TestCore } from '../support/core.js';
import { Hostile } from '../support/hostile.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';
import { act, checkState, connect, echo, useRegion } from '../support/victim.js';

const seed = testSeed();
const MUTATIONS = Number(process.env['ISTHMUS_HOSTILE_MUTATIONS'] ?? 40_000) / 2;
/** Stores until the connection is replaced, and until the region is. */
const ROUND = 12;
const LIFE = 400;
const seconds = 60 + MUTATIONS / 2000;

/** Private parts of a core that must not change: the gaps, and all entries except those of the given connections. */
function privates(core: TestCore): () => number[] {
  const gaps: (readonly [number, number])[] = [
    [constant('PRIVATE') + 64, constant('POLL_SET')],
    [constant('POLL_SET') + 2 * L.CONNECTIONS, L.TABLE],
  ];
  const before = gaps.map(([from, to]) => core.bytes.slice(from, to));
  const table = core.bytes.slice(L.TABLE, L.TABLE + L.CONNECTIONS * L.CONNECTION_SIZE);
  return () => {
    for (const [i, [from, to]] of gaps.entries())
      assertBytes(core.bytes.subarray(from, to), before[i]!, 'private bytes');
    const changed: number[] = [];
    for (let index = 0; index < L.CONNECTIONS; index++) {
      const at = index * L.CONNECTION_SIZE;
      const now = core.bytes.subarray(L.TABLE + at, L.TABLE + at + L.CONNECTION_SIZE);
      if (Buffer.compare(now, table.subarray(at, at + L.CONNECTION_SIZE)) !== 0) changed.push(index);
    }
    return changed;
  };
}

const report = (stores: ReadonlyMap<string, number>) => console.log(Object.fromEntries([...stores].sort()));
const missing = addonMissing();
const run = missing ? test.skip : test;
if (missing) console.log(`skipped: ${missing.message}`);

run(
  `${MUTATIONS} stores into its own rings: that connection breaks, and no other`,
  timebox(seconds, () => {
    const random = seeded(seed);
    const shared = new Shared(3);
    const [victim, peer, witness] = shared.cores as [TestCore, TestCore, TestCore];
    const hostile = new Hostile(peer, random);
    const good = connect(victim, witness)!;
    const loop = new Pair(newCore());
    const free = victim.freeFrames();
    const header = victim.bytes.slice(L.WINDOW, L.WINDOW + L.FRAME);
    const ends = new Map<string, number>();
    let check = privates(victim);
    const used = new Set<number>([good[0].index]);
    for (let round = 0; hostile.count < MUTATIONS; round++) {
      // Near the end of the ring, or of all positions, or anywhere.
      const start = [-8 * random(200), 8 * random(1024), 0][random(3)]! >>> 0;
      const bad = connect(victim, peer, start);
      assert.ok(bad, `round ${round}: no connection`);
      const [end, far] = bad;
      used.add(end.index);
      for (let i = 0; i < ROUND; i++) {
        for (let calls = random(4); calls > 0; calls--) act(random(5) ? end : far, random, true);
        hostile.ring(random(2) ? end.rx : end.tx);
        for (let calls = random(4); calls > 0; calls--) act(end, random, true);
        checkState(end);
      }
      const failure = victim.failure(end.index);
      ends.set(`failure ${failure}`, (ends.get(`failure ${failure}`) ?? 0) + 1);
      echo(good, round);
      victim.call.free(end.index);
      peer.call.free(far.index);
      if (round % 64 !== 0) continue;
      assertBytes(victim.bytes.subarray(L.WINDOW, L.WINDOW + L.FRAME), header, 'the header of the region');
      for (const index of check()) assert.ok(used.has(index), `entry ${index} was written to`);
      check = privates(victim);
      used.clear();
      used.add(good[0].index);
      loop.send(pattern(100, round));
      assertBytes(loop.receive()!.body, pattern(100, round));
    }
    report(hostile.stores);
    console.log(Object.fromEntries([...ends].sort()));
    for (const core of [victim, peer]) core.call.collect();
    assert.is(victim.freeFrames(), free, 'frames leaked');
    for (const failure of [L.FAILURE_HEAD, L.FAILURE_RECORD, L.FAILURE_MESSAGE]) {
      assert.ok(MUTATIONS < 1000 || ends.has(`failure ${failure}`), `never failure ${failure}`);
    }
    shared.close();
  }),
);

run(
  `${MUTATIONS} stores anywhere in the region: nothing outside it changes`,
  timebox(seconds, () => {
    const random = seeded(seed + 1);
    const shared = new Shared(3);
    const [victim, peer, witness] = shared.cores as [TestCore, TestCore, TestCore];
    const elsewhere = new Shared(2);
    const other = connect(elsewhere.cores[0]!, elsewhere.cores[1]!)!;
    const loop = new Pair(newCore());
    let count = 0;
    const stores = new Map<string, number>();
    for (let life = 0; count < MUTATIONS; life++) {
      const bad = connect(victim, peer, (-8 * random(200)) >>> 0);
      const good = connect(victim, witness);
      assert.ok(bad && good, 'a fresh region');
      const hostile = new Hostile(peer, random, stores);
      const mine = new Map<number, number>();
      const rings = [bad[0].rx, bad[0].tx, good[0].rx, good[0].tx];
      const check = privates(victim);
      const opened = new Set([bad[0].index, good[0].index]);
      for (let i = 0; i < LIFE; i++) {
        hostile.region(rings);
        for (let calls = random(4); calls > 0; calls--) {
          if (random(2)) act(random(2) ? bad[0] : good[0], random, true);
          else useRegion(victim, random(2) ? bad[0] : good[0], random, mine, hostile.forged, true);
        }
        for (const end of [bad[0], good[0]]) checkState(end);
      }
      count += hostile.count;
      // All changed entries were opened: those that are free now came after the two.
      for (const index of check()) {
        assert.ok(opened.has(index) || victim.state(index) === L.STATE_FREE, `entry ${index} was written to`);
      }
      echo(other, life);
      loop.send(pattern(100, life));
      assertBytes(loop.receive()!.body, pattern(100, life));
      // All leave; the next processes get a new region.
      for (const end of [...bad, ...good]) end.core.call.free(end.index);
      for (const core of [victim, peer, witness]) core.call.leave();
      // A process that has left, or was declared dead, may still give back its frames.
      for (const [frame, frames] of mine) victim.call.giveBack(frame, frames, L.HALF_PRODUCER);
      peer.call.format(0);
      peer.call.finishFormat();
      for (const [slot, core] of [victim, peer, witness].entries()) core.join(slot);
    }
    report(stores);
    shared.close();
    elsewhere.close();
  }),
);

/** Set where the build of the core reports each load of a word of the region: branches.test.ts. */
const moments = globalThis as { atAnyMoment?: (() => void) | undefined };

if ('atAnyMoment' in moments) {
  for (const where of ['into its own rings', 'anywhere'] as const) {
    run(
      `${MUTATIONS} stores ${where}, between any two loads of the core from the region`,
      timebox(seconds, () => {
        const random = seeded(seed + 2);
        const shared = new Shared(3);
        const [victim, peer, witness] = shared.cores as [TestCore, TestCore, TestCore];
        const own = where !== 'anywhere';
        const stores = new Map<string, number>();
        let looks = 0;
        let count = 0;
        for (let life = 0; count < MUTATIONS; life++) {
          const good = connect(victim, witness)!;
          const bad = connect(victim, peer, (-8 * random(200)) >>> 0)!;
          const hostile = new Hostile(peer, random, stores);
          const rings = own ? [bad[0].rx, bad[0].tx] : [bad[0].rx, bad[0].tx, good[0].rx, good[0].tx];
          const mine = new Map<number, number>();
          const store = () => (own ? hostile.ring(rings[random(2)]!) : hostile.region(rings));
          for (let i = 0; i < (own ? ROUND : LIFE); i++) {
            store();
            moments.atAnyMoment = () => {
              looks++;
              if (random(3) === 0) store();
            };
            for (let calls = random(4); calls > 0; calls--) {
              if (own || random(2)) act(bad[0], random);
              else useRegion(victim, bad[0], random, mine, hostile.forged);
            }
            moments.atAnyMoment = undefined;
            checkState(bad[0]);
          }
          count += hostile.count;
          if (own) echo(good, life);
          for (const end of [...bad, ...good]) end.core.call.free(end.index);
          for (const core of shared.cores) core.call.leave();
          peer.call.format(0);
          peer.call.finishFormat();
          for (const [slot, core] of shared.cores.entries()) core.join(slot);
        }
        console.log(`${looks} loads`);
        shared.close();
      }),
    );
  }
}

run(
  'a slot that is lost before it is published, and an observer without a slot',
  timebox(20, () => {
    const shared = new Shared(2);
    const [one, two] = shared.cores as [TestCore, TestCore];
    const onlooker = shared.add();
    assert.is(onlooker.call.trySleep(1), constant('SLEEP_QUIET'), 'without a slot, no peer rings');
    assert.is(onlooker.call.claimSlot(5, 0), 1);
    const word = two.call.slotAddress(5);
    two.setU64(word, two.u64(word) + (1n << 32n));
    assert.is(onlooker.call.publishSlot(), 0);
    assert.is(onlooker.call.holdsSlot(), 0);
    onlooker.call.leave();
    assert.is(one.call.holdsSlot(), 1);
    assert.is(onlooker.call.fence(1, two.generation | 0), 1);
    assert.is(onlooker.call.declareDead(1, two.generation | 0), 1);
    assert.is(two.call.holdsSlot(), 0);
    assert.is(two.call.take(1, L.HALF_CONSUMER), 0, 'it was fenced: it takes nothing any more');
    shared.close();
  }),
);

test.run();

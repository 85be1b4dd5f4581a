/**
 * The core alone, abandoned at each of its steps: the state that a process leaves if it dies there. (crash.test.ts
 * kills processes.) This takes a thousandth of the time, so that every step of rare operations is covered. The step
 * throws, and the core is never called again.
 *
 * After each: the state is consistent; the peers reclaim it, and have every frame.
 */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { identityHash } from '../../host/device/identity.js';
import { verifyOnce } from '../../host/region/check/verification.js';
import type { RegionView } from '../../host/region/region-view.js';
import { constant, L, MIB, mapInto, openEntry, pattern, receive, Sender, Shared, TestCore } from '../support/core.js';
import { timebox } from '../support/timebox.js';
import { instrument } from './instrument.js';
import { countSteps } from './steps.js';

class Died extends Error {}

const { module, stores } = instrument();
const steps = countSteps(module, () => {
  throw new Died();
});

const SIZE = MIB;
const CAPACITY = 4096;
const { HALF_CONSUMER: READER, HALF_PRODUCER: WRITER, WINDOW } = L;
const file = { boot: new Uint8Array(16).fill(7), dev: 3n, ino: 4n };
const identity = { ...file, hash: identityHash(file) };

const frameAt = (address: number) => (address - WINDOW) / L.FRAME;

/** What Region does besides calls of the core. */
function attach(core: TestCore, slot: number): void {
  assert.is(core.call.claimSlot(slot, identity.hash), 1);
  const at = core.call.slotAddress(slot);
  core.setU64(at + constant('SLOT_INSTANCE'), BigInt(instance++));
  core.setU64(at + constant('SLOT_DEV'), identity.dev);
  core.setU64(at + constant('SLOT_INO'), identity.ino);
  core.bytes.set(identity.boot, at + constant('SLOT_BOOT'));
  core.call.publishSlot();
}
let instance = 1;

/** A region with two survivors. The dying process has slot 2; another dead one has slot 3, or there is none. */
class Stage {
  readonly #shared = new Shared(2, SIZE / MIB, false);
  readonly peer = this.#shared.cores[0] as TestCore;
  readonly other = this.#shared.cores[1] as TestCore;
  readonly #all: number;
  /** Slots whose owner holds the lock. */
  readonly alive = new Set([0, 1]);
  dying!: TestCore;
  /** Number of the core, for the counter of steps. */
  number = 0;
  #undo: (() => void)[] = [];

  constructor() {
    const { peer, other } = this;
    peer.call.format(identity.hash);
    peer.bytes.set(pattern(16, 5), constant('HEADER_UUID'));
    peer.setText(constant('HEADER_HOST'), 64, 'host');
    peer.call.finishFormat();
    attach(peer, 0);
    attach(other, 1);
    this.#all = peer.unclaimed();
  }

  /** One more view; released with `next()`. */
  view(): TestCore {
    const core = new TestCore(SIZE);
    const mapping = mapInto(core, this.#shared.path);
    this.#undo.push(() => mapping.detach());
    return core;
  }

  /** Begin with everything free, and a new process that is to die. */
  next(attached: boolean): void {
    for (const undo of this.#undo.splice(0).reverse()) undo();
    this.dying = this.view();
    this.number = steps.cores;
    if (attached) attach(this.dying, 2);
  }

  /** How a survivor releases its halves of runs that it shares with the dead process. */
  letGo(undo: () => void): void {
    this.#undo.push(undo);
  }

  /** As MappedRegion.reap() does it. */
  reap(by: TestCore): void {
    const dead = new Map<number, number>();
    for (let slot = 0; slot < by.slots; slot++) {
      const generation = by.call.slotGeneration(slot);
      if (by.call.slotState(slot) === L.SLOT_FREE || this.alive.has(slot)) continue;
      if (by.call.declareDead(slot, generation)) dead.set(slot, generation);
    }
    for (const [slot, generation] of dead) by.call.reclaim(slot, generation);
    by.call.sweep();
  }

  find(): ReturnType<typeof verifyOnce> {
    const { peer } = this;
    const glimpse: RegionView = {
      path: this.#shared.path,
      size: SIZE,
      core: peer,
      identity,
      read: (from, length) => Buffer.from(peer.bytes.slice(WINDOW + from, WINDOW + from + length)),
      locked: (byte) => this.alive.has(byte),
    };
    return verifyOnce(glimpse);
  }

  /** Check what the dead process left. */
  assertSurvived(where: string): void {
    const said = () => this.find().findings.map((each) => `${each.severity}: ${each.where}: ${each.message}`);
    assert.equal(
      said().filter((line) => line.startsWith('error')),
      [],
      `${where}: at once`,
    );
    this.reap(this.other);
    // By both survivors, in any order.
    this.reap(this.peer);
    assert.equal(
      said().filter((line) => line.startsWith('error')),
      [],
      `${where}: reclaimed`,
    );
    const mappings = this.#undo.splice(0, 1);
    for (const undo of this.#undo.splice(0).reverse()) undo();
    this.#undo = mappings;
    // Runs that were kept for the survivors to read go with the next round of upkeep.
    for (const core of [this.peer, this.other]) {
      this.reap(core);
      core.call.collect();
    }
    this.peer.call.collect();
    assert.equal(said(), [], `${where}: at last`);
    assert.equal(this.peer.tags(), [], `${where}: halves of runs`);
    assert.is(this.peer.unclaimed(), this.#all, `${where}: free frames`);
  }

  close(): void {
    for (const undo of this.#undo.splice(0)) undo();
    this.#shared.close();
  }
}

/** A connection between the dying process and a survivor. @returns their entries */
function connect(stage: Stage): { mine: number; its: number } {
  const { dying, peer } = stage;
  const its = openEntry(peer, CAPACITY);
  stage.letGo(() => peer.call.free(its));
  const mine = openEntry(dying, CAPACITY);
  dying.call.setNonce(mine, 1, 2);
  peer.call.setNonce(its, 3, 4);
  const ringOf = (core: TestCore, entry: number) => frameAt(core.call.ringAddress(entry));
  assert.is(peer.call.attachRing(its, ringOf(dying, mine), CAPACITY, 2, dying.generation, 1, 2), 0);
  assert.is(dying.call.attachRing(mine, ringOf(peer, its), CAPACITY, 0, peer.generation, 3, 4), 0);
  peer.call.start(its);
  dying.call.start(mine);
  return { mine, its };
}

/** Runs of several kinds, some of them adopted by a peer, as an application has them. */
function furnish(stage: Stage): void {
  const { dying, peer, other } = stage;
  connect(stage);
  const memory = dying.call.takeRun(30_000);
  dying.call.grant(memory, 1, 2, 0, 100, constant('GRANT_READ'));
  const adopted = dying.call.takeRun(20_000);
  assert.is(other.call.adopt(adopted, READER, 2, dying.generation), 6);
  stage.letGo(() => other.call.letGo(adopted, READER, 6));
  // Given back, and since then released by the peer: not collected yet.
  const pending = dying.call.take(9, READER);
  assert.is(other.call.adopt(pending, WRITER, 2, dying.generation), 9);
  dying.call.giveBack(pending, 9, READER);
  other.call.letGo(pending, WRITER, 9);
  const lent = peer.call.takeRun(8000);
  stage.letGo(() => peer.call.giveBack(lent, 3, WRITER));
  assert.is(dying.call.adopt(lent, READER, 0, peer.generation), 3);
}

/** Another process that is dead already, and of which nothing was reclaimed. */
function leaveRemains(stage: Stage): void {
  const dead = stage.view();
  attach(dead, 3);
  dead.call.take(40, READER);
  const adopted = dead.call.take(5, WRITER);
  assert.is(stage.other.call.adopt(adopted, READER, 3, dead.generation), 5);
  stage.letGo(() => stage.other.call.letGo(adopted, READER, 5));
}

interface Operation {
  readonly name: string;
  readonly detached?: boolean;
  /** @returns the operation to count */
  readonly prepare: (stage: Stage) => () => void;
}

const OPERATIONS: readonly Operation[] = [
  {
    name: 'attach',
    detached: true,
    prepare:
      ({ dying }) =>
      () =>
        attach(dying, 2),
  },
  {
    name: 'take and give back',
    prepare:
      ({ dying }) =>
      () => {
        const runs = [3, 20, 1, 9].map((frames) => ({ frames, frame: dying.call.take(frames, READER) }));
        for (const { frame, frames } of runs) dying.call.giveBack(frame, frames, READER);
      },
  },
  {
    name: 'take more than there is',
    prepare:
      ({ dying }) =>
      () => {
        assert.is(dying.call.take(dying.frames - 1, READER), 0);
        dying.call.take(dying.unclaimed(), READER);
      },
  },
  { name: 'connect', prepare: (stage) => () => void connect(stage) },
  {
    name: 'send, with padding and fragments',
    prepare: (stage) => {
      const { mine, its } = connect(stage);
      return () => {
        for (const length of [10, 900, 2000, 0, 600, 3000]) {
          assert.ok(new Sender(stage.dying, mine, pattern(length, length)).go());
          while (receive(stage.peer, its));
          stage.peer.call.arm(its);
        }
        stage.dying.call.sendEof(mine);
      };
    },
  },
  {
    name: 'receive, sleep and wake',
    prepare: (stage) => {
      const { mine, its } = connect(stage);
      const { dying, peer } = stage;
      return () => {
        for (const length of [10, 900, 2000, 0]) {
          dying.call.addToPollSet(mine);
          dying.call.trySleep(1);
          assert.ok(new Sender(peer, its, pattern(length, length)).go());
          dying.call.poll(1);
          assert.ok(receive(dying, mine));
          dying.call.hold(mine);
          dying.call.publish(mine, dying.call.position(mine));
          dying.call.beat();
        }
      };
    },
  },
  {
    name: 'lend memory',
    prepare:
      ({ dying }) =>
      () => {
        const frame = dying.call.takeRun(20_000);
        dying.call.grant(frame, 1, 2, 0, 20_000, constant('GRANT_READ'));
        dying.call.revoke(frame, 0);
        dying.call.giveBack(frame, 6, WRITER);
      },
  },
  {
    name: 'borrow memory',
    prepare: (stage) => {
      const { dying, peer } = stage;
      const { mine } = connect(stage);
      const frame = peer.call.takeRun(20_000);
      stage.letGo(() => peer.call.giveBack(frame, 6, WRITER));
      peer.call.grant(frame, 1, 2, 0, 20_000, constant('GRANT_READ'));
      return () => {
        assert.ok(dying.call.adoptGranted(mine, frame, 0, 1, 2, 20_000) > 0);
        dying.call.letGoRun(frame, 20_000);
      };
    },
  },
  {
    name: 'disconnect',
    prepare: (stage) => {
      const { mine } = connect(stage);
      return () => stage.dying.call.free(mine);
    },
  },
  {
    name: 'leave with everything',
    prepare: (stage) => {
      furnish(stage);
      return () => stage.dying.call.leave();
    },
  },
  {
    name: 'reclaim from a dead process',
    prepare: (stage) => {
      leaveRemains(stage);
      stage.alive.add(2);
      return () => stage.reap(stage.dying);
    },
  },
  {
    name: 'need frames of a dead process',
    prepare: (stage) => {
      leaveRemains(stage);
      stage.alive.add(2);
      return () => {
        stage.reap(stage.dying);
        stage.dying.call.take(stage.dying.unclaimed(), READER);
      };
    },
  },
];

assert.ok(stores > 50, `${stores} stores`);

for (const { name, detached, prepare } of OPERATIONS) {
  test(
    `abandoned: ${name}`,
    timebox(120, () => {
      const stage = new Stage();
      let at = 1;
      for (let over = false; !over; at++) {
        stage.next(!detached);
        steps.arm(0);
        const run = prepare(stage);
        steps.arm(at, stage.number);
        try {
          run();
          over = true;
        } catch (error) {
          if (!(error instanceof Died)) throw error;
        }
        steps.arm(0);
        stage.alive.delete(2);
        stage.assertSurvived(`step ${at}`);
      }
      console.log(`${name}: ${at - 2} steps`);
      assert.ok(at > 3, 'it has steps');
      stage.close();
    }),
  );
}

test(
  'a committed message by reference: its reader gets it even if others reclaimed from the dead process first',
  timebox(20, () => {
    const stage = new Stage();
    stage.next(true);
    const { dying, peer } = stage;
    const { its } = connect(stage);
    const frame = dying.call.takeRun(20_000);
    dying.call.grant(frame, 1, 2, 0, 20_000, constant('GRANT_READ'));
    dying.bytes.set(pattern(20_000, 1), dying.call.addressOf(frame) + L.FRAME);
    stage.alive.delete(2);
    for (let i = 0; i < 3; i++) stage.reap(stage.other);
    const address = peer.call.adoptGranted(its, frame, 0, 1, 2, 20_000);
    assert.ok(address > 0, 'the message is there');
    assert.equal(peer.bytes.slice(address, address + 20_000), pattern(20_000, 1));
    peer.call.letGoRun(frame, 20_000);
    stage.assertSurvived('read');
    stage.close();
  }),
);

test(
  'abandoned: format; the next process does it again',
  timebox(60, () => {
    let at = 1;
    for (let over = false; !over; at++) {
      const shared = new Shared(2, 1, false);
      const [dying, next] = shared.cores as [TestCore, TestCore];
      const format = (core: TestCore) => {
        core.call.format(identity.hash);
        core.bytes.set(pattern(16, 5), constant('HEADER_UUID'));
        core.call.finishFormat();
      };
      steps.arm(at);
      try {
        assert.is(dying.call.beginFormat(identity.hash), 1);
        format(dying);
        over = true;
      } catch (error) {
        if (!(error instanceof Died)) throw error;
      }
      steps.arm(0);
      const found = next.call.inspect();
      if (found === L.INSPECT_BLANK) assert.is(next.call.beginFormat(identity.hash), 1);
      else if (found === L.INSPECT_FORMATTING) assert.is(next.call.formattingKernel(), identity.hash, `step ${at}`);
      else assert.is(found, L.INSPECT_READY, `step ${at}`);
      if (found !== L.INSPECT_READY) format(next);
      assert.is(next.call.inspect(), L.INSPECT_READY);
      attach(next, 0);
      shared.close();
    }
    console.log(`format: ${at - 2} steps`);
  }),
);

test.run();

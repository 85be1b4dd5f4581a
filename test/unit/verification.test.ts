/**
 * `isthmus region check`: a region in every kind of use is consistent; and every corruption, one at a time, is found.
 */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { identityHash } from '../../host/device/identity.js';
import type { Finding } from '../../host/region/check/findings.js';
import { verifyOnce } from '../../host/region/check/verification.js';
import type { RegionView } from '../../host/region/region-view.js';
import {
  type ConstantName,
  constant,
  L,
  MIB,
  openEntry,
  pattern,
  recordHeader,
  Sender,
  Shared,
  TestCore,
} from '../support/core.js';
import { timebox } from '../support/timebox.js';

const SIZE = 4 * MIB;
const CAPACITY = 16_384;
const { HALF_CONSUMER: READER, HALF_PRODUCER: WRITER, KIND_HELD: HELD, KIND_OFFERED: OFFERED, WINDOW } = L;
const file = { boot: new Uint8Array(16).fill(7), dev: 3n, ino: 4n };
const identity = { ...file, hash: identityHash(file) };

/** Offsets in the region that is corrupted. */
interface Scene {
  readonly core: TestCore;
  readonly locked: Set<number>;
  /** First frames: the ring that slot 1 reads and slot 0 writes; memory of slot 0; memory that both slots hold. */
  readonly ring: number;
  readonly memory: number;
  readonly adopted: number;
  /** Positions of the ring: the head, the padding after it, and the record after that. */
  readonly head: number;
  readonly pad: number;
  readonly behind: number;
  readonly tail: number;
}

function attach(core: TestCore, slot: number): void {
  assert.is(core.call.claimSlot(slot, identity.hash), 1);
  const at = core.call.slotAddress(slot);
  core.setU64(at + constant('SLOT_INSTANCE'), 1000n + BigInt(slot));
  core.setU64(at + constant('SLOT_DEV'), identity.dev);
  core.setU64(at + constant('SLOT_INO'), identity.ino);
  core.bytes.set(identity.boot, at + constant('SLOT_BOOT'));
  core.setText(at + constant('SLOT_NAME'), 64, `runtime ${slot}`);
  assert.is(core.call.publishSlot(), 1);
}

const frameAt = (address: number) => (address - WINDOW) / L.FRAME;

/** The writer's end of the ring that the reader has created. */
function write(reader: TestCore, entry: number, writer: TestCore): number {
  reader.call.setNonce(entry, 17, 18);
  const mine = openEntry(writer, CAPACITY);
  const frame = frameAt(reader.call.ringAddress(entry));
  assert.is(writer.call.attachRing(mine, frame, CAPACITY, reader.slot, reader.generation, 17, 18), 0);
  return mine;
}

let made: Scene | undefined;

/** Two processes; rings with and without records, granted memory, runs that one side has released. */
function make(): Scene {
  const shared = new Shared(2, SIZE / MIB, false);
  try {
    const [a, b] = shared.cores as [TestCore, TestCore];
    a.call.format(identity.hash);
    a.bytes.set(pattern(16, 5), constant('HEADER_UUID'));
    a.setText(constant('HEADER_HOST'), 64, 'host');
    a.call.finishFormat();
    attach(a, 0);
    attach(b, 1);
    const reading = openEntry(b, CAPACITY);
    const writing = write(b, reading, a);
    assert.is(
      b.call.attachRing(reading, frameAt(a.call.ringAddress(writing)), CAPACITY, 0, a.generation, 0, 0),
      0,
      'the way back',
    );
    for (const [core, index] of [
      [a, writing],
      [b, reading],
    ] as const) {
      core.call.start(index);
    }
    // Three records of a little less than 4 KiB, one of them read: the next does not fit before the end.
    const send = (length: number) => assert.ok(new Sender(a, writing, pattern(length, length)).go(), `${length} bytes`);
    for (let i = 0; i < 3; i++) send(4000);
    assert.ok(b.call.peek(reading) > 0);
    b.call.release(reading);
    b.call.arm(reading); // Publishes the head.
    send(3000);
    assert.ok(b.call.peek(reading) > 0);
    b.call.release(reading);
    b.call.arm(reading);
    send(3900);
    send(40);
    // Rings without a writer yet, released by their writer, and released by their reader.
    openEntry(a, CAPACITY);
    const left = openEntry(b, CAPACITY);
    a.call.free(write(b, left, a));
    const alone = openEntry(b, CAPACITY);
    write(b, alone, a);
    b.call.free(alone);
    const memory = a.call.takeRun(20_000);
    a.call.grant(memory, 1, 2, 0, 20_000, constant('GRANT_READ'));
    a.call.grant(memory, 3, 4, 100, 200, constant('GRANT_WRITE'));
    const adopted = a.call.takeRun(300_000);
    assert.is(b.call.adopt(adopted, READER, 0, a.generation), 75);
    const core = new TestCore(SIZE);
    core.call.geometry(SIZE);
    core.bytes.set(a.bytes.subarray(WINDOW, WINDOW + SIZE), WINDOW);
    const ring = frameAt(b.call.ringAddress(reading));
    const head = core.u32(WINDOW + ring * L.FRAME + L.RING_HEAD);
    const tail = core.u32(WINDOW + ring * L.FRAME + L.RING_TAIL);
    const kindAt = (position: number) =>
      core.u32(WINDOW + (ring + 1) * L.FRAME + (position & (CAPACITY - 1)) + 4) >>> 24;
    const lengthAt = (position: number) => core.u32(WINDOW + (ring + 1) * L.FRAME + (position & (CAPACITY - 1)));
    let pad = head;
    while (kindAt(pad) !== L.RECORD_PAD) pad += (lengthAt(pad) + 15) & ~7;
    return { core, locked: new Set([0, 1]), ring, memory, adopted, head, pad, behind: CAPACITY, tail };
  } finally {
    shared.close();
  }
}

/** A private copy. */
function scene(): Scene {
  made ??= make();
  const core = new TestCore(SIZE);
  core.call.geometry(SIZE);
  core.bytes.set(made.core.bytes.subarray(WINDOW, WINDOW + SIZE), WINDOW);
  return { ...made, core, locked: new Set(made.locked) };
}

function view({ core, locked }: Scene): RegionView {
  return {
    path: '/dev/shm/test',
    size: SIZE,
    core,
    identity,
    read: (from, length) => Buffer.from(core.bytes.slice(WINDOW + from, WINDOW + from + length)),
    locked: (byte) => locked.has(byte),
  };
}

const lines = (findings: readonly Finding[]) =>
  findings.map(({ severity, where, message }) => `${severity}: ${where}: ${message}`);

// ── Consistent ───────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'a region in every kind of use is consistent, and all of it is counted',
  timebox(10, () => {
    const whole = scene();
    assert.ok(whole.head < whole.pad && whole.pad < whole.behind && whole.behind < whole.tail, 'there is padding');
    const before = whole.core.bytes.slice(WINDOW);
    const { state, counts, findings } = verifyOnce(view(whole));
    assert.equal(lines(findings), []);
    assert.is(state, 'formatted');
    const { call } = whole.core;
    assert.equal(counts?.slots, { total: call.regionSlots.value, alive: 2, unknown: 0, dead: 0 });
    assert.equal(counts?.runs, { total: 8, rings: 5, memory: 2, loose: 1 });
    assert.is(counts?.frames.runs, 6 * 5 + 6 + 75);
    assert.equal(counts?.grants, { total: 2 });
    assert.equal(counts?.records, { total: 4, bytes: 4000 + 3000 + 3900 + 40 + 4 * 8 });
    const { total, tables, free, held, dead, gone } = counts!.extents;
    assert.is(tables + free + held, total);
    assert.is(dead + gone, 0);
    assert.equal(before, whole.core.bytes.slice(WINDOW), 'nothing was written');
  }),
);

test(
  'dead peers and peers that left are no errors',
  timebox(10, () => {
    const dead = scene();
    dead.locked.delete(1);
    const one = verifyOnce(view(dead));
    assert.is(one.findings.length, 1, lines(one.findings).join('\n'));
    assert.match(
      lines(one.findings)[0]!,
      /^note: slot 1: generation 1 is dead: its lock is free; \d+ frames and 4 halves/,
    );
    assert.is(one.counts?.slots.dead, 1);
    assert.ok(one.counts!.extents.dead > 0);

    const declared = scene();
    assert.is(declared.core.call.declareDead(1, 1), 1);
    assert.match(lines(verifyOnce(view(declared)).findings)[0]!, /^note: slot 1: generation 1 was declared dead/);

    // Reclaimed, except what slot 1, which reads a ring of the dead peer, may still adopt.
    const taken = scene();
    taken.core.call.declareDead(0, 1);
    taken.core.call.reclaim(0, 1);
    const kept = verifyOnce(view(taken));
    assert.match(
      lines(kept.findings).join('\n'),
      /^note: slot 0: generation 1 was declared dead; \d+ frames and 3 halves/m,
    );
    assert.is(kept.findings.filter(({ severity }) => severity === 'error').length, 0);
    assert.ok(kept.counts!.extents.dead > 0);

    // Now all of it is reclaimed; runs that others adopted stay.
    taken.core.setU64(taken.core.half(taken.ring, READER), 0n);
    taken.core.call.reclaim(0, 1);
    const { counts, findings } = verifyOnce(view(taken));
    assert.equal(lines(findings), [
      'note: slot 0: is free, but locked: its last owner was declared dead and has not noticed it yet',
      'note: slot 1: keeps 12 frames that are in no run: they come back with its next upkeep',
    ]);
    assert.ok(counts!.extents.gone > 0);

    // Its last step was to free the slot.
    const unswept = scene();
    const { core } = unswept;
    for (let frame = 0; frame < core.frames; frame++) {
      for (const which of [READER, WRITER]) core.setU64(core.half(frame, which), 0n);
    }
    for (const slot of [0, 1]) core.setU64(core.call.slotAddress(slot), 1n << 32n);
    unswept.locked.clear();
    assert.match(
      lines(verifyOnce(view(unswept)).findings).join(),
      /^note: \d+ extents from \d+ on: \d+ frames of processes that have left/,
    );
  }),
);

test(
  'a fenced peer is no error: what it holds is kept for it',
  timebox(10, () => {
    const fenced = scene();
    assert.is(fenced.core.call.fence(1, 1), 1);
    const kept = verifyOnce(view(fenced));
    assert.equal(lines(kept.findings), [
      'note: slot 1: generation 1 is fenced: what it holds is kept for it until it leaves or is declared dead',
    ]);
    assert.equal(kept.counts, verifyOnce(view(scene())).counts, 'it counts as before');

    // Frames in no run: no upkeep of a fenced process gives them back.
    for (const which of [READER, WRITER]) fenced.core.setU64(fenced.core.half(fenced.ring, which), 0n);
    assert.match(
      lines(verifyOnce(view(fenced)).findings).join('\n'),
      /^note: slot 1: keeps \d+ frames that are in no run: they come back when it leaves or is declared dead$/m,
    );

    // A process that is fenced while it attaches has written nothing into its slot yet.
    const early = scene();
    assert.is(early.core.call.claimSlot(2, identity.hash), 1);
    const observer = scene();
    observer.core.bytes.set(early.core.bytes.subarray(WINDOW, WINDOW + SIZE), WINDOW);
    assert.is(observer.core.call.fence(2, 1), 1);
    observer.locked.add(2);
    const { counts, findings } = verifyOnce(view(observer));
    assert.match(lines(findings).join('\n'), /^note: slot 2: generation 1 is fenced: [^\n]*$/);
    assert.is(counts?.slots.unknown, 1);

    // The lock proves the death of a fenced process too.
    const dead = scene();
    dead.core.call.fence(1, 1);
    dead.locked.delete(1);
    const { counts: after, findings: found } = verifyOnce(view(dead));
    assert.is(after?.slots.dead, 1);
    assert.match(lines(found).join('\n'), /^note: slot 1: generation 1 is dead: its lock is free; [^\n]*$/);
  }),
);

test(
  'locks that cannot be tested prove nothing',
  timebox(10, () => {
    const { counts, findings } = verifyOnce({ ...view(scene()), locked: () => undefined });
    assert.equal(lines(findings), []);
    assert.is(counts?.slots.unknown, 2);
    const far = verifyOnce({ ...view(scene()), identity: { ...identity, hash: 1 }, locked: () => false });
    assert.is(far.counts?.slots.unknown, 2);
    assert.equal(lines(far.findings), []);
  }),
);

// ── Corrupted ────────────────────────────────────────────────────────────────────────────────────────────────────────

const u32 = (address: (scene: Scene) => number, value: number) => (scene: Scene) =>
  scene.core.setU32(address(scene), value);
const u8 = (address: (scene: Scene) => number, value: number) => (scene: Scene) => {
  scene.core.bytes[address(scene)] = value;
};
const half =
  (frame: (scene: Scene) => number, which: number, tag: (core: TestCore, old: bigint) => bigint) => (scene: Scene) => {
    const at = scene.core.half(frame(scene), which);
    scene.core.setU64(at, tag(scene.core, scene.core.u64(at)));
  };
const extent =
  (index: (core: TestCore) => number, tag: bigint | ((core: TestCore) => bigint)) =>
  ({ core }: Scene) =>
    core.setU64(core.extent(index(core)), typeof tag === 'bigint' ? tag : tag(core));
const slotAt =
  (slot: number, field: ConstantName) =>
  ({ core }: Scene) =>
    core.call.slotAddress(slot) + constant(field);
const ringAt =
  (offset: number) =>
  ({ ring }: Scene) =>
    WINDOW + ring * L.FRAME + offset;
const recordAt = (scene: Scene, position: number) => WINDOW + (scene.ring + 1) * L.FRAME + (position & (CAPACITY - 1));
const record = (position: (scene: Scene) => number, header: (position: number) => bigint) => (scene: Scene) =>
  scene.core.setU64(recordAt(scene, position(scene)), header(position(scene)));
const grantAt =
  (place: number, field: ConstantName) =>
  ({ memory }: Scene) =>
    WINDOW + memory * L.FRAME + place * constant('GRANT_SIZE') + constant(field);
/** A free extent, and one of slot 0. */
const freeExtent = (core: TestCore) => core.u32(L.HEADER_EXTENTS) - 1;
const extentOf = (frame: (scene: Scene) => number) => (scene: Scene) =>
  Math.floor(frame(scene) / scene.core.call.extentFrames());
const ring = ({ ring }: Scene) => ring;
const memory = ({ memory }: Scene) => memory;
const adopted = ({ adopted }: Scene) => adopted;
const lastFrame = ({ core }: Scene) => core.frames - 1;

const CORRUPTIONS: readonly (readonly [string, (scene: Scene) => void, RegExp])[] = [
  ['the magic', u8(() => L.HEADER_MAGIC, 0x21), /^error: header: it begins with 21/],
  ['the layout version', u32(() => L.HEADER_VERSION, 99), /^error: header: has layout version 99/],
  ['the state', u32(() => L.HEADER_STATE, 7), /^error: header: its header contradicts itself/],
  ['the size', u32(() => L.HEADER_SIZE, 8 * MIB), /^error: header: truncated: 4194304 bytes, its header says 8388608/],
  ['the count of frames', u32(() => L.HEADER_FRAMES, 5), /^error: header: its header contradicts itself/],
  ['the offset of the frame map', u32(() => L.HEADER_MAP_AT, 4096), /^error: header: its header contradicts itself/],
  [
    'the UUID',
    ({ core }) => void core.bytes.fill(0, constant('HEADER_UUID'), constant('HEADER_UUID') + 16),
    /^error: header: its UUID/,
  ],
  [
    'the host name',
    u8(() => constant('HEADER_HOST') + 60, 65),
    /^error: header: its host name has bytes behind its end/,
  ],
  ['reserved bytes of the header', u8(() => WINDOW + 200, 1), /^error: header: its reserved byte 200 is 1/],

  ['the state of a slot', u8(slotAt(1, 'SLOT_WORD'), 9), /^error: slot 1: its state is 9/],
  [
    'the kernel of a slot',
    (s) => u8((at) => slotAt(1, 'SLOT_WORD')(at) + 1, (identity.hash ^ 1) & 0xff)(s),
    /^error: slot 1: its word names kernel/,
  ],
  [
    'the kernel of a free slot',
    u8((s) => slotAt(5, 'SLOT_WORD')(s) + 1, 9),
    /^error: slot 5: is free, and names a kernel \(0x9\)/,
  ],
  [
    'the generation of a slot',
    u32((s) => slotAt(1, 'SLOT_WORD')(s) + 4, 0),
    /^error: slot 1: is taken with generation 0/,
  ],
  [
    'a slot that returns to an old generation',
    u32((s) => slotAt(0, 'SLOT_WORD')(s) + 4, 0x80000002),
    /names slot 0 \(generation 1\), which never existed/,
  ],
  [
    'the boot id',
    u8(slotAt(0, 'SLOT_BOOT'), 99),
    /^error: slot 0: its word names kernel 0x[0-9a-f]+, its boot id and file/,
  ],
  [
    'the same instance twice',
    ({ core }) => core.setU64(core.call.slotAddress(1) + constant('SLOT_INSTANCE'), 1000n),
    /^error: slot 1: has the same instance id as slot 0: 0x3e8/,
  ],
  [
    'no instance',
    ({ core }) => core.setU64(core.call.slotAddress(1) + constant('SLOT_INSTANCE'), 0n),
    /^error: slot 1: is attached without an instance id/,
  ],
  [
    'a name without a terminator',
    ({ core }) =>
      void core.bytes.fill(
        65,
        slotAt(0, 'SLOT_NAME')({ core } as Scene),
        slotAt(0, 'SLOT_NAME')({ core } as Scene) + 64,
      ),
    /^error: slot 0: its name has no end/,
  ],
  ['a name that is not UTF-8', u8(slotAt(0, 'SLOT_NAME'), 0xff), /^error: slot 0: its name is not UTF-8/],
  ['the word sleeping', u32(slotAt(0, 'SLOT_SLEEPING'), 2), /^error: slot 0: its word 'sleeping' is 2/],
  [
    'reserved bytes after the numbers',
    u8((s) => slotAt(0, 'SLOT_HOST')(s) - 1, 1),
    /^error: slot 0: its reserved byte 127/,
  ],
  [
    'reserved bytes after sleeping',
    u8((s) => slotAt(9, 'SLOT_SUMMARY')(s) - 1, 1),
    /^error: slot 9: its reserved byte 383/,
  ],
  [
    'reserved bytes after the summary',
    u8((s) => slotAt(0, 'SLOT_READY')(s) - 1, 1),
    /^error: slot 0: its reserved byte 511/,
  ],

  [
    'the tag of a reserved extent',
    extent(() => 0, 0n),
    /^error: extent 0: lies under header and tables and is not reserved/,
  ],
  [
    'one reserved extent too many',
    extent(freeExtent, 0xffffffffffffffffn),
    /^error: extent \d+: is reserved, and not under/,
  ],
  [
    'an extent of an invalid slot',
    extent(freeExtent, (core) => core.tag(HELD, 0, 900, 1)),
    /^error: extent \d+: belongs to slot 900 \(generation 1\), which never existed/,
  ],
  [
    'an extent of a future generation',
    extent(freeExtent, (core) => core.tag(HELD, 0, 0, 2)),
    /^error: extent \d+: belongs to slot 0 \(generation 2\), which never existed/,
  ],
  [
    'an extent with a count',
    extent(freeExtent, (core) => core.tag(HELD, 3, 0, 1)),
    /^error: extent \d+: its tag is none of an extent/,
  ],
  [
    'an extent marked as offered',
    extent(freeExtent, (core) => core.tag(OFFERED, 0, 0, 1)),
    /^error: extent \d+: its tag is none of an extent/,
  ],
  [
    'an extent freed under a run',
    (s) => s.core.setU64(s.core.extent(extentOf(memory)(s)), 0n),
    /^error: run at frame \d+: has \d+ frames and lies in extent \d+, which has no owner/,
  ],
  [
    'an extent freed under the end of a run',
    (s) => s.core.setU64(s.core.extent(extentOf(adopted)(s) + 2), 0n),
    /^error: run at frame \d+: has 75 frames and lies in extent \d+, which has no owner/,
  ],
  [
    'an extent taken under the end of a run',
    (s) => s.core.setU64(s.core.extent(extentOf(adopted)(s) + 2), s.core.tag(HELD, 0, 1, 1)),
    /has 75 frames and lies in extent \d+, which belongs to slot 1/,
  ],

  [
    'a half without a kind',
    half(ring, WRITER, (_, old) => old & ~0xc0000000n),
    /^error: run at frame \d+: one half is of kind 0/,
  ],
  [
    'a half of the fourth kind',
    half(ring, WRITER, (_, old) => old | 0xc0000000n),
    /^error: run at frame \d+: one half is of kind 3/,
  ],
  ['a run of 0 frames', half(ring, READER, (_, old) => old & ~0xfffffn), /^error: run at frame \d+: has 0 frames/],
  [
    'a run beyond the end',
    half(lastFrame, WRITER, (core) => core.tag(HELD, 2, 0, 1)),
    /^error: run at frame 1023: has 2 frames; 1 are left/,
  ],
  [
    'halves of different lengths',
    half(ring, WRITER, (_, old) => old - 1n),
    /^error: run at frame \d+: its consumer's half has 5 frames, its producer's 4/,
  ],
  [
    'a run within a run',
    half(
      (s) => s.adopted + 20,
      WRITER,
      (core) => core.tag(HELD, 2, 0, 1),
    ),
    /^error: run at frame \d+: begins within the run at frame/,
  ],
  [
    'a run in a free extent',
    half(lastFrame, WRITER, (core) => core.tag(HELD, 1, 0, 1)),
    /^error: run at frame 1023: has 1 frames and lies in extent \d+, which has no owner/,
  ],
  [
    'a run under the tables',
    half(
      () => 1,
      WRITER,
      (core) => core.tag(HELD, 1, 0, 1),
    ),
    /^error: run at frame 1: lies under header and tables/,
  ],
  [
    'a half of a future generation',
    half(adopted, READER, (core) => core.tag(HELD, 75, 1, 2)),
    /^error: run at frame \d+: one half names slot 1 \(generation 2\), which never existed/,
  ],
  [
    'a half of an invalid slot',
    half(adopted, READER, (core) => core.tag(HELD, 75, 77, 1)),
    /^error: run at frame \d+: one half names slot 77/,
  ],
  [
    'a half of a process that has left',
    ({ core }) => core.setU64(core.call.slotAddress(1), 1n << 32n),
    /^error: run at frame \d+: leaked: one half names slot 1 \(generation 1\), which is over/,
  ],
  [
    'an offer by another process than the owner',
    half(memory, READER, (core) => core.tag(OFFERED, 6, 1, 1)),
    /^error: run at frame \d+: slot 1 \(generation 1\) offers it, and its extent belongs to slot 0/,
  ],
  [
    'an offer without its holder',
    half(memory, WRITER, () => 0n),
    /^error: run at frame \d+: slot 0 \(generation 1\) offers one half and does not hold the other/,
  ],
  [
    'two offers',
    half(memory, WRITER, (core) => core.tag(OFFERED, 6, 0, 1)),
    /^error: run at frame \d+: both halves are offered/,
  ],
  [
    'two holders, neither of them the owner',
    half(adopted, WRITER, (core) => core.tag(HELD, 75, 1, 1)),
    /^error: run at frame \d+: both halves are held, and neither by slot 0/,
  ],

  [
    'a capacity that is not a power of two',
    u32(ringAt(L.RING_CAPACITY), 12_288),
    /^error: ring at frame \d+: its capacity is 12288/,
  ],
  ['a capacity of 0', u32(ringAt(L.RING_CAPACITY), 0), /^error: ring at frame \d+: its capacity is 0/],
  [
    'a capacity that does not fit the run',
    u32(ringAt(L.RING_CAPACITY), 32_768),
    /^error: ring at frame \d+: its capacity is 32768, and its run has 5 frames/,
  ],
  ['an invalid ready bit', u32(ringAt(L.RING_READY), 4096), /^error: ring at frame \d+: its ready bit is 4096/],
  [
    'a ready bit of another ring',
    u32(ringAt(L.RING_READY), 1),
    /^error: ring at frame \d+: its ready bit is 1 of slot 1, as that of the ring at/,
  ],
  ['the word armed', u32(ringAt(L.RING_ARMED), 3), /^error: ring at frame \d+: its word 'armed' is 3/],
  [
    'the word receive mode',
    u32(ringAt(L.RING_RECEIVE_MODE), 3),
    /^error: ring at frame \d+: its word 'receive mode' is 3/,
  ],
  [
    'a start that is not aligned',
    u32(ringAt(L.RING_START), 4),
    /^error: ring at frame \d+: its positions are no multiples of 8: start 4/,
  ],
  [
    'a head beyond the tail',
    (s) => s.core.setU32(ringAt(L.RING_HEAD)(s), s.tail + 8),
    /^error: ring at frame \d+: its head is \d+ and its tail \d+: 4294967288 of 16384/,
  ],
  [
    'a tail too far ahead',
    (s) => s.core.setU32(ringAt(L.RING_TAIL)(s), s.head + CAPACITY + 8),
    /^error: ring at frame \d+: its head is \d+ and its tail \d+: 16392 of 16384/,
  ],
  [
    'a tail beyond the records',
    (s) => s.core.setU32(ringAt(L.RING_TAIL)(s), s.tail + 64),
    /^error: ring at frame \d+: its records end at \d+, in front of its tail/,
  ],
  [
    'a tail that lags several commits',
    (s) => s.core.setU32(ringAt(L.RING_TAIL)(s), s.pad),
    /^error: ring at frame \d+: 2 records lie behind its tail/,
  ],
  [
    'a word that is zero among the records',
    record(
      (s) => s.behind,
      () => 0n,
    ),
    /^error: ring at frame \d+: the record at position 16384 \(header 0x0\) is missing/,
  ],
  [
    'a record of an earlier lap',
    record(
      (s) => s.behind,
      (at) => recordHeader(3908, L.RECORD_FIRST, at - CAPACITY),
    ),
    /is of another position/,
  ],
  [
    'a record without a kind',
    record(
      (s) => s.head,
      (at) => recordHeader(4008, 9, at),
    ),
    /is of kind 9/,
  ],
  [
    'a record that is too long',
    record(
      (s) => s.head,
      (at) => recordHeader(4160, L.RECORD_FIRST, at),
    ),
    /has 4160 bytes, at most 4152/,
  ],
  [
    'a record of another length',
    record(
      (s) => s.head,
      (at) => recordHeader(400, L.RECORD_FIRST, at),
    ),
    /is of another position|has \d+ bytes/,
  ],
  [
    'padding that does not reach the end',
    record(
      (s) => s.pad,
      (at) => recordHeader(16, L.RECORD_PAD, at),
    ),
    /is padding of 16 bytes/,
  ],
  [
    'padding at the beginning of the ring',
    record(
      (s) => s.behind,
      (at) => recordHeader(CAPACITY - 8, L.RECORD_PAD, at),
    ),
    /is padding of 16376 bytes/,
  ],
  [
    'a first record without a header',
    record(
      (s) => s.behind,
      (at) => recordHeader(4, L.RECORD_FIRST, at),
    ),
    /begins a message with 4 bytes/,
  ],
  [
    'a message that continues after its end',
    record(
      (s) => s.behind,
      (at) => recordHeader(3908, L.RECORD_MORE, at),
    ),
    /has 3908 bytes of a message of which 0 are to come/,
  ],
  [
    'an incomplete message',
    (s) => s.core.setU32(recordAt(s, s.behind) + 12, 9000),
    /begins a message while 5100 bytes of the one before are to come/,
  ],
  [
    'a message shorter than its record',
    (s) => s.core.setU32(recordAt(s, s.behind) + 12, 10),
    /has 3900 bytes of a message of which 10 are to come/,
  ],
  [
    'records in a ring without a writer',
    half(ring, WRITER, (core) => core.tag(OFFERED, 5, 1, 1)),
    /^error: ring at frame \d+: no process writes it yet, and its positions are/,
  ],

  [
    'a grant beyond the end',
    u32(grantAt(0, 'GRANT_LENGTH'), 30_000),
    /^error: run at frame \d+: grant 0 is of 30000 bytes at 0, and the run has 20480/,
  ],
  [
    'a grant that begins beyond the end',
    u32(grantAt(1, 'GRANT_OFFSET'), 0xffffff00),
    /grant 1 is of 200 bytes at 4294967040/,
  ],
  ['a grant of unknown rights', u32(grantAt(1, 'GRANT_RIGHTS'), 8), /grant 1 gives rights 8/],
  ['a grant of no rights', u32(grantAt(1, 'GRANT_RIGHTS'), 0), /grant 1 gives rights 0/],
  [
    'one token twice',
    (s) => s.core.setU64(grantAt(1, 'GRANT_TOKEN')(s), (2n << 32n) | 1n),
    /grants 0 and 1 have one token/,
  ],
];

for (const [what, corrupt, expected] of CORRUPTIONS) {
  test(
    `corrupted: ${what}`,
    timebox(10, () => {
      const corrupted = scene();
      corrupt(corrupted);
      const { findings } = verifyOnce(view(corrupted));
      const found = lines(findings);
      assert.ok(
        found.some((line) => line.startsWith('error: ') && expected.test(line)),
        `${expected} in\n${found.join('\n')}`,
      );
    }),
  );
}

test(
  'blank, being formatted, and blank while in use',
  timebox(10, () => {
    const blank = scene();
    blank.core.bytes.fill(0, WINDOW, WINDOW + L.FRAME);
    assert.match(
      lines(verifyOnce(view(blank)).findings).join(),
      /^error: header: is blank, but the lock on byte 0 is held/,
    );
    blank.locked.clear();
    assert.match(lines(verifyOnce(view(blank)).findings).join(), /^note: header: blank/);
    blank.core.call.beginFormat(identity.hash);
    assert.match(
      lines(verifyOnce(view(blank)).findings).join(),
      /^note: header: a process began to format it and died/,
    );
    blank.locked.add(constant('LOCK_FORMAT'));
    assert.match(lines(verifyOnce(view(blank)).findings).join(), /^note: header: a process is formatting it/);
  }),
);

test(
  'random contents in all tables',
  timebox(20, () => {
    const garbage = scene();
    garbage.core.bytes.set(pattern(SIZE - L.FRAME, 3), WINDOW + L.FRAME);
    const { findings } = verifyOnce(view(garbage));
    assert.ok(findings.length > 1000, `${findings.length}`);
  }),
);

test.run();

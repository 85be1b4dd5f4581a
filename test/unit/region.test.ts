/** The region as a whole: its geometry, inspection of its header, formatting. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { constant, L, MIB, newCore, Shared, shared, TestCore } from '../support/core.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const seed = testSeed();

/** A window that holds the tables of the largest region. */
const core = new TestCore(16 * MIB);
const { call } = core;
const header = () => ({
  size: Number(core.u64(L.HEADER_SIZE)),
  frame: core.u32(L.HEADER_FRAME),
  frames: core.u32(L.HEADER_FRAMES),
  slots: core.u32(L.HEADER_SLOTS),
  slot: core.u32(L.HEADER_SLOT),
  slotsAt: core.u32(L.HEADER_SLOTS_AT),
  extentsAt: core.u32(L.HEADER_EXTENTS_AT),
  extents: core.u32(L.HEADER_EXTENTS),
  extent: core.u32(L.HEADER_EXTENT),
  mapAt: core.u32(L.HEADER_MAP_AT),
  first: core.u32(L.HEADER_FIRST),
});

test(
  'geometry of every size: tables in order, aligned, not overlapping, all inside',
  timebox(30, () => {
    const most = Math.floor(L.REGION_MAX / MIB);
    assert.is(most, 2046);
    for (let mib = 1; mib <= most; mib++) {
      const size = mib * MIB;
      assert.is(call.geometry(size), 1, `${mib} MiB`);
      assert.is(core.frames, size / 4096);
      // Writing the tables of every size takes long: all small ones, powers of two, and some others.
      if (mib > 40 && mib % 61 && (mib & (mib - 1)) !== 0 && mib !== most) continue;
      call.format(0);
      call.finishFormat();
      assert.is(call.inspect(), L.INSPECT_READY);
      const h = header();
      assert.equal([h.size, h.frame, h.frames, h.slot], [size, 4096, size / 4096, L.SLOT_SIZE]);
      assert.ok(h.slots >= 16 && h.slots <= constant('SLOTS_MAX') && h.slots === core.slots);
      assert.ok(h.slotsAt >= 4096, 'after the header');
      assert.ok(h.extentsAt >= h.slotsAt + h.slots * h.slot, 'extents after slots');
      assert.ok(h.mapAt >= h.extentsAt + h.extents * 8, 'map after extents');
      for (const at of [h.slotsAt, h.extentsAt, h.mapAt]) assert.is(at % 4096, 0);
      const tables = h.mapAt + h.frames * L.HALVES;
      const firstByte = h.first * h.extent * 4096;
      assert.ok(firstByte >= tables && firstByte - tables < h.extent * 4096 + 4096, `${mib} MiB: first extent`);
      assert.ok(h.extent >= 4 && h.extent <= 256 && (h.extent & (h.extent - 1)) === 0);
      assert.is(h.extents * h.extent, h.frames, 'extents cover all frames');
      assert.ok(h.extents >= 64 && h.extents < 2048);
      assert.ok(h.first / h.extents < 0.04, 'overhead');
      // The tags of the extents under the tables are reserved, all others free.
      for (let i = 0; i < h.extents; i++) {
        assert.is(core.u64(core.extent(i)), i < h.first ? 0xffffffffffffffffn : 0n, `${mib} MiB: extent ${i}`);
      }
      assert.is(call.freeFrames(), (h.extents - h.first) * h.extent);
    }
  }),
);

test(
  'invalid sizes are refused, and the geometry stays',
  timebox(5, () => {
    assert.is(call.geometry(2 * MIB), 1);
    for (const size of [
      0,
      1,
      4096,
      MIB - 1,
      MIB - 4096,
      MIB + 1,
      MIB + 4096,
      3 * MIB + 65536,
      2047 * MIB,
      0x80000000,
      0xfff00000,
      0xffffffff,
    ]) {
      assert.is(call.geometry(size), 0, `${size}`);
      assert.is(core.frames, 512);
    }
  }),
);

/** A blank region of 1 MiB. */
function blank(): void {
  core.bytes.fill(0, L.WINDOW, L.WINDOW + 2 * MIB);
  assert.is(call.geometry(MIB), 1);
}

test(
  'blank, being formatted, ready',
  timebox(5, () => {
    blank();
    assert.is(call.inspect(), L.INSPECT_BLANK);
    // The bytes after the header do not matter: they are cleared.
    core.bytes.fill(0xee, L.WINDOW + 4096, L.WINDOW + MIB);
    assert.is(call.inspect(), L.INSPECT_BLANK);
    assert.is(call.formattingKernel(), 0);
    assert.is(call.beginFormat(0xabcdef), 1);
    assert.is(call.inspect(), L.INSPECT_FORMATTING);
    assert.is(call.formattingKernel(), 0xabcdef);
    assert.is(call.beginFormat(0x123456), 0, 'one decides');
    assert.is(call.formattingKernel(), 0xabcdef);
    call.format(0xabcdef);
    assert.is(call.inspect(), L.INSPECT_FORMATTING);
    core.setText(constant('HEADER_HOST'), constant('HEADER_HOST_LENGTH'), 'a-host');
    assert.is(call.inspect(), L.INSPECT_FORMATTING);
    call.finishFormat();
    assert.is(call.inspect(), L.INSPECT_READY);
    assert.is(call.formattingKernel(), 0);
    assert.is(call.beginFormat(1), 0, 'it is formatted already');
    assert.is(call.inspect(), L.INSPECT_READY);

    const { slotsAt, first, extent } = header();
    const tables = core.bytes.slice(L.WINDOW + slotsAt, L.WINDOW + first * extent * 4096);
    for (let i = 0; i < first; i++)
      tables.fill(0, header().extentsAt - slotsAt + i * 8, header().extentsAt - slotsAt + i * 8 + 8);
    assert.ok(
      tables.every((byte) => byte === 0),
      'the tables are cleared',
    );
    assert.is(core.bytes[L.WINDOW + first * extent * 4096], 0xee, 'and nothing after them');
    assert.is(core.bytes[L.WINDOW + MIB], 0);
    for (let slot = 0; slot < core.slots; slot++) assert.is(call.slotState(slot), L.SLOT_FREE);
  }),
);

test(
  'a process takes over an interrupted format',
  timebox(5, () => {
    for (let step = 0; step < 3; step++) {
      blank();
      assert.is(call.beginFormat(1), 1);
      if (step > 0) call.format(1);
      // finishFormat() is two stores: magic, state.
      if (step > 1) core.setU64(L.HEADER_MAGIC, constantMagic);
      assert.is(call.inspect(), L.INSPECT_FORMATTING, `step ${step}`);
      assert.is(call.formattingKernel(), 1);
      call.format(2);
      assert.is(call.inspect(), L.INSPECT_FORMATTING);
      assert.is(call.formattingKernel(), 2);
      call.finishFormat();
      assert.is(call.inspect(), L.INSPECT_READY);
    }
  }),
);

const constantMagic = Buffer.from('ISTHMUS\0', 'latin1').readBigUInt64LE();

function formatted(): void {
  blank();
  call.format(0);
  call.finishFormat();
}

test(
  'foreign bytes: the C plugin, and anything else that is neither zeros nor the magic',
  timebox(5, () => {
    blank();
    core.bytes[L.WINDOW] = 0xcb;
    assert.is(call.inspect(), L.INSPECT_FOREIGN);
    for (let at = 0; at < 4096; at++) {
      blank();
      core.bytes[L.WINDOW + at] = 0x80;
      assert.is(call.inspect(), L.INSPECT_FOREIGN, `byte ${at}`);
    }
    formatted();
    core.bytes[L.WINDOW]! ^= 1;
    assert.is(call.inspect(), L.INSPECT_FOREIGN);
    assert.is(call.beginFormat(0), 0);
  }),
);

test(
  'another layout version, another size, and every field that contradicts the size',
  timebox(5, () => {
    for (const version of [0, L.LAYOUT_VERSION - 1, L.LAYOUT_VERSION + 1, 0xffffffff]) {
      formatted();
      core.setU32(L.HEADER_VERSION, version);
      assert.is(call.inspect(), L.INSPECT_VERSION);
      // The rest of its header may be entirely different.
      core.bytes.fill(0xff, L.HEADER_SIZE, L.WINDOW + 4096);
      assert.is(call.inspect(), L.INSPECT_VERSION);
    }
    for (const size of [0n, BigInt(2 * MIB), BigInt(MIB) + (1n << 32n)]) {
      formatted();
      core.setU64(L.HEADER_SIZE, size);
      assert.is(call.inspect(), L.INSPECT_SIZE);
    }
    formatted();
    assert.is(call.geometry(2 * MIB), 1);
    assert.is(call.inspect(), L.INSPECT_SIZE, 'truncated or extended');
    for (let bit = 0; bit < (L.HEADER_FIRST + 4 - L.HEADER_FRAME) * 8; bit++) {
      formatted();
      core.bytes[L.HEADER_FRAME + (bit >> 3)]! ^= 1 << (bit & 7);
      assert.is(call.inspect(), L.INSPECT_CORRUPT, `bit ${bit}`);
    }
    for (const state of [0, 3, 0xff, 0x102, 0xffffff00]) {
      formatted();
      core.setU32(L.HEADER_STATE, state);
      assert.is(call.inspect(), L.INSPECT_CORRUPT, `state ${state}`);
    }
    formatted();
    core.bytes.fill(0xff, constant('HEADER_UUID'), L.WINDOW + 4096);
    assert.is(call.inspect(), L.INSPECT_READY, 'UUID and name do not matter');
  }),
);

test(
  'any bytes in the header: inspect() ends, returns a known result, and changes nothing',
  timebox(10, () => {
    const random = seeded(seed);
    const known = new Set<number>();
    for (let i = 0; i < 20_000; i++) {
      if (i % 8 === 0) formatted();
      const at = L.WINDOW + (random(2) ? random(64) : random(4096));
      core.bytes[at] = random(3) ? random(256) : 0;
      const before = core.u64(L.HEADER_STATE - 4);
      known.add(call.inspect());
      assert.is(core.u64(L.HEADER_STATE - 4), before);
    }
    for (const answer of known) assert.ok(answer >= 0 && answer <= L.INSPECT_SIZE);
    assert.ok(known.size >= 5);
  }),
);

test(
  'another view of the same pages sees the same region',
  timebox(5, () => {
    shared(2, 2, (one, two) => {
      assert.is(two.call.inspect(), L.INSPECT_READY);
      assert.is(two.frames, one.frames);
      assert.is(two.call.slotState(0), L.SLOT_ATTACHED);
      assert.is(two.call.slotGeneration(0), one.generation);
      assert.is(two.call.freeFrames(), one.call.freeFrames());
    });
    const region = new Shared(3, 1, false);
    try {
      const [one, two, three] = region.cores as [TestCore, TestCore, TestCore];
      assert.equal(
        [two, three].map((view) => view.call.beginFormat(view === two ? 2 : 3)),
        [1, 0],
      );
      assert.is(one.call.formattingKernel(), 2);
      two.call.format(2);
      assert.is(three.call.inspect(), L.INSPECT_FORMATTING);
      two.call.finishFormat();
      for (const view of region.cores) assert.is(view.call.inspect(), L.INSPECT_READY);
    } finally {
      region.close();
    }
  }),
);

test(
  'the private core: formatted, in slot 0, all frames free',
  timebox(5, () => {
    const fresh = newCore(4);
    assert.is(fresh.call.inspect(), L.INSPECT_READY);
    assert.is(fresh.call.slotState(0), L.SLOT_ATTACHED);
    assert.is(fresh.freeFrames(), fresh.unclaimed());
    assert.equal(fresh.tags(), []);
  }),
);

test.run();

/**
 * Frames of 4 KiB: extents that a process takes from the region, runs that it cuts from them, and the holders of a run.
 *
 * An extent belongs to the (slot, generation) in its tag. One compare-and-swap takes it, one gives it back; a process
 * that dies between any two instructions leaves a tag that names it. Which frames of an extent are in use is recorded
 * in the owner's private memory (OWNED, USED), so a peer that corrupts the tables cannot cause a frame to be handed out
 * twice.
 *
 * A run has two halves in the frame map, at its first frame: the consumer's (it reads) and the producer's (it writes).
 * The owner holds one half and offers the other; the other side adopts the offer. The frames are free again when both
 * halves are clear. Each side clears its own half after its last access. The halves of a dead peer may be cleared by
 * any process: it compares the whole tag, and generations are never used twice, so any number of reclaimers do no harm.
 * Memory that a dead peer offered for reading stays while a live peer reads a ring that the dead peer wrote (reclaim).
 */
import {
  BITMAP,
  FRAME_SHIFT,
  HALF_CONSUMER,
  HALF_PRODUCER,
  HALVES,
  HEADS,
  KIND_HELD,
  KIND_OFFERED,
  OWNED,
  PENDING,
  TAG_RESERVED,
  USED,
  WINDOW,
} from './layout';
import { alive, freeDead, freeSlot, generation, holdsSlot, ownsFrames, slot } from './peers';
import { extentCount, extentShift, extentsAt, firstExtent, frames, mapAt, slots } from './region';

// @ts-ignore: decorator
@inline
function tagOf(kind: u32, slot: u32, generation: u32, count: u32): u64 {
  return ((<u64>generation) << 32) | <u64>((kind << 30) | (slot << 20) | count);
}

// @ts-ignore: decorator
@inline
function tagSlot(tag: u64): u32 {
  return (<u32>tag >> 20) & 0x3ff;
}

// @ts-ignore: decorator
@inline
function tagKind(tag: u64): u32 {
  return <u32>tag >> 30;
}

// @ts-ignore: decorator
@inline
function tagCount(tag: u64): u32 {
  return <u32>tag & 0xfffff;
}

/** Whether the tag, of any kind, names this slot and generation. */
// @ts-ignore: decorator
@inline
function belongsTo(tag: u64, slot: u32, generation: u32): bool {
  return tag != 0 && tag != TAG_RESERVED && tagSlot(tag) == slot && <u32>(tag >> 32) == generation;
}

// @ts-ignore: decorator
@inline
function extentWord(extent: u32): usize {
  return WINDOW + extentsAt + (extent << 3);
}

// @ts-ignore: decorator
@inline
function half(frame: u32, which: u32): usize {
  return WINDOW + mapAt + frame * HALVES + which;
}

// @ts-ignore: decorator
@inline
function other(which: u32): u32 {
  return which ^ HALF_PRODUCER;
}

/** Address of the first byte of a frame. */
// @ts-ignore: decorator
@inline
export function addressOf(frame: u32): u32 {
  return WINDOW + (frame << FRAME_SHIFT);
}

/** Spare frames (in extents of a process, in none of its runs) are at most this part of all frames: frames >> this. */
const SPARE_SHIFT: u32 = 4;

/** All own extents lie in [firstOwned, ownedEnd): searches of the bitmaps are limited to this range. */
let firstOwned: u32 = 0xffffffff;
let ownedEnd: u32 = 0;
/** Number of runs in PENDING. */
let pending: u32 = 0;
/** Frames of the own extents, and those of them that are in runs. */
let owned: u32 = 0;
let used: u32 = 0;

// ─── bitmaps: one bit for each frame, private ────────────────────────────────────────────────────────────────────────

function bit(map: usize, frame: u32): bool {
  return (load<u8>(map + (frame >> 3)) & (1 << (<u8>(frame & 7)))) != 0;
}

// @ts-ignore: decorator
@inline
function markOne(map: usize, frame: u32, on: bool): void {
  const at = map + (frame >> 3);
  const m: u8 = 1 << (<u8>(frame & 7));
  store<u8>(at, on ? load<u8>(at) | m : load<u8>(at) & ~m);
}

function mark(map: usize, from: u32, count: u32, on: bool): void {
  let i = from;
  const end = from + count;
  for (; i < end && (i & 7) != 0; ++i) markOne(map, i, on);
  // For so few bytes the call of memory.fill() costs more than the stores.
  for (; i + 8 <= end; i += 8) store<u8>(map + (i >> 3), on ? 0xff : 0);
  for (; i < end; ++i) markOne(map, i, on);
}

function anyUsed(from: u32, count: u32): bool {
  for (let i = from, end = from + count; i < end; ++i) {
    // Whole bytes of unused frames are skipped at once.
    if ((i & 7) == 0 && end - i >= 8 && load<u8>(USED + (i >> 3)) == 0) i += 7;
    else if (bit(USED, i)) return true;
  }
  return false;
}

/** First of `count` consecutive own frames that are in no run; 0 if there are none (frame 0 is the header). */
function findFree(count: u32): u32 {
  if (firstOwned >= ownedEnd) return 0;
  let run: u32 = 0;
  for (let base = (firstOwned << extentShift) & ~63, end = ownedEnd << extentShift; base < end; base += 64) {
    const at = base >> 3;
    const free = load<u64>(OWNED + at) & ~load<u64>(USED + at);
    const begins = <u32>ctz(~free);
    if (run + begins >= count) return base - run;
    // Inside this word.
    if (count < 64 && free != 0) {
      let row: u32 = 0;
      let rest = free;
      for (let i: u32 = 0; i < 64; ++i, rest >>= 1) {
        row = rest & 1 ? row + 1 : 0;
        if (row == count) return base + i + 1 - count;
      }
    }
    run = begins == 64 ? run + 64 : <u32>clz(~free);
  }
  return 0;
}

// ─── extents ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Find `count` consecutive frames, in free extents, unused in own extents, or both, and take those extents that are not
 * own yet.
 * @returns the first frame, or 0 if there are not so many
 */
function claimRow(count: u32): u32 {
  const each: u32 = 1 << extentShift;
  let row: u32 = 0;
  for (let extent = firstExtent; extent < extentCount; ++extent) {
    const from = extent << extentShift;
    if (bit(OWNED, from)) {
      // findFree() has searched inside own extents; here a row only ends, begins or passes through.
      let begins: u32 = 0;
      while (begins < each && !bit(USED, from + begins)) ++begins;
      if (row + begins >= count) {
        if (claimExtents(from - row, count)) return from - row;
        row = 0;
      }
      if (begins == each) {
        row += each;
        continue;
      }
      row = 0;
      while (!bit(USED, from + each - 1 - row)) ++row;
    } else if (atomic.load<u64>(extentWord(extent)) == 0) {
      row += each;
      if (row < count) continue;
      if (claimExtents(from + each - row, count)) return from + each - row;
      row = 0;
    } else {
      row = 0;
    }
  }
  return 0;
}

/** Take the extents under these frames that are not own yet. @returns false if a peer was faster; then none is taken */
function claimExtents(frame: u32, count: u32): bool {
  const mine = tagOf(KIND_HELD, slot, generation, 0);
  const first = frame >> extentShift;
  const last = (frame + count - 1) >> extentShift;
  let extent = first;
  for (; extent <= last; ++extent) {
    if (bit(OWNED, extent << extentShift)) continue;
    if (atomic.cmpxchg<u64>(extentWord(extent), 0, mine) != 0) break;
    mark(OWNED, extent << extentShift, 1 << extentShift, true);
    owned += 1 << extentShift;
    firstOwned = min<u32>(firstOwned, extent);
    ownedEnd = max<u32>(ownedEnd, extent + 1);
  }
  if (extent > last) return true;
  // Undo: extents with own runs in them stay, those just taken go back.
  returnExtents(first << extentShift, (extent - first) << extentShift);
  return false;
}

/** Give back the own extents under these frames that hold no run any more. */
function returnExtents(frame: u32, count: u32): void {
  if (count == 0) return;
  const mine = tagOf(KIND_HELD, slot, generation, 0);
  const last = (frame + count - 1) >> extentShift;
  for (let extent = frame >> extentShift; extent <= last; ++extent) {
    const from = extent << extentShift;
    if (!bit(OWNED, from) || anyUsed(from, 1 << extentShift)) continue;
    mark(OWNED, from, 1 << extentShift, false);
    owned -= 1 << extentShift;
    atomic.cmpxchg<u64>(extentWord(extent), mine, 0);
  }
  while (firstOwned < ownedEnd && !bit(OWNED, firstOwned << extentShift)) ++firstOwned;
  while (firstOwned < ownedEnd && !bit(OWNED, (ownedEnd - 1) << extentShift)) --ownedEnd;
}

// ─── runs ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Allocate a run of `count` frames, hold its half `which` and offer the other half. (halves.pml: take)
 * @returns its first frame, or 0 if the region has no room for the run
 */
export function take(count: u32, which: u32): u32 {
  if (count == 0 || count >= frames || !holdsSlot()) return 0;
  let frame = findFree(count);
  if (frame == 0) {
    collect();
    frame = findFree(count);
  }
  if (frame == 0) frame = claimRow(count);
  if (frame == 0) {
    // A peer may have died after leaving, before it swept its extents.
    sweep();
    frame = claimRow(count);
    if (frame == 0) return 0;
  }
  mark(USED, frame, count, true);
  mark(HEADS, frame, 1, true);
  used += count;
  atomic.store<u64>(half(frame, other(which)), tagOf(KIND_OFFERED, slot, generation, count));
  atomic.store<u64>(half(frame, which), tagOf(KIND_HELD, slot, generation, count));
  return frame;
}

/** @returns frames of the run whose half `which` is offered by (`ownerSlot`, `ownerGeneration`), or 0: no such offer */
export function offered(frame: u32, which: u32, ownerSlot: u32, ownerGeneration: u32): u32 {
  if (frame < firstExtent << extentShift || frame >= frames || ownerSlot >= slots) return 0;
  const owner = atomic.load<u64>(half(frame, other(which)));
  const count = tagCount(owner);
  if (count == 0 || count > frames - frame) return 0;
  if (owner != tagOf(KIND_HELD, ownerSlot, ownerGeneration, count)) return 0;
  return atomic.load<u64>(half(frame, which)) == tagOf(KIND_OFFERED, ownerSlot, ownerGeneration, count) ? count : 0;
}

/**
 * Adopt the half `which` of a run that (`ownerSlot`, `ownerGeneration`) offers. (halves.pml: offered, adopt)
 * @returns the length of the run in frames, or 0 if there is no such offer
 */
export function adopt(frame: u32, which: u32, ownerSlot: u32, ownerGeneration: u32): u32 {
  const count = offered(frame, which, ownerSlot, ownerGeneration);
  if (count == 0) return 0;
  const offer = tagOf(KIND_OFFERED, ownerSlot, ownerGeneration, count);
  if (atomic.cmpxchg<u64>(half(frame, which), offer, tagOf(KIND_HELD, slot, generation, count)) != offer) return 0;
  return count;
}

/**
 * Give back an own run, after the last access to it. If the other half was not adopted, the frames are free at once;
 * else collect() frees them after the peer has released its half. (halves.pml: give_back, free_run)
 * @returns whether no peer had adopted it
 */
export function giveBack(frame: u32, count: u32, which: u32): bool {
  return giveBackHalf(frame, count, which, false);
}

/** As giveBack(), for a run that is likely to be needed again soon: its extents are kept as spare ones until trim(). */
export function giveBackSpare(frame: u32, count: u32, which: u32): bool {
  return giveBackHalf(frame, count, which, true);
}

function giveBackHalf(frame: u32, count: u32, which: u32, keep: bool): bool {
  // Compare the whole tag: if this process was declared dead, the frames may belong to another by now.
  atomic.cmpxchg<u64>(half(frame, which), tagOf(KIND_HELD, slot, generation, count), 0);
  const offer = tagOf(KIND_OFFERED, slot, generation, count);
  const rest = atomic.cmpxchg<u64>(half(frame, other(which)), offer, 0);
  if (rest == offer || rest == 0) freeRun(frame, count, keep);
  else {
    mark(PENDING, frame, 1, true);
    ++pending;
  }
  return rest == offer;
}

function freeRun(frame: u32, count: u32, keep: bool): void {
  mark(HEADS, frame, 1, false);
  mark(USED, frame, count, false);
  used -= count;
  if (!keep || owned - used > frames >> SPARE_SHIFT) returnExtents(frame, count);
}

/** Give back all own extents that hold no run. */
export function trim(): void {
  collect();
  if (owned != used) returnExtents(firstOwned << extentShift, (ownedEnd - firstOwned) << extentShift);
}

/** Release an adopted half of a peer's run, after the last access to it. (halves.pml: let_go) */
export function letGo(frame: u32, which: u32, count: u32): void {
  const mine = tagOf(KIND_HELD, slot, generation, count);
  if (atomic.cmpxchg<u64>(half(frame, which), mine, 0) != mine) return;
  // If the owner is gone, no other process will free the extents.
  const owner = atomic.load<u64>(extentWord(frame >> extentShift));
  if (owner != 0 && ownsFrames(tagSlot(owner), <u32>(owner >> 32))) return;
  const last = (frame + count - 1) >> extentShift;
  for (let extent = frame >> extentShift; extent <= last; ++extent) sweepExtent(extent);
}

/** Free the own runs that were given back and whose other half has been cleared since. (halves.pml: collect) */
export function collect(): void {
  if (pending == 0) return;
  for (let base: u32 = 0; base < frames; base += 64) {
    let heads = load<u64>(PENDING + (base >> 3));
    while (heads != 0) {
      const frame = base + <u32>ctz(heads);
      heads &= heads - 1;
      if (atomic.load<u64>(half(frame, HALF_CONSUMER)) != 0 || atomic.load<u64>(half(frame, HALF_PRODUCER)) != 0)
        continue;
      // The length comes from the private bitmaps: peers write to the map.
      let count: u32 = 1;
      while (frame + count < frames && bit(USED, frame + count) && !bit(HEADS, frame + count)) ++count;
      mark(PENDING, frame, 1, false);
      --pending;
      freeRun(frame, count, false);
    }
  }
}

/**
 * Release everything that this process holds, and its slot. (halves.pml: leave) Runs of which peers still hold a half
 * are freed when the last half is released.
 */
export function leave(): void {
  for (let frame: u32 = 0; frame < frames; ++frame) clearHalves(frame, slot, generation);
  memory.fill(OWNED, 0, BITMAP * 4);
  firstOwned = 0xffffffff;
  ownedEnd = 0;
  pending = 0;
  owned = 0;
  used = 0;
  freeSlot();
  sweep();
}

// ─── peers that died or left ─────────────────────────────────────────────────────────────────────────────────────────

/** halves.pml: clear_halves. */
function clearHalves(frame: u32, ofSlot: u32, ofGeneration: u32): void {
  for (let which: u32 = 0; which < HALVES; which += HALF_PRODUCER) {
    const tag = atomic.load<u64>(half(frame, which));
    if (belongsTo(tag, ofSlot, ofGeneration)) atomic.cmpxchg<u64>(half(frame, which), tag, 0);
  }
}

/**
 * Free an extent whose owner is gone, if no half in it is held any more. No process can adopt one meanwhile: no offer
 * is left. (halves.pml: sweep)
 */
function sweepExtent(extent: u32): void {
  const tag = atomic.load<u64>(extentWord(extent));
  if (tag == 0 || tag == TAG_RESERVED || ownsFrames(tagSlot(tag), <u32>(tag >> 32))) return;
  const from = extent << extentShift;
  const end = min<u32>(from + (1 << extentShift), frames);
  for (let frame = from; frame < end; ++frame) {
    if (atomic.load<u64>(half(frame, HALF_CONSUMER)) != 0 || atomic.load<u64>(half(frame, HALF_PRODUCER)) != 0) return;
  }
  // A run that begins in an earlier extent may reach into this one, and its halves lie there.
  for (let frame = from; frame > 0; ) {
    --frame;
    const reader = atomic.load<u64>(half(frame, HALF_CONSUMER));
    const tag2 = reader != 0 ? reader : atomic.load<u64>(half(frame, HALF_PRODUCER));
    if (tag2 == 0) {
      if ((frame & ((1 << extentShift) - 1)) == 0 && atomic.load<u64>(extentWord(frame >> extentShift)) != tag) break;
      continue;
    }
    if (tagCount(tag2) > from - frame) return;
    break;
  }
  atomic.cmpxchg<u64>(extentWord(extent), tag, 0);
}

/** Whether the run is a ring that the dead peer wrote and that a live peer reads. */
function isReadRing(frame: u32, ofSlot: u32, ofGeneration: u32): bool {
  const writer = atomic.load<u64>(half(frame, HALF_PRODUCER));
  if (!belongsTo(writer, ofSlot, ofGeneration) || tagKind(writer) != KIND_HELD) return false;
  // The extent of a ring belongs to its reader. A run in an extent of the dead peer is memory that a reader has
  // adopted.
  if (belongsTo(atomic.load<u64>(extentWord(frame >> extentShift)), ofSlot, ofGeneration)) return false;
  const reader = atomic.load<u64>(half(frame, HALF_CONSUMER));
  return reader != 0 && tagKind(reader) == KIND_HELD && alive(tagSlot(reader), <u32>(reader >> 32));
}

/** Whether the run is memory of the dead peer that a reader may still adopt. */
function isOfferedToRead(frame: u32, ofSlot: u32, ofGeneration: u32): bool {
  const writer = atomic.load<u64>(half(frame, HALF_PRODUCER));
  if (!belongsTo(writer, ofSlot, ofGeneration) || tagKind(writer) != KIND_HELD) return false;
  const offer = atomic.load<u64>(half(frame, HALF_CONSUMER));
  return belongsTo(offer, ofSlot, ofGeneration) && tagKind(offer) == KIND_OFFERED;
}

/**
 * Clear every half that a dead peer held or offered, free the extents in which no other half is held, and free its
 * slot. (halves.pml: declare_dead)
 *
 * While a live peer reads a ring that the dead peer wrote, records committed there may announce memory that the reader
 * has yet to adopt. That memory stays, and so do the slot and the ring: they tell a later reclaimer that work is left.
 */
export function reclaim(ofSlot: u32, ofGeneration: u32): void {
  let read = false;
  for (let frame: u32 = 0; frame < frames; ++frame) {
    if (isReadRing(frame, ofSlot, ofGeneration)) read = true;
    else if (!isOfferedToRead(frame, ofSlot, ofGeneration)) clearHalves(frame, ofSlot, ofGeneration);
  }
  if (!read) for (let frame: u32 = 0; frame < frames; ++frame) clearHalves(frame, ofSlot, ofGeneration);
  sweep();
  if (!read) freeDead(ofSlot, ofGeneration);
}

/** Free all extents whose owner is gone and in which no half is held. */
export function sweep(): void {
  for (let extent = firstExtent; extent < extentCount; ++extent) sweepExtent(extent);
}

// ─── for inspection: works on a copy of the tables, without a slot ───────────────────────────────────────────────────

/** Bytes of header and tables: all that lies before the first frame that can be taken. */
export function tableBytes(): u32 {
  return firstExtent << (extentShift + FRAME_SHIFT);
}

export function extentFrames(): u32 {
  return 1 << extentShift;
}

/** @returns 0: free; 1: under header and tables; 2: taken by extentSlot() */
export function extentUse(extent: u32): u32 {
  const tag = extent < extentCount ? atomic.load<u64>(extentWord(extent)) : 0;
  return tag == 0 ? 0 : tag == TAG_RESERVED ? 1 : 2;
}

export function extentSlot(extent: u32): u32 {
  return extent < extentCount ? tagSlot(atomic.load<u64>(extentWord(extent))) : 0;
}

export function extentGeneration(extent: u32): u32 {
  return extent < extentCount ? <u32>(atomic.load<u64>(extentWord(extent)) >> 32) : 0;
}

/** Whether the tag of a taken extent has the form that claimExtents() writes, whatever owner it names. */
export function extentTagValid(extent: u32): bool {
  if (extent >= extentCount) return false;
  const tag = atomic.load<u64>(extentWord(extent));
  return tagKind(tag) == KIND_HELD && tagCount(tag) == 0;
}

/** Whether this half of the run that begins at the frame is clear. */
export function halfFree(frame: u32, which: u32): bool {
  return frame >= frames || atomic.load<u64>(half(frame, which)) == 0;
}

/** @returns KIND_… of one half of the run that begins at the frame, or 0 if the half is clear */
export function halfKind(frame: u32, which: u32): u32 {
  return frame < frames ? <u32>atomic.load<u64>(half(frame, which)) >> 30 : 0;
}

export function halfSlot(frame: u32, which: u32): u32 {
  return frame < frames ? tagSlot(atomic.load<u64>(half(frame, which))) : 0;
}

export function halfGeneration(frame: u32, which: u32): u32 {
  return frame < frames ? <u32>(atomic.load<u64>(half(frame, which)) >> 32) : 0;
}

export function halfFrames(frame: u32, which: u32): u32 {
  return frame < frames ? tagCount(atomic.load<u64>(half(frame, which))) : 0;
}

// ─── counting ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Frames that can be allocated: those of free extents, and own frames in no run. */
export function freeFrames(): u32 {
  let count: u32 = 0;
  for (let extent = firstExtent; extent < extentCount; ++extent) {
    const from = extent << extentShift;
    if (bit(OWNED, from)) {
      for (let i: u32 = 0, n: u32 = 1 << extentShift; i < n; ++i) if (!bit(USED, from + i)) ++count;
    } else if (atomic.load<u64>(extentWord(extent)) == 0) {
      count += 1 << extentShift;
    }
  }
  return count;
}

/**
 * Frames of 4 KiB: extents that a process takes from the region, runs that it cuts from them, and who holds a run.
 *
 * An extent belongs to the (slot, generation) in its tag: one compare-and-swap takes it, one gives it back, and a
 * process that dies between any two instructions leaves a tag that says whose it was. Which frames of an extent are in
 * use is its owner's private business (OWNED, USED), so a peer that scribbles over the tables cannot make us hand out a
 * frame twice.
 *
 * A run has two halves in the frame map, at its first frame: the consumer's (it reads) and the producer's (it writes).
 * Its owner holds one and offers the other; the other side adopts the offer. Frames are free again when both are gone.
 * Each side clears its own half after its last access. For the dead, anybody may clear: it compares the whole tag, and
 * generations are never used twice, so any number of reclaimers do no harm. What a dead one offered to read stays as long
 * as somebody alive reads a ring that it wrote (reclaim).
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
import { alive, freeDead, freeSlot, generation, holdsSlot, keeps, slot } from './peers';
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

/** Whether the tag names this slot and generation, in whatever kind. */
// @ts-ignore: decorator
@inline
function names(tag: u64, slot: u32, generation: u32): bool {
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

/** A process keeps at most this part of the frames in extents that no run of its lies in. */
const SPARE_SHIFT: u32 = 4;

/** Between these lie all extents that are ours: so much of the bitmaps is looked through. */
let lowest: u32 = 0xffffffff;
let behind: u32 = 0;
/** Runs in PENDING. */
let pending: u32 = 0;
/** Frames of our extents, and those of them that are in runs. */
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
  // memory.fill() costs more than what it would do here.
  for (; i + 8 <= end; i += 8) store<u8>(map + (i >> 3), on ? 0xff : 0);
  for (; i < end; ++i) markOne(map, i, on);
}

function anyUsed(from: u32, count: u32): bool {
  for (let i = from, end = from + count; i < end; ++i) {
    // A byte at a time where nothing of it is used.
    if ((i & 7) == 0 && end - i >= 8 && load<u8>(USED + (i >> 3)) == 0) i += 7;
    else if (bit(USED, i)) return true;
  }
  return false;
}

/** First of `count` frames in a row that are ours and in no run; 0 if there are none (frame 0 is the header). */
function findFree(count: u32): u32 {
  if (lowest >= behind) return 0;
  let run: u32 = 0;
  for (let base = (lowest << extentShift) & ~63, end = behind << extentShift; base < end; base += 64) {
    const at = base >> 3;
    const free = load<u64>(OWNED + at) & ~load<u64>(USED + at);
    const begins = <u32>ctz(~free);
    if (run + begins >= count) return base - run;
    // Within the word.
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
 * Find `count` frames in a row, in free extents, in no run of ours in extents that we have, or in both, and take the
 * extents that are not ours yet.
 * @returns the first of them, or 0 if there are not so many
 */
function claimRow(count: u32): u32 {
  const each: u32 = 1 << extentShift;
  let row: u32 = 0;
  for (let extent = firstExtent; extent < extentCount; ++extent) {
    const from = extent << extentShift;
    if (bit(OWNED, from)) {
      // A row within extents of ours has been looked for: this one ends or begins here, or goes on.
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

/** Take those extents under the frames that are not ours. @returns false: somebody was faster, and nothing is taken */
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
    lowest = min<u32>(lowest, extent);
    behind = max<u32>(behind, extent + 1);
  }
  if (extent > last) return true;
  // Ours before, and in use by runs of ours, or just taken: the latter go.
  returnExtents(first << extentShift, (extent - first) << extentShift);
  return false;
}

/** Give back those of our extents in the range of frames that hold no run any more. */
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
  while (lowest < behind && !bit(OWNED, lowest << extentShift)) ++lowest;
  while (lowest < behind && !bit(OWNED, (behind - 1) << extentShift)) --behind;
}

// ─── runs ────────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Take a run of `count` frames as the side `which`, and offer its other half. (halves.pml: take)
 * @returns its first frame, or 0 if the region has no such run
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
    // Somebody may have died between leaving and sweeping.
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

/** Frames of the run of which (`ownerSlot`, `ownerGeneration`) offers the half `which`, or 0 if there is no such offer. */
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
 * @returns its frames, or 0 if there is no such offer
 */
export function adopt(frame: u32, which: u32, ownerSlot: u32, ownerGeneration: u32): u32 {
  const count = offered(frame, which, ownerSlot, ownerGeneration);
  if (count == 0) return 0;
  const offer = tagOf(KIND_OFFERED, ownerSlot, ownerGeneration, count);
  if (atomic.cmpxchg<u64>(half(frame, which), offer, tagOf(KIND_HELD, slot, generation, count)) != offer) return 0;
  return count;
}

/**
 * Our last access to a run of our own is over. Its frames are free at once if nobody adopted the other half, else when
 * that is let go of and collect() comes by. (halves.pml: give_back, free_run)
 * @returns whether nobody had adopted it
 */
export function giveBack(frame: u32, count: u32, which: u32): bool {
  return putBack(frame, count, which, false);
}

/** As giveBack(), of a run that is likely to be taken again soon: its extents stay ours, as spare ones, until trim(). */
export function giveBackSpare(frame: u32, count: u32, which: u32): bool {
  return putBack(frame, count, which, true);
}

function putBack(frame: u32, count: u32, which: u32, keep: bool): bool {
  // The whole tag is compared: were we declared dead, the frames may be somebody else's by now.
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

/** Give back all extents that no run lies in. */
export function trim(): void {
  collect();
  if (owned != used) returnExtents(lowest << extentShift, (behind - lowest) << extentShift);
}

/** Our last access to a run of somebody else is over. (halves.pml: let_go) */
export function letGo(frame: u32, which: u32, count: u32): void {
  const mine = tagOf(KIND_HELD, slot, generation, count);
  if (atomic.cmpxchg<u64>(half(frame, which), mine, 0) != mine) return;
  // Its owner may be gone already, and then nobody else comes by.
  const owner = atomic.load<u64>(extentWord(frame >> extentShift));
  if (owner != 0 && keeps(tagSlot(owner), <u32>(owner >> 32))) return;
  const last = (frame + count - 1) >> extentShift;
  for (let extent = frame >> extentShift; extent <= last; ++extent) sweepExtent(extent);
}

/** Free those runs that we gave back and whose other half is gone by now. (halves.pml: collect) */
export function collect(): void {
  if (pending == 0) return;
  for (let base: u32 = 0; base < frames; base += 64) {
    let heads = load<u64>(PENDING + (base >> 3));
    while (heads != 0) {
      const frame = base + <u32>ctz(heads);
      heads &= heads - 1;
      if (atomic.load<u64>(half(frame, HALF_CONSUMER)) != 0 || atomic.load<u64>(half(frame, HALF_PRODUCER)) != 0)
        continue;
      // The length comes from our own books; the map is written by others too.
      let count: u32 = 1;
      while (frame + count < frames && bit(USED, frame + count) && !bit(HEADS, frame + count)) ++count;
      mark(PENDING, frame, 1, false);
      --pending;
      freeRun(frame, count, false);
    }
  }
}

/** Let go of all that is ours, and of our slot (halves.pml: leave). What others still hold in our extents frees itself with their last half. */
export function leave(): void {
  for (let frame: u32 = 0; frame < frames; ++frame) clearHalves(frame, slot, generation);
  memory.fill(OWNED, 0, BITMAP * 4);
  lowest = 0xffffffff;
  behind = 0;
  pending = 0;
  owned = 0;
  used = 0;
  freeSlot();
  sweep();
}

// ─── the dead and the gone ───────────────────────────────────────────────────────────────────────────────────────────

/** halves.pml: clear_halves. */
function clearHalves(frame: u32, ofSlot: u32, ofGeneration: u32): void {
  for (let which: u32 = 0; which < HALVES; which += HALF_PRODUCER) {
    const tag = atomic.load<u64>(half(frame, which));
    if (names(tag, ofSlot, ofGeneration)) atomic.cmpxchg<u64>(half(frame, which), tag, 0);
  }
}

/**
 * Free an extent whose owner is gone, if nobody holds anything in it any more. Nobody can begin to: no offer is left.
 * (halves.pml: sweep)
 */
function sweepExtent(extent: u32): void {
  const tag = atomic.load<u64>(extentWord(extent));
  if (tag == 0 || tag == TAG_RESERVED || keeps(tagSlot(tag), <u32>(tag >> 32))) return;
  const from = extent << extentShift;
  const end = min<u32>(from + (1 << extentShift), frames);
  for (let frame = from; frame < end; ++frame) {
    if (atomic.load<u64>(half(frame, HALF_CONSUMER)) != 0 || atomic.load<u64>(half(frame, HALF_PRODUCER)) != 0) return;
  }
  // A run that began in the extent before and reaches into this one is still held there.
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

/** Whether the run is a ring that the dead one wrote and that somebody reads who is alive. */
function isRead(frame: u32, ofSlot: u32, ofGeneration: u32): bool {
  const writer = atomic.load<u64>(half(frame, HALF_PRODUCER));
  if (!names(writer, ofSlot, ofGeneration) || tagKind(writer) != KIND_HELD) return false;
  // Of a ring the reader has the extent; in the dead one's own lies memory of his, which somebody has taken over.
  if (names(atomic.load<u64>(extentWord(frame >> extentShift)), ofSlot, ofGeneration)) return false;
  const reader = atomic.load<u64>(half(frame, HALF_CONSUMER));
  return reader != 0 && tagKind(reader) == KIND_HELD && alive(tagSlot(reader), <u32>(reader >> 32));
}

/** Whether the run is memory of the dead one that a reader may take over. */
function isLent(frame: u32, ofSlot: u32, ofGeneration: u32): bool {
  const writer = atomic.load<u64>(half(frame, HALF_PRODUCER));
  if (!names(writer, ofSlot, ofGeneration) || tagKind(writer) != KIND_HELD) return false;
  const offer = atomic.load<u64>(half(frame, HALF_CONSUMER));
  return names(offer, ofSlot, ofGeneration) && tagKind(offer) == KIND_OFFERED;
}

/**
 * Clear every half that a dead peer held or offered, free what nobody else holds anything in, and free its slot.
 * (halves.pml: declare_dead)
 *
 * As long as somebody reads a ring that the dead one wrote, what was committed there may point to memory that is yet to be
 * taken over: that stays, and so do slot and ring, which tell the next who looks that there is something left to do.
 */
export function reclaim(ofSlot: u32, ofGeneration: u32): void {
  let read = false;
  for (let frame: u32 = 0; frame < frames; ++frame) {
    if (isRead(frame, ofSlot, ofGeneration)) read = true;
    else if (!isLent(frame, ofSlot, ofGeneration)) clearHalves(frame, ofSlot, ofGeneration);
  }
  if (!read) for (let frame: u32 = 0; frame < frames; ++frame) clearHalves(frame, ofSlot, ofGeneration);
  sweep();
  if (!read) freeDead(ofSlot, ofGeneration);
}

/** Free all extents whose owner is gone and that nobody holds anything in. */
export function sweep(): void {
  for (let extent = firstExtent; extent < extentCount; ++extent) sweepExtent(extent);
}

// ─── for onlookers, who hold no slot and look at a copy of the tables ────────────────────────────────────────────────

/** Bytes of header and tables: what lies in front of the frames to take. */
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

/** Whether the tag of a taken extent is as claimExtents() writes it, whoever it names. */
export function extentTagValid(extent: u32): bool {
  if (extent >= extentCount) return false;
  const tag = atomic.load<u64>(extentWord(extent));
  return tagKind(tag) == KIND_HELD && tagCount(tag) == 0;
}

/** Whether nobody has that half of a run that begins at the frame. */
export function halfFree(frame: u32, which: u32): bool {
  return frame >= frames || atomic.load<u64>(half(frame, which)) == 0;
}

/** @returns KIND_… of one half of the run that begins at the frame, or 0 */
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

/** Frames that could be taken: those of free extents, and those of our own in no run. */
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

/** The region as a whole: its geometry, inspection of its header, formatting. */
import {
  FRAME,
  FRAME_SHIFT,
  HALVES,
  HEADER_EXTENT,
  HEADER_EXTENTS,
  HEADER_EXTENTS_AT,
  HEADER_FIRST,
  HEADER_FRAME,
  HEADER_FRAMES,
  HEADER_MAGIC,
  HEADER_MAP_AT,
  HEADER_SIZE,
  HEADER_SLOT,
  HEADER_SLOTS,
  HEADER_SLOTS_AT,
  HEADER_STATE,
  HEADER_VERSION,
  INSPECT_BLANK,
  INSPECT_CORRUPT,
  INSPECT_FOREIGN,
  INSPECT_FORMATTING,
  INSPECT_READY,
  INSPECT_SIZE,
  INSPECT_VERSION,
  LAYOUT_VERSION,
  MAGIC,
  REGION_BLANK,
  REGION_FORMATTING,
  REGION_MAX,
  REGION_MIN,
  REGION_READY,
  SLOT_SIZE,
  SLOTS_MAX,
  TAG_RESERVED,
  WINDOW,
} from './layout';

// The geometry of the region in the window: private, computed from its size alone. Offsets count from WINDOW.
export let size: u32 = 0;
export let frames: u32 = 0;
export let slots: u32 = 0;
export let slotsAt: u32 = 0;
export let extentsAt: u32 = 0;
export let extentShift: u32 = 0;
export let extentCount: u32 = 0;
export let firstExtent: u32 = 0;
export let mapAt: u32 = 0;

// @ts-ignore: decorator
@inline
function toFrame(bytes: u32): u32 {
  return (bytes + FRAME - 1) & ~(FRAME - 1);
}

/** Compute the geometry of a region of this size in bytes. @returns whether a region can have this size */
export function geometry(bytes: u32): bool {
  if (bytes < REGION_MIN || bytes > REGION_MAX || (bytes & (REGION_MIN - 1)) != 0) return false;
  size = bytes;
  frames = bytes >> FRAME_SHIFT;
  // One slot for each 64 KiB, 16 to 256; about 256 extents, of 4 to 256 frames.
  slots = min<u32>(max<u32>(bytes >> 16, 16), SLOTS_MAX);
  extentShift = <u32>min<i32>(max<i32>(23 - <i32>clz(frames), 2), 8);
  extentCount = frames >> extentShift;
  slotsAt = FRAME;
  extentsAt = toFrame(slotsAt + slots * SLOT_SIZE);
  mapAt = toFrame(extentsAt + extentCount * 8);
  const end = toFrame(mapAt + frames * HALVES) >> FRAME_SHIFT;
  firstExtent = (end + (1 << extentShift) - 1) >> extentShift;
  return true;
}

/** Classify the bytes in the window: INSPECT_…. Needs geometry(). */
export function inspect(): u32 {
  const state = atomic.load<u32>(HEADER_STATE);
  const found = classify(state);
  // The state only advances. If it changed, a process is formatting, and the values read meanwhile are not consistent.
  return atomic.load<u32>(HEADER_STATE) == state ? found : INSPECT_FORMATTING;
}

function classify(state: u32): u32 {
  const magic = atomic.load<u64>(HEADER_MAGIC);
  if (magic != MAGIC) {
    if (magic != 0) return INSPECT_FOREIGN;
    if ((state & 0xff) == REGION_FORMATTING) return INSPECT_FORMATTING;
    for (let at: u32 = 0; at < FRAME; at += 8) if (atomic.load<u64>(WINDOW + at) != 0) return INSPECT_FOREIGN;
    return INSPECT_BLANK;
  }
  if (load<u32>(HEADER_VERSION) != LAYOUT_VERSION) return INSPECT_VERSION;
  if ((state & 0xff) == REGION_FORMATTING) return INSPECT_FORMATTING;
  if (state != REGION_READY) return INSPECT_CORRUPT;
  if (load<u64>(HEADER_SIZE) != <u64>size) return INSPECT_SIZE;
  const same =
    load<u32>(HEADER_FRAME) == FRAME &&
    load<u32>(HEADER_FRAMES) == frames &&
    load<u32>(HEADER_SLOTS) == slots &&
    load<u32>(HEADER_SLOT) == SLOT_SIZE &&
    load<u32>(HEADER_SLOTS_AT) == slotsAt &&
    load<u32>(HEADER_EXTENTS_AT) == extentsAt &&
    load<u32>(HEADER_EXTENTS) == extentCount &&
    load<u32>(HEADER_EXTENT) == 1 << extentShift &&
    load<u32>(HEADER_MAP_AT) == mapAt &&
    load<u32>(HEADER_FIRST) == firstExtent;
  return same ? INSPECT_READY : INSPECT_CORRUPT;
}

/**
 * Try to become the formatter of a blank region. The word names the formatter's kernel, so that another process on the
 * same kernel can find out from a lock whether the formatter is still alive.
 * @returns whether this process is the formatter
 */
export function beginFormat(kernel: u32): bool {
  return atomic.cmpxchg<u32>(HEADER_STATE, REGION_BLANK, REGION_FORMATTING | (kernel << 8)) == REGION_BLANK;
}

/** Kernel of the process that is formatting (24 bits of a hash), or 0. */
export function formattingKernel(): u32 {
  const state = atomic.load<u32>(HEADER_STATE);
  return (state & 0xff) == REGION_FORMATTING ? state >> 8 : 0;
}

/**
 * Write the tables. Only after beginFormat(), or when the caller knows that the formatter is gone. The host writes UUID
 * and host name before finishFormat().
 */
export function format(kernel: u32): void {
  atomic.store<u32>(HEADER_STATE, REGION_FORMATTING | (kernel << 8));
  atomic.store<u64>(HEADER_MAGIC, 0);
  memory.fill(WINDOW + slotsAt, 0, (firstExtent << (extentShift + FRAME_SHIFT)) - slotsAt);
  for (let extent: u32 = 0; extent < firstExtent; ++extent)
    store<u64>(WINDOW + extentsAt + (extent << 3), TAG_RESERVED);
  store<u32>(HEADER_VERSION, LAYOUT_VERSION);
  store<u64>(HEADER_SIZE, size);
  store<u32>(HEADER_FRAME, FRAME);
  store<u32>(HEADER_FRAMES, frames);
  store<u32>(HEADER_SLOTS, slots);
  store<u32>(HEADER_SLOT, SLOT_SIZE);
  store<u32>(HEADER_SLOTS_AT, slotsAt);
  store<u32>(HEADER_EXTENTS_AT, extentsAt);
  store<u32>(HEADER_EXTENTS, extentCount);
  store<u32>(HEADER_EXTENT, 1 << extentShift);
  store<u32>(HEADER_MAP_AT, mapAt);
  store<u32>(HEADER_FIRST, firstExtent);
}

export function finishFormat(): void {
  atomic.store<u64>(HEADER_MAGIC, MAGIC);
  atomic.store<u32>(HEADER_STATE, REGION_READY);
}

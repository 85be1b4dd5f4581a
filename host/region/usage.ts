/** The use of a region: frames, rings, and what each slot holds. */
import type { Core } from '../core/core.js';
import type { RegionView } from './region-view.js';

/** Frames of 4 KiB. */
export interface FrameCount {
  readonly frameSize: number;
  readonly total: number;
  /** Under header and tables. */
  readonly tables: number;
  readonly free: number;
  /** Taken by some process, whether it uses them or not. */
  readonly taken: number;
  /** The taken frames that lie in runs. */
  readonly inUse: number;
}

/** A ring: which slot writes to which. */
export interface RingView {
  /** Undefined: no process writes yet. */
  readonly from: number | undefined;
  readonly to: number;
  /** In bytes, as is `used`. */
  readonly capacity: number;
  /** Written and not yet given back by the reader; undefined if the words of the ring make no sense. */
  readonly used: number | undefined;
}

export interface Holdings {
  /** Frames that the slot has taken. */
  readonly frames: number;
  /** Rings that the slot reads and a peer writes. */
  readonly connections: number;
}

export function frameCount(core: Core): FrameCount {
  const { call, layout } = core;
  const total = call.regionFrames.value;
  const tables = call.tableBytes() / layout.FRAME;
  const each = call.extentFrames();
  let free = 0;
  for (let extent = 0; extent < total / each; extent++) if (call.extentUse(extent) === 0) free += each;
  let inUse = 0;
  for (const { frames } of runs(core)) inUse += frames;
  return { frameSize: layout.FRAME, total, tables, free, taken: total - tables - free, inUse };
}

/** By slot. */
export function holdingsOf(view: Pick<RegionView, 'core' | 'read'>): ReadonlyMap<number, Holdings> {
  const { call } = view.core;
  const each = call.extentFrames();
  const found = new Map<number, { frames: number; connections: number }>();
  const of = (slot: number) => {
    const known = found.get(slot) ?? { frames: 0, connections: 0 };
    found.set(slot, known);
    return known;
  };
  for (let extent = 0; extent < call.regionFrames.value / each; extent++) {
    if (call.extentUse(extent) === 2) of(call.extentSlot(extent)).frames += each;
  }
  for (const { from, to } of ringsOf(view)) if (from !== undefined) of(to).connections++;
  return found;
}

export function ringsOf(view: Pick<RegionView, 'core' | 'read'>): RingView[] {
  const { call, layout } = view.core;
  const rings: RingView[] = [];
  for (const { frame, frames } of runs(view.core)) {
    if (call.halfKind(frame, layout.HALF_CONSUMER) !== layout.KIND_HELD) continue;
    const to = call.halfSlot(frame, layout.HALF_CONSUMER);
    // The reader makes the ring that it reads from; the owner of any other run is its writer.
    if (call.extentSlot(Math.floor(frame / call.extentFrames())) !== to) continue;
    const { capacity, used } = ringAt(view, frame);
    if (capacity !== (frames - 1) * layout.FRAME) continue;
    const written = call.halfKind(frame, layout.HALF_PRODUCER) === layout.KIND_HELD;
    rings.push({
      from: written ? call.halfSlot(frame, layout.HALF_PRODUCER) : undefined,
      to,
      capacity,
      used: used <= capacity ? used : undefined,
    });
  }
  return rings;
}

/** Runs of frames of which at least one half is held or offered. */
function* runs({ call, layout }: Core): Generator<{ frame: number; frames: number }> {
  const total = call.regionFrames.value;
  for (let frame = call.tableBytes() / layout.FRAME; frame < total; ) {
    const length = (which: number) => (call.halfKind(frame, which) === 0 ? 0 : call.halfFrames(frame, which));
    const frames = Math.min(total - frame, length(layout.HALF_CONSUMER) || length(layout.HALF_PRODUCER));
    if (frames > 0) yield { frame, frames };
    frame += Math.max(1, frames);
  }
}

/** The words of a ring at that frame, if there is one. */
function ringAt(view: Pick<RegionView, 'core' | 'read'>, frame: number): { capacity: number; used: number } {
  const { layout } = view.core;
  const words = view.read(frame * layout.FRAME, layout.RING_ARMED);
  const head = words.readUInt32LE(layout.RING_HEAD);
  const tail = words.readUInt32LE(layout.RING_TAIL);
  return { capacity: words.readUInt32LE(layout.RING_CAPACITY), used: (tail - head) >>> 0 };
}

/** Runs of frames of a region that this side takes from the frame map and gives back. */
import type { Region } from './region.js';

/** The first frame holds the grants; behind it lies what is granted. */
export interface Run {
  readonly frame: number;
  /** Of the first byte behind the grants. */
  readonly address: number;
}

/** Take a run with room for `length` bytes. @returns undefined: the region has no such room */
export function takeRun(region: Region, length: number): Run | undefined {
  const { call, layout } = region.core;
  if (!region.usable || length === 0) return undefined;
  const frame = call.takeRun(length);
  return frame === 0 ? undefined : { frame, address: (call.addressOf(frame) >>> 0) + layout.FRAME };
}

/** Give this side's half of a run back. @returns whether no peer had adopted the other half */
export function giveBack(region: Region, frame: number, length: number): boolean {
  return region.core.call.giveBackRun(frame, length) !== 0;
}

/** The header of a region: what it says, and why a region with such a header cannot be used. */
import { IsthmusError } from '../base/errors.js';
import type { Core } from '../core/core.js';
import { foreign } from '../device/posix.js';

/** What the header says. */
export interface Overview {
  readonly state: 'formatted' | 'blank' | 'being formatted' | 'refused';
  readonly version: number | undefined;
  readonly uuid: string | undefined;
  /** Host name of the process that formatted the region. */
  readonly host: string | undefined;
  /** Number of slots, taken or not. */
  readonly slots: number;
  readonly refused: IsthmusError | undefined;
}

/** @param core with a copy of the tables in its window */
export function overviewOf(core: Core, path: string, size: number): Overview {
  const { call, layout, view, bytes } = core;
  const nothing = { version: undefined, uuid: undefined, host: undefined, slots: 0, refused: undefined };
  const state = call.inspect();
  if (state === layout.INSPECT_BLANK) return { ...nothing, state: 'blank' };
  if (state === layout.INSPECT_FORMATTING) return { ...nothing, state: 'being formatted' };
  if (state !== layout.INSPECT_READY) {
    return { ...nothing, state: 'refused', refused: refusal(core, path, size, state) };
  }
  return {
    state: 'formatted',
    version: view.getUint32(layout.HEADER_VERSION, true),
    uuid: formatUuid(bytes.slice(layout.HEADER_UUID, layout.HEADER_UUID + 16)),
    host: core.text(layout.HEADER_HOST, layout.HEADER_HOST_LENGTH),
    slots: call.regionSlots.value,
    refused: undefined,
  };
}

/** Why a region cannot be used. @param state INSPECT_… of the core, but READY, BLANK and FORMATTING */
export function refusal(core: Core, path: string, size: number, state: number): IsthmusError {
  const { layout, view } = core;
  switch (state) {
    case layout.INSPECT_VERSION:
      return new IsthmusError(
        'ERR_ISTHMUS_REGION_VERSION',
        `${path}: has layout version ${view.getUint32(layout.HEADER_VERSION, true)}, this is ${layout.LAYOUT_VERSION}`,
        { path },
      );
    case layout.INSPECT_FOREIGN:
      return foreign(path, core.bytes.slice(layout.WINDOW, layout.WINDOW + 8));
    case layout.INSPECT_SIZE: {
      const claimed = Number(view.getBigUint64(layout.HEADER_SIZE, true));
      const truncated = claimed > size;
      return new IsthmusError(
        truncated ? 'ERR_ISTHMUS_REGION_TOO_SMALL' : 'ERR_ISTHMUS_REGION_CORRUPT',
        `${path}: ${truncated ? 'truncated: ' : ''}${size} bytes, its header says ${claimed}`,
        { path, needed: claimed, available: size },
      );
    }
    default:
      return new IsthmusError('ERR_ISTHMUS_REGION_CORRUPT', `${path}: its header contradicts itself`, { path });
  }
}

function formatUuid(uuid: Uint8Array): string {
  const hex = Buffer.from(uuid).toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

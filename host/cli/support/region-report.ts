/** What is in a region: header, peers, frames, rings. Takes no slot, and writes nothing. */
import { statSync } from 'node:fs';
import { coreLayout } from '../../core/core.js';
import type { Backing } from '../../device/backing.js';
import type { UioRoots } from '../../device/uio.js';
import type { PeerSlot } from '../../region/peer-table.js';
import type { FrameCount, RingView } from '../../region/usage.js';
import { viewRegion } from './region-names.js';

export interface SlotReport extends PeerSlot {
  /** Time since its heartbeat changed, in milliseconds; null: it did not change while the command watched. */
  readonly heartbeatAgeMs: number | null;
  /** What its lock proves; unknown for a peer on another kernel. */
  readonly lives: 'alive' | 'dead' | 'unknown';
}

export interface RegionReport {
  readonly path: string;
  readonly kind: Backing['kind'];
  readonly size: number;
  /** Of a file. */
  readonly owner: { readonly uid: number; readonly mode: string } | undefined;
  readonly state: 'formatted' | 'blank' | 'being formatted' | 'refused';
  readonly refused: { readonly code: string; readonly message: string } | undefined;
  readonly version: number | undefined;
  readonly uuid: string | undefined;
  /** The host that formatted it. */
  readonly host: string | undefined;
  /** Whether the locks of the region itself are held. */
  readonly locks: { readonly format: boolean | undefined; readonly server: boolean | undefined };
  /** All slots, taken or not. */
  readonly slotCount: number;
  readonly slots: readonly SlotReport[];
  readonly frames: FrameCount | undefined;
  readonly rings: readonly RingView[];
}

/**
 * Watches the heartbeats for at most two seconds.
 * @param roots other places than `/sys` and `/dev`, for tests
 */
export async function examine(name: string, roots: UioRoots = {}): Promise<RegionReport> {
  const { view, kind } = viewRegion(name, roots);
  using region = view;
  const { path, size } = region;
  const { state, version, uuid, host, slots, refused } = region.overview();
  const formatted = state === 'formatted';
  const ages = formatted ? await region.heartbeats() : new Map<number, number>();
  const { LOCK_FORMAT, LOCK_SERVER } = coreLayout();
  const stat = kind === 'posix' ? statSync(path, { throwIfNoEntry: false }) : undefined;
  return {
    path,
    kind,
    size,
    owner: stat && { uid: stat.uid, mode: (stat.mode & 0o7777).toString(8) },
    state,
    refused: refused && { code: refused.code, message: refused.message },
    version,
    uuid,
    host,
    locks: { format: region.locked(LOCK_FORMAT), server: region.locked(LOCK_SERVER) },
    slotCount: slots,
    slots: formatted
      ? region
          .peers()
          .map((peer) => ({ ...peer, heartbeatAgeMs: ages.get(peer.slot) ?? null, lives: region.lives(peer) }))
      : [],
    frames: formatted ? region.frames() : undefined,
    rings: formatted ? region.rings() : [],
  };
}

/** The peer table of a region: one slot for each process that is attached. */
import type { Core } from '../core/core.js';
import type { Identity } from '../device/identity.js';

/** One attachment of one process. Generations are never used twice, so it is named for ever. */
export interface Attachment {
  readonly slot: number;
  readonly generation: number;
}

/** One row of the peer table. Texts and numbers are as the peer wrote them. */
export interface PeerSlot extends Attachment {
  /** `fenced`: shut out; what it holds is kept for it. */
  readonly state: 'claimed' | 'attached' | 'dead' | 'fenced';
  readonly host: string;
  readonly name: string;
  readonly pid: number;
  /** Number of its pid namespace, in decimal. */
  readonly pidNamespace: string;
  /** Counts up while the peer lives. */
  readonly heartbeat: number;
  /** Whether the peer runs on this kernel and has opened this very file, so that its life or death can be proven. */
  readonly local: boolean;
}

/**
 * Whether the slot's owner runs on this kernel and has opened this very file, so that its lock can be seen. A peer that
 * reached the same memory another way (through `/dev/uioN`, this process through `resource2`) has opened another file: its
 * lock cannot be seen, nothing is proven, and it is never taken for dead.
 */
export function isLocal({ call, layout, view, bytes }: Core, slot: number, identity: Identity): boolean {
  if (call.slotKernel(slot) !== identity.hash) return false;
  // Between claim and publication there is only the hash, which is enough for that instant.
  if (call.slotState(slot) === layout.SLOT_CLAIMED) return true;
  const at = call.slotAddress(slot);
  const boot = bytes.slice(at + layout.SLOT_BOOT, at + layout.SLOT_BOOT + 16);
  return (
    view.getBigUint64(at + layout.SLOT_DEV, true) === identity.dev &&
    view.getBigUint64(at + layout.SLOT_INO, true) === identity.ino &&
    Buffer.compare(boot, identity.boot) === 0
  );
}

/** Boot UUID of the kernel that the slot's owner runs on, as the owner wrote it, in hexadecimal digits. */
export function kernelOf({ call, layout, bytes }: Core, slot: number): string {
  const at = call.slotAddress(slot) + layout.SLOT_BOOT;
  return Buffer.from(bytes.slice(at, at + 16)).toString('hex');
}

/** All slots that are not free. */
export function peersOf(core: Core, identity: Identity): PeerSlot[] {
  const { call, layout, view } = core;
  const names = {
    [layout.SLOT_CLAIMED]: 'claimed',
    [layout.SLOT_ATTACHED]: 'attached',
    [layout.SLOT_DEAD]: 'dead',
    [layout.SLOT_FENCED]: 'fenced',
  } as const;
  const rows: PeerSlot[] = [];
  for (let slot = 0; slot < call.regionSlots.value; slot++) {
    const state = names[call.slotState(slot)];
    if (state === undefined) continue;
    const at = call.slotAddress(slot);
    rows.push({
      slot,
      generation: call.slotGeneration(slot) >>> 0,
      state,
      host: core.text(at + layout.SLOT_HOST, layout.SLOT_TEXT_LENGTH),
      name: core.text(at + layout.SLOT_NAME, layout.SLOT_TEXT_LENGTH),
      pid: view.getUint32(at + layout.SLOT_PID, true),
      pidNamespace: String(view.getBigUint64(at + layout.SLOT_PIDNS, true)),
      heartbeat: Number(view.getBigUint64(at + layout.SLOT_HEARTBEAT, true)),
      local: isLocal(core, slot, identity),
    });
  }
  return rows;
}

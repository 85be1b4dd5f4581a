/** The check of the header and of the peer table; and what each slot's owner is, which the other checks build on. */
import { identityHash } from '../../device/identity.js';
import { type Attachment, isLocal } from '../peer-table.js';
import type { RegionView } from '../region-view.js';
import { hex, isZero, reservedFault, textFault } from './fields.js';
import type { Counts, Findings } from './findings.js';

/** Whether an attachment exists; is dead, and its memory not reclaimed yet; is over; or never existed. */
export type Standing = 'there' | 'dead' | 'over' | 'never';

/** Whether the owner of a slot is alive, cannot be told, or is dead. */
type Life = 'alive' | 'unknown' | 'dead';

export const nameOf = ({ slot, generation }: Attachment) => `slot ${slot} (generation ${generation})`;

/** `inspect()` of the core has compared the rest of the header with the geometry. */
export function checkHeader({ core }: RegionView, findings: Findings): void {
  const { layout, bytes } = core;
  if (isZero(core, layout.HEADER_UUID, layout.HEADER_UUID + 16)) findings.error('header', 'its UUID is all zeros');
  const hostEnd = layout.HEADER_HOST + layout.HEADER_HOST_LENGTH;
  const host = textFault(bytes.slice(layout.HEADER_HOST, hostEnd));
  if (host) findings.error('header', `its host name ${host}`);
  const reserved = reservedFault(core, layout.WINDOW, hostEnd, layout.WINDOW + layout.FRAME);
  if (reserved) findings.error('header', reserved);
}

export class SlotCheck {
  readonly #view: RegionView;
  readonly #counts: Counts;
  readonly #findings: Findings;
  /** By slot; undefined: it has no owner. */
  readonly #lives: (Life | undefined)[] = [];
  /** What the dead owner of a slot still holds. */
  readonly #remains = new Map<number, { extents: number; halves: number }>();

  constructor(view: RegionView, counts: Counts, findings: Findings) {
    this.#view = view;
    this.#counts = counts;
    this.#findings = findings;
    this.#check();
  }

  #check(): void {
    const { core } = this.#view;
    const { call, layout, view } = core;
    const findings = this.#findings;
    const instances = new Map<bigint, number>();
    for (let slot = 0; slot < this.#counts.slots.total; slot++) {
      const where = `slot ${slot}`;
      const state = call.slotState(slot);
      const kernel = call.slotKernel(slot);
      const generation = call.slotGeneration(slot) >>> 0;
      const at = call.slotAddress(slot);
      for (const [from, to] of [
        [layout.SLOT_DOORBELL + 16, layout.SLOT_HOST],
        [layout.SLOT_SLEEPING + 4, layout.SLOT_SUMMARY],
        [layout.SLOT_SUMMARY + 8, layout.SLOT_READY],
      ] as const) {
        const reserved = reservedFault(core, at, at + from, at + to);
        if (reserved) findings.error(where, reserved);
      }
      if (state === layout.SLOT_FREE) {
        if (kernel !== 0) findings.error(where, `is free, and names a kernel (${hex(kernel)})`);
        if (this.#view.locked(slot)) {
          findings.note(where, 'is free, but locked: its last owner was declared dead and has not noticed it yet');
        }
        continue;
      }
      if (![layout.SLOT_CLAIMED, layout.SLOT_ATTACHED, layout.SLOT_DEAD, layout.SLOT_FENCED].includes(state)) {
        findings.error(where, `its state is ${state}, which does not exist`);
        continue;
      }
      if (generation === 0) findings.error(where, 'is taken with generation 0');
      this.#lives[slot] = this.#life(slot, state);
      // A peer can be fenced before it has written the rest of its slot.
      if (state !== layout.SLOT_ATTACHED) continue;
      this.#checkAttached(slot, kernel);
      const instance = view.getBigUint64(at + layout.SLOT_INSTANCE, true);
      const twin = instances.get(instance);
      if (twin !== undefined) findings.error(where, `has the same instance id as slot ${twin}: ${hex(instance)}`);
      instances.set(instance, slot);
    }
    for (const life of this.#lives) if (life) this.#counts.slots[life]++;
  }

  #life(slot: number, state: number): Life {
    const { core, identity } = this.#view;
    if (state === core.layout.SLOT_DEAD) return 'dead';
    const locked = isLocal(core, slot, identity) ? this.#view.locked(slot) : undefined;
    return locked === undefined ? 'unknown' : locked ? 'alive' : 'dead';
  }

  /** Check what the owner wrote before it published the slot. */
  #checkAttached(slot: number, kernel: number): void {
    const { core } = this.#view;
    const { call, layout, view, bytes } = core;
    const findings = this.#findings;
    const where = `slot ${slot}`;
    const at = call.slotAddress(slot);
    const hash = identityHash({
      boot: bytes.slice(at + layout.SLOT_BOOT, at + layout.SLOT_BOOT + 16),
      dev: view.getBigUint64(at + layout.SLOT_DEV, true),
      ino: view.getBigUint64(at + layout.SLOT_INO, true),
    });
    if (hash !== kernel) {
      findings.error(where, `its word names kernel ${hex(kernel)}, its boot id and file ${hex(hash)}`);
    }
    if (isZero(core, at + layout.SLOT_INSTANCE, at + layout.SLOT_INSTANCE + 8)) {
      findings.error(where, 'is attached without an instance id');
    }
    for (const [what, field] of [
      ['host name', layout.SLOT_HOST],
      ['name', layout.SLOT_NAME],
    ] as const) {
      const fault = textFault(bytes.slice(at + field, at + field + layout.SLOT_TEXT_LENGTH));
      if (fault) findings.error(where, `its ${what} ${fault}`);
    }
    const sleeping = view.getUint32(at + layout.SLOT_SLEEPING, true);
    if (sleeping > 1) findings.error(where, `its word 'sleeping' is ${sleeping}, neither 0 nor 1`);
  }

  standing({ slot, generation }: Attachment): Standing {
    if (slot >= this.#counts.slots.total || generation === 0) return 'never';
    const newest = this.#view.core.call.slotGeneration(slot);
    if (generation === newest >>> 0) {
      const life = this.#lives[slot];
      return life === undefined ? 'over' : life === 'dead' ? 'dead' : 'there';
    }
    // Generations count up, and wrap.
    return ((generation - newest) | 0) > 0 ? 'never' : 'over';
  }

  /** An extent or a half of the slot's dead owner was found. */
  addRemains(slot: number, what: 'extents' | 'halves'): void {
    const remains = this.#remains.get(slot) ?? { extents: 0, halves: 0 };
    remains[what]++;
    this.#remains.set(slot, remains);
  }

  /** Whether the owner of the slot is shut out, and has neither left nor died. */
  isFenced(slot: number): boolean {
    const { call, layout } = this.#view.core;
    return call.slotState(slot) === layout.SLOT_FENCED && this.#lives[slot] !== 'dead';
  }

  /** Note the dead owners and the fenced ones, after all remains of the dead are known. */
  noteDeadAndFenced(): void {
    const { call, layout } = this.#view.core;
    for (const [slot, life] of this.#lives.entries()) {
      if (this.isFenced(slot)) {
        this.#findings.note(
          `slot ${slot}`,
          `generation ${call.slotGeneration(slot) >>> 0} is fenced: what it holds is kept for it until it leaves or is ` +
            'declared dead',
        );
      }
      if (life !== 'dead') continue;
      const { extents, halves } = this.#remains.get(slot) ?? { extents: 0, halves: 0 };
      const how = call.slotState(slot) === layout.SLOT_DEAD ? 'was declared dead' : 'is dead: its lock is free';
      const frames = extents * call.extentFrames();
      this.#findings.note(
        `slot ${slot}`,
        `generation ${call.slotGeneration(slot) >>> 0} ${how}; ${frames} frames and ${halves} halves of runs come back ` +
          'when a runtime attaches, or with the upkeep of one that is attached, and when no peer reads any more what it wrote',
      );
    }
  }
}

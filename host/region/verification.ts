/**
 * Whether the structures of a region agree with each other: slots, extents against slots, halves of runs against extents
 * and slots, and what is in the runs (contents.ts).
 *
 * Others go on using the region meanwhile, and a copy of the tables is no picture of one instant. So what is found counts
 * only if it is found in each of many looks at irregular intervals, in the very same words, which have the values in
 * them: what is on its way to another state is not there any more. That is also why a note about the dead comes only where
 * nobody takes back what they held.
 *
 * An error is what no order of steps leads to, death between any two of them included. A note is what somebody has yet to
 * do, or what cannot be told from here. One thing looks like an error and is none: whoever is alive and stands still between
 * two steps, as in a virtual machine that is paused, all the time that we look.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Core } from '../core/core.js';
import { identityHash } from '../device/backing.js';
import { RunContents } from './contents.js';
import { isLocal, type Onlooker, refusal } from './inspection.js';
import type { Counts, Finding, Glimpse } from './region-view.js';

/** Looks that a finding has to outlive, and the longest pause between two, in milliseconds: upkeep comes twice a second. */
const LOOKS = 24;
const PAUSE = 100;

export interface Verification {
  readonly state: 'formatted' | 'blank' | 'being formatted' | 'refused';
  /** How often it was looked. */
  readonly looks: number;
  readonly counts: Counts | undefined;
  readonly findings: readonly Finding[];
}

/** Whether (slot, generation) is attached; dead, and not taken back yet; over; or never was. */
type Standing = 'there' | 'dead' | 'over' | 'never';

interface Owner {
  readonly slot: number;
  readonly generation: number;
}

const same = (a: Owner, b: Owner) => a.slot === b.slot && a.generation === b.generation;
const named = ({ slot, generation }: Owner) => `slot ${slot} (generation ${generation})`;

/** One half of a run. */
interface Half extends Owner {
  readonly kind: number;
  readonly frames: number;
  readonly standing: Standing;
}

/** One look. */
class Look {
  readonly findings: Finding[] = [];
  readonly counts: Counts;
  readonly #glimpse: Glimpse;
  readonly #core: Core;
  readonly #contents: RunContents;
  /** By slot: whether its owner of now is alive, cannot be told, or dead; undefined: it has none. */
  readonly #lives: ('alive' | 'unknown' | 'dead' | undefined)[] = [];
  /** What the dead of a slot held. */
  readonly #remains = new Map<number, { extents: number; halves: number }>();
  /** Extents that a held run lies in. */
  readonly #occupied = new Set<number>();

  constructor(glimpse: Glimpse) {
    const { core } = glimpse;
    const { call, layout } = core;
    this.#glimpse = glimpse;
    this.#core = core;
    const total = call.regionFrames.value;
    const tables = call.tableBytes() / layout.FRAME;
    this.counts = {
      slots: { total: call.regionSlots.value, alive: 0, unknown: 0, dead: 0 },
      extents: { total: total / call.extentFrames(), tables: 0, free: 0, held: 0, dead: 0, gone: 0 },
      frames: { total, tables, free: 0, runs: 0 },
      runs: { total: 0, rings: 0, memory: 0, loose: 0 },
      records: { total: 0, bytes: 0 },
      grants: { total: 0 },
    };
    this.#contents = new RunContents(glimpse, this.counts, (where, message) => this.#error(where, message));
    this.#header();
    this.#slots();
    this.#runs();
    this.#extents();
    this.#dead();
  }

  #error(where: string, message: string): void {
    this.findings.push({ severity: 'error', where, message });
  }

  #note(where: string, message: string): void {
    this.findings.push({ severity: 'note', where, message });
  }

  // ── Header ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** What `inspect()` compares with the geometry is right already. */
  #header(): void {
    const { layout, bytes } = this.#core;
    if (this.#zeros(layout.HEADER_UUID, layout.HEADER_UUID + 16)) this.#error('header', 'its UUID is all zeros');
    const hostEnd = layout.HEADER_HOST + layout.HEADER_HOST_LENGTH;
    const host = textFault(bytes.slice(layout.HEADER_HOST, hostEnd));
    if (host) this.#error('header', `its host name ${host}`);
    this.#reserved('header', layout.WINDOW, hostEnd, layout.WINDOW + layout.FRAME);
  }

  #zeros(from: number, to: number): boolean {
    return this.#core.bytes.subarray(from, to).every((byte) => byte === 0);
  }

  /** Bytes that have no meaning yet are zero. */
  #reserved(where: string, base: number, from: number, to: number): void {
    const at = this.#core.bytes.subarray(from, to).findIndex((byte) => byte !== 0);
    if (at >= 0) this.#error(where, `its reserved byte ${from + at - base} is ${this.#core.bytes[from + at]}, not 0`);
  }

  // ── Slots ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #slots(): void {
    const { call, layout, view } = this.#core;
    const instances = new Map<bigint, number>();
    for (let slot = 0; slot < this.counts.slots.total; slot++) {
      const where = `slot ${slot}`;
      const state = call.slotState(slot);
      const kernel = call.slotKernel(slot);
      const generation = call.slotGeneration(slot) >>> 0;
      const at = call.slotAddress(slot);
      this.#reserved(where, at, at + layout.SLOT_CONNECTIONS + 4, at + layout.SLOT_HOST);
      this.#reserved(where, at, at + layout.SLOT_SLEEPING + 4, at + layout.SLOT_SUMMARY);
      this.#reserved(where, at, at + layout.SLOT_SUMMARY + 8, at + layout.SLOT_READY);
      if (state === layout.SLOT_FREE) {
        if (kernel !== 0) this.#error(where, `is free, and names a kernel (${hex(kernel)})`);
        if (this.#glimpse.locked(slot)) {
          this.#note(where, 'is free, but locked: its last owner was declared dead and has not noticed it yet');
        }
        continue;
      }
      if (state > layout.SLOT_DEAD) {
        this.#error(where, `its state is ${state}, which is none`);
        continue;
      }
      if (generation === 0) this.#error(where, 'is taken with generation 0');
      this.#lives[slot] = this.#life(slot, state);
      if (state !== layout.SLOT_ATTACHED) continue;
      this.#attached(slot, kernel);
      const instance = view.getBigUint64(at + layout.SLOT_INSTANCE, true);
      const twin = instances.get(instance);
      if (twin !== undefined) this.#error(where, `has the same instance id as slot ${twin}: ${hex(instance)}`);
      instances.set(instance, slot);
    }
    for (const life of this.#lives) if (life) this.counts.slots[life]++;
  }

  #life(slot: number, state: number): 'alive' | 'unknown' | 'dead' {
    if (state === this.#core.layout.SLOT_DEAD) return 'dead';
    const locked = isLocal(this.#core, slot, this.#glimpse.identity) ? this.#glimpse.locked(slot) : undefined;
    return locked === undefined ? 'unknown' : locked ? 'alive' : 'dead';
  }

  /** What its owner has written before he showed himself. */
  #attached(slot: number, kernel: number): void {
    const { call, layout, view, bytes } = this.#core;
    const where = `slot ${slot}`;
    const at = call.slotAddress(slot);
    const hash = identityHash({
      boot: bytes.slice(at + layout.SLOT_BOOT, at + layout.SLOT_BOOT + 16),
      dev: view.getBigUint64(at + layout.SLOT_DEV, true),
      ino: view.getBigUint64(at + layout.SLOT_INO, true),
    });
    if (hash !== kernel) this.#error(where, `its word names kernel ${hex(kernel)}, its boot id and file ${hex(hash)}`);
    if (this.#zeros(at + layout.SLOT_INSTANCE, at + layout.SLOT_INSTANCE + 8)) {
      this.#error(where, 'is attached without an instance id');
    }
    for (const [what, field] of [
      ['host name', layout.SLOT_HOST],
      ['name', layout.SLOT_NAME],
    ] as const) {
      const fault = textFault(bytes.slice(at + field, at + field + layout.SLOT_TEXT_LENGTH));
      if (fault) this.#error(where, `its ${what} ${fault}`);
    }
    const sleeping = view.getUint32(at + layout.SLOT_SLEEPING, true);
    if (sleeping > 1) this.#error(where, `its word 'sleeping' is ${sleeping}, neither 0 nor 1`);
  }

  #standing({ slot, generation }: Owner): Standing {
    if (slot >= this.counts.slots.total || generation === 0) return 'never';
    const newest = this.#core.call.slotGeneration(slot);
    if (generation === newest >>> 0) {
      const life = this.#lives[slot];
      return life === undefined ? 'over' : life === 'dead' ? 'dead' : 'there';
    }
    // Generations count up, and wrap.
    return ((generation - newest) | 0) > 0 ? 'never' : 'over';
  }

  #remainsOf(slot: number): { extents: number; halves: number } {
    const known = this.#remains.get(slot) ?? { extents: 0, halves: 0 };
    this.#remains.set(slot, known);
    return known;
  }

  // ── Runs ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  #half(frame: number, which: number): Half | undefined {
    const { call } = this.#core;
    if (call.halfFree(frame, which)) return undefined;
    const owner = { slot: call.halfSlot(frame, which), generation: call.halfGeneration(frame, which) >>> 0 };
    const standing = this.#standing(owner);
    return { ...owner, kind: call.halfKind(frame, which), frames: call.halfFrames(frame, which), standing };
  }

  /** Whose the extent of a frame is. */
  #ownerOf(frame: number): Owner | undefined {
    const { call } = this.#core;
    const extent = Math.floor(frame / call.extentFrames());
    if (call.extentUse(extent) !== 2) return undefined;
    return { slot: call.extentSlot(extent), generation: call.extentGeneration(extent) >>> 0 };
  }

  #runs(): void {
    const { HALF_CONSUMER, HALF_PRODUCER } = this.#core.layout;
    const { total, tables } = this.counts.frames;
    let end = 0;
    let last = 0;
    for (let frame = 0; frame < total; frame++) {
      const consumer = this.#half(frame, HALF_CONSUMER);
      const producer = this.#half(frame, HALF_PRODUCER);
      const halves = [consumer, producer].filter((half) => half !== undefined);
      if (halves.length === 0) continue;
      const where = `run at frame ${frame}`;
      this.counts.runs.total++;
      if (frame < tables) {
        this.#error(where, 'lies under header and tables');
        continue;
      }
      if (!halves.map((half) => this.#sound(where, frame, half)).every(Boolean)) continue;
      const frames = Math.max(...halves.map((half) => half.frames));
      if (frame < end) this.#error(where, `begins within the run at frame ${last}`);
      if (frame + frames > end) {
        this.counts.frames.runs += frame + frames - Math.max(frame, end);
        [end, last] = [frame + frames, frame];
      }
      if (consumer && producer && consumer.frames !== producer.frames) {
        this.#error(where, `its reader's half has ${consumer.frames} frames, its writer's ${producer.frames}`);
        continue;
      }
      this.#run(where, frame, frames, consumer, producer);
    }
  }

  /** Whether a half can be what it says. */
  #sound(where: string, frame: number, half: Half): boolean {
    const { KIND_HELD, KIND_OFFERED } = this.#core.layout;
    if (half.kind !== KIND_HELD && half.kind !== KIND_OFFERED) {
      this.#error(where, `one half is of kind ${half.kind}, which is none`);
      return false;
    }
    if (half.frames === 0 || half.frames > this.counts.frames.total - frame) {
      this.#error(where, `has ${half.frames} frames; ${this.counts.frames.total - frame} are left up to the end`);
      return false;
    }
    if (half.standing === 'never') {
      this.#error(where, `one half names ${named(half)}, which never was`);
      return false;
    }
    if (half.standing === 'over') {
      // Whoever leaves, or is taken back, has cleared all of them before.
      this.#error(where, `leaked: one half names ${named(half)}, which is over: nobody will clear it`);
    }
    if (half.standing === 'dead') this.#remainsOf(half.slot).halves++;
    return true;
  }

  #run(where: string, frame: number, frames: number, consumer: Half | undefined, producer: Half | undefined): void {
    const { call, layout } = this.#core;
    const each = call.extentFrames();
    const owner = this.#ownerOf(frame);
    for (let at = Math.floor(frame / each); at * each < frame + frames; at++) {
      this.#occupied.add(at);
      const other = this.#ownerOf(Math.max(frame, at * each));
      if (!owner || !other || !same(owner, other)) {
        const whose = other ? `of ${named(other)}` : 'of nobody';
        this.#error(where, `has ${frames} frames and lies in extent ${at}, which is ${whose}`);
        return;
      }
    }
    if (!owner) return;
    const offers = [consumer, producer].filter((half) => half?.kind === layout.KIND_OFFERED);
    const offerer = (offers[0] === consumer ? producer : consumer) ?? undefined;
    const stranger = offers.find((half) => half && !same(half, owner));
    if (stranger) this.#error(where, `${named(stranger)} offers it, and its extent is of ${named(owner)}`);
    else if (offers.length === 2) this.#error(where, 'both halves are offered, and nobody holds one');
    else if (offers.length === 1 && offers[0]?.standing !== 'dead' && !(offerer && same(offerer, owner))) {
      this.#error(where, `${named(owner)} offers one half and does not hold the other`);
    }
    const holders = [consumer, producer].filter((half) => half?.kind === layout.KIND_HELD);
    if (holders.length === 2 && !holders.some((half) => half && same(half, owner))) {
      this.#error(where, `both halves are held, and neither by ${named(owner)}, whose extent it is`);
    }
    const mine = (half: Half | undefined) => half?.kind === layout.KIND_HELD && same(half, owner);
    // The owner holds the half that he made the run for: he reads a ring, and he writes his application's memory.
    if (mine(consumer)) {
      this.counts.runs.rings++;
      const writer = producer?.kind === layout.KIND_HELD ? producer : undefined;
      // One who died may have left it half made.
      if (consumer?.standing === 'there')
        this.#contents.ring(frame, frames, owner.slot, writer, producer !== undefined);
    } else if (mine(producer)) {
      this.counts.runs.memory++;
      if (producer?.standing === 'there') this.#contents.memory(frame, frames);
    } else this.counts.runs.loose++;
  }

  // ── Extents ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #extents(): void {
    const { call } = this.#core;
    const { extents, frames } = this.counts;
    const each = call.extentFrames();
    const unswept: number[] = [];
    const unused = new Map<number, number>();
    for (let extent = 0; extent < extents.total; extent++) {
      const where = `extent ${extent}`;
      const use = call.extentUse(extent);
      if (extent * each < frames.tables) {
        extents.tables++;
        if (use !== 1) this.#error(where, 'lies under header and tables and is not reserved');
        continue;
      }
      if (use === 1) {
        this.#error(where, 'is reserved, and not under header and tables');
        continue;
      }
      if (use === 0) {
        extents.free++;
        frames.free += each;
        continue;
      }
      const owner = { slot: call.extentSlot(extent), generation: call.extentGeneration(extent) >>> 0 };
      const standing = this.#standing(owner);
      if (!call.extentTagValid(extent)) this.#error(where, `its tag is none of an extent, and names ${named(owner)}`);
      else if (standing === 'never') this.#error(where, `belongs to ${named(owner)}, which never was`);
      else if (standing === 'dead') {
        extents.dead++;
        this.#remainsOf(owner.slot).extents++;
      } else if (standing === 'over') {
        extents.gone++;
        if (!this.#occupied.has(extent)) unswept.push(extent);
      } else {
        extents.held++;
        if (!this.#occupied.has(extent)) unused.set(owner.slot, (unused.get(owner.slot) ?? 0) + 1);
      }
    }
    if (unswept.length > 0) {
      const which = unswept.length === 1 ? `extent ${unswept[0]}` : `${unswept.length} extents from ${unswept[0]} on`;
      this.#note(
        which,
        `${unswept.length * each} frames of somebody who is gone, held by nobody: they come back when a runtime attaches, or with the upkeep of one that is`,
      );
    }
    for (const [slot, count] of unused) {
      this.#note(
        `slot ${slot}`,
        `keeps ${count * each} frames that are in no run: they come back with its next upkeep`,
      );
    }
  }

  #dead(): void {
    const { call, layout } = this.#core;
    for (const [slot, life] of this.#lives.entries()) {
      if (life !== 'dead') continue;
      const { extents, halves } = this.#remainsOf(slot);
      const how = call.slotState(slot) === layout.SLOT_DEAD ? 'was declared dead' : 'is dead: its lock is free';
      const frames = extents * call.extentFrames();
      this.#note(
        `slot ${slot}`,
        `generation ${call.slotGeneration(slot) >>> 0} ${how}; ${frames} frames and ${halves} halves of runs come back ` +
          'when a runtime attaches, or with the upkeep of one that is, and nobody reads any more what it wrote',
      );
    }
  }
}

const hex = (value: number | bigint) => `0x${value.toString(16)}`;

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** What is wrong with a text field: it is UTF-8, and NUL from its end on, at least once. */
function textFault(field: Uint8Array): string | undefined {
  const end = field.indexOf(0);
  if (end < 0) return 'has no end';
  if (field.subarray(end).some((byte) => byte !== 0)) return 'has bytes behind its end';
  try {
    utf8.decode(field.subarray(0, end));
    return undefined;
  } catch {
    return 'is not UTF-8';
  }
}

/** Look once. What is found may be on its way to another state, where others use the region. */
export function verifyOnce(glimpse: Glimpse): Omit<Verification, 'looks'> {
  const { core, path, size } = glimpse;
  const { call, layout } = core;
  const state = call.inspect();
  switch (state) {
    case layout.INSPECT_READY: {
      const { counts, findings } = new Look(glimpse);
      return { state: 'formatted', counts, findings };
    }
    case layout.INSPECT_BLANK:
      return { state: 'blank', counts: undefined, findings: blank(glimpse) };
    case layout.INSPECT_FORMATTING:
      return { state: 'being formatted', counts: undefined, findings: [formatting(glimpse)] };
    default: {
      const message = refusal(core, path, size, state).message.replace(`${path}: `, '');
      return { state: 'refused', counts: undefined, findings: [{ severity: 'error', where: 'header', message }] };
    }
  }
}

/** Nobody can have a slot of what is not formatted. */
function blank(glimpse: Glimpse): Finding[] {
  const slots = Array.from({ length: glimpse.core.call.regionSlots.value }, (_, slot) => slot);
  const first = slots.find((slot) => glimpse.locked(slot));
  if (first === undefined) {
    return [
      { severity: 'note', where: 'header', message: 'blank: nobody has formatted it yet, there is nothing to verify' },
    ];
  }
  const message = `is blank, but the lock on byte ${first} is held: somebody has a slot in what was here`;
  return [{ severity: 'error', where: 'header', message }];
}

function formatting(glimpse: Glimpse): Finding {
  const { core, identity } = glimpse;
  const abandoned = core.call.formattingKernel() === identity.hash && glimpse.locked(core.layout.LOCK_FORMAT) === false;
  const message = abandoned
    ? 'somebody began to format it and died: the next runtime that attaches does it again'
    : 'somebody is formatting it, or has begun to';
  return { severity: 'note', where: 'header', message };
}

const keyOf = ({ severity, where, message }: Finding) => `${severity} ${where}: ${message}`;

/**
 * Look until what is found has been found in each of many looks, or nothing is left. Takes about a second where there is
 * something, and two more where somebody's life cannot be proven from here.
 * @param looked called after each look with what is left
 */
export async function verify(
  onlooker: Onlooker,
  looked?: (looks: number, left: number) => void,
): Promise<Verification> {
  let { state, counts, findings } = verifyOnce(onlooker);
  let looks = 1;
  looked?.(looks, findings.length);
  while (findings.length > 0 && looks < LOOKS) {
    await sleep(1 + Math.random() * PAUSE);
    onlooker.look();
    const again = verifyOnce(onlooker);
    const found = new Set(again.findings.map(keyOf));
    // What the state became, with it the words: a finding of another one does not count.
    ({ state, counts } = again);
    findings = findings.filter((finding) => found.has(keyOf(finding)));
    looks++;
    looked?.(looks, findings.length);
  }
  const silent = state === 'formatted' ? await silence(onlooker) : [];
  return { state, looks, counts, findings: [...findings, ...silent] };
}

/** Those whose life nothing proves, and who show no sign of it: what they have stays theirs. */
async function silence(onlooker: Onlooker): Promise<Finding[]> {
  const unknown = () => onlooker.peers().filter((peer) => peer.state !== 'dead' && onlooker.lives(peer) === 'unknown');
  if (unknown().length === 0) return [];
  const heard = await onlooker.heartbeats();
  const holdings = onlooker.holdings();
  return unknown()
    .filter(({ slot }) => !heard.has(slot))
    .map(({ slot, name, host }) => ({
      severity: 'note',
      where: `slot ${slot}`,
      message:
        `${name} on ${host} is silent, and nothing proves it dead from here: its ${holdings.get(slot)?.frames ?? 0} ` +
        `frames are kept for it. If it will never run again: isthmus region confirm-dead ${onlooker.path} ${slot}`,
    }));
}

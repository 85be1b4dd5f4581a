/** The check of the frame map: the halves of each run against extents and slots, then the contents of the run. */
import type { Core } from '../../core/core.js';
import type { Attachment } from '../peer-table.js';
import type { RegionView } from '../region-view.js';
import type { Counts, Findings } from './findings.js';
import { RunContents } from './run-contents.js';
import { nameOf, type SlotCheck, type Standing } from './slot-check.js';

/** One half of a run, and the attachment that it names. */
interface Half extends Attachment {
  readonly kind: number;
  readonly frames: number;
  readonly standing: Standing;
}

const same = (a: Attachment, b: Attachment) => a.slot === b.slot && a.generation === b.generation;

export class RunCheck {
  /** Extents that a run lies in. */
  readonly occupied = new Set<number>();
  readonly #core: Core;
  readonly #slots: SlotCheck;
  readonly #counts: Counts;
  readonly #findings: Findings;
  readonly #contents: RunContents;

  constructor(view: RegionView, slots: SlotCheck, counts: Counts, findings: Findings) {
    this.#core = view.core;
    this.#slots = slots;
    this.#counts = counts;
    this.#findings = findings;
    this.#contents = new RunContents(view, counts, findings);
    this.#check();
  }

  #half(frame: number, which: number): Half | undefined {
    const { call } = this.#core;
    if (call.halfFree(frame, which)) return undefined;
    const owner = { slot: call.halfSlot(frame, which), generation: call.halfGeneration(frame, which) >>> 0 };
    const standing = this.#slots.standing(owner);
    return { ...owner, kind: call.halfKind(frame, which), frames: call.halfFrames(frame, which), standing };
  }

  /** The owner of the extent that a frame lies in. */
  #extentOwner(frame: number): Attachment | undefined {
    const { call } = this.#core;
    const extent = Math.floor(frame / call.extentFrames());
    if (call.extentUse(extent) !== 2) return undefined;
    return { slot: call.extentSlot(extent), generation: call.extentGeneration(extent) >>> 0 };
  }

  #check(): void {
    const { HALF_CONSUMER, HALF_PRODUCER } = this.#core.layout;
    const { total, tables } = this.#counts.frames;
    let end = 0;
    let last = 0;
    for (let frame = 0; frame < total; frame++) {
      const consumer = this.#half(frame, HALF_CONSUMER);
      const producer = this.#half(frame, HALF_PRODUCER);
      const halves = [consumer, producer].filter((half) => half !== undefined);
      if (halves.length === 0) continue;
      const where = `run at frame ${frame}`;
      this.#counts.runs.total++;
      if (frame < tables) {
        this.#findings.error(where, 'lies under header and tables');
        continue;
      }
      if (!halves.map((half) => this.#checkHalf(where, frame, half)).every(Boolean)) continue;
      const frames = Math.max(...halves.map((half) => half.frames));
      if (frame < end) this.#findings.error(where, `begins within the run at frame ${last}`);
      if (frame + frames > end) {
        this.#counts.frames.runs += frame + frames - Math.max(frame, end);
        [end, last] = [frame + frames, frame];
      }
      if (consumer && producer && consumer.frames !== producer.frames) {
        this.#findings.error(
          where,
          `its consumer's half has ${consumer.frames} frames, its producer's ${producer.frames}`,
        );
        continue;
      }
      this.#checkRun(where, frame, frames, consumer, producer);
    }
  }

  /** @returns whether the half makes sense by itself */
  #checkHalf(where: string, frame: number, half: Half): boolean {
    const { KIND_HELD, KIND_OFFERED } = this.#core.layout;
    const left = this.#counts.frames.total - frame;
    if (half.kind !== KIND_HELD && half.kind !== KIND_OFFERED) {
      this.#findings.error(where, `one half is of kind ${half.kind}, which does not exist`);
      return false;
    }
    if (half.frames === 0 || half.frames > left) {
      this.#findings.error(where, `has ${half.frames} frames; ${left} are left up to the end`);
      return false;
    }
    if (half.standing === 'never') {
      this.#findings.error(where, `one half names ${nameOf(half)}, which never existed`);
      return false;
    }
    if (half.standing === 'over') {
      // A process that leaves, and one that reclaims what a dead one held, clears all halves before it frees the slot.
      this.#findings.error(where, `leaked: one half names ${nameOf(half)}, which is over: no process will clear it`);
    }
    if (half.standing === 'dead') this.#slots.addRemains(half.slot, 'halves');
    return true;
  }

  #checkRun(
    where: string,
    frame: number,
    frames: number,
    consumer: Half | undefined,
    producer: Half | undefined,
  ): void {
    const { call, layout } = this.#core;
    const each = call.extentFrames();
    const owner = this.#extentOwner(frame);
    for (let at = Math.floor(frame / each); at * each < frame + frames; at++) {
      this.occupied.add(at);
      const other = this.#extentOwner(Math.max(frame, at * each));
      if (!owner || !other || !same(owner, other)) {
        const state = other ? `belongs to ${nameOf(other)}` : 'has no owner';
        this.#findings.error(where, `has ${frames} frames and lies in extent ${at}, which ${state}`);
        return;
      }
    }
    if (!owner) return;
    this.#checkOffers(where, owner, consumer, producer);
    const holders = [consumer, producer].filter((half) => half?.kind === layout.KIND_HELD);
    if (holders.length === 2 && !holders.some((half) => half && same(half, owner))) {
      this.#findings.error(where, `both halves are held, and neither by ${nameOf(owner)}, the owner of its extent`);
    }
    const ofOwner = (half: Half | undefined) => half?.kind === layout.KIND_HELD && same(half, owner);
    // The owner holds the half that it made the run for: it reads from a ring, and writes memory of its application.
    if (ofOwner(consumer)) {
      this.#counts.runs.rings++;
      const writer = producer?.kind === layout.KIND_HELD ? producer : undefined;
      // A dead owner may have left the ring half made.
      if (consumer?.standing === 'there') {
        this.#contents.checkRing(frame, frames, owner.slot, writer !== undefined, producer !== undefined);
      }
    } else if (ofOwner(producer)) {
      this.#counts.runs.memory++;
      if (producer?.standing === 'there') this.#contents.checkMemory(frame, frames);
    } else this.#counts.runs.loose++;
  }

  /** Only the owner of the extent offers a half, and it holds the other half meanwhile. */
  #checkOffers(where: string, owner: Attachment, consumer: Half | undefined, producer: Half | undefined): void {
    const { KIND_OFFERED } = this.#core.layout;
    const offers = [consumer, producer].filter((half) => half?.kind === KIND_OFFERED);
    const otherHalf = (offers[0] === consumer ? producer : consumer) ?? undefined;
    const stranger = offers.find((half) => half && !same(half, owner));
    if (stranger) {
      this.#findings.error(where, `${nameOf(stranger)} offers it, and its extent belongs to ${nameOf(owner)}`);
    } else if (offers.length === 2) {
      this.#findings.error(where, 'both halves are offered, and no process holds one');
    } else if (offers.length === 1 && offers[0]?.standing !== 'dead' && !(otherHalf && same(otherHalf, owner))) {
      this.#findings.error(where, `${nameOf(owner)} offers one half and does not hold the other`);
    }
  }
}

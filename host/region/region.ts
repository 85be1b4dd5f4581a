/**
 * One attached region: a core on shared pages, our slot in its peer table, and the upkeep (heartbeat, the dead).
 */

import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { IsthmusError } from '../base/errors.js';
import type { Core } from '../core/core.js';
import { type Backing, type Identity, pidNamespace } from '../device/backing.js';
import { Doorbells } from './doorbell.js';
import { type Attachment, MappedRegion } from './mapped.js';

/** Pause between heartbeats and looks for the dead, in milliseconds. */
const UPKEEP = 500;
/** When to look for the dead after a peer's socket broke, in milliseconds: its lock may fall a little later. */
const REAP_DELAYS = [0, 5, 20, 100, 300];
/**
 * So many rounds of upkeep in a row a peer's slot is no longer his before his connections are given up: who closes them
 * in order says so over the guard, and that may still be on its way.
 */
const GONE_ROUNDS = 4;

/** Who looks after somebody's slot. */
export interface Watcher {
  /** That attachment is over: its owner left, or was declared dead. Told once. */
  gone(): void;
  /**
   * It is there, and its heartbeat has stood still for so long, in milliseconds: told at each round of upkeep, and with 0
   * when it has moved again. Only the rounds count, each as one pause: how long this process itself was stopped, or its
   * event loop kept busy, is nobody else's silence.
   */
  silent(ms: number): void;
}

/** Somebody whose slot is looked after. */
interface Watched extends Attachment {
  readonly watcher: Watcher;
  /** Rounds of upkeep in a row in which the slot was not his. */
  lost: number;
  heartbeat: number;
  /** Rounds in a row in which the heartbeat was the same. */
  still: number;
}

export class Region {
  readonly backing: Backing;
  readonly core: Core;
  readonly #mapped: MappedRegion;
  #upkeep: NodeJS.Timeout | undefined;
  readonly #reaps = new Set<NodeJS.Timeout>();
  readonly #watched = new Set<Watched>();
  #detached = false;
  #capacity = 0;
  #doorbells: Doorbells | undefined;
  /** Called once when our slot was taken away by somebody who declared us dead. */
  onFenced: ((error: IsthmusError) => void) | undefined;

  private constructor(mapped: MappedRegion) {
    this.#mapped = mapped;
    this.backing = mapped.backing;
    this.core = mapped.core;
  }

  /**
   * Map the backing, format it if it is blank and that is allowed, and take a slot.
   * @param name of the runtime, for people
   * @throws ERR_ISTHMUS_REGION_… , ERR_ISTHMUS_NATIVE_MISSING, ERR_ISTHMUS_SYSCALL; nothing stays behind
   */
  static async attach(backing: Backing, name: string, signal?: AbortSignal): Promise<Region> {
    const mapped = await MappedRegion.open(backing, signal);
    const region = new Region(mapped);
    try {
      region.#takeSlot(name);
    } catch (error) {
      mapped.detach();
      throw error;
    }
    // What the dead of before held is there for what we are about to do, not only with the first upkeep.
    mapped.reap();
    const us = { slot: region.slot, generation: region.generation };
    region.#doorbells = new Doorbells(region.identity, us);
    region.core.sleeper = region.#doorbells;
    region.#upkeep = setInterval(() => region.#maintain(), UPKEEP).unref();
    return region;
  }

  #takeSlot(name: string): void {
    if (this.#claimSlot(name)) return;
    this.#mapped.reap();
    if (this.#claimSlot(name)) return;
    const { path } = this.backing;
    throw new IsthmusError('ERR_ISTHMUS_REGION_FULL', `${path}: all ${this.slots} slots are taken`, { path });
  }

  #claimSlot(name: string): boolean {
    const { call, layout, view, bytes } = this.core;
    for (let slot = 0; slot < this.slots; slot++) {
      if (call.slotState(slot) !== layout.SLOT_FREE || !this.#mapped.mapping.lock(slot)) continue;
      if (!call.claimSlot(slot, this.#mapped.identity.hash)) {
        this.#mapped.mapping.unlock(slot);
        continue;
      }
      const at = call.slotAddress(slot);
      bytes.set(randomBytes(8), at + layout.SLOT_INSTANCE);
      view.setBigUint64(at + layout.SLOT_DEV, this.#mapped.identity.dev, true);
      view.setBigUint64(at + layout.SLOT_INO, this.#mapped.identity.ino, true);
      bytes.set(this.#mapped.identity.boot, at + layout.SLOT_BOOT);
      view.setBigUint64(at + layout.SLOT_PIDNS, pidNamespace(), true);
      view.setUint32(at + layout.SLOT_PID, process.pid, true);
      this.core.setText(at + layout.SLOT_HOST, layout.SLOT_TEXT_LENGTH, hostname());
      this.core.setText(at + layout.SLOT_NAME, layout.SLOT_TEXT_LENGTH, name);
      call.publishSlot();
      return true;
    }
    return false;
  }

  get slots(): number {
    return this.#mapped.slots;
  }

  /** 16 bytes. */
  get uuid(): Buffer {
    const at = this.core.layout.HEADER_UUID;
    return Buffer.from(this.core.bytes.slice(at, at + 16));
  }

  get slot(): number {
    return this.core.call.mySlot();
  }

  get generation(): number {
    return this.core.call.myGeneration() >>> 0;
  }

  /** Which file or device this is. */
  get identity(): Identity {
    return this.#mapped.identity;
  }

  /** Who wakes us, and whom we wake. */
  get doorbells(): Doorbells {
    return this.#doorbells as Doorbells;
  }

  /** Whether connections may be made through it: attached, and our slot is still ours. */
  get usable(): boolean {
    return !this.#detached && this.core.call.holdsSlot() !== 0;
  }

  /** Whether it is still mapped: asks nothing of the core, unlike {@link usable}. */
  get attached(): boolean {
    return !this.#detached;
  }

  /** Bytes of the longest message that could lie in a run of its, if nobody else used the region. */
  get capacity(): number {
    if (this.#capacity === 0) {
      const { call, layout } = this.core;
      const extent = call.extentFrames() * layout.FRAME;
      const bytes = call.regionFrames.value * layout.FRAME;
      this.#capacity = bytes - (bytes % extent) - call.tableBytes() - layout.FRAME;
    }
    return this.#capacity;
  }

  /** A peer's socket broke: look for its death now and a few times soon. */
  reapSoon(): void {
    for (const delay of REAP_DELAYS) {
      const timer = setTimeout(() => {
        this.#reaps.delete(timer);
        if (!this.#detached) this.#mapped.reap();
      }, delay).unref();
      this.#reaps.add(timer);
    }
  }

  #maintain(): void {
    const { call } = this.core;
    if (!call.holdsSlot()) {
      const error = new IsthmusError(
        'ERR_ISTHMUS_REGION_FENCED',
        `${this.backing.path}: this process was declared dead and its slot ${this.slot} taken away`,
        { path: this.backing.path },
      );
      clearInterval(this.#upkeep);
      this.onFenced?.(error);
      return;
    }
    call.beat();
    this.#mapped.reap();
    call.trim();
    for (const watched of this.#watched) this.#look(watched);
  }

  #look(watched: Watched): void {
    const { call } = this.core;
    const { slot, generation, watcher } = watched;
    // Before the question whose it is, so that it is not the heartbeat of the next one.
    const heartbeat = call.heartbeat(slot);
    if (!call.alive(slot, generation | 0)) {
      if (++watched.lost < GONE_ROUNDS) return;
      this.#watched.delete(watched);
      watcher.gone();
      return;
    }
    watched.lost = 0;
    if (heartbeat === watched.heartbeat) {
      watcher.silent(++watched.still * UPKEEP);
      return;
    }
    watched.heartbeat = heartbeat;
    if (watched.still === 0) return;
    watched.still = 0;
    watcher.silent(0);
  }

  /**
   * Be told how that attachment fares.
   * @returns to be called when that is of no interest any more; idempotent
   */
  watch({ slot, generation }: Attachment, watcher: Watcher): () => void {
    const heartbeat = this.core.call.heartbeat(slot);
    const watched: Watched = { slot, generation, watcher, lost: 0, heartbeat, still: 0 };
    this.#watched.add(watched);
    return () => this.#watched.delete(watched);
  }

  /**
   * Leave the region: slot, frames, mapping, descriptor. Idempotent. No link of it is open any more.
   * @param keep places in the memory whose bytes an application still looks at: they stay as they are
   */
  detach(keep: readonly { readonly offset: number; readonly length: number }[] = []): void {
    if (this.#detached) return;
    this.#detached = true;
    clearInterval(this.#upkeep);
    for (const timer of this.#reaps) clearTimeout(timer);
    this.#watched.clear();
    this.#doorbells?.close();
    const { bytes } = this.core;
    const copies = keep.map(({ offset, length }) => ({ offset, copy: bytes.slice(offset, offset + length) }));
    this.core.call.leave();
    this.#mapped.detach();
    for (const { offset, copy } of copies) bytes.set(copy, offset);
  }
}

/** A region that a process is attached to: a core on shared pages, a slot in the peer table, and its upkeep. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { IsthmusError } from '../base/errors.js';
import type { Core } from '../core/core.js';
import { type Backing, systemError } from '../device/backing.js';
import { type Identity, pidNamespace } from '../device/identity.js';
import { Doorbells, removeStaleDoorbells } from './doorbell.js';
import { type MapOptions, MappedRegion } from './mapped.js';
import type { Attachment } from './peer-table.js';
import { type PeerObserver, PeerWatch } from './peer-watch.js';

/** Interval of the upkeep: heartbeat, checks of the peers, reclaiming of what dead ones held. */
const UPKEEP_MS = 500;
/** When to check for dead peers after the socket of one broke: its lock may be dropped a little later. */
const REAP_DELAYS_MS = [0, 5, 20, 100, 300];

export class Region {
  readonly backing: Backing;
  readonly core: Core;
  /** 16 bytes, as they were at the beginning: a region that is lost has none. */
  readonly uuid: Buffer;
  readonly #mapped: MappedRegion;
  #upkeep: NodeJS.Timeout | undefined;
  readonly #reaps = new Set<NodeJS.Timeout>();
  readonly #peers: PeerWatch;
  #detached = false;
  #capacity = 0;
  /** The doorbell of this process, and those of its peers. */
  readonly doorbells: Doorbells;
  #lost: IsthmusError | undefined;
  /**
   * Called once, when no other code of the process runs: another process has declared this one dead or fenced it, and so
   * taken away its slot (ERR_ISTHMUS_REGION_FENCED); or the pages of the region are gone (ERR_ISTHMUS_REGION_LOST).
   */
  onLost: ((error: IsthmusError) => void) | undefined;

  private constructor(mapped: MappedRegion) {
    this.#mapped = mapped;
    this.backing = mapped.backing;
    this.core = mapped.core;
    const at = this.core.layout.HEADER_UUID;
    this.uuid = Buffer.from(this.core.bytes.slice(at, at + 16));
    this.#peers = new PeerWatch(mapped.core, UPKEEP_MS);
    this.doorbells = new Doorbells(mapped.identity, {
      slots: this.slots,
      self: () => ({ slot: this.slot, generation: this.generation }),
      doorbellOf: (peer) => this.#doorbellOf(peer),
    });
  }

  /**
   * Map the backing, format it if it is blank and that is allowed, and take a slot.
   * @param name of the runtime, for people
   * @throws ERR_ISTHMUS_REGION_… , ERR_ISTHMUS_NATIVE_MISSING, ERR_ISTHMUS_SYSCALL; nothing stays behind
   */
  static async attach(backing: Backing, name: string, options: MapOptions = {}): Promise<Region> {
    const mapped = await MappedRegion.open(backing, options);
    const region = new Region(mapped);
    try {
      region.#takeSlot(name);
      // What earlier dead peers held is available at once, not only with the first upkeep.
      mapped.reap();
      mapped.check();
    } catch (error) {
      if (mapped.core.call.myGeneration() !== 0) region.detach();
      else {
        region.doorbells.close();
        mapped.detach();
      }
      // Locks may be refused: by a sandbox, by a limit, by the file system.
      throw error instanceof IsthmusError ? error : systemError(error, 'cannot take a slot in', backing.path);
    }
    region.core.onLost = () => region.#lose(undefined);
    removeStaleDoorbells();
    region.core.sleeper = region.doorbells;
    region.#upkeep = setInterval(() => region.#maintain(), UPKEEP_MS).unref();
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
      bytes.set(this.doorbells.id, at + layout.SLOT_DOORBELL);
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

  get slot(): number {
    return this.core.call.mySlot();
  }

  get generation(): number {
    return this.core.call.myGeneration() >>> 0;
  }

  get identity(): Identity {
    return this.#mapped.identity;
  }

  /** A copy of what the slot of a peer says. */
  #doorbellOf({ slot, generation }: Attachment): Uint8Array | undefined {
    const { call, layout, bytes } = this.core;
    const at = call.slotAddress(slot) + layout.SLOT_DOORBELL;
    const id = bytes.slice(at, at + 16);
    // Read first: the next owner of the slot has another generation.
    return call.slotGeneration(slot) >>> 0 === generation ? id : undefined;
  }

  /** Whether connections may be made through it: it is attached, and the slot has not been taken away. */
  get usable(): boolean {
    return !this.#detached && !this.#lost && !this.core.lost && this.core.call.holdsSlot() !== 0;
  }

  /** Whether it is still mapped. Unlike {@link usable} this does not call into the core. */
  get attached(): boolean {
    return !this.#detached;
  }

  /** Bytes of the longest message that fits into a run, if no other process used the region. */
  get capacity(): number {
    if (this.#capacity === 0) {
      const { call, layout } = this.core;
      const extent = call.extentFrames() * layout.FRAME;
      const bytes = call.regionFrames.value * layout.FRAME;
      this.#capacity = bytes - (bytes % extent) - call.tableBytes() - layout.FRAME;
    }
    return this.#capacity;
  }

  /** The socket of a peer broke: check now, and a few times soon, whether it is dead. */
  reapSoon(): void {
    for (const delay of REAP_DELAYS_MS) {
      const timer = setTimeout(() => {
        this.#reaps.delete(timer);
        if (!this.#detached) this.#reap();
      }, delay).unref();
      this.#reaps.add(timer);
    }
  }

  #reap(): void {
    if (this.#mapped.reap().length > 0) removeStaleDoorbells();
  }

  #maintain(): void {
    if (this.verify()) return this.#tell();
    const { call } = this.core;
    call.beat();
    this.#reap();
    call.trim();
    this.doorbells.retry();
    this.#peers.round();
  }

  #fenced(): IsthmusError {
    const { path } = this.backing;
    const message = `${path}: this process was declared dead and its slot ${this.slot} taken away`;
    return new IsthmusError('ERR_ISTHMUS_REGION_FENCED', message, { path });
  }

  /** Why the region is lost to this process, if it is. Looks whether its file has all of its pages. */
  whyLost(): IsthmusError | undefined {
    if (this.#lost || this.#detached) return this.#lost;
    const error = this.#mapped.whyLost();
    return error && this.#lose(error);
  }

  /**
   * Why the region is lost to this process, if it is. Unlike {@link whyLost} this looks into the region as well: at the own
   * slot, which another process may have taken away.
   */
  verify(): IsthmusError | undefined {
    if (this.#detached) return this.#lost;
    const { call, layout } = this.core;
    // The access to the slot comes first: it may be the one that finds the page gone.
    const holds = call.holdsSlot() !== 0;
    const lost = this.whyLost();
    if (lost || holds) return lost;
    // A file that was truncated and has its length again, or a device that is gone, has no header either.
    const there = call.inspect() === layout.INSPECT_READY;
    return this.#lose(there ? this.#fenced() : this.#mapped.lostError());
  }

  /** @param why undefined: an access has found the pages gone */
  #lose(why: IsthmusError | undefined): IsthmusError {
    if (!this.#lost) {
      this.#lost = why ?? this.#mapped.lostError();
      // The caller may be in the middle of a message.
      queueMicrotask(() => this.#tell());
    }
    return this.#lost;
  }

  #tell(): void {
    const { onLost } = this;
    if (this.#detached || !this.#lost || !onLost) return;
    clearInterval(this.#upkeep);
    this.onLost = undefined;
    onLost(this.#lost);
  }

  /** Watch a peer's slot. @returns ends the watch. Idempotent */
  watch(peer: Attachment, observer: PeerObserver): () => void {
    return this.#peers.add(peer, observer);
  }

  /**
   * Leave the region: slot, frames, mapping, descriptor. Idempotent. No link through it may be open.
   * @param keep places in the memory whose bytes an application still uses: they stay as they are
   */
  detach(keep: readonly { readonly offset: number; readonly length: number }[] = []): void {
    if (this.#detached) return;
    this.#detached = true;
    clearInterval(this.#upkeep);
    for (const timer of this.#reaps) clearTimeout(timer);
    this.#peers.clear();
    this.doorbells.close();
    const { bytes } = this.core;
    const copies = keep.map(({ offset, length }) => ({ offset, copy: bytes.slice(offset, offset + length) }));
    this.core.call.leave();
    this.#mapped.detach();
    for (const { offset, copy } of copies) bytes.set(copy, offset);
  }
}

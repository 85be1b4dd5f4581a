/**
 * What a region says to somebody who only looks: from a copy of its tables, without a slot, without writing.
 *
 * Of a file the copy comes by read(2): a mapped page may turn out not to be there (a sparse file on a full file system,
 * one that is truncated meanwhile), and that ends the process with SIGBUS. Of a device it comes from a mapping with PROT_READ
 * alone: read(2) on a uio device waits for an interrupt, on a PCI resource in memory it fails. Either way the core works on the copy, and what it finds
 * there may be as wrong as it likes.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { IsthmusError } from '../base/errors.js';
import { Core } from '../core/core.js';
import { type Backing, checkSize, type Identity, identityOf, systemError, usableSize } from '../device/backing.js';
import { foreign } from '../device/posix.js';
import { type Mapping, mapper, mapperMissing } from '../native/native.js';

const MIB = 0x100000;
/** A process counts its heartbeat up twice a second; a busy machine may be late with it. In milliseconds. */
const HEARTBEAT_LIMIT = 2000;
const HEARTBEAT_LOOK = 50;

/** One row of the peer table. Text and numbers are the peer's own words. */
export interface PeerSlot {
  readonly slot: number;
  readonly generation: number;
  /** `fenced`: shut out, and what it has is kept for it. */
  readonly state: 'claimed' | 'attached' | 'dead' | 'fenced';
  readonly host: string;
  readonly name: string;
  readonly pid: number;
  /** Number of its pid namespace, in decimal. */
  readonly pidNamespace: string;
  /** Counts up while it lives. */
  readonly heartbeat: number;
  /** Whether it runs on this kernel and on this very file, so that its life or death can be proven. */
  readonly local: boolean;
}

/**
 * Whether the slot's owner runs on our kernel and has our very file open, so that we would see its lock. Whoever has come
 * to the same memory another way (through `/dev/uioN`, we through `resource2`) has another file open: its lock is not to
 * be seen here, nothing is proven, and it is never taken for dead.
 */
export function isLocal({ call, layout, view, bytes }: Core, slot: number, identity: Identity): boolean {
  if (call.slotKernel(slot) !== identity.hash) return false;
  // Between claim and publication the hash is all there is, and it is enough for that instant.
  if (call.slotState(slot) === layout.SLOT_CLAIMED) return true;
  const at = call.slotAddress(slot);
  const boot = bytes.slice(at + layout.SLOT_BOOT, at + layout.SLOT_BOOT + 16);
  return (
    view.getBigUint64(at + layout.SLOT_DEV, true) === identity.dev &&
    view.getBigUint64(at + layout.SLOT_INO, true) === identity.ino &&
    Buffer.compare(boot, identity.boot) === 0
  );
}

/** Why a region with these bytes cannot be used; `state`: INSPECT_…, but READY, BLANK and FORMATTING. */
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

/** What the header says. */
export interface Overview {
  readonly state: 'formatted' | 'blank' | 'being formatted' | 'refused';
  readonly version: number | undefined;
  readonly uuid: string | undefined;
  /** Who formatted it. */
  readonly host: string | undefined;
  /** Slots in all. */
  readonly slots: number;
  readonly refused: IsthmusError | undefined;
}

/** Frames of 4 KiB. */
export interface FrameCount {
  readonly frameSize: number;
  readonly total: number;
  /** Under header and tables. */
  readonly tables: number;
  readonly free: number;
  /** Taken by some process, whether it uses them or not. */
  readonly taken: number;
  /** Of these, in runs that somebody reads or writes. */
  readonly inUse: number;
}

/** A ring: which slot writes to which. */
export interface RingView {
  /** Undefined: nobody writes yet. */
  readonly from: number | undefined;
  readonly to: number;
  readonly capacity: number;
  /** Bytes that were written and not yet given back by the reader; undefined if its words make no sense. */
  readonly used: number | undefined;
}

export interface Holdings {
  readonly frames: number;
  readonly connections: number;
}

/**
 * When heartbeats changed, over several looks. A heartbeat is a count, not a time: the clocks of two machines do not
 * agree.
 */
export class Heartbeats {
  readonly #seen = new Map<number, { generation: number; heartbeat: number; since: number; changed: boolean }>();

  look(peers: readonly PeerSlot[]): void {
    const now = performance.now();
    for (const { slot, generation, heartbeat } of peers) {
      const before = this.#seen.get(slot);
      if (before?.generation !== generation) {
        this.#seen.set(slot, { generation, heartbeat, since: now, changed: false });
      } else if (before.heartbeat !== heartbeat) {
        this.#seen.set(slot, { generation, heartbeat, since: now, changed: true });
      }
    }
    // Those that are gone will not be seen any more.
    for (const slot of this.#seen.keys()) if (!peers.some((peer) => peer.slot === slot)) this.#seen.delete(slot);
  }

  /** Slots of which no change was seen. */
  silent(): number[] {
    return [...this.#seen].flatMap(([slot, { changed }]) => (changed ? [] : [slot]));
  }

  /** How long the last change was ago, in milliseconds; undefined: none was seen. */
  age({ slot }: Pick<PeerSlot, 'slot'>): number | undefined {
    const seen = this.#seen.get(slot);
    return seen?.changed ? performance.now() - seen.since : undefined;
  }

  /** How long we have been looking without seeing one, or the same as age(), in milliseconds. */
  silence({ slot }: Pick<PeerSlot, 'slot'>): number {
    return performance.now() - (this.#seen.get(slot)?.since ?? performance.now());
  }
}

function formatUuid(uuid: Uint8Array): string {
  const hex = Buffer.from(uuid).toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

type Where = Pick<Backing, 'path' | 'kind' | 'size' | 'offset'>;

/** Looks at a region, again and again if it likes. To be closed. */
export class Onlooker implements Disposable {
  readonly path: string;
  readonly size: number;
  readonly #offset: number;
  readonly #fd: number;
  /** What the copy is made from, where it is mapped. */
  readonly #mapped: { readonly core: Core; readonly mapping: Mapping } | undefined;
  /** Its window holds a copy of header and tables, nothing of what is behind them. */
  readonly core: Core;
  /** Which file or device this is. */
  readonly identity: Identity;

  private constructor({ path, kind, size, offset }: Where, fd: number) {
    this.path = path;
    this.size = size;
    this.#offset = offset;
    this.#fd = fd;
    this.identity = identityOf(fd);
    const core = new Core(MIB);
    if (!core.call.geometry(size))
      throw new IsthmusError('ERR_ISTHMUS_REGION_SIZE', `${path}: ${size} bytes`, { path });
    this.core = core.call.tableBytes() <= MIB ? core : new Core(Math.ceil(core.call.tableBytes() / MIB) * MIB);
    this.core.call.geometry(size);
    if (kind !== 'posix') {
      const mapped = new Core(size);
      const { layout, memory } = mapped;
      const mapping = mapper().map(memory.buffer, layout.WINDOW, size, fd, offset, { readOnly: true });
      this.#mapped = { core: mapped, mapping };
    }
    this.look();
  }

  /** @throws ERR_ISTHMUS_REGION_…, ERR_ISTHMUS_NATIVE_MISSING (of a device), ERR_ISTHMUS_SYSCALL */
  static of(backing: Where & Pick<Backing, 'look'>): Onlooker {
    return Onlooker.#on(backing, backing.look?.() ?? openReadOnly(backing.path));
  }

  /**
   * A file, whosesoever it is: who may read it may look.
   * @throws ERR_ISTHMUS_REGION_NOT_FOUND, _PERMISSIONS, _TOO_SMALL, _SIZE, ERR_ISTHMUS_SYSCALL
   */
  static ofFile(path: string): Onlooker {
    const fd = openReadOnly(path);
    let size: number;
    try {
      size = fstatSync(fd).size;
      checkSize(size, path);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    return Onlooker.#on({ path, kind: 'posix', size: usableSize(size), offset: 0 }, fd);
  }

  static #on(where: Where, fd: number): Onlooker {
    try {
      return new Onlooker(where, fd);
    } catch (error) {
      closeSync(fd);
      throw error instanceof IsthmusError ? error : systemError(error, 'cannot read', where.path);
    }
  }

  /** Copy header and tables anew. */
  look(): void {
    this.core.bytes.set(this.read(0, this.core.call.tableBytes()), this.core.layout.WINDOW);
  }

  /** A copy of bytes of the region as they are now; zeros where a file has ended meanwhile. */
  read(from: number, length: number): Buffer {
    if (this.#mapped) {
      const { bytes, layout } = this.#mapped.core;
      return Buffer.from(bytes.slice(layout.WINDOW + from, layout.WINDOW + from + length).buffer);
    }
    const copy = Buffer.alloc(length);
    readSync(this.#fd, copy, 0, length, this.#offset + from);
    return copy;
  }

  overview(): Overview {
    const { call, layout, view, bytes } = this.core;
    const nothing = { version: undefined, uuid: undefined, host: undefined, slots: 0, refused: undefined };
    const state = call.inspect();
    if (state === layout.INSPECT_BLANK) return { ...nothing, state: 'blank' };
    if (state === layout.INSPECT_FORMATTING) return { ...nothing, state: 'being formatted' };
    if (state !== layout.INSPECT_READY) {
      return { ...nothing, state: 'refused', refused: refusal(this.core, this.path, this.size, state) };
    }
    return {
      state: 'formatted',
      version: view.getUint32(layout.HEADER_VERSION, true),
      uuid: formatUuid(bytes.slice(layout.HEADER_UUID, layout.HEADER_UUID + 16)),
      host: this.core.text(layout.HEADER_HOST, layout.HEADER_HOST_LENGTH),
      slots: call.regionSlots.value,
      refused: undefined,
    };
  }

  /** Everybody in the peer table. */
  peers(): PeerSlot[] {
    const { call, layout, view } = this.core;
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
        host: this.core.text(at + layout.SLOT_HOST, layout.SLOT_TEXT_LENGTH),
        name: this.core.text(at + layout.SLOT_NAME, layout.SLOT_TEXT_LENGTH),
        pid: view.getUint32(at + layout.SLOT_PID, true),
        pidNamespace: String(view.getBigUint64(at + layout.SLOT_PIDNS, true)),
        heartbeat: Number(view.getBigUint64(at + layout.SLOT_HEARTBEAT, true)),
        local: isLocal(this.core, slot, this.identity),
      });
    }
    return rows;
  }

  /** Whether somebody on this kernel holds the lock on that byte. Undefined without the native part. */
  locked(byte: number): boolean | undefined {
    return mapperMissing() ? undefined : mapper().locked(this.#fd, byte);
  }

  /** What its lock proves of the owner of a slot. */
  lives({ slot, local }: PeerSlot): 'alive' | 'dead' | 'unknown' {
    const locked = local ? this.locked(slot) : undefined;
    return locked === undefined ? 'unknown' : locked ? 'alive' : 'dead';
  }

  /**
   * Watch until every heartbeat was seen to change, for some two seconds at most.
   * @returns how long the last change was ago, by slot, in milliseconds; those are missing of which none was seen
   */
  async heartbeats(): Promise<ReadonlyMap<number, number>> {
    const start = performance.now();
    const watch = new Heartbeats();
    watch.look(this.peers());
    while (watch.silent().length > 0 && performance.now() - start < HEARTBEAT_LIMIT) {
      await sleep(HEARTBEAT_LOOK);
      this.look();
      watch.look(this.peers());
    }
    return new Map(
      this.peers().flatMap((peer) => {
        const age = watch.age(peer);
        return age === undefined ? [] : [[peer.slot, Math.round(age)]];
      }),
    );
  }

  /**
   * Watch until the heartbeat of that slot changes.
   * @param limit in milliseconds
   * @returns false: it did not
   */
  async beats(slot: number, limit: number): Promise<boolean> {
    const until = performance.now() + limit;
    const count = () => this.peers().find((peer) => peer.slot === slot)?.heartbeat;
    for (const first = count(); count() === first; this.look()) {
      if (performance.now() > until) return false;
      await sleep(HEARTBEAT_LOOK);
    }
    return true;
  }

  /** What somebody has of the region: frames that he has taken, and rings that he reads and somebody writes. */
  holdings(): ReadonlyMap<number, Holdings> {
    const { call } = this.core;
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
    for (const { from, to } of this.rings()) if (from !== undefined) of(to).connections++;
    return found;
  }

  frames(): FrameCount {
    const { call, layout } = this.core;
    const total = call.regionFrames.value;
    const tables = call.tableBytes() / layout.FRAME;
    const each = call.extentFrames();
    let free = 0;
    for (let extent = 0; extent < total / each; extent++) if (call.extentUse(extent) === 0) free += each;
    let inUse = 0;
    for (const { frames } of this.#runs()) inUse += frames;
    return { frameSize: layout.FRAME, total, tables, free, taken: total - tables - free, inUse };
  }

  /** Runs of frames of which at least one half is held or offered. */
  *#runs(): Generator<{ frame: number; frames: number }> {
    const { call, layout } = this.core;
    const total = call.regionFrames.value;
    for (let frame = call.tableBytes() / layout.FRAME; frame < total; ) {
      const length = (which: number) => (call.halfKind(frame, which) === 0 ? 0 : call.halfFrames(frame, which));
      const frames = Math.min(total - frame, length(layout.HALF_CONSUMER) || length(layout.HALF_PRODUCER));
      if (frames > 0) yield { frame, frames };
      frame += Math.max(1, frames);
    }
  }

  rings(): RingView[] {
    const { call, layout } = this.core;
    const rings: RingView[] = [];
    for (const { frame, frames } of this.#runs()) {
      if (call.halfKind(frame, layout.HALF_CONSUMER) !== layout.KIND_HELD) continue;
      const to = call.halfSlot(frame, layout.HALF_CONSUMER);
      // The reader makes the ring that it reads from; of anything else the writer is the owner.
      if (call.extentSlot(Math.floor(frame / call.extentFrames())) !== to) continue;
      const { capacity, used } = this.#ringAt(frame);
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

  /** The words of a ring at that frame, if there is one. */
  #ringAt(frame: number): { capacity: number; used: number } {
    const { layout } = this.core;
    const words = this.read(frame * layout.FRAME, layout.RING_ARMED);
    const head = words.readUInt32LE(layout.RING_HEAD);
    const tail = words.readUInt32LE(layout.RING_TAIL);
    return { capacity: words.readUInt32LE(layout.RING_CAPACITY), used: (tail - head) >>> 0 };
  }

  close(): void {
    this.#mapped?.mapping.detach();
    closeSync(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function openReadOnly(path: string): number {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw systemError(error, 'there is no region', path, 'ERR_ISTHMUS_REGION_NOT_FOUND');
    if (code === 'ELOOP' || code === 'EACCES') {
      throw systemError(error, 'may not open the region', path, 'ERR_ISTHMUS_REGION_PERMISSIONS');
    }
    throw systemError(error, 'cannot open', path);
  }
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw new IsthmusError('ERR_ISTHMUS_REGION_PERMISSIONS', `${path}: is not a regular file`, { path });
}

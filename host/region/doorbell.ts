/**
 * Doorbells between processes of one kernel. A doorbell is a FIFO in /dev/shm that the event loop of its owner waits for.
 * A peer rings it after it has committed a record to the owner's ring while the owner slept.
 *
 * Its name has the region's file and a random part, which its owner publishes in its slot: no other user can take the name
 * before, and what is written there leads to no doorbell of another region. Only the
 * owner's user and root may open it (mode 0600), and a peer opens it only if it belongs to the peer's own user or to root
 * (native/doorbells.cc): between two users there is no doorbell. No descriptor goes from one process to another. That is
 * on purpose: writing to, closing and even dropping a descriptor that another user has made may block for as long as that
 * user likes, and a listening Unix-domain socket takes descriptors from every process that may connect.
 *
 * A peer that has opened the doorbell says which one it is. The owner remembers these peers, since it may sleep only while
 * all peers can ring. Peers that see another /dev/shm, as those in virtual machines, have no doorbell, and the owner polls
 * by a timer then.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, constants, type Dir, lstatSync, opendirSync, openSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { Identity } from '../device/identity.js';
import { SHM } from '../device/posix.js';
import { addon, type PeerDoorbell as Opened, type OwnDoorbell } from '../native/native.js';
import type { Attachment } from './peer-table.js';

const PREFIX = 'isthmus-bell-';
/** Bytes of the random part of the name. */
const ID_BYTES = 16;

/** Names in /dev/shm that one search reads: every user may create files there. */
const MAX_ENTRIES = 4096;
/** Between two searches of this process: the event loop waits for each. */
const SEARCH_PAUSE_MS = 5000;
/** A younger FIFO may be one that its owner has not locked yet. */
const MIN_STALE_MS = 1000;

type File = Pick<Identity, 'dev' | 'ino'>;

const keyOf = ({ slot, generation }: Attachment): string => `${slot}/${generation}`;

/** @param id 16 bytes, which are no view of a region */
function pathOf({ dev, ino }: File, id: Uint8Array): string {
  return join(SHM, `${PREFIX}${dev}-${ino}-${Buffer.from(id).toString('hex')}`);
}

/** The doorbells of this process. Its end by `process.exit()` runs no hook of the native part. */
const open = new Set<Doorbell>();

function closeAll(): void {
  for (const bell of open) bell.close();
}

/** The doorbell of this process. */
export class Doorbell {
  /** The random part of its name. */
  readonly id = randomBytes(ID_BYTES);
  readonly #fifo: OwnDoorbell;
  /** Generation of the peer that has the doorbell, by slot: a slot has one owner at a time. */
  readonly #holders = new Map<number, number>();
  readonly #slots: number;

  /**
   * @param slots of the region
   * @throws an error of a system call
   */
  constructor(region: File, slots: number, onRung: () => void) {
    this.#slots = slots;
    this.#fifo = new (addon().Doorbell)(pathOf(region, this.id), (rung, callers) => {
      if (callers) this.#introduced(callers);
      if (rung) onRung();
    });
    if (open.size === 0) process.on('exit', closeAll);
    open.add(this);
  }

  #introduced(callers: Uint32Array): void {
    for (let i = 0; i + 1 < callers.length; i += 2) {
      const [slot, generation] = [callers[i] as number, callers[i + 1] as number];
      if (slot < this.#slots) this.#holders.set(slot, generation);
    }
  }

  /** Whether that peer can ring. */
  heldBy({ slot, generation }: Attachment): boolean {
    return this.#holders.get(slot) === generation;
  }

  close(): void {
    this.#fifo.close();
    open.delete(this);
    if (open.size === 0) process.off('exit', closeAll);
  }
}

let lastSearch = Number.NEGATIVE_INFINITY;
let nextSearch: NodeJS.Timeout | undefined;

/**
 * Remove the doorbells that killed processes of this user have left behind: now, or as soon as the pause behind the last
 * search is over. The lock of the owner tells that it lives.
 */
export function removeStaleDoorbells(): void {
  if (nextSearch) return;
  const wait = lastSearch + SEARCH_PAUSE_MS - performance.now();
  if (wait <= 0) search();
  else nextSearch = setTimeout(search, wait).unref();
}

function search(): void {
  nextSearch = undefined;
  lastSearch = performance.now();
  let folder: Dir;
  try {
    folder = opendirSync(SHM, { bufferSize: 256 });
  } catch {
    return; // Without /dev/shm there are no doorbells.
  }
  try {
    for (let read = 0; read < MAX_ENTRIES; read++) {
      const entry = folder.readSync();
      if (!entry) break;
      if (entry.name.startsWith(PREFIX) && entry.isFIFO()) removeIfStale(join(SHM, entry.name));
    }
  } catch {
    // What is not removed now is removed later.
  } finally {
    folder.closeSync();
  }
}

function removeIfStale(path: string): void {
  let fd: number | undefined;
  try {
    const found = lstatSync(path);
    // Another user's FIFO is not opened: that may block. One of this user stays what it is, since /dev/shm is sticky.
    if (!found.isFIFO() || found.uid !== process.geteuid?.() || Date.now() - found.ctimeMs < MIN_STALE_MS) return;
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    if (!addon().locked(fd, 0)) unlinkSync(path);
  } catch {
    // Another process was faster.
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** The doorbell of a peer, for all connections to it. */
export class PeerDoorbell {
  #opened: Opened | undefined;
  #closed = false;
  readonly #open: () => Opened | undefined;

  /** @param open opens it, if the peer has one. May throw */
  constructor(open: () => Opened | undefined) {
    this.#open = open;
    this.retry();
  }

  /** Open it, if it is not open. */
  retry(): void {
    if (this.#opened || this.#closed) return;
    try {
      this.#opened = this.#open();
    } catch {
      // Another kernel, another /dev/shm, another user, or no descriptor is left: the peer polls by a timer.
    }
  }

  /** Wake the peer, if possible, without blocking. (wake.pml: ring) */
  ring(): void {
    // The peer sleeps, so it counts this process among those that can ring, from an earlier link: try again.
    this.retry();
    this.#opened?.ring();
  }

  close(): void {
    this.#closed = true;
    this.#opened?.close();
    this.#opened = undefined;
  }
}

/** What the doorbells of an attachment need to know of its region. */
export interface Neighbours {
  /** Slots of the region. */
  readonly slots: number;
  /** The attachment itself. */
  self(): Attachment;
  /** What the slot of a peer says: a copy of 16 bytes; undefined: that attachment is over. */
  doorbellOf(peer: Attachment): Uint8Array | undefined;
}

/** All doorbells of one attachment: its own, and those of the peers that it has links to. */
export class Doorbells {
  readonly #region: File;
  readonly #neighbours: Neighbours;
  readonly #own: Doorbell | undefined;
  readonly #peers = new Map<string, { readonly peer: Attachment; readonly bell: PeerDoorbell; links: number }>();
  /** Called when a peer has rung. */
  rung: () => void = () => {};
  /** Why this process has no doorbell and polls by a timer instead. */
  readonly why: Error | undefined;

  constructor(region: File, neighbours: Neighbours) {
    this.#region = region;
    this.#neighbours = neighbours;
    try {
      this.#own = new Doorbell(region, neighbours.slots, () => this.rung());
    } catch (error) {
      this.why = error as Error;
    }
  }

  /** For the own slot: 16 bytes, zeros if there is no doorbell. */
  get id(): Uint8Array {
    return this.#own?.id ?? new Uint8Array(ID_BYTES);
  }

  /** Whether all peers can ring. */
  get heard(): boolean {
    const own = this.#own;
    if (!own) return false;
    for (const { peer } of this.#peers.values()) if (!own.heldBy(peer)) return false;
    return true;
  }

  #openBellOf(peer: Attachment): Opened | undefined {
    const id = this.#neighbours.doorbellOf(peer);
    if (!id?.some((byte) => byte !== 0)) return undefined;
    const { slot, generation } = this.#neighbours.self();
    return new (addon().PeerDoorbell)(pathOf(this.#region, id), slot, generation);
  }

  /** A link to that peer begins. @returns the peer's doorbell, and what to call when the link ends */
  link(peer: Attachment): { readonly bell: PeerDoorbell; release(): void } {
    const key = keyOf(peer);
    const known = this.#peers.get(key);
    const entry = known ?? { peer, bell: new PeerDoorbell(() => this.#openBellOf(peer)), links: 0 };
    if (!known) this.#peers.set(key, entry);
    entry.links++;
    let released = false;
    const release = () => {
      if (released) return;
      released = true;
      if (--entry.links > 0) return;
      entry.bell.close();
      this.#peers.delete(key);
    };
    return { bell: entry.bell, release };
  }

  /**
   * Open the doorbells that could not be opened when their links began, since no descriptor was left or the FIFO was full: until
   * then their owners poll by a timer.
   */
  retry(): void {
    for (const { bell } of this.#peers.values()) bell.retry();
  }

  close(): void {
    this.rung = () => {};
    this.#own?.close();
    for (const { bell } of this.#peers.values()) bell.close();
    this.#peers.clear();
  }
}

/**
 * A region that is only read: without a slot, without writing, from a copy of its tables.
 *
 * The tables of a file are copied with read(2): a mapped page may turn out to be missing (a sparse file on a full file
 * system, one that is truncated meanwhile), and touching it ends the process with SIGBUS. The tables of a device are copied
 * from a mapping with PROT_READ alone: read(2) on a uio device waits for an interrupt, on a PCI resource in memory it fails.
 * Either way the core works on the copy, and no content of the copy can harm it.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { IsthmusError } from '../base/errors.js';
import { Core } from '../core/core.js';
import { type Backing, checkSize, systemError, usableSize } from '../device/backing.js';
import { type Identity, identityOf } from '../device/identity.js';
import { addon, addonMissing, type Mapping } from '../native/native.js';
import { type Overview, overviewOf } from './header.js';
import { Heartbeats } from './heartbeats.js';
import { type PeerSlot, peersOf } from './peer-table.js';
import type { RegionView } from './region-view.js';
import { type FrameCount, frameCount, type Holdings, holdingsOf, type RingView, ringsOf } from './usage.js';

const MIB = 0x100000;
/** A process counts its heartbeat up twice a second; on a busy machine it may be late. */
const MAX_HEARTBEAT_MS = 2000;
const HEARTBEAT_POLL_MS = 50;

type Where = Pick<Backing, 'path' | 'kind' | 'size' | 'offset'>;

export class ReadOnlyRegion implements RegionView, Disposable {
  readonly path: string;
  readonly size: number;
  readonly #offset: number;
  readonly #fd: number;
  /** The source of the copy, where it is a mapping. */
  readonly #mapped: { readonly core: Core; readonly mapping: Mapping } | undefined;
  /** Its window holds a copy of header and tables, and nothing of what lies behind them. */
  readonly core: Core;
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
      const options = { readOnly: true, lost: layout.LOST };
      const mapping = addon().map(memory.buffer, layout.WINDOW, size, fd, offset, options);
      this.#mapped = { core: mapped, mapping };
    }
    this.refresh();
  }

  /** @throws ERR_ISTHMUS_REGION_…, ERR_ISTHMUS_NATIVE_MISSING (of a device), ERR_ISTHMUS_SYSCALL */
  static of(backing: Where & Pick<Backing, 'openToRead'>): ReadOnlyRegion {
    return ReadOnlyRegion.#on(backing, backing.openToRead?.() ?? openFile(backing.path));
  }

  /**
   * A file of any owner, if this process may read it.
   * @throws ERR_ISTHMUS_REGION_NOT_FOUND, _PERMISSIONS, _TOO_SMALL, _SIZE, ERR_ISTHMUS_SYSCALL
   */
  static ofFile(path: string): ReadOnlyRegion {
    const fd = openFile(path);
    let size: number;
    try {
      size = fstatSync(fd).size;
      checkSize(size, path);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    return ReadOnlyRegion.#on({ path, kind: 'posix', size: usableSize(size), offset: 0 }, fd);
  }

  static #on(where: Where, fd: number): ReadOnlyRegion {
    try {
      return new ReadOnlyRegion(where, fd);
    } catch (error) {
      closeSync(fd);
      throw error instanceof IsthmusError ? error : systemError(error, 'cannot read', where.path);
    }
  }

  /** Copy header and tables again. */
  refresh(): void {
    this.core.bytes.set(this.read(0, this.core.call.tableBytes()), this.core.layout.WINDOW);
  }

  /** A copy of bytes of the region as they are now; zeros behind the end of a file that was truncated meanwhile. */
  read(from: number, length: number): Buffer {
    if (this.#mapped) {
      const { core } = this.#mapped;
      const at = core.layout.WINDOW + from;
      const copy = Buffer.from(core.bytes.slice(at, at + length).buffer);
      // The device was removed.
      if (core.lost) throw core.lostError();
      return copy;
    }
    const copy = Buffer.alloc(length);
    readSync(this.#fd, copy, 0, length, this.#offset + from);
    return copy;
  }

  overview(): Overview {
    return overviewOf(this.core, this.path, this.size);
  }

  /** All slots of the peer table that are not free. */
  peers(): PeerSlot[] {
    return peersOf(this.core, this.identity);
  }

  /** Whether a process of this kernel holds the lock on that byte. Undefined without the native addon. */
  locked(byte: number): boolean | undefined {
    return addonMissing() ? undefined : addon().locked(this.#fd, byte);
  }

  /** What the lock of a slot proves of its owner. */
  lives({ slot, local }: PeerSlot): 'alive' | 'dead' | 'unknown' {
    const locked = local ? this.locked(slot) : undefined;
    return locked === undefined ? 'unknown' : locked ? 'alive' : 'dead';
  }

  /**
   * Watch until every heartbeat was seen to change, for some two seconds at most.
   * @returns milliseconds since the last change, by slot; slots of which no change was seen are missing
   */
  async heartbeats(): Promise<ReadonlyMap<number, number>> {
    const start = performance.now();
    const watch = new Heartbeats();
    watch.update(this.peers());
    while (watch.silent().length > 0 && performance.now() - start < MAX_HEARTBEAT_MS) {
      await sleep(HEARTBEAT_POLL_MS);
      this.refresh();
      watch.update(this.peers());
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
   * @returns false: it did not change
   */
  async beats(slot: number, limit: number): Promise<boolean> {
    const until = performance.now() + limit;
    const count = () => this.peers().find((peer) => peer.slot === slot)?.heartbeat;
    for (const first = count(); count() === first; this.refresh()) {
      if (performance.now() > until) return false;
      await sleep(HEARTBEAT_POLL_MS);
    }
    return true;
  }

  holdings(): ReadonlyMap<number, Holdings> {
    return holdingsOf(this);
  }

  frames(): FrameCount {
    return frameCount(this.core);
  }

  rings(): RingView[] {
    return ringsOf(this);
  }

  close(): void {
    this.#mapped?.mapping.detach();
    closeSync(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function openFile(path: string): number {
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

/**
 * Plugin `shm`: processes of one user on one host, through a region file that the first of them creates and the last one
 * removes (core/lifecycle.ts).
 *
 * Most runtimes never meet a neighbour, and reserving the blocks of a region takes a while. So it is attached when a
 * handshake wants it, which is one with an address of this host: the connecting side sends its STEP1 when it is
 * attached, and the accepting side answers when it is. It is let go of when the last connection over it has been gone for
 * a while. (Containers that have an address in common but not /dev/shm attach to different files, and find out by the
 * nonce, as with any region.)
 */
import type { Socket } from 'node:net';
import { IsthmusError } from '../base/errors.js';
import { isOwn } from '../base/network.js';
import { mapperMissing } from '../native/native.js';
import type { Region } from '../region/region.js';
import { isCurrent, joinShm, leaveShm, leaveShmNow, shmPath } from '../region/shm-file.js';
import { ARCH, type Attempt, type AttemptChannel, type Link, type Plugin, type Proposal } from './plugin.js';
import { RegionAttempt, type RegionSource } from './region.js';

/** How long the region stays attached without a connection, in milliseconds: the next one may be about to come. */
const LINGER = 1000;
/** How long a failure to attach is believed, in milliseconds: on a full file system each try costs time. */
const REFRAIN = 1000;

/** One attachment, or its making, and those who use it. */
interface Share {
  readonly ready: Promise<Region>;
  readonly abort: AbortController;
  region: Region | undefined;
  /** Attempts under way and open links. */
  users: number;
  linger: NodeJS.Timeout | undefined;
}

/** From the beginning of an attempt to the end of its connection. */
interface Lease {
  readonly ready: Promise<Region>;
  /** Idempotent. */
  release(): void;
}

/** Regions that are attached when the process ends without having closed its runtimes. */
const open = new Set<Region>();

function leaveAll(): void {
  for (const region of open) leaveShmNow(region);
  open.clear();
}

function opened(region: Region): void {
  if (open.size === 0) process.on('exit', leaveAll);
  open.add(region);
}

function left(region: Region): void {
  open.delete(region);
  if (open.size === 0) process.off('exit', leaveAll);
}

function reasonOf(error: unknown): string {
  if (error instanceof IsthmusError) return `${error.message} (${error.code})`;
  return error instanceof Error ? error.message : String(error);
}

/** An attempt that may have to wait for its region. */
class ShmAttempt implements Attempt {
  readonly #channel: AttemptChannel;
  readonly #lease: Lease;
  #inner: RegionAttempt | undefined;
  /** Came before we were attached. */
  #early: { readonly type: number; readonly payload: Uint8Array } | undefined;
  #undone = false;

  constructor(channel: AttemptChannel, lease: Lease, source: (region: Region) => RegionSource) {
    this.#channel = channel;
    this.#lease = lease;
    lease.ready
      .then((region) => this.#begin(region, source(region)))
      // Without effect if it was undone meanwhile.
      .catch((error: unknown) => channel.next(reasonOf(error)));
  }

  #begin(region: Region, source: RegionSource): void {
    if (this.#undone) return;
    this.#inner = new RegionAttempt(source, this.#channel, () => this.#lease.release());
    if (this.#channel.role === 'connect') this.#inner.offer(region);
    else if (this.#early) this.#inner.step(this.#early.type, this.#early.payload);
  }

  step(type: number, payload: Uint8Array): void {
    if (this.#inner) this.#inner.step(type, payload);
    // The accepting side never speaks first.
    else if (this.#early || this.#channel.role === 'connect') throw new Error('an unexpected STEP frame');
    else this.#early = { type, payload: payload.slice() };
  }

  agreed(): void {
    if (!this.#inner) throw new Error('ARCH_OK before STEP1');
    this.#inner.agreed();
  }

  undo(): void {
    this.#undone = true;
    this.#inner?.undo();
    this.#lease.release();
  }

  open(socket: Socket, rest: Buffer): Link {
    if (!this.#inner) throw new Error('nothing was agreed');
    return this.#inner.open(socket, rest);
  }
}

export interface ShmPluginOptions extends Pick<RegionSource, 'ringSize' | 'guard'> {
  /** Of the runtime, for people. */
  readonly name: string;
  /** `PSP_SHM_NAME`. */
  readonly file: string;
  /** Bytes of the region if we are the one to create it. */
  readonly size: number;
  /** How long attaching may wait for others, in milliseconds: of both sides together less than a handshake may take. */
  readonly limit: number;
  /** Called whenever a region was attached. */
  readonly attached: (region: Region) => void;
  /** Called before a region is let go of. @returns places in it that must keep their bytes */
  readonly leaving: (region: Region) => Parameters<Region['detach']>[0];
}

export class ShmPlugin implements Plugin {
  readonly name = 'shm';
  readonly archId = ARCH.shm;
  readonly priority = 90;
  readonly migratable = false;
  readonly #options: ShmPluginOptions;
  #path: string | undefined;
  /** Where the next handshake gets its region. */
  #current: Share | undefined;
  /** That one, and those whose file was removed while connections went on. */
  readonly #shares = new Set<Share>();
  /** Attachments that are being made or left. */
  readonly #busy = new Set<Promise<unknown>>();
  #failure: { readonly reason: string; readonly until: number } | undefined;
  /** Nothing is to be attached: for good, or until {@link restore}. */
  #closed = false;

  constructor(options: ShmPluginOptions) {
    this.#options = options;
  }

  /** Path of the region file, whether it is there or not. */
  get path(): string {
    this.#path ??= shmPath(this.#options.file);
    return this.#path;
  }

  /** What is attached now. */
  regions(): Region[] {
    return [...this.#shares].flatMap(({ region }) => (region ? [region] : []));
  }

  unavailable(): string | undefined {
    const missing = mapperMissing();
    if (missing) return missing.message;
    if (this.#failure && performance.now() < this.#failure.until) return this.#failure.reason;
    return undefined;
  }

  proposals(): Proposal[] {
    return [{ plugin: this, label: this.name, attempt: (channel) => this.accept(channel) }];
  }

  accept(channel: AttemptChannel): Attempt {
    const { address } = channel;
    if (!address || !isOwn(address.host)) {
      throw new Error(`the peer is not on this host (${address?.host ?? 'it is gone'})`);
    }
    const { ringSize, guard } = this.#options;
    return new ShmAttempt(channel, this.#lease(), (region) => ({
      ringSize,
      guard,
      byUuid: (uuid) => (region.usable && region.uuid.equals(uuid) ? [region] : []),
    }));
  }

  #lease(): Lease {
    if (this.#closed) throw new IsthmusError('ERR_ISTHMUS_CLOSED', 'the runtime is closed, or suspended');
    const share = this.#share();
    share.users++;
    clearTimeout(share.linger);
    let released = false;
    return {
      ready: share.ready,
      release: () => {
        if (released) return;
        released = true;
        if (--share.users === 0) this.#unused(share);
      },
    };
  }

  #share(): Share {
    const current = this.#current;
    if (current && (!current.region || isCurrent(current.region))) return current;
    // Somebody has removed its file, or our slot: newcomers meet elsewhere, and its connections go on.
    if (current?.users === 0) this.#end(current);
    const { name, size, limit, attached } = this.#options;
    const abort = new AbortController();
    const ready = joinShm({ path: this.path, size, name, limit, signal: abort.signal }).then((region) => {
      share.region = region;
      opened(region);
      attached(region);
      if (this.#closed) this.#end(share);
      else if (share.users === 0) this.#unused(share);
      return region;
    });
    const share: Share = { ready, abort, region: undefined, users: 0, linger: undefined };
    this.#shares.add(share);
    this.#current = share;
    this.#keep(
      ready.catch((error: unknown) => {
        this.#drop(share);
        if (!abort.signal.aborted) {
          this.#failure = { reason: reasonOf(error), until: performance.now() + REFRAIN };
        }
      }),
    );
    return share;
  }

  /** The last one who used it is gone. */
  #unused(share: Share): void {
    if (!this.#shares.has(share)) return;
    if (!share.region) {
      // It may be too late for that, and then it is attached: it comes by here again.
      share.abort.abort(new IsthmusError('ERR_ISTHMUS_CLOSED', 'nobody wants the region any more'));
      if (this.#current === share) this.#current = undefined;
    } else if (this.#current !== share) this.#end(share);
    else share.linger = setTimeout(() => this.#end(share), LINGER).unref();
  }

  #drop(share: Share): void {
    clearTimeout(share.linger);
    this.#shares.delete(share);
    if (this.#current === share) this.#current = undefined;
  }

  /** Leave. */
  #end(share: Share): void {
    const { region } = share;
    if (!this.#shares.has(share)) return;
    this.#drop(share);
    if (region) this.#keep(leaveShm(region, this.#options.leaving(region)).finally(() => left(region)));
  }

  #keep(work: Promise<unknown>): void {
    const kept = work.catch(() => {}).finally(() => this.#busy.delete(kept));
    this.#busy.add(kept);
  }

  /** Let go of everything, and remove the file if we are the last. Takes a second at most. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const share of [...this.#shares]) {
      if (share.region) this.#end(share);
      else this.#unused(share);
    }
    // What was being attached is left only when it is.
    while (this.#busy.size > 0) await Promise.all(this.#busy);
  }

  /** Behind {@link close}: to be used again. */
  restore(): void {
    this.#closed = false;
    this.#failure = undefined;
  }

  destroy(): void {}
}

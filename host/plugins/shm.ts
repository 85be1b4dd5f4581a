/**
 * Plugin `shm`: processes of one user on one host, through a region file that the first of them creates and the last one
 * removes (region/shm-lifecycle.ts).
 *
 * Most runtimes never meet another on their host, and reserving the blocks of a region takes a while. So the region is
 * attached on demand, by a handshake with an address of this host: the connecting side sends its STEP1 when the region is
 * attached, and the accepting side answers when it is. The plugin leaves the region some time after the last connection
 * over it has ended. (Containers that share an address but not /dev/shm attach to different files; the nonce shows it, as
 * with any copy.)
 */
import type { Socket } from 'node:net';
import { IsthmusError, messageOf } from '../base/errors.js';
import { isOwn } from '../base/network.js';
import { addonMissing } from '../native/native.js';
import type { Region } from '../region/region.js';
import { shmPath } from '../region/shm-file.js';
import { isCurrent, joinShm, leaveShm, leaveShmNow } from '../region/shm-lifecycle.js';
import { ARCH, type Attempt, type AttemptChannel, type Link, type Plugin, type Proposal } from './plugin.js';
import { RegionAttempt, type RegionSource } from './region-attempt.js';

/** How long the region stays attached without a connection: the next one may be about to come. */
const LINGER_MS = 1000;
/** How long the plugin does not try again after it failed to attach: on a full file system each try takes time. */
const RETRY_AFTER_MS = 1000;

/** One attachment, made or being made, and the number of its users. */
interface Share {
  readonly ready: Promise<Region>;
  readonly abort: AbortController;
  region: Region | undefined;
  /** Attempts under way and open links. */
  users: number;
  linger: NodeJS.Timeout | undefined;
}

/** The use of a share by one attempt, and by the connection that comes of it. */
interface Lease {
  readonly ready: Promise<Region>;
  /** Idempotent. */
  release(): void;
}

/** The attached regions: left at the exit of a process that has not closed its runtimes. */
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
  return error instanceof IsthmusError ? `${error.message} (${error.code})` : messageOf(error);
}

/** An attempt that may have to wait until its region is attached. */
class ShmAttempt implements Attempt {
  readonly #channel: AttemptChannel;
  readonly #lease: Lease;
  #inner: RegionAttempt | undefined;
  /** A frame that came before the region was attached. */
  #early: { readonly type: number; readonly payload: Uint8Array } | undefined;
  #undone = false;

  constructor(channel: AttemptChannel, lease: Lease, source: (region: Region) => RegionSource) {
    this.#channel = channel;
    this.#lease = lease;
    lease.ready
      .then((region) => this.#begin(region, source(region)))
      // Without effect if the attempt was undone meanwhile.
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
    // The accepting side never sends the first frame.
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
  /** The name of the runtime, for people. */
  readonly name: string;
  /** `PSP_SHM_NAME`. */
  readonly file: string;
  /** Bytes of the region, if this process creates it. */
  readonly size: number;
  /**
   * How long attaching may wait for other processes, in milliseconds: of both sides together less than a handshake may
   * take.
   */
  readonly limit: number;
  /** `PSP_SIGBUS_HANDLER`. */
  readonly survivesLoss: boolean;
  /** Called when no region could be attached, once for each reason in a row. */
  readonly refused?: (reason: string) => void;
  /** Called when a region was attached. */
  readonly attached: (region: Region) => void;
  /** Called before a region is left. @returns places in it that must keep their bytes */
  readonly leaving: (region: Region) => Parameters<Region['detach']>[0];
}

export class ShmPlugin implements Plugin {
  readonly name = 'shm';
  readonly archId = ARCH.shm;
  readonly priority = 90;
  readonly migratable = false;
  readonly #options: ShmPluginOptions;
  #path: string | undefined;
  /** The share that the next handshake uses. */
  #current: Share | undefined;
  /** The current one, and those whose file was removed while connections through them went on. */
  readonly #shares = new Set<Share>();
  /** Shares that are being attached or left. */
  readonly #busy = new Set<Promise<unknown>>();
  #failure: { readonly reason: string; readonly until: number } | undefined;
  /** Nothing may be attached: for good, or until {@link restore}. */
  #closed = false;

  constructor(options: ShmPluginOptions) {
    this.#options = options;
  }

  /** Path of the region file, whether it is there or not. */
  get path(): string {
    this.#path ??= shmPath(this.#options.file);
    return this.#path;
  }

  /** The regions that are attached now. */
  regions(): Region[] {
    return [...this.#shares].flatMap(({ region }) => (region ? [region] : []));
  }

  unavailable(): string | undefined {
    const missing = addonMissing();
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
    // The file was removed, or the slot taken away: newcomers meet in another file, and open connections go on.
    if (current?.users === 0) this.#end(current);
    const { name, size, limit, survivesLoss, attached } = this.#options;
    const abort = new AbortController();
    const ready = joinShm({ path: this.path, size, name, limit, survivesLoss, signal: abort.signal }).then((region) => {
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
    this.#track(
      ready.catch((error: unknown) => {
        this.#drop(share);
        if (!abort.signal.aborted) {
          const reason = reasonOf(error);
          if (reason !== this.#failure?.reason) this.#options.refused?.(reason);
          this.#failure = { reason, until: performance.now() + RETRY_AFTER_MS };
        }
      }),
    );
    return share;
  }

  /** The last user of a share is gone. */
  #unused(share: Share): void {
    if (!this.#shares.has(share)) return;
    if (!share.region) {
      // If it is too late for that, the region gets attached, and this function is called again.
      share.abort.abort(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the region is not needed any more'));
      if (this.#current === share) this.#current = undefined;
    } else if (this.#current !== share) this.#end(share);
    else share.linger = setTimeout(() => this.#end(share), LINGER_MS).unref();
  }

  #drop(share: Share): void {
    clearTimeout(share.linger);
    this.#shares.delete(share);
    if (this.#current === share) this.#current = undefined;
  }

  /** Leave the region. */
  #end(share: Share): void {
    const { region } = share;
    if (!this.#shares.has(share)) return;
    this.#drop(share);
    if (region) this.#track(leaveShm(region, this.#options.leaving(region)).finally(() => left(region)));
  }

  #track(work: Promise<unknown>): void {
    const tracked = work.catch(() => {}).finally(() => this.#busy.delete(tracked));
    this.#busy.add(tracked);
  }

  /** Leave all regions, and remove the file if no other process uses it. Takes a second at most. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const share of [...this.#shares]) {
      if (share.region) this.#end(share);
      else this.#unused(share);
    }
    // A region that is being attached is left as soon as it is.
    while (this.#busy.size > 0) await Promise.all(this.#busy);
  }

  /** After {@link close}: attach again on demand. */
  restore(): void {
    this.#closed = false;
    this.#failure = undefined;
  }

  destroy(): void {}
}

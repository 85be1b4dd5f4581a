/**
 * Doorbells between processes of one kernel. A doorbell is an eventfd that the event loop of its owner waits for. A peer
 * rings it after it has committed a record to the owner's ring while the owner slept.
 *
 * The owner hands it out at an abstract Unix-domain socket, whose name consists of the file of the region, slot and
 * generation, so that it stands for one attachment. The owner remembers the peers that have it, since it may sleep only
 * while all peers can ring. An abstract name is valid in one network namespace: peers in others, as those in virtual
 * machines, get no doorbell, and the owner polls by a timer then.
 */
import { closeSync } from 'node:fs';
import type { Identity } from '../device/identity.js';
import { addon, type Watch } from '../native/native.js';
import type { Attachment } from './peer-table.js';

const nameOf = ({ dev, ino }: Identity, { slot, generation }: Attachment): string =>
  `isthmus/${dev}:${ino}/${slot}/${generation}`;

const keyOf = ({ slot, generation }: Attachment): string => `${slot}/${generation}`;

/** Callers that have not introduced themselves yet: every process of this user may call. */
const MAX_CALLERS = 64;
/** Peers that are remembered. */
const MAX_HOLDERS = 4096;
/** Out of descriptors: how long callers wait for the next try. */
const RETRY_MS = 500;

/** The doorbell of this process. */
export class Doorbell {
  readonly #bell: number;
  readonly #listening: number;
  readonly #bellWatch: Watch;
  /** Undefined: no descriptor was left for a caller. */
  #listenWatch: Watch | undefined;
  #retry: NodeJS.Timeout | undefined;
  /** Callers that have not introduced themselves yet. */
  readonly #callers = new Map<number, Watch>();
  /** Peers that have the doorbell. */
  readonly #holders = new Set<string>();

  private constructor(bell: number, listening: number, onRung: () => void) {
    this.#bell = bell;
    this.#listening = listening;
    this.#bellWatch = addon().watchCounter(bell, onRung);
    this.#listen();
  }

  #listen(): void {
    try {
      this.#listenWatch = addon().watch(this.#listening, () => this.#accept());
    } catch {
      this.#listenLater();
    }
  }

  /** A caller stays in the queue of the socket: watching on at once would keep the event loop busy with it alone. */
  #listenLater(): void {
    this.#listenWatch?.close();
    this.#listenWatch = undefined;
    this.#retry = setTimeout(() => this.#listen(), RETRY_MS).unref();
  }

  /** @returns undefined: there cannot be one here, so no peer rings, and this process polls by a timer */
  static open(region: Identity, own: Attachment, onRung: () => void): Doorbell | undefined {
    const native = addon();
    let bell = -1;
    let listening = -1;
    try {
      bell = native.createDoorbell();
      listening = native.listenAbstract(nameOf(region, own));
      return new Doorbell(bell, listening, onRung);
    } catch {
      // Out of descriptors, or the name is taken.
      for (const fd of [bell, listening]) if (fd >= 0) closeSync(fd);
      return undefined;
    }
  }

  /** Whether that peer can ring. */
  heldBy(peer: Attachment): boolean {
    return this.#holders.has(keyOf(peer));
  }

  #accept(): void {
    const native = addon();
    try {
      // Later callers wait for the next turn of the event loop.
      for (let i = 0; i < MAX_CALLERS; i++) {
        const caller = native.acceptFrom(this.#listening);
        if (caller < 0) return;
        // Usually the introduction is there already.
        if (this.#answer(caller)) continue;
        const [oldest] = this.#callers.keys();
        if (this.#callers.size >= MAX_CALLERS && oldest !== undefined) this.#dismiss(oldest);
        this.#callers.set(
          caller,
          native.watch(caller, () => this.#answer(caller)),
        );
      }
    } catch {
      // Out of descriptors: a peer without the doorbell is polled by a timer.
      this.#listenLater();
    }
  }

  /** @returns whether the caller is done with, served or refused */
  #answer(caller: number): boolean {
    try {
      const peer = addon().answer(caller, this.#bell);
      if (peer === undefined) return false;
      if (this.#holders.size < MAX_HOLDERS) this.#holders.add(keyOf(peer));
    } catch {
      // The caller has gone, or is no peer.
    }
    this.#dismiss(caller);
    return true;
  }

  #dismiss(caller: number): void {
    this.#callers.get(caller)?.close();
    this.#callers.delete(caller);
    closeSync(caller);
  }

  close(): void {
    clearTimeout(this.#retry);
    this.#bellWatch.close();
    this.#listenWatch?.close();
    for (const [caller, watch] of this.#callers) {
      watch.close();
      closeSync(caller);
    }
    this.#callers.clear();
    closeSync(this.#listening);
    closeSync(this.#bell);
  }
}

/** The doorbell of a peer, for all connections to it. */
export class PeerDoorbell {
  #fd = -1;
  #calling: { fd: number; watch: Watch } | undefined;
  /** It was to be rung before it was received. */
  #missed = false;
  #closed = false;
  readonly #name: string;
  readonly #own: Attachment;

  constructor(region: Identity, own: Attachment, peer: Attachment) {
    this.#name = nameOf(region, peer);
    this.#own = own;
    this.#call();
  }

  #call(): void {
    const native = addon();
    let fd = -1;
    try {
      fd = native.connectAbstract(this.#name, this.#own.slot, this.#own.generation);
      this.#calling = { fd, watch: native.watch(fd, () => this.#receive()) };
    } catch {
      // No process listens there: another kernel, another network namespace, or a peer without a doorbell.
      if (fd >= 0) closeSync(fd);
    }
  }

  #receive(): void {
    try {
      const bell = addon().receiveDoorbell((this.#calling as { fd: number }).fd);
      if (bell < 0) return;
      this.#fd = bell;
      // The peer counts this process among those that can ring as soon as it has sent the doorbell, and may sleep since.
      if (this.#missed) this.ring();
    } catch {
      // The peer ended meanwhile.
    }
    this.#hangUp();
  }

  #hangUp(): void {
    this.#calling?.watch.close();
    if (this.#calling) closeSync(this.#calling.fd);
    this.#calling = undefined;
  }

  /** Wake the peer, if possible. (wake.pml: ring) */
  ring(): void {
    if (this.#fd >= 0) return addon().ring(this.#fd);
    this.#missed = true;
    // The peer sleeps, so it counts this process among those that can ring, from an earlier link: call again.
    if (!this.#calling && !this.#closed) this.#call();
  }

  close(): void {
    this.#closed = true;
    this.#hangUp();
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }
}

/** All doorbells of one attachment: its own, and those of the peers that it has links to. */
export class Doorbells {
  readonly #region: Identity;
  readonly #self: Attachment;
  readonly #own: Doorbell | undefined;
  readonly #peers = new Map<string, { readonly peer: Attachment; readonly bell: PeerDoorbell; links: number }>();
  /** Called when a peer has rung. */
  rung: () => void = () => {};

  constructor(region: Identity, self: Attachment) {
    this.#region = region;
    this.#self = self;
    this.#own = Doorbell.open(region, self, () => this.rung());
  }

  /** Whether all peers can ring. */
  get heard(): boolean {
    const own = this.#own;
    if (!own) return false;
    for (const { peer } of this.#peers.values()) if (!own.heldBy(peer)) return false;
    return true;
  }

  /** A link to that peer begins. @returns the peer's doorbell, and what to call when the link ends */
  link(peer: Attachment): { readonly bell: PeerDoorbell; release(): void } {
    const key = keyOf(peer);
    const known = this.#peers.get(key);
    const entry = known ?? { peer, bell: new PeerDoorbell(this.#region, this.#self, peer), links: 0 };
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

  close(): void {
    this.rung = () => {};
    this.#own?.close();
    for (const { bell } of this.#peers.values()) bell.close();
    this.#peers.clear();
  }
}

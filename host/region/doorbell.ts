/**
 * Doorbells between processes of one kernel: an eventfd that its owner's event loop waits for, and that peers ring when
 * they have put something into his ring while he slept.
 *
 * He gives it to whoever asks for it at an abstract Unix-domain socket, which is named by the file of the region, slot and
 * generation, so by one attachment; and takes note of who has it, since he may sleep only while all of them can ring. An
 * abstract name is of one network namespace: peers in others, as those in virtual machines, get none, and he looks by a
 * timer then.
 */
import { closeSync } from 'node:fs';
import type { Identity } from '../device/backing.js';
import { mapper, type Watch } from '../native/native.js';
import type { Attachment } from './mapped.js';

const nameOf = ({ dev, ino }: Identity, { slot, generation }: Attachment): string =>
  `isthmus/${dev}:${ino}/${slot}/${generation}`;

const keyOf = ({ slot, generation }: Attachment): string => `${slot}/${generation}`;

/** Callers that have said nothing yet, and of whom we take note: anybody of our user may call. */
const CALLERS = 64;
const KNOWN = 4096;

/** Out of descriptors: how long those who call wait for the next try, in milliseconds. */
const PAUSE = 500;

/** Ours. */
export class Doorbell {
  readonly #bell: number;
  readonly #listening: number;
  readonly #rings: Watch;
  /** Undefined: no descriptor was left for a caller. */
  #calls: Watch | undefined;
  #pause: NodeJS.Timeout | undefined;
  /** Those who have called and not said who they are. */
  readonly #callers = new Map<number, Watch>();
  readonly #held = new Set<string>();

  private constructor(bell: number, listening: number, rung: () => void) {
    this.#bell = bell;
    this.#listening = listening;
    this.#rings = mapper().watchCounter(bell, rung);
    this.#listen();
  }

  #listen(): void {
    try {
      this.#calls = mapper().watch(this.#listening, () => this.#accept());
    } catch {
      this.#later();
    }
  }

  /** Who calls stays there: to look at once again would be to do nothing else. */
  #later(): void {
    this.#calls?.close();
    this.#calls = undefined;
    this.#pause = setTimeout(() => this.#listen(), PAUSE).unref();
  }

  /** @returns undefined if there cannot be one here: then nobody rings, and we look by a timer */
  static open(region: Identity, us: Attachment, rung: () => void): Doorbell | undefined {
    const native = mapper();
    let bell = -1;
    let listening = -1;
    try {
      bell = native.createDoorbell();
      listening = native.listenAbstract(nameOf(region, us));
      return new Doorbell(bell, listening, rung);
    } catch {
      // Out of descriptors, or a name that somebody has taken.
      for (const fd of [bell, listening]) if (fd >= 0) closeSync(fd);
      return undefined;
    }
  }

  /** Whether that peer can ring. */
  heldBy(peer: Attachment): boolean {
    return this.#held.has(keyOf(peer));
  }

  #accept(): void {
    const native = mapper();
    try {
      // As many as wait; whoever calls meanwhile is for the next turn of the event loop.
      for (let i = 0; i < CALLERS; i++) {
        const caller = native.acceptFrom(this.#listening);
        if (caller < 0) return;
        // Mostly he has said who he is before we look.
        if (this.#answer(caller)) continue;
        const [oldest] = this.#callers.keys();
        if (this.#callers.size >= CALLERS && oldest !== undefined) this.#dismiss(oldest);
        this.#callers.set(
          caller,
          native.watch(caller, () => this.#answer(caller)),
        );
      }
    } catch {
      // Out of descriptors: whoever gets none is looked for by a timer.
      this.#later();
    }
  }

  /** @returns whether he is done with, for good or for bad */
  #answer(caller: number): boolean {
    try {
      const who = mapper().answer(caller, this.#bell);
      if (who === undefined) return false;
      if (this.#held.size < KNOWN) this.#held.add(keyOf(who));
    } catch {
      // Gone, or none of us.
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
    clearTimeout(this.#pause);
    this.#rings.close();
    this.#calls?.close();
    for (const [caller, watch] of this.#callers) {
      watch.close();
      closeSync(caller);
    }
    this.#callers.clear();
    closeSync(this.#listening);
    closeSync(this.#bell);
  }
}

/** A peer's, for all connections to it. */
export class PeerBell {
  #fd = -1;
  #calling: { fd: number; watch: Watch } | undefined;
  /** It was to be rung before it was here. */
  #missed = false;
  #closed = false;
  readonly #name: string;
  readonly #us: Attachment;

  constructor(region: Identity, us: Attachment, peer: Attachment) {
    this.#name = nameOf(region, peer);
    this.#us = us;
    this.#call();
  }

  #call(): void {
    const native = mapper();
    let fd = -1;
    try {
      fd = native.connectAbstract(this.#name, this.#us.slot, this.#us.generation);
      this.#calling = { fd, watch: native.watch(fd, () => this.#receive()) };
    } catch {
      // Nobody listens there: another kernel, another network namespace, or one without doorbells.
      if (fd >= 0) closeSync(fd);
    }
  }

  #receive(): void {
    try {
      const bell = mapper().receiveDoorbell((this.#calling as { fd: number }).fd);
      if (bell < 0) return;
      this.#fd = bell;
      // He takes us for one who can ring from the moment that he has sent it, and may have gone to sleep since.
      if (this.#missed) this.ring();
    } catch {
      // He ended in the middle of it.
    }
    this.#hangUp();
  }

  #hangUp(): void {
    this.#calling?.watch.close();
    if (this.#calling) closeSync(this.#calling.fd);
    this.#calling = undefined;
  }

  /** Wake him, if we can. (wake.pml: ring) */
  ring(): void {
    if (this.#fd >= 0) return mapper().ring(this.#fd);
    this.#missed = true;
    // He sleeps, so he believes that we can: we could, over links before this one, and this time it went wrong.
    if (!this.#calling && !this.#closed) this.#call();
  }

  close(): void {
    this.#closed = true;
    this.#hangUp();
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }
}

/** All doorbells of one attachment: ours, and those of the peers that there are links to. */
export class Doorbells {
  readonly #region: Identity;
  readonly #us: Attachment;
  readonly #own: Doorbell | undefined;
  readonly #peers = new Map<string, { readonly peer: Attachment; readonly bell: PeerBell; links: number }>();
  /** Somebody rang. */
  rung: () => void = () => {};

  constructor(region: Identity, us: Attachment) {
    this.#region = region;
    this.#us = us;
    this.#own = Doorbell.open(region, us, () => this.rung());
  }

  /** Whether all peers can wake us. */
  get heard(): boolean {
    const own = this.#own;
    if (!own) return false;
    for (const { peer } of this.#peers.values()) if (!own.heldBy(peer)) return false;
    return true;
  }

  /** A link to that peer. @returns how to ring there, and what to call when the link is gone */
  link(peer: Attachment): { readonly bell: PeerBell; release(): void } {
    const key = keyOf(peer);
    const known = this.#peers.get(key);
    const entry = known ?? { peer, bell: new PeerBell(this.#region, this.#us, peer), links: 0 };
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

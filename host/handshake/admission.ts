/**
 * Which of the peers that have connected to a listener go on with their handshakes, and when. Strangers connect, too: what
 * each of them can hold is limited in number and time, and a limit lets peers wait before it refuses any.
 *
 * ```
 *  silent ──first byte──▶ speaking ──con_info──▶ waiting ──a place──▶ admitted
 *  a second               the time limit         the time limit       the time limit, half of it while others wait
 * ```
 *
 * Only an admitted handshake calls the application or a plugin. So peers in front of that, however many, keep none of the
 * places taken: 64 silent sockets lock no peer out. Of those without a place there are at most {@link MAX_WAITING}; then
 * the oldest that has not introduced itself goes, a silent one first. For one remote address there are half of the places
 * and half of the waiting, except for this host itself, where one address is every process.
 *
 * While the process is suspended ({@link Admission.hold}) peers come in and have no limit of time, but none gets a place,
 * and no attempt begins. What they have sent by then counts afterwards.
 */
import { IsthmusError } from '../base/errors.js';
import type { Stage } from './outcome.js';
import { HANDSHAKE_TIMEOUT_MS } from './sockets.js';

/** Default number of handshakes of a listener that have a place. */
export const MAX_HANDSHAKES = 64;
/** Peers of a listener without a place. */
export const MAX_WAITING = 4096;
/** Time to the first byte. A peer speaks at once: only its packets may be lost, or its process may be slow to begin. */
export const MAX_SILENCE_MS = 1000;
/** Between two looks for a handshake that is to give up its place. */
const MIN_LOOK_MS = 50;

export interface AdmissionOptions {
  readonly maxHandshakes?: number | undefined;
  readonly maxWaiting?: number | undefined;
  readonly timeoutMs?: number | undefined;
}

/** A handshake that is bound to its socket. */
export interface Handshake {
  /** End the handshake and the socket with it. No effect after the outcome. */
  abort(error: IsthmusError): void;
  /** The handshake has this time from now on, in milliseconds; undefined: any. No effect after the outcome. */
  limit(ms: number | undefined): void;
  /** Whether an attempt of a plugin is under way. */
  readonly attempting: boolean;
  /** Whether the next word is the peer's. */
  readonly waitsForPeer: boolean;
}

/** The handshake of one peer, from its TCP connection on. */
export class Visitor {
  readonly #admission: Admission;
  /** The remote network that its share is counted for; undefined: no share. */
  readonly network: string | undefined;
  state: 'silent' | 'speaking' | 'waiting' | 'admitted' | 'gone' = 'silent';
  /** The peer has sent nothing. */
  silent = true;
  /** Goes on with a handshake that waits for its turn. */
  goOn: (() => void) | undefined;
  /** When it got its place. */
  since = 0;
  handshake: Handshake | undefined;

  constructor(admission: Admission, network: string | undefined) {
    this.#admission = admission;
    this.network = network;
  }

  /** The handshake begins. */
  begin(handshake: Handshake): void {
    if (this.state === 'gone') return;
    this.handshake = handshake;
    this.#admission.began(this);
  }

  /** The first byte has come. */
  spoke(): void {
    this.#admission.spoke(this);
  }

  /** See {@link Stage}. @returns undefined: at once */
  pass(stage: Stage): Promise<void> | undefined {
    return stage === 'introduced' ? this.#admission.introduced(this) : this.#admission.proposed(this);
  }

  /** The handshake has ended, in whatever way. Idempotent. */
  ended(): void {
    this.#admission.ended(this);
  }
}

/** How many peers of a network wait, and how many have a place. */
interface Share {
  waiting: number;
  admitted: number;
}

export class Admission {
  readonly #maxHandshakes: number;
  readonly #maxWaiting: number;
  readonly #timeoutMs: number;
  // In the order in which they entered that state.
  readonly #silent = new Set<Visitor>();
  readonly #speaking = new Set<Visitor>();
  readonly #waiting = new Set<Visitor>();
  readonly #admitted = new Set<Visitor>();
  readonly #shares = new Map<string, Share>();
  #held = false;
  #onSettled: (() => void)[] = [];
  #look: NodeJS.Timeout | undefined;

  constructor({ maxHandshakes = MAX_HANDSHAKES, maxWaiting = MAX_WAITING, timeoutMs }: AdmissionOptions = {}) {
    this.#maxHandshakes = maxHandshakes;
    this.#maxWaiting = maxWaiting;
    this.#timeoutMs = timeoutMs ?? HANDSHAKE_TIMEOUT_MS;
  }

  /** Handshakes that have not ended. */
  get size(): number {
    return this.#admitted.size + this.#outside;
  }

  /** Those without a place. */
  get #outside(): number {
    return this.#silent.size + this.#speaking.size + this.#waiting.size;
  }

  /** A peer has connected. @returns undefined: there are too many, and all of them have introduced themselves */
  enter(network: string | undefined): Visitor | undefined {
    const share = network === undefined ? undefined : this.#shares.get(network);
    const tooMany = share !== undefined && share.waiting >= half(this.#maxWaiting);
    if (tooMany && !this.#makeRoom(network)) return undefined;
    if (this.#outside >= this.#maxWaiting && !this.#makeRoom(undefined)) return undefined;
    const visitor = new Visitor(this, network);
    this.#silent.add(visitor);
    this.#shareOf(visitor).waiting++;
    return visitor;
  }

  /** The oldest stranger goes. @param network of this network; undefined: of any */
  #makeRoom(network: string | undefined): boolean {
    for (const those of [this.#silent, this.#speaking]) {
      for (const visitor of those) {
        if (network !== undefined && visitor.network !== network) continue;
        const { handshake, state } = visitor;
        this.ended(visitor);
        handshake?.abort(
          gaveWay(
            `too many peers had connected, and this one ${state === 'silent' ? 'was silent' : 'had no name yet'}`,
          ),
        );
        return true;
      }
    }
    return false;
  }

  #shareOf({ network }: Visitor): Share {
    // Without a network, a share that counts for nothing.
    if (network === undefined) return { waiting: 0, admitted: 0 };
    const known = this.#shares.get(network);
    if (known) return known;
    const share = { waiting: 0, admitted: 0 };
    this.#shares.set(network, share);
    return share;
  }

  // ─── what a visitor tells ──────────────────────────────────────────────────────────────────────────────────────────

  began(visitor: Visitor): void {
    this.#limit(visitor, visitor.state === 'silent' ? Math.min(MAX_SILENCE_MS, this.#timeoutMs) : this.#timeoutMs);
  }

  spoke(visitor: Visitor): void {
    if (!this.#silent.delete(visitor)) return;
    visitor.silent = false;
    visitor.state = 'speaking';
    this.#speaking.add(visitor);
    this.#limit(visitor, this.#timeoutMs);
  }

  introduced(visitor: Visitor): Promise<void> | undefined {
    this.spoke(visitor);
    if (!this.#speaking.delete(visitor)) return undefined;
    // If there is a place, the peers that wait are those whose networks have their share.
    if (this.#hasPlace(visitor)) {
      this.#admit(visitor);
      return undefined;
    }
    visitor.state = 'waiting';
    this.#waiting.add(visitor);
    this.#limit(visitor, this.#timeoutMs);
    this.#lookLater();
    return turnOf(visitor);
  }

  proposed(visitor: Visitor): Promise<void> | undefined {
    if (!this.#held) return undefined;
    this.#limit(visitor, undefined);
    const turn = turnOf(visitor);
    this.#settle();
    return turn;
  }

  ended(visitor: Visitor): void {
    const { state } = visitor;
    if (state === 'gone') return;
    visitor.state = 'gone';
    visitor.goOn = undefined;
    for (const those of [this.#silent, this.#speaking, this.#waiting, this.#admitted]) those.delete(visitor);
    const share = this.#shareOf(visitor);
    share[state === 'admitted' ? 'admitted' : 'waiting']--;
    if (visitor.network !== undefined && share.waiting + share.admitted === 0) this.#shares.delete(visitor.network);
    this.#settle();
    this.#fill();
  }

  // ─── places ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #hasPlace(visitor: Visitor): boolean {
    if (this.#held || this.#admitted.size >= this.#maxHandshakes) return false;
    return this.#shareOf(visitor).admitted < half(this.#maxHandshakes);
  }

  #admit(visitor: Visitor): void {
    visitor.state = 'admitted';
    visitor.since = performance.now();
    this.#admitted.add(visitor);
    this.#lookLater();
    const share = this.#shareOf(visitor);
    share.waiting--;
    share.admitted++;
    this.#limit(visitor, this.#timeoutMs);
  }

  /** Give free places to those that wait. */
  #fill(): void {
    for (const visitor of this.#waiting) {
      if (this.#held || this.#admitted.size >= this.#maxHandshakes) break;
      if (!this.#hasPlace(visitor)) continue;
      this.#waiting.delete(visitor);
      this.#admit(visitor);
      goOn(visitor);
    }
    this.#lookLater();
  }

  #lookLater(): void {
    clearTimeout(this.#look);
    this.#look = undefined;
    const [oldest] = this.#admitted;
    if (this.#held || this.#waiting.size === 0 || !oldest || this.#admitted.size < this.#maxHandshakes) return;
    const due = oldest.since + this.#timeoutMs / 2 - performance.now();
    this.#look = setTimeout(() => this.#giveWay(), Math.max(due, MIN_LOOK_MS));
  }

  /** While others wait, a handshake whose peer does not go on has half of the time. */
  #giveWay(): void {
    const limit = performance.now() - this.#timeoutMs / 2;
    for (const { since, handshake } of this.#admitted) {
      if (since > limit) break;
      if (!handshake?.waitsForPeer) continue;
      handshake.abort(gaveWay(`other peers waited, and this one did not go on`));
      // That has filled its place, and set the timer.
      return;
    }
    this.#lookLater();
  }

  // ─── suspending ────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * From here on no peer gets a place, and no attempt of a plugin begins. Resolves when the attempts under way have ended:
   * they may hold memory of a region.
   */
  hold(): Promise<void> {
    this.#held = true;
    clearTimeout(this.#look);
    for (const those of [this.#silent, this.#speaking, this.#waiting]) {
      for (const visitor of those) visitor.handshake?.limit(undefined);
    }
    for (const { handshake } of this.#admitted) {
      if (handshake?.waitsForPeer && !handshake.attempting) handshake.limit(undefined);
    }
    return new Promise((resolve) => {
      this.#onSettled.push(resolve);
      this.#settle();
    });
  }

  /** End the attempts that are still under way. */
  cut(): void {
    for (const { handshake } of [...this.#admitted]) {
      if (!handshake?.attempting) continue;
      handshake.abort(new IsthmusError('ERR_ISTHMUS_SUSPEND', 'the process is being suspended'));
    }
    this.#settle();
  }

  release(): void {
    this.#held = false;
    // A peer that was silent meanwhile may have been suspended itself: it has the whole time.
    for (const those of [this.#silent, this.#speaking, this.#waiting, this.#admitted]) {
      for (const visitor of [...those]) {
        visitor.handshake?.limit(this.#timeoutMs);
        if (visitor.state === 'admitted') goOn(visitor);
      }
    }
    this.#fill();
  }

  /** No attempt is under way: tell those that wait for it. */
  #settle(): void {
    if (this.#onSettled.length === 0) return;
    for (const { handshake, goOn: waits } of this.#admitted) if (!waits && handshake?.attempting) return;
    for (const resolve of this.#onSettled.splice(0)) resolve();
  }

  /** End all handshakes. */
  close(error: IsthmusError): void {
    this.#held = true;
    clearTimeout(this.#look);
    for (const those of [this.#silent, this.#speaking, this.#waiting, this.#admitted]) {
      for (const { handshake } of [...those]) handshake?.abort(error);
    }
  }

  #limit({ handshake }: Visitor, ms: number | undefined): void {
    handshake?.limit(this.#held ? undefined : ms);
  }
}

/** At least one. */
function half(limit: number): number {
  return Math.ceil(limit / 2);
}

function turnOf(visitor: Visitor): Promise<void> {
  return new Promise((resolve) => {
    visitor.goOn = resolve;
  });
}

function goOn(visitor: Visitor): void {
  const next = visitor.goOn;
  visitor.goOn = undefined;
  next?.();
}

function gaveWay(why: string): IsthmusError {
  return new IsthmusError('ERR_ISTHMUS_HANDSHAKE_TIMEOUT', `the handshake gave way: ${why}`);
}

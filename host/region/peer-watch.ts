/** Peers of a region whose slots are watched: whether they still exist, and whether their heartbeats move. */
import type { Core } from '../core/core.js';
import type { Attachment } from './peer-table.js';

/**
 * Rounds of upkeep in a row in which a slot is not the peer's any more, before its connections are given up. A peer that
 * closes them in order says so over the guard, which may still be on its way.
 */
const MAX_LOST_ROUNDS = 4;

/** Called about one peer. */
export interface PeerObserver {
  /** The attachment is over: the peer has left, or was declared dead. Called once. */
  onLost(): void;
  /**
   * The heartbeat has stood still for `ms` milliseconds: called at each round of upkeep, and with 0 when it moves again.
   * Only rounds count, each as one interval. The time during which this process itself was stopped, or its event loop
   * busy, is not taken for silence of a peer.
   */
  onSilence(ms: number): void;
}

interface Watched extends Attachment {
  readonly observer: PeerObserver;
  /** Rounds of upkeep in a row in which the slot was not the peer's. */
  lostRounds: number;
  heartbeat: number;
  /** Rounds in a row in which the heartbeat was the same. */
  stillRounds: number;
}

export class PeerWatch {
  readonly #core: Core;
  readonly #intervalMs: number;
  readonly #watched = new Set<Watched>();

  /** @param intervalMs time between two rounds */
  constructor(core: Core, intervalMs: number) {
    this.#core = core;
    this.#intervalMs = intervalMs;
  }

  /** @returns ends the watch. Idempotent */
  add({ slot, generation }: Attachment, observer: PeerObserver): () => void {
    const heartbeat = this.#core.call.heartbeat(slot);
    const watched: Watched = { slot, generation, observer, lostRounds: 0, heartbeat, stillRounds: 0 };
    this.#watched.add(watched);
    return () => this.#watched.delete(watched);
  }

  /** One round of upkeep. */
  round(): void {
    for (const watched of this.#watched) this.#check(watched);
  }

  #check(watched: Watched): void {
    const { call } = this.#core;
    const { slot, generation, observer } = watched;
    // Read before the owner is checked, so that it is not the heartbeat of the next owner.
    const heartbeat = call.heartbeat(slot);
    if (!call.alive(slot, generation | 0)) {
      if (++watched.lostRounds < MAX_LOST_ROUNDS) return;
      this.#watched.delete(watched);
      observer.onLost();
      return;
    }
    watched.lostRounds = 0;
    if (heartbeat === watched.heartbeat) {
      observer.onSilence(++watched.stillRounds * this.#intervalMs);
      return;
    }
    watched.heartbeat = heartbeat;
    if (watched.stillRounds === 0) return;
    watched.stillRounds = 0;
    observer.onSilence(0);
  }

  clear(): void {
    this.#watched.clear();
  }
}

/** Follows the peers of a region file: what they hold, and what has changed since the last poll. */

import { Heartbeats } from '../../region/heartbeats.js';
import type { PeerSlot } from '../../region/peer-table.js';
import { ReadOnlyRegion } from '../../region/read-only-region.js';
import type { FrameCount } from '../../region/usage.js';

/** A peer whose heartbeat has not changed for so long is called silent. That proves nothing. */
export const SILENT_AFTER_MS = 5000;

/** A peer, as the server sees it. */
export interface PeerState extends PeerSlot {
  /** Time since its heartbeat changed, in milliseconds; null: it has not changed since the server watches. */
  readonly heartbeatAgeMs: number | null;
  /** Its heartbeat has not changed for {@link SILENT_AFTER_MS}. */
  readonly silent: boolean;
  /** What its lock proves; unknown for a peer on another kernel. */
  readonly lives: 'alive' | 'dead' | 'unknown';
  /** Frames that it has taken. */
  readonly frames: number;
  readonly connections: number;
}

export interface RegionState {
  readonly peers: readonly PeerState[];
  readonly frames: FrameCount;
}

/** What has happened to a peer; `back`: it was silent, and its heartbeat changes again. */
export interface PeerEvent {
  readonly what: 'attached' | 'left' | 'dead' | 'silent' | 'back';
  readonly peer: PeerState;
}

/** Identifies a peer: a slot has another generation for each owner. */
export const peerKey = ({ slot, generation }: Pick<PeerSlot, 'slot' | 'generation'>): string => `${slot}.${generation}`;

export class RegionWatch implements Disposable {
  readonly #view: ReadOnlyRegion;
  readonly #heartbeats = new Heartbeats();
  #before = new Map<string, PeerState>();

  constructor(path: string) {
    this.#view = ReadOnlyRegion.ofFile(path);
  }

  /** Read the region. */
  poll(): RegionState {
    const view = this.#view;
    view.refresh();
    const slots = view.peers();
    this.#heartbeats.update(slots);
    const holdings = view.holdings();
    const peers = slots.map((peer): PeerState => {
      const { frames = 0, connections = 0 } = holdings.get(peer.slot) ?? {};
      const age = this.#heartbeats.age(peer);
      return {
        ...peer,
        heartbeatAgeMs: age === undefined ? null : Math.round(age),
        silent: this.#heartbeats.silence(peer) > SILENT_AFTER_MS,
        lives: view.lives(peer),
        frames,
        connections,
      };
    });
    return { peers, frames: view.frames() };
  }

  /**
   * What has changed since the last call.
   * @param dead keys of the peers that were declared dead since then
   */
  changes({ peers }: RegionState, dead: ReadonlySet<string>): PeerEvent[] {
    const before = this.#before;
    const now = new Map(peers.map((peer) => [peerKey(peer), peer]));
    this.#before = now;
    const ended = [...before].filter(([key]) => !now.has(key));
    return [
      ...ended.map(([key, peer]): PeerEvent => ({ what: dead.has(key) ? 'dead' : 'left', peer })),
      ...peers.flatMap((peer): PeerEvent[] => {
        const then = before.get(peerKey(peer));
        if (!then) return [{ what: 'attached', peer }];
        return then.silent === peer.silent ? [] : [{ what: peer.silent ? 'silent' : 'back', peer }];
      }),
    ];
  }

  [Symbol.dispose](): void {
    this.#view.close();
  }
}

/** Heartbeats of peers over several copies of the peer table. A heartbeat is a count: the clocks of two machines differ. */
import type { PeerSlot } from './peer-table.js';

export class Heartbeats {
  readonly #seen = new Map<number, { generation: number; heartbeat: number; since: number; changed: boolean }>();

  /** Take the heartbeats of a fresh copy of the peer table. */
  update(peers: readonly PeerSlot[]): void {
    const now = performance.now();
    for (const { slot, generation, heartbeat } of peers) {
      const before = this.#seen.get(slot);
      if (before?.generation !== generation) {
        this.#seen.set(slot, { generation, heartbeat, since: now, changed: false });
      } else if (before.heartbeat !== heartbeat) {
        this.#seen.set(slot, { generation, heartbeat, since: now, changed: true });
      }
    }
    for (const slot of this.#seen.keys()) if (!peers.some((peer) => peer.slot === slot)) this.#seen.delete(slot);
  }

  /** Slots whose heartbeat has not changed since it was first seen. */
  silent(): number[] {
    return [...this.#seen].flatMap(([slot, { changed }]) => (changed ? [] : [slot]));
  }

  /** Milliseconds since the last change; undefined: none was seen. */
  age({ slot }: Pick<PeerSlot, 'slot'>): number | undefined {
    const seen = this.#seen.get(slot);
    return seen?.changed ? performance.now() - seen.since : undefined;
  }

  /** Milliseconds since the last change, or since the slot was first seen if there was none. */
  silence({ slot }: Pick<PeerSlot, 'slot'>): number {
    return performance.now() - (this.#seen.get(slot)?.since ?? performance.now());
  }
}

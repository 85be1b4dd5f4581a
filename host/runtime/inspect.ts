/**
 * Snapshots of a runtime: plain data that survives JSON, the same for `runtime.inspect()`, the control socket and
 * `isthmus inspect --json`. A value that does not exist is null, so that every key is always present.
 */

import { threadId } from 'node:worker_threads';
import type { Connection } from '../api/connection.js';
import type {
  ConnectionSnapshot,
  RegionInfo,
  RegionSnapshot,
  RuntimeSnapshot,
  RuntimeStats,
  RuntimeSummary,
} from '../api/snapshots.js';
import { version } from '../base/version.js';
import type { Region } from '../region/region.js';
import type { Refused } from './discovery.js';

const COUNTERS = ['messagesSent', 'messagesReceived', 'bytesSent', 'bytesReceived', 'stalls'] as const;
const NOW = ['ringUsed', 'ringSize', 'pendingSends', 'unreadMessages', 'unreadBytes'] as const;

/** Numbers the connections of a runtime, and keeps the sums of those that have ended. */
export class Ledger {
  readonly #started = new Date();
  readonly #entries = new WeakMap<Connection, { readonly number: number; readonly opened: string }>();
  readonly #ended: Record<(typeof COUNTERS)[number], number> = {
    messagesSent: 0,
    messagesReceived: 0,
    bytesSent: 0,
    bytesReceived: 0,
    stalls: 0,
  };
  readonly #left = new WeakSet<Connection>();
  #count = 0;

  enter(connection: Connection): void {
    this.#entries.set(connection, { number: ++this.#count, opened: new Date().toISOString() });
  }

  /** The connection has ended: keep its sums. Idempotent. */
  leave(connection: Connection): void {
    if (this.#left.has(connection)) return;
    this.#left.add(connection);
    const stats = connection.stats();
    for (const counter of COUNTERS) this.#ended[counter] += stats[counter];
  }

  stats(open: Iterable<Connection>): RuntimeStats {
    const sums = { ...this.#ended, ringUsed: 0, ringSize: 0, pendingSends: 0, unreadMessages: 0, unreadBytes: 0 };
    let connections = 0;
    let oldestUnreadMs = 0;
    for (const connection of open) {
      connections++;
      const stats = connection.stats();
      for (const counter of [...COUNTERS, ...NOW]) sums[counter] += stats[counter];
      oldestUnreadMs = Math.max(oldestUnreadMs, stats.oldestUnreadMs);
    }
    return { connections, connectionsEver: this.#count, ...sums, oldestUnreadMs };
  }

  connection(connection: Connection): ConnectionSnapshot {
    const { plugin, why = null, state, stalled, peer } = connection;
    const { number = 0, opened = this.#started.toISOString() } = this.#entries.get(connection) ?? {};
    const { name, pid, node, id, address = null } = peer;
    return {
      number,
      plugin,
      why,
      state,
      stalled,
      opened,
      peer: { name, pid, node, id: String(id), address: address && { host: address.host, port: address.port } },
      ...connection.stats(),
    };
  }

  /** The properties of the process, and when the runtime started. */
  process(): Pick<RuntimeSummary, 'pid' | 'thread' | 'version' | 'node' | 'started'> {
    return {
      pid: process.pid,
      thread: threadId,
      version: version(),
      node: process.version,
      started: this.#started.toISOString(),
    };
  }
}

export function regionInfo(region: Region): RegionInfo {
  const { slots, slotsUsed, frames, ...info } = regionSnapshot(region);
  return info;
}

export function regionSnapshot(region: Region): RegionSnapshot {
  return {
    name: region.backing.name,
    path: region.backing.path,
    kind: region.backing.kind,
    size: region.backing.size,
    uuid: region.uuid.toString('hex'),
    slot: region.slot,
    slots: region.slots,
    slotsUsed: slotsUsed(region),
    frames: region.core.call.regionFrames.value,
    freeFrames: region.core.freeFrames(),
  };
}

function slotsUsed({ core: { call, layout }, slots }: Region): number {
  let used = 0;
  for (let slot = 0; slot < slots; slot++) if (call.slotState(slot) !== layout.SLOT_FREE) used++;
  return used;
}

export function refusedSnapshot({ path, error: { code, message } }: Refused): RuntimeSnapshot['refused'][number] {
  return { path, code, message };
}

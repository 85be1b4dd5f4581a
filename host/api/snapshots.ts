/**
 * A runtime as seen from outside: plain data that survives JSON, the same for `runtime.inspect()`, the control socket and
 * `isthmus inspect --json`. A value that does not apply is null, so that every key is always there.
 */
import type { Connection, ConnectionStats } from './connection.js';
import type { MigrationState } from './migratable.js';

/** Sums over the connections of a runtime. Counters include the connections that are closed. */
export interface RuntimeStats extends ConnectionStats {
  /** Connections that are open now, and all that there have been. */
  readonly connections: number;
  readonly connectionsEver: number;
}

export interface PluginSnapshot {
  readonly name: string;
  readonly archId: number;
  readonly priority: number;
  /** Why it cannot be used. */
  readonly unavailable: string | null;
}

export interface RegionSnapshot {
  readonly name: string;
  readonly path: string;
  /** A file; a device behind its driver; a PCI device without one, which is slow. */
  readonly kind: 'posix' | 'uio' | 'pci';
  /** In bytes. */
  readonly size: number;
  /** 32 hexadecimal digits. */
  readonly uuid: string;
  /** Of this process. */
  readonly slot: number;
  readonly slots: number;
  readonly slotsUsed: number;
  /** Of 4 KiB. */
  readonly frames: number;
  readonly freeFrames: number;
}

export interface PeerSnapshot {
  readonly name: string;
  readonly pid: number;
  /** IPv4 address that the peer claims. */
  readonly node: string;
  /** A decimal u64. */
  readonly id: string;
  /** Where its socket really comes from; null on `loop`. */
  readonly address: { readonly host: string; readonly port: number } | null;
}

export interface ConnectionSnapshot extends ConnectionStats {
  /** Counts the connections of the runtime, from 1. */
  readonly number: number;
  readonly plugin: string;
  /** Why not a better plugin. */
  readonly why: string | null;
  readonly state: Connection['state'];
  /** For how long the peer has shown no sign of life, in milliseconds; 0: not stalled. */
  readonly stalled: number;
  /** When it was opened, ISO 8601. */
  readonly opened: string;
  readonly peer: PeerSnapshot;
}

/** What a row of `isthmus ps` is made from. */
export interface RuntimeSummary {
  /** As `isthmus ps` shows it. */
  readonly id: string;
  readonly name: string;
  readonly pid: number;
  /** 0: the main thread. */
  readonly thread: number;
  /** Of Isthmus. */
  readonly version: string;
  /** Of Node.js, as `v22.1.0`. */
  readonly node: string;
  /** ISO 8601. */
  readonly started: string;
  /** Level of the log, as `PSP_DEBUG`. */
  readonly debug: number;
  readonly listeners: readonly { readonly host: string; readonly port: number }[];
  readonly stats: RuntimeStats;
  /** Where it stands in a migration, and since when (ISO 8601). */
  readonly migration: { readonly state: MigrationState; readonly since: string };
}

/** What `runtime.inspect()` returns. */
export interface RuntimeSnapshot extends RuntimeSummary {
  readonly plugins: readonly PluginSnapshot[];
  readonly regions: readonly RegionSnapshot[];
  /** Candidates that were found and not used. */
  readonly refused: readonly { readonly path: string; readonly code: string; readonly message: string }[];
  readonly connections: readonly ConnectionSnapshot[];
}

/** One row of `runtime.regions()`. */
export interface RegionInfo {
  readonly name: string;
  readonly path: string;
  /** A file; a device behind its driver; a PCI device without one, which is slow. */
  readonly kind: 'posix' | 'uio' | 'pci';
  readonly size: number;
  readonly uuid: string;
  readonly slot: number;
  readonly freeFrames: number;
}

/** What a pass of the verification reads, and what it counts. */
import type { Core } from '../core/core.js';
import type { Identity } from '../device/backing.js';

/** What one look is made on: `Onlooker`, or a core of a test. */
export interface Glimpse {
  readonly path: string;
  readonly size: number;
  /** Its window holds header and tables. */
  readonly core: Core;
  readonly identity: Identity;
  /** A copy of bytes of the region. */
  read(from: number, length: number): Buffer;
  /** Whether somebody holds the lock on that byte; undefined: it cannot be told. */
  locked(byte: number): boolean | undefined;
}

export interface Finding {
  /** `error`: inconsistent. `note`: consistent, and somebody has yet to do something. */
  readonly severity: 'error' | 'note';
  /** `header`, `slot 3`, `extent 17`, `run at frame 4711`, `ring at frame 80`. */
  readonly where: string;
  readonly message: string;
}

/** What there is. */
export interface Counts {
  /** `unknown`: on another kernel, or come to the memory another way, so that no lock proves anything. */
  readonly slots: { total: number; alive: number; unknown: number; dead: number };
  /** `held`: by those alive or unknown; `dead`: by the dead; `gone`: kept for others by somebody who has left. */
  readonly extents: { total: number; tables: number; free: number; held: number; dead: number; gone: number };
  /** Of 4 KiB; `runs`: in runs of which somebody has a half. */
  readonly frames: { total: number; tables: number; free: number; runs: number };
  readonly runs: { total: number; rings: number; memory: number; loose: number };
  /** In rings, committed and not given back. */
  readonly records: { total: number; bytes: number };
  readonly grants: { total: number };
}

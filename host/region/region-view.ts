/** A region as the check and the statistics read it. */
import type { Core } from '../core/core.js';
import type { Identity } from '../device/identity.js';

/** A `ReadOnlyRegion`, or a core of a test. */
export interface RegionView {
  readonly path: string;
  /** In bytes. */
  readonly size: number;
  /** Its window holds header and tables. */
  readonly core: Core;
  readonly identity: Identity;
  /** A copy of bytes of the region. */
  read(from: number, length: number): Buffer;
  /** Whether a process of this kernel holds the lock on that byte; undefined: unknown. */
  locked(byte: number): boolean | undefined;
}

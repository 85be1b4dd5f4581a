/**
 * Events on `node:diagnostics_channel`. What each carries is documented in docs/diagnostics.md; nothing is published per
 * message, and nothing is made for a channel to which nobody listens.
 */
import { channel } from 'node:diagnostics_channel';
import type { Closed, Connection } from '../api/connection.js';
import type { MigrationState } from '../api/migratable.js';
import type { RegionInfo } from '../api/snapshots.js';
import type { IsthmusError } from '../base/errors.js';

/** Which region: what stays the same as long as it is there. */
export type RegionIdentity = Pick<RegionInfo, 'name' | 'path' | 'kind' | 'size' | 'uuid'>;

/** Name of each channel, and what its messages carry besides `runtime`. */
export interface DiagnosticEvents {
  /** A runtime listens. */
  'isthmus:listen': { readonly host: string; readonly port: number };
  /** A connection is open. */
  'isthmus:connection:open': { readonly connection: Connection };
  /** A connection has let go of what carried it: it, or its peer, is about to be migrated. */
  'isthmus:connection:suspend': { readonly connection: Connection };
  /** It is back, perhaps over another plugin. */
  'isthmus:connection:resume': { readonly connection: Connection };
  /** Its peer has shown no sign of life for `silence` milliseconds. */
  'isthmus:connection:stalled': { readonly connection: Connection; readonly silence: number };
  /** It has shown one again, after so long. */
  'isthmus:connection:recovered': { readonly connection: Connection; readonly silence: number };
  /** The migration of the runtime has come to another state. */
  'isthmus:migration': { readonly state: MigrationState };
  /** A connection is closed, in whatever way. */
  'isthmus:connection:close': { readonly connection: Connection; readonly closed: Closed };
  /** A connect, or somebody who came to a listener, got no connection. */
  'isthmus:handshake:failed': {
    readonly role: 'connect' | 'accept';
    /** Whom we called, or who came; undefined if it was gone before we could ask. */
    readonly address: { readonly host: string; readonly port: number } | undefined;
    readonly error: IsthmusError;
  };
  /** A region is mapped, and a slot of it is ours. */
  'isthmus:region:attach': { readonly region: RegionIdentity };
  /** A region is let go of; `error`: because our slot was taken away. */
  'isthmus:region:detach': { readonly region: RegionIdentity; readonly error: IsthmusError | undefined };
}

const CHANNELS = {
  'isthmus:listen': channel('isthmus:listen'),
  'isthmus:connection:open': channel('isthmus:connection:open'),
  'isthmus:connection:suspend': channel('isthmus:connection:suspend'),
  'isthmus:connection:resume': channel('isthmus:connection:resume'),
  'isthmus:connection:stalled': channel('isthmus:connection:stalled'),
  'isthmus:connection:recovered': channel('isthmus:connection:recovered'),
  'isthmus:connection:close': channel('isthmus:connection:close'),
  'isthmus:migration': channel('isthmus:migration'),
  'isthmus:handshake:failed': channel('isthmus:handshake:failed'),
  'isthmus:region:attach': channel('isthmus:region:attach'),
  'isthmus:region:detach': channel('isthmus:region:detach'),
} as const satisfies { [name in keyof DiagnosticEvents]: unknown };

/** @param event makes what is published, besides the runtime; not called when nobody listens */
export function publish<Name extends keyof DiagnosticEvents>(
  runtime: object,
  name: Name,
  event: () => DiagnosticEvents[Name],
): void {
  const target = CHANNELS[name];
  if (target.hasSubscribers) target.publish({ runtime, ...event() });
}

/**
 * Events on `node:diagnostics_channel`; docs/diagnostics.md documents their contents. None is published for each message,
 * and no event object is made for a channel without subscribers.
 */
import { channel } from 'node:diagnostics_channel';
import type { Closed, Connection } from '../api/connection.js';
import type { MigrationState } from '../api/migratable.js';
import type { RegionInfo } from '../api/snapshots.js';
import type { IsthmusError } from '../base/errors.js';

/** The properties of a region that do not change while it is attached. */
export type RegionIdentity = Pick<RegionInfo, 'name' | 'path' | 'kind' | 'size' | 'uuid'>;

/** Name of each channel, and the properties of its events besides `runtime`. */
export interface DiagnosticEvents {
  /** A runtime listens. */
  'isthmus:listen': { readonly host: string; readonly port: number };
  /** A connection is open. */
  'isthmus:connection:open': { readonly connection: Connection };
  /** A connection has let go of its link: this process, or the peer, is about to be migrated. */
  'isthmus:connection:suspend': { readonly connection: Connection };
  /** A suspended connection is open again, perhaps over another plugin. */
  'isthmus:connection:resume': { readonly connection: Connection };
  /** The peer of a connection has shown no sign of life for `silence` milliseconds. */
  'isthmus:connection:stalled': { readonly connection: Connection; readonly silence: number };
  /** The peer shows signs of life again, after `silence` milliseconds. */
  'isthmus:connection:recovered': { readonly connection: Connection; readonly silence: number };
  /** The migration state of the runtime has changed. */
  'isthmus:migration': { readonly state: MigrationState };
  /** A connection is closed, in order or not. */
  'isthmus:connection:close': { readonly connection: Connection; readonly closed: Closed };
  /** A connect failed, or a peer that connected to a listener got no connection. */
  'isthmus:handshake:failed': {
    readonly role: 'connect' | 'accept';
    /** Of the listener that was called, or of the peer that came; undefined: the peer had gone already. */
    readonly address: { readonly host: string; readonly port: number } | undefined;
    readonly error: IsthmusError;
  };
  /** A region is mapped, and this process has a slot in it. */
  'isthmus:region:attach': { readonly region: RegionIdentity };
  /** A region was left; `error`: because an operator has fenced the slot of this process. */
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

/** Publish an event. `event` makes its properties; it is not called for a channel without subscribers. */
export type Publish = <Name extends keyof DiagnosticEvents>(name: Name, event: () => DiagnosticEvents[Name]) => void;

/** @param runtime becomes the property `runtime` of each event */
export function publisher(runtime: object): Publish {
  return (name, event) => {
    const target = CHANNELS[name];
    if (target.hasSubscribers) target.publish({ runtime, ...event() });
  };
}

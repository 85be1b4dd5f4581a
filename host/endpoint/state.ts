/** What the endpoints of a runtime share, and what the parts of one endpoint share. */

import { randomBytes } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import { isIP } from 'node:net';
import type { ConnectionEvents } from '../api/events.js';
import type { ConInfo, Peer } from '../api/peer.js';
import { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import { ownAddress } from '../base/network.js';
import type { Config } from '../config/config.js';
import type { RuntimeConnection } from '../connection/connection.js';
import type { Route } from '../connection/context.js';
import type { Core } from '../core/core.js';
import type { LoopPlugin } from '../plugins/loop.js';
import type { Link } from '../plugins/plugin.js';
import type { PluginRegistry } from '../plugins/registry.js';
import type { Poller } from '../polling/poller.js';

/** Events of an endpoint, for the runtime. */
export interface EndpointEvents {
  created(connection: RuntimeConnection): void;
  /** The connection is up for the first time. */
  opened(connection: RuntimeConnection): void;
  suspended(connection: RuntimeConnection): void;
  /** The connection is up again. */
  resumed(connection: RuntimeConnection): void;
  /** The peer has been silent for `silence` milliseconds, or shows a sign of life again after as many. */
  silence(connection: RuntimeConnection, event: keyof ConnectionEvents, silence: number): void;
  /** The connection is closed and holds nothing any more. */
  released(connection: RuntimeConnection): void;
  listening(address: { readonly host: string; readonly port: number }): void;
  failed(role: 'connect' | 'accept', address: Peer['address'], error: IsthmusError): void;
}

/** A listening socket, as a connect within the process sees it. */
export interface LocalListener {
  readonly host: string;
  readonly port: number;
  readonly accept: ((peer: Peer) => boolean | Promise<boolean>) | undefined;
  accepted(link: Link, route: Route): void;
}

/** An endpoint, as a connect within the process sees it. */
export interface LocalEndpoint {
  readonly localListeners: Iterable<LocalListener>;
}

/** What all endpoints of a runtime share. */
export interface EndpointContext {
  readonly config: Config;
  readonly log: Log;
  readonly registry: PluginRegistry;
  readonly loop: LoopPlugin;
  readonly poller: Poller;
  /** Aborted when the runtime is closed. */
  readonly ending: AbortSignal;
  privateCore(): Core;
  readonly events: EndpointEvents;
  /** All endpoints of the runtime. */
  readonly endpoints: ReadonlySet<LocalEndpoint>;
}

/** Name, plugins and end of one endpoint. */
export class EndpointState {
  readonly name: string;
  /** The runtime's plugins with the mask of this endpoint. */
  registry: PluginRegistry;
  /** Aborted when the endpoint is closed. */
  readonly #ending = new AbortController();
  readonly #networks: string;

  /** @throws ERR_ISTHMUS_INVALID_ARGUMENT */
  constructor(name: string, { registry, config }: EndpointContext) {
    if (typeof name !== 'string' || name === '' || name.includes('\0')) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'the name of an endpoint is a string that is not empty');
    }
    this.name = name;
    // Each connect under way adds a listener.
    setMaxListeners(0, this.#ending.signal);
    this.registry = registry;
    this.#networks = config.network;
  }

  get closed(): boolean {
    return this.#ending.signal.aborted;
  }

  /** For what the application waits for. Aborted when the endpoint is closed. */
  get ending(): AbortSignal {
    return this.#ending.signal;
  }

  close(): void {
    this.#ending.abort(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the endpoint was closed'));
  }

  /** @throws ERR_ISTHMUS_CLOSED */
  check(): void {
    if (this.closed) throw new IsthmusError('ERR_ISTHMUS_CLOSED', 'the endpoint is closed');
  }

  /**
   * The CON_INFO of a new end of a connection.
   * @param host the local address that is listened on; undefined: an address by `PSP_NETWORK`
   */
  conInfo(host?: string): ConInfo {
    const id = randomBytes(8).readBigUInt64LE();
    return { node: this.#announcedAddress(host), pid: process.pid, id, name: wireName(this.name) };
  }

  #announcedAddress(host: string | undefined): string {
    return host !== undefined && isIP(host) === 4 && host !== '0.0.0.0' ? host : ownAddress(this.#networks);
  }
}

/** The first 8 bytes of a name, as in CON_INFO; not cut within a character. */
export function wireName(name: string): string {
  const bytes = new Uint8Array(8);
  const { written } = new TextEncoder().encodeInto(name, bytes);
  return new TextDecoder().decode(bytes.subarray(0, written));
}

/** Connections within the process: to a listener of the same runtime, and of an endpoint to itself. */
import type { Connection } from '../api/connection.js';
import type { Peer } from '../api/peer.js';
import { IsthmusError } from '../base/errors.js';
import { disabled } from '../plugins/registry.js';
import { accepts, addressesOf } from './address.js';
import type { Connections } from './connections.js';
import type { EndpointContext, EndpointState, LocalEndpoint, LocalListener } from './state.js';

export class LocalConnector {
  readonly #context: EndpointContext;
  readonly #state: EndpointState;
  readonly #connections: Connections;

  constructor(context: EndpointContext, state: EndpointState, connections: Connections) {
    this.#context = context;
    this.#state = state;
    this.#connections = connections;
  }

  /** The listener of this runtime that a connect to that address would reach. */
  async find(
    host: string,
    port: number,
  ): Promise<{ readonly listener: LocalListener; readonly endpoint: LocalEndpoint } | undefined> {
    const loop = this.#state.registry.all.find(({ plugin }) => plugin === this.#context.loop);
    if (!loop || disabled(loop) !== undefined) return undefined;
    const candidates = [...this.#context.endpoints].flatMap((endpoint) =>
      [...endpoint.localListeners].filter((one) => one.port === port).map((listener) => ({ listener, endpoint })),
    );
    if (candidates.length === 0) return undefined;
    const ips = await addressesOf(host);
    return candidates.find(({ listener }) => accepts(listener.host, ips));
  }

  /** @throws ERR_ISTHMUS_HANDSHAKE_REFUSED, ERR_ISTHMUS_CLOSED */
  async connect({ accept, accepted }: LocalListener): Promise<Connection> {
    const { loop } = this.#context;
    if ((await accept?.(this.#peer())) === false) {
      throw new IsthmusError(
        'ERR_ISTHMUS_HANDSHAKE_REFUSED',
        'the listener, in the same process, refused the connection',
      );
    }
    this.#state.check();
    const [near, far] = loop.pair(this.#context.privateCore(), this.#ringSize);
    const connection = this.#connections.open(near, this.#route());
    accepted(far, this.#route());
    return connection;
  }

  /** A connection that receives what it sends. */
  connectSelf(): Connection {
    const { loop } = this.#context;
    return this.#connections.open(loop.self(this.#context.privateCore(), this.#ringSize), this.#route());
  }

  get #ringSize(): number {
    return this.#context.config.tcpRingSize || 65536;
  }

  #route() {
    return { plugin: 'loop', why: undefined, peer: this.#peer() };
  }

  /** The other end is in this process, too. */
  #peer(): Peer {
    return { ...this.#state.conInfo(), address: undefined };
  }
}

/** The listening sockets of an endpoint, those included that are open only for peers that come back. */
import type { BlockList } from 'node:net';
import type { Peer } from '../api/peer.js';
import { IsthmusError } from '../base/errors.js';
import type { Route } from '../connection/context.js';
import type { Connected } from '../handshake/attach.js';
import { Listener, type ListenerOptions } from '../handshake/listener.js';
import type { Link } from '../plugins/plugin.js';
import { accepts } from './address.js';
import { openLink, routeOf } from './connected.js';
import type { EndpointContext, EndpointState, LocalListener } from './state.js';

export interface ListenOptions {
  /** Default 0: any free port. */
  readonly port?: number | undefined;
  /** Default 127.0.0.1: the wire protocol has no authentication. */
  readonly host?: string | undefined;
  /** Called before any region is offered; false refuses. The peer's CON_INFO is not authenticated. */
  readonly accept?: ((peer: Peer) => boolean | Promise<boolean>) | undefined;
  /** Connections from these addresses are closed before anything is read from them. */
  readonly blockList?: BlockList | undefined;
  /** Handshakes at the same time, default 64. Further peers wait. */
  readonly maxHandshakes?: number | undefined;
}

/** What `listen` returns. */
export interface Listening extends AsyncDisposable {
  readonly host: string;
  readonly port: number;
  /** Accept no more connections. Open connections stay. */
  close(): Promise<void>;
  ref(): Listening;
  unref(): Listening;
}

interface OpenListener extends LocalListener {
  readonly listener: Listener;
}

/** What happens to the peers that connect. */
export interface ListenerCallbacks {
  /** A peer asks for an on-demand connection. */
  readonly onDemand: ListenerOptions['onDemand'];
  /** A handshake has ended well. @returns whether it was for a connection that exists */
  resumed(connected: Connected): boolean;
  /** A connection that no handler of the application wants. */
  accepted(link: Link, route: Route): void;
  /** Whether the endpoint has a connection to this peer. */
  knows(peer: Peer): boolean;
}

export class Listeners {
  readonly #context: EndpointContext;
  readonly #state: EndpointState;
  readonly #callbacks: ListenerCallbacks;
  readonly #open = new Set<OpenListener>();
  /** By local address: listeners that are open only so that peers can come back. */
  readonly #temporary = new Map<string, Promise<Listening>>();
  #held = false;

  constructor(context: EndpointContext, state: EndpointState, callbacks: ListenerCallbacks) {
    this.#context = context;
    this.#state = state;
    this.#callbacks = callbacks;
  }

  get size(): number {
    return this.#open.size;
  }

  /** The first listener: its address is what peers are told. */
  get first(): LocalListener | undefined {
    return [...this.#open][0];
  }

  [Symbol.iterator](): IterableIterator<LocalListener> {
    return this.#open.values();
  }

  /**
   * @param accepted called for each new connection; it takes the link over
   * @throws ERR_ISTHMUS_LISTEN, ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED
   */
  async open(options: ListenOptions, accepted: LocalListener['accepted']): Promise<Listening> {
    const { port = 0, host = '127.0.0.1', accept, blockList, maxHandshakes } = options;
    const { config, log, events } = this.#context;
    if (!Number.isInteger(port) || port < 0 || port > 65535) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `${port} is not a port: 0 to 65535`);
    }
    const listener = await Listener.open({
      host,
      port,
      backlog: config.backlog,
      local: () => this.#state.conInfo(host),
      registry: this.#state.registry,
      accept,
      blockList,
      ...(maxHandshakes === undefined ? {} : { maxHandshakes }),
      handshakeTimeoutMs: config.handshakeTimeout,
      onDemand: this.#callbacks.onDemand,
      onAgreed: (connected) => {
        if (!this.#callbacks.resumed(connected)) accepted(openLink(connected), routeOf(connected));
      },
      onHandshakeError: (error, address) => events.failed('accept', address, error),
      log: (line, level) => log(level, line),
    });
    if (this.#state.closed) {
      await listener.close();
      this.#state.check();
    }
    const open: OpenListener = { listener, ...listener.address, accept, accepted };
    // Before the first peer.
    if (this.#held) void listener.hold();
    this.#open.add(open);
    events.listening(listener.address);
    return this.#listening(open);
  }

  #listening(open: OpenListener): Listening {
    const { listener, host, port } = open;
    const close = () => {
      this.#open.delete(open);
      return listener.close();
    };
    const listening: Listening = {
      host,
      port,
      close,
      ref: () => {
        listener.ref();
        return listening;
      },
      unref: () => {
        listener.unref();
        return listening;
      },
      [Symbol.asyncDispose]: close,
    };
    return listening;
  }

  // ─── suspending ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** New peers wait, also those of later listeners. Resolves when no handshake is so far that it holds memory of a region. */
  async hold(): Promise<void> {
    this.#held = true;
    await Promise.all([...this.#open].map(({ listener }) => listener.hold()));
  }

  /** End the handshakes that {@link hold} waits for. */
  cut(): void {
    for (const { listener } of this.#open) listener.cut();
  }

  release(): void {
    this.#held = false;
    for (const { listener } of this.#open) listener.release();
  }

  /**
   * A port where peers that have reached this endpoint at the local address `host` can come back; a temporary listener is
   * opened if there is none. 0: the endpoint is closed.
   */
  async portFor(host: string): Promise<number> {
    if (this.#state.closed) return 0;
    const found = [...this.#open].find((one) => accepts(one.host, [host]));
    if (found) return found.port;
    const { accepted, knows } = this.#callbacks;
    let opening = this.#temporary.get(host);
    if (!opening) {
      opening = this.open({ host, port: 0, accept: knows }, accepted);
      this.#temporary.set(host, opening);
      opening.catch(() => this.#temporary.delete(host));
    }
    return (await opening).port;
  }

  get hasTemporary(): boolean {
    return this.#temporary.size > 0;
  }

  /** No peer has to come back any more. */
  closeTemporary(): void {
    for (const opening of this.#temporary.values()) opening.then((listening) => listening.close()).catch(() => {});
    this.#temporary.clear();
  }

  async close(): Promise<void> {
    await Promise.all([...this.#open].map(({ listener }) => listener.close()));
    this.#open.clear();
  }
}

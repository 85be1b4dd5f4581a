/** An endpoint: the socket of pscom. A facade over its parts, which it makes and connects to each other. */
import type { Connection } from '../api/connection.js';
import type { Envelope } from '../api/envelope.js';
import type { PluginMask } from '../api/peer.js';
import { bounded } from '../base/bounded.js';
import { IsthmusError } from '../base/errors.js';
import type { RuntimeConnection } from '../connection/connection.js';
import { Matching } from '../matching/matching.js';
import type { Group, GroupOptions } from '../messaging/group.js';
import { Groups } from '../messaging/groups.js';
import type {
  PostReceiveOptions,
  PostSendOptions,
  ProbeOptions,
  ReceiveRequest,
  SendRequest,
} from '../messaging/request.js';
import { Requests } from '../messaging/requests.js';
import { type Address, type ParsedAddress, parseAddress } from './address.js';
import { discard, openLink, routeOf } from './connected.js';
import { type ConnectionHandler, Connections } from './connections.js';
import { Dialer } from './dialer.js';
import { Listeners, type Listening, type ListenOptions } from './listeners.js';
import { LocalConnector } from './local.js';
import { Reconnector } from './reconnector.js';
import { type EndpointContext, EndpointState, type LocalEndpoint, type LocalListener, wireName } from './state.js';

/**
 * Time for connects and attempts of plugins under way, when the process is to be suspended. Then they are cut; connects of
 * this side begin again afterwards.
 */
const GRACE_MS = 500;

export interface ConnectOptions {
  readonly signal?: AbortSignal | undefined;
}

/**
 * A set of listeners and connections with one name. Its posted receives and probes take messages of all connections.
 *
 * ```ts
 * const { connection, data } = await runtime.endpoint().postReceive({}).done;   // of any connection
 * ```
 */
export class Endpoint implements AsyncDisposable, LocalEndpoint {
  /** The first 8 bytes go over the wire, and name the endpoint in `host:port@name`. */
  readonly name: string;
  readonly #context: EndpointContext;
  readonly #state: EndpointState;
  readonly #connections: Connections;
  readonly #listeners: Listeners;
  readonly #dialer: Dialer;
  readonly #local: LocalConnector;
  readonly #reconnector: Reconnector;
  readonly #groups = new Groups();
  readonly #requests: Requests;
  #closed: Promise<void> | undefined;

  /** @internal */
  constructor(name: string, context: EndpointContext) {
    const state = new EndpointState(name, context);
    const matching = new Matching();
    this.name = name;
    this.#context = context;
    this.#state = state;
    this.#connections = new Connections(context, matching, this.#groups, {
      bringUp: (connection) => this.#reconnector.bringUp(connection),
      suspended: (connection) => this.#reconnector.onSuspended(connection),
      requestDrain: (one) => this.#dialer.requestDrain(one.route, () => one.linked && one.lifecycle.exchanging),
      listenPort: async ({ route: { ends } }) => (ends ? this.#listeners.portFor(ends.host) : 0),
      up: () => {
        if (this.#listeners.hasTemporary && !this.#connections.someAway) this.#listeners.closeTemporary();
      },
      released: (connection) => {
        this.#reconnector.remove(connection);
        this.#groups.forget(connection);
      },
    });
    this.#listeners = new Listeners(context, state, {
      onDemand: (request) => this.#reconnector.asked(request),
      resumed: (connected) => this.#reconnector.agreed(connected),
      accepted: (link, route) => this.#connections.accept(link, route),
      knows: (peer) => this.#connections.knows(peer),
    });
    this.#dialer = new Dialer(context, state, () => this.#listeners.first?.port);
    this.#local = new LocalConnector(context, state, this.#connections);
    this.#reconnector = new Reconnector({
      dialer: this.#dialer,
      listeners: this.#listeners,
      connections: this.#connections,
      config: context.config,
      log: context.log,
    });
    this.#requests = new Requests(matching, this.#connections.all, (one) => this.#connections.own(one));
  }

  /**
   * Restrict the plugins, by name: `only` these, or all; plus `add`, minus `delete`. It applies to later calls of `listen`
   * and `connect`.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT: no plugin has that name
   */
  mask(mask: PluginMask): void {
    this.#state.registry = this.#context.registry.masked(mask);
  }

  /** Open connections, and those that are connecting or suspended. */
  connections(): Connection[] {
    return [...this.#connections.all];
  }

  /** Addresses of the listeners. */
  listening(): { host: string; port: number }[] {
    return [...this.#listeners].map(({ host, port }) => ({ host, port }));
  }

  /** @internal */
  get open(): ReadonlySet<RuntimeConnection> {
    return this.#connections.all;
  }

  /** @internal */
  get localListeners(): Iterable<LocalListener> {
    return this.#listeners;
  }

  // ─── listening and connecting ──────────────────────────────────────────────────────────────────────────────────────

  /**
   * Listen for connections.
   * @param handler called with each new connection; without it they only appear in `connections()`
   * @throws ERR_ISTHMUS_LISTEN, ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED
   */
  async listen(options: ListenOptions, handler?: ConnectionHandler): Promise<Listening> {
    this.#state.check();
    if (handler !== undefined && typeof handler !== 'function') {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'the handler of listen is not a function');
    }
    return this.#listeners.open(options, (link, route) => this.#connections.accept(link, route, handler));
  }

  /**
   * Connect to a listener. A refused connect is tried again (`retry`). With `host:port@name` it returns at once, in state
   * `connecting`: the first message of either side brings the connection up.
   * @throws ERR_ISTHMUS_CONNECT, ERR_ISTHMUS_HANDSHAKE…, ERR_ISTHMUS_NO_PLUGIN, ERR_ISTHMUS_INVALID_ARGUMENT,
   * ERR_ISTHMUS_CLOSED, `signal.reason`
   */
  async connect(address: Address, { signal }: ConnectOptions = {}): Promise<Connection> {
    this.#state.check();
    const parsed = parseAddress(address);
    const { host, port, name } = parsed;
    signal?.throwIfAborted();
    const found = await this.#local.find(host, port);
    this.#state.check();
    if (name !== undefined) {
      if (found && found.endpoint === this && wireName(name) === wireName(this.name)) return this.#local.connectSelf();
      return this.#connectOnDemand(parsed, name);
    }
    if (found) return this.#local.connect(found.listener);
    const connected = await this.#dialer.connect(parsed, signal);
    if (this.#state.closed) discard(connected);
    this.#state.check();
    return this.#connections.open(openLink(connected), routeOf(connected));
  }

  #connectOnDemand(address: ParsedAddress, name: string): Connection {
    const local = this.#state.conInfo(this.#listeners.first?.host);
    const peer = { node: '0.0.0.0', pid: 0, id: 0n, name: wireName(name), address: undefined };
    const connection = this.#connections.create({ plugin: 'ondemand', why: undefined, peer });
    this.#reconnector.add(connection, address, local);
    return connection;
  }

  // ─── suspending ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @internal Begin nothing new. Resolves when each connect under way has become a connection, or has been cut. */
  async hold(): Promise<void> {
    this.#reconnector.hold();
    const ended = Promise.all([this.#listeners.hold(), this.#dialer.hold()]);
    await bounded(ended, GRACE_MS);
    this.#dialer.cut();
    this.#listeners.cut();
    await ended;
  }

  /** @internal End of {@link hold}. */
  release(): void {
    this.#dialer.release();
    this.#listeners.release();
    this.#reconnector.release();
  }

  /** @internal For each connection that this side brings up at the moment: settles when it is up. */
  coming(): Promise<unknown>[] {
    return this.#reconnector.coming();
  }

  // ─── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Post a receive. It takes the first message that it matches, also one that arrived earlier. Of several receives that
   * match a message, the one that was posted first takes it; a call of `connection.receive()` counts as posted, too.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED, the error of the match function
   */
  postReceive(options: PostReceiveOptions): ReceiveRequest {
    this.#state.check();
    return this.#requests.postReceive(options);
  }

  /**
   * Send as a request: `done` resolves when the message is taken, as `connection.send()` does.
   * @throws as `connection.send()` rejects, for a message that cannot be sent at all
   */
  postSend(options: PostSendOptions): SendRequest {
    return this.#requests.postSend(options);
  }

  /** Whether a message has arrived that a receive with these options would take. The message stays. */
  iprobe(options: ProbeOptions = {}): Envelope | undefined {
    this.#state.check();
    return this.#requests.iprobe(options);
  }

  /**
   * Wait for a message that a receive with these options would take. The message stays.
   * @throws ERR_ISTHMUS_CLOSED: the connection, or the endpoint, has ended; `signal.reason`
   */
  async probe(options: ProbeOptions & { readonly signal?: AbortSignal | undefined } = {}): Promise<Envelope> {
    options.signal?.throwIfAborted();
    return this.iprobe(options) ?? this.#requests.probe(options, options.signal);
  }

  /**
   * Open a group over connections of this endpoint. The other members open it as well, earlier or later.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED
   */
  group(options: GroupOptions): Group {
    this.#state.check();
    return this.#groups.open(options, (member) => {
      const connection = this.#connections.own(member);
      connection.throwIfEnded();
      return connection;
    });
  }

  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Close listeners and connections. Idempotent.
   * @param timeout for the orderly close of each connection, in milliseconds, default `closeTimeout`
   */
  close({ timeout }: { timeout?: number | undefined } = {}): Promise<void> {
    this.#closed ??= this.#close(timeout);
    return this.#closed;
  }

  async #close(timeout: number | undefined): Promise<void> {
    this.#state.close();
    await this.#listeners.close();
    this.#reconnector.giveUpWaiting();
    await this.#groups.close();
    this.#requests.close(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the endpoint was closed'));
    await this.#connections.close(timeout);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** An endpoint: pscom's socket. It listens, connects, and has its connections and its posted receives. */
import { randomBytes } from 'node:crypto';
import type { BlockList } from 'node:net';
import type { Connection } from '../api/connection.js';
import type { Envelope } from '../api/envelope.js';
import type { ConnectionEvents } from '../api/events.js';
import type { ConInfo, Peer, PluginMask } from '../api/peer.js';
import { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import type { Config } from '../config/config.js';
import { RuntimeConnection } from '../connection/connection.js';
import type { Route } from '../connection/context.js';
import type { Core } from '../core/core.js';
import { askListener } from '../handshake/ask-listener.js';
import type { Connected } from '../handshake/attach.js';
import { type DialOptions, dial } from '../handshake/dial.js';
import { FRAME } from '../handshake/frames.js';
import { Listener } from '../handshake/listener.js';
import { Matching } from '../matching/matching.js';
import type { Group, GroupOptions } from '../messaging/group.js';
import { Groups } from '../messaging/groups.js';
import {
  PostedReceive,
  PostedSend,
  type PostReceiveOptions,
  type PostSendOptions,
  type ProbeOptions,
  type ReceiveRequest,
  type SendRequest,
  waitForMessage,
} from '../messaging/requests.js';
import type { LoopPlugin } from '../plugins/loop.js';
import type { Link } from '../plugins/plugin.js';
import { disabled, type PluginRegistry } from '../plugins/registry.js';
import type { Poller } from '../polling/poller.js';
import {
  type Address,
  addressesOf,
  announcedAddress,
  hears,
  type ParsedAddress,
  parseAddress,
  wireName,
} from './address.js';
import { OnDemand } from './reconnector.js';

export interface ListenOptions {
  /** 0 or left out: any free port. */
  readonly port?: number | undefined;
  /** Default 127.0.0.1: the wire protocol has no authentication. */
  readonly host?: string | undefined;
  /** Asked before any region is offered; false refuses. The peer's words are not authenticated. */
  readonly accept?: ((peer: Peer) => boolean | Promise<boolean>) | undefined;
  /** Addresses that are closed before anything is read from them. */
  readonly blockList?: BlockList | undefined;
  /** Handshakes at once, default 64. */
  readonly maxHandshakes?: number | undefined;
}

/**
 * Called for each connection; handlers run side by side. When one throws, its connection is destroyed. On-demand
 * connections are not handed to it: who asked for one has it already.
 */
export type ConnectionHandler = (connection: Connection) => void | Promise<void>;

/** What `listen` returns. */
export interface Listening extends AsyncDisposable {
  readonly host: string;
  readonly port: number;
  /** Take no more connections. Those that are open stay. */
  close(): Promise<void>;
  ref(): Listening;
  unref(): Listening;
}

/** What happens at an endpoint. */
export interface EndpointEvents {
  created(connection: RuntimeConnection): void;
  /** It is up for the first time. */
  opened(connection: RuntimeConnection): void;
  suspended(connection: RuntimeConnection): void;
  /** It is up again. */
  resumed(connection: RuntimeConnection): void;
  /** Its peer has fallen silent for so many milliseconds, or is back after so many. */
  silence(connection: RuntimeConnection, event: keyof ConnectionEvents, silence: number): void;
  /** It is closed and holds nothing any more. */
  gone(connection: RuntimeConnection): void;
  listening(address: { readonly host: string; readonly port: number }): void;
  failed(role: 'connect' | 'accept', address: Peer['address'], error: IsthmusError): void;
}

/** What the endpoints of a runtime have in common. */
export interface EndpointHost {
  readonly config: Config;
  readonly log: Log;
  readonly registry: PluginRegistry;
  readonly loop: LoopPlugin;
  readonly poller: Poller;
  /** Aborted when the runtime is closed. */
  readonly ending: AbortSignal;
  privateCore(): Core;
  /** Who keeps the books, and tells others. */
  readonly events: EndpointEvents;
  /** All of the runtime, this one included. */
  readonly endpoints: ReadonlySet<Endpoint>;
}

/** A connect that is under way. */
interface Dialing {
  readonly cancel: AbortController;
  readonly over: Promise<unknown>;
}

/** How long connects under way may go on when the process is to be suspended, in milliseconds. Then they begin anew. */
const DIAL_GRACE = 500;
/** How long the peer of a stream has to answer before it is hurried, in milliseconds. */
const HURRY_AFTER = 50;

interface OpenListener {
  readonly listener: Listener;
  readonly host: string;
  readonly port: number;
  readonly accept: ListenOptions['accept'];
  accepted(link: Link, route: Route): void;
}

export interface ConnectOptions {
  readonly signal?: AbortSignal | undefined;
}

/**
 * A set of listeners and connections with one name, whose messages one can wait for together.
 *
 * ```ts
 * const { connection, data } = await runtime.endpoint().postReceive({}).done;   // from whomever
 * ```
 */
export class Endpoint implements AsyncDisposable {
  /** The first 8 bytes go over the wire, and name it in `host:port@name`. */
  readonly name: string;
  readonly #host: EndpointHost;
  readonly #matching = new Matching();
  readonly #listeners = new Set<OpenListener>();
  readonly #connections = new Set<RuntimeConnection>();
  readonly #onDemand: OnDemand;
  readonly #groups = new Groups();
  /** The runtime's plugins, as far as they may be used here. */
  #registry: PluginRegistry;
  #closed: Promise<void> | undefined;
  readonly #dialing = new Set<Dialing>();
  /** The process is suspended: settles when it goes on. */
  #held: { readonly over: Promise<void>; readonly end: () => void } | undefined;
  /** By address: listeners that were opened so that peers can come back. */
  readonly #temporary = new Map<string, Promise<Listening>>();

  /** @internal */
  constructor(name: string, host: EndpointHost) {
    if (typeof name !== 'string' || name === '' || name.includes('\0')) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'a name is a string that is not empty');
    }
    this.name = name;
    this.#host = host;
    this.#registry = host.registry;
    const listeners = this.#listeners;
    this.#onDemand = new OnDemand({
      dialOptions: () => this.#dialOptions(undefined),
      get listens() {
        return listeners.size > 0;
      },
      timeoutMs: host.config.handshakeTimeout,
      dial: (address, options) => this.#dial(address, options),
      resumeTimeoutMs: host.config.resumeTimeout,
      open: (connection, connected, up, confirm) => this.#up(connection, connected, up, confirm),
      suspending: (id) =>
        [...this.#connections].find((one) => one.peer.id === id && one.linked && one.lifecycle.exchanging),
      hurried: (id) => {
        const found = [...this.#connections].find((one) => one.peer.id === id && one.linked);
        found?.onDrainRequested();
        return found !== undefined;
      },
      log: host.log,
    });
  }

  /**
   * Which plugins may be used, by name: `only` these, else all; and `add`, but not `delete`. For what is listened to and
   * connected from here on.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT: there is no plugin of that name
   */
  mask(mask: PluginMask): void {
    this.#registry = this.#host.registry.masked(mask);
  }

  /** The connections that are open, and those that are to be. */
  connections(): Connection[] {
    return [...this.#connections];
  }

  /** Where it listens. */
  listening(): { host: string; port: number }[] {
    return [...this.#listeners].map(({ host, port }) => ({ host, port }));
  }

  /** @internal */
  get open(): ReadonlySet<RuntimeConnection> {
    return this.#connections;
  }

  // ─── listening and connecting ──────────────────────────────────────────────────────────────────────────────────────

  /**
   * Listen for connections.
   * @param handler left out: on-demand connections only, and those of whom this side knows otherwise
   * @throws ERR_ISTHMUS_LISTEN, ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED
   */
  async listen(options: ListenOptions, handler?: ConnectionHandler): Promise<Listening> {
    this.#check();
    const { port = 0, host = '127.0.0.1', accept, blockList, maxHandshakes } = options;
    const { config, log } = this.#host;
    if (!Number.isInteger(port) || port < 0 || port > 65535) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `${port} is not a port: 0 to 65535`);
    }
    if (handler !== undefined && typeof handler !== 'function') {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'the handler of listen is not a function');
    }
    const accepted = (link: Link, route: Route) => {
      const connection = this.#create(route);
      this.#attach(connection, link, route);
      if (handler) this.#handle(connection, handler);
    };
    const listener = await Listener.open({
      host,
      port,
      backlog: config.backlog,
      local: () => this.#conInfo(host),
      registry: this.#registry,
      accept,
      blockList,
      ...(maxHandshakes === undefined ? {} : { maxHandshakes }),
      handshakeTimeoutMs: config.handshakeTimeout,
      onDemand: (request) => this.#onDemand.asked(request),
      onAgreed: (connected) => {
        if (this.#onDemand.agreed(connected)) return;
        accepted(this.#link(connected), routeOf(connected));
      },
      onHandshakeError: (error, address) => this.#host.events.failed('accept', address, error),
      log: (line) => log('warning', line),
    });
    if (this.#closed) {
      await listener.close();
      this.#check();
    }
    const open: OpenListener = { listener, ...listener.address, accept, accepted };
    this.#listeners.add(open);
    this.#host.events.listening(listener.address);
    const close = () => {
      this.#listeners.delete(open);
      return listener.close();
    };
    const listening: Listening = {
      host: open.host,
      port: open.port,
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

  /**
   * Connect to a listener, trying again while it refuses (`retry`). `host:port@name` comes back at once, in state
   * `connecting`: the first message of either side brings it up.
   * @throws ERR_ISTHMUS_CONNECT, ERR_ISTHMUS_HANDSHAKE…, ERR_ISTHMUS_NO_PLUGIN, ERR_ISTHMUS_INVALID_ARGUMENT,
   * ERR_ISTHMUS_CLOSED, `signal.reason`
   */
  async connect(address: Address, { signal }: ConnectOptions = {}): Promise<Connection> {
    this.#check();
    const parsed = parseAddress(address);
    const { host, port, name } = parsed;
    signal?.throwIfAborted();
    const found = await this.#ownListener(host, port);
    this.#check();
    if (name !== undefined) {
      if (found && found.endpoint === this && wireName(name) === wireName(this.name)) return this.#connectSelf();
      return this.#connectOnDemand(parsed);
    }
    if (found) return this.#connectLoop(found.listener);
    const connected = await this.#dialNow(parsed, signal);
    const route = routeOf(connected);
    const link = this.#link(connected);
    const connection = this.#create(route);
    this.#attach(connection, link, route);
    return connection;
  }

  async #dial({ host, port }: ParsedAddress, options: Omit<DialOptions, 'host' | 'port'>): Promise<Connected> {
    try {
      return await dial({ ...options, host, port });
    } catch (error) {
      if (error instanceof IsthmusError && error.code !== 'ERR_ISTHMUS_CLOSED') {
        this.#host.events.failed('connect', { host, port }, error);
      }
      throw error;
    }
  }

  /** Dial; while the process is suspended, wait. */
  async #dialNow(address: ParsedAddress, signal: AbortSignal | undefined): Promise<Connected> {
    for (;;) {
      await this.#goesOn(signal);
      this.#check();
      const cancel = new AbortController();
      const both = signal ? AbortSignal.any([signal, cancel.signal]) : cancel.signal;
      const dial = this.#dial(address, { ...this.#dialOptions(both), local: this.#conInfo(undefined) });
      const dialing = { cancel, over: dial.catch(() => {}) };
      this.#dialing.add(dialing);
      try {
        return await dial;
      } catch (error) {
        if (!cancel.signal.aborted || signal?.aborted) throw error;
      } finally {
        this.#dialing.delete(dialing);
      }
    }
  }

  async #goesOn(signal: AbortSignal | undefined): Promise<void> {
    while (this.#held) {
      signal?.throwIfAborted();
      const { ending } = this.#host;
      const both = signal ? AbortSignal.any([signal, ending]) : ending;
      await Promise.race([this.#held.over, aborted(both)]);
    }
  }

  // ─── suspending ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @internal Begin nothing new. Resolves when what is under way has become a connection, or is going to begin anew. */
  async hold(): Promise<void> {
    let end!: () => void;
    const over = new Promise<void>((resolve) => {
      end = resolve;
    });
    this.#held ??= { over, end };
    this.#onDemand.hold();
    const through = Promise.all([
      ...[...this.#listeners].map(({ listener }) => listener.hold()),
      ...[...this.#dialing].map((dialing) => dialing.over),
    ]);
    let timer: NodeJS.Timeout | undefined;
    const grace = new Promise((resolve) => {
      timer = setTimeout(resolve, DIAL_GRACE);
    });
    await Promise.race([through, grace]);
    clearTimeout(timer);
    for (const { cancel } of this.#dialing) cancel.abort();
    await through;
  }

  /** @internal Go on. */
  release(): void {
    const held = this.#held;
    this.#held = undefined;
    held?.end();
    for (const { listener } of this.#listeners) listener.release();
    this.#onDemand.release();
  }

  /** @internal Connections that this side brings up at the moment: settle when they are up, or closed. */
  coming(): Promise<unknown>[] {
    return this.#onDemand.coming();
  }

  #suspended(connection: RuntimeConnection): void {
    const { peer, shutdown, route } = connection;
    this.#host.log('info', `the connection to ${peer.name} is suspended`);
    this.#host.events.suspended(connection);
    if (!route.ends || !peer.address) return; // Both ends are here.
    const address = { host: peer.address.host, port: shutdown.peerPort, name: peer.name };
    this.#onDemand.suspended(connection, address, route.ends.local);
    // Too late for a suspension that has been given up.
    if (shutdown.asked) this.#onDemand.bringUp(connection);
  }

  #silence(connection: RuntimeConnection, event: keyof ConnectionEvents, silence: number): void {
    const { peer, plugin } = connection;
    const what = event === 'stalled' ? `stalled: no sign of life of it for ${silence} ms` : `back after ${silence} ms`;
    this.#host.log('warning', `${peer.name}[${peer.pid}] over ${plugin} is ${what}`);
    this.#host.events.silence(connection, event, silence);
  }

  /** Over a stream the peer may have stopped reading in front of our wish: it hears of it at its listener. */
  #hurry(connection: RuntimeConnection): void {
    const { ends, peer } = connection.route;
    if (!ends?.listens || !peer.address) return;
    const { host } = peer.address;
    const { local, listens: port } = ends;
    const { log } = this.#host;
    setTimeout(() => {
      if (!connection.linked || !connection.lifecycle.exchanging) return;
      const options = { ...this.#dialOptions(undefined), host, port, local, frame: FRAME.HURRY, retry: 0 };
      askListener(options).catch((error: Error) => log('info', `${peer.name} was not to be hurried: ${error.message}`));
    }, HURRY_AFTER).unref();
  }

  /** Where the peer can come back to: a listener of ours, or one for this. */
  async #listenPort({ route }: RuntimeConnection): Promise<number> {
    const { ends } = route;
    if (!ends || this.#closed) return 0;
    const found = [...this.#listeners].find(({ host }) => hears(host, [ends.host]));
    if (found) return found.port;
    const knows = (peer: Peer) => [...this.#connections].some((connection) => connection.peer.id === peer.id);
    let opening = this.#temporary.get(ends.host);
    if (!opening) {
      opening = this.listen({ host: ends.host, port: 0, accept: knows });
      this.#temporary.set(ends.host, opening);
      // A listener that opens while the process is held is held as well.
      opening.then(
        () => {
          if (this.#held) for (const { listener } of this.#listeners) void listener.hold();
        },
        () => this.#temporary.delete(ends.host),
      );
    }
    return (await opening).port;
  }

  /** Nobody has to come back any more: the listeners that were opened for that go. */
  #closeTemporary(): void {
    if (this.#temporary.size === 0) return;
    for (const connection of this.#connections) if (!connection.linked || connection.lifecycle.exchanging) return;
    for (const opening of this.#temporary.values()) opening.then((listening) => listening.close()).catch(() => {});
    this.#temporary.clear();
  }

  #connectOnDemand(address: ParsedAddress): Connection {
    const local = this.#conInfo([...this.#listeners][0]?.host);
    const peer: Peer = { node: '0.0.0.0', pid: 0, id: 0n, name: wireName(address.name as string), address: undefined };
    const connection = this.#create({ plugin: 'ondemand', why: undefined, peer });
    this.#onDemand.add(connection, address, local);
    return connection;
  }

  async #ownListener(host: string, port: number): Promise<{ listener: OpenListener; endpoint: Endpoint } | undefined> {
    const loop = this.#registry.all.find(({ plugin }) => plugin === this.#host.loop);
    if (!loop || disabled(loop) !== undefined) return undefined;
    const candidates = [...this.#host.endpoints].flatMap((endpoint) =>
      [...endpoint.#listeners].filter((one) => one.port === port).map((listener) => ({ listener, endpoint })),
    );
    if (candidates.length === 0) return undefined;
    const ips = await addressesOf(host);
    return candidates.find(({ listener }) => hears(listener.host, ips));
  }

  /** What one's own listener is told of the other end, which is here too. */
  #self(): Peer {
    return { ...this.#conInfo(undefined), address: undefined };
  }

  async #connectLoop({ accept, accepted }: OpenListener): Promise<Connection> {
    const { loop, config } = this.#host;
    if ((await accept?.(this.#self())) === false) {
      throw new IsthmusError('ERR_ISTHMUS_HANDSHAKE_REFUSED', 'our own listener refused the connection');
    }
    this.#check();
    const [near, far] = loop.pair(this.#host.privateCore(), config.tcpRingSize || 65536);
    const route = () => ({ plugin: 'loop', why: undefined, peer: this.#self() });
    const connection = this.#create(route());
    this.#attach(connection, near, connection);
    accepted(far, route());
    return connection;
  }

  /** A connection to oneself: what one sends one receives. */
  #connectSelf(): Connection {
    const { loop, config } = this.#host;
    const link = loop.self(this.#host.privateCore(), config.tcpRingSize || 65536);
    const connection = this.#create({ plugin: 'loop', why: undefined, peer: this.#self() });
    this.#attach(connection, link, connection);
    return connection;
  }

  #dialOptions(signal: AbortSignal | undefined): Omit<DialOptions, 'host' | 'port' | 'local'> {
    const { config, ending, log } = this.#host;
    return {
      registry: this.#registry,
      retry: config.retry,
      handshakeTimeoutMs: config.handshakeTimeout,
      signal: signal ? AbortSignal.any([signal, ending]) : ending,
      log: (line) => log('info', line),
      listens: [...this.#listeners][0]?.port,
    };
  }

  #conInfo(host: string | undefined): ConInfo {
    const id = randomBytes(8).readBigUInt64LE();
    return { node: announcedAddress(host, this.#host.config.network), pid: process.pid, id, name: wireName(this.name) };
  }

  /** What the plugin made of a handshake. @throws what it says; nothing is left of the handshake then */
  #link({ attempt, socket, rest }: Connected): Link {
    try {
      return attempt.open(socket, rest);
    } catch (error) {
      attempt.undo();
      socket.destroy();
      throw error;
    }
  }

  #up(connection: RuntimeConnection, connected: Connected, up: () => void, confirm?: 'initiator' | 'responder'): void {
    this.#attach(connection, this.#link(connected), routeOf(connected), up, confirm);
  }

  #create(route: Route): RuntimeConnection {
    const { poller, config } = this.#host;
    const connection: RuntimeConnection = new RuntimeConnection(route, {
      poller,
      matching: this.#matching,
      limits: {
        maxMessageSize: config.maxMessageSize,
        unread: config.unexpectedReceives ? Number.POSITIVE_INFINITY : config.unread,
      },
      rendezvous: (plugin) => rendezvousOf(config, plugin),
      bringUp: () => this.#onDemand.bringUp(connection),
      onSuspended: () => this.#suspended(connection),
      requestDrain: () => this.#hurry(connection),
      listenPort: () => this.#listenPort(connection),
      closeTimeout: config.closeTimeout,
      stallTimeout: config.stallTimeout,
      peerTimeout: config.peerTimeout,
      onSilence: (event, silence) => this.#silence(connection, event, silence),
      log: this.#host.log,
      onReleased: () => {
        this.#connections.delete(connection);
        this.#onDemand.remove(connection);
        this.#groups.forget(connection);
        this.#host.events.gone(connection);
      },
    });
    this.#groups.enter(connection);
    this.#connections.add(connection);
    this.#host.events.created(connection);
    return connection;
  }

  #attach(
    connection: RuntimeConnection,
    link: Link,
    { plugin, why, peer, ends }: Route,
    up?: () => void,
    confirm?: 'initiator' | 'responder',
  ): void {
    const again = connection.everLinked;
    const begun = () => {
      this.#closeTemporary();
      if (again) this.#host.events.resumed(connection);
      else this.#host.events.opened(connection);
      const where = peer.address ? ` (${peer.address.host}:${peer.address.port})` : '';
      const over = `over ${plugin}${why === undefined ? '' : `; ${why}`}`;
      this.#host.log('info', `connected to ${peer.name}${where} ${over}`);
      up?.();
    };
    connection.attach(link, { plugin, why, peer, ends }, begun, confirm);
  }

  #handle(connection: RuntimeConnection, handler: ConnectionHandler): void {
    const run = async () => handler(connection);
    run().catch((error: unknown) => {
      // A peer that went away in the middle of an answer is nobody's fault.
      const level = connection.state === 'open' ? 'error' : 'info';
      const text = error instanceof Error ? error.message : String(error);
      this.#host.log(level, `the handler of a connection failed: ${text}`);
      connection.destroy(error instanceof Error ? error : new Error(String(error)));
    });
  }

  // ─── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Post a receive. Of those that take a message, the one that was posted first gets it; `connection.receive()` counts
   * as one too. It takes the first message that it matches, also one that came long before.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED, what the match function throws
   */
  postReceive(options: PostReceiveOptions): ReceiveRequest {
    this.#check();
    const request = new PostedReceive(options);
    if (options.connection !== undefined) {
      const connection = this.#mine(options.connection);
      const { receiver } = connection;
      connection.progress();
      if (receiver.offer(request)) return request;
      connection.throwIfEnded();
      request.posted(() => receiver.withdraw(request));
      receiver.post(request);
      connection.poke();
      return request;
    }
    for (const connection of this.#connections) {
      connection.progress();
      if (connection.receiver.offer(request)) return request;
    }
    request.posted(() => this.#matching.remove(request));
    this.#matching.add(request);
    // What lies in a ring because too much is unread may be what it takes.
    for (const connection of [...this.#connections]) if (request.state === 'posted') connection.poke();
    return request;
  }

  /**
   * Send as a request: `done` resolves when the message is taken, as `connection.send()` does.
   * @throws what `connection.send()` rejects with, for what cannot be sent at all
   */
  postSend(options: PostSendOptions): SendRequest {
    return new PostedSend(this.#mine(options.connection), options);
  }

  /** Whether a message is there that a receive with these options would take. It stays. */
  iprobe({ connection, match }: ProbeOptions = {}): Envelope | undefined {
    this.#check();
    const candidates = connection === undefined ? this.#connections : [this.#mine(connection)];
    for (const one of candidates) {
      one.progress();
      const found = one.receiver.find(match);
      if (found) return one.receiver.pending.envelope(found);
    }
    return undefined;
  }

  /**
   * Wait for a message that a receive with these options would take. It stays.
   * @throws ERR_ISTHMUS_CLOSED: the connection, or the endpoint, has ended; `signal.reason`
   */
  async probe(options: ProbeOptions & { readonly signal?: AbortSignal | undefined } = {}): Promise<Envelope> {
    options.signal?.throwIfAborted();
    const found = this.iprobe(options);
    if (found) return found;
    if (options.connection !== undefined) this.#mine(options.connection).throwIfEnded();
    const waiting = waitForMessage(this.#matching, options, options.signal);
    for (const connection of [...this.#connections]) connection.poke();
    return waiting;
  }

  /**
   * Open a group over connections of this endpoint. The others open it too, now or later.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_CLOSED
   */
  group(options: GroupOptions): Group {
    this.#check();
    return this.#groups.open(options, (connection) => {
      const mine = this.#mine(connection as Connection);
      mine.throwIfEnded();
      return mine;
    });
  }

  #mine(connection: Connection): RuntimeConnection {
    if (connection instanceof RuntimeConnection && connection.matching === this.#matching) return connection;
    throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'the connection belongs to another endpoint');
  }

  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #check(): void {
    if (this.#closed) throw new IsthmusError('ERR_ISTHMUS_CLOSED', 'the endpoint is closed');
  }

  /**
   * Close listeners and connections. Idempotent.
   * @param timeout for the orderly close of each connection, in milliseconds, default `closeTimeout`
   */
  close({ timeout }: { timeout?: number | undefined } = {}): Promise<void> {
    this.#closed ??= this.#close(timeout);
    return this.#closed;
  }

  async #close(timeout: number | undefined): Promise<void> {
    await Promise.all([...this.#listeners].map(({ listener }) => listener.close()));
    this.#listeners.clear();
    await this.#groups.close();
    this.#matching.rejectAll(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the endpoint was closed'));
    // One that does not finish in time is cut; what went wrong is its own matter.
    await Promise.allSettled([...this.#connections].map((connection) => connection.close({ timeout })));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** The size from which on a message is announced; that of loop is never worth it. */
function rendezvousOf(config: Config, plugin: string): number {
  if (plugin === 'shm') return config.rendezvousShm;
  if (plugin === 'ivshmem') return config.rendezvousIvshmem;
  return plugin === 'loop' ? Number.POSITIVE_INFINITY : config.rendezvous;
}

function routeOf({ plugin, why, peer, local, listens, socket }: Connected): Route {
  return { plugin: plugin.name, why, peer, ends: { local, host: socket.localAddress ?? '127.0.0.1', listens } };
}

/** Rejects when the signal is aborted. */
function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
  });
}

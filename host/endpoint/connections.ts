/** The connections of an endpoint: how they are made, and how they are found. */
import type { Connection } from '../api/connection.js';
import type { ConnectionEvents } from '../api/events.js';
import type { Peer } from '../api/peer.js';
import { IsthmusError } from '../base/errors.js';
import type { Config } from '../config/config.js';
import { RuntimeConnection } from '../connection/connection.js';
import type { Route } from '../connection/context.js';
import type { ConfirmRole } from '../connection/link-lifetime.js';
import type { Connected } from '../handshake/attach.js';
import type { Matching } from '../matching/matching.js';
import type { Groups } from '../messaging/groups.js';
import type { Link } from '../plugins/plugin.js';
import { openLink, routeOf } from './connected.js';
import type { EndpointContext } from './state.js';

/**
 * Called for each connection; handlers run concurrently. When one throws, its connection is destroyed. It is not called for
 * on-demand connections, because the application has them already.
 */
export type ConnectionHandler = (connection: Connection) => void | Promise<void>;

/** What the other parts of the endpoint do for its connections. */
export interface ConnectionCallbacks {
  /** The connection wants to send and has no link. */
  bringUp(connection: RuntimeConnection): void;
  /** Both sides have let go of the link. */
  suspended(connection: RuntimeConnection): void;
  /** The peer has to read on, and the link cannot tell it. */
  requestDrain(connection: RuntimeConnection): void;
  /** A port where the peer can come back; 0: none. */
  listenPort(connection: RuntimeConnection): Promise<number>;
  /** Messages go over the link. */
  up(): void;
  /** The connection is closed and holds nothing any more. */
  released(connection: RuntimeConnection): void;
}

export class Connections {
  readonly #context: EndpointContext;
  readonly #matching: Matching;
  readonly #groups: Groups;
  readonly #callbacks: ConnectionCallbacks;
  readonly #all = new Set<RuntimeConnection>();

  constructor(context: EndpointContext, matching: Matching, groups: Groups, callbacks: ConnectionCallbacks) {
    this.#context = context;
    this.#matching = matching;
    this.#groups = groups;
    this.#callbacks = callbacks;
  }

  get all(): ReadonlySet<RuntimeConnection> {
    return this.#all;
  }

  /** @throws ERR_ISTHMUS_INVALID_ARGUMENT: not a connection of this endpoint */
  own(connection: unknown): RuntimeConnection {
    if (connection instanceof RuntimeConnection && connection.matching === this.#matching) return connection;
    throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'the connection belongs to another endpoint');
  }

  // ─── finding ───────────────────────────────────────────────────────────────────────────────────────────────────────

  knows(peer: Peer): boolean {
    return [...this.#all].some((connection) => connection.peer.id === peer.id);
  }

  /** The connection to the peer with this id, if it has a link. */
  linkedTo(peerId: bigint): RuntimeConnection | undefined {
    return [...this.#all].find((connection) => connection.peer.id === peerId && connection.linked);
  }

  /** The connection to the peer with this id, if it is being suspended and still has its link. */
  suspendingTo(peerId: bigint): RuntimeConnection | undefined {
    return [...this.#all].find((one) => one.peer.id === peerId && one.linked && one.lifecycle.exchanging);
  }

  /** Whether a connection has no link, or is about to lose it. */
  get someAway(): boolean {
    for (const connection of this.#all) if (!connection.linked || connection.lifecycle.exchanging) return true;
    return false;
  }

  // ─── making ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** A connection with its link. */
  open(link: Link, route: Route): RuntimeConnection {
    const connection = this.create(route);
    this.#attach(connection, link, route);
    return connection;
  }

  /** A connection of a listener. */
  accept(link: Link, route: Route, handler?: ConnectionHandler): void {
    const connection = this.open(link, route);
    if (handler) this.#handle(connection, handler);
  }

  /** Give an existing connection the link of a handshake. @param up called when messages go over it */
  resume(connection: RuntimeConnection, connected: Connected, up: () => void, role?: ConfirmRole): void {
    this.#attach(connection, openLink(connected), routeOf(connected), up, role);
  }

  /** A connection without a link. */
  create(route: Route): RuntimeConnection {
    const { poller, config, log, events } = this.#context;
    const callbacks = this.#callbacks;
    const connection: RuntimeConnection = new RuntimeConnection(route, {
      poller,
      matching: this.#matching,
      limits: {
        maxMessageSize: config.maxMessageSize,
        unread: config.unexpectedReceives ? Number.POSITIVE_INFINITY : config.unread,
      },
      rendezvous: (plugin) => rendezvousOf(config, plugin),
      bringUp: () => callbacks.bringUp(connection),
      onSuspended: () => {
        log('info', `the connection to ${connection.peer.name} is suspended`);
        events.suspended(connection);
        callbacks.suspended(connection);
      },
      requestDrain: () => callbacks.requestDrain(connection),
      listenPort: () => callbacks.listenPort(connection),
      closeTimeout: config.closeTimeout,
      stallTimeout: config.stallTimeout,
      peerTimeout: config.peerTimeout,
      onSilence: (event, silence) => this.#silence(connection, event, silence),
      log,
      onReleased: () => {
        this.#all.delete(connection);
        callbacks.released(connection);
        events.released(connection);
      },
    });
    this.#groups.enter(connection);
    this.#all.add(connection);
    events.created(connection);
    return connection;
  }

  #attach(connection: RuntimeConnection, link: Link, route: Route, onUp?: () => void, role?: ConfirmRole): void {
    const { events, log } = this.#context;
    const { plugin, why, peer } = route;
    const again = connection.everLinked;
    const up = () => {
      this.#callbacks.up();
      if (again) events.resumed(connection);
      else events.opened(connection);
      const where = peer.address ? ` (${peer.address.host}:${peer.address.port})` : '';
      const over = `over ${plugin}${why === undefined ? '' : `; ${why}`}`;
      log('info', `connected to ${peer.name}${where} ${over}`);
      onUp?.();
    };
    connection.attach(link, route, up, role);
  }

  #silence(connection: RuntimeConnection, event: keyof ConnectionEvents, silence: number): void {
    const { peer, plugin } = connection;
    const what = event === 'stalled' ? `stalled: no sign of life for ${silence} ms` : `back after ${silence} ms`;
    this.#context.log('warning', `${peer.name}[${peer.pid}] over ${plugin} is ${what}`);
    this.#context.events.silence(connection, event, silence);
  }

  #handle(connection: RuntimeConnection, handler: ConnectionHandler): void {
    const run = async () => handler(connection);
    run().catch((error: unknown) => {
      // A peer that ends in the middle of an answer is not an error of the application.
      const level = connection.state === 'open' ? 'error' : 'info';
      const text = error instanceof Error ? error.message : String(error);
      this.#context.log(level, `the handler of a connection failed: ${text}`);
      connection.destroy(error instanceof Error ? error : new Error(String(error)));
    });
  }

  /** Close all in order. A connection that does not finish in time is cut; its error is reported by the connection. */
  async close(timeout: number | undefined): Promise<void> {
    await Promise.allSettled([...this.#all].map((connection) => connection.close({ timeout })));
  }
}

/** Bytes from which on a message is announced over a plugin. Over loop an announcement never pays. */
function rendezvousOf(config: Config, plugin: string): number {
  if (plugin === 'shm') return config.rendezvousShm;
  if (plugin === 'ivshmem') return config.rendezvousIvshmem;
  return plugin === 'loop' ? Number.POSITIVE_INFINITY : config.rendezvous;
}

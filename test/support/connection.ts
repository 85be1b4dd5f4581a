/** Connections without an endpoint: a context that writes down what it is told, and links that a test steers. */
import type { Connection } from '../../host/api/connection.js';
import { RuntimeConnection } from '../../host/connection/connection.js';
import type { ConnectionContext, Route } from '../../host/connection/context.js';
import type { ConfirmRole } from '../../host/connection/link-lifetime.js';
import { Matching } from '../../host/matching/matching.js';
import { type LinkOptions, linkPair, type TestLink, TestPoller } from './channel.js';
import { newCore, type TestCore } from './core.js';

export function routeTo(name: string, plugin = 'test'): Route {
  const peer = { node: '10.0.0.1', pid: 1, id: 1n, name, address: undefined };
  return { plugin, why: undefined, peer };
}

export interface TestConnection {
  readonly connection: RuntimeConnection;
  readonly poller: TestPoller;
  readonly matching: Matching;
  /** Calls of the context, and `up` of each link. */
  readonly told: string[];
  /** What the connection logged. */
  readonly log: string[];
  attach(link: TestLink, role?: ConfirmRole, plugin?: string): void;
}

/** A connection that has no link yet. */
export function newConnection(name: string, context: Partial<ConnectionContext> = {}): TestConnection {
  const told: string[] = [];
  const log: string[] = [];
  const poller = new TestPoller();
  const matching = new Matching();
  const connection = new RuntimeConnection(routeTo('?', '?'), {
    poller,
    matching,
    limits: { unread: 1 << 20, maxMessageSize: 1 << 24 },
    closeTimeout: 5000,
    stallTimeout: 1000,
    peerTimeout: 0,
    log: (_level, line) => log.push(line),
    rendezvous: () => Number.POSITIVE_INFINITY,
    bringUp: () => told.push('bringUp'),
    onSuspended: () => told.push('suspended'),
    requestDrain: () => told.push('requestDrain'),
    listenPort: () => Promise.resolve(8000),
    onSilence: (event, ms) => told.push(`${event} ${ms}`),
    onReleased: () => told.push('released'),
    ...context,
  });
  return {
    connection,
    poller,
    matching,
    told,
    log,
    attach: (link, role, plugin = 'test') => {
      const up = () => {
        told.push(`up ${connection.state}`);
      };
      connection.attach(link, routeTo(`peer of ${name}`, plugin), up, role);
    },
  };
}

export interface Connected {
  readonly core: TestCore;
  readonly a: TestConnection;
  readonly b: TestConnection;
  near: TestLink;
  far: TestLink;
  /** Give both ends new links. */
  relink(options?: LinkOptions): void;
  /** Let both ends go on until nothing moves. */
  settle(): Promise<void>;
}

/** Two connections that are connected. */
export function connected(
  options: LinkOptions = {},
  context: Partial<ConnectionContext> = {},
  core: TestCore = newCore(4),
): Connected {
  const [near, far] = linkPair(core, options);
  const [a, b] = [newConnection('a', context), newConnection('b', context)];
  a.attach(near);
  b.attach(far);
  const both: Connected = {
    core,
    a,
    b,
    near,
    far,
    relink(again = options) {
      [both.near, both.far] = linkPair(core, again);
      a.attach(both.near);
      b.attach(both.far);
    },
    async settle() {
      for (let i = 0; i < 10; i++) {
        for (const { connection } of [a, b]) connection.progress();
        await new Promise<void>((resolve) => setImmediate(resolve));
      }
    },
  };
  return both;
}

/** What has become of a connection: how it was closed, or its state. */
export async function fate(connection: Connection): Promise<string> {
  if (connection.state !== 'closed') return connection.state;
  const { reason, error } = await connection.closed;
  return error ? `${reason} ${error.code}` : reason;
}

/**
 * Connections that come up by themselves: on-demand ones with their first message, and suspended ones when the process
 * resumes (docs/protocol.md, phase 1).
 *
 * The side with the smaller or equal name dials. The side with the greater name asks the peer to dial, and waits. A
 * connection that has been up is known by the id of its end, which it keeps for life. A name counts only before that:
 * several connections may carry one name, and another process may listen on that port by now.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import type { ConInfo, Peer } from '../api/peer.js';
import { withEither } from '../base/abortable.js';
import { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import type { Config } from '../config/config.js';
import type { RuntimeConnection } from '../connection/connection.js';
import type { ConfirmRole } from '../connection/link-lifetime.js';
import type { Connected } from '../handshake/attach.js';
import type { OnDemandAnswer, OnDemandRequest } from '../handshake/outcome.js';
import type { ParsedAddress } from './address.js';
import { Awaited } from './awaited.js';
import { discard } from './connected.js';
import type { Connections } from './connections.js';
import type { Dialer } from './dialer.js';
import type { Listeners } from './listeners.js';
import { compareNames, Reconnection } from './reconnection.js';

export interface ReconnectorOptions {
  readonly dialer: Pick<Dialer, 'ending' | 'options' | 'dial' | 'askBack'>;
  readonly listeners: Pick<Listeners, 'size'>;
  readonly connections: Pick<Connections, 'resume' | 'linkedTo' | 'suspendingTo'>;
  readonly config: Pick<Config, 'handshakeTimeout' | 'resumeTimeout' | 'suspendedLimit'>;
  readonly log: Log;
}

/** Time for this side to let go of its end of a link, when the peer is already back. */
const MAX_RELEASE_MS = 10_000;
/** Pauses between tries to reach a peer that is migrating: the first one, and the longest. */
const MIN_PAUSE_MS = 5;
const MAX_PAUSE_MS = 1000;
/** Times that a peer of the same name may refuse a call in favour of its own call, which does not come. */
const MAX_REFUSALS = 5;
/** Times that a listener may close without an answer: it has too much to do, or it is a C program that refuses. */
const MAX_UNANSWERED = 15;
/** Time for a migrating peer to accept: a try that was lost with a host should not last long. */
const CONNECT_TIMEOUT_MS = 3000;

export class Reconnector {
  readonly #dialer: ReconnectorOptions['dialer'];
  readonly #listeners: ReconnectorOptions['listeners'];
  readonly #connections: ReconnectorOptions['connections'];
  /** Time for a peer to connect. */
  readonly #connectMs: number;
  /** Time for the peer of a suspended connection, which may be in the middle of a migration. */
  readonly #resumeMs: number;
  readonly #log: Log;
  readonly #entries = new Map<RuntimeConnection, Reconnection>();
  readonly #awaited: Awaited;
  /** The process is suspended, or about to be: nothing is brought up. */
  #held = false;

  constructor({ dialer, listeners, connections, config, log }: ReconnectorOptions) {
    this.#dialer = dialer;
    this.#listeners = listeners;
    this.#connections = connections;
    this.#connectMs = config.handshakeTimeout;
    this.#resumeMs = config.resumeTimeout;
    this.#awaited = new Awaited(config.suspendedLimit);
    this.#log = log;
  }

  /** An on-demand connection. */
  add(connection: RuntimeConnection, address: ParsedAddress, local: ConInfo): void {
    this.#entries.set(connection, new Reconnection(connection, address, local));
  }

  /** A connection is suspended: from here on it comes up again by itself. */
  onSuspended(connection: RuntimeConnection): void {
    const { peer, shutdown, route } = connection;
    if (!route.ends || !peer.address) return; // Both ends are in this process.
    const address = { host: peer.address.host, port: shutdown.peerPort, name: peer.name };
    let entry = this.#entries.get(connection);
    if (!entry) {
      entry = new Reconnection(connection, address, route.ends.local);
      this.#entries.set(connection, entry);
    }
    entry.peerId = peer.id;
    entry.address = address;
    // The side that asked for the suspension comes back. The other side waits, but not for ever.
    if (!shutdown.asked) {
      entry.startLimit(this.#resumeMs);
      this.#awaited.add(connection);
    }
    // Unless held: the suspension has been given up, and this connection let go too late for it.
    else this.bringUp(connection);
  }

  remove(connection: RuntimeConnection): void {
    const entry = this.#entries.get(connection);
    if (!entry) return;
    this.#entries.delete(connection);
    this.#awaited.delete(connection);
    entry.clearLimit();
    entry.effort?.abort(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the connection was closed'));
    entry.gone();
  }

  /** The listeners are closed: connections that only wait for their peers end, because none of these can come back. */
  giveUpWaiting(): void {
    for (const { connection, effort } of [...this.#entries.values()]) {
      if (connection.lifecycle.phase === 'suspended' && !effort) connection.destroy();
    }
  }

  // ─── suspending the process ────────────────────────────────────────────────────────────────────────────────────────

  /** Give up the efforts under way, and begin none, until {@link release}. (suspend.pml: hold) */
  hold(): void {
    this.#held = true;
    for (const entry of this.#entries.values()) {
      const { connection, effort } = entry;
      if (!effort) continue;
      effort.abort(new IsthmusError('ERR_ISTHMUS_SUSPEND', 'the process is being suspended'));
      entry.interrupted = true;
      connection.lifecycle.raise('hold');
    }
  }

  /** Bring up connections that this side has suspended, that have messages to send, or whose effort was given up. */
  release(): void {
    this.#held = false;
    const all = [...this.#entries.values()];
    // Those with messages to send first.
    all.sort((a, b) => Number(b.connection.wantsToSend) - Number(a.connection.wantsToSend));
    for (const { connection, interrupted } of all) {
      if (connection.linked) continue;
      const wanted = connection.state === 'connecting' ? connection.wantsToSend : connection.shutdown.asked;
      if (interrupted || wanted) this.bringUp(connection);
    }
  }

  /** For each effort under way: settles when its connection is up, or has ended. */
  coming(): Promise<unknown>[] {
    return [...this.#entries.values()]
      .filter((entry) => entry.effort && !entry.connection.linked)
      .map((entry) => entry.untilUpOrGone());
  }

  // ─── efforts of this side ──────────────────────────────────────────────────────────────────────────────────────────

  /** The connection has a message to send, or is to come back. (suspend.pml: bring_up) */
  bringUp(connection: RuntimeConnection): void {
    const entry = this.#entries.get(connection);
    if (!entry || entry.effort || this.#held) return;
    const effort = new AbortController();
    entry.effort = effort;
    entry.interrupted = false;
    connection.lifecycle.raise('dial');
    const done = entry.again ? this.#resume(entry, effort.signal) : this.#try(entry, effort.signal, this.#connectMs);
    done.then(
      () => this.#effortEnded(entry, effort),
      (error: unknown) => {
        this.#effortEnded(entry, effort);
        if (effort.signal.aborted) return;
        if (this.#entries.has(connection) && !connection.linked) connection.fail(asError(error));
      },
    );
  }

  #effortEnded(entry: Reconnection, effort: AbortController): void {
    entry.effort = undefined;
    // It was given up for a suspension that is over already: begin again.
    if (effort.signal.aborted && !this.#held && this.#entries.get(entry.connection) === entry) this.release();
  }

  /**
   * Reach a peer that may be on its way to another host: only time is limited, neither the number of tries nor that of
   * silent handshakes. (A suspended peer accepts the TCP connection, and answers when it is resumed.)
   */
  async #resume(entry: Reconnection, signal: AbortSignal): Promise<void> {
    const end = performance.now() + this.#resumeMs;
    entry.startLimit(this.#resumeMs);
    let refusals = 0;
    let unanswered = 0;
    for (let pause = MIN_PAUSE_MS; ; pause = Math.min(pause * 2, MAX_PAUSE_MS)) {
      try {
        await this.#try(entry, signal, Math.max(1, end - performance.now()));
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (entry.connection.linked) return;
        const { code, temporary } = error instanceof IsthmusError ? error : {};
        // A listener that is being suspended ends handshakes, too, and says nothing.
        const unsaid = code === 'ERR_ISTHMUS_HANDSHAKE_REFUSED' && temporary !== false;
        const again =
          (unsaid && entry.order !== 0 && (entry.answers || ++unanswered < MAX_UNANSWERED)) ||
          code === 'ERR_ISTHMUS_CONNECT' ||
          code === 'ERR_ISTHMUS_HANDSHAKE_TIMEOUT' ||
          // Equal names: the call of the peer counted, and the peer was suspended before it came.
          (code === 'ERR_ISTHMUS_HANDSHAKE_REFUSED' && entry.order === 0 && ++refusals < MAX_REFUSALS);
        if (!unsaid) unanswered = 0;
        if (!again || performance.now() > end) throw error;
        const { host, port } = entry.address;
        this.#log('info', `cannot reach ${host}:${port} yet: ${(error as Error).message}`);
        await sleep(pause, undefined, { signal }).catch(() => {});
      }
    }
  }

  #try(entry: Reconnection, signal: AbortSignal, timeoutMs: number): Promise<void> {
    return withEither([this.#dialer.ending, signal], (either) => this.#tryUntil(entry, either, timeoutMs));
  }

  async #tryUntil(entry: Reconnection, signal: AbortSignal, timeoutMs: number): Promise<void> {
    const { address, local, connection, again, order } = entry;
    const options = {
      ...this.#dialer.options(signal),
      local,
      handshakeTimeoutMs: timeoutMs,
      counts: connection.counts,
      ...(again ? { retry: 0, connectTimeoutMs: CONNECT_TIMEOUT_MS } : {}),
    };
    if (address.port === 0) {
      // The peer listens nowhere: it has to connect.
    } else if (order <= 0) {
      const call = async (retryUnanswered: boolean) => {
        const connected = await this.#dialer.dial(address, { ...options, retryUnanswered, demand: true });
        if (this.#entries.get(connection) !== entry || connection.linked) discard(connected);
        else this.#up(entry, connected, 'initiator');
      };
      try {
        // Of two calls between equal names one is refused; C does that without an answer.
        return await call(order !== 0);
      } catch (error) {
        // Two ends of equal names may call each other at the same moment: one call is refused, the other one comes.
        const { code, temporary } = error instanceof IsthmusError ? error : {};
        const refused = code === 'ERR_ISTHMUS_HANDSHAKE_REFUSED' && (!temporary || order === 0);
        if ((order < 0 && !again) || !refused || this.#listeners.size === 0) throw error;
        try {
          return await entry.untilPeerConnects(signal, this.#connectMs);
        } catch (late) {
          if (again) throw error;
          // The peer has not called: it had too much to do.
          if (!temporary) throw late;
          return call(true);
        }
      }
    } else {
      const { host, port, name } = address;
      if (this.#listeners.size === 0) {
        throw new IsthmusError(
          'ERR_ISTHMUS_CONNECT',
          `'${local.name}' is greater than '${name}', so ${host}:${port} has to connect to this endpoint; call listen() first`,
        );
      }
      await this.#dialer.askBack({ ...options, host, port });
    }
    await entry.untilPeerConnects(signal, timeoutMs);
  }

  // ─── efforts of the peer ───────────────────────────────────────────────────────────────────────────────────────────

  /** A peer asks for a connection of this endpoint. (suspend.pml: asked_for) @returns undefined: there is none */
  asked(request: OnDemandRequest): OnDemandAnswer | undefined | Promise<OnDemandAnswer | undefined> {
    const { kind, peer } = request;
    if (kind === 'drain') {
      const connection = this.#connections.linkedTo(peer.id);
      connection?.onDrainRequested();
      return connection && {};
    }
    // The peer may come back before this side has let go.
    const leaving = this.#connections.suspendingTo(peer.id);
    return leaving ? untilReleased(leaving).then(() => this.#answer(request)) : this.#answer(request);
  }

  /** suspend.pml: back_connect, answer. */
  #answer({ kind, peer }: OnDemandRequest): OnDemandAnswer | undefined {
    const entry = this.#find(peer);
    if (!entry) return undefined;
    const { connection, local } = entry;
    if (kind === 'back-connect') {
      // The call of this side may be under way, or even done.
      if (!connection.linked || connection.lifecycle.unconfirmed) this.bringUp(connection);
      // The peer does not ask again.
      if (this.#held) entry.interrupted = true;
      return { local };
    }
    // A peer that calls again has given up the link that has not begun.
    connection.revert();
    if (connection.linked) return undefined;
    // Equal names, and both call: the call of the smaller id counts.
    const calling = entry.effort !== undefined && entry.order === 0;
    return calling && local.id < peer.id ? undefined : { local, counts: connection.counts };
  }

  #find(peer: Peer): Reconnection | undefined {
    let named: Reconnection | undefined;
    for (const entry of this.#entries.values()) {
      if (entry.again) {
        if (entry.peerId === peer.id) return entry;
      } else if (compareNames(entry.address.name as string, peer.name) === 0) {
        // Of several, one that this side is bringing up.
        if (!named || (entry.effort && !named.effort)) named = entry;
      }
    }
    return named;
  }

  /** A handshake of a listener has ended well. (suspend.pml: agreed) @returns whether it was for a connection of these */
  agreed(connected: Connected): boolean {
    for (const entry of this.#entries.values()) {
      if (entry.local.id !== connected.local.id) continue;
      const { connection } = entry;
      connection.revert();
      if (connection.linked || connection.state === 'closed') discard(connected);
      else this.#up(entry, connected, 'responder');
      return true;
    }
    return false;
  }

  /** suspend.pml: up. */
  #up(entry: Reconnection, connected: Connected, role: ConfirmRole): void {
    const { connection } = entry;
    const { counts, peer } = connected;
    entry.clearLimit();
    this.#awaited.delete(connection);
    const refuse = (text: string) => {
      discard(connected);
      connection.fail(new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', text));
    };
    const { again } = entry;
    if (again && entry.peerId !== peer.id) {
      refuse(`another process answers at the address of '${peer.name}': the peer is gone`);
      return;
    }
    entry.peerId = peer.id;
    entry.answers = counts !== undefined;
    const own = connection.counts;
    if (again && counts && (counts.received !== own.sent || counts.sent !== own.received)) {
      refuse(
        `messages were lost in a suspension: of ${own.sent} sent the peer has ${counts.received}; ` +
          `of ${counts.sent} sent by the peer this side has ${own.received}`,
      );
      return;
    }
    // The C implementation sends no counts, does not confirm, and does not give a link up.
    this.#connections.resume(connection, connected, () => entry.up(), counts ? role : undefined);
  }
}

/** Wait, up to a limit, until a connection that is being suspended has let go of its link. */
async function untilReleased(connection: RuntimeConnection): Promise<void> {
  const end = performance.now() + MAX_RELEASE_MS;
  const { link } = connection;
  // A call of this side may bring the connection up again before this looks: the link is another one then.
  while (connection.link === link && connection.state !== 'closed' && performance.now() < end) {
    connection.progress();
    if (connection.link === link) await sleep(1);
  }
}

function asError(error: unknown): IsthmusError {
  return error instanceof IsthmusError
    ? error
    : new IsthmusError('ERR_ISTHMUS_CONNECT', error instanceof Error ? error.message : String(error), { cause: error });
}

/**
 * Connections that come up by themselves: on-demand ones, whose first message brings them up, and those that were
 * suspended (docs/protocol.md, "On-demand connections" and "Suspending and coming back").
 *
 * The side whose own name is lower or equal connects; the one whose own name is greater asks the other to, and waits.
 * Who has been up is known by the id of its end, which it keeps for life; a name counts only before that, since several
 * connections may carry one name, and somebody else may by now listen on that port.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ConInfo, Peer } from '../api/peer.js';
import { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import type { RuntimeConnection } from '../connection/connection.js';
import { askListener } from '../handshake/ask-listener.js';
import type { Connected } from '../handshake/attach.js';
import type { DialOptions } from '../handshake/dial.js';
import type { OnDemandAnswer, OnDemandRequest } from '../handshake/outcome.js';
import type { ParsedAddress } from './address.js';

/** What an endpoint does for them. */
export interface OnDemandHost {
  /** Options of a connect that are the same for all. */
  dialOptions(): Omit<DialOptions, 'host' | 'port' | 'local'>;
  dial(address: ParsedAddress, options: Omit<DialOptions, 'host' | 'port'>): Promise<Connected>;
  /** Whether the peer could reach us. */
  readonly listens: boolean;
  /** How long one may wait for the other, in milliseconds. */
  readonly timeoutMs: number;
  /** The same for one that was suspended: its peer may be in the middle of a migration. */
  readonly resumeTimeoutMs: number;
  open(connection: RuntimeConnection, connected: Connected, up: () => void, confirm?: 'initiator' | 'responder'): void;
  /** The connection whose peer has that id, if it is being suspended and still has its link. */
  suspending(peerId: bigint): RuntimeConnection | undefined;
  /** The peer of that id wants to be heard. @returns whether there is such a connection */
  hurried(peerId: bigint): boolean;
  readonly log: Log;
}

interface Entry {
  readonly connection: RuntimeConnection;
  /** Where the peer listens; port 0: nowhere, it has to come to us. */
  address: ParsedAddress;
  /** Our end, its id for life. */
  readonly local: ConInfo;
  /** The id of the other end, once it has been up. */
  peerId: bigint | undefined;
  /** What is under way to bring it up. */
  effort: AbortController | undefined;
  /** It was given up for a suspension of this process: the other side may wait for it, and does not ask again. */
  cut: boolean;
  /** Ends the wait of one that was suspended. */
  limit: NodeJS.Timeout | undefined;
  /** Those who wait until it is up. */
  readonly waiting: Set<() => void>;
}

/** How long a peer may take to let go of its end of a link, in milliseconds, when the other is already back. */
const LET_GO = 10_000;
/** The longest pause between two tries to reach a peer that is migrating, in milliseconds. */
const MAX_PAUSE = 1000;
const FIRST_PAUSE = 5;
/** How often a peer of our own name may refuse a call in favour of one that does not come. */
const REFUSALS = 5;
/** How long such a peer may take to accept, in milliseconds: a try that got lost with a host should not last long. */
const CONNECT_TIME = 3000;

export class OnDemand {
  readonly #host: OnDemandHost;
  readonly #entries = new Map<RuntimeConnection, Entry>();
  /** Nothing is brought up: the process is suspended, or about to be. */
  #held = false;

  constructor(host: OnDemandHost) {
    this.#host = host;
  }

  add(connection: RuntimeConnection, address: ParsedAddress, local: ConInfo): void {
    this.#add(connection, address, local, undefined);
  }

  #add(connection: RuntimeConnection, address: ParsedAddress, local: ConInfo, peerId: bigint | undefined): Entry {
    const entry: Entry = {
      connection,
      address,
      local,
      peerId,
      effort: undefined,
      cut: false,
      limit: undefined,
      waiting: new Set(),
    };
    this.#entries.set(connection, entry);
    return entry;
  }

  /** A connection is suspended: from here on it comes up again by itself. */
  suspended(connection: RuntimeConnection, address: ParsedAddress, local: ConInfo): void {
    const { peer } = connection;
    const entry = this.#entries.get(connection) ?? this.#add(connection, address, local, peer.id);
    entry.peerId = peer.id;
    entry.address = address;
    // Whoever asked for the suspension comes back; the other one waits, but not for ever.
    if (!connection.shutdown.asked) this.#limit(entry);
  }

  #limit(entry: Entry): void {
    const { resumeTimeoutMs } = this.#host;
    clearTimeout(entry.limit);
    entry.limit = setTimeout(() => {
      entry.connection.fail(
        new IsthmusError(
          'ERR_ISTHMUS_RESUME_TIMEOUT',
          `the peer was suspended and has not come back in ${resumeTimeoutMs} ms`,
        ),
      );
    }, resumeTimeoutMs).unref();
  }

  remove(connection: RuntimeConnection): void {
    const entry = this.#entries.get(connection);
    if (!entry) return;
    this.#entries.delete(connection);
    clearTimeout(entry.limit);
    entry.effort?.abort(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the connection was closed'));
  }

  /** Give up what is under way, and begin nothing, until {@link release}. (suspend.pml: hold) */
  hold(): void {
    this.#held = true;
    for (const entry of this.#entries.values()) {
      const { connection, effort } = entry;
      if (!effort) continue;
      effort.abort(new IsthmusError('ERR_ISTHMUS_SUSPEND', 'the process is being suspended'));
      entry.cut = true;
      connection.lifecycle.raise('hold');
    }
  }

  /** Bring up what this side has suspended, what has something to send, and what was being brought up when it was held. */
  release(): void {
    this.#held = false;
    // Those first for whom somebody waits.
    const all = [...this.#entries.values()];
    all.sort((a, b) => Number(b.connection.wantsToSend) - Number(a.connection.wantsToSend));
    for (const { connection, cut } of all) {
      if (connection.linked) continue;
      if (cut || (connection.state === 'connecting' ? connection.wantsToSend : connection.shutdown.asked)) {
        this.bringUp(connection);
      }
    }
  }

  /** Those that this side brings up at the moment. */
  coming(): Promise<unknown>[] {
    return [...this.#entries.values()].flatMap((entry) =>
      entry.effort && !entry.connection.linked ? [new Promise<void>((resolve) => entry.waiting.add(resolve))] : [],
    );
  }

  /** The connection has something to send, or is to come back. (suspend.pml: bring_up) */
  bringUp(connection: RuntimeConnection): void {
    const entry = this.#entries.get(connection);
    if (!entry || entry.effort || this.#held) return;
    const effort = new AbortController();
    entry.effort = effort;
    entry.cut = false;
    const again = entry.peerId !== undefined;
    connection.lifecycle.raise('dial');
    (again ? this.#comeBack(entry, effort.signal) : this.#bringUp(entry, effort.signal, this.#host.timeoutMs)).then(
      () => this.#settled(entry, effort),
      (error: unknown) => {
        this.#settled(entry, effort);
        if (effort.signal.aborted) return;
        if (this.#entries.has(connection) && !connection.linked) connection.fail(asError(error));
      },
    );
  }

  #settled(entry: Entry, effort: AbortController): void {
    if (entry.effort === effort) entry.effort = undefined;
    // One that was given up for a suspension, and is to be tried again.
    if (effort.signal.aborted && !this.#held && this.#entries.get(entry.connection) === entry) this.release();
  }

  /**
   * Reach a peer that may be on its way to another host: neither tries nor a silent handshake are counted, only time.
   * (A suspended peer accepts, and answers when it is resumed.)
   */
  async #comeBack(entry: Entry, signal: AbortSignal): Promise<void> {
    const { resumeTimeoutMs, log } = this.#host;
    const until = performance.now() + resumeTimeoutMs;
    this.#limit(entry);
    let refused = 0;
    for (let pause = FIRST_PAUSE; ; pause = Math.min(pause * 2, MAX_PAUSE)) {
      try {
        await this.#bringUp(entry, signal, Math.max(1, until - performance.now()));
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (entry.connection.linked) return;
        const code = error instanceof IsthmusError ? error.code : undefined;
        const again =
          code === 'ERR_ISTHMUS_CONNECT' ||
          code === 'ERR_ISTHMUS_HANDSHAKE_TIMEOUT' ||
          // Between two of one name: its own call counted, and it was suspended before that came.
          (code === 'ERR_ISTHMUS_HANDSHAKE_REFUSED' && sameName(entry) && ++refused < REFUSALS);
        if (!again || performance.now() > until) throw error;
        log('info', `cannot reach ${entry.address.host}:${entry.address.port} yet: ${(error as Error).message}`);
        await sleep(pause, undefined, { signal }).catch(() => {});
      }
    }
  }

  async #bringUp(entry: Entry, signal: AbortSignal, timeoutMs: number): Promise<void> {
    const { address, local, connection, peerId } = entry;
    const { host, port } = address;
    const again = peerId !== undefined;
    const options = {
      ...this.#host.dialOptions(),
      local,
      handshakeTimeoutMs: timeoutMs,
      counts: connection.counts,
      ...(again ? { retry: 0, connectTimeoutMs: CONNECT_TIME } : {}),
    };
    const { signal: ending } = options;
    const both = ending ? AbortSignal.any([ending, signal]) : signal;
    const order = compareNames(local.name, address.name as string);
    if (port === 0) {
      // It has said that it listens nowhere: it has to come.
    } else if (order <= 0) {
      try {
        const connected = await this.#host.dial(address, { ...options, demand: true, signal: both });
        if (this.#entries.get(connection) !== entry || connection.linked) {
          connected.attempt.undo();
          connected.socket.destroy();
        } else {
          this.#up(entry, connected, 'initiator');
        }
        return;
      } catch (error) {
        // Two of one name may call each other at the same moment: one of them refuses, and its own call comes.
        const refused = error instanceof IsthmusError && error.code === 'ERR_ISTHMUS_HANDSHAKE_REFUSED';
        if ((order < 0 && !again) || !refused || !this.#host.listens) throw error;
        await this.#comesUp(entry, both, this.#host.timeoutMs).catch((late) => {
          throw again ? error : late;
        });
        return;
      }
    } else {
      if (!this.#host.listens) {
        throw new IsthmusError(
          'ERR_ISTHMUS_CONNECT',
          `'${local.name}' is greater than '${address.name}', so ${host}:${port} has to connect to us; call listen() first`,
        );
      }
      await askListener({ ...options, host, port, signal: both });
    }
    await this.#comesUp(entry, both, timeoutMs);
  }

  /** Wait, bounded, until the other side has connected. */
  #comesUp(entry: Entry, signal: AbortSignal, timeoutMs: number): Promise<void> {
    const { connection, address, waiting } = entry;
    if (connection.linked) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const over = (settle: () => void) => {
        clearTimeout(timer);
        waiting.delete(up);
        signal.removeEventListener('abort', aborted);
        settle();
      };
      const up = () => over(resolve);
      const aborted = () => over(() => reject(signal.reason));
      const timer = setTimeout(() => {
        over(() =>
          reject(
            new IsthmusError(
              'ERR_ISTHMUS_CONNECT',
              `${address.host}:${address.port} said that it would connect to us, and did not in ${Math.round(timeoutMs)} ms`,
            ),
          ),
        );
      }, timeoutMs);
      waiting.add(up);
      signal.addEventListener('abort', aborted, { once: true });
      if (signal.aborted) aborted();
    });
  }

  /** Somebody asks for one of ours. (suspend.pml: asked_for) @returns undefined: there is none */
  asked(request: OnDemandRequest): OnDemandAnswer | undefined | Promise<OnDemandAnswer | undefined> {
    if (request.kind === 'drain') return this.#host.hurried(request.peer.id) ? {} : undefined;
    // It may be faster in coming back than we are in letting go.
    const leaving = this.#host.suspending(request.peer.id);
    return leaving ? letsGo(leaving).then(() => this.#answer(request)) : this.#answer(request);
  }

  /** suspend.pml: back_connect, answer. */
  #answer({ kind, peer }: OnDemandRequest): OnDemandAnswer | undefined {
    const entry = this.#find(peer);
    if (!entry) return undefined;
    const { connection, local } = entry;
    if (kind === 'back-connect') {
      // Our own call may be under way, or even through.
      if (!connection.linked || connection.lifecycle.unconfirmed) this.bringUp(connection);
      return { local };
    }
    // Who comes again has given up what has not begun.
    connection.revert();
    if (connection.linked) return undefined;
    // Both of one name call each other: the call of the smaller id counts.
    const calling = entry.effort !== undefined && sameName(entry);
    return calling && local.id < peer.id ? undefined : { local, counts: connection.counts };
  }

  #find(peer: Peer): Entry | undefined {
    let named: Entry | undefined;
    for (const entry of this.#entries.values()) {
      if (entry.peerId !== undefined) {
        if (entry.peerId === peer.id) return entry;
      } else if (compareNames(entry.address.name as string, peer.name) === 0) {
        // Rather one that is expected.
        if (!named || (entry.effort && !named.effort)) named = entry;
      }
    }
    return named;
  }

  /** A handshake on our listener ended well. (suspend.pml: agreed) @returns whether it was for one of ours */
  agreed(connected: Connected): boolean {
    for (const entry of this.#entries.values()) {
      if (entry.local.id !== connected.local.id) continue;
      entry.connection.revert();
      if (entry.connection.linked || entry.connection.state === 'closed') {
        connected.attempt.undo();
        connected.socket.destroy();
      } else {
        this.#up(entry, connected, 'responder');
      }
      return true;
    }
    return false;
  }

  /** suspend.pml: up. */
  #up(entry: Entry, connected: Connected, role: 'initiator' | 'responder'): void {
    const { connection } = entry;
    const { counts, peer } = connected;
    clearTimeout(entry.limit);
    const again = entry.peerId !== undefined;
    if (again && entry.peerId !== peer.id) {
      connected.attempt.undo();
      connected.socket.destroy();
      connection.fail(
        new IsthmusError(
          'ERR_ISTHMUS_PEER_PROTOCOL',
          `somebody else answers where '${peer.name}' was: the peer is gone`,
        ),
      );
      return;
    }
    entry.peerId = peer.id;
    const mine = connection.counts;
    if (again && counts && (counts.received !== mine.sent || counts.sent !== mine.received)) {
      connected.attempt.undo();
      connected.socket.destroy();
      connection.fail(
        new IsthmusError(
          'ERR_ISTHMUS_PEER_PROTOCOL',
          `messages were lost in a suspension: ${mine.sent} sent of which the peer has ${counts.received}, ${mine.received} received of ${counts.sent}`,
        ),
      );
      return;
    }
    const up = () => {
      entry.cut = false;
      for (const waiting of [...entry.waiting]) waiting();
      entry.waiting.clear();
    };
    // C says nothing of the kind, and does not give up either.
    this.#host.open(connection, connected, up, counts ? role : undefined);
  }
}

/** Wait, bounded, until a connection that is being suspended has let go of its link. */
async function letsGo(connection: RuntimeConnection): Promise<void> {
  const until = performance.now() + LET_GO;
  const { link } = connection;
  // It may be up again, by its own call, before this looks.
  while (connection.link === link && connection.state !== 'closed' && performance.now() < until) {
    connection.progress();
    if (connection.link === link) await sleep(1);
  }
}

function sameName({ local, address }: Entry): boolean {
  return compareNames(local.name, address.name as string) === 0;
}

/** Names by their bytes, as C compares them: the first 8, NUL-padded. */
function compareNames(a: string, b: string): number {
  return Buffer.compare(nameBytes(a), nameBytes(b));
}

function nameBytes(name: string): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.write(name, 'utf8');
  return bytes;
}

function asError(error: unknown): IsthmusError {
  return error instanceof IsthmusError
    ? error
    : new IsthmusError('ERR_ISTHMUS_CONNECT', error instanceof Error ? error.message : String(error), { cause: error });
}

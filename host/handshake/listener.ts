/** The accepting side: a listening socket, and the handshakes of the peers that connect to it. */

import { type BlockList, createServer, isIPv6, type Server, type Socket } from 'node:net';
import type { ConInfo, Peer } from '../api/peer.js';
import { IsthmusError, messageOf } from '../base/errors.js';
import type { Level } from '../base/log.js';
import { networkOf } from '../base/network.js';
import { ignoreError } from '../base/sockets.js';
import type { PluginRegistry } from '../plugins/registry.js';
import { type AcceptingOptions, AcceptingPrecon } from './accepting.js';
import { Admission, type Visitor } from './admission.js';
import { attach, type Connected } from './attach.js';
import { encodeFrame, FRAME } from './frames.js';
import type { Stage } from './outcome.js';
import type { PreconLimits } from './precon.js';
import { Probes } from './probes.js';
import { endInOrder, remoteAddress } from './sockets.js';

/** At most one line in this time says how many peers found no room. */
const CROWD_LINE_MS = 1000;

export interface ListenerOptions {
  /** Default `127.0.0.1`: the wire protocol has no authentication. */
  readonly host?: string;
  /** 0, the default: any free port. */
  readonly port?: number;
  /** Connections that the kernel queues for this listener, default 511. */
  readonly backlog?: number;
  /** CON_INFO of this end: called for each connection, because each has an id of its own. */
  readonly local: () => ConInfo;
  readonly registry: PluginRegistry;
  /**
   * Called with the CON_INFO of the peer, before anything is sent; false refuses. The time limit of the handshake applies
   * to its answer. CON_INFO is not authenticated.
   */
  readonly accept?: ((peer: Peer) => boolean | Promise<boolean>) | undefined;
  /** Checked before anything is read. */
  readonly blockList?: BlockList | undefined;
  /** Default 64. Further peers wait. */
  readonly maxHandshakes?: number;
  /** Peers that wait, or have not introduced themselves, default 4,096. A connection above the limit is closed. */
  readonly maxWaiting?: number;
  /** Milliseconds for one handshake, and before that for the wait for a place; default 10,000. */
  readonly handshakeTimeoutMs?: number;
  /** Bytes and proposals of one handshake. */
  readonly limits?: Partial<PreconLimits>;
  readonly onDemand?: AcceptingOptions['onDemand'];
  /**
   * Called synchronously: the callee takes socket and attempt over before it returns (see {@link Connected}). If it
   * throws, the socket is destroyed and the error goes to `onHandshakeError`.
   */
  onAgreed(connected: Connected): void;
  /** A handshake failed. The listener goes on. */
  onHandshakeError?(error: IsthmusError, address: Peer['address']): void;
  /** Lines are warnings, unless a level is given. */
  readonly log?: ((line: string, level?: Level) => void) | undefined;
}

/** A listening socket. Made by {@link Listener.open}. */
export class Listener {
  readonly #options: ListenerOptions;
  readonly #server: Server;
  readonly #probes = new Probes();
  readonly #admission: Admission;
  /** Peers that found no room since the last line about them, and when that was. */
  #crowd = { turnedAway: 0, since: Number.NEGATIVE_INFINITY };
  readonly #address: { host: string; port: number };
  #open = true;
  #closed: Promise<void> | undefined;

  private constructor(options: ListenerOptions, server: Server) {
    const { maxHandshakes, maxWaiting, handshakeTimeoutMs: timeoutMs } = options;
    this.#options = options;
    this.#admission = new Admission({ maxHandshakes, maxWaiting, timeoutMs });
    this.#server = server;
    const address = server.address();
    // The address of a pipe is a string, that of a closed server null: neither is possible here.
    if (typeof address !== 'object' || !address) throw new IsthmusError('ERR_ISTHMUS_LISTEN', 'no address');
    this.#address = { host: address.address, port: address.port };
    server.on('connection', (socket) => this.#accepted(socket));
    // For example out of descriptors: one connection is lost, the next one may succeed.
    server.on('error', (error) => this.#log(`accept failed: ${error.message}`, 'warning'));
  }

  /**
   * Listen. Rejects with ERR_ISTHMUS_LISTEN (with `errno`, for example EADDRINUSE), or with ERR_ISTHMUS_INVALID_ARGUMENT
   * for an impossible port or backlog.
   */
  static open(options: ListenerOptions): Promise<Listener> {
    const { host = '127.0.0.1', port = 0, backlog = 511 } = options;
    return new Promise((resolve, reject) => {
      const server = createServer({ noDelay: true, allowHalfOpen: true });
      const failed = (error: NodeJS.ErrnoException) => {
        reject(
          new IsthmusError('ERR_ISTHMUS_LISTEN', `listen on ${host}:${port}: ${error.code ?? error.message}`, {
            cause: error,
            errno: error.code,
            syscall: error.syscall,
          }),
        );
      };
      server.once('error', failed);
      try {
        server.listen({ host, port, backlog, exclusive: true }, () => {
          server.off('error', failed);
          resolve(new Listener(options, server));
        });
      } catch (error) {
        reject(new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', messageOf(error), { cause: error }));
      }
    });
  }

  /** Address of the listening socket, with the real port. */
  get address(): { readonly host: string; readonly port: number } {
    return this.#address;
  }

  /**
   * The process is suspended, or about to be: from here on peers that connect wait. Resolves when no handshake is so far
   * that it holds memory of a region. Those that are not so far wait as well, and strangers are not waited for.
   */
  hold(): Promise<void> {
    return this.#admission.hold();
  }

  /** End the handshakes that {@link hold} waits for. */
  cut(): void {
    this.#admission.cut();
  }

  /** End of {@link hold}. */
  release(): void {
    this.#admission.release();
  }

  /** Handshakes under way, those included that wait. */
  get handshakes(): number {
    return this.#admission.size;
  }

  /** Keep the process alive (the default). */
  ref(): this {
    this.#server.ref();
    return this;
  }

  /** Do not keep the process alive. A handshake under way still does, up to its time limit. */
  unref(): this {
    this.#server.unref();
    return this;
  }

  /**
   * Stop listening and end the handshakes under way, without a call of `onHandshakeError`. Agreed connections stay.
   * Idempotent.
   */
  close(): Promise<void> {
    this.#open = false;
    this.#closed ??= new Promise((resolve) => {
      // Without its callback, which would also wait for the sockets that were handed over. The port is free at once.
      this.#server.close();
      this.#admission.close(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the listener was closed'));
      setImmediate(resolve);
    });
    return this.#closed;
  }

  #accepted(socket: Socket): void {
    socket.on('error', ignoreError);
    const address = remoteAddress(socket);
    if (!this.#open || !address) {
      socket.destroy();
      return;
    }
    if (this.#options.blockList?.check(address.host, isIPv6(address.host) ? 'ipv6' : 'ipv4')) {
      socket.write(encodeFrame(FRAME.REFUSED));
      endInOrder(socket);
      this.#log(`${nameOf(address)} closed: its address is blocked`, 'warning');
      return;
    }
    const visitor = this.#admission.enter(networkOf(address.host, socket.localAddress));
    if (visitor) this.#beginHandshake(socket, address, visitor);
    else {
      socket.destroy();
      this.#turnedAway(address);
    }
  }

  #beginHandshake(socket: Socket, address: Peer['address'], visitor: Visitor): void {
    const { local, registry, accept, onDemand, limits = {} } = this.#options;
    socket.once('data', () => visitor.spoke());
    try {
      const own = local();
      const pass = (stage: Stage) => visitor.pass(stage);
      const handshake = attach(
        socket,
        undefined,
        (callbacks) =>
          new AcceptingPrecon({ local: own, registry, address, admit: accept, onDemand, pass, limits, ...callbacks }),
        (outcome) => {
          if (outcome.kind === 'agreed') this.#agreed(outcome);
          else if (outcome.kind === 'failed') this.#failed(outcome.error, address, socket.bytesRead === 0);
          visitor.ended();
        },
      );
      visitor.begin(handshake);
    } catch (error) {
      // `local` threw.
      socket.destroy();
      visitor.ended();
      this.#failed(asHandshakeError(error), address, false);
    }
  }

  /** The peer tries again later: it was not refused. */
  #turnedAway(address: Peer['address']): void {
    const now = performance.now();
    this.#crowd.turnedAway++;
    if (now - this.#crowd.since < CROWD_LINE_MS) return;
    const { turnedAway } = this.#crowd;
    this.#crowd = { turnedAway: 0, since: now };
    const others = turnedAway > 1 ? ` and ${turnedAway - 1} before it` : '';
    this.#log(`${nameOf(address)}${others} closed: too many peers wait for their handshakes`, 'warning');
  }

  #agreed(connected: Connected): void {
    try {
      this.#options.onAgreed(connected);
    } catch (error) {
      connected.socket.destroy();
      this.#failed(asHandshakeError(error), connected.peer.address, false);
    }
  }

  #failed(error: IsthmusError, address: Peer['address'], probe = false): void {
    if (!this.#open) return;
    if (probe && address) {
      const { level, line } = this.#probes.note(address.host);
      this.#log(line, level);
    } else this.#log(`handshake with ${nameOf(address)} failed: ${error.message} (${error.code})`);
    try {
      this.#options.onHandshakeError?.(error, address);
    } catch (thrown) {
      this.#log(`onHandshakeError failed: ${messageOf(thrown)}`, 'warning');
    }
  }

  /** A callback that throws must not end the service: strangers cause these lines. */
  #log(line: string, level?: Level): void {
    try {
      this.#options.log?.(line, level);
    } catch {
      // No one is left to report it to.
    }
  }
}

function nameOf(address: Peer['address']): string {
  return address ? `${address.host}:${address.port}` : 'a connection';
}

function asHandshakeError(error: unknown): IsthmusError {
  if (error instanceof IsthmusError) return error;
  return new IsthmusError('ERR_ISTHMUS_HANDSHAKE', messageOf(error), { cause: error });
}

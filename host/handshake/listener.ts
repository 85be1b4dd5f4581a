/** The accepting side: a listening socket, and the handshakes of the peers that connect to it. */

import { type BlockList, createServer, isIPv6, type Server, type Socket } from 'node:net';
import type { ConInfo, Peer } from '../api/peer.js';
import { IsthmusError, messageOf } from '../base/errors.js';
import type { Level } from '../base/log.js';
import { ignoreError } from '../base/sockets.js';
import type { PluginRegistry } from '../plugins/registry.js';
import { type AcceptingOptions, AcceptingPrecon } from './accepting.js';
import { type Attachment, attach, type Connected } from './attach.js';
import type { PreconLimits } from './precon.js';
import { Probes } from './probes.js';
import { HANDSHAKE_TIMEOUT_MS, remoteAddress } from './sockets.js';

/** Default limit of handshakes under way at one listener. */
export const MAX_HANDSHAKES = 64;
/** Sockets that wait while the listener is held. */
const MAX_WAITING_SOCKETS = 4096;

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
  /** Default {@link MAX_HANDSHAKES}. A connection above the limit is closed. */
  readonly maxHandshakes?: number;
  /** Milliseconds for one handshake, default 10,000. */
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
  readonly #handshakes = new Set<Attachment>();
  readonly #probes = new Probes();
  /** Sockets that connected while the listener was held, and have not begun their handshakes. Nothing is read from them. */
  readonly #waiting: Socket[] = [];
  #held = false;
  /** Called when no handshake is under way any more. */
  #onIdle: (() => void)[] = [];
  readonly #address: { host: string; port: number };
  #open = true;
  #closed: Promise<void> | undefined;

  private constructor(options: ListenerOptions, server: Server) {
    this.#options = options;
    this.#server = server;
    const address = server.address();
    // The address of a pipe is a string, that of a closed server null: neither is possible here.
    if (typeof address !== 'object' || !address) throw new IsthmusError('ERR_ISTHMUS_LISTEN', 'no address');
    this.#address = { host: address.address, port: address.port };
    server.on('connection', (socket) => this.#accepted(socket));
    // For example out of descriptors: one connection is lost, the next one may succeed.
    server.on('error', (error) => this.#log(`accept failed: ${error.message}`));
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
   * From here on new connections wait, unread, until {@link release}: the process is suspended, or about to be. Resolves
   * when the handshakes under way have ended.
   */
  hold(): Promise<void> {
    this.#held = true;
    if (this.#handshakes.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onIdle.push(resolve);
    });
  }

  release(): void {
    this.#held = false;
    this.#admitWaiting();
  }

  /** Begin the handshakes of waiting sockets, as many as the limit allows. */
  #admitWaiting(): void {
    const { maxHandshakes = MAX_HANDSHAKES } = this.#options;
    while (!this.#held && this.#handshakes.size < maxHandshakes) {
      const socket = this.#waiting.shift();
      if (!socket) return;
      if (!socket.destroyed) this.#beginHandshake(socket);
    }
  }

  #handshakeEnded(attachment: Attachment | undefined): void {
    if (attachment) this.#handshakes.delete(attachment);
    this.#admitWaiting();
    if (this.#handshakes.size > 0) return;
    for (const resolve of this.#onIdle.splice(0)) resolve();
  }

  /** Handshakes under way. */
  get handshakes(): number {
    return this.#handshakes.size;
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
      for (const handshake of this.#handshakes) {
        handshake.abort(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the listener was closed'));
      }
      this.#handshakes.clear();
      for (const socket of this.#waiting.splice(0)) socket.destroy();
      setImmediate(resolve);
    });
    return this.#closed;
  }

  #accepted(socket: Socket): void {
    socket.on('error', ignoreError);
    if (!this.#held && this.#waiting.length === 0) this.#beginHandshake(socket);
    else if (this.#waiting.length < MAX_WAITING_SOCKETS) this.#waiting.push(socket);
    else {
      socket.destroy();
      this.#log(`a connection closed: ${MAX_WAITING_SOCKETS} wait already`);
    }
  }

  #beginHandshake(socket: Socket): void {
    const { local, registry, accept, onDemand, limits = {} } = this.#options;
    const address = remoteAddress(socket);
    const refusal = this.#refusal(address);
    if (refusal !== undefined) {
      socket.destroy();
      this.#log(`${nameOf(address)} closed: ${refusal}`);
      return;
    }

    let ended = false;
    let attachment: Attachment | undefined;
    const timeoutMs = this.#options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS;
    try {
      const own = local();
      attachment = attach(
        socket,
        timeoutMs,
        (callbacks) =>
          new AcceptingPrecon({ local: own, registry, address, admit: accept, onDemand, limits, ...callbacks }),
        (outcome) => {
          ended = true;
          if (outcome.kind === 'agreed') this.#agreed(outcome);
          else if (outcome.kind === 'failed') this.#failed(outcome.error, address, isProbe(socket, outcome.error));
          this.#handshakeEnded(attachment);
        },
      );
    } catch (error) {
      // `local` threw.
      socket.destroy();
      this.#failed(asHandshakeError(error), address);
      return;
    }
    if (!ended) this.#handshakes.add(attachment);
  }

  /** The reason to close a connection before its handshake; undefined: none. */
  #refusal(address: Peer['address']): string | undefined {
    const { blockList, maxHandshakes = MAX_HANDSHAKES } = this.#options;
    if (!this.#open) return 'the listener was closed';
    if (!address) return 'it is already gone';
    if (blockList?.check(address.host, isIPv6(address.host) ? 'ipv6' : 'ipv4')) return 'its address is blocked';
    if (this.#handshakes.size >= maxHandshakes) return `${maxHandshakes} handshakes are under way already`;
    return undefined;
  }

  #agreed(connected: Connected): void {
    try {
      this.#options.onAgreed(connected);
    } catch (error) {
      connected.socket.destroy();
      this.#failed(asHandshakeError(error), connected.peer.address);
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
      this.#log(`onHandshakeError failed: ${messageOf(thrown)}`);
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

/** Whether the peer has closed the connection before it had sent a byte. */
function isProbe(socket: Socket, { code }: IsthmusError): boolean {
  return socket.bytesRead === 0 && code === 'ERR_ISTHMUS_HANDSHAKE_REFUSED';
}

function nameOf(address: Peer['address']): string {
  return address ? `${address.host}:${address.port}` : 'a connection';
}

function asHandshakeError(error: unknown): IsthmusError {
  if (error instanceof IsthmusError) return error;
  return new IsthmusError('ERR_ISTHMUS_HANDSHAKE', messageOf(error), { cause: error });
}

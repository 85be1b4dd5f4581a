/** The accepting side: a listening socket, and the handshakes of those who come. */

import { type BlockList, createServer, isIPv6, type Server, type Socket } from 'node:net';
import type { Peer } from '../api/peer.js';
import { IsthmusError, messageOf } from '../base/errors.js';
import { ignoreError } from '../base/sockets.js';
import type { PluginRegistry } from '../plugins/registry.js';
import { type Attachment, attach, type Connected, HANDSHAKE_TIMEOUT_MS } from './attach.js';
import { remoteAddress } from './dial.js';
import type { ConInfo } from './frames.js';
import type { PreconLimits, PreconOptions } from './precon.js';

/** Handshakes that a listener has under way at once. */
export const MAX_HANDSHAKES = 64;
/** Connections that wait while the listener is held. */
const MAX_WAITING = 4096;

/** IP address and port of one who came; undefined if it was gone before we could ask. */
export type Address = Peer['address'];

export interface ListenerOptions {
  /** Default `127.0.0.1`: the wire protocol has no authentication. */
  readonly host?: string;
  /** 0, the default: any free one. */
  readonly port?: number;
  /** Connections that the kernel holds for us, default 511. */
  readonly backlog?: number;
  /** Our end of the next connection: called for each, because each has an id of its own. */
  readonly local: () => ConInfo;
  readonly registry: PluginRegistry;
  /**
   * Asked when the peer has introduced itself, before anything of ours is sent; false refuses. It has as long as the
   * handshake has. What the peer says about itself is not authenticated.
   */
  readonly accept?: ((peer: Peer) => boolean | Promise<boolean>) | undefined;
  /** Checked before anything is read. */
  readonly blockList?: BlockList | undefined;
  /** Default {@link MAX_HANDSHAKES}; whoever comes while that many are under way is closed. */
  readonly maxHandshakes?: number;
  /** Milliseconds for one handshake, default 10,000. */
  readonly handshakeTimeoutMs?: number;
  /** Bytes and proposals of one handshake. */
  readonly limits?: Partial<PreconLimits>;
  readonly onDemand?: PreconOptions['onDemand'];
  /**
   * Called synchronously: the callee takes socket and attempt over before it returns (see {@link Connected}). If it
   * throws, the socket is destroyed and the error goes to `onHandshakeError`.
   */
  onAgreed(connected: Connected): void;
  /** A handshake failed. The listener goes on. */
  onHandshakeError?(error: IsthmusError, address: Address): void;
  readonly log?: ((line: string) => void) | undefined;
}

/** A listening socket. Made by {@link Listener.open}. */
export class Listener {
  readonly #options: ListenerOptions;
  readonly #server: Server;
  readonly #handshakes = new Set<Attachment>();
  /** Came while the listener is held, or go on from there: nothing has been read from them. */
  readonly #waiting: Socket[] = [];
  #held = false;
  #idle: (() => void)[] = [];
  readonly #address: { host: string; port: number };
  #open = true;
  #closed: Promise<void> | undefined;

  private constructor(options: ListenerOptions, server: Server) {
    this.#options = options;
    this.#server = server;
    const address = server.address();
    // Only a pipe has a string, and a closed server null: neither is possible here.
    if (typeof address !== 'object' || !address) throw new IsthmusError('ERR_ISTHMUS_LISTEN', 'no address');
    this.#address = { host: address.address, port: address.port };
    server.on('connection', (socket) => this.#accepted(socket));
    // Out of descriptors, for example: that one connection is lost, the next one may be better off.
    server.on('error', (error) => this.#log(`accept failed: ${error.message}`));
  }

  /**
   * Listen. Rejects with ERR_ISTHMUS_LISTEN (with `errno`, as EADDRINUSE), or with ERR_ISTHMUS_INVALID_ARGUMENT for a
   * port or a backlog that cannot be.
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

  /** Where it listens, with the real port. */
  get address(): { readonly host: string; readonly port: number } {
    return this.#address;
  }

  /**
   * From here on whoever comes has to wait, unread, until {@link release}: the process is suspended, or about to be.
   * Resolves when the handshakes that are under way have ended.
   */
  hold(): Promise<void> {
    this.#held = true;
    if (this.#handshakes.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#idle.push(resolve);
    });
  }

  release(): void {
    this.#held = false;
    this.#admit();
  }

  /** Those who waited, as many at a time as may shake hands. */
  #admit(): void {
    const { maxHandshakes = MAX_HANDSHAKES } = this.#options;
    while (!this.#held && this.#handshakes.size < maxHandshakes) {
      const socket = this.#waiting.shift();
      if (!socket) return;
      if (!socket.destroyed) this.#connection(socket);
    }
  }

  /** A handshake is over. */
  #over(attachment: Attachment | undefined): void {
    if (attachment) this.#handshakes.delete(attachment);
    this.#admit();
    if (this.#handshakes.size > 0) return;
    for (const resolve of this.#idle.splice(0)) resolve();
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

  /** Do not keep the process alive; a handshake under way still does, as long as it may take. */
  unref(): this {
    this.#server.unref();
    return this;
  }

  /**
   * Stop listening and end the handshakes under way, without a word to `onHandshakeError`. Agreed connections are not
   * touched. Idempotent.
   */
  close(): Promise<void> {
    this.#open = false;
    this.#closed ??= new Promise((resolve) => {
      // Its callback would wait for the sockets that were handed over, too: the port is free without that.
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
    if (!this.#held && this.#waiting.length === 0) this.#connection(socket);
    else if (this.#waiting.length < MAX_WAITING) this.#waiting.push(socket);
    else {
      socket.destroy();
      this.#log(`a connection closed: ${MAX_WAITING} wait already`);
    }
  }

  #connection(socket: Socket): void {
    const { local, registry, accept, onDemand, limits = {} } = this.#options;
    const address = remoteAddress(socket);
    const refusal = this.#refusal(address);
    if (refusal !== undefined) {
      socket.destroy();
      const who = address ? `${address.host}:${address.port}` : 'a connection';
      this.#log(`${who} closed: ${refusal}`);
      return;
    }

    let over = false;
    let attachment: Attachment | undefined;
    const timeoutMs = this.#options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS;
    try {
      attachment = attach(
        socket,
        { role: 'accept', local: local(), registry, address, admit: accept, onDemand, limits, timeoutMs },
        (outcome) => {
          over = true;
          if (outcome.kind === 'agreed') this.#agreed(outcome);
          else if (outcome.kind === 'failed') this.#failed(outcome.error, address);
          this.#over(attachment);
        },
      );
    } catch (error) {
      // `local` threw.
      socket.destroy();
      this.#failed(asHandshakeError(error), address);
      return;
    }
    if (!over) this.#handshakes.add(attachment);
  }

  /** Why nobody is to listen to this one, undefined if somebody is. */
  #refusal(address: Address): string | undefined {
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

  #failed(error: IsthmusError, address: Address): void {
    if (!this.#open) return;
    const who = address ? `${address.host}:${address.port}` : 'a connection';
    this.#log(`handshake with ${who} failed: ${error.message} (${error.code})`);
    try {
      this.#options.onHandshakeError?.(error, address);
    } catch (thrown) {
      this.#log(`onHandshakeError failed: ${messageOf(thrown)}`);
    }
  }

  /** Nothing that a stranger causes may end the service, not by a callback that throws either. */
  #log(line: string): void {
    try {
      this.#options.log?.(line);
    } catch {
      // There is nobody left to tell.
    }
  }
}

function asHandshakeError(error: unknown): IsthmusError {
  if (error instanceof IsthmusError) return error;
  return new IsthmusError('ERR_ISTHMUS_HANDSHAKE', messageOf(error), { cause: error });
}

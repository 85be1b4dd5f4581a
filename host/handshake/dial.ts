/** The connecting side: from an address to an agreed handshake. */

import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { IsthmusError, messageOf } from '../base/errors.js';
import { ignoreError } from '../base/sockets.js';
import type { PluginRegistry } from '../plugins/registry.js';
import { type Attachment, afterTimeout, attach, type Connected, HANDSHAKE_TIMEOUT_MS } from './attach.js';
import type { ConInfo, Counts } from './frames.js';
import type { PreconLimits } from './precon.js';

export interface DialOptions {
  readonly host: string;
  readonly port: number;
  readonly local: ConInfo;
  readonly registry: PluginRegistry;
  /** How often a refused connect is tried again, default 10 (`PSP_RETRY`). */
  readonly retry?: number;
  /** Milliseconds before the first retry, default 100; doubles up to a second, and varies by a half. */
  readonly retryPauseMs?: number;
  /** Milliseconds for one connect, and again for the handshake after it; default 10,000. */
  readonly handshakeTimeoutMs?: number;
  /** Milliseconds for the connect alone, if that is to be shorter. */
  readonly connectTimeoutMs?: number;
  /** Introduce ourselves with CON_INFO_DEMAND: an on-demand connection of the peer is meant. */
  readonly demand?: boolean;
  /** What has gone over it so far, if it has been up. */
  readonly counts?: Counts | undefined;
  /** A port where we listen, for the peer to know. */
  readonly listens?: number | undefined;
  readonly limits?: Partial<PreconLimits>;
  readonly signal?: AbortSignal | undefined;
  readonly log?: ((line: string) => void) | undefined;
}

const MAX_PAUSE_MS = 1000;

/** Worth another try: nobody listens there yet, or its queue was full. */
const REFUSED = new Set(['ECONNREFUSED', 'ECONNRESET']);

/**
 * Connect, and agree on a plugin. The socket of the result is the caller's (see {@link Connected}): it takes it over in
 * the continuation of this promise, which runs before any other event of the socket.
 *
 * Rejects with `signal.reason` when aborted, otherwise with
 * - ERR_ISTHMUS_CONNECT (with `errno`): no TCP connection, also not by trying again;
 * - ERR_ISTHMUS_HANDSHAKE_REFUSED: the other side closed it;
 * - ERR_ISTHMUS_HANDSHAKE_TIMEOUT, ERR_ISTHMUS_HANDSHAKE_VERSION, ERR_ISTHMUS_HANDSHAKE, ERR_ISTHMUS_NO_PLUGIN;
 * - ERR_ISTHMUS_INVALID_ARGUMENT: a port or a con_info that cannot be.
 *
 * However it ends, neither a socket nor a timer is left behind.
 */
export function dial(options: DialOptions): Promise<Connected> {
  return retrying(options, () => tryOnce(options));
}

export interface RetryOptions {
  readonly host: string;
  readonly port: number;
  readonly retry?: number;
  readonly retryPauseMs?: number;
  readonly signal?: AbortSignal | undefined;
  readonly log?: ((line: string) => void) | undefined;
}

/** Try again while nobody listens there yet, with pauses. */
export async function retrying<T>(options: RetryOptions, attempt: () => Promise<T>): Promise<T> {
  const { host, port, retry = 10, retryPauseMs = 100, signal, log } = options;
  for (let tries = 1; ; tries++) {
    signal?.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof IsthmusError) || error.code !== 'ERR_ISTHMUS_CONNECT') throw error;
      if (tries > retry || !REFUSED.has(error.errno ?? '')) {
        throw new IsthmusError(
          'ERR_ISTHMUS_CONNECT',
          `connect to ${host}:${port}: ${error.message}${tries > 1 ? `, tried ${tries} times` : ''}`,
          { cause: error.cause, errno: error.errno, syscall: 'connect' },
        );
      }
      // Jitter, so that many that wait for one listener do not all come at once.
      const pause = Math.min(retryPauseMs * 2 ** (tries - 1), MAX_PAUSE_MS) * (0.5 + Math.random());
      log?.(`connect to ${host}:${port}: ${error.message}; try ${tries} of ${retry + 1}`);
      await sleep(pause, undefined, signal ? { signal } : {}).catch(() => signal?.throwIfAborted());
    }
  }
}

function tryOnce(options: DialOptions): Promise<Connected> {
  const { host, port, local, registry, demand = false, counts, listens, limits = {}, signal } = options;
  const timeoutMs = options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS;
  const connectMs = options.connectTimeoutMs ?? timeoutMs;
  return new Promise((resolve, reject) => {
    let socket: Socket;
    try {
      socket = connect({ host, port, noDelay: true, allowHalfOpen: true });
    } catch (error) {
      reject(new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', messageOf(error), { cause: error }));
      return;
    }
    let attachment: Attachment | undefined;

    const release = () => {
      cancelTimeout();
      socket.off('connect', connected).off('error', failed);
      signal?.removeEventListener('abort', aborted);
    };
    const giveUp = (reason: unknown) => {
      release();
      socket.destroy();
      reject(reason);
    };
    const failed = (error: NodeJS.ErrnoException) => {
      giveUp(new IsthmusError('ERR_ISTHMUS_CONNECT', error.code ?? error.message, { cause: error, errno: error.code }));
    };
    const aborted = () => {
      giveUp(signal?.reason);
      attachment?.abort(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the connect was aborted'));
    };
    const connected = () => {
      cancelTimeout();
      socket.off('error', failed);
      if (isItself(socket)) {
        giveUp(new IsthmusError('ERR_ISTHMUS_CONNECT', 'ECONNREFUSED', { errno: 'ECONNREFUSED' }));
        return;
      }
      attachment = attach(
        socket,
        {
          role: 'connect',
          local,
          registry,
          demand,
          counts,
          listens,
          limits,
          timeoutMs,
          address: remoteAddress(socket),
        },
        (outcome) => {
          release();
          if (outcome.kind === 'agreed') resolve(outcome);
          else if (outcome.kind === 'failed') reject(outcome.error);
        },
      );
    };
    const cancelTimeout = afterTimeout(connectMs, () =>
      giveUp(new IsthmusError('ERR_ISTHMUS_CONNECT', `no answer in ${connectMs} ms`, { errno: 'ETIMEDOUT' })),
    );
    socket.on('error', ignoreError).on('error', failed).on('connect', connected);
    signal?.addEventListener('abort', aborted);
  });
}

/**
 * A connect to a free port of the ephemeral range may be given that very port as its own, and then TCP connects it to
 * itself. Nobody listens there.
 */
function isItself(socket: Socket): boolean {
  return socket.localPort === socket.remotePort && socket.localAddress === socket.remoteAddress;
}

/** Where a socket comes from, undefined if it is already gone. */
export function remoteAddress(socket: Socket): { host: string; port: number } | undefined {
  const { remoteAddress: host, remotePort: port } = socket;
  return host === undefined || port === undefined ? undefined : { host, port };
}

/** The connecting side: from an address to an agreed handshake. */

import { connect, type Socket } from 'node:net';
import type { ConInfo, MessageCounts } from '../api/peer.js';
import { abortable } from '../base/abortable.js';
import { IsthmusError, messageOf } from '../base/errors.js';
import { ignoreError } from '../base/sockets.js';
import type { PluginRegistry } from '../plugins/registry.js';
import type { Handshake } from './admission.js';
import { attach, type Connected } from './attach.js';
import { ConnectingPrecon } from './connecting.js';
import type { PreconLimits } from './precon.js';
import { type RetryOptions, retrying } from './retry.js';
import { afterTimeout, HANDSHAKE_TIMEOUT_MS, isSelfConnected, remoteAddress } from './sockets.js';

export interface DialOptions extends RetryOptions {
  readonly local: ConInfo;
  readonly registry: PluginRegistry;
  /** Milliseconds for the connect alone, if that limit is shorter. */
  readonly connectTimeoutMs?: number;
  /** Send CON_INFO_DEMAND: an existing on-demand connection of the peer is meant. */
  readonly demand?: boolean;
  /** What the connection has carried so far, if it has been up. */
  readonly counts?: MessageCounts | undefined;
  /** A port where this side listens, for the peer to know. */
  readonly listens?: number | undefined;
  readonly limits?: Partial<PreconLimits>;
}

/**
 * Connect, and agree on a plugin. The socket of the result belongs to the caller (see {@link Connected}), which takes it
 * over in the continuation of this promise: that runs before any other event of the socket.
 *
 * Rejects with `signal.reason` when aborted, otherwise with
 * - ERR_ISTHMUS_CONNECT (with `errno`): no TCP connection, also not after all retries;
 * - ERR_ISTHMUS_HANDSHAKE_REFUSED: the peer closed it; with `temporary`: without an answer, also after all retries;
 * - ERR_ISTHMUS_HANDSHAKE_TIMEOUT, ERR_ISTHMUS_HANDSHAKE_VERSION, ERR_ISTHMUS_HANDSHAKE, ERR_ISTHMUS_NO_PLUGIN;
 * - ERR_ISTHMUS_INVALID_ARGUMENT: an impossible port or con_info.
 *
 * However it ends, it leaves neither a socket nor a timer behind.
 */
export function dial(options: DialOptions): Promise<Connected> {
  return retrying(options, () => tryOnce(options));
}

function tryOnce(options: DialOptions): Promise<Connected> {
  const { host, port, local, registry, demand = false, counts, listens, limits = {}, signal } = options;
  const timeoutMs = options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS;
  const connectMs = options.connectTimeoutMs ?? timeoutMs;
  return abortable(signal, (resolve, reject) => {
    let socket: Socket;
    try {
      socket = connect({ host, port, noDelay: true, allowHalfOpen: true });
    } catch (error) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', messageOf(error), { cause: error });
    }
    let attachment: Handshake | undefined;
    let withdrawn = false;

    const release = () => {
      cancelTimeout();
      socket.off('connect', connected).off('error', failed);
    };
    const giveUp = (reason: unknown) => {
      release();
      socket.destroy();
      reject(reason);
    };
    const failed = (error: NodeJS.ErrnoException) => {
      giveUp(new IsthmusError('ERR_ISTHMUS_CONNECT', error.code ?? error.message, { cause: error, errno: error.code }));
    };
    const connected = () => {
      cancelTimeout();
      socket.off('error', failed);
      if (isSelfConnected(socket)) {
        giveUp(new IsthmusError('ERR_ISTHMUS_CONNECT', 'ECONNREFUSED', { errno: 'ECONNREFUSED' }));
        return;
      }
      const address = remoteAddress(socket);
      attachment = attach(
        socket,
        timeoutMs,
        (callbacks) =>
          new ConnectingPrecon({ local, registry, demand, counts, listens, limits, address, ...callbacks }),
        (outcome) => {
          release();
          if (withdrawn) return;
          if (outcome.kind === 'agreed') resolve(outcome);
          else if (outcome.kind === 'failed') reject(outcome.error);
        },
      );
    };
    const cancelTimeout = afterTimeout(connectMs, () =>
      giveUp(new IsthmusError('ERR_ISTHMUS_CONNECT', `no answer in ${connectMs} ms`, { errno: 'ETIMEDOUT' })),
    );
    socket.on('error', ignoreError).on('error', failed).on('connect', connected);
    return () => {
      withdrawn = true;
      release();
      socket.destroy();
      attachment?.abort(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the connect was aborted'));
    };
  });
}

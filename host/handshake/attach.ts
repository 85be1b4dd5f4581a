/** Binds a {@link Precon} to a socket: used by `dial.ts` and `listener.ts`. */

import type { Socket } from 'node:net';
import { IsthmusError } from '../base/errors.js';
import { ignoreError } from '../base/sockets.js';
import type { Handshake } from './admission.js';
import type { Agreed, PreconOutcome } from './outcome.js';
import type { Precon, PreconOptions } from './precon.js';
import { afterTimeout, endInOrder } from './sockets.js';

/**
 * An agreed handshake with its socket, which belongs to the owner from here on.
 *
 * The socket is paused, {@link ignoreError} is the only listener of the handshake that is left on it, and it was opened
 * with `allowHalfOpen`: the owner answers the peer's end-of-file itself. The owner installs its listeners, 'error' among
 * them, in the same turn of the event loop; `ignoreError` may stay, so that the socket always has an 'error' listener. An
 * owner that comes later looks at `socket.destroyed` and `socket.errored` first.
 */
export interface Connected extends Agreed {
  readonly socket: Socket;
}

export type AttachOutcome = Connected | Exclude<PreconOutcome, Agreed>;

/**
 * Run a handshake over a connected socket.
 *
 * A handshake that takes too long fails with ERR_ISTHMUS_HANDSHAKE_TIMEOUT. After a failure the socket is destroyed.
 * @param timeoutMs for the whole handshake, the answers of its owner's callbacks included; undefined: none until
 * {@link Handshake.limit}
 * @param create makes the handshake with these callbacks
 * @param done called once, from an event of the socket, of the timer or of a plugin, when {@link ignoreError} is the only
 * listener left on the socket
 */
export function attach(
  socket: Socket,
  timeoutMs: number | undefined,
  create: (callbacks: Pick<PreconOptions, 'write' | 'done'>) => Precon,
  done: (outcome: AttachOutcome) => void,
): Handshake {
  const precon = create({
    write: (bytes) => {
      socket.write(bytes);
    },
    done: (outcome) => {
      release();
      if (outcome.kind === 'agreed') {
        socket.pause();
        done({ ...outcome, socket });
        return;
      }
      if (outcome.kind === 'acknowledged' || outcome.told) endInOrder(socket);
      else socket.destroy();
      done(outcome);
    },
  });
  const receive = (chunk: Buffer) => precon.receive(chunk);
  const socketEnded = () => precon.socketEnded();
  const failed = (error: Error) => precon.socketFailed(error);
  let ended = false;
  let cancelTimeout = () => {};
  const limit = (ms: number | undefined) => {
    cancelTimeout();
    cancelTimeout = () => {};
    if (ended || ms === undefined) return;
    cancelTimeout = afterTimeout(ms, () => {
      precon.abort(
        new IsthmusError(
          'ERR_ISTHMUS_HANDSHAKE_TIMEOUT',
          `the handshake took more than ${ms} ms; this side waited for ${precon.waitingFor}`,
        ),
      );
    });
  };
  const release = () => {
    ended = true;
    cancelTimeout();
    socket.off('data', receive).off('end', socketEnded).off('close', socketEnded).off('error', failed);
  };

  // First, so that the socket has an 'error' listener at any time, also after `release`.
  if (!socket.listeners('error').includes(ignoreError)) socket.on('error', ignoreError);
  socket.on('error', failed).on('end', socketEnded).on('close', socketEnded).on('data', receive);
  limit(timeoutMs);
  precon.start();
  return {
    abort: (error) => precon.abort(error),
    limit,
    get attempting() {
      return precon.attempting;
    },
    get waitsForPeer() {
      return precon.waitsForPeer;
    },
  };
}

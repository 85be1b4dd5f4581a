/** Puts a {@link Precon} on a socket: shared by `dial.ts` and `listener.ts`. */

import type { Socket } from 'node:net';
import { IsthmusError } from '../base/errors.js';
import { ignoreError } from '../base/sockets.js';
import { type Agreed, Precon, type PreconOptions, type PreconOutcome } from './precon.js';

/** Limit of a whole handshake, in milliseconds. */
export const HANDSHAKE_TIMEOUT_MS = 10_000;

/**
 * An agreed handshake with its socket, which is the owner's from here on.
 *
 * The socket is paused, none of our listeners but {@link ignoreError} is on it, and it was opened with
 * `allowHalfOpen`: the owner answers the peer's end-of-file itself. The owner installs its listeners, 'error' among
 * them, in the same turn of the event loop; `ignoreError` may stay, so that there is no moment without one. An owner
 * that comes later than that looks at `socket.destroyed` and `socket.errored` first.
 */
export interface Connected extends Agreed {
  readonly socket: Socket;
}

export type AttachOutcome = Connected | Exclude<PreconOutcome, Agreed>;

export interface AttachOptions extends Omit<PreconOptions, 'write' | 'done'> {
  /** Milliseconds for the whole handshake, the answer of `admit` included. */
  readonly timeoutMs: number;
}

export interface Attachment {
  /** End the handshake and the socket with it. No effect after the outcome. */
  abort(error: IsthmusError): void;
}

/**
 * Run the handshake over a connected socket. `done` is called once, synchronously from an event of the socket, of the
 * timer or of a plugin, when nothing of this module is left on the socket but {@link ignoreError}. After a failure the
 * socket is destroyed.
 *
 * A handshake that takes too long fails with ERR_ISTHMUS_HANDSHAKE_TIMEOUT.
 */
export function attach(socket: Socket, options: AttachOptions, done: (outcome: AttachOutcome) => void): Attachment {
  const precon = new Precon({
    ...options,
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
      if (outcome.kind === 'acknowledged') endInOrder(socket, options.timeoutMs);
      else socket.destroy();
      done(outcome);
    },
  });
  const receive = (chunk: Buffer) => precon.receive(chunk);
  const ended = () => precon.socketEnded();
  const failed = (error: Error) => precon.socketFailed(error);
  const cancelTimeout = afterTimeout(options.timeoutMs, () => {
    precon.abort(
      new IsthmusError(
        'ERR_ISTHMUS_HANDSHAKE_TIMEOUT',
        `the handshake took more than ${options.timeoutMs} ms; we waited for ${precon.waitingFor}`,
      ),
    );
  });
  const release = () => {
    cancelTimeout();
    socket.off('data', receive).off('end', ended).off('close', ended).off('error', failed);
  };

  // First, so that there is one at any time, also after `release`.
  if (!socket.listeners('error').includes(ignoreError)) socket.on('error', ignoreError);
  socket.on('error', failed).on('end', ended).on('close', ended).on('data', receive);
  precon.start();
  return { abort: (error) => precon.abort(error) };
}

/**
 * Like setTimeout, but what has already arrived is handled first: a process that was stopped for a while, or its whole
 * machine, finds its timers expired before it gets to read. Returns the cancellation.
 */
export function afterTimeout(ms: number, expired: () => void): () => void {
  let immediate: NodeJS.Immediate | undefined;
  const timer = setTimeout(() => {
    immediate = setImmediate(expired);
  }, ms);
  return () => {
    clearTimeout(timer);
    clearImmediate(immediate);
  };
}

/** Close without a reset: the last bytes are still to be read by the other side. Bounded. */
function endInOrder(socket: Socket, limitMs: number): void {
  const timer = setTimeout(() => socket.destroy(), limitMs);
  socket.on('close', () => clearTimeout(timer));
  socket.end();
  socket.resume();
}

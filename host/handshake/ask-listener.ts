/**
 * A request to a listener: to connect back (BACK_CONNECT), or to read on (HURRY). The request is the only frame of its TCP
 * connection, and BACK_ACK the answer.
 */

import { connect } from 'node:net';
import type { ConInfo } from '../api/peer.js';
import { abortable } from '../base/abortable.js';
import { type ErrorCode, IsthmusError, messageOf } from '../base/errors.js';
import { ignoreError } from '../base/sockets.js';
import { encodeConInfo, FRAME, FrameDecoder } from './frames.js';
import { type RetryOptions, retrying } from './retry.js';
import { afterTimeout, HANDSHAKE_TIMEOUT_MS } from './sockets.js';

export interface AskOptions extends RetryOptions {
  readonly local: ConInfo;
  /** Default: BACK_CONNECT. */
  readonly frame?: typeof FRAME.BACK_CONNECT | typeof FRAME.HURRY;
}

/**
 * Send the request. Resolves with the answer of the listener.
 *
 * Rejects with `signal.reason`, ERR_ISTHMUS_CONNECT, ERR_ISTHMUS_HANDSHAKE_REFUSED (the listener has no such connection),
 * ERR_ISTHMUS_HANDSHAKE_TIMEOUT, ERR_ISTHMUS_HANDSHAKE.
 */
export function askListener(options: AskOptions): Promise<void> {
  return retrying(options, () => tryOnce(options));
}

function tryOnce({ host, port, local, frame = FRAME.BACK_CONNECT, handshakeTimeoutMs, signal }: AskOptions) {
  const timeoutMs = handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS;
  return abortable<void>(signal, (resolve, reject) => {
    const socket = connect({ host, port, noDelay: true });
    const decoder = new FrameDecoder();
    let connected = false;
    let heard = false;
    const release = () => {
      cancelTimeout();
      socket.removeAllListeners('data').removeAllListeners('close');
      socket.destroy();
    };
    const fail = (code: ErrorCode, text: string, cause?: unknown, said?: 'no') => {
      release();
      const errno = (cause as NodeJS.ErrnoException | undefined)?.code;
      const unheard = code === 'ERR_ISTHMUS_HANDSHAKE_REFUSED' && !heard ? true : undefined;
      const temporary = said === 'no' ? false : unheard;
      reject(new IsthmusError(code, text, { cause, errno, temporary }));
    };
    const cancelTimeout = afterTimeout(timeoutMs, () => {
      if (connected) fail('ERR_ISTHMUS_HANDSHAKE_TIMEOUT', `no BACK_ACK in ${timeoutMs} ms`);
      else fail('ERR_ISTHMUS_CONNECT', `no answer in ${timeoutMs} ms`);
    });
    socket
      .on('error', ignoreError)
      .once('connect', () => {
        connected = true;
        socket.write(encodeConInfo(local, frame));
      })
      .on('data', (chunk: Buffer) => {
        heard = true;
        try {
          decoder.push(chunk);
          for (let answer = decoder.next(); answer; answer = decoder.next()) {
            if (answer.type === FRAME.REFUSED) {
              fail('ERR_ISTHMUS_HANDSHAKE_REFUSED', 'the peer has no such connection', undefined, 'no');
              return;
            }
            if (answer.type !== FRAME.BACK_ACK) continue;
            release();
            resolve();
            return;
          }
        } catch (error) {
          fail('ERR_ISTHMUS_HANDSHAKE', messageOf(error), error);
        }
      })
      .once('error', (error: NodeJS.ErrnoException) => {
        if (connected) fail('ERR_ISTHMUS_HANDSHAKE_REFUSED', `the connection broke: ${error.message}`, error);
        else fail('ERR_ISTHMUS_CONNECT', error.code ?? error.message, error);
      })
      .once('close', () => fail('ERR_ISTHMUS_HANDSHAKE_REFUSED', 'the peer closed it instead of sending BACK_ACK'));
    return release;
  });
}

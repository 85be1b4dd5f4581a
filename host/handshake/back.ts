/**
 * Asking a listener for something: to connect to us (BACK_CONNECT), or to read on (HURRY). That is the only frame, and
 * BACK_ACK the answer.
 */

import { connect } from 'node:net';
import { IsthmusError, messageOf } from '../base/errors.js';
import { ignoreError } from '../base/sockets.js';
import { afterTimeout, HANDSHAKE_TIMEOUT_MS } from './attach.js';
import { retrying } from './dial.js';
import { type ConInfo, encodeConInfo, FRAME, FrameDecoder } from './frames.js';

export interface AskBackOptions {
  readonly host: string;
  readonly port: number;
  readonly local: ConInfo;
  /** Default: BACK_CONNECT. */
  readonly frame?: typeof FRAME.BACK_CONNECT | typeof FRAME.HURRY;
  /** As in {@link dial}. */
  readonly retry?: number;
  readonly handshakeTimeoutMs?: number;
  readonly signal?: AbortSignal | undefined;
  readonly log?: ((line: string) => void) | undefined;
}

/**
 * Ask for a connection from there. Resolves when the other side has said that it will.
 *
 * Rejects with `signal.reason`, ERR_ISTHMUS_CONNECT, ERR_ISTHMUS_HANDSHAKE_REFUSED (it knows of no such connection),
 * ERR_ISTHMUS_HANDSHAKE_TIMEOUT, ERR_ISTHMUS_HANDSHAKE.
 */
export function askBack(options: AskBackOptions): Promise<void> {
  return retrying(options, () => tryOnce(options));
}

function tryOnce({
  host,
  port,
  local,
  frame = FRAME.BACK_CONNECT,
  handshakeTimeoutMs,
  signal,
}: AskBackOptions): Promise<void> {
  const timeoutMs = handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS;
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, noDelay: true });
    const decoder = new FrameDecoder();
    let connected = false;
    const over = (settle: () => void) => {
      cancelTimeout();
      signal?.removeEventListener('abort', aborted);
      socket.removeAllListeners('data').removeAllListeners('close');
      socket.destroy();
      settle();
    };
    const fail = (code: ConstructorParameters<typeof IsthmusError>[0], text: string, cause?: unknown) =>
      over(() =>
        reject(new IsthmusError(code, text, { cause, errno: (cause as NodeJS.ErrnoException | undefined)?.code })),
      );
    const aborted = () => over(() => reject(signal?.reason));
    const cancelTimeout = afterTimeout(timeoutMs, () => {
      if (connected) fail('ERR_ISTHMUS_HANDSHAKE_TIMEOUT', `no BACK_ACK in ${timeoutMs} ms`);
      else fail('ERR_ISTHMUS_CONNECT', `no answer in ${timeoutMs} ms`);
    });
    signal?.addEventListener('abort', aborted, { once: true });
    socket
      .on('error', ignoreError)
      .once('connect', () => {
        connected = true;
        socket.write(encodeConInfo(local, frame));
      })
      .on('data', (chunk: Buffer) => {
        try {
          decoder.push(chunk);
          for (let answer = decoder.next(); answer; answer = decoder.next()) {
            if (answer.type === FRAME.BACK_ACK) {
              over(resolve);
              return;
            }
          }
        } catch (error) {
          fail('ERR_ISTHMUS_HANDSHAKE', messageOf(error), error);
        }
      })
      .once('error', (error: NodeJS.ErrnoException) => {
        if (connected) fail('ERR_ISTHMUS_HANDSHAKE_REFUSED', `the connection broke: ${error.message}`, error);
        else fail('ERR_ISTHMUS_CONNECT', error.code ?? error.message, error);
      })
      .once('close', () =>
        fail('ERR_ISTHMUS_HANDSHAKE_REFUSED', 'the other side closed it instead of sending BACK_ACK'),
      );
  });
}

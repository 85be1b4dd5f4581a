/** Connects that are repeated until the peer listens, and has time. */
import { setTimeout as sleep } from 'node:timers/promises';
import { IsthmusError } from '../base/errors.js';
import { HANDSHAKE_TIMEOUT_MS } from './sockets.js';

export interface RetryOptions {
  readonly host: string;
  readonly port: number;
  /** Retries after a refused connect, default 10 (`PSP_RETRY`). */
  readonly retry?: number;
  /** Milliseconds before the first retry, default 100. Each further pause is twice as long, up to a second, ± 50 %. */
  readonly retryPauseMs?: number;
  /** Milliseconds for one handshake, default 10,000; and for all tries at a listener that closes without an answer. */
  readonly handshakeTimeoutMs?: number;
  /** False: a listener that closes without an answer has refused. Default true. */
  readonly retryUnanswered?: boolean;
  readonly signal?: AbortSignal | undefined;
  readonly log?: ((line: string) => void) | undefined;
}

const MAX_PAUSE_MS = 1000;

/** Errors that a retry can overcome: nothing listens yet, or the listener's queue was full. */
const REFUSED = new Set(['ECONNREFUSED', 'ECONNRESET']);

/**
 * Repeat `attempt` while it rejects because nothing listens at the address yet, or because the listener closed the
 * connection before it sent a byte. Such a listener has too much to do: one that does not want this side says so (REFUSED).
 * A C program, or an Isthmus of before, says nothing in either case, so the number of tries and their time are limited.
 */
export async function retrying<T>(options: RetryOptions, attempt: () => Promise<T>): Promise<T> {
  const { host, port, retry = 10, retryPauseMs = 100, retryUnanswered = true, signal, log } = options;
  const unansweredEnd = performance.now() + (options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS);
  for (let tries = 1; ; tries++) {
    signal?.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof IsthmusError)) throw error;
      const { code, temporary } = error;
      if (code !== 'ERR_ISTHMUS_CONNECT' && !temporary) throw error;
      const again = temporary ? retryUnanswered && performance.now() < unansweredEnd : REFUSED.has(error.errno ?? '');
      if (tries > retry || !again) {
        throw new IsthmusError(
          code,
          `connect to ${host}:${port}: ${error.message}${tries > 1 ? `, tried ${tries} times` : ''}`,
          { cause: error.cause, errno: error.errno, syscall: temporary ? undefined : 'connect', temporary },
        );
      }
      // Jitter: processes that wait for one listener should not all connect at the same moment.
      const pause = Math.min(retryPauseMs * 2 ** (tries - 1), MAX_PAUSE_MS) * (0.5 + Math.random());
      log?.(`connect to ${host}:${port}: ${error.message}; try ${tries} of ${retry + 1}`);
      await sleep(pause, undefined, signal ? { signal } : {}).catch(() => signal?.throwIfAborted());
    }
  }
}

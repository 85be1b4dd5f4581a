/** Connects that are repeated until the peer listens. */
import { setTimeout as sleep } from 'node:timers/promises';
import { IsthmusError } from '../base/errors.js';

export interface RetryOptions {
  readonly host: string;
  readonly port: number;
  /** Retries after a refused connect, default 10 (`PSP_RETRY`). */
  readonly retry?: number;
  /** Milliseconds before the first retry, default 100. Each further pause is twice as long, up to a second, ± 50 %. */
  readonly retryPauseMs?: number;
  readonly signal?: AbortSignal | undefined;
  readonly log?: ((line: string) => void) | undefined;
}

const MAX_PAUSE_MS = 1000;

/** Errors that a retry can overcome: nothing listens yet, or the listener's queue was full. */
const REFUSED = new Set(['ECONNREFUSED', 'ECONNRESET']);

/** Repeat `attempt` while it rejects because nothing listens at the address yet. */
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
      // Jitter: processes that wait for one listener should not all connect at the same moment.
      const pause = Math.min(retryPauseMs * 2 ** (tries - 1), MAX_PAUSE_MS) * (0.5 + Math.random());
      log?.(`connect to ${host}:${port}: ${error.message}; try ${tries} of ${retry + 1}`);
      await sleep(pause, undefined, signal ? { signal } : {}).catch(() => signal?.throwIfAborted());
    }
  }
}

/**
 * Promises that an `AbortSignal` can reject.
 *
 * A signal may live as long as the process and be passed to a million calls. So a listener is removed when its promise
 * settles, and is never added to a signal on behalf of a promise that has settled already.
 */

/**
 * Takes back what was started. It runs at most once, and not after the promise has settled.
 * @returns false: too late, the result comes; anything else: it is withdrawn, the promise rejects
 */
export type Withdraw = () => boolean | void;

/**
 * Starts the work. It may settle the promise before it returns, and may throw, which rejects the promise.
 * @returns how to take the work back; undefined: there is nothing to take back
 */
export type Start<T> = (
  resolve: (value: T | PromiseLike<T>) => void,
  reject: (error: unknown) => void,
) => Withdraw | undefined | void;

/**
 * Start something that a signal may end.
 *
 * ```ts
 * return abortable(signal, (resolve, reject) => {
 *   const entry = queue.push({ resolve, reject });
 *   return () => queue.remove(entry);
 * });
 * ```
 *
 * With an aborted signal nothing is started. Work that is under way already and cannot be left half done is therefore
 * not for this, or only without its signal.
 * @throws `signal.reason` (as a rejection): the signal is aborted, or was before the work was done; what `start` rejects
 * with or throws
 */
export function abortable<T>(signal: AbortSignal | undefined, start: Start<T>): Promise<T> {
  if (signal === undefined) {
    return new Promise<T>((resolve, reject) => {
      start(resolve, reject);
    });
  }
  if (signal.aborted) return Promise.reject(signal.reason);
  return new Promise<T>((resolve, reject) => {
    let settled = false;
    let withdraw: ReturnType<Start<T>>;
    const settle = () => {
      settled = true;
      signal.removeEventListener('abort', abort);
    };
    const abort = () => {
      if (withdraw?.() !== false) reject(signal.reason);
    };
    withdraw = start(
      (value) => {
        settle();
        resolve(value);
      },
      (error) => {
        settle();
        reject(error);
      },
    );
    if (settled) return;
    // `start` may have run code that aborts the signal: no event would follow.
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
  });
}

/**
 * Wait for a promise, but no longer than until the signal is aborted. What the promise stands for goes on; when it
 * rejects later, that is not an unhandled rejection. An aborted signal comes first, whatever the promise has.
 * @throws `signal.reason`, what the promise rejects with
 */
export function unlessAborted<T>(signal: AbortSignal | undefined, promise: Promise<T>): Promise<T> {
  if (signal?.aborted) promise.catch(() => {});
  return abortable(signal, (resolve, reject) => {
    promise.then(resolve, reject);
  });
}

/**
 * Do something that each of several signals may end. Not by AbortSignal.any: in Node 20 each call of that leaves something
 * with a signal for as long as the signal lives, here as long as the runtime.
 * @param body gets a signal that is aborted with the first of them, for the reason of that
 */
export async function withEither<T>(
  signals: readonly (AbortSignal | undefined)[],
  body: (either: AbortSignal) => Promise<T>,
): Promise<T> {
  const either = new AbortController();
  const removals = signals.map((signal) => onAbort(signal, () => either.abort(signal?.reason)));
  try {
    return await body(either.signal);
  } finally {
    for (const remove of removals) remove();
  }
}

/**
 * Call a listener once when the signal is aborted; at once, if it is aborted already.
 * @returns removes the listener. Idempotent; to be called when the listener is no longer wanted
 */
export function onAbort(signal: AbortSignal | undefined, listener: () => void): () => void {
  if (signal === undefined) return () => {};
  if (signal.aborted) {
    listener();
    return () => {};
  }
  // A function of its own: one listener may be added twice.
  const abort = () => listener();
  signal.addEventListener('abort', abort, { once: true });
  return () => signal.removeEventListener('abort', abort);
}

/** SIGINT, SIGTERM and SIGHUP: how a command that runs for a while ends. */
import { onAbort } from '../../base/abortable.js';

/**
 * Aborted by the first of these signals; a second one ends the process as if there were no handler. To be disposed of
 * when the command ends (`using`): a handler that stays would take the next signal away from the process.
 */
export function stopSignal(): AbortSignal & Disposable {
  const controller = new AbortController();
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  const remove = () => {
    for (const signal of signals) process.removeListener(signal, stop);
  };
  const stop = (name: NodeJS.Signals) => {
    remove();
    controller.abort(name);
  };
  for (const signal of signals) process.on(signal, stop);
  return Object.assign(controller.signal, { [Symbol.dispose]: remove });
}

/** Resolves when the signal is aborted, and keeps the process alive until then. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const keepAlive = setInterval(() => {}, 2 ** 30);
    onAbort(signal, () => {
      clearInterval(keepAlive);
      resolve();
    });
  });
}

/** Exit code for a signal, as a shell reports it; 0 if none has come. */
export function exitCodeOf(stop: AbortSignal): number {
  if (!stop.aborted) return 0;
  return { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 }[String(stop.reason)] ?? 1;
}

/**
 * Run `body` to its end. What it throws after the signal is a consequence of the signal.
 * @returns the exit code: 0, or that of the signal
 */
export async function untilStopped(stop: AbortSignal, body: () => Promise<void>): Promise<number> {
  try {
    await body();
    return 0;
  } catch (error) {
    if (stop.aborted) return exitCodeOf(stop);
    throw error;
  }
}

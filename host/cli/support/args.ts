/** Arguments: what they take, and signals, which are arguments of a kind. */
import { InvalidArgumentError } from 'commander';

/** A parser for commander: an integer within limits. */
export function integer(min: number, max: number, what: string): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < min || value > max) {
      throw new InvalidArgumentError(`${what}: an integer from ${min} to ${max} is wanted.`);
    }
    return value;
  };
}

/** MiB of a region. @returns the size in MiB, a power of two */
export function powerOfTwo(text: string): number {
  const value = integer(1, 1 << 20, 'A size in MiB')(text);
  if (!Number.isInteger(Math.log2(value))) throw new InvalidArgumentError('A power of two is wanted: 1, 2, 4, 8, …');
  return value;
}

/** `host:port` or `[host]:port`. */
export function address(text: string): string {
  const port = Number(/^(?:\[[0-9a-f:.%]+\]|[^:[\]@]+):(\d{1,5})$/i.exec(text)?.[1] ?? 0);
  if (port < 1 || port > 65535) throw new InvalidArgumentError('HOST:PORT is wanted, as 127.0.0.1:7100.');
  return text;
}

function secondsFrom(min: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+(\.\d+)?$/.test(text) || value < min || value > 86_400) {
      throw new InvalidArgumentError(`A time from ${min} to 86400 seconds is wanted.`);
    }
    return value;
  };
}

/** A time, up to a day. */
export const seconds = secondsFrom(0);

/** A pause between two looks, in seconds. */
export const interval = secondsFrom(0.1);

export const port = integer(0, 65535, 'A port');

/** Aborted by the first SIGINT, SIGTERM or SIGHUP; a second one then ends the process as if there were no handler. */
export function stopSignal(): AbortSignal {
  const controller = new AbortController();
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  const stop = (name: NodeJS.Signals) => {
    for (const signal of signals) process.removeListener(signal, stop);
    controller.abort(name);
  };
  for (const signal of signals) process.on(signal, stop);
  return controller.signal;
}

/** Resolves when the signal is aborted. Keeps the process alive until then. */
export function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const alive = setInterval(() => {}, 2 ** 30);
    signal.addEventListener(
      'abort',
      () => {
        clearInterval(alive);
        resolve();
      },
      { once: true },
    );
  });
}

/** Exit code of a program that a signal has ended, as a shell reports it. */
export function exitCodeOf(signal: unknown): number {
  return { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 }[String(signal)] ?? 1;
}

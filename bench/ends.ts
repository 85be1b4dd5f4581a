/** Starting the processes of the benchmark. */
import { type ChildProcess, type ForkOptions, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Callee } from './calls.js';
import type { EndOptions } from './transports/transport.js';

/** The options that every process of a run gets. */
export interface RunOptions extends EndOptions {
  /** Another build of the library, measured in turns with the one of this checkout. */
  readonly baseline: string | undefined;
}

const VARIABLE = 'ISTHMUS_BENCH';

export function readOptions(): RunOptions {
  return JSON.parse(process.env[VARIABLE] ?? '{}') as RunOptions;
}

/** @param how `fork`, or a function that wraps it */
export function forkEnd(
  how: typeof fork,
  role: 'near' | 'far' | 'probe' | 'client' | 'server',
  name: string,
  options: RunOptions,
  more: ForkOptions = {},
): ChildProcess {
  return how(fileURLToPath(new URL('end.mjs', import.meta.url)), [role, name], {
    serialization: 'advanced',
    ...more,
    env: { ...(more.env ?? process.env), [VARIABLE]: JSON.stringify(options) },
  });
}

/** A process of the benchmark that answers calls. */
export function startEnd(role: 'near' | 'probe', name: string, options: RunOptions, more?: ForkOptions): Callee {
  return new Callee(forkEnd(fork, role, name, options, more));
}

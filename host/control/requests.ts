/** What can be asked of a runtime over its control socket. */

import type { Migratable } from '../api/migratable.js';
import type { RuntimeSnapshot, RuntimeSummary } from '../api/snapshots.js';
import { IsthmusError } from '../base/errors.js';
import type { RequestHandler, RequestHandlers } from './socket.js';

/** A runtime as far as it can be steered. */
export interface Controlled extends Migratable {
  inspect(): RuntimeSnapshot;
  /** Level of the log; setting it throws for what is none. */
  debug: number;
}

function summaryOf({ plugins, regions, refused, connections, ...summary }: RuntimeSnapshot): RuntimeSummary {
  return summary;
}

/** Longest time that a suspension may be given, in milliseconds. */
const MAX_TIMEOUT = 3_600_000;

function timeoutOf(value: unknown): number | undefined {
  if (value === undefined) return undefined;
  if (Number.isSafeInteger(value) && (value as number) >= 1 && (value as number) <= MAX_TIMEOUT) return value as number;
  throw new IsthmusError(
    'ERR_ISTHMUS_INVALID_ARGUMENT',
    `"timeout" is a number of milliseconds from 1 to ${MAX_TIMEOUT}`,
  );
}

export function requestsOf(runtime: Controlled): RequestHandlers {
  return new Map<string, RequestHandler>([
    ['summary', () => summaryOf(runtime.inspect())],
    ['inspect', () => runtime.inspect()],
    [
      'debug',
      ({ level }) => {
        runtime.debug = level as number; // It checks.
        return { level: runtime.debug };
      },
    ],
    // Answered when it is done: the asker decides how long to wait, and leaves when it does not want to any more.
    [
      'suspend',
      async ({ timeout }) => {
        await runtime.suspend({ timeout: timeoutOf(timeout) });
        return { migration: runtime.migration };
      },
    ],
    [
      'resume',
      async () => {
        await runtime.resume();
        return { migration: runtime.migration };
      },
    ],
  ]);
}

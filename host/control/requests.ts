/** The requests that a runtime answers at its control socket. */

import type { Migratable } from '../api/migratable.js';
import type { RuntimeSnapshot, RuntimeSummary } from '../api/snapshots.js';
import { IsthmusError } from '../base/errors.js';
import type { RequestHandler, RequestHandlers } from './socket.js';

/** A runtime, as its control socket uses it. */
export interface Controlled extends Migratable {
  inspect(): RuntimeSnapshot;
  /** Level of the log. @throws ERR_ISTHMUS_INVALID_ARGUMENT: not a level */
  debug: number;
}

function summaryOf({ plugins, regions, refused, connections, ...summary }: RuntimeSnapshot): RuntimeSummary {
  return summary;
}

/** Longest timeout of a suspension. */
const MAX_TIMEOUT_MS = 3_600_000;

function timeoutOf(value: unknown): number | undefined {
  if (value === undefined) return undefined;
  if (Number.isSafeInteger(value) && (value as number) >= 1 && (value as number) <= MAX_TIMEOUT_MS)
    return value as number;
  throw new IsthmusError(
    'ERR_ISTHMUS_INVALID_ARGUMENT',
    `"timeout" is a number of milliseconds from 1 to ${MAX_TIMEOUT_MS}`,
  );
}

export function requestsOf(runtime: Controlled): RequestHandlers {
  return new Map<string, RequestHandler>([
    ['summary', () => summaryOf(runtime.inspect())],
    ['inspect', () => runtime.inspect()],
    [
      'debug',
      ({ level }) => {
        runtime.debug = level as number; // The setter checks it.
        return { level: runtime.debug };
      },
    ],
    // Answered when it is done. The client has a time limit of its own, and may disconnect earlier.
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

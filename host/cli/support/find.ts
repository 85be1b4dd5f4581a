/** Runtimes of this user: found by what the reader typed, and asked over their control sockets. */
import type { RuntimeSnapshot } from '../../api/snapshots.js';
import { type Answer, ask, findRuntimes, socketOf } from '../../control/client.js';
import { CliError } from './errors.js';

/** A runtime that can be asked. */
export interface Target {
  readonly id: string;
  /** Path of its control socket. */
  readonly path: string;
}

/** Help text of the argument of each command that takes a runtime. */
export const TARGET =
  "id of a runtime, as 'isthmus ps' prints it; or its name or pid, if no other runtime has the same";

/**
 * @param what an id; or a name or a pid that only one runtime has
 * @throws CliError if no runtime matches, or more than one
 */
export async function findRuntime(what: string): Promise<Target> {
  const path = socketOf(what);
  if (path !== undefined) return { id: what, path };
  const found = await findRuntimes();
  const named = found.filter(({ id, summary }) => summary?.name === what || /^\d+/.exec(id)?.[0] === what);
  if (named.length === 1) return named[0] as Target;
  if (named.length === 0) {
    throw new CliError(`there is no runtime '${what}'`, "'isthmus ps' lists the runtimes of this user.");
  }
  throw new CliError(`'${what}' matches ${named.map(({ id }) => id).join(', ')}`, 'Give one of these ids.');
}

/** @throws CliError for an answer without a result */
export function resultOf({ id }: Target, answer: Answer): unknown {
  switch (answer.kind) {
    case 'result':
      return answer.value;
    case 'error':
      throw new CliError(`${id}: ${answer.message}`);
    case 'gone':
      throw new CliError(`${id} has ended`, "'isthmus ps' lists the runtimes that run now.");
    case 'silent':
      throw new CliError(`${id} does not answer`, 'The process is busy or stopped. Try again.');
  }
}

/** @throws CliError for an answer without a result, or of another shape */
export function snapshotOf(target: Target, answer: Answer): RuntimeSnapshot {
  const value = resultOf(target, answer) as Partial<RuntimeSnapshot> | null;
  if (!Array.isArray(value?.connections) || !value.stats) {
    throw new CliError(
      `the answer of ${target.id} has an unknown format`,
      'Use the version of Isthmus that the process uses.',
    );
  }
  return value as RuntimeSnapshot;
}

export const askInspect = (target: Target): Promise<Answer> => ask(target.path, 'inspect');

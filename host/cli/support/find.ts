/** From what people type to a runtime, and to what it answers. */

import type { RuntimeSnapshot } from '../../api/snapshots.js';
import { type Answer, ask, findRuntimes, socketOf } from '../../control/client.js';
import { CliError } from './output.js';

export interface Target {
  readonly id: string;
  readonly path: string;
}

/** The argument of each command that takes a runtime. */
export const TARGET = "id of a runtime, as 'isthmus ps' shows it; its name or pid will do where only one has it";

/**
 * @param what an id; or a name or a pid that only one runtime has
 * @throws CliError if there is none, or more than one
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
  throw new CliError(`'${what}' may be any of ${named.map(({ id }) => id).join(', ')}`, 'Name one of these.');
}

/** @throws CliError for an answer without a result */
export function resultOf({ id }: Target, answer: Answer): unknown {
  switch (answer.kind) {
    case 'result':
      return answer.value;
    case 'error':
      throw new CliError(`${id}: ${answer.message}`);
    case 'gone':
      throw new CliError(`${id} has ended`, "'isthmus ps' lists the runtimes that are there.");
    case 'silent':
      throw new CliError(`${id} does not answer`, 'It is busy or stopped: try again.');
  }
}

/** @throws CliError */
export function snapshotOf(target: Target, answer: Answer): RuntimeSnapshot {
  const value = resultOf(target, answer) as Partial<RuntimeSnapshot> | null;
  if (!Array.isArray(value?.connections) || !value.stats) {
    throw new CliError(
      `${target.id} answers in a way that is not understood`,
      'Use the version of Isthmus that it uses.',
    );
  }
  return value as RuntimeSnapshot;
}

export const askInspect = (target: Target): Promise<Answer> => ask(target.path, 'inspect');

/** `isthmus debug`: sets the log level of a running runtime. */
import { type Command, InvalidArgumentError } from 'commander';
import { LEVELS } from '../../base/log.js';
import { SETTINGS } from '../../config/config.js';
import { ask } from '../../control/client.js';
import { findRuntime, resultOf, TARGET } from '../support/find.js';
import { withExamples } from '../support/help.js';
import { print } from '../support/output.js';

const WORDS: Readonly<Record<string, number>> = { nothing: 0, ...LEVELS };

function level(text: string): number {
  const value = Object.hasOwn(WORDS, text) ? WORDS[text] : SETTINGS.debug.read(text);
  if (value === undefined) {
    throw new InvalidArgumentError(`Expected ${SETTINGS.debug.takes}, or ${Object.keys(WORDS).join(', ')}.`);
  }
  return value;
}

export function addDebug(program: Command): void {
  const command = program
    .command('debug')
    .summary('set the log level of a running runtime')
    .description(`Set the log level of a running runtime, at first that of PSP_DEBUG (${SETTINGS.debug.meaning}).`)
    .argument('<ID>', TARGET)
    .argument('<LEVEL>', `0 to 10, or one of ${Object.keys(WORDS).join(', ')} (0 to 4)`, level);
  withExamples(
    command,
    `
  $ isthmus pp --listen 7100 &
  $ isthmus debug pp info                   # from now on it logs each connection
  $ isthmus debug pp 2                      # warnings and errors only, the default`,
  ).action(async (id: string, wanted: number) => {
    const target = await findRuntime(id);
    const result = resultOf(target, await ask(target.path, 'debug', { level: wanted }));
    print(`isthmus: ${target.id} logs at level ${(result as { level: number }).level}\n`);
  });
}

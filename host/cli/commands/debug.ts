/** `isthmus debug`: how much a running process logs. */
import { type Command, InvalidArgumentError } from 'commander';
import { LEVELS } from '../../base/log.js';
import { SETTINGS } from '../../config/config.js';
import { ask } from '../../control/client.js';
import { findRuntime, resultOf, TARGET } from '../support/find.js';
import { say } from '../support/output.js';

const WORDS: Readonly<Record<string, number>> = { nothing: 0, ...LEVELS };

function level(text: string): number {
  const value = Object.hasOwn(WORDS, text) ? WORDS[text] : SETTINGS.debug.read(text);
  if (value === undefined) {
    throw new InvalidArgumentError(`A level is wanted: ${SETTINGS.debug.takes}, or ${Object.keys(WORDS).join(', ')}.`);
  }
  return value;
}

export function addDebug(program: Command): void {
  program
    .command('debug')
    .summary('set how much a running process logs')
    .description(`Set the level of the log of a running runtime; that of PSP_DEBUG: ${SETTINGS.debug.meaning}.`)
    .argument('<ID>', TARGET)
    .argument('<LEVEL>', `0 to 10, or ${Object.keys(WORDS).join(', ')}`, level)
    .addHelpText(
      'after',
      `
Example:
  $ isthmus pp --listen 7100 &
  $ isthmus debug pp info                   # it logs every connection from here on
  $ isthmus debug pp 2                      # and no more`,
    )
    .action(async (id: string, wanted: number) => {
      const target = await findRuntime(id);
      const result = resultOf(target, await ask(target.path, 'debug', { level: wanted }));
      say(`isthmus: ${target.id} logs at level ${(result as { level: number }).level}\n`);
    });
}

/** Help texts. */
import type { Command } from 'commander';

/** Sets the exit code of the program. */
export type Exit = (code: number) => void;

/** Append examples to the help of a command. @param lines each begins with a newline, two spaces and a prompt */
export function withExamples(command: Command, lines: string): Command {
  return command.addHelpText('after', `\nExample:${lines}`);
}

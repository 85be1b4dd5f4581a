/** How errors are printed. */
import { adviceForErrno } from '../../base/advice.js';
import { IsthmusError, messageOf } from '../../base/errors.js';
import { printable, printableLines } from '../../base/printable.js';
import { actionOf, CliError } from './errors.js';

const oneLine = (text: string): string => printable(text.replace(/\s*\n\s*/g, ' ').trim());

const indented = (action: string | undefined): string =>
  action === undefined ? '' : `  ${action.replaceAll('`', "'")}\n`;

/** The message of an error, in one line. */
export const lineOf = (error: unknown): string => oneLine(messageOf(error));

/** `isthmus: MESSAGE (CODE)`, and in a second line what the reader can do about it. */
export function describeError(error: unknown): string {
  if (error instanceof IsthmusError) {
    return `isthmus: ${oneLine(error.message)} (${error.code})\n  ${actionOf(error)}\n`;
  }
  if (error instanceof CliError) {
    return `isthmus: ${oneLine(error.message)}\n${indented(error.action)}`;
  }
  if (error instanceof Error && 'code' in error && 'syscall' in error) {
    return `isthmus: ${oneLine(error.message)}\n${indented(adviceForErrno(error.code))}`;
  }
  // A defect of the program: a report of it needs the stack.
  const report = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return `isthmus: internal error: ${printableLines(report)}\n`;
}

/** Errors of the command line. */
import { ERRORS, type ErrorCode } from '../../base/errors.js';

/** Wrong arguments: printed as one line, exit code 2. */
export class UsageError extends Error {}

/** A failure of a command that has no code of the library: exit code 1. */
export class CliError extends Error {
  /** What the reader can do about it. */
  readonly action: string | undefined;

  constructor(message: string, action?: string) {
    super(message);
    this.action = action;
  }
}

/** What the reader can do about an error of the library. */
export function actionFor(code: ErrorCode): string {
  return ERRORS[code].action.replaceAll('`', "'");
}

/** Errors of the command line. */
import { adviceFor } from '../../base/advice.js';
import type { IsthmusError } from '../../base/errors.js';

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
export function actionOf(error: IsthmusError): string {
  return adviceFor(error).replaceAll('`', "'");
}

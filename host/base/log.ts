/** The log of a runtime, with the levels of pscom. */
import { appendFileSync } from 'node:fs';
import { IsthmusError } from './errors.js';
import { printable } from './printable.js';

export const LEVELS = { error: 1, warning: 2, info: 3, debug: 4 } as const;
export type Level = keyof typeof LEVELS;

/** Length of a name in the prefix of each line. */
const MAX_NAME = 200;

/** Receives what the runtime logs. An error that it throws is ignored. */
export type Log = (level: Level, line: string) => void;

/** A {@link Log} whose limit may change while it is used. */
export interface Logger {
  (level: Level, line: string): void;
  /** The highest level that is logged. */
  limit: number;
}

/** Where lines go; by default to standard error. */
export interface LogTarget {
  readonly sink?: Log | undefined;
  /** `PSP_DEBUG_OUT`. */
  readonly path?: string | undefined;
}

/** Expand `$$` (the pid), `$NAME` and `${NAME}` in a path. pscom expands all that a shell does. */
export function expandPath(path: string, environment: NodeJS.ProcessEnv = process.env): string {
  return path.replace(/\$(?:\$|(\w+)|\{(\w+)\})/g, (_, plain?: string, braced?: string) => {
    const name = plain ?? braced;
    return name === undefined ? String(process.pid) : (environment[name] ?? '');
  });
}

/**
 * A file for the log. It is opened for each line, so that it need not be closed and may be moved at any time.
 * @throws ERR_ISTHMUS_CONFIG if it cannot be written to
 */
function fileSink(path: string): (line: string) => void {
  const file = expandPath(path);
  const append = (text: string) => appendFileSync(file, text, { mode: 0o600 });
  try {
    append('');
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw new IsthmusError('ERR_ISTHMUS_CONFIG', `PSP_DEBUG_OUT: '${path}' cannot be written to: ${code ?? message}`, {
      cause,
      path: file,
    });
  }
  return (line) => append(`${new Date().toISOString()} ${line}`);
}

/**
 * A log of everything up to level `limit`. A sink takes precedence over a path. What comes from outside stands in many lines,
 * so each line is made printable here ({@link printable}), for a sink too.
 * @throws ERR_ISTHMUS_CONFIG if the path cannot be written to
 */
export function makeLog(limit: number, name: string, { sink, path = '' }: LogTarget = {}): Logger {
  const write = sink || path === '' || path === '-' ? (line: string) => process.stderr.write(line) : fileSink(path);
  const prefix = `isthmus ${printable(name, MAX_NAME)}[${process.pid}]`;
  const logger = Object.assign(
    (level: Level, line: string) => {
      if (LEVELS[level] > logger.limit) return;
      try {
        const text = printable(line);
        if (sink) sink(level, text);
        else write(`${prefix} ${level}: ${text}\n`);
      } catch {
        // There is no other way to report it.
      }
    },
    { limit },
  );
  return logger;
}

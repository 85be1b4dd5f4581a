/** What the program prints: lines, tables, units, errors. */

import { getBorderCharacters, table } from 'table';
import { ERRORS, type ErrorCode, IsthmusError, messageOf } from '../../base/errors.js';

/** Wrong arguments: one line, exit code 2. */
export class UsageError extends Error {}

/** Something went wrong that is the program's own matter and not the library's: exit code 1. */
export class CliError extends Error {
  /** What the reader should do next. */
  readonly action: string | undefined;

  constructor(message: string, action?: string) {
    super(message);
    this.action = action;
  }
}

const watched = new Set<NodeJS.WriteStream>();
let readerGone = false;

/** A stream whose reader may go away (`isthmus info | head -1`): that ends no program with a stack trace. */
function watch(stream: NodeJS.WriteStream): NodeJS.WriteStream {
  if (!watched.has(stream)) {
    watched.add(stream);
    stream.on('error', () => {
      if (stream === process.stdout) readerGone = true;
    });
  }
  return stream;
}

/** Print to standard output. */
export function say(text: string): void {
  watch(process.stdout).write(text);
}

/** Print to standard error. */
export function complain(text: string): void {
  watch(process.stderr).write(text);
}

/** Whether nobody reads standard output any more, so that there is no point in going on only to print. */
export function nobodyReads(): boolean {
  return readerGone;
}

/** Wait, bounded, until all that was printed has left: `process.exit` would cut it off. */
export async function flushOutput(): Promise<void> {
  const written = [...watched].map((stream) => new Promise<void>((resolve) => stream.write('', () => resolve())));
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, 2000);
  });
  await Promise.race([Promise.all(written), late]);
  clearTimeout(timer);
}

// ─── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface Column {
  readonly title: string;
  /** In characters; longer cells are wrapped. Without it: as wide as the widest cell. */
  readonly width?: number;
  readonly right?: boolean;
}

/** Text for a terminal: what others wrote may hold anything. */
export function printable(text: string): string {
  return text.replace(/\p{Cc}/gu, '?');
}

export const indent = (text: string): string => text.replace(/^(?=.)/gm, '  ');

function layOut(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const text = table(
    rows.map((row) => row.map(printable)),
    {
      border: getBorderCharacters('void'),
      columnDefault: { paddingLeft: 0, paddingRight: 2, wrapWord: true },
      columns: columns.map(({ width, right }) => ({
        alignment: right ? 'right' : 'left',
        ...(width === undefined ? {} : { width }),
      })),
      drawHorizontalLine: () => false,
    },
  );
  return text.replace(/ +$/gm, '');
}

/** All rows at once under their titles. */
export function renderTable(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  return layOut(columns, [columns.map(({ title }) => title), ...rows]);
}

/** One row of a table that is printed as it comes; all columns need a width. */
export function renderRow(columns: readonly Column[], row: readonly string[]): string {
  return layOut(columns, [row]);
}

// ─── screens ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Before the first {@link showInPlace}. */
export function clearScreen(): void {
  if (process.stdout.isTTY) say('\x1b[2J');
}

/** On a terminal in the place of the last one, as far as it fits; otherwise one block after the other. */
export function showInPlace(text: string): void {
  const { isTTY, rows } = process.stdout;
  if (!isTTY) {
    say(`${text}\n`);
    return;
  }
  const lines = text.split('\n').slice(0, Math.max(1, rows - 1));
  // Without wrapping, so that a line stays one.
  say(`\x1b[?7l\x1b[H${lines.map((line) => `${line}\x1b[K\n`).join('')}\x1b[J\x1b[?7h`);
}

export interface ScreenOptions<T> {
  readonly columns: readonly Column[];
  readonly cells: (row: T) => string[];
  readonly line: (row: T) => string;
  /** Whether its line can be printed. */
  readonly done: (row: T) => boolean;
  readonly silent: boolean;
}

/** Shows rows as they change: in a terminal as one table, elsewhere a line for each that is done. */
export class Screen<T> {
  readonly #options: ScreenOptions<T>;
  readonly #told = new Set<T>();
  #height = 0;

  constructor(options: ScreenOptions<T>) {
    this.#options = options;
  }

  show(rows: readonly T[]): void {
    const { columns, cells, line, done, silent } = this.#options;
    if (silent || nobodyReads()) return;
    if (process.stdout.isTTY) {
      const text = renderTable(columns, rows.map(cells));
      // Without wrapping, so that a line stays one.
      say(`${this.#height > 0 ? `\x1b[${this.#height}A\x1b[J` : ''}\x1b[?7l${text}\x1b[?7h`);
      this.#height = text.split('\n').length - 1;
      return;
    }
    for (const row of rows) {
      if (this.#told.has(row) || !done(row)) continue;
      this.#told.add(row);
      say(line(row));
    }
  }
}

// ─── units ───────────────────────────────────────────────────────────────────────────────────────────────────────────

function scaled(value: number, step: number, units: readonly string[]): string {
  let scale = 0;
  let rest = value;
  while (rest >= step && scale < units.length - 1) {
    rest /= step;
    scale++;
  }
  const digits = scale === 0 || rest >= 100 || Number.isInteger(rest) ? 0 : rest >= 10 ? 1 : 2;
  return `${rest.toFixed(digits)} ${units[scale]}`;
}

/** `64 KiB`: sizes of memory and messages. */
export const bytes = (count: number): string => scaled(count, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB']);

/** `1.25 GB/s`. */
export const rate = (perSecond: number): string => scaled(perSecond, 1000, ['B/s', 'kB/s', 'MB/s', 'GB/s', 'TB/s']);

/** `121 ns`, `34.2 µs`. */
export const duration = (nanoseconds: number): string => scaled(nanoseconds, 1000, ['ns', 'µs', 'ms', 's']);

/** `42 s`, `5 min`, `3 h`, `12 d`: how long something has been going on. */
export function elapsed(milliseconds: number): string {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

// ─── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const oneLine = (text: string): string => printable(text.replace(/\s*\n\s*/g, ' ').trim());

/** In one line. */
export const lineOf = (error: unknown): string => oneLine(messageOf(error));

/** `isthmus: message (CODE)`, and in a second line what to do next. */
export function describeError(error: unknown): string {
  if (error instanceof IsthmusError) {
    return `isthmus: ${oneLine(error.message)} (${error.code})\n  ${actionFor(error.code)}\n`;
  }
  if (error instanceof CliError) {
    return `isthmus: ${oneLine(error.message)}\n${error.action === undefined ? '' : `  ${error.action}\n`}`;
  }
  if (error instanceof Error && 'code' in error && 'syscall' in error) {
    return `isthmus: ${oneLine(error.message)}\n`;
  }
  // Nothing that can happen to a user: the stack helps whoever gets the report.
  return `isthmus: internal error: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`;
}

export function actionFor(code: ErrorCode): string {
  return ERRORS[code].action.replaceAll('`', "'");
}

/** What changes while a command runs: in place on a terminal, line by line elsewhere. */
import { printableLines } from '../../base/printable.js';
import { isOutputClosed, print, printControl } from './output.js';
import { type Column, renderTable } from './table.js';

/** Before the first {@link showInPlace}. */
export function clearScreen(): void {
  if (process.stdout.isTTY) printControl('\x1b[2J');
}

/** On a terminal, replace the text shown before, as far as it fits on the screen; elsewhere print it as a block. */
export function showInPlace(text: string): void {
  const { isTTY, rows } = process.stdout;
  if (!isTTY) {
    print(`${text}\n`);
    return;
  }
  const lines = printableLines(text)
    .split('\n')
    .slice(0, Math.max(1, rows - 1));
  // Without line wrapping, so that each line takes one row.
  printControl(`\x1b[?7l\x1b[H${lines.map((line) => `${line}\x1b[K\n`).join('')}\x1b[J\x1b[?7h`);
}

export interface ProgressOptions<T> {
  readonly columns: readonly Column[];
  readonly cells: (row: T) => string[];
  /** The line of a row, with its newline. */
  readonly line: (row: T) => string;
  /** Whether a row is final, so that its line can be printed. */
  readonly done: (row: T) => boolean;
  readonly silent: boolean;
}

/** Rows that change: a table that is redrawn on a terminal; elsewhere a line for each row once it is final. */
export class ProgressTable<T> {
  readonly #options: ProgressOptions<T>;
  readonly #printed = new Set<T>();
  /** Lines of the table on the terminal. */
  #height = 0;

  constructor(options: ProgressOptions<T>) {
    this.#options = options;
  }

  show(rows: readonly T[]): void {
    const { columns, cells, line, done, silent } = this.#options;
    if (silent || isOutputClosed()) return;
    if (process.stdout.isTTY) {
      const text = printableLines(renderTable(columns, rows.map(cells)));
      // Without line wrapping, so that each line takes one row.
      printControl(`${this.#height > 0 ? `\x1b[${this.#height}A\x1b[J` : ''}\x1b[?7l${text}\x1b[?7h`);
      this.#height = text.split('\n').length - 1;
      return;
    }
    for (const row of rows) {
      if (this.#printed.has(row) || !done(row)) continue;
      this.#printed.add(row);
      print(line(row));
    }
  }
}

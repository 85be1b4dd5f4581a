/** Text for a terminal: columns and indentation. */
import { getBorderCharacters, table } from 'table';
import { printable } from '../../base/printable.js';

export interface Column {
  readonly title: string;
  /** In characters; longer cells are wrapped. Without it the column is as wide as its widest cell. */
  readonly width?: number;
  readonly right?: boolean;
}

/** Two spaces before each line that is not empty. */
export const indent = (text: string): string => text.replace(/^(?=.)/gm, '  ');

function layOut(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  const text = table(
    // Before the layout: what a terminal does not show has no width.
    rows.map((row) => row.map((cell) => printable(cell))),
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

/** All rows under their titles. */
export function renderTable(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  return layOut(columns, [columns.map(({ title }) => title), ...rows]);
}

/** One row of a table whose rows are printed one by one; each column needs a width. */
export function renderRow(columns: readonly Column[], row: readonly string[]): string {
  return layOut(columns, [row]);
}

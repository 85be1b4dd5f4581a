/** Standard output and standard error of the program. Text from outside is made printable here. */
import { printableJson, printableLines } from '../../base/printable.js';

const watched = new Set<NodeJS.WriteStream>();
let outputClosed = false;

/** An error of a stream must not end the program: its reader may close it at any time (`isthmus info | head -1`). */
function watch(stream: NodeJS.WriteStream): NodeJS.WriteStream {
  if (!watched.has(stream)) {
    watched.add(stream);
    stream.on('error', () => {
      if (stream === process.stdout) outputClosed = true;
    });
  }
  return stream;
}

/** Write lines to standard output. */
export function print(text: string): void {
  watch(process.stdout).write(printableLines(text));
}

/** Write to standard output what a terminal is to act on. @param text no text from outside */
export function printControl(text: string): void {
  watch(process.stdout).write(text);
}

/** Write lines to standard error. */
export function printError(text: string): void {
  watch(process.stderr).write(printableLines(text));
}

/** One value as indented JSON. */
export const printJson = (value: unknown): void => printControl(`${printableJson(JSON.stringify(value, null, 2))}\n`);

/** One value as one line of JSON. */
export const printJsonLine = (value: unknown): void => printControl(`${printableJson(JSON.stringify(value))}\n`);

/** Whether the reader of standard output has closed it, so that a command that only prints can end. */
export function isOutputClosed(): boolean {
  return outputClosed;
}

/** Wait for at most 2 s until all output is written: `process.exit` would discard the rest. */
export async function flushOutput(): Promise<void> {
  const written = [...watched].map((stream) => new Promise<void>((resolve) => stream.write('', () => resolve())));
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, 2000);
  });
  await Promise.race([Promise.all(written), late]);
  clearTimeout(timer);
}

/** The version of this package. */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

let known: string | undefined;

/** @returns `unknown` if the code was bundled into another package */
export function version(): string {
  known ??= read() ?? 'unknown';
  return known;
}

function read(): string | undefined {
  try {
    // The chunks of the bundle lie in dist/ (native.ts).
    const file = join(dirname(fileURLToPath(import.meta.url)), '..', 'package.json');
    const { name, version } = JSON.parse(readFileSync(file, 'utf8')) as { name?: unknown; version?: unknown };
    return name === 'isthmus' && typeof version === 'string' ? version : undefined;
  } catch {
    return undefined;
  }
}

/** Which Isthmus this is. */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

let known: string | undefined;

/** Version of the package, `unknown` where the code was bundled into something else. */
export function version(): string {
  known ??= read() ?? 'unknown';
  return known;
}

function read(): string | undefined {
  try {
    // The bundle lies in dist/, as mapper.ts has it.
    const file = join(dirname(fileURLToPath(import.meta.url)), '..', 'package.json');
    const { name, version } = JSON.parse(readFileSync(file, 'utf8')) as { name?: unknown; version?: unknown };
    return name === 'isthmus' && typeof version === 'string' ? version : undefined;
  } catch {
    return undefined;
  }
}

/** Runs programs, and caches what they made. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs';
import { join } from 'node:path';

/** The checkout. */
export const root = process.env['ISTHMUS_ROOT'] ?? process.cwd();
/** Folder of the cache. */
export const cache = join(root, '.cache/vm');
export const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);

/** Entries unused for this long are removed when another one is made, in milliseconds. */
const OLD = 24 * 3600_000;

/**
 * The environment of this process without the variables that npm sets for its scripts: another npm would use this
 * folder.
 */
const env: NodeJS.ProcessEnv = {};
for (const [name, value] of Object.entries(process.env)) if (!/^(npm_|INIT_CWD$)/i.test(name)) env[name] = value;

/** Runs a program to its end, within a limit. @returns its output, which is part of the error if it fails */
export function run(command: string, args: readonly string[], seconds: number, cwd = root): string {
  const result = spawnSync(command, args, {
    cwd,
    env,
    encoding: 'utf8',
    timeout: seconds * slowness * 1000,
    maxBuffer: 64 << 20,
  });
  if (result.error) throw new Error(`${command}: ${result.error.message}`);
  if (result.status !== 0) {
    throw new Error(`${[command, ...args].join(' ')}: ${result.status}\n${result.stdout}${result.stderr}`);
  }
  return result.stdout;
}

/** Path of a program, also where only root's PATH leads. */
export function which(program: string): string | undefined {
  return `${process.env['PATH']}:/usr/sbin:/sbin`
    .split(':')
    .map((folder) => join(folder, program))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

export function hash(...parts: (string | Buffer)[]): string {
  const sum = createHash('sha256');
  for (const part of parts) sum.update(part).update('\0');
  return sum.digest('hex').slice(0, 16);
}

/**
 * Makes a file or folder once for each content of its sources.
 * @param make creates it at this path, from which it is renamed
 * @returns its path
 */
export function cached(name: string, key: string, make: (path: string) => void): string {
  const path = join(cache, `${name}-${key}`);
  if (existsSync(path)) {
    const now = new Date();
    utimesSync(path, now, now);
    return path;
  }
  mkdirSync(cache, { recursive: true });
  for (const other of readdirSync(cache)) {
    const place = join(cache, other);
    if (other.startsWith(`${name}-`) && Date.now() - statSync(place).mtimeMs > OLD) {
      rmSync(place, { recursive: true, force: true });
    }
  }
  const partial = `${path}.${process.pid}`;
  rmSync(partial, { recursive: true, force: true });
  make(partial);
  renameSync(partial, path);
  return path;
}

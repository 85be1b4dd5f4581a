/** Programs of others that are run for each measurement. */
import { execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';

/** A program's path, or undefined where it is not installed. */
export function find(program: string): string | undefined {
  try {
    return execFileSync('sh', ['-c', `command -v ${program}`], { encoding: 'utf8' }).trim() || undefined;
  } catch {
    return undefined;
  }
}

/** Ends what hangs. In milliseconds. */
const LIMIT = 60_000;

/** @returns what it printed @throws with what it complained about */
export function output(program: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(
      program,
      args,
      { env: { ...process.env, ...env }, timeout: LIMIT, encoding: 'utf8' },
      (error, out, complaint) => {
        if (error) reject(new Error(`${program} ${args.join(' ')}: ${complaint.trim() || error.message}`));
        else resolve(out);
      },
    );
  });
}

/** Run a program while something else goes on, and end it after that. */
export async function beside<T>(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  run: () => Promise<T>,
): Promise<T> {
  const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: 'ignore' });
  const ended = once(child, 'exit');
  try {
    return await run();
  } finally {
    child.kill();
    await ended;
  }
}

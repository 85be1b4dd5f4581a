/** Third-party programs that are run for each measurement. */
import { execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';

/** The path of a program; undefined: it is not installed. */
export function find(program: string): string | undefined {
  try {
    return execFileSync('sh', ['-c', `command -v ${program}`], { encoding: 'utf8' }).trim() || undefined;
  } catch {
    return undefined;
  }
}

/** A program that hangs is ended after this time. */
const PROGRAM_TIMEOUT_MS = 60_000;

/** @returns the standard output @throws an Error with the standard error */
export function output(program: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(
      program,
      args,
      { env: { ...process.env, ...env }, timeout: PROGRAM_TIMEOUT_MS, encoding: 'utf8' },
      (error, out, complaint) => {
        if (error) reject(new Error(`${program} ${args.join(' ')}: ${complaint.trim() || error.message}`));
        else resolve(out);
      },
    );
  });
}

/** Run a program as long as `run` takes, and then end it. */
export async function during<T>(
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

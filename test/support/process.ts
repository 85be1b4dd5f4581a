/**
 * Other processes in a test, called like objects. A child is a program of test/children/, or the test's own bundle, started
 * again with a role.
 *
 * ```ts
 * const child = Child.start(program('shm'), 'peer', { regions: path });
 * const same = Child.start(import.meta.url, 'server', { regions: path });
 * await child.call('send', 3);          // the answer of `serve({ send(n) { … } })` in the child
 * await child.event('ready');           // what `tell('ready', …)` in the child says
 * ```
 *
 * Every wait has a limit, and no child outlives the test.
 */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Test } from 'uvu';
import { type Call, Callee, LIMIT, type Said } from './calls.js';

export { play, role, roleOptions, serve, tell } from './calls.js';

/**
 * `test` of uvu. ISTHMUS_TEST_ONLY: a regular expression that the names of tests must match; ISTHMUS_TEST_TIMES=1:
 * print how long each took, on standard error.
 */
export function chosen<T extends Test>(test: T): T {
  const { ISTHMUS_TEST_ONLY: only, ISTHMUS_TEST_TIMES: times } = process.env;
  const register = (name: string, body: () => Promise<void>) => {
    if (only && !new RegExp(only).test(name)) return;
    test(name, async () => {
      const start = performance.now();
      try {
        await body();
      } finally {
        if (times) process.stderr.write(`${((performance.now() - start) / 1000).toFixed(2)} s  ${name}\n`);
      }
    });
  };
  return Object.assign(register, test) as unknown as T;
}

/**
 * The bundle of test/children/NAME.ts, for `Child.start` and `new Worker`. scripts/dev.mjs reads from these calls which test
 * starts which program: the name must be a literal.
 */
export function program(name: string): URL {
  return pathToFileURL(join(process.env['ISTHMUS_TEST_BUILD'] ?? '', `children-${name}.mjs`));
}

export interface StartOptions {
  /** A command that runs the program: `['unshare', '--pid', '--fork']`. */
  readonly under?: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** Arguments for Node itself. */
  readonly node?: readonly string[];
  /** Another binary of Node than the one that runs the tests. */
  readonly binary?: string;
  /** Its working directory, in place of that of the test. */
  readonly cwd?: string;
}

const children = new Set<Child>();
process.on('exit', () => {
  for (const child of children) child.process.kill('SIGKILL');
});

/** Kill all children that are left: for `test.after` and `test.after.each`. */
export async function endChildren(): Promise<void> {
  await Promise.all([...children].map((child) => child.kill('SIGKILL')));
}

export class Child extends Callee {
  readonly process: ChildProcess;
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;

  private constructor(process: ChildProcess, what: string) {
    super();
    this.process = process;
    children.add(this);
    for (const stream of [process.stdout, process.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.output += text;
      });
    }
    process.on('message', (message: Said) => this.received(message));
    process.on('error', () => {}); // Calls to a child that is gone end by their own limit.
    this.exited = once(process, 'exit').then(([code, signal]) => {
      children.delete(this);
      this.lost(`${what} ended (${signal ?? code})`);
      return { code, signal };
    });
  }

  /**
   * Start a bundle with a role.
   * @param module {@link program}, or `import.meta.url` of the test
   */
  static start(module: string | URL, role: string, options: unknown = {}, start: StartOptions = {}): Child {
    const line = [
      ...(start.under ?? []),
      start.binary ?? process.execPath,
      '--enable-source-maps',
      ...(start.node ?? []),
      fileURLToPath(module),
      `role:${role}`,
      JSON.stringify(options),
    ];
    const child = spawn(line[0] as string, line.slice(1), {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      env: { ...process.env, ...start.env },
      ...(start.cwd === undefined ? {} : { cwd: start.cwd }),
    });
    // Only waiting for a child keeps the test alive, not its existence.
    child.unref();
    child.channel?.unref();
    (child.stdout as unknown as { unref(): void }).unref();
    (child.stderr as unknown as { unref(): void }).unref();
    return new Child(child, `the child '${role}'`);
  }

  /** Start a program without handlers: only its output and its end are observed. @param as another user, for root */
  static run(
    program: string,
    args: readonly string[] = [],
    env: NodeJS.ProcessEnv = {},
    as: Pick<SpawnOptions, 'uid' | 'gid'> = {},
  ): Child {
    const options: SpawnOptions = { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env }, ...as };
    return new Child(spawn(process.execPath, [program, ...args], options), program);
  }

  /** Wait until it has printed text that matches. */
  printed(pattern: RegExp, seconds = LIMIT): Promise<RegExpExecArray> {
    const look = async () => {
      for (;;) {
        const found = pattern.exec(this.output);
        if (found) return found;
        if (this.process.exitCode !== null || this.process.signalCode !== null) throw new Error(this.output);
        await pause(10);
      }
    };
    return this.limited(String(pattern), look(), seconds);
  }

  get pid(): number {
    return this.process.pid as number;
  }

  protected override post(call: Call, failed: (error: Error) => void): void {
    this.process.send(call, (error) => error && failed(error));
  }

  /** It ends by itself. */
  async ended(seconds = LIMIT): Promise<{ code: number | null; signal: NodeJS.Signals | null }> {
    return this.limited('the end', this.exited, seconds);
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    // A stopped process handles no other signals.
    this.process.kill(signal);
    if (signal === 'SIGKILL' || signal === 'SIGTERM') await this.limited('the end', this.exited);
  }
}

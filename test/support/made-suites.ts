/** The runner of the tests on test files that a test makes, in a checkout with nothing else. */
import { spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';

const root = resolve(process.env['ISTHMUS_ROOT'] ?? '.');

/** A file with one test, which passes. */
export const ONE_TEST = "import { test } from 'uvu';\ntest('one', () => {});\ntest.run();\n";

export interface MadeRun {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Names that the run left in the checkout. */
  readonly left: readonly string[];
}

/**
 * @param files paths below test/, and texts; `suites.mjs` may be left out
 * @param args of the script
 * @param deaf the reader of its output is gone after the first bytes
 * @param script `test` or `repeat`
 */
export async function runMade(
  files: Readonly<Record<string, string>>,
  args: readonly string[] = [],
  env: NodeJS.ProcessEnv = {},
  deaf = false,
  script = 'test',
): Promise<MadeRun> {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-suites-'));
  try {
    cpSync(join(root, 'scripts'), join(folder, 'scripts'), { recursive: true });
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
    for (const [path, text] of Object.entries({ 'suites.mjs': 'export const suites = {};', ...files })) {
      mkdirSync(dirname(join(folder, 'test', path)), { recursive: true });
      writeFileSync(join(folder, 'test', path), text);
    }
    const before = readdirSync(folder);
    const child = spawn(process.execPath, [`scripts/${script}.mjs`, ...args], {
      cwd: folder,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const said = { stdout: '', stderr: '' };
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].setEncoding('utf8').on('data', (text: string) => {
        said[name] += text;
        if (deaf) child[name].destroy();
      });
    }
    const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((ended, failed) => {
      child.on('error', failed).on('close', (...how) => ended(how));
    });
    return { code, signal, ...said, left: readdirSync(folder).filter((name) => !before.includes(name)) };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

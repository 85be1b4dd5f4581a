/**
 * Other users of the machine: programs with a uid, a gid and supplementary groups of their own, started by root with
 * setpriv(1) of util-linux. Node's `spawn({ uid, gid })` would leave them root's supplementary groups.
 *
 * ```ts
 * const [a, b] = [newUser(), newUser([GROUP])];
 * const child = a.start('user', 'user');               // test/children/user.ts, with a home and a run folder of a
 * const { status } = b.run(process.execPath, cli, 'ps');
 * ```
 *
 * The users need no account. The checkout may lie where only its owner may read: the programs run from a copy.
 */
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { chownSync, cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Child } from './process.js';

const root = resolve(process.env['ISTHMUS_ROOT'] ?? '.');

/** Why programs cannot run as other users here; undefined: they can. */
export function whyNoUsers(): string | undefined {
  if (process.getuid?.() !== 0) return 'only root can run programs as other users';
  const { status, error, stderr } = spawnSync('setpriv', [
    ...as({ uid: 61_001, gid: 61_001, groups: [61_002] }),
    'true',
  ]);
  if (status === 0) return undefined;
  return `setpriv (util-linux) runs nothing as another user: ${error?.message ?? stderr.toString().trim()}`;
}

interface Identity {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

/** Arguments of setpriv before those of the program. */
const as = ({ uid, gid, groups }: Identity) => [
  `--reuid=${uid}`,
  `--regid=${gid}`,
  groups.length > 0 ? `--groups=${groups.join()}` : '--clear-groups',
  '--no-new-privs',
  '--',
];

/** The names in node_modules of a package and of all that it needs. */
function* packages(name: string, seen = new Set<string>()): Generator<string> {
  const manifest = join(root, 'node_modules', name, 'package.json');
  if (seen.has(name) || !existsSync(manifest)) return;
  seen.add(name);
  yield name;
  const { dependencies = {} } = JSON.parse(readFileSync(manifest, 'utf8')) as { dependencies?: Record<string, string> };
  for (const each of Object.keys(dependencies)) yield* packages(each, seen);
}

let folder: string | undefined;
process.on('exit', removeUsers);

/** Remove the copy and the homes of all users. */
export function removeUsers(): void {
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true });
  folder = undefined;
}

/** A folder that every user can read: the package, the bundles of the tests in `tests/`, and the binary of Node. */
function shared(): string {
  if (folder !== undefined) return folder;
  const made = mkdtempSync(join(tmpdir(), 'users-'));
  folder = made;
  const copy = (from: string, to = from) =>
    cpSync(join(root, from), join(made, to), { recursive: true, dereference: true });
  // The native addon finds the root of the package one folder above the running file.
  for (const name of ['package.json', 'dist', 'build/Release/isthmus.node', 'prebuilds']) {
    if (existsSync(join(root, name))) copy(name);
  }
  for (const name of new Set(['mqtt', 'node-gyp-build', 'uvu'].flatMap((each) => [...packages(each)]))) {
    copy(join('node_modules', name));
  }
  const bundles = process.env['ISTHMUS_TEST_BUILD'] ?? '';
  for (const name of readdirSync(bundles)) {
    if (/^children-.*\.mjs$/.test(name)) cpSync(join(bundles, name), join(made, 'tests', name));
  }
  cpSync(process.execPath, join(made, 'node'));
  // Whatever the umask of this process is.
  spawnSync('chmod', ['-R', 'a+rX', made]);
  const reached = spawnSync('setpriv', [
    ...as({ uid: 61_001, gid: 61_001, groups: [] }),
    join(made, 'node'),
    '--version',
  ]);
  if (reached.status !== 0) {
    throw new Error(`other users cannot reach ${made} (set TMPDIR to a folder that they can): ${reached.stderr}`);
  }
  return made;
}

let users = 0;
/** Small numbers: a container may have only 65,536 of them. Another run of the tests at the same time has others. */
const newNumber = () => 20_000 + (process.pid % 400) * 100 + users++;

/** The gid of a group that no process is in yet. */
export const newGroup = newNumber;

export class User implements Identity {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  /** Its own folder, mode 0700. */
  readonly home: string;
  readonly env: NodeJS.ProcessEnv;

  /** @param groups supplementary groups; the uid and the gid are new */
  constructor(groups: readonly number[] = []) {
    this.uid = newNumber();
    this.gid = this.uid;
    this.groups = groups;
    this.home = join(shared(), `home-${this.uid}`);
    const [run, temporary] = [join(this.home, 'r'), join(this.home, 't')];
    for (const path of [this.home, run, temporary]) {
      mkdirSync(path, { mode: 0o700 });
      chownSync(path, this.uid, this.gid);
    }
    this.env = { HOME: this.home, XDG_RUNTIME_DIR: run, TMPDIR: temporary, USER: '', LOGNAME: '' };
  }

  /** A program of test/children, in a role. */
  start(program: string, role: string, options: unknown = {}, env: NodeJS.ProcessEnv = {}): Child {
    const bundle = pathToFileURL(join(shared(), 'tests', `children-${program}.mjs`));
    return Child.start(bundle, role, options, {
      under: ['setpriv', ...as(this)],
      binary: join(shared(), 'node'),
      cwd: this.home,
      env: { ...this.env, ...env },
    });
  }

  /** Run a command to its end. `node` is the Node of the tests, and `isthmus` the command line of the package. */
  run(command: string, args: readonly string[] = [], env: NodeJS.ProcessEnv = {}): SpawnSyncReturns<string> {
    const node = join(shared(), 'node');
    const line =
      command === 'isthmus'
        ? [node, join(shared(), 'dist/cli.js'), ...args]
        : [command === 'node' ? node : command, ...args];
    return spawnSync('setpriv', [...as(this), ...line], {
      cwd: this.home,
      env: { ...process.env, ...this.env, ...env },
      encoding: 'utf8',
      timeout: 60_000,
    });
  }
}

/**
 * Prepares a checkout: dependencies, native part, types of the core's exports, Wasm core, host bundle, declarations, and
 * `npx isthmus`.
 *
 * The script runs before `npm start` and `npm test`, also on a fresh clone: it uses only Node's builtins until the
 * dependencies are installed. A hash of the inputs of each step lies in build/.stamps; a step runs only when its inputs
 * have changed. If no input has changed, the script prints nothing and takes a tenth of a second. `--force` repeats every
 * step except the dependencies.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const at = (path) => join(root, path);
const force = process.argv.includes('--force');
const wasmTarget = process.env.ISTHMUS_WASM === 'debug' ? 'debug' : 'release';

/** A step has failed; `output` is everything that its program printed. */
class StepError extends Error {
  constructor(message, output) {
    super(message);
    this.output = output;
  }
}

// ── Inputs and stamps ────────────────────────────────────────────────────────────────────────────────────────────────

/** Every file below the paths (files or folders; missing ones are skipped), sorted. */
function* filesBelow(paths) {
  for (const path of paths) {
    const stat = statSync(at(path), { throwIfNoEntry: false });
    if (!stat) continue;
    if (stat.isFile()) yield path;
    else
      yield* filesBelow(
        readdirSync(at(path))
          .sort()
          .map((name) => `${path}/${name}`),
      );
  }
}

/** A hash of the names and contents of files. */
function digest(paths, ...salt) {
  const hash = createHash('sha256').update(JSON.stringify(salt));
  for (const path of filesBelow(paths)) {
    const content = readFileSync(at(path));
    hash.update(`\0${path}\0${content.length}\0`).update(content);
  }
  return hash.digest('hex');
}

/** The stamp of the dependencies lies in node_modules, so that both are removed together. */
const stampFile = (name) => (name === 'dependencies' ? at('node_modules/.isthmus') : at(`build/.stamps/${name}`));

function stamped(name, key) {
  try {
    return readFileSync(stampFile(name), 'utf8') === key;
  } catch {
    return false;
  }
}

function stamp(name, key) {
  mkdirSync(dirname(stampFile(name)), { recursive: true });
  writeFileSync(stampFile(name), key);
}

// ── Programs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Run a program; its output is printed only if the program fails. */
async function run(command, args, options = {}) {
  const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], ...options });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
  }
  const [code, signal] = await new Promise((resolve, reject) => {
    child.on('error', (error) => reject(new StepError(`${command}: ${error.message}`, output)));
    child.on('close', (...ended) => resolve(ended));
  });
  if (code !== 0) throw new StepError(`${[command, ...args].join(' ')} ended with ${signal ?? `code ${code}`}`, output);
}

const node = (args, options) => run(process.execPath, args, options);

/**
 * Node's headers, if they are installed beside the running binary: otherwise node-gyp downloads them. The headers of any
 * version serve, because the native part uses only Node-API.
 */
function headers() {
  if (process.env.npm_config_nodedir) return [];
  for (const folder of [join(dirname(process.execPath), '..'), '/usr', '/usr/local']) {
    if (existsSync(join(folder, 'include/node/node_api.h'))) return [`--nodedir=${folder}`];
  }
  return [];
}

// ── The steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

const PACKAGE = ['package-lock.json'];

const STEPS = [
  {
    name: 'dependencies',
    key: () => digest(PACKAGE),
    ready: () => existsSync(at('node_modules/.package-lock.json')),
    /** The dependencies were installed by hand (`npm ci`, `npm install`) after the lock file changed. */
    accept: () => statSync(at('node_modules/.package-lock.json')).mtimeMs >= statSync(at('package-lock.json')).mtimeMs,
    // Without scripts: the only install script is that of this package, and it builds what the next step builds.
    run: () => run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']),
  },
  {
    name: 'native part',
    key: () => digest(['binding.gyp', 'native', 'node_modules/node-addon-api/package.json'], process.arch),
    ready: () => existsSync(at('build/Release/isthmus.node')),
    applies: () => (existsSync(at('binding.gyp')) ? undefined : 'there is no binding.gyp'),
    platform: 'linux',
    optional: true,
    async run() {
      // Not `rebuild`, which removes build/ with the output of the other steps.
      try {
        await node(['node_modules/node-gyp/bin/node-gyp.js', 'configure', 'build', ...headers()]);
      } catch (error) {
        // An older or a prebuilt addon must not take its place unnoticed.
        rmSync(at('build/Release/isthmus.node'), { force: true });
        rmSync(at('prebuilds'), { recursive: true, force: true });
        throw error;
      }
    },
  },
  {
    name: 'types of the core',
    key: () =>
      digest([
        'assembly',
        'bench/assembly',
        'asconfig.json',
        'scripts/exports.mjs',
        'node_modules/assemblyscript/package.json',
      ]),
    ready: () =>
      ['host/core/exports.ts', 'host/core/layout.ts', 'bench/micro/exports.ts'].every((path) => existsSync(at(path))),
    applies: () => (existsSync(at('assembly/index.ts')) ? undefined : 'there is no assembly/index.ts'),
    async run() {
      // The files are committed: this writes only after a change of the core.
      for (const path of await (await import('./exports.mjs')).update()) console.log(`setup: wrote ${path}`);
    },
  },
  {
    name: `wasm core (${wasmTarget})`,
    key: () => digest(['assembly', 'asconfig.json', 'node_modules/assemblyscript/package.json']),
    ready: () => existsSync(at(`build/wasm/core.${wasmTarget}.wasm`)),
    applies: () => (existsSync(at('assembly/index.ts')) ? undefined : 'there is no assembly/index.ts'),
    run: () => node(['node_modules/assemblyscript/bin/asc.js', '--target', wasmTarget]),
  },
  {
    name: 'host bundle',
    key: () =>
      digest(
        ['host', 'test/support/hosts.ts', `build/wasm/core.${wasmTarget}.wasm`, 'scripts/build.mjs', ...PACKAGE],
        wasmTarget,
      ),
    ready: () => missing(['host/index.ts', 'dist/index.js'], ['host/cli/main.ts', 'dist/cli.js']),
    async run() {
      const { build } = await import('./build.mjs');
      return (await build()).skipped;
    },
  },
  {
    name: 'declarations',
    key: () =>
      digest([
        'host',
        'test/support/hosts.ts',
        'tsconfig.json',
        'tsconfig.types.json',
        'node_modules/typescript/package.json',
      ]),
    ready: () => missing(['host/index.ts', 'dist/types/host/index.d.ts']),
    applies: () => (existsSync(at('host/index.ts')) ? undefined : 'there is no host/index.ts'),
    async run() {
      rmSync(at('dist/types'), { recursive: true, force: true });
      // `npm run typecheck` checks the types; a type error must not keep a program from starting.
      await node(['node_modules/typescript/bin/tsc', '-p', 'tsconfig.types.json', '--noCheck']);
    },
  },
  {
    name: 'npx isthmus',
    key: () => '1',
    ready: () => !existsSync(at('dist/cli.js')) || linked(),
    run() {
      const link = at('node_modules/.bin/isthmus');
      rmSync(link, { force: true });
      symlinkSync('../../dist/cli.js', link);
    },
    platform: 'linux',
    quiet: true,
  },
];

/** Whether the output of every existing source is there. */
function missing(...pairs) {
  return pairs.every(([source, output]) => !existsSync(at(source)) || existsSync(at(output)));
}

/** The link serves scripts in package.json; `npx` itself takes the package's `bin`. */
function linked() {
  const link = at('node_modules/.bin/isthmus');
  return lstatSync(link, { throwIfNoEntry: false })?.isSymbolicLink() && readlinkSync(link) === '../../dist/cli.js';
}

const here = (step) => step.platform === undefined || step.platform === process.platform;

function fresh(step) {
  if (!here(step)) return true;
  if (!step.ready()) return false;
  if (stamped(step.name, step.key())) return true;
  if (!step.accept?.()) return false;
  stamp(step.name, step.key());
  return true;
}

/** Perform one step if its inputs have changed. @throws StepError if the step fails and is not optional */
async function carryOut(step) {
  if (force && step.name !== 'dependencies' ? !here(step) : fresh(step)) return;
  const reason = step.applies?.();
  if (reason) {
    console.log(`setup: ${step.name}: left out, ${reason}`);
    return;
  }
  const start = performance.now();
  const say = (what) => {
    if (!step.quiet) console.log(`setup: ${step.name}: ${what}, ${((performance.now() - start) / 1000).toFixed(1)} s`);
  };
  try {
    // The hash from before the step: a file that changes during the step counts as changed at the next run.
    const key = step.key();
    const skipped = (await step.run()) ?? [];
    say('done');
    for (const what of skipped) console.log(`setup: ${step.name}: left out ${what}`);
    if (skipped.length === 0) stamp(step.name, key);
  } catch (error) {
    say(step.optional ? 'FAILED; without it tcp and loop work, regions do not' : 'FAILED');
    process.stderr.write(
      `${error.output ?? ''}\n${error.output === undefined ? error.stack : error.message}\n`.trimStart(),
    );
    if (!step.optional) throw error;
  }
}

/** The dependencies first, then independent steps side by side. @returns whether every step succeeded */
async function carryOutAll() {
  const chain = async (...names) => {
    for (const name of names) await carryOut(STEPS.find((step) => step.name.startsWith(name)));
  };
  try {
    await chain('dependencies');
  } catch {
    return false;
  }
  const types = chain('types of the core');
  const ended = await Promise.allSettled([
    chain('native part'),
    types.then(() => chain('wasm core', 'host bundle', 'npx isthmus')),
    types.then(() => chain('declarations')),
  ]);
  return ended.every(({ status }) => status === 'fulfilled');
}

// ── One at a time ────────────────────────────────────────────────────────────────────────────────────────────────────

const LOCK = at('.cache/setup.lock');
const LOCK_LIMIT_MS = 10 * 60_000;

function holder() {
  try {
    return Number(readFileSync(join(LOCK, 'pid'), 'utf8'));
  } catch {
    return undefined;
  }
}

function alive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/** Wait for another setup of this checkout, unless its process has ended or holds the lock too long. */
async function lock() {
  mkdirSync(dirname(LOCK), { recursive: true });
  const end = Date.now() + LOCK_LIMIT_MS;
  for (let told = false; ; await sleep(100)) {
    try {
      mkdirSync(LOCK);
      writeFileSync(join(LOCK, 'pid'), String(process.pid));
      process.on('exit', () => rmSync(LOCK, { recursive: true, force: true }));
      for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => process.exit(1));
      return;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    const pid = holder();
    const age = Date.now() - (statSync(LOCK, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    if (Date.now() > end || age > LOCK_LIMIT_MS || (pid === undefined ? age > 2_000 : !alive(pid))) {
      rmSync(LOCK, { recursive: true, force: true });
    } else if (!told) {
      console.log(`setup: waits for another setup of this checkout (process ${pid ?? 'unknown'})`);
      told = true;
    }
  }
}

if (force || !STEPS.every(fresh)) {
  await lock();
  if (!(await carryOutAll())) process.exit(1);
}

/**
 * The package as users get it: packed, installed into an empty project in every way that npm offers, imported,
 * required, called from the command line; its types; and the snippets of the README.
 *
 * The info string of a code block of README.md, after the language, tells how it is tested:
 *
 * - `ts` or `js` alone: a `ts` block must compile against the package's types;
 * - `run`: it must also end by itself, within 30 s and with exit code 0;
 * - `background`: it is started before the next block that runs and ended after that one;
 * - `fragment`: it is not tested.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, delimiter, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { stop, transform } from 'esbuild';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { timebox } from '../support/timebox.js';

const root = process.env['ISTHMUS_ROOT'] ?? process.cwd();
const work = mkdtempSync(join(tmpdir(), 'isthmus-package-'));
const test = suite('package');
const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);

/** The environment of this process without the variables that npm sets for its scripts. */
const env: NodeJS.ProcessEnv = {};
for (const [name, value] of Object.entries(process.env)) {
  if (!/^(npm_|INIT_CWD$|ISTHMUS_)/i.test(name)) env[name] = value;
}
// The snippets of the README meet over a region of their own, not over the user's region.
env['PSP_SHM_NAME'] = `test-package-${process.pid}`;
// The Node that runs the tests also runs npm.
env['PATH'] = [dirname(process.execPath), ...(env['PATH'] ?? '').split(delimiter)]
  .filter((folder) => !folder.includes('node_modules'))
  .join(delimiter);
// Without the headers node-gyp would download them.
for (const folder of [join(dirname(process.execPath), '..'), '/usr', '/usr/local']) {
  if (!existsSync(join(folder, 'include/node/node_api.h'))) continue;
  env['npm_config_nodedir'] = folder;
  break;
}

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly all: string;
}

function run(command: string, args: readonly string[], cwd: string, seconds = 60): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd,
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: seconds * 1000 * slowness,
    });
    let stdout = '';
    let all = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
      all += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      all += text;
    });
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, stdout, all: signal ? `${all}\nended by ${signal}` : all }));
  });
}

async function good(command: string, args: readonly string[], cwd: string, seconds?: number): Promise<Ended> {
  const ended = await run(command, args, cwd, seconds);
  if (ended.code !== 0) throw new Error(`${command} ${args.join(' ')}: exit code ${ended.code}\n${ended.all}`);
  return ended;
}

/** An empty project. */
function project(name: string): string {
  const folder = join(work, name);
  mkdirSync(folder);
  writeFileSync(join(folder, 'package.json'), '{ "private": true }\n');
  writeFileSync(
    join(folder, 'check.mjs'),
    `const imported = await import('isthmus');
     if (typeof imported.Runtime?.create !== 'function') throw new Error('import: no Runtime in ' + Object.keys(imported));
     console.log(Object.keys(imported).sort().join(' '));\n`,
  );
  writeFileSync(
    join(folder, 'check.cjs'),
    `const required = require('isthmus');
     if (typeof required.Runtime?.create !== 'function') throw new Error('require: no Runtime in ' + Object.keys(required));
     console.log(Object.keys(required).sort().filter((name) => name !== '__esModule').join(' '));\n`,
  );
  // Prints the path of the native part, if it loads.
  writeFileSync(
    join(folder, 'native.cjs'),
    `const { dirname } = require('node:path');
     const folder = dirname(require.resolve('isthmus/package.json'));
     const build = require('node-gyp-build');
     if (typeof build(folder).map !== 'function') throw new Error('no map() in the native part');
     console.log(build.path(folder).slice(folder.length + 1));\n`,
  );
  return folder;
}

const npm = (cwd: string, ...args: string[]) => good('npm', [...args, '--no-audit', '--no-fund'], cwd, 240);

/** Both ways to load the library, and the command line. */
async function usable(folder: string): Promise<void> {
  const imported = await good(process.execPath, ['check.mjs'], folder);
  const required = await good(process.execPath, ['check.cjs'], folder);
  assert.is(required.stdout, imported.stdout, 'import and require give the same names');
  const help = await good('npx', ['--no-install', 'isthmus', '--help'], folder);
  assert.match(help.stdout, /isthmus/);
}

const linux = process.platform === 'linux';
let tarball = '';
/** The project that the other tests use. */
let installed = '';

test.before(async () => {
  await npm(root, 'pack', '--pack-destination', work);
  const name = readdirSync(work).find((file) => file.endsWith('.tgz'));
  if (!name) throw new Error('npm pack made no tarball');
  tarball = join(work, name);
  installed = project('installed');
  await npm(installed, 'install', tarball);
});

test.after(async () => {
  await stop();
  rmSync(work, { recursive: true, force: true });
});

test(
  'the tarball contains the expected files and nothing else',
  timebox(60, async () => {
    const { stdout } = await good('tar', ['-tzf', tarball], work);
    const files = stdout.trim().split('\n');
    for (const wanted of ['package.json', 'README.md', 'LICENSE', 'binding.gyp', 'dist/index.js', 'dist/cli.js']) {
      assert.ok(files.includes(`package/${wanted}`), `${wanted} is in the tarball`);
    }
    assert.ok(files.includes('package/dist/types/host/index.d.ts'), 'the types are in the tarball');
    const stray = files.filter((file) => /\.test\.|\/(test|build|host|assembly|node_modules)\//.test(file));
    // Declarations may be in folders of any name.
    assert.equal(
      stray.filter((file) => !file.startsWith('package/dist/types/')),
      [],
    );
    if (linux) assert.ok(files.some((file) => /^package\/prebuilds\/linux-.*\.glibc\.node$/.test(file)));
    // Every script but the broker has its source map; scripts/build.mjs says why, and what the maps cost.
    const scripts = files.filter((file) => /^package\/dist\/[^/]+\.js$/.test(file));
    const bare = scripts.filter((file) => !files.includes(`${file}.map`)).map((file) => basename(file));
    assert.ok(bare.length === 1 && /^aedes-/.test(bare[0] as string), `without a source map: ${bare}`);
    const size = statSync(tarball).size;
    assert.ok(size < 900_000, `the tarball has ${size} bytes`);
  }),
);

test(
  'with --enable-source-maps a stack trace of the installed package names files of host/',
  timebox(60, async () => {
    const program = `import { Runtime } from 'isthmus';
      await Runtime.create({ retry: 'never' }).catch((error) => console.log(error.stack));`;
    const args = ['--enable-source-maps', '--input-type=module', '--eval', program];
    assert.match((await good(process.execPath, args, installed)).stdout, /isthmus\/host\/config\/\w+\.ts:\d+/);
  }),
);

test(
  'installed normally',
  timebox(120, async () => {
    await usable(installed);
    if (linux) assert.match((await good(process.execPath, ['native.cjs'], installed)).stdout, /^prebuilds\//);
  }),
);

test(
  'installed with --ignore-scripts',
  timebox(240, async () => {
    const folder = project('ignore-scripts');
    await npm(folder, 'install', '--ignore-scripts', tarball);
    await usable(folder);
    if (linux) assert.match((await good(process.execPath, ['native.cjs'], folder)).stdout, /^prebuilds\//);
  }),
);

test(
  'without the native part the library still works, and npm rebuild compiles the native part',
  timebox(300, async () => {
    const folder = join(work, 'compiled');
    cpSync(installed, folder, { recursive: true, verbatimSymlinks: true });
    const inside = join(folder, 'node_modules/isthmus');
    rmSync(join(inside, 'prebuilds'), { recursive: true, force: true });
    assert.is.not((await run(process.execPath, ['native.cjs'], folder)).code, 0);
    await usable(folder);
    if (!linux) return;

    const rebuilt = await npm(folder, 'rebuild', 'isthmus', '--foreground-scripts');
    // An npm that asks before it runs a dependency's scripts does not run them here, where no user answers.
    const compiled = existsSync(join(inside, 'build/Release/isthmus.node'))
      ? rebuilt
      : await npm(inside, 'run', 'install');
    const native = await run(process.execPath, ['native.cjs'], folder);
    assert.match(native.stdout, /^build\/Release\//, `${native.all}\n${compiled.all}`);
    assert.not.match(compiled.all, /native\/.*warning:/, 'compiles without warnings');
    await usable(folder);
  }),
);

test(
  'publint and attw find nothing',
  timebox(120, async () => {
    const bin = join(root, 'node_modules/.bin');
    await good(join(bin, 'publint'), ['run', tarball, '--strict'], root);
    await good(join(bin, 'attw'), [tarball, '--profile', 'esm-only', '--no-definitely-typed', '--no-emoji'], root);
  }),
);

// ── README.md ────────────────────────────────────────────────────────────────────────────────────────────────────────

interface Snippet {
  readonly name: string;
  readonly language: string;
  readonly words: ReadonlySet<string>;
  readonly text: string;
}

function snippets(): Snippet[] {
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const found: Snippet[] = [];
  for (const match of readme.matchAll(/^```(ts|js|mjs)\b[ \t]*(.*)\n([\s\S]*?)^```$/gm)) {
    const [, language = '', info = '', text = ''] = match;
    const line = readme.slice(0, match.index).split('\n').length;
    const words = new Set(info.split(/[\s,]+/).filter(Boolean));
    found.push({ name: `readme-line-${line}`, language, words, text });
  }
  return found.filter(({ words }) => !words.has('fragment'));
}

test(
  'the README: its TypeScript compiles against the types of the package',
  timebox(120, async () => {
    const folder = join(installed, 'types');
    mkdirSync(folder);
    writeFileSync(join(folder, 'package.json'), '{ "type": "module" }\n');
    const files = ['all.ts'];
    // The declarations themselves are checked as well.
    writeFileSync(
      join(folder, 'all.ts'),
      "export * from 'isthmus';\nimport { Runtime } from 'isthmus';\nvoid Runtime.create;\n",
    );
    for (const { name, language, text } of snippets()) {
      if (language !== 'ts') continue;
      files.push(`${name}.ts`);
      writeFileSync(join(folder, `${name}.ts`), text);
    }
    const compilerOptions = {
      target: 'es2022',
      lib: ['es2023', 'esnext.disposable'],
      module: 'nodenext',
      strict: true,
      skipLibCheck: false,
      moduleDetection: 'force',
      noEmit: true,
      types: ['node'],
      typeRoots: [join(root, 'node_modules/@types')],
    };
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files }));
    await good(join(root, 'node_modules/.bin/tsc'), ['-p', '.'], folder);
  }),
);

test(
  'the README: its snippets run',
  timebox(240, async () => {
    const folder = join(installed, 'run');
    mkdirSync(folder);
    let ran = 0;
    const background: ChildProcess[] = [];
    for (const { name, language, words, text } of snippets()) {
      if (!words.has('run') && !words.has('background')) continue;
      const { code } = await transform(text, {
        loader: language === 'ts' ? 'ts' : 'js',
        format: 'esm',
        target: 'node20',
      });
      const file = join(folder, `${name}.mjs`);
      writeFileSync(file, code);
      if (words.has('background')) {
        const child = spawn(process.execPath, [file], { cwd: folder, env, stdio: ['ignore', 'pipe', 'inherit'] });
        background.push(child);
        // It is up once it prints something; a silent one gets a second.
        await Promise.race([new Promise((resolve) => child.stdout.once('data', resolve)), sleep(1000)]);
        child.stdout.resume();
        continue;
      }
      try {
        await good(process.execPath, [file], folder, 30);
        ran += 1;
      } finally {
        for (const child of background.splice(0)) child.kill('SIGKILL');
      }
    }
    assert.is(background.length, 0, 'a background block is followed by one that runs');
    assert.ok(ran > 0, 'README.md has a block that runs (```ts run)');
  }),
);

test.run();

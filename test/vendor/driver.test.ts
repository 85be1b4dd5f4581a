/** The kernel driver is built as users build it, against every kernel whose headers are installed here. */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test as uvuTest } from 'uvu';
import * as assert from 'uvu/assert';
import { chosen } from '../support/process.js';
import { timebox } from '../support/timebox.js';

const test = chosen(uvuTest);
const source = join(process.env['ISTHMUS_ROOT'] ?? '.', 'vendor/ivshmem');
const scratch = mkdtempSync(join(tmpdir(), 'isthmus-driver-'));
const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);
/** Debian installs some of these programs where only root's PATH leads. */
const env = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin`, LC_ALL: 'C' };

/** Output on both streams; fails unless the exit code is 0. */
function run(command: string, args: readonly string[], cwd = scratch): string {
  const result = spawnSync(command, args, { cwd, env, encoding: 'utf8', timeout: 280_000 * slowness });
  if (result.error) throw result.error;
  assert.is(result.status, 0, `${[command, ...args].join(' ')}\n${result.stdout}${result.stderr}`);
  return result.stdout + result.stderr;
}

const has = (program: string) => spawnSync(program, ['--version'], { env }).error === undefined;

const kernels = existsSync('/lib/modules')
  ? readdirSync('/lib/modules').filter((name) => existsSync(join('/lib/modules', name, 'build/Module.symvers')))
  : [];
const lacking = [
  kernels.length === 0 && 'linux-headers-amd64',
  !has('make') && 'make',
  !has('gcc') && 'gcc',
  !has('modinfo') && 'kmod',
].filter(Boolean);
if (lacking.length > 0) {
  console.log(`! the driver is not built: apt-get install ${lacking.join(' ')}`);
  uvuTest.skip(`the driver builds without a warning (skipped: no ${lacking.join(', no ')})`);
}

/** Symbols that, according to `nm`, must be defined elsewhere. */
function undefinedSymbols(module: string): string[] {
  return run('nm', ['--undefined-only', '--format=just-symbols', module]).split('\n').filter(Boolean);
}

for (const kernel of lacking.length > 0 ? [] : kernels) {
  const folder = join(scratch, kernel, 'driver');
  const module = join(folder, 'uio_ivshmem.ko');

  test(
    `it builds without a warning: ${kernel}`,
    timebox(290, () => {
      cpSync(source, join(scratch, kernel), { recursive: true });
      // sparse, where it is installed: with C=2 it checks every file.
      const said = run('make', [`KVER=${kernel}`, 'W=1', ...(has('sparse') ? ['C=2'] : [])], folder);
      // These warnings are not about the code: the packages of headers have no vmlinux, and may come from another
      // compiler.
      const lines = said
        .split('\n')
        .filter((line) => !/^Skipping BTF generation|the compiler differs|^ {2}(The kernel|You are using)/.test(line));
      assert.not.match(lines.join('\n'), /warning|error/i);
      assert.ok(existsSync(module), said);
    }),
  );

  test(
    `the output of modinfo: ${kernel}`,
    timebox(30, () => {
      const told = new Map(
        run('modinfo', [module])
          .split('\n')
          .map((line): [string, string] => [
            line.slice(0, line.indexOf(':')),
            line.slice(line.indexOf(':') + 1).trim(),
          ]),
      );
      assert.is(told.get('alias'), 'pci:v00001AF4d00001110sv*sd*bc*sc*i*');
      assert.is(told.get('license'), 'Dual MIT/GPL');
      assert.is(told.get('version'), '0.0.1');
      assert.is(told.get('depends'), 'uio');
      assert.is(told.get('name'), 'uio_ivshmem');
      assert.is(told.get('vermagic')?.split(' ')[0], kernel);
      assert.match(readFileSync(join(source, 'driver/dkms.conf'), 'utf8'), /PACKAGE_VERSION="0\.0\.1"/);
    }),
  );

  test(
    `it uses only symbols that the kernel exports: ${kernel}`,
    timebox(30, () => {
      const exported = new Set(
        readFileSync(join('/lib/modules', kernel, 'build/Module.symvers'), 'utf8')
          .split('\n')
          .map((line) => line.split('\t')[1]),
      );
      const used = undefinedSymbols(module);
      assert.ok(used.includes('__uio_register_device'));
      assert.equal(
        used.filter((name) => !exported.has(name)),
        [],
      );
    }),
  );

  test(
    `make install, uninstall and clean, with the documented command: ${kernel}`,
    timebox(200, () => {
      const root = join(scratch, 'root');
      const top = join(scratch, kernel);
      run('make', ['install-driver', `KVER=${kernel}`, `DESTDIR=${root}`], top);
      const modules = join(root, 'lib/modules', kernel);
      const installed = readdirSync(modules, { recursive: true })
        .map(String)
        .filter((name) => name.includes('.ko'));
      assert.is(installed.length, 1);
      assert.match(installed[0]!, /^(extra|updates)\/uio_ivshmem\.ko(\.\w+)?$/);
      run('make', ['uninstall-driver', `KVER=${kernel}`, `DESTDIR=${root}`], top);
      assert.not.ok(existsSync(join(modules, installed[0]!)));
      run('make', ['clean', `KVER=${kernel}`], folder);
      assert.equal(
        readdirSync(folder)
          .filter((name) => !name.startsWith('.'))
          .sort(),
        readdirSync(join(source, 'driver'))
          .filter((name) => !name.startsWith('.'))
          .sort(),
      );
    }),
  );
}

test(
  'DKMS builds it for the kernels that it was written for, and skips others',
  timebox(30, () => {
    const builds = (kernel: string) =>
      run('bash', ['-c', `. "$1"; [[ $2 =~ $BUILD_EXCLUSIVE_KERNEL ]] && echo yes || echo no`, 'bash', conf, kernel]);
    const conf = resolve(source, 'driver/dkms.conf');
    for (const kernel of ['5.15.0-100-generic', '6.1.0-56-amd64', '6.12.113+deb12-amd64', '7.2-amd64', '10.0.1']) {
      assert.is(builds(kernel), 'yes\n', kernel);
    }
    for (const kernel of ['4.18.0-553.el8.x86_64', '5.4.0-26-generic', '5.10.0-30-amd64', '5.14.0-70.el9', '5.1.5']) {
      assert.is(builds(kernel), 'no\n', kernel);
    }
    // Options that a kernel without support for the driver lacks; each installed one has them.
    const options = run('bash', ['-c', '. "$1"; echo $BUILD_EXCLUSIVE_CONFIG', 'bash', conf]).trim().split(' ');
    assert.ok(options.includes('CONFIG_UIO'), String(options));
    for (const kernel of kernels) {
      const config = readFileSync(join('/lib/modules', kernel, 'build/.config'), 'utf8');
      for (const option of options) assert.match(config, new RegExp(`^${option}=[ym]$`, 'm'));
    }
  }),
);

uvuTest.after(() => rmSync(scratch, { recursive: true, force: true }));
uvuTest.run();

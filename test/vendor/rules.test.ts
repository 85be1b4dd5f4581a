/**
 * The parts of vendor/ivshmem that are files for other programs. udev itself evaluates the udev rule, on a tree of
 * devices that stands in for /sys in a mount namespace.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test as uvuTest } from 'uvu';
import * as assert from 'uvu/assert';
import { chosen } from '../support/process.js';
import { timebox } from '../support/timebox.js';

const test = chosen(uvuTest);
const source = join(process.env['ISTHMUS_ROOT'] ?? '.', 'vendor/ivshmem');
const scratch = mkdtempSync(join(tmpdir(), 'isthmus-rules-'));
const env = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin`, LC_ALL: 'C' };
const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);

function run(command: string, args: readonly string[], more: NodeJS.ProcessEnv = {}) {
  const result = spawnSync(command, args, {
    cwd: scratch,
    env: { ...env, ...more },
    encoding: 'utf8',
    timeout: 50_000 * slowness,
  });
  return { code: result.status, error: result.error, output: `${result.stdout}${result.stderr}` };
}
const has = (program: string) => run(program, ['--version']).error === undefined;

// ── udev ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * In a mount namespace, with the rules of this machine and the given files: prints `NAME MODE GROUP` for each device.
 * `udevadm test` runs no programs, but sets the owner and mode of a device node as a rule says.
 */
const UDEV = `
set -e
rules=$1; shift
mount --make-rprivate /
{ cat /etc/group; echo isthmus:x:4711:; } >group
mount --bind group /etc/group
mkdir -p udev/rules.d && cp "$rules"/*.rules udev/rules.d
mount -t tmpfs rules /etc
mkdir -p /etc/udev && cp -r udev/rules.d /etc/udev/
cp group /etc/group; echo 'group: files' >/etc/nsswitch.conf; echo root:x:0:0::/:/bin/sh >/etc/passwd
mount -t tmpfs sys /sys
mount -t tmpfs dev /dev
mknod /dev/null c 1 3
mount -t tmpfs run /run
mkdir -p /sys/class/uio /sys/dev/char /run/udev
export SYSTEMD_DEVICE_VERIFY_SYSFS=0
number=0
for name in "$@"; do
  device=devices/pci0000:00/0000:00:0$number.0/uio/uio$number
  mkdir -p /sys/$device
  printf 'MAJOR=240\\nMINOR=%s\\nDEVNAME=uio%s\\n' $number $number >/sys/$device/uevent
  echo "$name" >/sys/$device/name
  echo 240:$number >/sys/$device/dev
  ln -s ../../../../../class/uio /sys/$device/subsystem
  ln -s ../../$device /sys/class/uio/uio$number
  ln -s ../../$device /sys/dev/char/240:$number
  mknod -m 600 /dev/uio$number c 240 $number
  udevadm test --action=add /sys/class/uio/uio$number >log-$number 2>&1 || cat log-$number
  echo "$name $(stat -c '%a %g' /dev/uio$number)"
  number=$((number + 1))
done
`;

const namespaces = run('unshare', ['--mount', 'true']).code === 0;
const udev = namespaces && has('udevadm');
const reason = namespaces ? 'no udevadm' : 'no permission to make a mount namespace';
if (!udev) console.log(`! the udev rule is not evaluated: ${reason}`);

(udev ? test : uvuTest.skip)(
  `the udev rule: group isthmus and 0660 for ivshmem, and no other device is changed${udev ? '' : ` (skipped: ${reason})`}`,
  timebox(60, () => {
    const names = ['ivshmem', 'uio_pdrv_genirq', 'ivshmem2', 'ivshmem', 'IVSHMEM', 'xivshmem', ''];
    const { code, output } = run('unshare', ['--mount', 'sh', '-c', UDEV, 'sh', join(source, 'udev'), ...names]);
    assert.is(code, 0, output);
    assert.equal(
      output.trimEnd().split('\n'),
      names.map((name) => `${name} ${name === 'ivshmem' ? '660 4711' : '600 0'}`),
    );
    const log = readFileSync(join(scratch, 'log-0'), 'utf8');
    assert.not.match(log, /60-ivshmem\.rules.*(Invalid|Unknown|Failed|ignoring)/i);
  }),
);

(udev ? test : uvuTest.skip)(
  `udev finds no fault in any of the rules${udev ? '' : ` (skipped: ${reason})`}`,
  timebox(60, () => {
    for (const folder of ['udev', 'udev/optional']) {
      const { code, output } = run('unshare', ['--mount', 'sh', '-c', UDEV, 'sh', join(source, folder), 'other']);
      assert.is(code, 0, output);
      const log = readFileSync(join(scratch, 'log-0'), 'utf8');
      assert.match(log, /Reading rules file: .*ivshmem.*\.rules/);
      assert.not.match(log, /ivshmem[^\n]*\.rules:\d+/);
    }
  }),
);

// ── Loading the driver ───────────────────────────────────────────────────────────────────────────────────────────────

test(
  'the module script of sysconfig calls modprobe once, and returns its exit code',
  timebox(20, () => {
    const script = join(source, 'sysconfig/ivshmem.modules');
    assert.is(statSync(script).mode & 0o111, 0o111);
    assert.is(run('sh', ['-n', script]).code, 0);
    for (const code of [0, 1]) {
      const fake = join(scratch, `modprobe-${code}`);
      writeFileSync(fake, `#!/bin/sh\necho modprobe "$@"\nexit ${code}\n`);
      chmodSync(fake, 0o755);
      // It names the program by its full path, as scripts that run at boot do.
      const text = readFileSync(script, 'utf8').replaceAll('/sbin/modprobe', fake);
      const absent = text.replaceAll('/sys/module', join(scratch, 'no-modules'));
      assert.equal(run('sh', ['-c', absent]), { code, error: undefined, output: 'modprobe uio_ivshmem\n' });
      mkdirSync(join(scratch, 'modules/uio_ivshmem'), { recursive: true });
      const present = text.replaceAll('/sys/module', join(scratch, 'modules'));
      assert.equal(run('sh', ['-c', present]), { code: 0, error: undefined, output: '' });
    }
  }),
);

test(
  'modules-load names the module that the driver builds',
  timebox(5, () => {
    const lines = readFileSync(join(source, 'modules-load/ivshmem.conf'), 'utf8').split('\n');
    assert.equal(
      lines.filter((line) => line && !/^[#;]/.test(line)),
      ['uio_ivshmem'],
    );
    assert.match(readFileSync(join(source, 'driver/Kbuild'), 'utf8'), /^obj-m := uio_ivshmem\.o$/m);
  }),
);

// ── Other parts ──────────────────────────────────────────────────────────────────────────────────────────────────────

test(
  'the XML for libvirt is well-formed, and valid for QEMU',
  timebox(20, () => {
    const path = join(source, 'hotplug/ivshmem0.xml');
    if (has('xmllint')) {
      const { code, output } = run('xmllint', ['--noout', path]);
      assert.is(code, 0, output);
    }
    const text = readFileSync(path, 'utf8').replaceAll(/\s*\n\s*/g, '');
    const found = /^<shmem name='([\w-]+)'><model type='ivshmem-plain'\/><size unit='M'>(\d+)<\/size><\/shmem>$/.exec(
      text,
    );
    assert.is(found?.[1], 'ivshmem0');
    const size = Number(found?.[2]);
    assert.is(size & (size - 1), 0, 'QEMU needs a power of two');
  }),
);

test(
  'make install-… installs each part in its place, and uninstall-… removes it',
  timebox(30, () => {
    const root = join(scratch, 'root');
    const places: Record<string, Record<string, number>> = {
      udev: { 'etc/udev/rules.d/60-ivshmem.rules': 0o644, 'etc/sysusers.d/isthmus.conf': 0o644 },
      'modules-load': { 'etc/modules-load.d/ivshmem.conf': 0o644 },
      sysconfig: { 'etc/sysconfig/modules/ivshmem.modules': 0o755 },
    };
    const files = () =>
      Object.fromEntries(
        readdirSync(root, { recursive: true, withFileTypes: true })
          .filter((entry) => entry.isFile())
          .map(({ parentPath, name }) => join(parentPath, name))
          .map((path) => [path.slice(root.length + 1), statSync(path).mode & 0o777]),
      );
    mkdirSync(root);
    for (const [part, expected] of Object.entries(places)) {
      const installed = run('make', ['-C', source, `install-${part}`, `DESTDIR=${root}`]);
      assert.is(installed.code, 0, installed.output);
      assert.equal(files(), expected);
      const removed = run('make', ['-C', source, `uninstall-${part}`, `DESTDIR=${root}`]);
      assert.is(removed.code, 0, removed.output);
      assert.equal(files(), {});
    }
  }),
);

uvuTest.after(() => rmSync(scratch, { recursive: true, force: true }));
uvuTest.run();

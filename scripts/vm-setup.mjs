/**
 * `npm run test:vm:setup` installs the Debian packages that the virtual machines of the tests need: QEMU, a kernel's headers
 * and image, busybox, mosquitto, libvirt. Without root it names the missing packages instead. Then it builds the driver and
 * a disk for the guests, so that the tests can start the guests at once.
 */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;

function inPath(program) {
  return PATH.split(':').some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

function hasHeaders() {
  if (!existsSync('/lib/modules')) return false;
  return readdirSync('/lib/modules').some((version) => existsSync(`/lib/modules/${version}/build/Module.symvers`));
}

/** Debian's packages, and whether each is installed. */
const packages = {
  'qemu-system-x86': inPath('qemu-system-x86_64'),
  'linux-headers-amd64': hasHeaders(),
  'busybox-static': existsSync('/bin/busybox'),
  kmod: inPath('modinfo'),
  e2fsprogs: inPath('mke2fs'),
  gcc: inPath('gcc'),
  make: inPath('make'),
  mosquitto: inPath('mosquitto'),
  'libvirt-daemon': inPath('libvirtd'),
  'libvirt-clients': inPath('virsh'),
};

function run(command, args, env = {}) {
  console.log(`$ ${[command, ...args].join(' ')}`);
  const { status, error } = spawnSync(command, args, {
    stdio: 'inherit',
    env: { ...process.env, PATH, DEBIAN_FRONTEND: 'noninteractive', ...env },
  });
  if (error) console.error(`vm-setup: ${command}: ${error.message}`);
  return status === 0;
}

const missing = Object.keys(packages).filter((name) => !packages[name]);
if (missing.length > 0) {
  const install = ['install', '-y', '-qq', '--no-install-recommends', ...missing];
  if (process.getuid?.() !== 0 || !inPath('apt-get')) {
    console.error(
      `vm-setup: these are missing, and only root may install them:\n  apt-get install ${missing.join(' ')}`,
    );
    process.exit(1);
  }
  if (!run('apt-get', ['update', '-qq']) || !run('apt-get', install)) process.exit(1);
}
// This file boots no guest; it builds everything that is built once.
const made = run(process.execPath, [join(dirname(fileURLToPath(import.meta.url)), 'test.mjs'), 'vm/made', '--all'], {
  ISTHMUS_VM: '1',
});
if (!made) process.exit(1);
console.log('vm-setup: done; npm run test:vm');

/**
 * The documented use: a domain of libvirt, and the XML of vendor/ivshmem/hotplug attached to it and detached again with
 * virsh; `isthmus server` creates the region, with the size that the XML gives.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { libvirtMissing, TestLibvirt } from '../support/libvirt.js';
import { timebox } from '../support/timebox.js';
import { commandLine } from './guest.js';
import { initramfs } from './image.js';
import { complaints, driven, memoryTypes, pciDevices } from './inside.js';
import { kernel } from './kernel.js';
import { missing } from './needs.js';
import { Shell } from './shell.js';
import { root, slowness, which } from './tools.js';

const XML = resolve(root, 'vendor/ivshmem/hotplug/ivshmem0.xml');
/** The name in the XML. */
const MEMORY = '/dev/shm/ivshmem0';
const MEGABYTES = 512;

const absent = libvirtMissing.length > 0 ? `apt-get install libvirt-daemon libvirt-clients` : undefined;
const why = missing() ?? absent ?? (existsSync(MEMORY) ? `${MEMORY} exists already, and is in other use` : undefined);
if (why) console.log(`! SKIPPED, libvirt with a guest (npm run test:vm:setup): ${why}`);
const test = why ? register.skip : register;

/** A domain that boots from files, with its serial port and its virtio console in this folder. */
function domainXml(name: string, folder: string): string {
  return `<domain type='qemu'>
  <name>${name}</name>
  <memory unit='MiB'>256</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>${folder}/kernel</kernel>
    <initrd>${folder}/initramfs</initrd>
    <cmdline>${commandLine({ name })}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <devices>
    <emulator>${which('qemu-system-x86_64')}</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path='${folder}/console'/><target port='0'/></serial>
    <console type='unix'><source mode='bind' path='${folder}/shell'/><target type='virtio'/></console>
  </devices>
</domain>
`;
}

test(
  'a domain, attach-device and detach-device with the XML of the package: the driver is bound to the device, then it is gone',
  timebox(600, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'isthmus-domain-'));
    chmodSync(folder, 0o777);
    const found = kernel();
    copyFileSync(found.image, join(folder, 'kernel'));
    copyFileSync(initramfs(found), join(folder, 'initramfs'));
    const libvirt = await TestLibvirt.start();
    const owner = process.geteuid?.() === 0 ? ['--owner', 'nobody'] : [];
    const cli = process.env['ISTHMUS_CLI'] ?? resolve(root, 'dist/cli.js');
    const args = [cli, 'server', '-s', 'ivshmem0', '-m', String(MEGABYTES), '-c', 'migration-framework', ...owner];
    const server = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    try {
      await once(server.stdout, 'data');
      writeFileSync(join(folder, 'domain.xml'), domainXml('vm-documented', folder));
      libvirt.virsh('create', join(folder, 'domain.xml'));
      const shell = await Shell.open(join(folder, 'shell'));
      await shell.ready(180);
      await shell.good('insmod /modules/uio.ko && insmod /modules/uio_ivshmem.ko');
      for (let round = 0; round < 2; round++) {
        assert.equal(await pciDevices(shell), []);
        libvirt.virsh('attach-device', 'vm-documented', XML, '--live');
        await driven(shell, 1);
        assert.equal(await memoryTypes(shell), ['write-back']);
        assert.is(Number(await shell.good('cat /sys/class/uio/uio0/maps/map1/size')), MEGABYTES << 20);
        assert.is(await shell.good('cat /sys/class/uio/uio0/name'), 'ivshmem');
        libvirt.virsh('detach-device', 'vm-documented', XML, '--live');
        await shell.until('ls -1 /sys/class/uio', (output) => output.trim() === '');
        const end = performance.now() + 60_000 * slowness;
        while (libvirt.virsh('dumpxml', 'vm-documented').includes('<shmem')) assert.ok(performance.now() < end);
      }
      assert.equal(await complaints(shell), []);
      shell.close();
    } finally {
      await libvirt.stop();
      const ended = once(server, 'exit');
      server.kill('SIGTERM');
      await ended;
      rmSync(folder, { recursive: true, force: true });
    }
    assert.not.ok(existsSync(MEMORY), 'the server has removed it');
  }),
);
register.run();

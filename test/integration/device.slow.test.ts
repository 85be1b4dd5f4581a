/** `isthmus device` with a real libvirtd and real virtual machines, of which none has a system. */
import { chmodSync, readFileSync, rmSync } from 'node:fs';
import { basename } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { printed } from '../support/cli.js';
import { disguise } from '../support/disguise.js';
import { libvirtMissing, TestLibvirt } from '../support/libvirt.js';
import { Child, endChildren, program } from '../support/process.js';
import { MIB, namedRegions, newPath, newRegion, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

namedRegions();

const missing = libvirtMissing.length > 0;
if (missing) {
  console.log(
    `! no ${libvirtMissing.join(', ')} here (apt-get install libvirt-daemon libvirt-clients qemu-system-x86): ` +
      'hot-plug by libvirt IS NOT TESTED',
  );
}
const test = missing ? register.skip : register;
let libvirt: TestLibvirt;
if (!missing) {
  register.before(async () => {
    libvirt = await TestLibvirt.start();
  });
  register.after(() => libvirt.stop());
}
register.after(endChildren);
register.after(removeRegions);

const device = (verb: 'attach' | 'detach', domain: string, name: string, ...more: string[]) =>
  printed(['device', verb, domain, '--name', name, '--connect', libvirt.uri, ...more]);

/** The devices of a domain, as name and size in MiB. */
function devices(domain: string, ...view: string[]): [string, number][] {
  const xml = libvirt.virsh('dumpxml', domain, ...view);
  return [...xml.matchAll(/<shmem name='(.+?)'[\s\S]*?<size unit='M'>(\d+)</g)].map(([, name, size]) => [
    String(name),
    Number(size),
  ]);
}

test(
  'a device is attached to a running domain; errors are reported before QEMU is asked',
  timebox(120, async () => {
    const domain = libvirt.domain('create', 'isthmus-attach');
    const absent = basename(newPath());
    const { code, stderr } = await device('attach', domain, absent, '--size', '16');
    assert.is(code, 1);
    assert.match(
      stderr,
      new RegExp(`^isthmus: there is no /dev/shm/${absent}: QEMU would create one.*\n {2}'isthmus server`),
    );

    const path = newRegion(16 * MIB);
    const name = basename(path);
    const wrong = await device('attach', domain, name, '--size', '32');
    assert.match(wrong.stderr, /has 16 MiB, the device would have 32 MiB\n/);
    if (process.geteuid?.() === 0) {
      const closed = await device('attach', domain, name);
      assert.is(closed.code, 1);
      assert.match(closed.stderr, /can't open backing store.*\n {2}QEMU may not open the file/);
    }
    assert.equal(devices(domain), []);

    libvirt.give(path);
    chmodSync(path, 0o660);
    const done = await device('attach', domain, name, '--live');
    assert.equal(done, { code: 0, stdout: `isthmus: ${name} (16 MiB) is attached to ${domain}\n`, stderr: '' });
    assert.equal(devices(domain), [[name, 16]]);
    // The device is backed by this very file.
    assert.match(readFileSync(`/proc/${libvirt.pid(domain)}/maps`, 'utf8'), new RegExp(` rw-s .* ${path}\n`));

    const again = await device('attach', domain, name);
    assert.match(again.stderr, new RegExp(`domain '${domain}' has ${name} already\n`));
    assert.equal(devices(domain), [[name, 16]]);
    const kept = await device('attach', domain, basename(newRegion(MIB)), '--config');
    assert.match(kept.stderr, /transient domain.*\n {2}Leave out --config/);
    libvirt.virsh('destroy', domain);
  }),
);

test(
  'with --force QEMU creates the file',
  timebox(60, async () => {
    const domain = libvirt.domain('create', 'isthmus-force');
    const path = newPath();
    const { code, stderr } = await device('attach', domain, basename(path), '--size', '1', '--force');
    assert.is(code, 0, stderr);
    assert.equal(devices(domain), [[basename(path), 1]]);
    libvirt.virsh('destroy', domain);
    rmSync(path);
  }),
);

test(
  'a device that the guest does not release is not reported as detached; a later release ends the wait',
  timebox(180, async () => {
    const domain = libvirt.domain('create', 'isthmus-detach');
    const path = newRegion(16 * MIB);
    const name = basename(path);
    const none = await device('detach', domain, name);
    assert.match(none.stderr, new RegExp(`domain '${domain}' has no device ${name}\n`));
    // Attached while the file is its user's own.
    const attached = Child.start(program('regions'), 'attach', { path, at: 0 });
    const { slot, error } = await attached.event<{ slot: number; error?: string }>('attached');
    assert.is(error, undefined);
    libvirt.give(path);
    assert.is((await device('attach', domain, name)).code, 0);

    // A process of the guest is attached: the guest is not even asked. Its QEMU alone has the memory, so that the host name
    // in the slot does not matter.
    disguise(path, slot, 'some-guest');
    const held = await device('detach', domain, name, '--wait', '1');
    assert.is(held.code, 1);
    assert.match(
      held.stderr,
      new RegExp(`1 process of '${domain}' still has ${name} mapped: slot ${slot} \\(.*--force`, 's'),
    );
    await attached.call('close');

    // virsh reports success.
    const refused = await device('detach', domain, name, '--wait', '1');
    assert.is(refused.code, 1);
    assert.is(refused.stdout, '');
    assert.match(
      refused.stderr,
      new RegExp(`the guest '${domain}' has not released ${name} within 1 s\n {2}It was asked`),
    );
    assert.equal(devices(domain), [[name, 16]]);

    // The firmware releases the device at its next start, as an operating system would when asked.
    const let_go = device('detach', domain, name, '--wait', '120');
    await pause(500);
    const resets = setInterval(() => libvirt.try('reset', domain), 2000);
    try {
      const { code, stdout, stderr } = await let_go;
      assert.is(code, 0, stderr);
      assert.is(stdout, `isthmus: ${domain} has released ${name}\n`);
    } finally {
      clearInterval(resets);
    }
    assert.equal(devices(domain), []);
    // QEMU unmaps behind a grace period of its RCU, some milliseconds after it has told that the object is gone.
    assert.not.match(readFileSync(`/proc/${libvirt.pid(domain)}/maps`, 'utf8'), new RegExp(name));
    libvirt.virsh('destroy', domain);
  }),
);

test(
  'a domain that is not running; a q35 machine has a free slot after a device was in its configuration',
  timebox(180, async () => {
    const domain = libvirt.domain('define', 'isthmus-config', 'q35');
    const path = newRegion(2 * MIB);
    const name = basename(path);
    libvirt.give(path);
    const stopped = await device('attach', domain, name, '--live');
    assert.match(stopped.stderr, /domain is not running.*\n {2}Start the domain/);

    libvirt.virsh('start', domain);
    const full = await device('attach', domain, name, '--live');
    assert.match(full.stderr, /No more available PCI slots\n {2}There is no free slot: a q35 machine/);
    const added = await device('attach', domain, name, '--config');
    assert.is(added.stdout, `isthmus: ${name} (2 MiB) is attached to ${domain} from its next start on\n`, added.stderr);
    assert.equal([devices(domain), devices(domain, '--inactive')], [[], [[name, 2]]]);
    const removed = await device('detach', domain, name, '--config');
    assert.is(removed.stdout, `isthmus: ${domain} will start without ${name}\n`, removed.stderr);
    assert.equal(devices(domain, '--inactive'), []);

    libvirt.virsh('destroy', domain);
    libvirt.virsh('start', domain);
    const { code, stderr } = await device('attach', domain, name, '--live', '--config');
    assert.is(code, 0, stderr);
    assert.equal([devices(domain), devices(domain, '--inactive')], [[[name, 2]], [[name, 2]]]);
    libvirt.virsh('destroy', domain);
    libvirt.virsh('undefine', domain);
  }),
);

test(
  'no such domain, no such libvirtd',
  timebox(30, async () => {
    const name = basename(newRegion(MIB));
    const { stderr } = await device('attach', 'isthmus-nowhere', name);
    assert.match(stderr, /^isthmus: virsh: failed to get domain 'isthmus-nowhere'\n {2}'virsh list --all'/);
    const uri = 'qemu+unix:///session?socket=/nonexistent';
    const gone = await printed(['device', 'detach', 'x', '--connect', uri]);
    assert.is(gone.code, 1);
    assert.match(gone.stderr, /failed to connect to the hypervisor: .*\n {2}Start libvirtd/);
  }),
);

register.run();

/** Which processes of a guest are attached to the memory of a device, as the host sees it before a device is detached. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { CliError } from '../../host/cli/support/errors.js';
import { attachedOf, checkReleased, type Guest } from '../../host/cli/vm/attached.js';
import { qemuOf } from '../../host/cli/vm/domain-process.js';
import { Qmp } from '../../host/cli/vm/qmp.js';
import { fileAt } from '../../host/device/identity.js';
import { printed } from '../support/cli.js';
import { disguise } from '../support/disguise.js';
import { eventually, rejection } from '../support/outcomes.js';
import { Child, chosen, endChildren, program } from '../support/process.js';
import { MIB, namedRegions, newPath, newRegion, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

namedRegions();

const test = chosen(register);
const QEMU = 'qemu-system-x86_64';

/** A process that is attached, and its slot. */
async function attach(path: string): Promise<{ child: Child; slot: number }> {
  const child = Child.start(program('regions'), 'attach', { path, at: 0 });
  const { slot, error } = await child.event<{ slot: number; error?: string }>('attached');
  assert.is(error, undefined);
  return { child, slot };
}

/** Why the device of that file is not detached, and what to do. */
async function refusal(path: string): Promise<{ message: string; action: string }> {
  const error: Error = await rejection(checkReleased('ivshmem0', path, guest));
  assert.instance(error, CliError);
  const { message, action = '' } = error as CliError;
  return { message, action };
}

const guest: Guest = { host: 'vm1' };
const slotsOf = async (path: string, who = guest) => (await attachedOf(path, who)).slots.map(({ slot }) => slot);

test(
  'slots of the guest: by its name, or by the kernel of one with its name; those of the host are none of its own',
  timebox(60, async () => {
    const path = newRegion(MIB);
    const [own, named, inContainer, other] = [
      await attach(path),
      await attach(path),
      await attach(path),
      await attach(path),
    ];
    assert.equal(await slotsOf(path), []);
    disguise(path, named.slot, 'vm1', 0x11);
    disguise(path, inContainer.slot, 'a1b2c3', 0x11);
    disguise(path, other.slot, 'vm2', 0x22);
    assert.equal(await slotsOf(path), [named.slot, inContainer.slot]);
    assert.equal(await slotsOf(path, { host: 'vm2' }), [other.slot]);

    const { message, action } = await refusal(path);
    assert.match(message, /^2 processes of 'vm1' still have ivshmem0 mapped: slot \d+ \(.*, pid \d+ on vm1\), slot/);
    assert.match(action, /'isthmus suspend --host vm1'.*--force/);
    assert.not.match(action, /confirm-dead/);

    // One is stopped, which its machine cannot tell from dead; it keeps its mapping.
    named.child.process.kill('SIGSTOP');
    const silent = await refusal(path);
    assert.match(silent.message, new RegExp(`slot ${named.slot} \\([^)]*\\) without a heartbeat`));
    assert.match(silent.action, new RegExp(`'isthmus region confirm-dead ivshmem0 ${named.slot}'`));
    named.child.process.kill('SIGCONT');

    for (const { child } of [named, inContainer]) await child.call('close');
    assert.match(await checkReleased('ivshmem0', path, guest), /processes of other machines have: vm2$/);
    await other.child.call('close');
    assert.is(await checkReleased('ivshmem0', path, guest), '');
    await own.child.call('close');
  }),
);

test(
  'what cannot be checked is said',
  timebox(30, async () => {
    assert.match(await checkReleased('x', undefined, guest), /^not checked .*: its memory is on another host$/);
    assert.match(await checkReleased('x', newPath(), guest), /^not checked .*: there is no \/dev\/shm\//);
    assert.match(await checkReleased('x', '/dev/null', guest), /^not checked .*: .*not a regular file/);
    // Nothing has ever used it.
    assert.is(await checkReleased('x', newRegion(MIB), guest), '');
  }),
);

// ─── with a real QEMU, which has the memory mapped ───────────────────────────────────────────────────────────────────

const machines = new Set<ChildProcess>();
process.on('exit', () => {
  for (const machine of machines) machine.kill('SIGKILL');
});

const real = spawnSync(QEMU, ['--version']).error === undefined;
if (!real) console.log(`! no ${QEMU} here (apt-get install qemu-system-x86): whose QEMU has a file IS NOT TESTED`);
const withQemu = real ? test : (register.skip as unknown as typeof test);

/** A QEMU without a machine, which has mapped the file. */
async function start(path: string, uuid: string, ...more: string[]): Promise<void> {
  const memory = `memory-backend-file,id=m,share=on,mem-path=${path},size=1M`;
  const args = ['-machine', 'none', '-display', 'none', '-uuid', uuid, '-object', memory, ...more];
  machines.add(spawn(QEMU, args, { stdio: 'ignore' }));
  await eventually('QEMU has mapped it', () => qemuOf(uuid, fileAt(path)).maps);
}

withQemu(
  'a guest of another name: if its QEMU alone has the memory, all processes of other machines are its own',
  timebox(60, async () => {
    const path = newRegion(MIB);
    const { slot } = await attach(path);
    disguise(path, slot, 'unheard-of');
    const [uuid, another] = [randomUUID(), randomUUID()];
    assert.equal(await slotsOf(path), []);
    await start(path, uuid);
    const known = { ...guest, uuid: uuid.toUpperCase() };
    assert.equal(await slotsOf(path, known), [slot]);
    assert.match((await rejection(checkReleased('x', path, known))).message, /pid \d+ on unheard-of/);
    assert.equal(await slotsOf(path, { ...guest, uuid: another }), []);
    await start(path, another);
    assert.equal(qemuOf(uuid, fileAt(path)), { maps: true, alone: false });
    assert.equal(await slotsOf(path, known), []);
  }),
);

withQemu(
  'device detach returns when QEMU has unmapped the memory, which it does after libvirt has reported the device gone',
  timebox(90, async () => {
    const path = newRegion(MIB);
    const uuid = randomUUID();
    const control = newPath('qmp');
    await start(path, uuid, '-qmp', `unix:${control},server=on,wait=off`);
    // A program that stands in for virsh: the device is gone as soon as it is detached.
    const folder = mkdtempSync(join(tmpdir(), 'isthmus-test-virsh-'));
    const device = `<shmem name='${basename(path)}'><model type='ivshmem-plain'/><size unit='M'>1</size></shmem>`;
    writeFileSync(
      join(folder, 'virsh'),
      `#!/bin/sh
cd ${folder}
echo "$1" >> log
case "$1" in
domuuid) echo ${uuid} ;;
dumpxml) cat xml ;;
detach-device) : > xml ;;
esac
`,
      { mode: 0o755 },
    );
    const { PATH } = process.env;
    process.env['PATH'] = `${folder}:${PATH}`;
    const detach = () => {
      for (const [name, text] of Object.entries({ xml: device, log: '' })) writeFileSync(join(folder, name), text);
      return printed(['device', 'detach', 'vm1', '--name', basename(path)]);
    };
    try {
      const late = await detach();
      assert.is(late.code, 1);
      assert.match(
        late.stderr,
        /'vm1' does not have \S+ any more, but its QEMU still has \S+ mapped after 10 s\n {2}Do not attach/,
      );

      let done = false;
      const detached = detach().finally(() => {
        done = true;
      });
      const log = () => readFileSync(join(folder, 'log'), 'utf8');
      await eventually('the device is gone from the XML, and was looked for', () =>
        /detach-device\ndumpxml/.test(log()),
      );
      assert.not.ok(done);
      await using qmp = await Qmp.open(control);
      await qmp.execute('object-del', { id: 'm' });
      const { code, stdout, stderr } = await detached;
      assert.is(code, 0, stderr);
      assert.is(stdout, `isthmus: vm1 has released ${basename(path)}\n`);
      assert.not.ok(qemuOf(uuid, fileAt(path)).maps);
    } finally {
      process.env['PATH'] = PATH;
      rmSync(folder, { recursive: true });
    }
  }),
);

test.after.each(async () => {
  await endChildren();
  for (const machine of machines) machine.kill('SIGKILL');
  machines.clear();
});
test.after(removeRegions);
test.run();

/** `isthmus device`: attaches an ivshmem device to a virtual machine of libvirt, or detaches it. */
import type { Command } from 'commander';
import { hostName, mebibytes, seconds } from '../support/args.js';
import { CliError } from '../support/errors.js';
import { withExamples } from '../support/help.js';
import { print, printError } from '../support/output.js';
import { bytes, MIB } from '../support/units.js';
import { checkReleased } from '../vm/attached.js';
import { Domain, type Scope } from '../vm/domain.js';
import { detachXml, deviceName, deviceSize, isRemote, shmemPath, shmemXml } from '../vm/shmem.js';

const DEFAULT_WAIT_S = 30;
const DEFAULT_NAME = 'ivshmem0';

interface Options extends Scope {
  readonly name: string;
  /** In MiB. */
  readonly size?: number;
  readonly dryRun?: true;
}

async function attach(domainName: string, options: Options & { readonly force?: true }): Promise<void> {
  const { name, size, connect, force = false, dryRun } = options;
  const domain = new Domain(domainName, options);
  const megabytes = deviceSize(shmemPath(name), size, { remote: isRemote(connect), force });
  const xml = shmemXml(name, megabytes);
  if (dryRun) return print(domain.commandOf('attach-device', xml));
  // libvirt would attach a second device with the same memory.
  if ((await domain.devices(name)).length > 0) throw new CliError(`domain '${domainName}' has ${name} already`);
  // It may just have been detached, by whatever means: QEMU aborts if it has not let go yet.
  if (domain.affectsRunning && !(await domain.unmapped(name, 0))) throw domain.stillMapped(name);
  await domain.change('attach-device', xml);
  const when = domain.affectsRunning ? '' : ' from its next start on';
  print(`isthmus: ${name} (${bytes(megabytes * MIB)}) is attached to ${domainName}${when}\n`);
}

interface DetachOptions extends Options {
  /** In seconds. */
  readonly wait: number;
  /** The name that the machine has for itself. */
  readonly host?: string;
  readonly force?: true;
}

async function detach(domainName: string, options: DetachOptions): Promise<void> {
  const { name, size, wait, host, force = false, dryRun } = options;
  const domain = new Domain(domainName, options);
  if (dryRun && size !== undefined) return print(domain.commandOf('detach-device', shmemXml(name, size)));
  const [first] = await domain.devices(name);
  if (first === undefined) {
    throw new CliError(
      `domain '${domainName}' has no device ${name}`,
      "'virsh dumpxml' prints its devices, as <shmem>.",
    );
  }
  const xml = size === undefined ? detachXml(first, name) : shmemXml(name, size);
  if (dryRun) return print(domain.commandOf('detach-device', xml));
  if (domain.affectsRunning && !force) {
    const guest = { host: host ?? domainName, uuid: await domain.uuid() };
    const remark = await checkReleased(name, domain.memoryOf(name), guest);
    if (remark !== '') printError(`isthmus: ${remark}\n`);
  }
  await domain.detach(name, xml, wait);
  print(`isthmus: ${domainName} ${domain.affectsRunning ? 'has released' : 'will start without'} ${name}\n`);
}

// ─── the commands ────────────────────────────────────────────────────────────────────────────────────────────────────

const withName = (command: Command): Command =>
  command.option('--name <NAME>', 'name of the device and of its file in /dev/shm', deviceName, DEFAULT_NAME);

function withDomain(command: Command): Command {
  return withName(command.argument('<DOMAIN>', 'name, id or UUID of the domain'))
    .option('--live', 'change the running domain (default: the running domain, or the stored one if it does not run)')
    .option('--config', 'change the stored domain, which the next start uses')
    .option('--connect <URI>', 'the libvirtd, as virsh takes it (for example qemu:///system)')
    .option('--dry-run', 'print the command for a shell, and change nothing');
}

function addXml(device: Command): void {
  const command = withName(device.command('xml'))
    .summary('print the XML of a device')
    .description("Print the <shmem> element of an ivshmem device, for <devices> in 'virsh edit' or for a file.")
    .requiredOption('--size <MB>', 'size in MiB, a power of two', mebibytes);
  withExamples(
    command,
    `
  $ isthmus device xml --name ivshmem0 --size 512 > ivshmem0.xml
  $ virsh attach-device vm1 ivshmem0.xml`,
  ).action(({ name, size }: { name: string; size: number }) => print(shmemXml(name, size)));
}

function addAttach(device: Command): void {
  const command = withDomain(device.command('attach'))
    .summary('attach a device to a domain')
    .description(
      'Attach an ivshmem device to a domain. Its memory is the file of that name in /dev/shm, which has to exist in the ' +
        "right size: 'isthmus server' creates it.",
    )
    .option('--size <MB>', 'size in MiB, a power of two (default: that of the file)', mebibytes)
    .option('--force', 'even if the file does not exist or has another size');
  withExamples(
    command,
    `
  $ isthmus server -s ivshmem0 -m 512 -c migration-framework &
  $ isthmus device attach vm1 --name ivshmem0
  $ isthmus device attach vm1 --name ivshmem0 --config    # from the next start on`,
  ).action(attach);
}

function addDetach(device: Command): void {
  const command = withDomain(device.command('detach'))
    .summary('detach a device from a domain')
    .description(
      'Detach an ivshmem device from a domain, and wait until the guest has released it and QEMU has unmapped its ' +
        "memory. Suspend the processes that use it first: 'isthmus suspend'.",
    )
    .option(
      '--size <MB>',
      'size in MiB, if the domain has several devices of that name (default: the first)',
      mebibytes,
    )
    .option('--wait <SECONDS>', 'how long to wait for the guest', seconds, DEFAULT_WAIT_S)
    .option('--host <HOST>', 'the host name of the machine, as its processes see it (default: DOMAIN)', hostName)
    .option('--force', 'even if processes of the machine still have the device mapped');
  withExamples(
    command,
    `
  $ isthmus device detach vm1 --name ivshmem0 --wait 60`,
  ).action(detach);
}

export function addDevice(program: Command): void {
  const device = program
    .command('device')
    .summary('attach an ivshmem device to a virtual machine of libvirt')
    .description('Attach an ivshmem device to a virtual machine of libvirt, or detach it, with the program virsh.');
  addXml(device);
  addAttach(device);
  addDetach(device);
  withExamples(
    device,
    `
  $ isthmus server -s ivshmem0 -m 512 -c migration-framework &
  $ isthmus device attach vm1 --name ivshmem0
  $ isthmus device detach vm1 --name ivshmem0 --wait 60`,
  );
}

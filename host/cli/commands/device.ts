/**
 * `isthmus device`: an ivshmem device of a virtual machine, by libvirt. `virsh` is the way: there is no binding to maintain,
 * and what it does can be shown and repeated by hand (`--dry-run`).
 */
import type { Command } from 'commander';
import { powerOfTwo, seconds } from '../support/args.js';
import { bytes, CliError, say } from '../support/output.js';
import {
  Domain,
  deviceName,
  deviceSize,
  isElsewhere,
  MIB,
  type Scope,
  shmemPath,
  shmemXml,
  toDetach,
} from '../vm/virsh.js';

/** How long the guest may take to let go, in seconds. */
const WAIT = 30;
const NAME = 'ivshmem0';

// ─── arguments ───────────────────────────────────────────────────────────────────────────────────────────────────────

interface Options extends Scope {
  readonly name: string;
  /** In MiB. */
  readonly size?: number;
  readonly dryRun?: true;
}

// ─── attach ──────────────────────────────────────────────────────────────────────────────────────────────────────────

async function attach(name: string, options: Options & { readonly force?: true }): Promise<void> {
  const { name: device, size, connect, force, dryRun } = options;
  const domain = new Domain(name, options);
  const megabytes = deviceSize(shmemPath(device), size, { unseen: isElsewhere(connect), force });
  const xml = shmemXml(device, String(megabytes));
  if (dryRun) return say(domain.shown('attach-device', xml));
  // A second one with the same memory would be no error.
  if ((await domain.devices(device)).length > 0) throw new CliError(`domain '${name}' has ${device} already`);
  await domain.change('attach-device', xml);
  say(
    `isthmus: ${device} (${bytes(megabytes * MIB)}) is attached to ${name}${domain.now ? '' : ' from its next start on'}\n`,
  );
}

// ─── detach ──────────────────────────────────────────────────────────────────────────────────────────────────────────

async function detach(name: string, options: Options & { readonly wait: number }): Promise<void> {
  const { name: device, size, wait, dryRun } = options;
  const domain = new Domain(name, options);
  if (dryRun && size !== undefined) return say(domain.shown('detach-device', shmemXml(device, String(size))));
  const [first] = await domain.devices(device);
  if (first === undefined) {
    throw new CliError(`domain '${name}' has no device ${device}`, "'virsh dumpxml' shows what it has, as <shmem>.");
  }
  const xml = size === undefined ? toDetach(first, device) : shmemXml(device, String(size));
  if (dryRun) return say(domain.shown('detach-device', xml));
  await domain.detach(device, xml, wait);
  say(`isthmus: ${name} ${domain.now ? 'has let go of' : 'will start without'} ${device}\n`);
}

// ─── the commands ────────────────────────────────────────────────────────────────────────────────────────────────────

function withDomain(command: Command): Command {
  return command
    .argument('<DOMAIN>', 'name, id or UUID of the domain')
    .option('--name <NAME>', 'name of the device, and of its file in /dev/shm', deviceName, NAME)
    .option('--live', 'change what runs; without this and the next, what runs, or the domain if it does not')
    .option('--config', 'change what the domain starts from')
    .option('--connect <URI>', 'which libvirtd, as virsh takes it (qemu:///system)')
    .option('--dry-run', 'print the command for a shell, and do nothing');
}

export function addDevice(program: Command): void {
  const example = `
Example:
  $ isthmus server -s ivshmem0 -m 512 -c migration-framework &
  $ isthmus device xml --name ivshmem0 --size 512
  $ isthmus device attach vm1 --name ivshmem0
  $ isthmus device detach vm1 --name ivshmem0 --wait 60`;
  const device = program
    .command('device')
    .summary("a virtual machine's ivshmem device, by libvirt")
    .addHelpText('after', example);
  device
    .command('xml')
    .summary('print the XML of a device')
    .description(
      "Print the <shmem> element of an ivshmem device, for 'virsh edit' (into <devices>) or a file of its own.",
    )
    .option('--name <NAME>', 'name of the device, and of its file in /dev/shm', deviceName, NAME)
    .requiredOption('--size <MB>', 'size in MiB, a power of two', powerOfTwo)
    .addHelpText('after', example)
    .action(({ name, size }: { name: string; size: number }) => say(shmemXml(name, String(size))));
  withDomain(device.command('attach'))
    .summary('plug a device into a domain')
    .description(
      'Plug an ivshmem device into a domain. Its memory is the file of that name in /dev/shm, which has to be there ' +
        'already, in the right size.',
    )
    .option('--size <MB>', 'size in MiB, a power of two (default: that of the file)', powerOfTwo)
    .option('--force', 'also if the file is not there or has another size')
    .addHelpText('after', example)
    .action(attach);
  withDomain(device.command('detach'))
    .summary('pull a device out of a domain')
    .description(
      "Pull an ivshmem device out of a domain, and wait until the guest has let go of it. Suspend what uses it first: 'isthmus suspend'.",
    )
    .option('--size <MB>', 'size in MiB, where several have that name (default: that of the first)', powerOfTwo)
    .option('--wait <SECONDS>', 'how long the guest may take', seconds, WAIT)
    .addHelpText('after', example)
    .action(detach);
}

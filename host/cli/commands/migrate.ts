/** `isthmus migrate`: moves a virtual machine with its processes. The steps are in vm/mover.ts. */
import { basename, isAbsolute } from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import { hostName, integer, mebibytes, seconds } from '../support/args.js';
import { type BrokerOptions, brokerOf, withBroker } from '../support/broker-options.js';
import { describeError } from '../support/error-text.js';
import { UsageError } from '../support/errors.js';
import { type Exit, withExamples } from '../support/help.js';
import { print, printError, printJsonLine } from '../support/output.js';
import { exitCodeOf, stopSignal } from '../support/signals.js';
import { StepLog } from '../support/steps.js';
import { LibvirtMachine } from '../vm/libvirt.js';
import type { Machine, NewDevice } from '../vm/machine.js';
import { Mover } from '../vm/mover.js';
import { failureOf } from '../vm/outcome.js';
import { type PlannedStep, planOf } from '../vm/plan.js';
import { QemuMachine } from '../vm/qemu.js';
import { deviceName, deviceSize, isRemote, shmemPath } from '../vm/shmem.js';

const DEFAULT_WAIT_S = 30;
const DEFAULT_LIMIT_S = 600;

interface Options extends BrokerOptions {
  readonly to?: string;
  readonly connect?: string;
  readonly qmp?: string;
  readonly toQmp?: string;
  readonly uri?: string;
  readonly keepSource?: true;
  readonly host?: string;
  readonly attach?: readonly Attach[];
  readonly wait: number;
  readonly limit: number;
  readonly ignoreLost?: true;
  readonly force?: true;
  readonly json?: true;
  readonly dryRun?: true;
}

interface Attach {
  /** Name of the device and of its file in /dev/shm; or a path. */
  readonly name: string;
  /** In MiB. */
  readonly size: number | undefined;
}

// ─── arguments ───────────────────────────────────────────────────────────────────────────────────────────────────────

function attach(text: string, before: readonly Attach[] = []): Attach[] {
  const [, name = '', size] = /^(.*?)(?::([^:/]*))?$/s.exec(text) ?? [];
  if (!isAbsolute(name) || basename(name) === '') deviceName(name);
  return [...before, { name, size: size === undefined ? undefined : mebibytes(size) }];
}

function socket(text: string): string {
  const port = /^[^/]+:(\d{1,5})$/.exec(text)?.[1];
  if (port !== undefined) integer(1, 65535)(port);
  else if (text === '') throw new InvalidArgumentError('Expected a path or HOST:PORT.');
  return text;
}

function uri(text: string): string {
  if (!/^(unix:\/.|tcp:[^/]+:\d{1,5}$)/.test(text)) {
    throw new InvalidArgumentError('Expected unix:/PATH or tcp:HOST:PORT.');
  }
  return text;
}

/** @throws UsageError for options that exclude each other */
function machineOf(domain: string | undefined, more: readonly string[], options: Options): Machine {
  const { to, connect, qmp, toQmp, uri: address, keepSource = false, host } = options;
  if (domain !== undefined) {
    if (qmp ?? toQmp ?? address ?? keepSource) {
      throw new UsageError("a DOMAIN excludes '--qmp', '--to-qmp', '--uri' and '--keep-source'");
    }
    if (to === undefined) throw new UsageError("a DOMAIN needs '--to URI', the libvirtd of the destination");
    return new LibvirtMachine(domain, { to, more, ...(connect === undefined ? {} : { connect }) });
  }
  if (qmp === undefined) throw new UsageError("expected a DOMAIN or '--qmp SOCKET'");
  if (to ?? connect) throw new UsageError("'--qmp' excludes '--to' and '--connect'");
  if (toQmp === undefined || address === undefined || host === undefined) {
    throw new UsageError("'--qmp' needs '--to-qmp', '--uri' and '--host'");
  }
  return new QemuMachine({ name: host, qmp, toQmp, uri: address, keepSource });
}

function hostOf({ name }: Machine): string {
  try {
    return hostName(name);
  } catch {
    throw new UsageError(`'${name}' is not the name of a host: give the name that the machine has with '--host'`);
  }
}

/** @throws CliError for a file that cannot be the memory, before anything is changed, if the file can be seen from here */
function newDevice({ name, size }: Attach, { to, toQmp }: Options): NewDevice {
  if (isAbsolute(name) && to !== undefined) throw new UsageError(`--attach: '${name}' is not a name in /dev/shm`);
  const path = isAbsolute(name) ? name : shmemPath(name);
  const remote = to === undefined ? !isAbsolute(toQmp ?? '') : isRemote(to);
  if (remote && size === undefined) {
    throw new UsageError(`--attach: the size of ${name} cannot be read from here: give it as ${name}:MB`);
  }
  return { name: basename(path), path, megabytes: deviceSize(path, size, { remote }) };
}

// ─── the command ─────────────────────────────────────────────────────────────────────────────────────────────────────

function printPlan(plan: readonly PlannedStep[], json: boolean): void {
  for (const { step, does } of plan) {
    if (json) printJsonLine({ step, does });
    else print(`\n# ${step}\n${does}`);
  }
}

/** @returns the exit code */
async function migrate(machine: Machine, options: Options): Promise<number> {
  const { pid, wait, limit, ignoreLost = false, force = false, json = false, dryRun } = options;
  const host = options.host ?? hostOf(machine);
  const devices = (options.attach ?? []).map((each) => newDevice(each, options));
  using stop = stopSignal();
  const steps = new StepLog(json, stop);
  const move = { host, broker: () => brokerOf(options), pid, attach: devices, wait, limit, ignoreLost, force };
  await using mover = new Mover(machine, move, steps, stop);
  const attached = await mover.inspect();
  if (dryRun) {
    printPlan(planOf(machine, attached, { ...options, host, attach: devices }), json);
    return 0;
  }
  const failure = failureOf(await mover.move(), machine, move);
  steps.summarize();
  if (failure && !stop.aborted) throw failure;
  if (failure) printError(describeError(failure));
  return exitCodeOf(stop);
}

export function addMigrate(program: Command, exit: Exit): void {
  const command = program
    .command('migrate')
    .summary('move a virtual machine while its processes run')
    .description(
      'Migrate a virtual machine that has ivshmem devices: suspend its processes, detach its devices, move it, attach ' +
        'devices at the destination, resume the processes. If a step fails, the steps before it are undone. Exit code 0 ' +
        'only if all steps succeed.',
    )
    .argument('[DOMAIN]', 'name, id or UUID of a domain of libvirt')
    .argument('[VIRSH...]', "after '--': more arguments for 'virsh migrate --live'")
    .option('--to <URI>', 'libvirtd of the destination, for example qemu+ssh://host2/system')
    .option('--connect <URI>', 'libvirtd of the source, as virsh takes it (for example qemu:///system)')
    .option('--qmp <SOCKET>', 'without libvirt: control socket of the QEMU at the source, a path or HOST:PORT', socket)
    .option('--to-qmp <SOCKET>', 'control socket of the QEMU at the destination, started with -incoming', socket)
    .option('--uri <URI>', 'where the QEMU at the destination waits: unix:/PATH or tcp:HOST:PORT', uri)
    .option('--keep-source', 'do not end the QEMU at the source')
    .option('--host <HOST>', 'the host name of the machine, as its processes see it (default: DOMAIN)', hostName)
    .option(
      '--attach <NAME[:MB]>',
      'attach this device at the destination: a name in /dev/shm; with --qmp also a path; may be repeated',
      attach,
    );
  withBroker(command)
    .option(
      '--wait <SECONDS>',
      'how long to wait for the answers of the processes, and for the guest to release a device',
      seconds,
      DEFAULT_WAIT_S,
    )
    .option('--limit <SECONDS>', 'cancel the migration itself after this time', seconds, DEFAULT_LIMIT_S)
    .option('--ignore-lost', 'do not wait for processes that lost the connection to the broker: they have ended')
    .option('--force', 'detach a device even if processes of the machine still have it mapped')
    .option('--json', 'print a JSON object for each step')
    .option('--dry-run', 'check what the move needs, print the steps, and change nothing');
  withExamples(
    command,
    `
  $ isthmus migrate vm1 --to qemu+ssh://host2/system --attach ivshmem0:512 --broker mqtt://broker
  $ isthmus migrate vm1 --to qemu+ssh://host2/system -- --persistent --auto-converge
  $ isthmus migrate --qmp /run/a.qmp --to-qmp /run/b.qmp --uri unix:/run/move --host vm1 --attach ivshmem1`,
  ).action(async (domain: string | undefined, more: readonly string[], options: Options) => {
    await using machine = machineOf(domain, more, options);
    exit(await migrate(machine, options));
  });
}

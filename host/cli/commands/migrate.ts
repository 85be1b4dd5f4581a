/**
 * `isthmus migrate`: a live migration in its steps, each with its time. Whatever fails, what was done is undone in the
 * reverse order; after the machine has moved, that means that it goes on where it is now.
 *
 * ```
 * look → suspend → detach … → migrate → attach … → resume → quit
 *           └─────────┴──────────┴─ fails ─→ attach again … → resume
 * ```
 */
import { basename, isAbsolute } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { type Command, InvalidArgumentError } from 'commander';
import { maskBroker } from '../../config/broker-url.js';
import { exitCodeOf, integer, powerOfTwo, seconds, stopSignal } from '../support/args.js';
import {
  bytes,
  CliError,
  complain,
  describeError,
  duration,
  lineOf,
  renderTable,
  Screen,
  say,
  UsageError,
} from '../support/output.js';
import { type BrokerOptions, brokerOf, hostName, Processes, type Row, withBroker } from '../support/steer.js';
import { LibvirtMachine } from '../vm/libvirt.js';
import type { Device, Machine, Wanted } from '../vm/machine.js';
import { QemuMachine } from '../vm/qemu.js';
import { deviceName, deviceSize, isElsewhere, MIB, shellLine, shmemPath } from '../vm/virsh.js';

/** For the answers of the processes, and for the guest to let go of a device, in seconds. */
const WAIT = 30;
/** Between two looks whether somebody is back at the broker, in milliseconds. */
const LOOK = 200;
/** For the migration itself, in seconds. */
const LIMIT = 600;

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
  readonly json?: true;
  readonly dryRun?: true;
}

// ─── arguments ───────────────────────────────────────────────────────────────────────────────────────────────────────

interface Attach {
  /** Of the device and of its file in /dev/shm; or a path. */
  readonly name: string;
  /** In MiB. */
  readonly size: number | undefined;
}

function attach(text: string, before: readonly Attach[] = []): Attach[] {
  const [, name = '', size] = /^(.*?)(?::([^:/]*))?$/s.exec(text) ?? [];
  if (!isAbsolute(name) || basename(name) === '') deviceName(name);
  return [...before, { name, size: size === undefined ? undefined : powerOfTwo(size) }];
}

function socket(text: string): string {
  const port = /^[^/]+:(\d{1,5})$/.exec(text)?.[1];
  if (port !== undefined) integer(1, 65535, 'A port')(port);
  else if (text === '') throw new InvalidArgumentError('A path or HOST:PORT is wanted.');
  return text;
}

function uri(text: string): string {
  if (!/^(unix:\/.|tcp:[^/]+:\d{1,5}$)/.test(text)) {
    throw new InvalidArgumentError('unix:/PATH or tcp:HOST:PORT is wanted.');
  }
  return text;
}

/** @throws UsageError for options that do not go together */
function machineOf(domain: string | undefined, more: readonly string[], options: Options): Machine {
  const { to, connect, qmp, toQmp, uri: address, keepSource = false, host } = options;
  if (domain !== undefined) {
    if (qmp ?? toQmp ?? address ?? keepSource) {
      throw new UsageError("a domain goes without '--qmp', '--to-qmp', '--uri' and '--keep-source'");
    }
    if (to === undefined) throw new UsageError("where to? '--to URI' names the libvirtd of the destination");
    return new LibvirtMachine(domain, { to, more, ...(connect === undefined ? {} : { connect }) });
  }
  if (qmp === undefined) throw new UsageError("a DOMAIN is wanted, or '--qmp SOCKET'");
  if (to ?? connect) throw new UsageError("'--qmp' goes without '--to' and '--connect'");
  if (toQmp === undefined || address === undefined || host === undefined) {
    throw new UsageError("'--qmp' needs '--to-qmp', '--uri' and '--host'");
  }
  return new QemuMachine({ name: host, qmp, toQmp, uri: address, keepSource });
}

function hostOf({ name }: Machine): string {
  try {
    return hostName(name);
  } catch {
    throw new UsageError(`'${name}' is not the name of a host: '--host' says how the machine calls itself`);
  }
}

/** What is wrong with a file is found before anything is done, if it can be seen from here. */
function wanted({ name, size }: Attach, { to, toQmp }: Options): Wanted {
  if (isAbsolute(name) && to !== undefined) throw new UsageError(`--attach: '${name}' is no name in /dev/shm`);
  const path = isAbsolute(name) ? name : shmemPath(name);
  const unseen = to === undefined ? !isAbsolute(toQmp ?? '') : isElsewhere(to);
  if (unseen && size === undefined) throw new UsageError(`--attach: how large is ${name} over there? ${name}:SIZE_MB`);
  return { name: basename(path), path, megabytes: deviceSize(path, size, { unseen }) };
}

// ─── the steps, as they are shown ────────────────────────────────────────────────────────────────────────────────────

interface Step {
  readonly name: string;
  /** One that takes back what was done. */
  readonly undo: boolean;
  result: 'ok' | 'failed' | undefined;
  text: string;
  milliseconds: number;
}

const COLUMNS = [{ title: 'step' }, { title: 'result' }, { title: 'after', right: true }, { title: '' }];

const time = ({ milliseconds }: Step) => duration(milliseconds * 1e6);
const cells = (step: Step) => [step.name, step.result ?? '…', time(step), step.text];

class Journal {
  readonly #steps: Step[] = [];
  readonly #json: boolean;
  readonly #stop: AbortSignal;
  readonly #screen: Screen<Step>;

  constructor(json: boolean, stop: AbortSignal) {
    this.#json = json;
    this.#stop = stop;
    this.#screen = new Screen({
      columns: COLUMNS,
      cells,
      line: (step) => `${step.name}: ${step.result} after ${time(step)}${step.text && `, ${step.text}`}\n`,
      done: ({ result }) => result !== undefined,
      silent: json,
    });
  }

  /**
   * One step, shown while it goes on.
   * @param body returns what there is to say of it
   * @throws CliError that begins with the name of the step
   */
  async step(name: string, body: (told: (text: string) => void) => Promise<string>, undo = false): Promise<void> {
    const step: Step = { name, undo, result: undefined, text: '', milliseconds: 0 };
    this.#steps.push(step);
    const start = performance.now();
    const interrupted = this.#stop.aborted;
    const show = () => {
      step.milliseconds = Math.round(performance.now() - start);
      this.#screen.show(this.#steps);
    };
    const clock = setInterval(show, 500);
    let failure: CliError | undefined;
    show();
    try {
      step.text = await body((text) => {
        step.text = text;
        show();
      });
      step.result = 'ok';
    } catch (error) {
      // What a signal has ended complains of that in many ways.
      const message = this.#stop.aborted && !interrupted ? `interrupted by ${this.#stop.reason}` : lineOf(error);
      failure = new CliError(`${name}: ${message}`, error instanceof CliError ? error.action : undefined);
      step.result = 'failed';
      step.text = message;
    } finally {
      clearInterval(clock);
    }
    show();
    if (this.#json) {
      const { result, text, milliseconds } = step;
      say(`${JSON.stringify({ step: name, result, undo, text, milliseconds })}\n`);
    }
    if (failure) throw failure;
  }

  /** A terminal has it already. */
  end(): void {
    if (!this.#json && !process.stdout.isTTY) say(`\n${renderTable(COLUMNS, this.#steps.map(cells))}`);
  }
}

const shown = ({ name, size }: Device) => `${name} (${bytes(size)})`;
const count = (of: number, what: string) =>
  `${of === 0 ? 'no' : of} ${what}${of === 1 ? '' : what === 'process' ? 'es' : 's'}`;

/** @throws CliError that names those that have not answered well */
function answers(rows: readonly Row[], what: string): string {
  const bad = rows.filter(({ good }) => !good);
  if (bad.length === 0) return `${rows.length} of ${rows.length} ${what}`;
  const why = bad.map(({ id, name, answer = '', reason = '' }) =>
    `${name || id} ${answer} ${reason}`.replace(/ +/g, ' '),
  );
  throw new CliError(`${rows.length - bad.length} of ${rows.length} ${what}: ${why.slice(0, 3).join('; ')}`);
}

// ─── the migration ───────────────────────────────────────────────────────────────────────────────────────────────────

class Migration {
  readonly #machine: Machine;
  readonly #host: string;
  readonly #options: Options;
  readonly #wanted: readonly Wanted[];
  readonly #stop = stopSignal();
  readonly #journal: Journal;
  #processes!: Processes;
  #devices: readonly Device[] = [];
  /** Devices that the guest was asked to let go of. */
  readonly #detached: Device[] = [];
  /** Of the suspension. */
  #rows: readonly Row[] = [];
  /** Where it runs; undefined: nobody can tell. */
  #where: 'source' | 'destination' | undefined = 'source';

  constructor(machine: Machine, host: string, options: Options) {
    this.#machine = machine;
    this.#host = host;
    this.#options = options;
    this.#wanted = (options.attach ?? []).map((each) => wanted(each, options));
    this.#journal = new Journal(options.json ?? false, this.#stop);
  }

  /** @returns the exit code */
  async run(): Promise<number> {
    try {
      await this.#journal.step('look', () => this.#look());
      if (this.#options.dryRun) {
        this.#print();
        return 0;
      }
      const failures = await this.#go();
      this.#journal.end();
      if (failures.length > 0) {
        const error = this.#told(failures);
        if (!this.#stop.aborted) throw error;
        complain(describeError(error));
      }
      return this.#stop.aborted ? exitCodeOf(this.#stop.reason) : 0;
    } finally {
      await this.#processes?.close();
    }
  }

  #unlessStopped(): void {
    if (this.#stop.aborted) throw new CliError(`interrupted by ${this.#stop.reason}`);
  }

  async #look(): Promise<string> {
    this.#devices = await this.#machine.look();
    this.#processes = await Processes.open({ ...brokerOf(this.#options), host: this.#host });
    this.#unlessStopped();
    const { pid } = this.#options;
    if (!pid && this.#devices.length > 0) await this.#awaitLost();
    const there = pid ?? this.#processes.there;
    const devices = this.#devices.map(shown).join(', ') || 'no ivshmem device';
    return `${devices}; ${count(there.length, 'process')} of ${this.#host} to suspend`;
  }

  /** A device is not pulled out from under a process that may only be cut off from the broker. */
  async #awaitLost(): Promise<void> {
    const { wait, ignoreLost } = this.#options;
    const end = performance.now() + wait * 1000;
    while (this.#processes.lost.length > 0 && !ignoreLost) {
      this.#unlessStopped();
      if (performance.now() > end) {
        const { lost } = this.#processes;
        throw new CliError(
          `${count(lost.length, 'process')} of ${this.#host} left the broker without a word and may still hold a device: ` +
            lost.slice(0, 5).join(', '),
          `Wait until it is back ('isthmus status --host ${this.#host}'). If it has ended: '--ignore-lost'.`,
        );
      }
      await pause(LOOK);
    }
  }

  /** @returns what went wrong, first things first */
  async #go(): Promise<CliError[]> {
    const failures: CliError[] = [];
    const attempt = async (...args: Parameters<Journal['step']>): Promise<boolean> => {
      try {
        await this.#journal.step(...args);
        return true;
      } catch (error) {
        failures.push(error as CliError);
        return false;
      }
    };
    const there =
      (await attempt('suspend', (told) => this.#suspend(told))) &&
      (await this.#detachAll(attempt)) &&
      (await attempt('migrate', (told) => this.#migrate(told)));
    if (there) for (const device of this.#wanted) await attempt('attach', () => this.#attach(device));
    if (this.#where === 'source') {
      for (const device of this.#detached.toReversed()) {
        await attempt('attach again', () => this.#restore(device), true);
      }
    }
    const resumed = this.#rows.length === 0 || (await attempt('resume', (told) => this.#resume(told), !there));
    if (there && resumed) await this.#finish(attempt);
    return failures;
  }

  async #suspend(told: (text: string) => void): Promise<string> {
    const { pid, wait } = this.#options;
    this.#unlessStopped();
    const show = (rows: readonly Row[]) => {
      // Kept as they come: whatever happens, they are to be resumed.
      this.#rows = rows;
      told(`${rows.filter(({ good }) => good).length} of ${rows.length}`);
    };
    const rows = await this.#processes.ask('suspend', { pid, wait, stop: this.#stop, show });
    if (rows.length === 0) return `no process of ${this.#host} takes part`;
    return answers(rows, 'suspended');
  }

  async #detachAll(attempt: (name: string, body: () => Promise<string>) => Promise<boolean>): Promise<boolean> {
    const { wait } = this.#options;
    for (const device of this.#devices) {
      const gone = await attempt('detach', async () => {
        this.#unlessStopped();
        this.#detached.push(device);
        await this.#machine.detach(device, wait);
        return shown(device);
      });
      if (!gone) return false;
    }
    return true;
  }

  async #migrate(told: (text: string) => void): Promise<string> {
    this.#unlessStopped();
    let failure: unknown;
    try {
      await this.#machine.migrate({ wait: this.#options.limit, signal: this.#stop, told });
    } catch (error) {
      failure = error;
    }
    this.#where = undefined;
    try {
      this.#where = await this.#machine.whereabouts();
    } catch (error) {
      throw new CliError(`${failure === undefined ? '' : `${lineOf(failure)}; `}${lineOf(error)}`);
    }
    if (this.#where === 'destination') return failure === undefined ? '' : `it had moved already: ${lineOf(failure)}`;
    throw (
      failure ??
      new CliError('the destination has not taken it, and has ended', 'Look at what the QEMU there has said.')
    );
  }

  /** Short, and the way to what was wanted even if somebody has interrupted us by now. */
  async #attach(device: Wanted): Promise<string> {
    await this.#machine.attach(device);
    return shown({ name: device.name, size: device.megabytes * MIB });
  }

  async #restore(device: Device): Promise<string> {
    return (await this.#machine.restore(device)) ? shown(device) : `${device.name} is still there`;
  }

  async #resume(told: (text: string) => void): Promise<string> {
    const { wait } = this.#options;
    const rows = await this.#processes.ask('resume', {
      after: this.#rows,
      wait,
      // The signal that has brought us here does not keep us from doing it.
      stop: this.#stop.aborted ? undefined : this.#stop,
      show: (now) => told(`${now.filter(({ good }) => good).length} of ${now.length}`),
    });
    return answers(rows, 'running');
  }

  async #finish(attempt: (name: string, body: () => Promise<string>) => Promise<boolean>): Promise<void> {
    if (this.#machine.shown.finish() === undefined) return;
    await attempt('quit', async () => (await this.#machine.finish()) ?? '');
  }

  // ─── what is said at the end ───────────────────────────────────────────────────────────────────────────────────────

  #told([first, ...more]: readonly CliError[]): CliError {
    const { name } = this.#machine;
    const why = [first, ...more].map((error) => error?.message).join('; ');
    const resume = `isthmus resume --host ${this.#host}`;
    if (this.#where === undefined) {
      return new CliError(
        `it is not known where ${name} runs: ${why}`,
        `Look at both sides before you let it run at either; then '${resume}'.`,
      );
    }
    if (this.#where === 'source') {
      return more.length === 0
        ? new CliError(`${name} has not moved, and goes on where it was: ${why}`, first?.action)
        : new CliError(
            `${name} has not moved, and is not as it was: ${why}`,
            `Attach by hand what it lacks ('isthmus device attach'), then '${resume}'.`,
          );
    }
    const missing = this.#wanted.map((device) => this.#machine.byHand(device).trim().replaceAll('\n', ', then '));
    return new CliError(
      `${name} runs at the destination, but not all is well there: ${why}`,
      /^attach:/.test(first?.message ?? '')
        ? `Its processes go over tcp without the device. By hand: ${missing.join('; ')}; then 'isthmus suspend' and '${resume}'.`
        : `'${resume}' asks them again.`,
    );
  }

  /** For --dry-run. */
  #print(): void {
    const { pid, broker, json = false } = this.#options;
    const { shown: lines } = this.#machine;
    const steer = (kind: string) => {
      const of = [...(pid ? ['--pid', ...pid] : []), ...(broker === undefined ? [] : ['--broker', maskBroker(broker)])];
      return `${shellLine(['isthmus', kind, '--host', this.#host, ...of])}\n`;
    };
    const steps: [string, string | undefined][] = [
      ['suspend', steer('suspend')],
      ...this.#devices.map((device): [string, string] => ['detach', lines.detach(device)]),
      ['migrate', lines.migrate()],
      ...this.#wanted.map((device): [string, string] => ['attach', lines.attach(device)]),
      ['resume', steer('resume')],
      ['quit', lines.finish()],
    ];
    for (const [step, does] of steps) {
      if (does !== undefined) say(json ? `${JSON.stringify({ step, does })}\n` : `\n# ${step}\n${does}`);
    }
  }
}

export function addMigrate(program: Command, exit: (code: number) => void): void {
  const command = program
    .command('migrate')
    .summary('move a virtual machine while its processes talk')
    .description(
      'Migrate a virtual machine with ivshmem devices: suspend its processes, pull its devices out, move it, plug in the ' +
        'devices of the destination, resume. If anything fails, what was done is undone. Exit code 0 only if all went well.',
    )
    .argument('[DOMAIN]', 'name, id or UUID of a domain of libvirt')
    .argument('[VIRSH...]', "behind '--': more arguments for 'virsh migrate --live'")
    .option('--to <URI>', 'libvirtd of the destination, as qemu+ssh://host2/system')
    .option('--connect <URI>', 'libvirtd of the source, as virsh takes it (qemu:///system)')
    .option('--qmp <SOCKET>', 'without libvirt: control socket of the QEMU that runs it, a path or HOST:PORT', socket)
    .option('--to-qmp <SOCKET>', 'that of the QEMU that waits for it (-incoming)', socket)
    .option('--uri <URI>', 'where it waits: unix:/PATH or tcp:HOST:PORT', uri)
    .option('--keep-source', 'do not end the QEMU at the source')
    .option('--host <HOST>', 'the name that the machine has for itself (default: DOMAIN)', hostName)
    .option(
      '--attach <NAME[:MB]>',
      'plug this in at the destination: a name in /dev/shm, with --qmp also a path',
      attach,
    );
  withBroker(command)
    .option(
      '--wait <SECONDS>',
      'for the answers of the processes, and for the guest to let go of a device',
      seconds,
      WAIT,
    )
    .option('--limit <SECONDS>', 'for the migration itself', seconds, LIMIT)
    .option('--ignore-lost', 'processes that left the broker without a word have ended: do not wait for them')
    .option('--json', 'print a JSON object for each step')
    .option('--dry-run', 'look, print what would be done, and do nothing')
    .addHelpText(
      'after',
      `
Example:
  $ isthmus migrate vm1 --to qemu+ssh://host2/system --attach ivshmem0:512 --broker mqtt://broker
  $ isthmus migrate vm1 --to qemu+ssh://host2/system -- --persistent --auto-converge
  $ isthmus migrate --qmp /run/a.qmp --to-qmp /run/b.qmp --uri unix:/run/move --host vm1 --attach ivshmem1`,
    )
    .action(async (domain: string | undefined, more: readonly string[], options: Options) => {
      await using machine = machineOf(domain, more, options);
      exit(await new Migration(machine, options.host ?? hostOf(machine), options).run());
    });
}

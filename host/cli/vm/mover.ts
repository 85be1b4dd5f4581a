/**
 * Moves a machine while its processes run: the steps of `isthmus migrate`. If a step fails, the steps before it are undone
 * in reverse order; once the machine has moved, it stays at the destination.
 *
 * ```
 * look → suspend → detach … → migrate → attach … → resume → quit
 *           └─────────┴──────────┴─ fails ─→ attach again … → resume
 * ```
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { MqttOptions } from '../../control/broker.js';
import { lineOf } from '../support/error-text.js';
import { CliError } from '../support/errors.js';
import { type Participant, Processes } from '../support/steer.js';
import type { StepBody, StepLog } from '../support/steps.js';
import { bytes, counted, MIB } from '../support/units.js';
import { checkReleased } from './attached.js';
import type { Device, Machine, NewDevice, Place } from './machine.js';

/** Between two checks whether lost processes are back at the broker. */
const POLL_MS = 200;
/** How many processes a message names. */
const MAX_NAMED = 5;

export interface MoveOptions {
  /** The name that the machine has for itself. */
  readonly host: string;
  /** Called in the first step, which reports what it throws. */
  readonly broker: () => { readonly broker: string; readonly mqtt: MqttOptions };
  /** Only these processes. */
  readonly pid: readonly string[] | undefined;
  /** Devices to attach at the destination. */
  readonly attach: readonly NewDevice[];
  /** For the answers of the processes, and for the guest to release a device, in seconds. */
  readonly wait: number;
  /** For the migration itself, in seconds. */
  readonly limit: number;
  /** Processes that were lost from the broker have ended. */
  readonly ignoreLost: boolean;
  /** Detach devices that processes of the machine still have mapped. */
  readonly force: boolean;
}

/** What a move has led to. */
export interface Outcome {
  /** Where the machine runs; undefined: that cannot be known. */
  readonly where: Place | undefined;
  /** What failed, in order. */
  readonly failures: readonly CliError[];
}

const label = ({ name, size }: Device) => `${name} (${bytes(size)})`;
const goodOf = (all: readonly Participant[]) => `${all.filter(({ good }) => good).length} of ${all.length}`;

/** @throws CliError that names the processes that failed */
function summary(all: readonly Participant[], what: string): string {
  const text = `${goodOf(all)} ${what}`;
  const bad = all.filter(({ good }) => !good);
  if (bad.length === 0) return text;
  const why = bad.map(({ id, name, answer = '', reason = '' }) =>
    `${name || id} ${answer} ${reason}`.replace(/ +/g, ' '),
  );
  throw new CliError(`${text}: ${why.slice(0, 3).join('; ')}`);
}

export class Mover implements AsyncDisposable {
  readonly #machine: Machine;
  readonly #options: MoveOptions;
  readonly #steps: StepLog;
  readonly #stop: AbortSignal;
  #processes!: Processes;
  #devices: readonly Device[] = [];
  /** Devices that the guest was asked to release. */
  readonly #detached: Device[] = [];
  #suspended: readonly Participant[] = [];
  #where: Place | undefined = 'source';
  readonly #failures: CliError[] = [];

  /** @param stop the signal that interrupts the move */
  constructor(machine: Machine, options: MoveOptions, steps: StepLog, stop: AbortSignal) {
    this.#machine = machine;
    this.#options = options;
    this.#steps = steps;
    this.#stop = stop;
  }

  /** Check what the move needs; changes nothing. @returns the devices that the move would detach */
  async inspect(): Promise<readonly Device[]> {
    await this.#steps.run('look', async () => {
      const { host, broker, pid } = this.#options;
      this.#devices = await this.#machine.inspect();
      this.#processes = await Processes.open({ ...broker(), host });
      this.#throwIfStopped();
      if (!pid && this.#devices.length > 0) await this.#awaitLost();
      const devices = this.#devices.map(label).join(', ') || 'no ivshmem device';
      const { length } = pid ?? this.#processes.online;
      return `${devices}; ${counted(length, 'process')} of ${host} to suspend`;
    });
    return this.#devices;
  }

  /** After {@link inspect}. */
  async move(): Promise<Outcome> {
    const moved =
      (await this.#attempt('suspend', (progress) => this.#suspend(progress))) &&
      (await this.#detachAll()) &&
      (await this.#attempt('migrate', (progress) => this.#migrate(progress)));
    if (moved) for (const device of this.#options.attach) await this.#attempt('attach', () => this.#attach(device));
    if (this.#where === 'source') await this.#reattachAll();
    const resumed =
      this.#suspended.length === 0 || (await this.#attempt('resume', (progress) => this.#resume(progress), !moved));
    if (moved && resumed && this.#machine.finishes) await this.#attempt('quit', () => this.#machine.finish());
    return { where: this.#where, failures: this.#failures };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#processes?.close();
  }

  /** @returns whether the step succeeded */
  async #attempt(name: string, body: StepBody, undo = false): Promise<boolean> {
    try {
      await this.#steps.run(name, body, undo);
      return true;
    } catch (error) {
      this.#failures.push(error as CliError);
      return false;
    }
  }

  #throwIfStopped(): void {
    if (this.#stop.aborted) throw new CliError(`interrupted by ${this.#stop.reason}`);
  }

  /** A process that is only cut off from the broker may still use a device, which must not be detached then. */
  async #awaitLost(): Promise<void> {
    const { host, wait, ignoreLost } = this.#options;
    const end = performance.now() + wait * 1000;
    while (this.#processes.lost.length > 0 && !ignoreLost) {
      this.#throwIfStopped();
      if (performance.now() > end) {
        const { lost } = this.#processes;
        throw new CliError(
          `${counted(lost.length, 'process')} of ${host} lost the connection to the broker and may still use a device: ` +
            lost.slice(0, MAX_NAMED).join(', '),
          `Wait until 'isthmus status --host ${host}' lists it again. If it has ended, use '--ignore-lost'.`,
        );
      }
      await pause(POLL_MS);
    }
  }

  async #suspend(progress: (text: string) => void): Promise<string> {
    const { pid, wait, host } = this.#options;
    this.#throwIfStopped();
    const show = (all: readonly Participant[]) => {
      // Kept from the beginning: they have to be resumed, whatever happens now.
      this.#suspended = all;
      progress(goodOf(all));
    };
    const all = await this.#processes.ask('suspend', { pid, wait, stop: this.#stop, show });
    return all.length === 0 ? `no process of ${host} takes part` : summary(all, 'suspended');
  }

  /**
   * Answers can be forged, and processes that take no part are never asked; the slots in the memory tell which processes are
   * attached. Of all devices, before the first is detached.
   * @returns what could not be checked
   */
  async #checkReleased(): Promise<string> {
    if (this.#options.force) return '';
    const remarks: string[] = [];
    for (const device of this.#devices) {
      const guest = { host: this.#options.host, uuid: this.#machine.uuid };
      remarks.push(await checkReleased(device.name, this.#machine.memoryOf(device), guest));
    }
    return remarks.filter(Boolean).join('; ');
  }

  async #detachAll(): Promise<boolean> {
    const [first] = this.#devices;
    for (const device of this.#devices) {
      const detached = await this.#attempt('detach', async () => {
        this.#throwIfStopped();
        const unchecked = device === first ? await this.#checkReleased() : '';
        this.#detached.push(device);
        await this.#machine.detach(device, this.#options.wait);
        return [label(device), unchecked].filter(Boolean).join('; ');
      });
      if (!detached) return false;
    }
    return true;
  }

  async #migrate(progress: (text: string) => void): Promise<string> {
    this.#throwIfStopped();
    let failure: unknown;
    try {
      await this.#machine.migrate({ limit: this.#options.limit, signal: this.#stop, progress });
    } catch (error) {
      failure = error;
    }
    this.#where = undefined;
    try {
      this.#where = await this.#machine.locate();
    } catch (error) {
      throw new CliError(`${failure === undefined ? '' : `${lineOf(failure)}; `}${lineOf(error)}`);
    }
    if (this.#where === 'destination') {
      return failure === undefined ? '' : `the machine had moved already: ${lineOf(failure)}`;
    }
    throw (
      failure ??
      new CliError(
        'the destination has not taken the machine, and has ended',
        'See the messages of the QEMU at the destination.',
      )
    );
  }

  /** Not interruptible: it is short, and wanted even after a signal. */
  async #attach(device: NewDevice): Promise<string> {
    await this.#machine.attach(device);
    return label({ name: device.name, size: device.megabytes * MIB });
  }

  async #reattachAll(): Promise<void> {
    for (const device of this.#detached.toReversed()) {
      const body = async () =>
        (await this.#machine.reattach(device)) ? label(device) : `the guest still has ${device.name}`;
      await this.#attempt('attach again', body, true);
    }
  }

  async #resume(progress: (text: string) => void): Promise<string> {
    const all = await this.#processes.ask('resume', {
      after: this.#suspended,
      wait: this.#options.wait,
      // A signal that has led to the resume does not interrupt it.
      stop: this.#stop.aborted ? undefined : this.#stop,
      show: (now) => progress(goodOf(now)),
    });
    return summary(all, 'running');
  }
}

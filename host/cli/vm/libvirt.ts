/** A machine that libvirt moves from one libvirtd to another. */
import { CliError } from '../support/errors.js';
import { MIB } from '../support/units.js';
import { Domain } from './domain.js';
import type { Device, Machine, MigrateOptions, NewDevice, Place } from './machine.js';
import { detachXml, shmemName, shmemXml } from './shmem.js';
import { shellLine, virsh } from './virsh.js';

const UNITS: Readonly<Record<string, number>> = {
  KiB: 1024,
  K: 1024,
  k: 1024,
  KB: 1000,
  M: MIB,
  MiB: MIB,
  G: 1024 * MIB,
};

/** How much longer a guest gets that was asked to release a device and has not done so. */
const RELEASE_GRACE_S = 5;

interface LibvirtDevice extends Device {
  /** The element by which libvirt finds it. */
  readonly xml: string;
}

export interface LibvirtOptions {
  readonly connect?: string;
  /** URI of the libvirtd of the destination. */
  readonly to: string;
  /** More arguments of `virsh migrate`. */
  readonly more: readonly string[];
}

const isRunning = (state: string | undefined): boolean => state === 'running' || state === 'idle';

export class LibvirtMachine implements Machine {
  readonly name: string;
  readonly #source: Domain;
  readonly #destination: Domain;
  readonly #args: readonly string[];
  #devices: readonly LibvirtDevice[] = [];
  #moved = false;
  uuid: string | undefined;

  constructor(name: string, { connect, to, more }: LibvirtOptions) {
    this.name = name;
    this.#source = new Domain(name, { live: true, ...(connect === undefined ? {} : { connect }) });
    const renamed = more.indexOf('--dname') + 1;
    this.#destination = new Domain((renamed > 0 && more[renamed]) || name, { live: true, connect: to });
    this.#args = [...this.#source.connect, 'migrate', '--live', ...more, '--domain', name, '--desturi', to];
  }

  async inspect(): Promise<readonly Device[]> {
    const state = await this.#source.state();
    if (!isRunning(state)) {
      throw new CliError(`domain '${this.name}' is ${state}`, 'A guest that does not run cannot release a device.');
    }
    await virsh([...this.#destination.connect, 'hostname']);
    this.uuid = await this.#source.uuid();
    this.#devices = (await this.#source.runningDevices()).map((element) => {
      const name = shmemName(element) ?? '';
      const xml = detachXml(element, name);
      const [, unit = '', size = ''] = /<size unit='(\w+)'>(\d+)</.exec(xml) ?? [];
      return { name, xml, size: Number(size) * (UNITS[unit] ?? 1) };
    });
    return this.#devices;
  }

  memoryOf({ name }: Device): string | undefined {
    return this.#source.memoryOf(name);
  }

  async detach(device: Device, wait: number): Promise<void> {
    await this.#source.detach(device.name, this.#xml(device), wait);
  }

  async reattach(device: Device): Promise<boolean> {
    if (!(await this.#source.released(device.name, 0, RELEASE_GRACE_S))) return false;
    if (!(await this.#source.unmapped(device.name, 0))) return false;
    await this.#source.change('attach-device', this.#xml(device));
    return true;
  }

  async attach(device: NewDevice): Promise<void> {
    await this.#destination.change('attach-device', attachXml(device));
  }

  async migrate({ limit, signal }: MigrateOptions): Promise<void> {
    await virsh(this.#args, { limit: limit * 1000, signal });
    this.#moved = true;
  }

  async locate(): Promise<Place> {
    if (this.#moved) return 'destination';
    const here = await stateOf(this.#source);
    if (isRunning(here)) return 'source';
    const there = await stateOf(this.#destination);
    if (isRunning(there)) return 'destination';
    // It runs nowhere: libvirt has left it as it was in the last moment of the migration.
    if (here !== 'paused' || there !== undefined) {
      throw new CliError(`'${this.name}' is ${here ?? 'not'} at the source and ${there ?? 'not'} at the destination`);
    }
    await virsh([...this.#source.connect, 'resume', '--domain', this.name]);
    return 'source';
  }

  /** libvirt ends the QEMU at the source itself. */
  readonly finishes = false;

  async finish(): Promise<string> {
    return '';
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  readonly commands = {
    detach: (device: Device) => this.#source.commandOf('detach-device', this.#xml(device)),
    migrate: () => `${shellLine(['virsh', ...this.#args])}\n`,
    attach: (device: NewDevice) => this.#destination.commandOf('attach-device', attachXml(device)),
    finish: () => '',
  };

  attachByHand({ name, megabytes }: NewDevice): string {
    const where = ['--name', name, '--size', String(megabytes), ...this.#destination.connect];
    return shellLine(['isthmus', 'device', 'attach', this.#destination.name, ...where]);
  }

  #xml(device: Device): string {
    return (this.#devices.find((own) => own === device) as LibvirtDevice).xml;
  }
}

const attachXml = ({ name, megabytes }: NewDevice) => shmemXml(name, megabytes);

/** @returns undefined: there is no such domain */
async function stateOf(domain: Domain): Promise<string | undefined> {
  try {
    return await domain.state();
  } catch (error) {
    if (error instanceof CliError && /failed to get domain/.test(error.message)) return undefined;
    throw error;
  }
}

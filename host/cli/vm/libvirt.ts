/** A machine that libvirt moves from one of its daemons to another. */

import { CliError } from '../support/output.js';
import type { Device, Limits, Machine, Wanted } from './machine.js';
import { Domain, MIB, nameOf, shellLine, shmemXml, toDetach, virsh } from './virsh.js';

const UNITS: Readonly<Record<string, number>> = {
  KiB: 1024,
  K: 1024,
  k: 1024,
  KB: 1000,
  M: MIB,
  MiB: MIB,
  G: 1024 * MIB,
};

/** What a guest gets that has been asked to let go, and has not yet, in seconds. */
const RELENTING = 5;

interface Plugged extends Device {
  /** As libvirt finds it. */
  readonly xml: string;
}

export interface LibvirtOptions {
  readonly connect?: string;
  /** URI of the libvirtd of the destination. */
  readonly to: string;
  /** More arguments for `virsh migrate`. */
  readonly more: readonly string[];
}

export class LibvirtMachine implements Machine {
  readonly name: string;
  readonly #source: Domain;
  readonly #destination: Domain;
  readonly #args: readonly string[];
  #devices: readonly Plugged[] = [];
  #moved = false;

  constructor(name: string, { connect, to, more }: LibvirtOptions) {
    this.name = name;
    this.#source = new Domain(name, { live: true, ...(connect === undefined ? {} : { connect }) });
    const renamed = more.indexOf('--dname') + 1;
    this.#destination = new Domain((renamed > 0 && more[renamed]) || name, { live: true, connect: to });
    this.#args = [...this.#source.connect, 'migrate', '--live', ...more, '--domain', name, '--desturi', to];
  }

  async look(): Promise<readonly Device[]> {
    const state = await this.#source.state();
    if (state !== 'running' && state !== 'idle') {
      throw new CliError(`domain '${this.name}' is ${state}`, 'A guest that does not run cannot let go of a device.');
    }
    await virsh([...this.#destination.connect, 'hostname']);
    this.#devices = (await this.#source.running()).map((element) => {
      const name = nameOf(element) ?? '';
      const xml = toDetach(element, name);
      const [, unit = '', size = ''] = /<size unit='(\w+)'>(\d+)</.exec(xml) ?? [];
      return { name, xml, size: Number(size) * (UNITS[unit] ?? 1) };
    });
    return this.#devices;
  }

  async detach(device: Device, wait: number): Promise<void> {
    await this.#source.detach(device.name, this.#xml(device), wait);
  }

  async restore(device: Device): Promise<boolean> {
    if (!(await this.#source.gone(device.name, 0, RELENTING))) return false;
    await this.#source.change('attach-device', this.#xml(device));
    return true;
  }

  async attach(device: Wanted): Promise<void> {
    await this.#destination.change('attach-device', xmlOf(device));
  }

  async migrate({ wait, signal }: Limits): Promise<void> {
    await virsh(this.#args, { limit: wait * 1000, signal });
    this.#moved = true;
  }

  async whereabouts(): Promise<'source' | 'destination'> {
    if (this.#moved) return 'destination';
    const here = await stateOf(this.#source);
    if (here === 'running' || here === 'idle') return 'source';
    const there = await stateOf(this.#destination);
    if (there === 'running' || there === 'idle') return 'destination';
    // Nowhere else: libvirt has left it as it was in the last moment of the migration.
    if (here !== 'paused' || there !== undefined) {
      throw new CliError(`'${this.name}' is ${here ?? 'not'} at the source and ${there ?? 'not'} at the destination`);
    }
    await virsh([...this.#source.connect, 'resume', '--domain', this.name]);
    return 'source';
  }

  async finish(): Promise<undefined> {}

  async [Symbol.asyncDispose](): Promise<void> {}

  readonly shown = {
    detach: (device: Device) => this.#source.shown('detach-device', this.#xml(device)),
    migrate: () => `${shellLine(['virsh', ...this.#args])}\n`,
    attach: (device: Wanted) => this.#destination.shown('attach-device', xmlOf(device)),
    finish: () => undefined,
  };

  byHand({ name, megabytes }: Wanted): string {
    const where = ['--name', name, '--size', String(megabytes), ...this.#destination.connect];
    return shellLine(['isthmus', 'device', 'attach', this.#destination.name, ...where]);
  }

  #xml(device: Device): string {
    return (this.#devices.find((plugged) => plugged === device) as Plugged).xml;
  }
}

const xmlOf = ({ name, megabytes }: Wanted) => shmemXml(name, String(megabytes));

/** @returns undefined: there is no such domain */
async function stateOf(domain: Domain): Promise<string | undefined> {
  try {
    return await domain.state();
  } catch (error) {
    if (error instanceof CliError && /failed to get domain/.test(error.message)) return undefined;
    throw error;
  }
}

/** A machine that moves from one QEMU to another, by their control channels. */
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { bytes, CliError } from '../support/output.js';
import type { Device, Limits, Machine, Wanted } from './machine.js';
import { Qmp, QmpError } from './qmp.js';
import { MIB, notLetGo } from './virsh.js';

/** Between two looks at the migration, in milliseconds. */
const PAUSE = 50;
/** For the end of a migration that was cancelled, and for the destination to run, in milliseconds. */
const SETTLING = 30_000;

/** What a guest gets that has been asked to let go, and has not yet, in milliseconds. */
const RELENTING = 5000;

/** Where QEMU keeps the devices that have an id, and those that have none. */
const PLACES = ['/machine/peripheral', '/machine/peripheral-anon'];

interface Plugged extends Device {
  /** Its id, or its place. */
  readonly id: string;
  readonly anonymous: boolean;
  /** The object that is its memory. */
  readonly memory: string;
  readonly path: string;
  readonly bus: string;
  /** Slot and function. */
  readonly addr: string;
}

interface Migration {
  readonly status?: string;
  readonly 'error-desc'?: string;
  readonly 'socket-address'?: unknown;
  readonly ram?: { readonly remaining?: number; readonly total?: number };
}

/** No more of it: what comes next is another migration. */
const ENDS: readonly (string | undefined)[] = ['completed', 'failed', 'cancelled'];

export interface QemuOptions {
  readonly name: string;
  /** Sockets of the two. */
  readonly qmp: string;
  readonly toQmp: string;
  /** Where the destination waits, or is to wait. */
  readonly uri: string;
  readonly keepSource: boolean;
}

export class QemuMachine implements Machine {
  readonly name: string;
  readonly #options: QemuOptions;
  #source!: Qmp;
  #destination!: Qmp;
  #devices: readonly Plugged[] = [];

  constructor(options: QemuOptions) {
    this.name = options.name;
    this.#options = options;
  }

  async look(): Promise<readonly Device[]> {
    const { qmp, toQmp, uri } = this.#options;
    this.#source = await open(qmp, '--qmp');
    this.#destination = await open(toQmp, '--to-qmp');
    const here = await statusOf(this.#source);
    if (here !== 'running') {
      throw new CliError(
        `the machine is ${here} at ${qmp}`,
        "A guest that does not run cannot let go of a device: 'cont'.",
      );
    }
    const there = await statusOf(this.#destination);
    if (there !== 'inmigrate') {
      throw new CliError(
        `the QEMU at ${toQmp} does not wait for a migration: it is ${there}`,
        `Start it with the arguments of the first one, and -incoming defer or -incoming ${uri}.`,
      );
    }
    this.#devices = await this.#found();
    return this.#devices;
  }

  async #found(): Promise<Plugged[]> {
    const get = (path: string, property: string) => this.#source.execute('qom-get', { path, property });
    const found: Plugged[] = [];
    for (const place of PLACES) {
      const children = (await this.#source.execute('qom-list', { path: place })) as { name: string; type: string }[];
      for (const { name } of children.filter(({ type }) => type === 'child<ivshmem-plain>')) {
        const at = `${place}/${name}`;
        const memory = String(await get(at, 'memdev'));
        const devfn = Number(await get(at, 'addr'));
        const path = String(await get(memory, 'mem-path'));
        const anonymous = place !== PLACES[0];
        found.push({
          name: basename(path),
          id: anonymous ? at : name,
          anonymous,
          path,
          memory: basename(memory),
          size: Number(await get(memory, 'size')),
          bus: basename(String(await get(at, 'parent_bus'))),
          addr: `${(devfn >> 3).toString(16)}.${devfn & 7}`,
        });
      }
    }
    return found;
  }

  async detach(device: Device, wait: number): Promise<void> {
    const { id, memory } = this.#plugged(device);
    const since = this.#source.told;
    try {
      await this.#source.execute('device_del', { id });
    } catch (error) {
      // Somebody has asked the guest before.
      if (!(error instanceof QmpError && /already in the process of unplug/.test(error.message))) throw error;
    }
    if (!(await this.#gone(device, since, wait * 1000))) throw notLetGo(this.name, device.name, wait);
    await this.#source.execute('object-del', { id: memory });
  }

  /** @param limit in milliseconds */
  async #gone(device: Device, since: number, limit: number): Promise<boolean> {
    const { id, anonymous } = this.#plugged(device);
    try {
      await this.#source.event('DEVICE_DELETED', (data) => data[anonymous ? 'path' : 'device'] === id, {
        since,
        limit,
      });
      return true;
    } catch (error) {
      if (error instanceof QmpError && error.failure === 'late') return false;
      throw error;
    }
  }

  async restore(device: Device): Promise<boolean> {
    const { id, anonymous, memory, path, size, bus, addr } = this.#plugged(device);
    const since = this.#source.told;
    const there = (await this.#found()).some((other) => other.id === id && other.path === path);
    if (there && !(await this.#gone(device, since, RELENTING))) return false;
    const objects = (await this.#source.execute('qom-list', { path: '/objects' })) as { name: string }[];
    const kept = objects.some(({ name }) => name === memory);
    if (!kept) await this.#source.execute('object-add', objectOf(memory, path, size));
    const place = { bus, addr, ...(anonymous ? {} : { id }) };
    await this.#source.execute('device_add', { driver: 'ivshmem-plain', memdev: memory, ...place });
    return true;
  }

  async attach(device: Wanted): Promise<void> {
    const [object, plug] = this.#toAttach(device);
    await this.#destination.execute('object-add', object);
    try {
      await this.#destination.execute('device_add', plug);
    } catch (error) {
      await this.#destination.execute('object-del', { id: object['id'] }).catch(() => {});
      throw error;
    }
  }

  async migrate({ wait, signal, told }: Limits & { told(text: string): void }): Promise<void> {
    const { uri } = this.#options;
    if (await this.#deferred()) await this.#destination.execute('migrate-incoming', { uri }, { signal });
    // Not cut short by a signal: QEMU would go on with it. Once it has begun, the signal cancels it.
    await this.#source.execute('migrate', { uri });
    const end = performance.now() + wait * 1000;
    let cancelled: string | undefined;
    for (let until = end; ; await sleep(PAUSE)) {
      const { status, ram, 'error-desc': why } = await this.#migration();
      if (status === 'completed') return;
      if (ENDS.includes(status)) throw new CliError(cancelled ?? why ?? `the migration has ${status}`);
      if (ram?.remaining !== undefined) told(`${bytes(ram.remaining)} left`);
      if (cancelled === undefined && (signal?.aborted || performance.now() > end)) {
        cancelled = signal?.aborted ? 'cancelled' : `the migration has not ended within ${wait} s, and was cancelled`;
        until = performance.now() + SETTLING;
        await this.#source.execute('migrate_cancel');
      } else if (performance.now() > until) {
        throw new CliError(`${cancelled ?? ''}: it has not stopped`);
      }
    }
  }

  /** Started with `-incoming defer`, and not told yet where to wait. */
  async #deferred(): Promise<boolean> {
    const { status, 'socket-address': address } = (await this.#destination.execute('query-migrate')) as Migration;
    return status === undefined && address === undefined;
  }

  async #migration(): Promise<Migration> {
    return (await this.#source.execute('query-migrate')) as Migration;
  }

  /** One that may run at the destination is not made to run at the source as well. */
  async whereabouts(): Promise<'source' | 'destination'> {
    const here = await statusOf(this.#source).catch(ended);
    if (here === 'running') return 'source';
    const completed = here !== undefined && (await this.#migration()).status === 'completed';
    for (const end = performance.now() + SETTLING; ; await sleep(PAUSE)) {
      const there = await statusOf(this.#destination).catch(ended);
      if (there === 'running') return 'destination';
      // Started with -S.
      if (completed && (there === 'paused' || there === 'prelaunch')) {
        await this.#destination.execute('cont');
        return 'destination';
      }
      if (here === undefined) throw new CliError('the QEMU at the source has ended');
      // The other one has ended, or has not got everything.
      if (there === undefined || !completed) {
        await this.#source.execute('cont');
        return 'source';
      }
      if (performance.now() > end) throw new CliError(`the machine is ${there} at ${this.#options.toQmp}`);
    }
  }

  async finish(): Promise<string | undefined> {
    if (this.#options.keepSource) return undefined;
    await this.#source.execute('quit').catch(ended);
    return 'the QEMU at the source has ended';
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#source?.close();
    await this.#destination?.close();
  }

  readonly shown = {
    detach: (device: Device) => {
      const { id, memory } = this.#plugged(device);
      return (
        this.#shown(true, 'device_del', { id }) +
        `# until DEVICE_DELETED\n${this.#shown(true, 'object-del', { id: memory })}`
      );
    },
    migrate: () => {
      const { uri } = this.#options;
      return (
        `# if it was started with -incoming defer\n${this.#shown(false, 'migrate-incoming', { uri })}` +
        `${this.#shown(true, 'migrate', { uri })}# until query-migrate says: completed\n`
      );
    },
    attach: (device: Wanted) => this.byHand(device),
    finish: () => (this.#options.keepSource ? undefined : this.#shown(true, 'quit')),
  };

  byHand(device: Wanted): string {
    const [object, plug] = this.#toAttach(device);
    return this.#shown(false, 'object-add', object) + this.#shown(false, 'device_add', plug);
  }

  #shown(source: boolean, execute: string, args?: Readonly<Record<string, unknown>>): string {
    const { qmp, toQmp } = this.#options;
    return `${source ? qmp : toQmp} ${JSON.stringify({ execute, ...(args ? { arguments: args } : {}) })}\n`;
  }

  #plugged(device: Device): Plugged {
    return this.#devices.find((plugged) => plugged === device) as Plugged;
  }

  /** The machine at the destination is laid out as that at the source: what has taken a device there takes one here. */
  #toAttach({ name, path, megabytes }: Wanted): [Readonly<Record<string, unknown>>, Readonly<Record<string, unknown>>] {
    // An id begins with a letter.
    const id = `isthmus-${name.replace(/[^\w.-]/g, '-')}`;
    const [first] = this.#devices;
    const place = first ? { bus: first.bus } : {};
    return [objectOf(id, path, megabytes * MIB), { driver: 'ivshmem-plain', id, memdev: id, ...place }];
  }
}

function objectOf(id: string, path: string, size: number): Readonly<Record<string, unknown>> {
  return { 'qom-type': 'memory-backend-file', id, share: true, 'mem-path': path, size };
}

async function statusOf(qmp: Qmp): Promise<string> {
  return ((await qmp.execute('query-status')) as { status: string }).status;
}

/** That a QEMU has ended is no answer, and no failure. */
function ended(error: unknown): undefined {
  if (!(error instanceof QmpError && error.failure === 'closed')) throw error;
}

async function open(address: string, option: string): Promise<Qmp> {
  try {
    return await Qmp.open(address, { limit: 10_000 });
  } catch (error) {
    throw new CliError(
      `${option}: ${(error as Error).message}`,
      'Start QEMU with -qmp unix:PATH,server=on,wait=off. It talks to one at a time.',
    );
  }
}

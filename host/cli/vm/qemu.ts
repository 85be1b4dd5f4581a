/** A machine that moves from one QEMU to another, driven through their control channels. */
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CliError } from '../support/errors.js';
import { bytes, MIB } from '../support/units.js';
import { type Device, type Machine, type MigrateOptions, type NewDevice, notReleased, type Place } from './machine.js';
import { Qmp, QmpError } from './qmp.js';

/** Between two queries of the migration. */
const POLL_MS = 50;
/** For a cancelled migration to end, and for the machine to run at the destination. */
const SETTLE_LIMIT_MS = 30_000;
/** How much longer a guest gets that was asked to release a device and has not done so. */
const RELEASE_GRACE_MS = 5000;
/** For QEMU to free the memory of a device that is gone: some milliseconds as a rule. */
const FREED_LIMIT_MS = 10_000;
const CONNECT_LIMIT_MS = 10_000;

/** Where QEMU keeps devices with an id, and devices without one. */
const NAMED = '/machine/peripheral';
const ANONYMOUS = '/machine/peripheral-anon';

type Arguments = Readonly<Record<string, unknown>>;

interface QemuDevice extends Device {
  /** Its id; without one its path in QEMU's object tree. */
  readonly id: string;
  readonly anonymous: boolean;
  /** Id of the object that is its memory. */
  readonly memory: string;
  readonly path: string;
  readonly bus: string;
  /** Slot and function. */
  readonly addr: string;
}

/** What `query-migrate` returns. */
interface Migration {
  readonly status?: string;
  readonly 'error-desc'?: string;
  readonly 'socket-address'?: unknown;
  readonly ram?: { readonly remaining?: number; readonly total?: number };
}

/** States in which a migration is over. */
const OVER: readonly (string | undefined)[] = ['completed', 'failed', 'cancelled'];

export interface QemuOptions {
  readonly name: string;
  /** Control sockets of the QEMU at the source and of the one at the destination. */
  readonly qmp: string;
  readonly toQmp: string;
  /** Where the destination waits for the migration, or will wait. */
  readonly uri: string;
  /** Leave the QEMU at the source running, without the machine. */
  readonly keepSource: boolean;
}

export class QemuMachine implements Machine {
  readonly name: string;
  readonly #options: QemuOptions;
  #source!: Qmp;
  #destination!: Qmp;
  #devices: readonly QemuDevice[] = [];
  uuid: string | undefined;

  constructor(options: QemuOptions) {
    this.name = options.name;
    this.#options = options;
  }

  async inspect(): Promise<readonly Device[]> {
    const { qmp, toQmp, uri } = this.#options;
    this.#source = await open(qmp, '--qmp');
    this.#destination = await open(toQmp, '--to-qmp');
    const here = await statusOf(this.#source);
    if (here !== 'running') {
      throw new CliError(
        `the machine is ${here} at ${qmp}`,
        "A guest that does not run cannot release a device. Resume it ('cont').",
      );
    }
    const there = await statusOf(this.#destination);
    if (there !== 'inmigrate') {
      throw new CliError(
        `the QEMU at ${toQmp} does not wait for a migration: it is ${there}`,
        `Start it with the arguments of the QEMU at the source, and with -incoming defer or -incoming ${uri}.`,
      );
    }
    this.uuid = ((await this.#source.execute('query-uuid')) as { readonly UUID?: string }).UUID;
    this.#devices = await this.#findDevices();
    return this.#devices;
  }

  async #findDevices(): Promise<QemuDevice[]> {
    const get = (path: string, property: string) => this.#source.execute('qom-get', { path, property });
    const found: QemuDevice[] = [];
    for (const place of [NAMED, ANONYMOUS]) {
      const children = (await this.#source.execute('qom-list', { path: place })) as { name: string; type: string }[];
      for (const { name } of children.filter(({ type }) => type === 'child<ivshmem-plain>')) {
        const at = `${place}/${name}`;
        const memory = String(await get(at, 'memdev'));
        const devfn = Number(await get(at, 'addr'));
        const path = String(await get(memory, 'mem-path'));
        const anonymous = place === ANONYMOUS;
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

  memoryOf(device: Device): string | undefined {
    // A socket that is a path is on this host.
    return this.#options.qmp.includes('/') ? this.#own(device).path : undefined;
  }

  async detach(device: Device, wait: number): Promise<void> {
    const { id, memory } = this.#own(device);
    const since = this.#source.eventCount;
    try {
      await this.#source.execute('device_del', { id });
    } catch (error) {
      // The guest was asked before, by another client.
      if (!(error instanceof QmpError && /already in the process of unplug/.test(error.message))) throw error;
    }
    if (!(await this.#released(device, since, wait * 1000))) throw notReleased(this.name, device.name, wait);
    await this.#source.execute('object-del', { id: memory });
    if (!(await this.#source.freed(memory, FREED_LIMIT_MS))) {
      throw new CliError(
        `the guest '${this.name}' has released ${device.name}, but its QEMU has not freed the memory within ${FREED_LIMIT_MS / 1000} s`,
        `Do not plug in a device of the same id before 'info ramblock' has lost '${memory}': QEMU would abort.`,
      );
    }
  }

  /** @param limit in milliseconds */
  async #released(device: Device, since: number, limit: number): Promise<boolean> {
    const { id, anonymous } = this.#own(device);
    const isDevice = (data: Arguments) => data[anonymous ? 'path' : 'device'] === id;
    try {
      await this.#source.event('DEVICE_DELETED', isDevice, { since, limit });
      return true;
    } catch (error) {
      if (error instanceof QmpError && error.failure === 'late') return false;
      throw error;
    }
  }

  async reattach(device: Device): Promise<boolean> {
    const { id, anonymous, memory, path, size, bus, addr } = this.#own(device);
    const since = this.#source.eventCount;
    const held = (await this.#findDevices()).some((other) => other.id === id && other.path === path);
    if (held && !(await this.#released(device, since, RELEASE_GRACE_MS))) return false;
    const objects = (await this.#source.execute('qom-list', { path: '/objects' })) as { name: string }[];
    const kept = objects.some(({ name }) => name === memory);
    if (!kept && !(await this.#source.freed(memory, FREED_LIMIT_MS))) return false;
    if (!kept) await this.#source.execute('object-add', memoryObject(memory, path, size));
    const place = { bus, addr, ...(anonymous ? {} : { id }) };
    await this.#source.execute('device_add', { driver: 'ivshmem-plain', memdev: memory, ...place });
    return true;
  }

  async attach(device: NewDevice): Promise<void> {
    const [object, plug] = this.#attachArguments(device);
    await this.#destination.execute('object-add', object);
    try {
      await this.#destination.execute('device_add', plug);
    } catch (error) {
      await this.#destination.execute('object-del', { id: object['id'] }).catch(() => {});
      throw error;
    }
  }

  async migrate({ limit, signal, progress }: MigrateOptions): Promise<void> {
    const { uri } = this.#options;
    if (await this.#isDeferred()) await this.#destination.execute('migrate-incoming', { uri }, { signal });
    // Without the signal: QEMU would go on with the command. The loop below cancels the migration instead.
    await this.#source.execute('migrate', { uri });
    const end = performance.now() + limit * 1000;
    let cancelled: string | undefined;
    for (let until = end; ; await sleep(POLL_MS)) {
      const { status, ram, 'error-desc': why } = await this.#queryMigration();
      if (status === 'completed') return;
      if (OVER.includes(status)) throw new CliError(cancelled ?? why ?? `the migration has ${status}`);
      if (ram?.remaining !== undefined) progress(`${bytes(ram.remaining)} left`);
      if (cancelled === undefined && (signal?.aborted || performance.now() > end)) {
        cancelled = signal?.aborted ? 'cancelled' : `the migration has not ended within ${limit} s, and was cancelled`;
        until = performance.now() + SETTLE_LIMIT_MS;
        await this.#source.execute('migrate_cancel');
      } else if (performance.now() > until) {
        throw new CliError(`${cancelled ?? ''}: the migration has not stopped`);
      }
    }
  }

  /** Whether the destination was started with `-incoming defer`, and waits nowhere yet. */
  async #isDeferred(): Promise<boolean> {
    const { status, 'socket-address': address } = (await this.#destination.execute('query-migrate')) as Migration;
    return status === undefined && address === undefined;
  }

  async #queryMigration(): Promise<Migration> {
    return (await this.#source.execute('query-migrate')) as Migration;
  }

  /** A machine that may run at the destination is never made to run at the source as well. */
  async locate(): Promise<Place> {
    const here = await statusOf(this.#source).catch(ignoreEnd);
    if (here === 'running') return 'source';
    const completed = here !== undefined && (await this.#queryMigration()).status === 'completed';
    for (const end = performance.now() + SETTLE_LIMIT_MS; ; await sleep(POLL_MS)) {
      const there = await statusOf(this.#destination).catch(ignoreEnd);
      if (there === 'running') return 'destination';
      // It was started with -S.
      if (completed && (there === 'paused' || there === 'prelaunch')) {
        await this.#destination.execute('cont');
        return 'destination';
      }
      if (here === undefined) throw new CliError('the QEMU at the source has ended');
      // The destination has ended, or has not received everything.
      if (there === undefined || !completed) {
        await this.#source.execute('cont');
        return 'source';
      }
      if (performance.now() > end) throw new CliError(`the machine is ${there} at ${this.#options.toQmp}`);
    }
  }

  get finishes(): boolean {
    return !this.#options.keepSource;
  }

  async finish(): Promise<string> {
    await this.#source.execute('quit').catch(ignoreEnd);
    return 'the QEMU at the source has ended';
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#source?.close();
    await this.#destination?.close();
  }

  readonly commands = {
    detach: (device: Device) => {
      const { id, memory } = this.#own(device);
      return (
        this.#commandOf('source', 'device_del', { id }) +
        `# wait for DEVICE_DELETED\n${this.#commandOf('source', 'object-del', { id: memory })}`
      );
    },
    migrate: () => {
      const { uri } = this.#options;
      return (
        `# if the destination was started with -incoming defer\n${this.#commandOf('destination', 'migrate-incoming', { uri })}` +
        `${this.#commandOf('source', 'migrate', { uri })}# wait until query-migrate returns completed\n`
      );
    },
    attach: (device: NewDevice) => this.attachByHand(device),
    finish: () => this.#commandOf('source', 'quit'),
  };

  attachByHand(device: NewDevice): string {
    const [object, plug] = this.#attachArguments(device);
    return this.#commandOf('destination', 'object-add', object) + this.#commandOf('destination', 'device_add', plug);
  }

  #commandOf(place: Place, execute: string, args?: Arguments): string {
    const { qmp, toQmp } = this.#options;
    return `${place === 'source' ? qmp : toQmp} ${JSON.stringify({ execute, ...(args ? { arguments: args } : {}) })}\n`;
  }

  #own(device: Device): QemuDevice {
    return this.#devices.find((own) => own === device) as QemuDevice;
  }

  /** Both machines have the same buses: the bus of a device at the source takes the new one at the destination. */
  #attachArguments({ name, path, megabytes }: NewDevice): [Arguments, Arguments] {
    // An id has to begin with a letter.
    const id = `isthmus-${name.replace(/[^\w.-]/g, '-')}`;
    const [first] = this.#devices;
    const place = first ? { bus: first.bus } : {};
    return [memoryObject(id, path, megabytes * MIB), { driver: 'ivshmem-plain', id, memdev: id, ...place }];
  }
}

function memoryObject(id: string, path: string, size: number): Arguments {
  return { 'qom-type': 'memory-backend-file', id, share: true, 'mem-path': path, size };
}

async function statusOf(qmp: Qmp): Promise<string> {
  return ((await qmp.execute('query-status')) as { status: string }).status;
}

/** For `catch`: a QEMU that has ended gives no answer, which is not a failure. */
function ignoreEnd(error: unknown): undefined {
  if (!(error instanceof QmpError && error.failure === 'closed')) throw error;
}

async function open(address: string, option: string): Promise<Qmp> {
  try {
    return await Qmp.open(address, { limit: CONNECT_LIMIT_MS });
  } catch (error) {
    throw new CliError(
      `${option}: ${(error as Error).message}`,
      'Start QEMU with -qmp unix:PATH,server=on,wait=off. It serves one client at a time.',
    );
  }
}

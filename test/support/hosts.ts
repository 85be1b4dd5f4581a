/**
 * Simulated hosts: for tests of how a service behaves in a migration, without virtual machines.
 *
 * A host is a region, like an ivshmem device. A {@link Seat} is the view of a virtual machine on its host: a path, at
 * which the region of that host lies. Moving a seat puts the region of another host there; a process that has attached
 * to the old region keeps it until it suspends. Seats are files, so the runtimes on a seat may be in this process or in
 * another one.
 *
 * ```ts
 * import { Runtime } from 'isthmus';
 * import { SimulatedHosts } from 'isthmus/testing';
 *
 * using hosts = await SimulatedHosts.create(2);
 * const seat = hosts.seat(0);
 * await using runtime = await Runtime.create({ name: 'service', ...seat.options });
 * // … connect, send, receive …
 * await seat.migrate(runtime, 1);             // suspended, moved, resumed; over tcp to peers on the old host
 * ```
 */
import { linkSync, rmSync } from 'node:fs';
import { createPosix, SHM } from '../../host/device/posix.js';
import { MappedRegion } from '../../host/region/mapped.js';

const MIB = 0x100000;

/** Options of a runtime on a seat; they take precedence over settings of the machine. */
export interface SeatOptions {
  readonly regions: string;
  /** One kernel runs all simulated hosts: paths that peers would share must be disabled. */
  readonly shm: 0;
  readonly uio: { readonly sysfs: string; readonly dev: string };
}

/** A runtime that can be moved. */
export interface Suspendable {
  suspend(): Promise<void>;
  resume(): Promise<void>;
}

/** The place of a virtual machine. */
export class Seat {
  /** Path of the region of the host. */
  readonly path: string;
  readonly #hosts: readonly string[];
  #host: number | undefined;

  /** Created by {@link SimulatedHosts.seat}. */
  constructor(path: string, hosts: readonly string[], host: number | undefined) {
    this.path = path;
    this.#hosts = hosts;
    this.move(host);
  }

  /** Number of the host; undefined: a host without a device. */
  get host(): number | undefined {
    return this.#host;
  }

  /** For `Runtime.create`. */
  get options(): SeatOptions {
    return { regions: this.#pattern, shm: 0, uio: { sysfs: '/nonexistent', dev: '/nonexistent' } };
  }

  /** The same as environment variables, for a separate process. */
  get environment(): Readonly<Record<string, string>> {
    return { PSP_IVSHMEM_REGIONS: this.#pattern, PSP_SHM: '0' };
  }

  /** A pattern: a region that it does not find may be missing, unlike a named one. */
  get #pattern(): string {
    return this.path.replace(/.$/, '?');
  }

  /**
   * Unplug the device of the host, and plug in that of another.
   * @param host its number; undefined: a host without a device
   */
  move(host: number | undefined): void {
    const region = host === undefined ? undefined : this.#hosts[host];
    if (host !== undefined && region === undefined) throw new RangeError(`there is no host ${host}`);
    rmSync(this.path, { force: true });
    if (region !== undefined) linkSync(region, this.path);
    this.#host = host;
  }

  /** Suspend the runtime, move the seat, resume the runtime. */
  async migrate(runtime: Suspendable, host: number | undefined): Promise<void> {
    await runtime.suspend();
    this.move(host);
    await runtime.resume();
  }
}

/** Some hosts, removed when disposed of. */
export class SimulatedHosts implements Disposable {
  readonly #prefix: string;
  readonly #hosts: string[] = [];
  readonly #seats: Seat[] = [];

  private constructor(prefix: string) {
    this.#prefix = prefix;
  }

  /**
   * @param count number of hosts
   * @param size of the region of each in bytes, a power of two from 1 MiB on
   * @throws ERR_ISTHMUS_REGION_…, ERR_ISTHMUS_NATIVE_MISSING, ERR_ISTHMUS_SYSCALL
   */
  static async create(count: number, size: number = 16 * MIB): Promise<SimulatedHosts> {
    const hosts = new SimulatedHosts(`${SHM}/isthmus-host-${process.pid}-${process.hrtime.bigint().toString(36)}`);
    try {
      for (let host = 0; host < count; host++) {
        const path = `${hosts.#prefix}-region${host}`;
        const backing = createPosix(path, size);
        hosts.#hosts.push(path);
        (await MappedRegion.open(backing)).detach();
      }
      return hosts;
    } catch (error) {
      hosts[Symbol.dispose]();
      throw error;
    }
  }

  /** Files of the regions, by the number of the host. */
  get regions(): readonly string[] {
    return this.#hosts;
  }

  /** A place on a host; undefined: on a host without a device. */
  seat(host?: number): Seat {
    const seat = new Seat(`${this.#prefix}-seat${this.#seats.length}x`, this.#hosts, host);
    this.#seats.push(seat);
    return seat;
  }

  [Symbol.dispose](): void {
    for (const seat of this.#seats) seat.move(undefined);
    for (const path of this.#hosts) rmSync(path, { force: true });
  }
}

/** A domain of libvirt and its ivshmem devices. */
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileAt } from '../../device/identity.js';
import { CliError } from '../support/errors.js';
import { qemuOf } from './domain-process.js';
import { notReleased } from './machine.js';
import { isRemote, shmemName, shmemPath } from './shmem.js';
import { shellLine, virsh } from './virsh.js';

/** Between two reads of the XML of a domain. */
const POLL_MS = 500;
/** Between two looks at what QEMU has mapped, and for how long: it unmaps behind a grace period, milliseconds as a rule. */
const UNMAP_POLL_MS = 10;
const UNMAP_LIMIT_MS = 10_000;

/** What a change affects, as virsh names it. */
export interface Scope {
  readonly live?: true;
  readonly config?: true;
  readonly connect?: string;
}

type Verb = 'attach-device' | 'detach-device';

export class Domain {
  readonly name: string;
  /** Arguments of virsh that select the libvirtd. */
  readonly connect: readonly string[];
  readonly #scope: readonly string[];
  /** Arguments of `virsh dumpxml` for each description that a change affects: the running domain, the stored one. */
  readonly #views: readonly (readonly string[])[];

  constructor(name: string, { connect, live, config }: Scope) {
    this.name = name;
    this.connect = connect === undefined ? [] : ['--connect', connect];
    this.#scope = [...(live ? ['--live'] : []), ...(config ? ['--config'] : [])];
    this.#views = [...(config && !live ? [] : [[]]), ...(config ? [['--inactive']] : [])];
  }

  /** Whether a change affects the running domain, or only its next start. */
  get affectsRunning(): boolean {
    return this.#views.some((view) => view.length === 0);
  }

  /** The `<shmem>` elements of that name, in each description that a change affects; without a name all of them. */
  async devices(name: string | undefined, views = this.#views): Promise<string[]> {
    const found: string[] = [];
    for (const view of views) {
      const xml = await virsh([...this.connect, 'dumpxml', '--domain', this.name, ...view]);
      found.push(...(xml.match(/<shmem\b(?:[^>]*\/>|[\s\S]*?<\/shmem>)/g) ?? []));
    }
    return name === undefined ? found : found.filter((element) => shmemName(element) === name);
  }

  /** The same of the running domain. */
  runningDevices(name?: string): Promise<string[]> {
    return this.devices(name, [[]]);
  }

  /** `running`, `paused`, `shut off`, … */
  async state(): Promise<string> {
    return (await virsh([...this.connect, 'domstate', '--domain', this.name])).trim();
  }

  /** UUID of the domain. */
  async uuid(): Promise<string> {
    return (await virsh([...this.connect, 'domuuid', '--domain', this.name])).trim();
  }

  /** The file that is the memory of the device of that name; undefined: the domain runs on another host. */
  memoryOf(device: string): string | undefined {
    return isRemote(this.connect[1]) ? undefined : shmemPath(device);
  }

  #arguments(verb: Verb): string[] {
    return [...this.connect, verb, '--domain', this.name, '--file', '/dev/stdin', ...this.#scope];
  }

  async change(verb: Verb, xml: string): Promise<void> {
    await virsh(this.#arguments(verb), { input: xml });
  }

  /** {@link change} as a command for a shell. */
  commandOf(verb: Verb, xml: string): string {
    return `${shellLine(['virsh', ...this.#arguments(verb)])} <<'EOF'\n${xml}EOF\n`;
  }

  /**
   * Detach a device, and wait until the guest has released it and QEMU has unmapped its memory.
   * @param wait for the guest, in seconds
   * @throws CliError
   */
  async detach(device: string, xml: string, wait: number): Promise<void> {
    const before = this.affectsRunning ? (await this.runningDevices(device)).length : 0;
    const mapped = this.affectsRunning && before === 1 ? await this.#mapping(device) : undefined;
    await this.change('detach-device', xml);
    if (!this.affectsRunning) return;
    // virsh reports success once the guest was asked, and some seconds later even if the guest keeps the device.
    if (!(await this.released(device, before - 1, wait))) throw notReleased(this.name, device, wait);
    // QEMU tells that the device and its memory are gone, and unmaps the file a moment later.
    for (const until = performance.now() + UNMAP_LIMIT_MS; mapped?.(); await sleep(UNMAP_POLL_MS)) {
      if (performance.now() > until) {
        throw new CliError(
          `'${this.name}' has released ${device}, but its QEMU still has ${shmemPath(device)} mapped after ${UNMAP_LIMIT_MS / 1000} s`,
          'The device is detached. Do not give the memory to others before QEMU has ended, or has unmapped it (/proc/PID/maps).',
        );
      }
    }
  }

  /** A function that tells whether the domain's QEMU has the memory mapped; undefined: that cannot be seen from here. */
  async #mapping(device: string): Promise<(() => boolean) | undefined> {
    const path = this.memoryOf(device);
    if (path === undefined || !existsSync(path)) return undefined;
    const file = fileAt(path);
    const uuid = await this.uuid();
    const maps = () => qemuOf(uuid, file).maps;
    return maps() ? maps : undefined;
  }

  /**
   * Whether the running domain comes to have at most `left` devices of that name.
   * @param wait in seconds
   */
  async released(device: string, left: number, wait: number): Promise<boolean> {
    for (const until = performance.now() + wait * 1000; ; await sleep(POLL_MS)) {
      if ((await this.runningDevices(device)).length <= left) return true;
      if (performance.now() > until) return false;
    }
  }
}

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
/** After a detach whose end cannot be seen: a grace period of QEMU takes milliseconds. */
const UNSEEN_GRACE_MS = 1000;

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
    await this.change('detach-device', xml);
    if (!this.affectsRunning) return;
    // virsh reports success once the guest was asked, and some seconds later even if the guest keeps the device.
    if (!(await this.released(device, before - 1, wait))) throw notReleased(this.name, device, wait);
    if (before === 1 && !(await this.unmapped(device, UNSEEN_GRACE_MS))) throw this.stillMapped(device);
  }

  /**
   * Wait until the domain's QEMU has unmapped the memory of a device that the domain no longer has. QEMU tells first that the
   * device is gone. If a device of the same name is attached before QEMU has let go, QEMU aborts, and the guest with it
   * ("RAMBlock … already registered").
   * @param grace how long to wait where the mapping cannot be seen: QEMU runs on another host, or as another user. In ms
   * @returns false: QEMU still has it mapped
   */
  async unmapped(device: string, grace: number): Promise<boolean> {
    const path = this.memoryOf(device);
    const uuid = await this.uuid();
    const maps = () => path !== undefined && existsSync(path) && qemuOf(uuid, fileAt(path)).maps;
    if (!maps()) await sleep(grace);
    for (const until = performance.now() + UNMAP_LIMIT_MS; maps(); await sleep(UNMAP_POLL_MS)) {
      if (performance.now() > until) return false;
    }
    return true;
  }

  /** {@link unmapped} was false. */
  stillMapped(device: string): CliError {
    return new CliError(
      `'${this.name}' does not have ${device} any more, but its QEMU still has ${shmemPath(device)} mapped after ${UNMAP_LIMIT_MS / 1000} s`,
      'Do not attach a device of that name, which could end QEMU, before /proc/PID/maps of QEMU has lost the file.',
    );
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

/** A domain of libvirt and its ivshmem devices. */
import { setTimeout as sleep } from 'node:timers/promises';
import { notReleased } from './machine.js';
import { shmemName } from './shmem.js';
import { shellLine, virsh } from './virsh.js';

/** Between two reads of the XML of a domain. */
const POLL_MS = 500;

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
   * Detach a device, and wait until the guest has released it.
   * @param wait in seconds
   */
  async detach(device: string, xml: string, wait: number): Promise<void> {
    const before = this.affectsRunning ? (await this.runningDevices(device)).length : 0;
    await this.change('detach-device', xml);
    // virsh reports success once the guest was asked, and some seconds later even if the guest keeps the device.
    if (this.affectsRunning && !(await this.released(device, before - 1, wait))) {
      throw notReleased(this.name, device, wait);
    }
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

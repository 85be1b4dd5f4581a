/**
 * A virtual machine: QEMU with two processors and without hardware virtualisation, a shell in it, and QEMU's own control
 * channel (QMP). Every wait has a limit; no machine outlives the test; what its console said is part of each error, and
 * its folder is kept if there was one.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { Qmp, type QmpEvent } from '../../host/cli/vm/qmp.js';
import type { Memory } from './segment.js';
import { type Result, Shell } from './shell.js';
import { slowness } from './tools.js';

const guests = new Set<Guest>();
process.on('exit', () => {
  for (const guest of guests) guest.kill();
});

export interface GuestOptions {
  /** Path of a kernel, and of an initramfs as `image.ts` makes it. */
  readonly kernel: string;
  readonly initramfs: string;
  /** What it calls itself. */
  readonly name?: string;
  /** In the network of a switch; without it, it does not use one. */
  readonly address?: string;
  /** MiB */
  readonly memory?: number;
  /** More arguments for QEMU: devices. */
  readonly args?: readonly string[];
  /** Path of a socket: it does not boot, and takes over the machine that moves to there. */
  readonly incoming?: string;
}

/** What the kernel and the first process are told. */
export function commandLine({ name = 'guest', address = '' }: Pick<GuestOptions, 'name' | 'address'>): string {
  return `console=ttyS0 loglevel=5 panic=-1 mitigations=off NAME=${name} ADDRESS=${address}`;
}

export class Guest {
  readonly folder = mkdtempSync(join(tmpdir(), 'isthmus-vm-'));
  readonly name: string;
  readonly #process: ChildProcess;
  #said = '';
  #shell!: Shell;
  #qmp!: Qmp;
  #failed = false;

  private constructor(options: GuestOptions) {
    guests.add(this);
    const { kernel, initramfs, memory = 256, args = [], incoming } = options;
    this.name = options.name ?? 'guest';
    const socket = (id: string) => `socket,id=${id},path=${join(this.folder, id)},server=on,wait=off`;
    this.#process = spawn(
      'qemu-system-x86_64',
      [
        ...['-nodefaults', '-display', 'none', '-no-reboot', '-machine', 'pc'],
        // One processor alone could do its atomics in ways that another machine does not see as such.
        ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2', '-m', `${memory}`],
        ...['-kernel', kernel, '-initrd', initramfs, '-append', commandLine(options)],
        ...['-serial', `file:${join(this.folder, 'console')}`],
        ...['-chardev', socket('shell'), '-device', 'virtio-serial-pci', '-device', 'virtconsole,chardev=shell'],
        // One for us, one for tools: QEMU talks with one at a time.
        ...['-chardev', socket('qmp'), '-mon', 'chardev=qmp,mode=control'],
        ...['-chardev', socket('qmp-tools'), '-mon', 'chardev=qmp-tools,mode=control'],
        ...(incoming === undefined ? [] : ['-incoming', `unix:${incoming}`]),
        ...args,
      ],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    );
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#said += text;
      });
    }
    this.#process.on('error', (error) => {
      this.#said += error.message;
    });
  }

  /** A machine whose shell answers; or one that waits for another to move in. */
  static async start(options: GuestOptions): Promise<Guest> {
    const guest = new Guest(options);
    return guest.#guard(async () => {
      const path = await guest.#opened('qmp');
      guest.#qmp = await Qmp.open(path, { limit: 30_000 * slowness });
      guest.#shell = await Shell.open(await guest.#opened('shell'));
      if (options.incoming === undefined) await guest.#shell.ready(180);
      return guest;
    });
  }

  /** What the kernel has written to its console. */
  get console(): string {
    try {
      return readFileSync(join(this.folder, 'console'), 'utf8');
    } catch {
      return '';
    }
  }

  /** Its control channel for tools. */
  get control(): string {
    return join(this.folder, 'qmp-tools');
  }

  // ── Inside ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Runs it in the shell there; its output, and its exit code. */
  run(command: string, seconds = 60): Promise<Result> {
    return this.#guard(() => this.#shell.run(command, seconds));
  }

  /** The same, for what must succeed; the output without blanks around it. */
  shell(command: string, seconds = 60): Promise<string> {
    return this.#guard(() => this.#shell.good(command, seconds));
  }

  /** Runs it again and again until its output fits. */
  until(command: string, fits: (output: string) => boolean, seconds = 60): Promise<string> {
    return this.#guard(() => this.#shell.until(command, fits, seconds));
  }

  // ── From outside ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** A command for QEMU, and what it returns. */
  qmp(execute: string, args: Readonly<Record<string, unknown>> = {}, seconds = 30): Promise<unknown> {
    return this.#guard(() => this.#qmp.execute(execute, args, { limit: seconds * slowness * 1000 }));
  }

  /** How many events there were: `since` for those that must come after this. */
  get told(): number {
    return this.#qmp.eventCount;
  }

  /** Waits until QEMU has told of it, since the beginning or since then. */
  event(
    name: string,
    fits?: (data: Readonly<Record<string, unknown>>) => boolean,
    { since = 0, seconds = 60 } = {},
  ): Promise<QmpEvent> {
    return this.#guard(() => this.#qmp.event(name, fits, { since, limit: seconds * slowness * 1000 }));
  }

  /** Plugs a device in. */
  async plug(memory: Memory, id: string): Promise<void> {
    await this.qmp('object-add', { id: `${id}-memory`, ...memory.object });
    await this.qmp('device_add', { driver: 'ivshmem-plain', id, memdev: `${id}-memory` });
  }

  /** Pulls it out, and waits until the guest has let go of it. */
  async unplug(id: string): Promise<void> {
    const since = this.told;
    await this.qmp('device_del', { id });
    await this.event('DEVICE_DELETED', ({ device }) => device === id, { since });
    await this.qmp('object-del', { id: `${id}-memory` });
  }

  kill(): void {
    guests.delete(this);
    this.#process.kill('SIGKILL');
    if (!this.#failed) rmSync(this.folder, { recursive: true, force: true });
  }

  /** Its folder stays if anything went wrong. */
  async end(): Promise<void> {
    const gone = this.#process.exitCode !== null || this.#process.signalCode !== null;
    const exit = gone || new Promise((resolve) => this.#process.once('exit', resolve));
    this.kill();
    await exit;
    this.#shell?.close();
    await this.#qmp?.close();
  }

  async #opened(name: string): Promise<string> {
    const path = join(this.folder, name);
    const end = performance.now() + 30_000 * slowness;
    while (!existsSync(path)) {
      if (this.#process.exitCode !== null) throw new Error('QEMU has ended');
      if (performance.now() > end) throw new Error(`QEMU does not open ${name}`);
      await pause(50);
    }
    return path;
  }

  /** Errors say what there is to know, once. */
  async #guard<T>(body: () => Promise<T>): Promise<T> {
    try {
      return await body();
    } catch (error) {
      if (error instanceof Error && !error.message.includes('── console')) {
        this.#failed = true;
        error.message += `\n${this.#said}\n── console, the end of ${this.folder}/console\n${this.console.slice(-3000)}`;
      }
      throw error;
    }
  }
}

/**
 * A virtual machine: QEMU with two processors and without hardware virtualisation, a shell in it, and QEMU's own
 * control channel (QMP). Every wait has a limit; no machine outlives the test; the output of its console is part of
 * each error, and its folder is kept after an error.
 */
import type { ChildProcess } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { Qmp, type QmpEvent } from '../../host/cli/vm/qmp.js';
import { keep, ownFolder, spawnOwned } from './lifetime.js';
import type { Memory } from './segment.js';
import { type Result, Shell } from './shell.js';
import { slowness } from './tools.js';

const guests = new Set<Guest>();
process.on('exit', () => {
  for (const guest of guests) guest.kill();
});

/** From the moment that a socket of QEMU is closed until it has ended, in milliseconds. */
const ENDING_MS = 2000;
/** Messages of the shell and of QMP whose socket was closed. */
const CLOSED = /machine has ended|has closed its control channel|ECONNRESET|EPIPE|: closed/;

export interface GuestOptions {
  /** Paths of a kernel, and of an initramfs as `image.ts` makes it. */
  readonly kernel: string;
  readonly initramfs: string;
  /** Its host name. */
  readonly name?: string;
  /** Its address in the network of a switch; without it, it has no network. */
  readonly address?: string;
  /** More parameters for the kernel. */
  readonly parameters?: string;
  /** MiB */
  readonly memory?: number;
  /** More arguments for QEMU: devices. */
  readonly args?: readonly string[];
  /** Path of a socket: it does not boot, but waits for a machine that migrates to this socket. */
  readonly incoming?: string;
}

/** Ends all that are left, also those of tests that have failed: for `test.after`. */
export async function endGuests(): Promise<void> {
  await Promise.all([...guests].map((guest) => guest.end()));
}

/** Told of each QEMU that ends and that no test has ended. */
const watchers = new Set<(error: Error) => void>();

/** Runs a body, and fails as soon as a QEMU ends that no test has ended: whatever the body waits for may never come. */
export function whileGuestsRun<T>(body: () => Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    watchers.add(reject);
    body()
      .finally(() => watchers.delete(reject))
      .then(resolve, reject);
  });
}

/** Parameters for the kernel and the first process. */
export function commandLine(options: Pick<GuestOptions, 'name' | 'address' | 'parameters'>): string {
  const { name = 'guest', address = '', parameters = '' } = options;
  // On a busy machine an emulated timer seems dead, and the kernel would panic; and each processor seems locked up.
  const patient = 'no_timer_check nowatchdog';
  return `console=ttyS0 loglevel=5 panic=-1 ${patient} mitigations=off ${parameters} NAME=${name} ADDRESS=${address}`;
}

export class Guest {
  readonly folder = ownFolder('guest');
  readonly name: string;
  readonly #process: ChildProcess;
  #said = '';
  #shell!: Shell;
  #qmp!: Qmp;
  #failed = false;
  /** Its QEMU may end: the test ends it, or its machine moves away. */
  #mayEnd = false;
  /** How its QEMU has ended. */
  #ending: string | undefined;
  /** Rejected when its QEMU ends. */
  readonly #end: Promise<never>;

  private constructor(options: GuestOptions) {
    guests.add(this);
    const { kernel, initramfs, memory = 256, args = [], incoming } = options;
    this.name = options.name ?? 'guest';
    const socket = (id: string) => `socket,id=${id},path=${join(this.folder, id)},server=on,wait=off`;
    this.#process = spawnOwned(
      'qemu-system-x86_64',
      [
        ...['-nodefaults', '-display', 'none', '-no-reboot', '-machine', 'pc'],
        // With one processor, QEMU could implement atomics in ways that another machine does not see as atomic.
        ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2', '-m', `${memory}`],
        ...['-kernel', kernel, '-initrd', initramfs, '-append', commandLine(options)],
        ...['-serial', `file:${join(this.folder, 'console')}`],
        ...['-chardev', socket('shell'), '-device', 'virtio-serial-pci', '-device', 'virtconsole,chardev=shell'],
        // One for the tests, one for tools: QEMU serves one client at a time.
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
    this.#end = new Promise((_resolve, reject) => {
      // `close` comes when all output was read; `exit` may come before.
      this.#process.once('close', async (code, signal) => {
        // QEMU has told whether its machine was reset, or shut down, and why.
        const qmp: Qmp | undefined = this.#qmp;
        const shutdown = await qmp?.event('SHUTDOWN', undefined, { limit: ENDING_MS }).catch(() => undefined);
        const reason = shutdown === undefined ? '' : ` (${shutdown.data['reason']})`;
        this.#ending = `${signal === null ? `with exit code ${code}` : `by ${signal}`}${reason}`;
        const error = this.#explained(new Error(`the QEMU of '${this.name}' has ended ${this.#ending}`));
        reject(error);
        if (!this.#mayEnd) for (const watcher of [...watchers]) watcher(error);
      });
    });
    this.#end.catch(() => {});
  }

  /** A machine whose shell answers; or one that waits for another to migrate to it. */
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

  /** Output of the kernel on its console. */
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

  /** Process id of its QEMU: setpriv has become QEMU. */
  get pid(): number {
    return this.#process.pid as number;
  }

  /** Its machine moves to another QEMU: the end of this one is no failure. */
  mayEnd(): void {
    this.#mayEnd = true;
  }

  /** Waits for something that comes from the guest; fails as soon as its QEMU ends. */
  unlessItEnds<T>(awaited: Promise<T>): Promise<T> {
    return Promise.race([awaited, this.#end]);
  }

  // ── In the guest ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** Runs a command in the shell of the guest. @returns its output, and its exit code */
  run(command: string, seconds = 60): Promise<Result> {
    return this.#guard(() => this.#shell.run(command, seconds));
  }

  /** The same, for commands that must succeed. @returns the trimmed output */
  shell(command: string, seconds = 60): Promise<string> {
    return this.#guard(() => this.#shell.good(command, seconds));
  }

  /** Repeats a command until its output matches. */
  until(command: string, fits: (output: string) => boolean, seconds = 60): Promise<string> {
    return this.#guard(() => this.#shell.until(command, fits, seconds));
  }

  // ── From outside ───────────────────────────────────────────────────────────────────────────────────────────────────

  /** A command for QEMU. @returns its result */
  qmp(execute: string, args: Readonly<Record<string, unknown>> = {}, seconds = 30): Promise<unknown> {
    return this.#guard(() => this.#qmp.execute(execute, args, { limit: seconds * slowness * 1000 }));
  }

  /** Number of events so far: `since` for events that must come after this moment. */
  get told(): number {
    return this.#qmp.eventCount;
  }

  /** Waits until QEMU has sent the event, since the beginning or since then. */
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

  /** Unplugs a device, and waits until the guest has released it. */
  async unplug(id: string): Promise<void> {
    const since = this.told;
    await this.qmp('device_del', { id });
    await this.event('DEVICE_DELETED', ({ device }) => device === id, { since });
    await this.qmp('object-del', { id: `${id}-memory` });
    // QEMU aborts if the device is plugged in again before it has let go of the memory.
    const freed = await this.#guard(() => this.#qmp.freed(`${id}-memory`, 60_000 * slowness));
    if (!freed) throw new Error(`QEMU has not freed ${id}-memory`);
  }

  kill(): void {
    this.#mayEnd = true;
    guests.delete(this);
    this.#process.kill('SIGKILL');
    if (!this.#failed) rmSync(this.folder, { recursive: true, force: true });
  }

  /** Its folder stays if anything failed. */
  async end(): Promise<void> {
    this.kill();
    await this.#end.catch(() => {});
    this.#shell?.close();
    await this.#qmp?.close();
  }

  async #opened(name: string): Promise<string> {
    const path = join(this.folder, name);
    const end = performance.now() + 30_000 * slowness;
    while (!existsSync(path)) {
      if (performance.now() > end) throw new Error(`QEMU does not open ${name}`);
      await pause(50);
    }
    return path;
  }

  /** Fails as soon as QEMU ends, and with the reason for its end. */
  async #guard<T>(body: () => Promise<T>): Promise<T> {
    try {
      return await this.unlessItEnds(body());
    } catch (error) {
      // QEMU closes its sockets a moment before it has ended.
      const late = pause(ENDING_MS * slowness, undefined, { ref: false });
      if (error instanceof Error && CLOSED.test(error.message)) await this.unlessItEnds(late);
      throw error instanceof Error ? this.#explained(error) : error;
    }
  }

  /** Adds the output of QEMU and of the console to an error, once; the folder is kept. */
  #explained(error: Error): Error {
    if (error.message.includes('── console')) return error;
    if (!this.#failed && !this.#mayEnd) {
      this.#failed = true;
      keep(this.folder);
    }
    error.message += `\n${this.#said}\n── console, the end of ${this.folder}/console\n${this.console.slice(-3000)}`;
    return error;
  }
}

/** Memory that guests share: a file in /dev/shm, which is the memory of the device. */
import type { ChildProcess } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { owned, spawnOwned } from './lifetime.js';
import { root, slowness } from './tools.js';

const MIB = 0x100000;
let count = 0;
const newName = (label: string) => `${owned}${label}${count++}`;

/** Properties for QEMU. */
export abstract class Memory {
  readonly path: string;
  /** Size in bytes. */
  abstract readonly size: number;

  constructor(label: string) {
    this.path = `/dev/shm/${newName(label)}`;
  }

  /** Its name in libvirt. */
  get name(): string {
    return basename(this.path);
  }

  /** Properties of `object-add`. */
  get object() {
    return { 'qom-type': 'memory-backend-file', share: true, 'mem-path': this.path, size: this.size };
  }

  /** Arguments of a machine that has the device from its start. */
  plugged(id: string): string[] {
    return [
      ...['-object', `memory-backend-file,id=${id}-memory,share=on,mem-path=${this.path},size=${this.size}`],
      ...['-device', `ivshmem-plain,id=${id},memdev=${id}-memory`],
    ];
  }
}

/** A bare file; tests read and write its words. */
export class Segment extends Memory {
  readonly size: number;
  readonly #fd: number;

  constructor(label: string, size: number) {
    super(label);
    this.size = size;
    this.#fd = openSync(this.path, 'w+', 0o600);
    ftruncateSync(this.#fd, size);
    process.on('exit', this.#unlink);
  }

  readonly #unlink = () => rmSync(this.path, { force: true });

  word(at: number): bigint {
    const bytes = Buffer.alloc(8);
    readSync(this.#fd, bytes, 0, 8, at);
    return bytes.readBigUInt64LE();
  }

  setWord(at: number, value: bigint): void {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(value);
    writeSync(this.#fd, bytes, 0, 8, at);
  }

  remove(): void {
    process.off('exit', this.#unlink);
    closeSync(this.#fd);
    this.#unlink();
  }
}

/** A region as a host has it: `isthmus server` creates, formats and watches it. */
export class Host extends Memory {
  readonly size: number;
  readonly #process: ChildProcess;
  #said = '';

  private constructor(label: string, megabytes: number) {
    super(label);
    this.size = megabytes * MIB;
    const cli = process.env['ISTHMUS_CLI'] ?? resolve(root, 'dist/cli.js');
    const args = [cli, 'server', '-s', this.name, '-m', String(megabytes), '-c', 'migration-framework'];
    this.#process = spawnOwned(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#said += text;
      });
    }
    process.on('exit', this.#kill);
  }

  /** @param megabytes a power of two */
  static async start(label: string, megabytes = 32): Promise<Host> {
    const host = new Host(label, megabytes);
    await host.said(/region .*, pid \d+/);
    return host;
  }

  /** Waits until the output of the server matches. */
  async said(pattern: RegExp, seconds = 30): Promise<RegExpExecArray> {
    const end = performance.now() + seconds * slowness * 1000;
    for (;;) {
      const found = pattern.exec(this.#said);
      if (found) return found;
      const { exitCode, signalCode } = this.#process;
      if (exitCode !== null || signalCode !== null) {
        throw new Error(`the server has ended (${signalCode ?? exitCode}): ${this.#said}`);
      }
      if (performance.now() > end) throw new Error(`the server does not say ${pattern}: ${this.#said}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  readonly #kill = () => {
    this.#process.kill('SIGKILL');
    rmSync(this.path, { force: true });
  };

  /** It removes its file. */
  async end(): Promise<void> {
    process.off('exit', this.#kill);
    if (this.#process.exitCode === null && this.#process.signalCode === null) {
      const ended = new Promise((resolve) => this.#process.once('exit', resolve));
      this.#process.kill('SIGTERM');
      const late = setTimeout(() => this.#process.kill('SIGKILL'), 10_000 * slowness);
      await ended;
      clearTimeout(late);
    }
    rmSync(this.path, { force: true });
  }
}

/**
 * A libvirtd for tests: a real one, with its own folders and its own socket, separate from that of the machine. It is a
 * session daemon, so that it changes nothing of the machine; started by root, it runs as the user `nobody`.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

/** Debian installs the daemon where only root's PATH leads. */
const PATH = `${process.env['PATH']}:/usr/sbin`;
const QEMU = 'qemu-system-x86_64';
/** User and group of the daemon. */
const NOBODY = 65_534;
const owner = process.geteuid?.() === 0 ? { uid: NOBODY, gid: NOBODY } : undefined;

/** Programs that are not installed here. */
export const libvirtMissing = ['libvirtd', 'virsh', QEMU].filter(
  (program) => spawnSync(program, ['--version'], { env: { ...process.env, PATH } }).error !== undefined,
);

const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);

/** A domain without a disk: its firmware searches for one, for ever. */
export function domainXml(name: string, machine: 'pc' | 'q35'): string {
  const emulator = spawnSync('sh', ['-c', `command -v ${QEMU}`], { encoding: 'utf8' }).stdout.trim();
  return `<domain type='qemu'>
  <name>${name}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='${machine}'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>${emulator}</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
`;
}

export class TestLibvirt {
  readonly #folder = mkdtempSync(join(tmpdir(), 'isthmus-test-libvirt-'));
  readonly #daemon: ChildProcess;
  #output = '';

  private constructor() {
    const folders = {
      XDG_CONFIG_HOME: 'config',
      XDG_CACHE_HOME: 'cache',
      XDG_DATA_HOME: 'data',
      XDG_RUNTIME_DIR: 'run',
    };
    const env: NodeJS.ProcessEnv = { ...process.env, PATH, HOME: this.#folder };
    for (const [variable, name] of Object.entries(folders)) {
      env[variable] = join(this.#folder, name);
      mkdirSync(join(this.#folder, name), { mode: 0o700 });
    }
    const config = join(this.#folder, 'config/libvirt');
    mkdirSync(config);
    writeFileSync(join(config, 'qemu.conf'), 'stdio_handler = "file"\nsecurity_driver = "none"\n');
    if (owner) {
      for (const name of ['', ...readdirSync(this.#folder, { recursive: true })]) {
        chownSync(join(this.#folder, String(name)), owner.uid, owner.gid);
      }
    }
    this.#daemon = spawn('libvirtd', [], { ...owner, env, cwd: '/', stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.#daemon.stdout, this.#daemon.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#output += text;
      });
      (stream as unknown as { unref(): void }).unref();
    }
    this.#daemon.unref();
    process.on('exit', this.#end);
  }

  static async start(): Promise<TestLibvirt> {
    const libvirt = new TestLibvirt();
    const limit = performance.now() + 30_000 * slowness;
    while (libvirt.try('list').status !== 0) {
      if (performance.now() > limit) throw new Error(`no libvirtd: ${libvirt.#output}`);
      await pause(100);
    }
    return libvirt;
  }

  get uri(): string {
    return `qemu+unix:///session?socket=${this.#folder}/run/libvirt/libvirt-sock`;
  }

  try(...args: string[]): { status: number | null; stdout: string; stderr: string } {
    return spawnSync('virsh', ['--connect', this.uri, ...args], { encoding: 'utf8', timeout: 120_000 });
  }

  virsh(...args: string[]): string {
    const { status, stdout, stderr } = this.try(...args);
    if (status !== 0) throw new Error(`virsh ${args.join(' ')}: ${stderr}`);
    return stdout;
  }

  /** `create` starts a transient domain, `define` defines a persistent one and does not start it. */
  domain(verb: 'create' | 'define', name: string, machine: 'pc' | 'q35' = 'pc'): string {
    const path = join(this.#folder, `${name}.xml`);
    writeFileSync(path, domainXml(name, machine));
    this.virsh(verb, path);
    return name;
  }

  /** Process id of the QEMU that runs a domain. */
  pid(name: string): number {
    return Number(readFileSync(join(this.#folder, 'run/libvirt/qemu/run', `${name}.pid`), 'utf8'));
  }

  /** A file that QEMU may open. */
  give(path: string): void {
    if (owner) chownSync(path, owner.uid, owner.gid);
  }

  async stop(): Promise<void> {
    for (const name of this.virsh('list', '--name').split('\n').filter(Boolean)) this.try('destroy', name);
    const ended = once(this.#daemon, 'exit');
    this.#daemon.ref();
    this.#daemon.kill('SIGTERM');
    await ended;
    process.off('exit', this.#end);
    this.#end();
  }

  /** Its guests are children of no process. */
  readonly #end = (): void => {
    this.#daemon.kill('SIGKILL');
    const run = join(this.#folder, 'run/libvirt/qemu/run');
    try {
      for (const name of readdirSync(run).filter((file) => file.endsWith('.pid'))) {
        process.kill(Number(readFileSync(join(run, name), 'utf8')), 'SIGKILL');
      }
    } catch {
      // There are no guests.
    }
    rmSync(this.#folder, { recursive: true, force: true });
  };
}

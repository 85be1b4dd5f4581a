/** libvirt by way of its program, virsh: domains, and their ivshmem devices. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { InvalidArgumentError } from 'commander';
import { SHM } from '../../device/posix.js';
import { bytes, CliError } from '../support/output.js';

export const MIB = 0x100000;
/** For one call of virsh, in milliseconds. To detach takes it more than 5 s if the guest does not answer. */
const LIMIT = 60_000;
/** What it gets to stop what it is doing, in milliseconds. */
const STOPPING = 30_000;
/** Between two looks for the device, in milliseconds. */
const PAUSE = 500;

export const shmemPath = (name: string): string => join(SHM, name);

/** What libvirt makes of it: the file of that name in /dev/shm is the memory of the device. */
export function shmemXml(name: string, size: string, unit = 'M'): string {
  return `<shmem name='${name}'>
  <model type='ivshmem-plain'/>
  <size unit='${unit}'>${size}</size>
</shmem>
`;
}

/** Nothing that would need to be quoted in XML, and no path. */
export function deviceName(text: string): string {
  if (!/^[\w-][\w.-]{0,199}$/.test(text)) {
    throw new InvalidArgumentError('A name in /dev/shm is wanted: letters, digits, dots, - and _.');
  }
  return text;
}

// ─── virsh ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** What virsh complains of, and what to do about it. */
const REMEDIES: readonly (readonly [RegExp, string])[] = [
  [/failed to get domain/, "'virsh list --all' lists the domains; those of another libvirtd are found with --connect."],
  [
    /failed to connect to the hypervisor.*(?:denied|authenticat)/i,
    'Run it as root, or join the group that libvirtd serves (libvirt).',
  ],
  [/failed to connect to the hypervisor/, 'Start libvirtd, or name another with --connect (qemu:///session).'],
  [
    /No more available PCI slots/,
    'There is no slot for it: a q35 machine needs a pcie-to-pci-bridge. Attach it with --config, which adds one, and ' +
      'restart the domain; from then on --live works, too.',
  ],
  [
    /can't open backing store.*denied/,
    `QEMU may not open the file in ${SHM}: give it to the group that QEMU runs with, mode 0660.`,
  ],
  [/transient domain/, 'Leave out --config: nothing of this domain is kept.'],
  [/domain is not running/, 'Start the domain, or leave out --live.'],
];

/** A file without a name, so that nothing is left of it whatever happens. */
function anonymous(text: string): number {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-device-'));
  try {
    const path = join(folder, 'device.xml');
    writeFileSync(path, text);
    return openSync(path, 'r');
  } finally {
    rmSync(folder, { recursive: true });
  }
}

export interface VirshOptions {
  /** What it finds at /dev/stdin. */
  readonly input?: string;
  /** In milliseconds. */
  readonly limit?: number;
  readonly signal?: AbortSignal | undefined;
}

/** @returns what it prints */
export async function virsh(args: readonly string[], options: VirshOptions = {}): Promise<string> {
  const { input = '', limit = LIMIT, signal } = options;
  signal?.throwIfAborted();
  const stdin = anonymous(input);
  let child: ChildProcess;
  try {
    // Its complaints are looked at below, in English.
    const env = { ...process.env, LC_ALL: 'C' };
    child = spawn('virsh', args, { env, stdio: [stdin, 'pipe', 'pipe'] });
  } finally {
    closeSync(stdin);
  }
  let output = '';
  let complaint = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    complaint += text;
  });
  // The option of spawn leaves its timer behind where there is no program.
  let late = false;
  let kill: NodeJS.Timeout | undefined;
  // Asked to stop, it undoes a migration that is under way. Killed, it would leave that to itself.
  const stop = () => {
    child.kill('SIGINT');
    kill ??= setTimeout(() => child.kill('SIGKILL'), STOPPING);
  };
  const timer = setTimeout(() => {
    late = true;
    stop();
  }, limit);
  signal?.addEventListener('abort', stop, { once: true });
  let ended: [code: number | null, signal: NodeJS.Signals | null];
  try {
    ended = (await once(child, 'close')) as typeof ended;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT') throw new CliError(`cannot start virsh: ${message}`);
    throw new CliError(
      'there is no virsh here, which is how libvirt is talked to',
      "Install it (apt-get install libvirt-clients, dnf install libvirt-client), or use 'isthmus device xml' elsewhere.",
    );
  } finally {
    clearTimeout(timer);
    clearTimeout(kill);
    signal?.removeEventListener('abort', stop);
  }
  const [code, killed] = ended;
  if (code === 0) return output;
  signal?.throwIfAborted();
  if (late) throw new CliError(`virsh has not ended within ${limit / 1000} s`, 'Look at libvirtd and its log.');
  const said = complaint
    .replace(/^error: /gm, '')
    .trim()
    .split('\n')
    .join(': ');
  const remedy = REMEDIES.find(([pattern]) => pattern.test(said))?.[1];
  throw new CliError(`virsh: ${said || `ended with ${code ?? killed}`}`, remedy);
}

/** For a shell. */
export function shellLine(words: readonly string[]): string {
  const quote = (word: string) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
  return words.map(quote).join(' ');
}

export interface Scope {
  readonly live?: true;
  readonly config?: true;
  readonly connect?: string;
}

/** A domain by way of a libvirtd. */
export class Domain {
  readonly name: string;
  /** For virsh. */
  readonly connect: readonly string[];
  readonly #scope: readonly string[];
  /** Which of its two descriptions are concerned: what runs (or would, if nothing does), and what it starts from. */
  readonly #views: readonly (readonly string[])[];

  constructor(name: string, { connect, live, config }: Scope) {
    this.name = name;
    this.connect = connect === undefined ? [] : ['--connect', connect];
    this.#scope = [...(live ? ['--live'] : []), ...(config ? ['--config'] : [])];
    this.#views = [...(config && !live ? [] : [[]]), ...(config ? [['--inactive']] : [])];
  }

  /** Whether the guest is concerned now, or only the next start. */
  get now(): boolean {
    return this.#views.some((view) => view.length === 0);
  }

  /** The elements of that name, in all descriptions that are concerned; or in what runs. */
  async devices(name: string | undefined, views = this.#views): Promise<string[]> {
    const found: string[] = [];
    for (const view of views) {
      const xml = await virsh([...this.connect, 'dumpxml', '--domain', this.name, ...view]);
      found.push(...(xml.match(/<shmem\b(?:[^>]*\/>|[\s\S]*?<\/shmem>)/g) ?? []));
    }
    return name === undefined ? found : found.filter((element) => nameOf(element) === name);
  }

  /** In what runs; without a name all of them. */
  running(name?: string): Promise<string[]> {
    return this.devices(name, [[]]);
  }

  /** `running`, `paused`, `shut off`, … */
  async state(): Promise<string> {
    return (await virsh([...this.connect, 'domstate', '--domain', this.name])).trim();
  }

  #change(verb: Verb): string[] {
    return [...this.connect, verb, '--domain', this.name, '--file', '/dev/stdin', ...this.#scope];
  }

  async change(verb: Verb, xml: string): Promise<void> {
    await virsh(this.#change(verb), { input: xml });
  }

  /** Until the guest has let go of it. @param wait in seconds */
  async detach(device: string, xml: string, wait: number): Promise<void> {
    const before = this.now ? (await this.running(device)).length : 0;
    await this.change('detach-device', xml);
    // It says that it has detached the device when it has asked the guest and waited for a few seconds, whatever came of it.
    if (this.now && !(await this.gone(device, before - 1, wait))) throw notLetGo(this.name, device, wait);
  }

  /** Whether no more than that many devices of that name are left within that time, in seconds. */
  async gone(device: string, left: number, wait: number): Promise<boolean> {
    for (const until = performance.now() + wait * 1000; ; await sleep(PAUSE)) {
      if ((await this.running(device)).length <= left) return true;
      if (performance.now() > until) return false;
    }
  }

  /** The same for a shell. */
  shown(verb: Verb, xml: string): string {
    return `${shellLine(['virsh', ...this.#change(verb)])} <<'EOF'\n${xml}EOF\n`;
  }
}

type Verb = 'attach-device' | 'detach-device';

export function notLetGo(guest: string, device: string, wait: number): CliError {
  return new CliError(
    `the guest '${guest}' has not let go of ${device} within ${wait} s`,
    "It was asked to, and lets go as soon as it can: is its system up, and has all that uses the device left it ('isthmus suspend')?",
  );
}

export const nameOf = (element: string) => /^<shmem\b[^>]*?\bname=(['"])(.*?)\1/.exec(element)?.[2];

/** Whether the domain runs on another host, whose /dev/shm cannot be seen from here. */
export function isElsewhere(connect = process.env['LIBVIRT_DEFAULT_URI'] ?? ''): boolean {
  return /^[\w+]+:\/\/[^/]/.test(connect);
}

/**
 * @returns what is wrong with the file that is to be the memory
 * @param size in bytes; undefined: as large as the file is
 */
function whyNot(path: string, size: number | undefined): CliError | undefined {
  const stat = statSync(path, { throwIfNoEntry: false });
  const remedy = "'isthmus server -s NAME -m MB -c migration-framework' makes one. --force does without.";
  if (!stat) return new CliError(`there is no ${path}: QEMU would make one, for itself alone`, remedy);
  if (!stat.isFile()) return new CliError(`${path} is not a file`, remedy);
  if (size !== undefined && stat.size !== size) {
    return new CliError(`${path} has ${bytes(stat.size)}, the device would have ${bytes(size)}`, remedy);
  }
  return undefined;
}

/**
 * How large a device is, in MiB.
 * @param size what was asked for; undefined: as large as the file is
 * @param options `unseen`: the file is on another host; `force`: whatever it is
 * @throws if QEMU would end of it, and the guest with it, or make a file of its own
 */
export function deviceSize(
  path: string,
  size: number | undefined,
  { unseen = false, force = false }: { unseen?: boolean; force?: boolean | undefined },
): number {
  const wrong = unseen ? undefined : whyNot(path, size === undefined ? undefined : size * MIB);
  if (wrong && !force) throw wrong;
  const megabytes = size ?? (unseen ? 0 : (statSync(path, { throwIfNoEntry: false })?.size ?? 0) / MIB);
  if (megabytes >= 1 && Number.isInteger(Math.log2(megabytes))) return megabytes;
  throw new CliError(`the size of ${path} is not a power of two, at least 1 MiB`, 'Say how large the device is to be.');
}

/** libvirt finds a device by all that is said of it, so that its size is needed; alias and address are in the way. */
export function toDetach(element: string, device: string): string {
  const [, unit, size] = /<size\b[^>]*\bunit=['"](\w+)['"][^>]*>\s*(\d+)\s*</.exec(element) ?? [];
  const model = /<model\b[^>]*\btype=['"]([\w-]+)['"]/.exec(element)?.[1];
  if (size === undefined || model !== 'ivshmem-plain') {
    throw new CliError(`${device} is a device of another kind (${model ?? 'without a model'}); detach it with virsh`);
  }
  return shmemXml(device, size, unit);
}

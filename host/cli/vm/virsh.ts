/** The program virsh: libvirt has no binding that needs no maintenance, and a command can be shown and repeated by hand. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onAbort } from '../../base/abortable.js';
import { SHM } from '../../device/posix.js';
import { CliError } from '../support/errors.js';

/** For one call of virsh, unless a limit is given. A detach takes more than 5 s if the guest does not answer. */
const DEFAULT_LIMIT_MS = 60_000;
/** From SIGINT to SIGKILL. */
const STOP_LIMIT_MS = 30_000;

/** Messages of virsh, and what the reader can do about them. */
const REMEDIES: readonly (readonly [RegExp, string])[] = [
  [/failed to get domain/, "'virsh list --all' lists the domains. --connect selects another libvirtd."],
  [
    /failed to connect to the hypervisor.*(?:denied|authenticat)/i,
    'Run the command as root, or join the group that libvirtd serves (libvirt).',
  ],
  [/failed to connect to the hypervisor/, 'Start libvirtd, or select another one with --connect (qemu:///session).'],
  [
    /No more available PCI slots/,
    'There is no free slot: a q35 machine needs a pcie-to-pci-bridge. Attach the device with --config, which adds a ' +
      'bridge, and restart the domain; after that --live works, too.',
  ],
  [
    /can't open backing store.*denied/,
    `QEMU may not open the file in ${SHM}: give it to the group that QEMU runs with, mode 0660.`,
  ],
  [/transient domain/, 'Leave out --config: a transient domain has no stored configuration.'],
  [/domain is not running/, 'Start the domain, or leave out --live.'],
];

/** An open file without a name: nothing is left of it, whatever ends the process. */
function unnamedFile(text: string): number {
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
  /** What virsh reads from /dev/stdin. */
  readonly input?: string;
  /** In milliseconds. */
  readonly limit?: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Run virsh.
 * @returns its standard output
 * @throws CliError if it fails; or the reason of the signal
 */
export async function virsh(args: readonly string[], options: VirshOptions = {}): Promise<string> {
  const { input = '', limit = DEFAULT_LIMIT_MS, signal } = options;
  signal?.throwIfAborted();
  const stdin = unnamedFile(input);
  let child: ChildProcess;
  try {
    // REMEDIES matches English messages.
    const env = { ...process.env, LC_ALL: 'C' };
    child = spawn('virsh', args, { env, stdio: [stdin, 'pipe', 'pipe'] });
  } finally {
    closeSync(stdin);
  }
  let output = '';
  let errorOutput = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    errorOutput += text;
  });
  // The `timeout` of spawn leaves its timer behind if there is no such program.
  let late = false;
  let kill: NodeJS.Timeout | undefined;
  // On SIGINT virsh cancels a migration that is under way; on SIGKILL the migration would go on.
  const stop = () => {
    child.kill('SIGINT');
    kill ??= setTimeout(() => child.kill('SIGKILL'), STOP_LIMIT_MS);
  };
  const timer = setTimeout(() => {
    late = true;
    stop();
  }, limit);
  const removeListener = onAbort(signal, stop);
  let ended: [code: number | null, signal: NodeJS.Signals | null];
  try {
    ended = (await once(child, 'close')) as typeof ended;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT') throw new CliError(`cannot start virsh: ${message}`);
    throw new CliError(
      'there is no virsh here, which this command needs to reach libvirt',
      "Install it (apt-get install libvirt-clients, dnf install libvirt-client), or use 'isthmus device xml' elsewhere.",
    );
  } finally {
    clearTimeout(timer);
    clearTimeout(kill);
    removeListener();
  }
  const [code, killed] = ended;
  if (code === 0) return output;
  signal?.throwIfAborted();
  if (late) throw new CliError(`virsh has not ended within ${limit / 1000} s`, 'See the log of libvirtd.');
  const message = errorOutput
    .replace(/^error: /gm, '')
    .trim()
    .split('\n')
    .join(': ');
  const remedy = REMEDIES.find(([pattern]) => pattern.test(message))?.[1];
  throw new CliError(`virsh: ${message || `ended with ${code ?? killed}`}`, remedy);
}

/** A command line for a shell. */
export function shellLine(words: readonly string[]): string {
  const quote = (word: string) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
  return words.map(quote).join(' ');
}

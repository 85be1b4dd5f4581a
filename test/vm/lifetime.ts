/**
 * What the lab makes outside of its processes: region files in /dev/shm, folders in the temporary folder, QEMUs, servers.
 * Nothing of it outlives the run, however the run ends:
 *
 * - The processes end with the process that started them, SIGKILL included: `setpriv --pdeathsig`.
 * - On SIGINT, SIGTERM and SIGHUP the run exits in order, so that its `exit` handlers remove its files.
 * - After SIGKILL the files stay. Their names tell whose they are: pid namespace, pid and start time of the run. The next
 *   run removes those of runs that have ended ({@link sweep}); never those of a run that it cannot see.
 */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { existsSync, lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { mappedBy } from '../../host/device/holders.js';
import { pidNamespace } from '../../host/device/identity.js';

const SHM = '/dev/shm';
/** In a folder that is kept: a failure is looked into. */
const KEPT = 'kept';
/** A kept folder goes with the next run after this time, in milliseconds. */
const KEPT_FOR = 24 * 3600_000;

/** Start time of a process, in ticks since the boot of the kernel (proc(5)); undefined: there is no such process. */
function startOf(pid: number | 'self'): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    // Z: it has ended, and its parent has not asked for its exit code yet.
    return fields[0] === 'Z' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

const namespace = pidNamespace();
const PREFIX = 'isthmus-vm';
const OWNED = /^isthmus-vm-(\d+)\.(\d+)\.(\d+)-/;

/** Begin of the names of all that this run makes. */
export const owned = `${PREFIX}-${namespace}.${process.pid}.${startOf('self')}-`;

const folders = new Set<string>();

/** Makes a folder for this run, which ends with it. */
export function ownFolder(label: string): string {
  const folder = mkdtempSync(join(tmpdir(), `${owned}${label}-`));
  folders.add(folder);
  return folder;
}

/** Keeps the folder for a day, for a look at it. */
export function keep(folder: string): void {
  if (existsSync(folder)) writeFileSync(join(folder, KEPT), '');
}

function isKept(folder: string): boolean {
  const mark = lstatSync(join(folder, KEPT), { throwIfNoEntry: false });
  return mark !== undefined && Date.now() - mark.mtimeMs < KEPT_FOR;
}

/** Whether the run with this name has ended. Of a run in another pid namespace that cannot be known. */
function hasEnded(name: string): boolean {
  const [, space, pid, start] = OWNED.exec(name) ?? [];
  return space === String(namespace) && startOf(Number(pid)) !== start;
}

/** Removes the files and folders of runs that have ended, except what a process has mapped. @returns their paths */
export function sweep(): string[] {
  const removed: string[] = [];
  for (const place of [SHM, tmpdir()]) {
    for (const name of readdirSync(place).filter(hasEnded)) {
      const path = join(place, name);
      const stat = lstatSync(path, { bigint: true, throwIfNoEntry: false });
      if (!stat || (stat.isDirectory() ? isKept(path) : mappedBy(stat).holders.length > 0)) continue;
      rmSync(path, { recursive: true, force: true });
      removed.push(path);
    }
  }
  return removed;
}

/** Starts a program that ends with this process. */
export function spawnOwned(command: string, args: readonly string[], options: SpawnOptions): ChildProcess {
  return spawn('setpriv', ['--pdeathsig', 'KILL', '--', command, ...args], options);
}

sweep();
process.on('exit', () => {
  for (const folder of folders) if (!isKept(folder)) rmSync(folder, { recursive: true, force: true });
});
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  process.once(signal, () => process.exit(code));
}

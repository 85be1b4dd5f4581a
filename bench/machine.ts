/** The machine on which the numbers were measured. */
import { readFileSync } from 'node:fs';
import { arch, availableParallelism, cpus, loadavg, release, totalmem, version } from 'node:os';

export interface Machine {
  readonly processor: string;
  readonly processors: number;
  readonly pinned: readonly [number, number] | undefined;
  readonly virtual: string;
  readonly memory: number;
  readonly kernel: string;
  readonly arch: string;
  readonly node: string;
  readonly v8: string;
  /** Runnable processes in the minute before the run (load average). */
  readonly load: number;
  /** Share of the processors' time that the host took away during the run (steal time), 0 to 1. */
  readonly stolen: number;
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** Ticks of all processors, and the ticks that the host took away. */
function ticks(): { all: number; stolen: number } {
  const [line = ''] = read('/proc/stat').split('\n');
  const values = line.split(/\s+/).slice(1, 9).map(Number);
  return { all: values.reduce((sum, value) => sum + value, 0), stolen: values[7] ?? 0 };
}

function virtual(): string {
  if (!/^flags\s*:.*\bhypervisor\b/m.test(read('/proc/cpuinfo'))) return 'no';
  return `yes, ${read('/sys/class/dmi/id/sys_vendor').trim() || 'of unknown make'}`;
}

/** Read the state of the machine now, and again when the returned function is called, at the end of the run. */
export function watchMachine(pinned: readonly [number, number] | undefined): () => Machine {
  const before = ticks();
  const load = Math.round((loadavg()[0] as number) * 100) / 100;
  return () => {
    const after = ticks();
    return {
      processor: cpus()[0]?.model ?? 'unknown',
      processors: availableParallelism(),
      pinned,
      virtual: virtual(),
      memory: totalmem(),
      kernel: `${release()}, ${version()}`,
      arch: arch(),
      node: process.version,
      v8: process.versions.v8,
      load,
      stolen: (after.stolen - before.stolen) / Math.max(1, after.all - before.all),
    };
  };
}

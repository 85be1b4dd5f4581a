/** What makes processors scarce: fewer of them, other processes, a quota. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Setting {
  readonly name: string;
  readonly title: string;
  /** All processes of a pair run on this many; default: all that are there, up to 2. */
  readonly processors?: 1;
  /** Pairs at the same time; default 1. */
  readonly pairs?: number;
  /** Processes that only compute, on the same processors. */
  readonly load?: number;
  /** Processors' worth of time for both processes together. */
  readonly quota?: number;
}

export const SETTINGS: readonly Setting[] = [
  { name: 'idle', title: 'two processors, nothing else' },
  { name: 'one', title: 'one processor', processors: 1 },
  { name: 'load2', title: 'two processors, 2 that compute', load: 2 },
  { name: 'load4', title: 'two processors, 4 that compute', load: 4 },
  { name: 'load12', title: 'two processors, 12 that compute', load: 12 },
  { name: 'pairs', title: '8 processes on two processors', pairs: 4 },
  { name: 'quota', title: 'half a processor (control group)', quota: 0.5 },
];

const PERIOD_US = 100_000;

/** A control group with a quota, in the new hierarchy or in the old one. */
export class Group {
  readonly #path: string;

  private constructor(path: string) {
    this.#path = path;
  }

  /** @throws where it cannot be made */
  static make(processors: number): Group {
    const name = `isthmus-bench-${process.pid}`;
    const quota = String(Math.round(processors * PERIOD_US));
    const old = ['cpu', 'cpu,cpuacct']
      .map((mount) => join('/sys/fs/cgroup', mount))
      .find((mount) => existsSync(join(mount, 'cpu.cfs_quota_us')));
    const path = join(old ?? '/sys/fs/cgroup', name);
    mkdirSync(path);
    try {
      if (old === undefined) writeFileSync(join(path, 'cpu.max'), `${quota} ${PERIOD_US}`);
      else {
        writeFileSync(join(path, 'cpu.cfs_period_us'), String(PERIOD_US));
        writeFileSync(join(path, 'cpu.cfs_quota_us'), quota);
      }
    } catch (error) {
      rmdirSync(path);
      throw error;
    }
    return new Group(path);
  }

  add(pid: number): void {
    writeFileSync(join(this.#path, 'cgroup.procs'), String(pid));
  }

  /** When its processes have ended. */
  remove(): void {
    rmdirSync(this.#path);
  }
}

/** Processes that only compute, until `stop`. */
export class Load {
  readonly #processes: readonly ChildProcess[];

  constructor(count: number, cpus: readonly number[] | undefined) {
    const command = ['sh', '-c', 'while :; do :; done'];
    const [program = 'sh', ...args] = cpus ? ['taskset', '-c', cpus.join(','), ...command] : command;
    this.#processes = Array.from({ length: count }, () => spawn(program, args, { stdio: 'ignore' }));
    process.on('exit', this.stop);
  }

  readonly stop = (): void => {
    process.off('exit', this.stop);
    for (const one of this.#processes) one.kill('SIGKILL');
  };
}

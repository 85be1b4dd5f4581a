/** The processors that this process may really use: those of its affinity, and the share that its control group has. */
import { join } from 'node:path';

export interface Processors {
  /** That the process may run on; 0: unknown. */
  readonly allowed: number;
  /** Of the machine; 0: unknown. */
  readonly there: number;
  /** Processors' worth of time that the control group may use; undefined: no limit. */
  readonly quota: number | undefined;
}

/** The text of a file of the kernel; undefined: it cannot be read. */
export type Read = (path: string) => string | undefined;

/** @param proc reads files of /proc, @param sysfs those of /sys */
export function processorsOf(proc: Read, sysfs: Read): Processors {
  const there = proc('cpuinfo')?.match(/^processor\s*:/gm)?.length ?? 0;
  const list = /^Cpus_allowed_list:\s*(\S+)/m.exec(proc('self/status') ?? '')?.[1];
  return { allowed: list === undefined ? there : countOf(list), there, quota: quotaOf(proc, sysfs) };
}

/** The number of a list such as `0-3,8`. */
function countOf(list: string): number {
  let count = 0;
  for (const range of list.split(',')) {
    const [first, last = first] = range.split('-').map(Number);
    if (first !== undefined && last !== undefined && last >= first) count += last - first + 1;
  }
  return count;
}

/**
 * The least of the process's control group and those above it: cgroups(7), `cpu.max` of the new hierarchy,
 * `cpu.cfs_quota_us` and `cpu.cfs_period_us` of the old one.
 */
function quotaOf(proc: Read, sysfs: Read): number | undefined {
  let least: number | undefined;
  const limit = (quota: number, period: number) => {
    if (quota > 0 && period > 0) least = Math.min(least ?? Number.POSITIVE_INFINITY, quota / period);
  };
  for (const line of (proc('self/cgroup') ?? '').split('\n')) {
    const [, controllers = '', path = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    const old = controllers.split(',').includes('cpu');
    if (!path.startsWith('/') || (controllers !== '' && !old)) continue;
    for (let group = path; ; group = join(group, '..')) {
      if (old) {
        for (const mount of new Set(['cpu', controllers])) {
          const read = (name: string) => Number(sysfs(`fs/cgroup/${mount}${group}/${name}`)?.trim());
          limit(read('cpu.cfs_quota_us'), read('cpu.cfs_period_us'));
        }
      } else {
        const [quota, period] = (sysfs(`fs/cgroup${group}/cpu.max`) ?? '').trim().split(' ').map(Number);
        limit(quota ?? 0, period ?? 0);
      }
      if (group === '/') break;
    }
  }
  return least;
}

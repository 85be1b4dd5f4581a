/** Two processors, one for each end. */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

/** Numbers out of `0-3,8`. */
function list(text: string): number[] {
  return text.split(',').flatMap((part) => {
    const [from = 0, to = from] = part.split('-').map(Number);
    return Array.from({ length: to - from + 1 }, (_, i) => from + i);
  });
}

function core(cpu: number): string {
  try {
    const topology = `/sys/devices/system/cpu/cpu${cpu}/topology`;
    return `${readFileSync(`${topology}/physical_package_id`, 'utf8')}/${readFileSync(`${topology}/core_id`, 'utf8')}`;
  } catch {
    return String(cpu);
  }
}

function taskset(...args: string[]): string {
  return execFileSync('taskset', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
}

/** Two processors of different cores, of those that we may use; undefined: there are none, or there is no `taskset`. */
export function chooseCpus(): readonly [number, number] | undefined {
  try {
    const allowed = list((taskset('-c', '-p', String(process.pid)).split(': ')[1] ?? '').trim());
    const [near] = allowed;
    const far = allowed.find((cpu) => near !== undefined && core(cpu) !== core(near)) ?? allowed[1];
    return near === undefined || far === undefined ? undefined : [near, far];
  } catch {
    return undefined;
  }
}

/**
 * Keep one thread on a processor: that which runs JavaScript. Others of the process, which compile and collect garbage,
 * go where there is room.
 * @param thread a thread's id; that of a process is the one of its main thread
 */
export function pin(thread: number, cpu: number): void {
  taskset('-c', '-p', String(cpu), String(thread));
}

/** The threads of this process. */
export function threads(): number[] {
  return readdirSync('/proc/self/task').map(Number);
}

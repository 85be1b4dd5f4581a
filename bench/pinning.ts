/** Two processors, one for each end. */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

/** The numbers in a list like `0-3,8`. */
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

/** Two allowed processors of different cores if possible; undefined: there are no two, or there is no `taskset`. */
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
 * Pin one thread to a processor: the one that runs JavaScript. Other threads of the process, which compile and collect
 * garbage, run on any processor.
 * @param thread id of a thread; the id of a process is that of its main thread
 */
export function pin(thread: number, cpu: number): void {
  taskset('-c', '-p', String(cpu), String(thread));
}

/** The threads of this process. */
export function threads(): number[] {
  return readdirSync('/proc/self/task').map(Number);
}

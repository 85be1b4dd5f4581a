/**
 * The instance: what distinguishes this process from every other one, for control over MQTT. A pid does not: the processes of
 * several containers with one host name may all have pid 1, and a pid is used again.
 *
 * It follows from what the kernel says of the process, so that all threads of the process have the same one, and from how the
 * process joined the broker: runtimes that join with other options have a client, and a status, of their own.
 */
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { bootId, pidNamespace } from '../device/identity.js';
import type { Origin } from './payload.js';

/** `/proc/PID/stat`, as far as it is needed (proc(5)). */
interface ProcStat {
  readonly pid: number;
  readonly state: string;
  readonly started: string;
}

/** Whether the kernel says that there is no such process. */
function hasNoProcess(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

function readStat(pid: number | 'self'): ProcStat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch (error) {
    // A /proc that hides the processes of others (hidepid) has no such file either: only the kernel's own word is a proof.
    if (pid !== 'self' && hasNoProcess(pid)) return undefined;
    throw error;
  }
  // The name of the program stands in parentheses, and may contain anything.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return { pid: Number.parseInt(text, 10), state: fields[0] ?? '', started: fields[19] ?? '' };
}

const hash = (text: string | Uint8Array): string => createHash('sha256').update(text).digest('hex').slice(0, 16);

function originOfSelf(): Origin | undefined {
  const boot = bootId();
  const namespace = pidNamespace();
  try {
    const stat = readStat('self');
    // A /proc of another pid namespace has other pids.
    if (!stat || stat.pid !== process.pid || stat.started === '') return undefined;
    if (namespace === 0n || boot.every((byte) => byte === 0)) return undefined;
    return { kernel: hash(boot), namespace: String(namespace), started: stat.started };
  } catch {
    return undefined;
  }
}

let own: { readonly origin: Origin | undefined } | undefined;

/** Undefined: there is no /proc that could say it. */
export function ownOrigin(): Origin | undefined {
  own ??= { origin: originOfSelf() };
  return own.origin;
}

/** 16 hexadecimal digits. @param membership what tells one control of this process from another; no secret */
export function newInstance(membership: readonly unknown[]): string {
  const origin = ownOrigin();
  return origin ? hash(JSON.stringify([origin, process.pid, membership])) : randomBytes(8).toString('hex');
}

/** Whether that process has ended for certain, seen from here: on this kernel, in this pid namespace. */
export function hasEnded(pid: number, origin: Origin | undefined): boolean {
  const here = ownOrigin();
  if (!origin || !here || origin.kernel !== here.kernel || origin.namespace !== here.namespace || pid < 1) return false;
  try {
    const stat = readStat(pid);
    return !stat || stat.started !== origin.started || stat.state === 'Z' || stat.state === 'X';
  } catch {
    return false;
  }
}

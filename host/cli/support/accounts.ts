/** Numbers of users and groups. */
import { execFileSync } from 'node:child_process';
import { UsageError } from './errors.js';

/**
 * @param text a name or a number
 * @throws UsageError if the system has no user or group of that name
 */
export function accountId(kind: 'user' | 'group', text: string): number {
  if (/^\d{1,10}$/.test(text)) return Number(text);
  const database = kind === 'user' ? 'passwd' : 'group';
  try {
    // getent, not /etc/passwd: the name may come from a directory service.
    const line = execFileSync('getent', [database, text], { encoding: 'utf8', timeout: 10_000, stdio: 'pipe' });
    const id = line.split(':')[2];
    if (id !== undefined && /^\d+$/.test(id)) return Number(id);
  } catch {
    // The name is unknown, or there is no getent.
  }
  throw new UsageError(`there is no ${kind} '${text}' (a number is taken as well)`);
}

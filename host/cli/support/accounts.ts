/** Names of users and groups, as the system knows them. */
import { execFileSync } from 'node:child_process';
import { UsageError } from './output.js';

/**
 * @param text a name or a number
 * @returns the number
 * @throws UsageError if there is none of that name
 */
export function idOf(kind: 'user' | 'group', text: string): number {
  if (/^\d{1,10}$/.test(text)) return Number(text);
  const database = kind === 'user' ? 'passwd' : 'group';
  try {
    // Not /etc/passwd alone: they may come from a directory service.
    const line = execFileSync('getent', [database, text], { encoding: 'utf8', timeout: 10_000, stdio: 'pipe' });
    const id = line.split(':')[2];
    if (id !== undefined && /^\d+$/.test(id)) return Number(id);
  } catch {
    // No such name, or no getent.
  }
  throw new UsageError(`there is no ${kind} '${text}'; a number will do as well`);
}

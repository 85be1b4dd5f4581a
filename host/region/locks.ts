/** Locks on bytes of a region file: one byte for each slot, for formatting and for the server. */
import { coreLayout } from '../core/core.js';
import { addon } from '../native/native.js';

/**
 * A byte that another opening of the file has locked, as the owner of a slot, to format, or to serve the file.
 * @param except a byte that does not count
 */
export function lockHeld(fd: number, except = -1): number | undefined {
  const { locked } = addon();
  const end = coreLayout().LOCK_LIFECYCLE;
  for (let byte = 0; byte < end; byte++) if (byte !== except && locked(fd, byte)) return byte;
  return undefined;
}

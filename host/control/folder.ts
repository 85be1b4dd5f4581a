/**
 * The folder of a user's control sockets: `$XDG_RUNTIME_DIR/isthmus/`, or `isthmus-UID` in the temporary directory.
 *
 * The folder protects them: it has mode 0700, belongs to the user, and is no link. So other users cannot reach a socket in
 * it, not even between bind(2) and chmod(2).
 */
import { lstatSync, mkdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { IsthmusError } from '../base/errors.js';

/** Bytes of a path that fit into sockaddr_un, without the final NUL (unix(7)). */
export const MAX_PATH_BYTES = process.platform === 'linux' ? 107 : 103;

const SUFFIX = '.sock';

/** @throws ERR_ISTHMUS_SYSCALL: users have no number on this platform */
export function controlFolder(environment: NodeJS.ProcessEnv = process.env): string {
  const uid = process.geteuid?.();
  if (uid === undefined) throw new IsthmusError('ERR_ISTHMUS_SYSCALL', 'there are no control sockets on this platform');
  const base = environment['XDG_RUNTIME_DIR'];
  // The XDG specification says: ignore a relative path.
  return base && isAbsolute(base) ? join(base, 'isthmus') : join(tmpdir(), `isthmus-${uid}`);
}

export function pathOf(folder: string, id: string): string {
  return join(folder, id + SUFFIX);
}

/** `4711-0`, or `4711.2-0` in a worker thread. */
export function isId(text: string): boolean {
  return /^\d+(?:\.\d+)?-\d+$/.test(text);
}

/** @returns undefined: not the name of a control socket */
export function idOf(file: string): string | undefined {
  const id = file.endsWith(SUFFIX) ? file.slice(0, -SUFFIX.length) : '';
  return isId(id) ? id : undefined;
}

/**
 * Make sure that no other user can create files there.
 * @returns false: it does not exist
 * @throws ERR_ISTHMUS_CONTROL_FOLDER: it is a link, belongs to another user, or is open to others
 */
export function checkFolder(folder: string): boolean {
  const found = lstatSync(folder, { throwIfNoEntry: false });
  if (!found) return false;
  const wrong = (what: string): never => {
    throw new IsthmusError('ERR_ISTHMUS_CONTROL_FOLDER', `${folder} is not used for control sockets: ${what}`, {
      path: folder,
    });
  };
  const uid = process.geteuid?.();
  if (!found.isDirectory()) wrong('it is not a folder; remove it');
  if (found.uid !== uid) {
    wrong(
      `it belongs to user ${found.uid}, and this process runs as user ${uid}; set XDG_RUNTIME_DIR to a folder of user ${uid} ` +
        '(sudo and su may have kept that of the other user), or remove the folder if it should not be there',
    );
  }
  if ((found.mode & 0o077) !== 0) {
    wrong(`others may use it (mode 0${(found.mode & 0o777).toString(8)}, not 0700); run: chmod 700 ${folder}`);
  }
  return true;
}

/** Create the folder if it does not exist. @throws ERR_ISTHMUS_CONTROL_FOLDER, or what `mkdir` throws */
export function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  checkFolder(folder);
}

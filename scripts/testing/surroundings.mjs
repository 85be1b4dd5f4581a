// @ts-check
/**
 * What a test file sees of the machine: folders for temporary files and control sockets that are its own, and, where a
 * mount namespace can be made, a /dev/shm of its own. Runtimes of others, which would take slots in the regions of a test,
 * and whose files a test would find, are then not there.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** As it is on every machine: every user may make files there, and remove none of others. */
const MOUNT = 'mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm && exec "$@"';

/** The command that runs another one with a /dev/shm of its own, as the same user. @returns {string[]} */
function privateCommand() {
  const [uid, gid] = [process.getuid?.() ?? 0, process.getgid?.() ?? 0];
  if (uid === 0) return ['unshare', '--mount', 'sh', '-c', MOUNT, 'sh'];
  // Mounting needs root, which every user is in a user namespace; a second one maps the user back. The command replaces
  // unshare and sh: it has the pid of the process that was started.
  const back = ['unshare', '--user', `--map-user=${uid}`, `--map-group=${gid}`];
  return ['unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', MOUNT, 'sh', ...back];
}

/**
 * @returns {{ command: readonly string[], said: string }} a command before that of a test file, empty where it shares the
 *   /dev/shm of the machine; and a sentence about it
 */
export function separation() {
  const shared = (/** @type {string} */ why) => ({
    command: [],
    said: `the files share /dev/shm with all processes of this machine: ${why}`,
  });
  if (process.env['ISTHMUS_TEST_OWN_SHM'] === '0') return shared('ISTHMUS_TEST_OWN_SHM=0');
  const command = privateCommand();
  const probe = '[ -z "$(ls -A /dev/shm)" ] && touch /dev/shm/probe';
  const [program, ...args] = [...command, 'sh', '-c', probe];
  const { status, error, stderr } = spawnSync(/** @type {string} */ (program), args, { encoding: 'utf8' });
  if (status === 0) return { command, said: 'each file has a /dev/shm of its own' };
  const why = error?.message ?? (stderr.trim().split('\n').at(-1) || `unshare ended with ${status}`);
  return shared(`no mount namespace can be made (${why})`);
}

/**
 * Folders of one test file. Their names are short: paths of sockets are limited to 107 bytes.
 *
 * @returns {{ env: NodeJS.ProcessEnv, remove(): void }}
 */
export function ownFolders() {
  const folder = mkdtempSync(join(tmpdir(), 'it-'));
  const [temporary, run] = [join(folder, 't'), join(folder, 'r')];
  // Tests start programs as other users, which need a way to their files.
  chmodSync(folder, 0o755);
  mkdirSync(temporary);
  chmodSync(temporary, 0o1777);
  mkdirSync(run, { mode: 0o700 });
  return {
    env: { TMPDIR: temporary, XDG_RUNTIME_DIR: run },
    remove: () => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }),
  };
}

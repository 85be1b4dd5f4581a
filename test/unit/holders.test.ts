/** The processes that use a file, as /proc shows them; what is hidden there is not absent. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { mappedBy } from '../../host/device/holders.js';
import { Child, chosen, play, role, roleOptions, tell } from '../support/process.js';
import { timebox } from '../support/timebox.js';

const FILE = { dev: 0n, ino: 0n };
const INITIAL = 'pid:[4026531836]';

/** Looks without the rights of root. */
async function look(): Promise<void> {
  const { uid } = roleOptions<{ uid: number }>();
  process.setgroups?.([]);
  process.setgid?.(uid);
  process.setuid?.(uid);
  const { all } = mappedBy(FILE);
  // What is seen is all its own: nothing that could not be read says that there is more.
  tell('looked', { all, seen: readdirSync('/proc').filter((name) => /^\d+$/.test(name)).length });
}

function main(): void {
  const test = chosen(register);

  test(
    'process 1 always exists: where it is missing, processes are hidden',
    timebox(10, () => {
      const proc = mkdtempSync(join(tmpdir(), 'isthmus-proc-'));
      try {
        for (const entry of ['1', '77']) {
          mkdirSync(join(proc, entry));
          for (const name of ['maps', 'comm']) writeFileSync(join(proc, entry, name), '');
        }
        mkdirSync(join(proc, 'self/ns'), { recursive: true });
        symlinkSync(INITIAL, join(proc, 'self/ns/pid'));
        assert.equal(mappedBy(FILE, proc), { holders: [], all: true });
        rmSync(join(proc, '1'), { recursive: true });
        assert.equal(mappedBy(FILE, proc), { holders: [], all: false });
      } finally {
        rmSync(proc, { recursive: true });
      }
    }),
  );

  const mount = ['unshare', '--mount', 'bash', '-c', 'mount -t proc -o hidepid=2 proc /proc && exec "$0" "$@"'];
  const why =
    readlinkSync('/proc/self/ns/pid') !== INITIAL
      ? 'not in the initial pid namespace'
      : spawnSync(mount[0] as string, [...mount.slice(1), 'true']).status !== 0
        ? '/proc cannot be mounted'
        : undefined;
  if (why) console.log(`skipped: a real hidepid=2 (${why})`);
  else {
    test(
      '/proc with hidepid=2: to another user than root it shows its own processes alone',
      timebox(30, async () => {
        const child = Child.start(import.meta.url, 'look', { uid: 61_003 }, { under: mount });
        assert.equal(await child.event('looked'), { all: false, seen: 1 });
        await child.ended();
      }),
    );
  }

  register.run();
}

if (role) await play({ look });
else main();

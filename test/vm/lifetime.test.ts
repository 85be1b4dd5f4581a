/** A run of the lab that is interrupted leaves nothing: no files, no folders, no processes. */
import { existsSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { eventually } from '../support/outcomes.js';
import { Child, chosen, endChildren, program } from '../support/process.js';
import { timebox } from '../support/timebox.js';
import { keep, owned, sweep } from './lifetime.js';
import { missing } from './needs.js';

const why = missing();
if (why) console.log(`! SKIPPED, there is no lab here (npm run test:vm:setup): ${why}`);
const test = chosen(why ? (register.skip as unknown as typeof register) : register);

interface Made {
  readonly owned: string;
  readonly folder: string;
  readonly paths: readonly string[];
}

/** Processes whose command line names something of that run: its server, its QEMU. */
function processesOf({ owned }: Made): number[] {
  return readdirSync('/proc')
    .filter((entry) => /^\d+$/.test(entry))
    .map(Number)
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(owned);
      } catch {
        return false; // It has ended.
      }
    });
}

const filesOf = ({ owned }: Made) =>
  ['/dev/shm', tmpdir()].flatMap((folder) => readdirSync(folder).filter((name) => name.startsWith(owned)));

/** What is removed of that run: other runs may have left something, too. */
const swept = ({ owned }: Made) => sweep().filter((path) => basename(path).startsWith(owned));

async function interrupted(signal: NodeJS.Signals): Promise<Made> {
  const lab = Child.start(program('lab'), '');
  const made = await lab.event<Made>('ready');
  assert.is(processesOf(made).length, 2, 'a server and the QEMU of a switch');
  for (const path of [...made.paths, made.folder]) assert.ok(existsSync(path), path);
  // That run is in progress: nothing of it is touched.
  assert.equal(swept(made), []);
  await lab.kill(signal);
  await lab.ended();
  await eventually('its processes end', () => processesOf(made).length === 0);
  return made;
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  test(
    `after ${signal} nothing is left`,
    timebox(60, async () => {
      const made = await interrupted(signal);
      assert.equal(filesOf(made), []);
    }),
  );
}

test(
  'after SIGKILL no process is left, and the next run removes the files, unless one is mapped',
  timebox(90, async () => {
    const made = await interrupted('SIGKILL');
    assert.is(filesOf(made).length, 4, 'two regions, two folders');
    const [bare = '', served = ''] = made.paths;
    const holder = Child.start(program('regions'), 'hold', { path: bare });
    await holder.event('held');
    assert.is(swept(made).length, 3);
    assert.equal([existsSync(bare), existsSync(served)], [true, false]);
    await holder.kill();
    assert.equal(swept(made), [bare]);
    assert.equal(filesOf(made), []);
  }),
);

test(
  'a folder that is kept after a failure stays for a day; names of other pid namespaces and of other programs stay',
  timebox(60, async () => {
    const { folder: kept } = await interrupted('SIGKILL');
    const [, space = ''] = /^isthmus-vm-(\d+)/.exec(owned) ?? [];
    const elsewhere = join(tmpdir(), `isthmus-vm-${BigInt(space) + 1n}.1.1-lab-x`);
    const other = join(tmpdir(), `isthmus-vm-${process.pid}-lab-x`);
    try {
      for (const path of [elsewhere, other]) writeFileSync(path, '');
      keep(kept);
      sweep();
      for (const path of [kept, elsewhere, other]) assert.ok(existsSync(path), path);
      const yesterday = new Date(Date.now() - 25 * 3600_000);
      utimesSync(join(kept, 'kept'), yesterday, yesterday);
      sweep();
      assert.not.ok(existsSync(kept));
    } finally {
      for (const path of [kept, elsewhere, other]) rmSync(path, { recursive: true, force: true });
    }
  }),
);

register.after(endChildren);
register.run();

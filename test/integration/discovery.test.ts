/**
 * Which region files a runtime uses: those that are named, and under a pattern those of root and of its own user. Other users
 * are real ones here: their processes run under other uids, which needs root.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, chownSync, linkSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { discoverPosix } from '../../host/device/posix-discovery.js';
import { IsthmusError, Runtime, type RuntimeOptions } from '../../host/index.js';
import { printed } from '../support/cli.js';
import { echo } from '../support/meeting.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve } from '../support/process.js';
import { MIB, namedRegions, nameOf, newPath, newRegion, only, prefix, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

namedRegions();

const test = chosen(register);

test(
  'a search for a pattern is bounded, and says when it was cut',
  timebox(20, async () => {
    const paths = [1, 2, 3].map(() => newRegion(4 * MIB));
    for (const path of paths) await (await Runtime.create(only(path))).close();
    const codes = (limits: { entries: number; matches: number }) =>
      discoverPosix(`${prefix}*`, limits).map(({ backing, refused }) => (backing ? 'found' : refused?.code));
    assert.equal(codes({ entries: 65_536, matches: 3 }), ['found', 'found', 'found']);
    assert.equal(codes({ entries: 65_536, matches: 2 }), ['found', 'found', 'ERR_ISTHMUS_REGION_NOT_NAMED']);
    const cut = discoverPosix(`${prefix}*`, { entries: 1, matches: 3 }).at(-1)?.refused;
    assert.is(cut?.code, 'ERR_ISTHMUS_REGION_NOT_NAMED');
    assert.match(cut?.message ?? '', /has more than 1 entries, and not all were looked at: name the file itself/);
    // What is named needs no search.
    assert.is(discoverPosix(paths[0] as string, { entries: 0, matches: 0 })[0]?.backing?.path, paths[0]);
    removeRegions();
  }),
);

interface Seen {
  readonly regions: readonly string[];
  readonly slots: readonly number[];
  readonly refused: readonly { readonly path: string; readonly code: string }[];
  readonly unavailable: string | undefined;
  readonly error: { readonly code: string; readonly message: string } | undefined;
}

/** What a runtime with these options attaches to, and why not to more. */
async function see(options: RuntimeOptions): Promise<Seen> {
  const empty: Seen = { regions: [], slots: [], refused: [], unavailable: undefined, error: undefined };
  try {
    await using runtime = await Runtime.create(options);
    return {
      ...empty,
      regions: runtime.regions().map(({ path }) => path),
      slots: runtime.regions().map(({ slot }) => slot),
      refused: runtime.refusedRegions().map(({ path, error }) => ({ path, code: error.code })),
      unavailable: runtime.plugins().find(({ name }) => name === 'ivshmem')?.unavailable,
    };
  } catch (error) {
    if (!(error instanceof IsthmusError)) throw error;
    return { ...empty, error: { code: error.code, message: error.message } };
  }
}

const roles: Record<string, () => Promise<void>> = {
  async see() {
    roleOptions();
    serve({ see });
  },
};

const USER = 12_345;
const OTHER = 23_456;
/** A group that all have in common, as `users` on Debian. */
const GROUP = 34_567;
const root = process.geteuid?.() === 0;
const asUser = (uid: number) => ['setpriv', '--reuid', `${uid}`, '--regid', `${GROUP}`, '--clear-groups'];

/** What a runtime of another user sees. */
async function seenBy(uid: number, options: RuntimeOptions): Promise<Seen> {
  const child = Child.start(import.meta.url, 'see', {}, { under: asUser(uid) });
  try {
    return await child.call<Seen>('see', options);
  } finally {
    await child.kill();
  }
}

/** A formatted region of that user, open to the common group. */
async function regionOf(uid: number, mode = 0o660): Promise<string> {
  const path = newRegion(2 * MIB);
  await (await Runtime.create(only(path))).close();
  chownSync(path, uid, GROUP);
  chmodSync(path, mode);
  return path;
}

/** Options without the setting of region files. */
function unset(options: RuntimeOptions = {}): RuntimeOptions {
  const { regions: _, ...rest } = only('', options);
  return rest;
}

async function main(): Promise<void> {
  const pattern = `${prefix}-*`;

  test(
    'without a setting no region file is used, and the reason names it',
    timebox(30, async () => {
      const path = newRegion(2 * MIB);
      await (await Runtime.create(only(path))).close();
      const { regions, refused, unavailable } = await see(unset());
      assert.equal([regions, refused], [[], []]);
      assert.match(unavailable ?? '', /^no region \(/);
      // Other files of the machine may be named before it: then by their number.
      if (!unavailable?.includes('more'))
        assert.ok(unavailable?.includes(`${path} is not named; PSP_IVSHMEM_REGIONS=${nameOf(path)}`), unavailable);
      assert.is((await see(only(''))).unavailable, 'no region', 'a choice is not commented on');
      assert.equal((await see(only(nameOf(path)))).regions, [path]);

      const server = await Runtime.create(only('', { name: 'server' }));
      const { port } = await server.listen({}, echo);
      const client = await Runtime.create(unset());
      const connection = await client.connect(`127.0.0.1:${port}`);
      assert.is(connection.plugin, 'tcp');
      assert.match(connection.why ?? '', /^ivshmem: no region \(.*PSP_IVSHMEM_REGIONS/);
      await Promise.all([client.close(), server.close()]);
    }),
  );

  test(
    'one file under many names takes one slot',
    timebox(30, async () => {
      const path = newRegion(2 * MIB);
      await (await Runtime.create(only(path))).close();
      const link = newPath();
      linkSync(path, link);
      const around = path.replace('/dev/shm/', '/dev/shm/../shm/');
      for (const regions of [[path, link, around], [around, nameOf(link), pattern], [pattern, path], [pattern]]) {
        const seen = await see(only(regions));
        assert.equal([seen.regions.length, seen.slots, seen.refused], [1, [0], []], regions.join(' '));
      }
      const before = { ...process.env };
      Object.assign(process.env, { PSP_SHM: '0', PSP_IVSHMEM_REGIONS: `${path} ${link}` });
      try {
        const { stdout } = await printed(['info']);
        assert.ok(stdout.includes(`${link}: the same file as ${path}`), stdout);
      } finally {
        process.env = before;
      }
      const folder = newPath('folder');
      mkdirSync(folder);
      writeFileSync(join(folder, 'bound'), '');
      // A mount of its own, in a namespace of its own.
      const script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"';
      const under = ['unshare', '--mount', 'sh', '-c', script, 'sh', path, join(folder, 'bound')];
      if (spawnSync(under[0] as string, [...under.slice(1), 'true']).status === 0) {
        const child = Child.start(import.meta.url, 'see', {}, { under });
        const seen = await child.call<Seen>('see', only([path, join(folder, 'bound')]));
        assert.equal([seen.regions, seen.slots], [[path], [0]]);
        await child.kill();
      } else {
        console.log('  (no mount may be made here: a file that is mounted twice is not tried)');
      }
    }),
  );

  test(
    '40 wildcards match at once',
    timebox(30, async () => {
      // The name begins with enough letters for a matcher that tries all distributions to take for ever.
      const path = newPath('a'.repeat(60));
      writeFileSync(path, '');
      const child = Child.start(import.meta.url, 'see');
      assert.equal((await child.call<Seen>('see', only(`${'*a'.repeat(40)}b`))).regions, []);
      await child.kill();
    }),
  );

  const users = root ? test : test.skip;
  const skipped = root ? '' : ' (skipped: needs root, to be other users)';

  users(
    `a pattern matches files of root and of one's own user, whatever groups they have in common${skipped}`,
    timebox(60, async () => {
      const [roots, own, foreign] = [await regionOf(0), await regionOf(USER), await regionOf(OTHER)];
      const seen = await seenBy(USER, only(pattern));
      assert.equal([...seen.regions].sort(), [roots, own].sort());
      assert.equal(seen.refused, [{ path: foreign, code: 'ERR_ISTHMUS_REGION_PERMISSIONS' }]);
      // Root's processes take root's alone.
      assert.equal((await see(only(pattern))).regions, [roots]);
      // Without a setting nothing at all, and no word of a stranger's file.
      const bare = await seenBy(USER, unset());
      assert.equal([bare.regions, bare.refused], [[], []]);
      assert.not.match(bare.unavailable ?? '', foreign);
      for (const path of [roots, own, foreign]) {
        const { slots } = JSON.parse((await printed(['region', 'show', path, '--json'])).stdout);
        assert.equal(slots, [], 'nothing is left in it');
      }
    }),
  );

  users(
    `a file of another user is used if it is named, if others cannot write to it, and if it is no link${skipped}`,
    timebox(60, async () => {
      const path = await regionOf(OTHER);
      assert.equal((await seenBy(USER, only(nameOf(path)))).regions, [path]);
      chmodSync(path, 0o600);
      const closed = await seenBy(USER, only(path));
      assert.is(closed.error?.code, 'ERR_ISTHMUS_REGION_PERMISSIONS');
      for (const mode of [0o602, 0o662, 0o666]) {
        chmodSync(path, mode);
        for (const seen of [await seenBy(USER, only(path)), await see(only(path))]) {
          assert.is(seen.error?.code, 'ERR_ISTHMUS_REGION_PERMISSIONS', mode.toString(8));
        }
      }
      chmodSync(path, 0o660);
      const link = newPath();
      symlinkSync(path, link);
      assert.is((await seenBy(USER, only(link))).error?.code, 'ERR_ISTHMUS_REGION_PERMISSIONS');

      const before = { ...process.env };
      Object.assign(process.env, { PSP_SHM: '0', PSP_IVSHMEM_REGIONS: path });
      try {
        const { stdout } = await printed(['info']);
        assert.ok(stdout.includes(`${path}: belongs to uid ${OTHER}; it is used because it is named`), stdout);
        const doctor = await printed(['doctor']);
        assert.match(doctor.stdout, new RegExp(`belongs to uid ${OTHER}`));
        delete process.env['PSP_IVSHMEM_REGIONS'];
        const others = await printed(['info']);
        assert.ok(others.stdout.includes(`${path} is not named and belongs to uid ${OTHER}`), others.stdout);
        assert.match(others.stdout, /ERR_ISTHMUS_REGION_NOT_NAMED/);
        assert.not.match((await printed(['doctor'])).stdout, path);
      } finally {
        process.env = before;
      }
    }),
  );

  users(
    `thousands of files of strangers cost little, and are not repeated in messages${skipped}`,
    timebox(60, async () => {
      const own = await regionOf(USER);
      const head = readFileSync(own).subarray(0, 4096);
      const strangers = Array.from({ length: 2000 }, (_, i) => newPath(`stranger${i}`));
      for (const path of strangers) {
        writeFileSync(path, head, { mode: 0o664 });
        chownSync(path, OTHER, GROUP);
      }
      const odd = `${newPath('\u001b[31m')}`;
      writeFileSync(odd, head);
      chownSync(odd, OTHER, GROUP);
      const lines: string[] = [];
      const seen = await seenBy(USER, only(pattern));
      assert.equal(seen.regions, [own]);
      assert.ok(seen.refused.length <= 64, `${seen.refused.length} refused`);
      assert.ok(seen.refused.every(({ path }) => path !== odd));
      const runtime = await Runtime.create(only(pattern, { debug: 2, log: (_, line) => lines.push(line) }));
      await runtime.close();
      assert.ok(lines.length <= 64, `${lines.length} lines`);
      const { stdout } = await printed(['info']);
      assert.ok(stdout.split('\n').filter((line) => line.includes(OTHER.toString())).length <= 64);
    }),
  );

  test.after.each(async () => {
    await endChildren();
    removeRegions();
  });
  test.run();
}

if (role) await play(roles);
else await main();

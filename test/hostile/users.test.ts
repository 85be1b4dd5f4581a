/**
 * The table of docs/security.md, row by row, with programs of other users (test/support/users.ts): what each may try, and
 * what must hold then. The victim is user A, or a process of A's; B is hostile; C is a user that wants nothing but service.
 *
 * Only root can start programs as other users: without root the file says so, and is skipped.
 */
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, chownSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { RuntimeSnapshot } from '../../host/api/snapshots.js';
import { addonMissing } from '../../host/native/native.js';
import { hasMosquitto, TestBroker } from '../support/broker.js';
import { SIZE } from '../support/hostile.js';
import { slowness } from '../support/limits.js';
import { eventually } from '../support/outcomes.js';
import { PIPES } from '../support/pipes.js';
import { type Child, chosen, endChildren } from '../support/process.js';
import { MIB, namedRegions, newPath, newRegion, only, removeRegions } from '../support/regions.js';
import { testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';
import { newGroup, removeUsers, User, whyNoUsers } from '../support/users.js';

namedRegions();

const test = chosen(register);

/** A region file of A that the members of a group share. */
function groupRegion(owner: User, group: number): string {
  const path = newRegion(SIZE);
  chownSync(path, owner.uid, group);
  chmodSync(path, 0o660);
  return path;
}

/** Options of a runtime that uses nothing but `shm`, with the name and the place that it has by default. */
const SHM_ONLY = only('', { shm: 90, shmSize: 4 * MIB });

const passesDescriptors = spawnSync('python3', ['-c', 'import socket; socket.send_fds']).status === 0;

const start = (user: User, env: NodeJS.ProcessEnv = {}) => user.start('user', 'user', {}, env);

/** A process of a user with a runtime that echoes. */
async function serving(user: User, options = only('')): Promise<{ child: Child; port: number }> {
  const child = start(user);
  await child.call('create', options);
  return { child, port: await child.call<number>('listen') };
}

/** A process of a user with a connection. */
async function connected(user: User, port: number, options = only('')): Promise<{ child: Child; plugin: string }> {
  const child = start(user);
  await child.call('create', options);
  return { child, plugin: await child.call<string>('connect', port) };
}

/** The event loop of that process turns. */
async function turning(child: Child): Promise<void> {
  const before = await child.call<number>('turns');
  await eventually('turns of the event loop', async () => (await child.call<number>('turns')) > before + 5);
}

function clients(seed: number): void {
  test(
    'a client that reaches a port: 200 silent sockets do not keep another client out',
    timebox(120, async () => {
      const [a, b, c] = [new User(), new User(), new User()];
      // Longer than the test: the silent ones do not go away by themselves.
      const { child, port } = await serving(a, { ...only(''), handshakeTimeout: 600_000 * slowness });
      const hostile = start(b);
      assert.ok((await hostile.call<number>('silent', port, 200)) > 0);
      const client = await connected(c, port);
      assert.is(client.plugin, 'tcp');
      await client.child.call('talk', 20, 1000);
      await turning(child);
    }),
  );

  test(
    'a client that reaches a port: bytes without sense end its own sockets, and leave nothing behind',
    timebox(120, async () => {
      const [a, b, c] = [new User(), new User(), new User()];
      const { child, port } = await serving(a, { ...only(''), handshakeTimeout: 2000 * slowness });
      const client = await connected(c, port);
      const hostile = start(b);
      const garbage = hostile.call<number>('garbage', port, seed, 100);
      await client.child.call('talk', 100, 10_000);
      assert.is(await garbage, 100, 'sockets that the victim has closed');
      await client.child.call('talk', 20, 1000);
      await turning(child);
      await hostile.kill();
      await eventually('no connection but that of the client', async () => {
        const { connections } = await child.call<RuntimeSnapshot>('inspect');
        return connections.length === 1 && (await child.call<number>('accepted')) === 1;
      });
    }),
  );

  test(
    'the peer of a connection: its flood leaves others their turn, and its memory is bounded',
    timebox(120, async () => {
      const [a, b, c] = [new User(), new User(), new User()];
      const { child, port } = await serving(a);
      const [client, hostile] = [await connected(c, port), await connected(b, port)];
      const before = await child.call<number>('memory');
      // Each message is sent back, and the hostile peer reads none of them.
      const flood = hostile.child.call<number>('flood', 3000);
      await client.child.call('talk', 50, 1000);
      assert.ok((await flood) > 100);
      await client.child.call('talk', 50, 1000);
      await turning(child);
      const grown = ((await child.call<number>('memory')) - before) / MIB;
      assert.ok(grown < 200, `${grown.toFixed(0)} MiB more`);
    }),
  );

  test(
    'the peer of a connection: bytes without sense in its stream end that connection with a code, and no other',
    timebox(120, async () => {
      const [a, b, c] = [new User(), new User(), new User()];
      const { child, port } = await serving(a);
      const client = await connected(c, port);
      const hostile = start(b);
      await hostile.call('create', only(''));
      assert.is(await hostile.call('through', port), 'tcp');
      await hostile.call('talk', 5, 100);
      assert.is(await child.call('accepted'), 2);
      await hostile.call('corrupt', seed);
      await eventually('the end of that connection', async () => (await child.call<number>('accepted')) === 1);
      await client.child.call('talk', 50, 1000);
      await turning(child);
    }),
  );
}

function regions(seed: number): void {
  for (const where of ['own', 'anywhere'] as const) {
    const row = where === 'own' ? 'in its own ring and records' : 'anywhere in it';
    test(
      `a peer in the same region, ${row}: connections to it end with a code, others go on`,
      timebox(200, async () => {
        const group = newGroup();
        const [a, b, c] = [new User([group]), new User([group]), new User([group])];
        const here = groupRegion(a, group);
        const elsewhere = groupRegion(a, group);
        const options = (...paths: string[]) => only(paths, { ringSize: 16_384 });
        const bystanders = [];
        for (const paths of where === 'own' ? [[here], [elsewhere], []] : [[elsewhere], []]) {
          const { port } = await serving(c, options(...paths));
          bystanders.push({ port, plugin: paths.length > 0 ? 'ivshmem' : 'tcp' });
        }
        const hostile = b.start('hostile', 'hostile');
        const port = await hostile.call<number>('attach', here, seed);
        const clients = [];
        for (const { port: to, plugin } of bystanders) {
          // One process for each, since a process that has the hostile region may lose it.
          const client = await connected(a, to, options(here, elsewhere));
          assert.is(client.plugin, plugin);
          clients.push(client.child);
        }
        const victim = start(a);
        await victim.call('create', options(here, elsewhere));
        assert.is(
          await victim.call('connect', port),
          'ivshmem',
          'the groups and the mode let A and B share the region',
        );
        const rounds = 15;
        let over = false;
        const met = victim.call<Record<string, number>>('meet', port, rounds).finally(() => {
          over = true;
        });
        met.catch(() => {});
        // It ends each time that it has no connection for a moment.
        let stores = 0;
        while (!over) stores += await hostile.call<number>('misbehave', where, 1000);
        const endings = await met;
        console.log(stores, 'stores', endings);
        assert.ok(stores > 100);
        assert.is(
          Object.entries(endings).reduce((sum, [what, count]) => sum + (what.startsWith('connect:') ? count : 0), 0),
          rounds,
        );
        for (const client of clients) await client.call('talk', 20, 5000);
        await turning(victim);
      }),
    );
  }

  test(
    'a peer in the same region that truncates its file: an error with a code, no death, and tcp goes on',
    timebox(100, async () => {
      const group = newGroup();
      const [a, b, c] = [new User([group]), new User([group]), new User()];
      const path = groupRegion(a, group);
      const { child, port } = await serving(a, only(path));
      const peer = await connected(a, port, only(path));
      assert.is(peer.plugin, 'ivshmem');
      await peer.child.call('talk', 10, 1000);
      const client = await connected(c, port);
      const hostile = start(b);
      assert.is(await hostile.call('truncate', path, 0), 'done');
      // Both ends of the connection notice it, when they touch the memory.
      const failed = await peer.child.call('talk', 1000, 1000).then(
        () => undefined,
        (error: NodeJS.ErrnoException) => error,
      );
      assert.match(failed?.code ?? String(failed), /^ERR_ISTHMUS_/);
      assert.match(await peer.child.call<string>('ended'), /^ERR_ISTHMUS_/);
      for (const process of [child, peer.child]) await turning(process);
      await client.child.call('talk', 20, 1000);
      // A new connection takes another way.
      const next = await connected(c, port);
      assert.is(next.plugin, 'tcp');
      assert.is(await peer.child.call('connect', port), 'tcp');
      await peer.child.call('talk', 20, 1000);
    }),
  );

  test(
    'a peer in the same region with a doorbell that is full and blocks: the loops of others turn',
    timebox(100, async () => {
      const group = newGroup();
      const [a, b, c] = [new User([group]), new User([group]), new User()];
      if (!passesDescriptors) {
        console.log('skipped: no python3, which passes descriptors');
        return;
      }
      const path = groupRegion(a, group);
      const client = await connected(c, (await serving(c)).port);
      const hostile = start(b);
      await hostile.call('evilDoorbell');
      await hostile.call('create', only(path, { wait: 'block' }));
      const port = await hostile.call<number>('listen');
      const victim = await connected(a, port, only(path, { wait: 'block' }));
      assert.is(victim.plugin, 'ivshmem');
      const doorbells = await hostile.call<string[]>('fillDoorbells');
      assert.ok(doorbells.length > 0, 'it has no doorbell: correct this test');
      // It empties none any more, and its slot says that it sleeps.
      hostile.process.kill('SIGSTOP');
      // With such a doorbell a ring would be the last thing that the victim does.
      const talk = victim.child.call('talk', 30, 1000);
      talk.catch(() => {});
      for (let i = 0; i < 5; i++) await turning(victim.child);
      await client.child.call('talk', 10, 100);
    }),
  );
}

/** The process takes requests: the broker knows its status. */
async function joined(user: User, url: string, { pid }: Child): Promise<void> {
  await eventually('a status', () =>
    new RegExp(`^${pid} .*inactive`, 'm').test(user.run('isthmus', ['status', '--broker', url]).stdout),
  );
}

function broker(): void {
  const skip = hasMosquitto ? undefined : 'no mosquitto here';
  if (skip) console.log(`skipped: a client that may publish: ${skip}`);
  (skip ? test.skip : test)(
    'a client that may publish at the broker: it suspends and resumes; other payloads change nothing',
    timebox(100, async () => {
      const [a, b] = [new User(), new User()];
      const mosquitto = await TestBroker.start();
      try {
        const child = a.start('migratable', 'process', { url: mosquitto.url });
        await child.event('ready');
        const states = () => child.call<string[]>('states');
        const publish = (topic: string, ...payload: string[]) => {
          const { status, stderr } = b.run('mosquitto_pub', [
            ...['-p', String(mosquitto.port), '-q', '1', '-t', `fast/pscom/${hostname()}/${topic}`],
            ...payload,
          ]);
          assert.is(status, 0, stderr);
        };
        const become = (state: string) =>
          eventually(`state ${state}`, async () => (await states()).every((each) => each === state));
        await joined(a, mosquitto.url, child);
        for (const payload of [
          '$(touch /tmp/owned)',
          '--- \n- !!js/function x',
          '{"__proto__":{"x":1}}',
          'x'.repeat(70_000),
        ])
          publish('any_proc/request', '-m', payload);
        publish(`${child.pid}/status`, '-r', '-m', '{"state":"allowed","plugins":{"a":"b"},"pid":-1}');
        publish(`${child.pid}/request`, '-r', '-m', 'suspend');
        // A retained request is ignored, and so is all that is no request.
        publish('any_proc/request', '-m', '\u001b[2Jsuspend');
        publish(`${child.pid}/request`, '-m', 'suspend');
        await become('allowed');
        publish(`${child.pid}/request`, '-m', 'resume');
        await become('inactive');
        assert.equal(await child.call('calls'), [['suspend', 'resume']]);
      } finally {
        await mosquitto.close();
      }
    }),
  );

  (skip ? test.skip : test)(
    'a client that may publish at the broker: it cannot answer for a process, so that `isthmus suspend` says yes',
    timebox(100, async () => {
      const [a, b] = [new User(), new User()];
      const mosquitto = await TestBroker.start();
      let forging: ReturnType<typeof spawn> | undefined;
      try {
        const child = a.start('migratable', 'process', { url: mosquitto.url });
        await child.event('ready');
        await joined(a, mosquitto.url, child);
        // It is asked and does not answer; another client does, again and again, once it has seen the request or before.
        child.process.kill('SIGSTOP');
        const topic = `fast/pscom/${hostname()}/${child.pid}/response`;
        const loop = 'while echo "$M"; do sleep 0.02; done | exec mosquitto_pub -p "$P" -t "$T" -l';
        forging = spawn('setpriv', [`--reuid=${b.uid}`, `--regid=${b.gid}`, '--clear-groups', 'sh', '-c', loop], {
          env: { ...process.env, P: String(mosquitto.port), T: topic, M: `${child.pid} : ALLOWED` },
          stdio: 'ignore',
          detached: true,
        });
        await eventually('a forged answer', () => {
          const args = ['-p', String(mosquitto.port), '-t', topic, '-C', '1', '-W', '5'];
          return spawnSync('mosquitto_sub', args).stdout.toString().includes('ALLOWED');
        });
        const said = a.run('isthmus', [
          'suspend',
          '--broker',
          mosquitto.url,
          '--pid',
          String(child.pid),
          '--wait',
          '5',
        ]);
        assert.is.not(said.status, 0, said.stdout + said.stderr);
        child.process.kill('SIGCONT');
      } finally {
        if (forging?.pid) process.kill(-forging.pid, 'SIGKILL');
        await endChildren();
        await mosquitto.close();
      }
    }),
  );
}

/** Names of the abstract Unix sockets at which processes listen. */
function abstractNames(...processes: Child[]): string[] {
  const inodes = processes.flatMap(({ pid }) =>
    readdirSync(`/proc/${pid}/fd`).map((fd) => /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1]),
  );
  const sockets = readFileSync('/proc/net/unix', 'latin1').matchAll(/ (\d+) @(\S+)$/gm);
  return [...new Set([...sockets].filter(([, inode]) => inodes.includes(inode)).map(([, , name]) => name as string))];
}

/** Files of /dev/shm that a process has mapped. */
function mappedBy({ pid }: Child): string[] {
  const maps = readFileSync(`/proc/${pid}/maps`, 'utf8');
  return [...new Set([...maps.matchAll(/ (\/dev\/shm\/\S+)$/gm)].map(([, path]) => path as string))];
}

function strangers(): void {
  test(
    'another user of the host, regions: neither reads, writes, truncates, replaces nor removes them',
    timebox(100, async () => {
      const [a, b] = [new User(), new User()];
      const { child, port } = await serving(a, SHM_ONLY);
      const peer = await connected(a, port, SHM_ONLY);
      assert.is(peer.plugin, 'shm');
      const own = newRegion(SIZE);
      chownSync(own, a.uid, a.gid);
      const hostile = start(b);
      const mapped = mappedBy(child);
      assert.ok(mapped.length > 0, 'shm has a file');
      for (const file of [...mapped, own]) {
        assert.is(statSync(file).uid, a.uid);
        const mine = newPath('mine');
        assert.is(await hostile.call('file', 'writeFileSync', mine, ''), 'done');
        for (const [operation, ...args] of [
          ['openSync', file, 'r'],
          ['openSync', file, 'r+'],
          ['truncateSync', file, 0],
          ['unlinkSync', file],
          ['renameSync', file, `${file}-mine`],
          ['renameSync', mine, file],
          ['chmodSync', file, 0o666],
        ] as const) {
          const how = await hostile.call<string>('file', operation, ...args);
          assert.match(how, /^(EACCES|EPERM)$/, `${operation} ${file}`);
        }
      }
      // The same in the words of the library, and of the command line.
      const refused = await hostile.call('create', only(own)).then(
        () => undefined,
        (error: NodeJS.ErrnoException) => error,
      );
      assert.is(refused?.code, 'ERR_ISTHMUS_REGION_PERMISSIONS', String(refused));
      const shown = b.run('isthmus', ['region', 'show', own]);
      assert.is.not(shown.status, 0, shown.stdout);
      await peer.child.call('talk', 10, 1000);
      await turning(child);
    }),
  );

  test(
    'another user of the host, regions: files that it has prepared are refused by name, and no search finds them',
    timebox(100, async () => {
      const users = newGroup();
      // Both are in a group, as all users of a machine are in `users`.
      const [a, b] = [new User([users]), new User([users])];
      const hostile = start(b);
      const foreign = newPath('foreign');
      const group = newPath('group');
      const link = newPath('link');
      const fifo = newPath('fifo');
      const folder = newPath('folder');
      const target = newRegion(SIZE);
      chownSync(target, a.uid, a.gid);
      // Regions, formatted by its own runtime, so that a search takes them for what they are.
      for (const path of [foreign, group]) {
        assert.is(await hostile.call('file', 'writeFileSync', path, ''), 'done');
        assert.is(await hostile.call('truncate', path, SIZE), 'done');
        await hostile.call('create', only(path));
        await hostile.call('close');
      }
      assert.is(await hostile.call('file', 'chmodSync', foreign, 0o666), 'done');
      chownSync(group, b.uid, users);
      assert.is(await hostile.call('file', 'chmodSync', group, 0o660), 'done');
      assert.is(await hostile.call('file', 'symlinkSync', target, link), 'done');
      assert.is(await hostile.call('file', 'mkdirSync', folder), 'done');
      assert.is(b.run('mkfifo', ['-m', '666', fifo]).status, 0);

      for (const path of [foreign, link, fifo, folder]) {
        const victim = start(a);
        const refused = await victim.call('create', only(path)).then(
          (paths: string[]) => new Error(`attached to ${paths}`),
          (error: NodeJS.ErrnoException) => error,
        );
        assert.match((refused as NodeJS.ErrnoException).code ?? refused.message, /^ERR_ISTHMUS_REGION_/, path);
        await victim.kill();
      }
      // Without a word about regions; and by a pattern.
      const { shm, uio } = only('');
      for (const options of [
        { shm, uio },
        { shm, uio, regions: '*' },
      ]) {
        const victim = start(a);
        const attached = await victim.call<string[]>('create', options);
        assert.equal(
          attached.filter((path) => [foreign, group, link, fifo, folder].includes(path)),
          [],
        );
        await victim.kill();
      }
    }),
  );

  for (const [what, ...squat] of [
    ['a file', 'touch'],
    ['a file that others may write', 'install', '-m', '666', '/dev/null'],
    ['a folder', 'mkdir'],
    ['a fifo', 'mkfifo'],
    ['a link', 'ln', '-s', '/dev/null'],
  ] as const) {
    test(
      `another user of the host, regions: ${what} at /dev/shm/isthmus-shm-UID leaves that user its shm`,
      timebox(100, async () => {
        const [a, b] = [new User(), new User()];
        const path = `/dev/shm/isthmus-shm-${a.uid}`;
        const [command, ...args] = squat;
        assert.is(b.run(command as string, [...args, path]).status, 0);
        try {
          const { child, port } = await serving(a, SHM_ONLY);
          const client = await connected(a, port, SHM_ONLY);
          await client.child.call('talk', 20, 1000);
          assert.is(client.plugin, 'shm', (await child.call<string[]>('log')).join('\n'));
        } finally {
          await endChildren();
          rmSync(path, { recursive: true, force: true });
        }
      }),
    );
  }

  test(
    'another user of the host, control sockets: neither lists, asks nor replaces them',
    timebox(100, async () => {
      const [a, b] = [new User(), new User()];
      const child = start(a);
      await child.call('create', only('', { control: true }));
      const socket = await child.call<string>('socket');
      const other = start(a);
      assert.is(await other.call('ask', socket, 'summary'), 'result', 'the same user may');
      const hostile = start(b);
      for (const request of ['summary', 'inspect', 'suspend']) {
        assert.match(await hostile.call<string>('ask', socket, request), /^(EACCES|EPERM)$/);
      }
      for (const [operation, ...args] of [
        ['readdirSync', join(socket, '..')],
        ['unlinkSync', socket],
        ['renameSync', b.home, join(socket, '..')],
        ['writeFileSync', join(socket, '../1-0.sock'), ''],
      ] as const) {
        assert.match(await hostile.call<string>('file', operation, ...args), /^(EACCES|EPERM)$/, operation);
      }
      const env = { XDG_RUNTIME_DIR: join(socket, '../..') };
      for (const args of [['ps'], ['inspect', socket.replace(/^.*\/|\.sock$/g, '')], ['suspend', '--local', '1-0']]) {
        const { status, stdout } = b.run('isthmus', args, env);
        assert.is.not(status, null, 'it ends');
        assert.not.match(stdout, `${child.pid}`, args.join(' '));
      }
      assert.is(await other.call('ask', socket, 'summary'), 'result');
    }),
  );

  for (const [what, prepare] of [
    ['a folder of its own', (b, path) => b.run('mkdir', ['-m', '777', path])],
    ['a file', (b, path) => b.run('touch', [path])],
    ['a link to a folder of its own', (b, path) => b.run('ln', ['-s', b.home, path])],
    ['a link to a folder of the victim', (b, path, a) => b.run('ln', ['-s', a.home, path])],
  ] as readonly (readonly [string, (b: User, path: string, a: User) => { status: number | null }])[]) {
    test(
      `another user of the host, control sockets: ${what} in place of isthmus-UID in the temporary folder gets none`,
      timebox(100, async () => {
        const [a, b] = [new User(), new User()];
        const temporary = mkdtempSync(join(tmpdir(), 'common-'));
        chmodSync(temporary, 0o1777);
        try {
          const path = join(temporary, `isthmus-${a.uid}`);
          assert.is(prepare(b, path, a).status, 0);
          const before = a.run('ls', ['-A', a.home]).stdout;
          const env = { TMPDIR: temporary, XDG_RUNTIME_DIR: '' };
          const child = start(a, env);
          await child.call('create', only('', { control: true }));
          const port = await child.call<number>('listen');
          const client = start(a, env);
          await client.call('create', only('', { control: true }));
          await client.call('connect', port);
          await client.call('talk', 5, 100);
          assert.not.match(b.run('find', [temporary, b.home, '-type', 's']).stdout, /\S/);
          assert.is(a.run('ls', ['-A', a.home]).stdout, before);
          const { status, stderr } = a.run('isthmus', ['ps'], env);
          assert.is.not(status, null);
          if (status !== 0) assert.match(stderr, path, 'it names what is wrong');
        } finally {
          await endChildren();
          rmSync(temporary, { recursive: true, force: true });
        }
      }),
    );
  }

  test(
    'another user of the host, doorbells: it gets none, however it asks',
    timebox(100, async () => {
      const [a, b] = [new User(), new User()];
      const options = { ...SHM_ONLY, wait: 'block' as const };
      const { child, port } = await serving(a, options);
      const peer = await connected(a, port, options);
      assert.is(peer.plugin, 'shm');
      await peer.child.call('talk', 10, 1000);
      const names = abstractNames(child, peer.child);
      const doorbells = readdirSync('/dev/shm')
        .map((name) => `/dev/shm/${name}`)
        .filter((path) => {
          const stat = statSync(path, { throwIfNoEntry: false });
          return stat?.isFIFO() && stat.uid === a.uid;
        });
      console.log(`${names.length} abstract names and ${doorbells.length} FIFOs of the victim`);
      assert.ok(names.length + doorbells.length >= 2, 'the victim has no doorbells: correct this test');
      const hostile = start(b);
      for (const path of doorbells) {
        for (const [operation, ...args] of [
          ['openSync', path, 'r+'],
          ['chmodSync', path, 0o666],
          ['unlinkSync', path],
        ] as const) {
          assert.match(await hostile.call<string>('file', operation, ...args), /^(EACCES|EPERM)$/, operation);
        }
      }
      for (let i = 0; i < 5; i++) {
        assert.equal(await hostile.call('askDoorbells', names), { bytes: 0, open: 0 });
      }
      await peer.child.call('talk', 20, 1000);
      for (const process of [child, peer.child]) await turning(process);
    }),
  );

  test(
    'another user of the host, doorbells: names that it has bound first, with a full pipe behind them, stop no loop',
    timebox(100, async () => {
      if (!passesDescriptors) {
        console.log('skipped: no python3, which passes descriptors');
        return;
      }
      const [a, b] = [new User(), new User()];
      const options = { ...SHM_ONLY, wait: 'block' as const };
      // They keep the file, whose numbers every user can see.
      const first = await serving(a, options);
      const keeper = await connected(a, first.port, options);
      assert.is(keeper.plugin, 'shm');
      const [path] = mappedBy(keeper.child);
      const { dev, ino } = statSync(path as string, { bigint: true });
      const names = [];
      for (let slot = 0; slot < 16; slot++) {
        for (let generation = 0; generation < 16; generation++)
          names.push(`isthmus/${dev}:${ino}/${slot}/${generation}`);
      }
      const squatter = spawn(
        'setpriv',
        [`--reuid=${b.uid}`, `--regid=${b.gid}`, '--clear-groups', 'python3', '-c', PIPES],
        {
          stdio: ['pipe', 'pipe', 'inherit'],
        },
      );
      try {
        let heard = '';
        squatter.stdout.setEncoding('utf8').on('data', (text: string) => {
          heard += text;
        });
        squatter.stdin.write(`${names.join(' ')}\n`);
        await eventually('bound names', () => /bound \d+/.test(heard));
        assert.ok(Number(/bound (\d+)/.exec(heard)?.[1]) > 200, heard);
        const second = await serving(a, options);
        for (const { port } of [first, second]) {
          const peer = await connected(a, port, options);
          assert.is(peer.plugin, 'shm');
          await peer.child.call('talk', 30, 1000);
          await turning(peer.child);
        }
        for (const { child } of [first, second]) await turning(child);
      } finally {
        squatter.kill('SIGKILL');
      }
    }),
  );

  test(
    'another user of the host, ports: the same as any client, and never by way of a region',
    timebox(100, async () => {
      const [a, b] = [new User(), new User()];
      const { child, port } = await serving(a, SHM_ONLY);
      const client = await connected(b, port, SHM_ONLY);
      assert.is(client.plugin, 'tcp');
      await client.child.call('talk', 20, 1000);
      await turning(child);
    }),
  );

  test(
    'your own user and root: nothing is promised; each can attach, ask, suspend and truncate',
    timebox(100, async () => {
      const a = new User();
      const path = newRegion(SIZE);
      chownSync(path, a.uid, a.gid);
      const child = start(a);
      assert.equal(await child.call('create', only(path, { control: true })), [path]);
      const socket = await child.call<string>('socket');
      const same = start(a);
      assert.is(await same.call('ask', socket, 'summary'), 'result');
      assert.equal(await same.call('create', only(path)), [path]);
      const id = socket.replace(/^.*\/|\.sock$/g, '');
      const suspended = a.run('isthmus', ['suspend', '--local', id]);
      assert.is(suspended.status, 0, suspended.stderr);
      const byRoot = spawnSync(process.execPath, [process.env['ISTHMUS_CLI'] ?? '', 'region', 'show', path]);
      assert.is(byRoot.status, 0, byRoot.stderr.toString());
      await Promise.all([child.kill(), same.kill()]);
      const last = start(a);
      assert.is(await last.call('truncate', path, 0), 'done');
    }),
  );
}

function main(): void {
  const why = whyNoUsers() ?? addonMissing()?.message;
  if (why) {
    console.log(`skipped: ${why}`);
    test.skip('programs of other users', () => {});
    test.run();
    return;
  }
  const seed = testSeed();
  test(
    'a program runs with the uid, the gid and the groups that were asked for, and no others',
    timebox(60, async () => {
      const group = newGroup();
      for (const user of [new User(), new User([group])]) {
        const { uid, gid, groups } = await start(user).call<{ uid: number; gid: number; groups: number[] }>('who');
        assert.is(uid, user.uid);
        assert.is(gid, user.gid);
        assert.equal(
          groups.filter((each) => each !== gid),
          user.groups,
        );
      }
    }),
  );
  clients(seed);
  regions(seed);
  broker();
  strangers();
  test.after.each(endChildren);
  test.after(async () => {
    await endChildren();
    removeRegions();
    removeUsers();
  });
  test.run();
}

main();

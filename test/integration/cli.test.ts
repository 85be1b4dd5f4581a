/** The `isthmus` program, as its users start it: real processes, arguments, exit codes, standard streams. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join, resolve } from 'node:path';
import { test as uvuTest } from 'uvu';
import * as assert from 'uvu/assert';
import { chosen } from '../support/process.js';
import { seededBytes, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const test = chosen(uvuTest);

const CLI = process.env['ISTHMUS_CLI'] ?? resolve('dist/cli.js');
/** Names that no other test process uses. */
const unique = `isthmus-cli-${process.pid}-${Date.now().toString(36)}`;
/** The regions lie in it by their paths: no program that looks for regions attaches to them. */
const folder = `/dev/shm/${unique}`;
let names = 0;
const newName = () => `${folder}/${names++}`;
const shm = (name: string) => resolve('/dev/shm', name);
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
mkdirSync(folder);

/** A region in /dev/shm itself, which has a name. */
const NAMED = `${unique}-named`;

const running = new Set<ChildProcess>();
test.after.each(async () => {
  for (const child of running) child.kill('SIGKILL');
  await Promise.all([...running].map((child) => once(child, 'close')));
  for (const name of readdirSync(folder)) rmSync(join(folder, name));
  rmSync(shm(NAMED), { force: true });
});

interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** One run of the program. Without `regions` it uses no region, and no `shm`. */
class Run {
  readonly child: ChildProcess;
  readonly #out: Buffer[] = [];
  #err = '';
  readonly ended: Promise<Ended>;

  constructor(args: readonly string[], { regions = '', env = {} }: { regions?: string; env?: NodeJS.ProcessEnv } = {}) {
    this.child = spawn(process.execPath, [CLI, ...args], {
      env: { ...process.env, PSP_IVSHMEM_REGIONS: regions, PSP_SHM: '0', ...env },
    });
    running.add(this.child);
    this.child.stdin?.on('error', () => {});
    this.child.stdout?.on('data', (chunk: Buffer) => this.#out.push(chunk));
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#err += text;
    });
    this.ended = once(this.child, 'close').then(([code, signal]) => {
      running.delete(this.child);
      return { code, signal, stdout: this.stdout, stderr: this.#err };
    });
  }

  get stdout(): Buffer {
    return Buffer.concat(this.#out);
  }

  get stderr(): string {
    return this.#err;
  }

  /** Wait until it has printed text that matches. @returns the groups */
  async printed(pattern: RegExp, where: 'stdout' | 'stderr' = 'stdout'): Promise<string[]> {
    for (;;) {
      const found = pattern.exec(this[where].toString());
      if (found) return found.slice(1);
      if (this.child.exitCode !== null || this.child.signalCode !== null) {
        throw new Error(`it ended (${this.child.exitCode ?? this.child.signalCode}): ${this.stdout}${this.stderr}`);
      }
      await new Promise((wake) => setTimeout(wake, 10));
    }
  }
}

const isthmus = (args: readonly string[], options?: { regions?: string; env?: NodeJS.ProcessEnv }): Promise<Ended> => {
  const run = new Run(args, options);
  run.child.stdin?.end();
  return run.ended;
};

function fine(ended: Ended): Buffer {
  assert.is(ended.code, 0, `exit code ${ended.code ?? ended.signal}\n${ended.stdout}\n${ended.stderr}`);
  return ended.stdout;
}

async function startServer(name: string): Promise<Run> {
  const server = new Run(['server', '-s', name, '-m', '16', '-c', 'migration-framework']);
  await server.printed(/ready/);
  return server;
}

async function startEcho(regions: string, ...more: string[]): Promise<{ echo: Run; to: string }> {
  const echo = new Run(['pp', '--listen', '0', ...more], { regions });
  const [to] = await echo.printed(/(127\.0\.0\.1:\d+)\n/);
  return { echo, to: to as string };
}

interface Row {
  size: number;
  loops: number;
  halfRoundTripNs: number;
  bytesPerSecond: number;
  plugin: string;
}

// ---------------------------------------------------------------- arguments

test(
  'help and version go to standard output',
  timebox(30, async () => {
    assert.match(fine(await isthmus(['--help'])).toString(), /^Example:/m);
    assert.match(fine(await isthmus(['--version'])).toString(), /^\d+\.\d+\.\d+\n$/);
  }),
);

test(
  'a wrong argument gets one line and exit code 2',
  timebox(30, async () => {
    const { code, stdout, stderr } = await isthmus(['pp', 'nowhere']);
    assert.is(code, 2, stderr);
    assert.is(stdout.length, 0);
    assert.match(stderr, /^isthmus: [^\n]+ \(try 'isthmus pp --help'\)\n$/);
  }),
);

test(
  'a later failure gets a code, an action and exit code 1',
  timebox(30, async () => {
    const refused = await isthmus(['pp', '127.0.0.1:1'], { env: { PSP_RETRY: '0' } });
    assert.is(refused.code, 1);
    assert.match(refused.stderr, /^isthmus: .*\(ERR_ISTHMUS_CONNECT\)\n {2}\S.*\n$/);
    const config = await isthmus(['info'], { env: { PSP_RETRY: 'often' } });
    assert.is(config.code, 1);
    assert.match(config.stderr, /PSP_RETRY.*\(ERR_ISTHMUS_CONFIG\)/);
    const missing = await isthmus(['pp', '--listen', '0'], { regions: newName() });
    assert.match(missing.stderr, /\(ERR_ISTHMUS_REGION_NOT_FOUND\)/);
  }),
);

test(
  'the reader of the output is gone',
  timebox(30, async () => {
    const run = new Run(['info']);
    run.child.stdout?.destroy();
    const { code, stderr } = await run.ended;
    assert.is(code, 0);
    assert.is(stderr, '');
  }),
);

// ---------------------------------------------------------------- server

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  test(
    `the server creates a region and removes it on ${signal}`,
    timebox(30, async () => {
      // Once by its path, once by its name in /dev/shm.
      const name = signal === 'SIGTERM' ? newName() : NAMED;
      const server = await startServer(name);
      assert.is(server.stdout.toString().split('\n').length, 2, 'one line');
      const stat = statSync(shm(name));
      assert.is(stat.size, 16 << 20);
      assert.is(stat.blocks * 512, stat.size, 'reserved');
      assert.is(stat.mode & 0o777, 0o660);
      assert.is(readFileSync(shm(name)).toString('latin1', 0, 8), 'ISTHMUS\0');
      server.child.kill(signal);
      fine(await server.ended);
      assert.not(existsSync(shm(name)));
    }),
  );
}

test(
  'a second server on the same name leaves the first alone',
  timebox(30, async () => {
    const name = newName();
    const server = await startServer(name);
    const before = statSync(shm(name)).ino;
    const second = await isthmus(['server', '-s', name, '-m', '16']);
    assert.is(second.code, 1);
    assert.match(second.stderr, /served by another server \(ERR_ISTHMUS_REGION_IN_USE\)/);
    assert.is(statSync(shm(name)).ino, before);
    server.child.kill('SIGKILL');
    await server.ended;
    const third = await startServer(name);
    assert.match(third.stdout.toString(), /adopted/);
    third.child.kill();
    fine(await third.ended);
    assert.not(existsSync(shm(name)), third.stderr);
  }),
);

test(
  'the server removes only the file that it created',
  timebox(30, async () => {
    const name = newName();
    const server = await startServer(name);
    rmSync(shm(name));
    writeFileSync(shm(name), 'mine');
    server.child.kill();
    fine(await server.ended);
    assert.is(readFileSync(shm(name), 'utf8'), 'mine');
  }),
);

// ---------------------------------------------------------------- ping-pong

async function pingPong(regions: string, plugin: string): Promise<void> {
  const { echo, to } = await startEcho(regions);
  const parse = (ended: Ended) => JSON.parse(fine(ended).toString()) as Row[];
  const rows = parse(
    await isthmus(['pp', to, '--json', '--min-size', '0', '--max-size', '4', '--loops', '300'], { regions }),
  );
  assert.equal(
    rows.map(({ size, loops, plugin: name }) => [size, loops, name]),
    [0, 1, 2, 4].map((size) => [size, 300, plugin]),
  );
  for (const row of rows) {
    assert.equal(Object.keys(row), ['size', 'loops', 'halfRoundTripNs', 'bytesPerSecond', 'plugin']);
    assert.ok(row.halfRoundTripNs > 0);
    const expected = (row.size * 1e9) / row.halfRoundTripNs;
    assert.ok(Math.abs(row.bytesPerSecond - expected) <= expected / 100 + 1);
  }
  // More than the echo's buffer holds at first, and more than the ring.
  for (const xheader of plugin === 'tcp' ? ['12'] : ['0', '4000']) {
    const verified = parse(
      await isthmus(
        [
          'pp',
          to,
          '--verify',
          '--json',
          '--loops',
          '5',
          '--min-size',
          '60000',
          '--max-size',
          '1920000',
          '--xheader',
          xheader,
        ],
        { regions },
      ),
    );
    assert.is(verified.length, 6);
  }
  const table = fine(await isthmus(['pp', to, '--loops', '5', '--max-size', '8'], { regions })).toString();
  assert.match(table, new RegExp(`over ${plugin}`));
  assert.match(table, new RegExp(`^ +8 B +5 .* ${plugin}$`, 'm'));
  echo.child.kill();
  fine(await echo.ended);
}

test(
  'ping-pong through a region',
  timebox(90, async () => {
    const name = newName();
    await startServer(name);
    await pingPong(name, 'ivshmem');
  }),
);

test(
  'ping-pong over tcp',
  timebox(90, () => pingPong('', 'tcp')),
);

test(
  'several connections at once are served, and --once ends with the first',
  timebox(90, async () => {
    const name = newName();
    await startServer(name);
    const { to } = await startEcho(name);
    const ended = await Promise.all(
      [name, '', name].map((regions) =>
        isthmus(['pp', to, '--verify', '--loops', '50', '--max-size', '64', '--json'], { regions }),
      ),
    );
    for (const one of ended) fine(one);

    const once = await startEcho(name, '--once');
    fine(await isthmus(['pp', once.to, '--loops', '1', '--max-size', '1'], { regions: name }));
    fine(await once.echo.ended);
  }),
);

test(
  'an echo that was unused for a while still answers',
  timebox(60, async () => {
    const name = newName();
    await startServer(name);
    const { to } = await startEcho(name);
    const slow = new Run(['pipe', to], { regions: name });
    slow.child.stdin?.write('a');
    await slow.printed(/^a$/);
    await new Promise((wake) => setTimeout(wake, 1000));
    slow.child.stdin?.write('b');
    await slow.printed(/^ab$/);
    // The empty message that reports the end of the input comes back too.
    slow.child.stdin?.end();
    fine(await slow.ended);
  }),
);

test(
  'the echo answers the messages of C as the C program does',
  timebox(30, async () => {
    const capture = readFileSync('test/wire/tcp-pingpong.jsonl', 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { dir: string; hex?: string });
    const stream = (dir: string) =>
      Buffer.concat(capture.filter((entry) => entry.dir === dir).map(({ hex = '' }) => Buffer.from(hex, 'hex')));
    const { echo, to } = await startEcho('', '--once');
    const socket = connect({ port: Number(to.split(':')[1]), host: '127.0.0.1', allowHalfOpen: true });
    let heard = Buffer.alloc(0);
    socket.on('data', (chunk) => {
      heard = Buffer.concat([heard, chunk]);
    });
    await once(socket, 'connect');
    const handshake = 56; // VERSION, CON_INFO, ARCH_OK
    const expected = stream('S>C');
    const sent = stream('C>S');
    // All but the end, which would cut off the answers still in flight.
    const end = Buffer.from('0800000000000000', 'hex');
    assert.equal(sent.subarray(-8), end);
    socket.write(sent.subarray(0, -8));
    const messages = expected.subarray(handshake);
    const answers = messages.subarray(-8).equals(end) ? messages.subarray(0, -8) : messages;
    while (heard.length < handshake + answers.length) await once(socket, 'data');
    assert.is(heard.subarray(handshake, handshake + answers.length).toString('hex'), answers.toString('hex'));
    socket.end(end);
    await once(socket, 'end');
    fine(await echo.ended);
  }),
);

// ---------------------------------------------------------------- pipe

for (const plugin of ['ivshmem', 'tcp']) {
  test(
    `pipe moves bytes both ways over ${plugin}`,
    timebox(60, async () => {
      const regions = plugin === 'ivshmem' ? newName() : '';
      if (regions) await startServer(regions);
      const listening = new Run(['pipe', '--listen', '0'], { regions });
      const [to] = await listening.printed(/(127\.0\.0\.1:\d+)\n/, 'stderr');
      const calling = new Run(['pipe', to as string], { regions });
      const seed = testSeed();
      const there = seededBytes(seed, 7_654_321);
      const back = seededBytes(seed + 1, 3_210_987);
      calling.child.stdin?.end(there);
      listening.child.stdin?.end(back);
      const [a, b] = await Promise.all([calling.ended, listening.ended]);
      const hash = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
      assert.is(hash(fine(a)), hash(back));
      assert.is(hash(fine(b)), hash(there));
    }),
  );
}

test(
  'pipe holds back a writer whose reader does not read',
  timebox(60, async () => {
    const listening = new Run(['pipe', '--listen', '0']);
    listening.child.stdout?.pause();
    const [to] = await listening.printed(/(127\.0\.0\.1:\d+)\n/, 'stderr');
    listening.child.stdin?.end();
    const calling = new Run(['pipe', to as string]);
    const total = 64 << 20;
    let written = 0;
    const piece = seededBytes(testSeed(), 1 << 20);
    const write = () => {
      while (written < total && calling.child.stdin?.write(piece)) written += piece.length;
      if (written >= total) calling.child.stdin?.end();
      else
        calling.child.stdin?.once('drain', () => {
          written += piece.length;
          write();
        });
    };
    write();
    await new Promise((wake) => setTimeout(wake, 2000));
    assert.ok(written < total / 2, `${written} bytes were written`);
    listening.child.stdout?.resume();
    const [a, b] = await Promise.all([calling.ended, listening.ended]);
    fine(a);
    assert.is(fine(b).length, written);
  }),
);

test(
  'pipe reports that the other side was killed, after all that it had sent',
  timebox(60, async () => {
    const name = newName();
    await startServer(name);
    const listening = new Run(['pipe', '--listen', '0'], { regions: name });
    const [to] = await listening.printed(/(127\.0\.0\.1:\d+)\n/, 'stderr');
    const calling = new Run(['pipe', to as string], { regions: name });
    calling.child.stdin?.write('the last words');
    await listening.printed(/the last words/);
    calling.child.kill('SIGKILL');
    const { code, stderr } = await listening.ended;
    assert.is(code, 1);
    assert.match(stderr, /\(ERR_ISTHMUS_PEER_DIED\)/);
  }),
);

// ---------------------------------------------------------------- info

test(
  'info lists what exists and attaches to nothing',
  timebox(60, async () => {
    const [good, cut, foreign, blank] = [newName(), newName(), newName(), newName()];
    await startServer(good);
    const { echo } = await startEcho(good);
    writeFileSync(shm(cut), Buffer.alloc(1000), { mode: 0o600 });
    writeFileSync(shm(foreign), Buffer.alloc(1 << 20, 0xcb), { mode: 0o600 });
    writeFileSync(shm(blank), Buffer.alloc(1 << 20), { mode: 0o600 });
    const options = { regions: [good, cut, foreign, blank].join(' '), env: { PSP_TCP: '0' } };
    for (let i = 0; i < 2; i++) {
      const info = JSON.parse(fine(await isthmus(['info', '--json'], options)).toString());
      const find = (name: string) => info.regions.find(({ path }: { path: string }) => path === shm(name));
      assert.is(find(good).state, 'formatted');
      assert.match(find(good).uuid, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
      assert.is(find(good).size, 16 << 20);
      // The echo, and not the earlier info, which has ended; a stranger that looks for regions may be there as well.
      const pids: number[] = find(good).peers.map(({ pid }: { pid: number }) => pid);
      assert.is(pids.filter((pid) => pid === echo.child.pid).length, 1, pids.join());
      assert.ok(
        pids.every((pid) => existsSync(`/proc/${pid}`)),
        pids.join(),
      );
      assert.is(find(cut).refused.code, 'ERR_ISTHMUS_REGION_TOO_SMALL');
      assert.is(find(foreign).refused.code, 'ERR_ISTHMUS_REGION_FOREIGN');
      assert.is(find(blank).state, 'blank');
      assert.equal(
        info.plugins.map(({ name, priority }: { name: string; priority: number }) => [name, priority]),
        [
          ['loop', 100],
          ['ivshmem', 80],
          ['tcp', 0],
          ['shm', 0],
        ],
      );
      assert.is(info.plugins[2].unavailable, 'disabled');
      const setting = (variable: string) => info.configuration.find((row: any) => row.variable === variable);
      assert.is(setting('PSP_TCP').origin, 'environment');
      assert.is(setting('PSP_RETRY').origin, 'default');
      assert.ok(info.native.loaded);
    }
    const text = fine(await isthmus(['info'], options)).toString();
    for (const word of [good, 'blank', 'ERR_ISTHMUS_REGION_FOREIGN', 'disabled', 'environment']) {
      assert.ok(text.includes(word), word);
    }
    assert.is(
      readFileSync(shm(blank)).findIndex((byte) => byte !== 0),
      -1,
      'still blank',
    );
  }),
);

test.run();

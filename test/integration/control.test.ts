/** Seeing inside: control sockets, the commands that use them, and the events on diagnostics_channel. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import type { RuntimeSnapshot } from '../../host/api/snapshots.js';
import { MAX_CLIENTS, MAX_REQUEST_BYTES } from '../../host/control/socket.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { printed } from '../support/cli.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve, tell } from '../support/process.js';
import { newRegion, only, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const CLI = process.env['ISTHMUS_CLI'] ?? resolve('dist/cli.js');

const roles: Record<string, () => Promise<void>> = {
  /** Follows the calls of the test, and reads nothing unless asked to. */
  async runtime() {
    const lines: string[] = [];
    const runtime = await Runtime.create({ ...roleOptions<RuntimeOptions>(), log: (_, line) => lines.push(line) });
    const accepted: Connection[] = [];
    let connection: Connection;
    const { port } = await runtime.listen({}, (come) => {
      accepted.push(come);
    });
    serve({
      port: () => port,
      id: () => runtime.id,
      logged: () => lines.splice(0),
      async connect(to: number) {
        connection = await runtime.connect({ host: '127.0.0.1', port: to });
        return connection.plugin;
      },
      async send(count: number, size: number) {
        for (let i = 0; i < count; i++) await connection.send(new Uint8Array(size));
      },
      /** Does not wait for room. */
      push(count: number, size: number) {
        for (let i = 0; i < count; i++) connection.send(new Uint8Array(size)).catch(() => {});
      },
      async take(count: number) {
        for (let i = 0; i < count; i++) await accepted[0]?.receive();
      },
      disconnect: () => connection.destroy(),
      close: () => runtime.close({ timeout: 100 }),
    });
    tell('ready');
  },

  /** Holds nothing that keeps it alive, and does not close its runtime. */
  async leaver() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    tell('id', runtime.id);
  },
};

/** Send one line to the socket of a runtime. @returns its answer, or undefined if it closes without one */
async function raw(id: string, text: string): Promise<any> {
  const socket = connect(join(sockets, `${id}.sock`));
  socket.on('error', () => {}); // A refused client may see a reset; 'close' follows.
  socket.write(text);
  let answer = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    answer += chunk;
  });
  await new Promise((closed) => socket.on('close', closed));
  return answer === '' ? undefined : JSON.parse(answer);
}

async function inspect(id: string): Promise<RuntimeSnapshot> {
  const { code, stdout, stderr } = await printed(['inspect', id, '--json']);
  assert.is(code, 0, stderr);
  return JSON.parse(stdout);
}

/**
 * Repeat until it holds. Gives up before the time box does: otherwise a command still running would take the output.
 */
async function until<T>(get: () => Promise<T> | T, holds: (value: T) => boolean): Promise<T> {
  const limit = performance.now() + 30_000 * Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);
  for (;;) {
    const value = await get();
    if (holds(value)) return value;
    if (performance.now() > limit) throw new Error(`still: ${JSON.stringify(value)}`);
    await pause(20);
  }
}

async function ps(): Promise<string[]> {
  const { code, stdout, stderr } = await printed(['ps', '--json']);
  assert.is(code, 0, stderr);
  return JSON.parse(stdout).map(({ id, name }: { id: string; name?: string }) => `${name} ${id}`);
}

const running = new Set<ChildProcess>();

/** The program as a process, with its output. */
class Program {
  readonly child: ChildProcess;
  stdout = '';
  stderr = '';
  readonly ended: Promise<number | null>;

  constructor(...args: string[]) {
    this.child = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    running.add(this.child);
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
    });
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    this.ended = once(this.child, 'close').then(([code]) => {
      running.delete(this.child);
      return code as number | null;
    });
  }
}

/** Wait until a program has printed so much. */
function printing(program: Program, enough: (stdout: string) => boolean): Promise<unknown> {
  return until(() => {
    const { exitCode, signalCode } = program.child;
    if (exitCode === null && signalCode === null) return program.stdout;
    throw new Error(`it ended (${exitCode ?? signalCode}): ${program.stdout}${program.stderr}`);
  }, enough);
}

/** `$XDG_RUNTIME_DIR` of this file and its children. */
let home = '';
let sockets = '';

function main(): void {
  home = mkdtempSync(join(tmpdir(), 'isthmus-test-control-'));
  sockets = join(home, 'isthmus');
  process.env['XDG_RUNTIME_DIR'] = home;
  delete process.env['PSP_CONTROL'];
  const quiet = { debug: 1 };
  let alpha: Child;
  let beta: Child;
  let alphaId = '';
  let betaId = '';

  const start = async (name: string, options: RuntimeOptions) => {
    const child = Child.start(import.meta.url, 'runtime', only('', { ...quiet, control: true, name, ...options }));
    await child.event('ready');
    return child;
  };
  /** A runtime in this process. */
  const here = (options: RuntimeOptions = {}) => Runtime.create(only('', { name: 'here', control: true, ...options }));

  test.before(
    timebox(60, async () => {
      const regions = newRegion();
      const options = { regions, ringSize: 8192, unread: 4096 };
      [alpha, beta] = await Promise.all([start('alpha', options), start('beta', options)]);
      [alphaId, betaId] = await Promise.all([alpha.call<string>('id'), beta.call<string>('id')]);
    }),
  );

  test.after(async () => {
    await endChildren();
    for (const child of running) child.kill('SIGKILL');
    removeRegions();
    rmSync(home, { recursive: true, force: true });
  });

  test(
    'ps lists the runtimes; no other user can reach their sockets',
    timebox(30, async () => {
      const all = [`alpha ${alphaId}`, `beta ${betaId}`];
      assert.equal((await ps()).sort(), all);
      const program = new Program('ps');
      assert.is(await program.ended, 0, program.stderr);
      assert.match(
        program.stdout,
        new RegExp(`^${alphaId} +alpha .* 127\\.0\\.0\\.1:${await alpha.call('port')}$`, 'm'),
      );
      assert.is(statSync(sockets).mode & 0o777, 0o700);
      assert.equal(readdirSync(sockets).sort(), [`${alphaId}.sock`, `${betaId}.sock`].sort());
      for (const file of readdirSync(sockets)) assert.is(statSync(join(sockets, file)).mode & 0o777, 0o600);
    }),
  );

  test(
    'inspect shows what was sent, what waits, and for how long',
    timebox(90, async () => {
      assert.is(await beta.call('connect', await alpha.call('port')), 'ivshmem');
      await beta.call('send', 10, 100);
      const connection = async (id: string) => (await inspect(id)).connections[0]!;
      const first = await until(
        () => connection(alphaId),
        (now) => now.unreadMessages === 10 && now.oldestUnreadMs > 0,
      );
      assert.is(first.messagesReceived, 10);
      assert.is(first.bytesReceived, 1000);
      assert.is(first.messagesSent, 0);
      assert.ok(first.unreadBytes >= 1000);
      assert.is(first.plugin, 'ivshmem');
      assert.is(first.why, null);
      assert.is(first.state, 'open');
      assert.is(first.ringSize, 8192);
      assert.is(first.peer.name, 'beta');
      assert.is(first.peer.pid, beta.pid);
      assert.is(first.peer.address?.host, '127.0.0.1');
      assert.match(first.peer.id, /^\d+$/);
      await until(
        () => connection(alphaId),
        (now) => now.oldestUnreadMs > first.oldestUnreadMs,
      );

      // More than the ring holds and the other side keeps unread.
      await beta.call('push', 60, 500);
      let before = -1;
      const full = await until(
        () => connection(betaId),
        ({ messagesSent }) => {
          const still = messagesSent === before;
          before = messagesSent;
          return still;
        },
      );
      assert.ok(full.pendingSends > 0 && full.stalls > 0, JSON.stringify(full));
      assert.is(full.messagesSent + full.pendingSends, 70);
      assert.ok(full.ringUsed > 500 && full.ringUsed <= full.ringSize, `${full.ringUsed} of ${full.ringSize}`);
      const text = (await printed(['inspect', betaId])).stdout;
      assert.match(text, /^beta, id .*, Node\.js v/);
      assert.match(
        text,
        new RegExp(`^ +1 +ivshmem +open +alpha\\[${alpha.pid}\\] 127\\.0\\.0\\.1:\\d+ +${full.messagesSent} `, 'm'),
      );

      await alpha.call('take', 70);
      const empty = await until(
        () => connection(alphaId),
        (now) => now.messagesReceived === 70 && now.unreadMessages === 0,
      );
      assert.is(empty.oldestUnreadMs, 0);
      assert.is(empty.unreadBytes, 0);
      await until(
        () => connection(betaId),
        (now) => now.pendingSends === 0 && now.ringUsed === 0,
      );

      const whole = await inspect(alphaId);
      assert.is(whole.id, alphaId);
      assert.is(whole.name, 'alpha');
      assert.is(whole.pid, alpha.pid);
      assert.is(whole.thread, 0);
      assert.is(whole.node, process.version);
      assert.match(whole.version, /^\d+\.\d+\.\d+/);
      assert.ok(Date.parse(whole.started) <= Date.now());
      assert.is(whole.regions.length, 1);
      const [region] = whole.regions;
      assert.is(region?.slotsUsed, 2);
      assert.ok(region && region.freeFrames > 0 && region.freeFrames < region.frames);
      assert.equal(
        whole.plugins.map(({ name, priority, unavailable }) => [name, priority, unavailable]),
        [
          ['loop', 100, null],
          ['ivshmem', 80, null],
          ['tcp', 2, null],
          ['shm', 0, 'disabled'],
        ],
      );
      assert.equal(whole.listeners, [{ host: '127.0.0.1', port: await alpha.call('port') }]);
      assert.is(whole.stats.messagesReceived, 70);
      assert.is(whole.stats.connections, 1);

      // Counts of closed connections stay in the sums.
      await beta.call('disconnect');
      const { stats } = await until(
        () => inspect(betaId),
        ({ connections }) => connections.length === 0,
      );
      assert.is(stats.messagesSent, 70);
      assert.is(stats.bytesSent, 1000 + 60 * 500);
      assert.is(stats.connections, 0);
      assert.is(stats.connectionsEver, 1);
    }),
  );

  test(
    'inspect() in the process equals the answer of the socket, and gives the reasons against better plugins',
    timebox(30, async () => {
      await using runtime = await here();
      const connection = await runtime.connect({ host: '127.0.0.1', port: await alpha.call('port') });
      assert.is(connection.plugin, 'tcp');
      const own = runtime.inspect();
      assert.equal(JSON.parse(JSON.stringify(own)), own, 'plain data');
      assert.match(own.connections[0]?.why ?? '', /ivshmem: no region/);
      assert.equal(await inspect(runtime.id), { ...own });
      assert.equal(await inspect('here'), { ...own }, 'by its name');
      assert.match((await printed(['inspect', 'here'])).stdout, /^ +1 is on tcp: ivshmem: no region$/m);
      assert.equal(runtime.stats(), own.stats);
      connection.destroy();
    }),
  );

  test(
    'debug changes what a running process logs',
    timebox(30, async () => {
      const port = await alpha.call('port');
      const logged = async () => {
        await beta.call('connect', port);
        await beta.call('disconnect');
        return (await alpha.call<string[]>('logged')).filter((line) => /^connected to beta/.test(line)).length;
      };
      await alpha.call('logged');
      assert.is(await logged(), 0);
      const { code, stdout } = await printed(['debug', 'alpha', '3']);
      assert.is(code, 0);
      assert.is(stdout, `isthmus: ${alphaId} logs at level 3\n`);
      assert.is((await inspect(alphaId)).debug, 3);
      // Logged after the agreement, which the other side may reach first.
      await beta.call('connect', port);
      await until(
        () => alpha.call<string[]>('logged'),
        (lines) => lines.some((line) => /^connected to beta.* over ivshmem$/.test(line)),
      );
      await beta.call('disconnect');
      assert.is((await printed(['debug', String(alpha.pid), 'error'])).code, 0);
      await alpha.call('logged');
      assert.is(await logged(), 0);
      for (const level of [11, -1, 1.5, '3', null, undefined, {}]) {
        const { error } = await raw(alphaId, `${JSON.stringify({ request: 'debug', level })}\n`);
        assert.is(error.code, 'ERR_ISTHMUS_INVALID_ARGUMENT', String(level));
      }
      assert.is((await inspect(alphaId)).debug, 1);
    }),
  );

  test(
    'a missing runtime: exit code 1, and an action',
    timebox(30, async () => {
      for (const args of [
        ['inspect', '999999-0'],
        ['inspect', 'missing', '--watch'],
        ['debug', '../alpha', '3'],
      ]) {
        const { code, stdout, stderr } = await printed(args);
        assert.is(code, 1);
        assert.is(stdout, '');
        assert.match(stderr, /^isthmus: there is no runtime '.*'\n {2}'isthmus ps' lists .*\n$/);
      }
    }),
  );

  test(
    'no input of a client is trusted',
    timebox(40, async () => {
      const code = async (text: string) => (await raw(alphaId, text))?.error?.code;
      const refused = 'ERR_ISTHMUS_INVALID_ARGUMENT';
      for (const text of [
        'invalid\n',
        '\n',
        '[]\n',
        'null\n',
        '{"request":7}\n',
        '{"request":"constructor"}\n',
        '{"request":"__proto__"}\n',
        '{}\n',
        `${'['.repeat(MAX_REQUEST_BYTES)}\n`,
        Buffer.from([0xff, 0xfe, 0x00, 0x0a]).toString('latin1'),
        'x'.repeat(MAX_REQUEST_BYTES + 1),
        'x'.repeat(3 * MAX_REQUEST_BYTES),
      ]) {
        assert.is(await code(text), refused, JSON.stringify(text.slice(0, 40)));
      }
      const padded = `{"request":"summary","padding":"${'x'.repeat(MAX_REQUEST_BYTES - 34)}"}`;
      assert.is(padded.length, MAX_REQUEST_BYTES);
      assert.is((await raw(alphaId, `${padded}\n`)).result.id, alphaId, 'the largest request');
      // Only the first line counts.
      assert.is((await raw(alphaId, '{"request":"summary"}\n{"request":"invalid"}\n')).result.name, 'alpha');

      // As many slow clients as are served: the next ones wait, and the slow ones are disconnected.
      const path = join(sockets, `${alphaId}.sock`);
      for (let done = false; !done; ) {
        const slow = Array.from({ length: MAX_CLIENTS }, () =>
          connect(path)
            .on('error', () => {})
            .resume(),
        );
        const closed = Promise.all(slow.map((socket) => new Promise((gone) => socket.on('close', gone))));
        for (const socket of slow) socket.write('{"request":');
        await Promise.all(slow.map((socket) => once(socket, 'connect')));
        const waiting = Array.from({ length: 2 * MAX_CLIENTS }, () => raw(alphaId, '{"request":"summary"}\n'));
        // One leaves: its place is enough for all that wait, one after the other.
        slow[0]?.destroy();
        const answers = await Promise.all(waiting);
        // On a slow machine the time of the others may be over already: again.
        done = slow.slice(1).every((socket) => !socket.destroyed);
        if (done) assert.equal(new Set(answers.map((answer) => answer?.result.id)), new Set([alphaId]));
        assert.ok(existsSync(path), 'a busy runtime is not dead');
        await closed;
      }
      assert.is((await raw(alphaId, '{"request":"summary"}\n')).result.id, alphaId);

      const gone = connect(path);
      await once(gone, 'connect');
      gone.end('{"request":');
      await once(gone.resume(), 'close');
      assert.is((await inspect(alphaId)).name, 'alpha');
    }),
  );

  test(
    'watch prints block after block, until a signal or the end of the runtime',
    timebox(120, async () => {
      const gamma = await start('gamma', {});
      const gammaId = await gamma.call<string>('id');
      const blocks = new Program('inspect', 'beta', '--watch', '0.1');
      const lines = new Program('inspect', gammaId, '--watch', '0.1', '--json');
      await beta.call('connect', await gamma.call('port'));
      await beta.call('send', 3, 10);
      await printing(blocks, (text) => (text.match(/^beta, id /gm)?.length ?? 0) >= 3);
      assert.match(blocks.stdout, /sent\/s +received\/s/);
      const atRest = /^ +\d+ +tcp +open +gamma\[\d+\] \S+ +0 +0 +0 B\/s +0 B\/s /m;
      await printing(blocks, (text) => atRest.test(text));
      blocks.child.kill('SIGINT');
      assert.is(await blocks.ended, 130, blocks.stderr);

      await printing(lines, (text) => text.split('\n').length > 2);
      assert.is(JSON.parse(lines.stdout.split('\n')[1] as string).name, 'gamma');
      const path = join(sockets, `${gammaId}.sock`);
      await gamma.kill();
      assert.is(await lines.ended, 0, lines.stderr);
      // A process killed in the middle of an answer first looks like one that does not answer.
      assert.match(lines.stderr, new RegExp(`isthmus: ${gammaId} has ended\\n$`));

      // A killed process could not remove its socket; the command that lists sockets does.
      assert.not.ok((await ps()).some((row) => row.includes('gamma')));
      await until(
        async () => {
          await ps();
          return existsSync(path);
        },
        (there) => !there,
      );
      for (const id of [alphaId, betaId]) assert.ok(existsSync(join(sockets, `${id}.sock`)), 'theirs stay');
    }),
  );

  test(
    'a socket is removed with its runtime, and keeps no process alive',
    timebox(40, async () => {
      const leaver = Child.start(import.meta.url, 'leaver', only('', { name: 'leaver', control: true }));
      const id = await leaver.event<string>('id');
      assert.is((await leaver.ended()).code, 0);
      assert.not.ok(existsSync(join(sockets, `${id}.sock`)));

      const first = await here();
      const second = await here();
      assert.is.not(first.id, second.id);
      const path = join(sockets, `${first.id}.sock`);
      assert.ok(existsSync(path));
      await first.close();
      assert.not.ok(existsSync(path));
      const { code, stderr } = await printed(['inspect', String(process.pid), '--json']);
      assert.is(code, 0, `the other runtime answers: ${stderr}`);
      const third = await here();
      const ambiguous = await printed(['inspect', 'here']);
      assert.is(ambiguous.code, 1);
      assert.ok(ambiguous.stderr.includes(`${second.id}, ${third.id}`), ambiguous.stderr);
      await Promise.all([second.close(), third.close()]);

      const off = await here({ control: false });
      assert.match(off.id, /^\d+-\d+$/);
      process.env['PSP_CONTROL'] = '0';
      const alsoOff = await here({ control: undefined });
      delete process.env['PSP_CONTROL'];
      assert.equal(
        readdirSync(sockets).filter((file) => file.startsWith(`${process.pid}-`)),
        [],
      );
      await Promise.all([off.close(), alsoOff.close()]);
    }),
  );

  test(
    'runtimes of worker threads have sockets of their own',
    timebox(40, async () => {
      const code = `
        const { parentPort } = require('node:worker_threads');
        import(${JSON.stringify(resolve('dist/index.js'))}).then(async ({ Runtime }) => {
          const runtime = await Runtime.create({ name: 'worker', regions: '', debug: 0 });
          parentPort.postMessage(runtime.id);
          setInterval(() => {}, 1000); // The runtime does not keep it alive.
        });`;
      const worker = new Worker(code, { eval: true });
      const [id] = (await once(worker, 'message')) as [string];
      assert.is(id, `${process.pid}.${worker.threadId}-0`);
      // A runtime that has to answer while this thread waits.
      assert.is((await inspect(id)).thread, worker.threadId);
      await worker.terminate();
      assert.not.ok((await ps()).some((row) => row.endsWith(id)));
      assert.not.ok(existsSync(join(sockets, `${id}.sock`)), 'not even when it is terminated');
    }),
  );

  test(
    'processes with the same pid that open their sockets in one folder at one time: each has a name of its own',
    timebox(60, async () => {
      // A name that another process binds between the look and the bind: to the look it is not there, as a link to nothing.
      const before = await here();
      await before.close();
      const taken = Number(before.id.split('-')[1]);
      const link = join(sockets, `${process.pid}-${taken + 1}.sock`);
      symlinkSync(join(home, 'nothing'), link);
      try {
        const runtime = await here();
        assert.is((await inspect(runtime.id)).name, 'here');
        assert.not.ok(link.endsWith(`/${runtime.id}.sock`));
        await runtime.close();
        assert.ok(
          readdirSync(sockets).includes(`${process.pid}-${taken + 1}.sock`),
          'what is another one is left alone',
        );
      } finally {
        rmSync(link, { force: true });
      }
      if (spawnSync('unshare', ['-p', '-f', '--mount-proc', 'true']).status !== 0) {
        console.log('! no pid namespace can be made (unshare -p): processes with one pid are NOT TESTED');
        return;
      }
      const under = ['unshare', '-p', '-f', '--mount-proc', '--kill-child'];
      const options = only('', { name: 'first', control: true });
      const children = Array.from({ length: 6 }, () => Child.start(import.meta.url, 'runtime', options, { under }));
      await Promise.all(children.map((child) => child.event('ready')));
      const ids = await Promise.all(children.map((child) => child.call<string>('id')));
      assert.is(new Set(ids).size, children.length, ids.join(' '));
      assert.ok(ids.every((id) => /^1-\d+$/.test(id)));
      const listed = (await ps()).filter((row) => row.startsWith('first '));
      assert.equal(listed.sort(), ids.map((id) => `first ${id}`).sort());
      const ambiguous = await printed(['inspect', '1']);
      assert.is(ambiguous.code, 1, 'a pid that several have names none of them');
      await Promise.all(children.map((child) => child.call('close')));
      // They end by themselves: a signal would reach `unshare` first, and its child a moment later.
      for (const child of children) child.process.disconnect();
      await Promise.all(children.map((child) => child.exited));
    }),
  );

  test(
    'probes of a load balancer: one line at info, whatever their number; a peer that says something wrong is a warning',
    timebox(60, async () => {
      const lines: string[] = [];
      const runtime = await here({ debug: 3, log: (level, line) => lines.push(`${level} ${line}`) });
      const { port } = await runtime.listen({}, () => {});
      const failures: unknown[] = [];
      const failed = (event: unknown) => failures.push(event);
      subscribe('isthmus:handshake:failed', failed);
      const probe = async (bytes: string, reset: boolean) => {
        const socket = connect(port, '127.0.0.1');
        socket.on('error', () => {});
        await once(socket, 'connect');
        if (bytes !== '') await new Promise<void>((sent) => socket.write(bytes, () => sent()));
        if (reset) socket.resetAndDestroy();
        else socket.end();
        await once(socket, 'close');
      };
      for (let i = 0; i < 20; i++) await probe('', i % 2 === 0);
      await until(
        () => failures.length,
        (count) => count === 20,
      );
      unsubscribe('isthmus:handshake:failed', failed);
      const about = lines.filter((line) => /127\.0\.0\.1/.test(line) && !/listen/.test(line));
      assert.is(about.length, 1, about.join('\n'));
      assert.match(about[0] ?? '', /^info 127\.0\.0\.1 has connected and sent no byte, as a health probe does/);
      await probe('GET / HTTP/1.0\r\n\r\n', false);
      await until(
        () => lines.some((line) => /^warning handshake with 127\.0\.0\.1:\d+ failed/.test(line)),
        (seen) => seen,
      );
      await runtime.close();
    }),
  );

  test(
    'a folder with access for other users is not used',
    timebox(30, async () => {
      const before = { ...process.env };
      const lines: string[] = [];
      const attempt = async (): Promise<string> => {
        lines.length = 0;
        const runtime = await here({ debug: 3, log: (level, line) => lines.push(`${level} ${line}`) });
        await runtime.close();
        return lines.find((line) => /control socket/.test(line)) ?? '';
      };
      const other = join(home, 'other');
      const folder = join(other, 'isthmus');
      mkdirSync(other);
      process.env['XDG_RUNTIME_DIR'] = other;
      try {
        assert.is(await attempt(), '');
        assert.ok(existsSync(folder));
        assert.equal(await ps(), []);

        chmodSync(folder, 0o750);
        assert.match(await attempt(), /^warning .*others may use it \(mode 0750, not 0700\); run: chmod 700 /);
        assert.equal(readdirSync(folder), []);
        const { code, stderr } = await printed(['ps']);
        assert.is(code, 1);
        assert.match(stderr, /others may use it .*run: chmod 700 .*\(ERR_ISTHMUS_CONTROL_FOLDER\)/);
        assert.not.match(stderr, /EMFILE|ulimit/);

        rmSync(folder, { recursive: true });
        const elsewhere = join(home, 'elsewhere');
        mkdirSync(elsewhere, { mode: 0o700 });
        symlinkSync(elsewhere, folder);
        assert.match(await attempt(), /^warning .*is not a folder; remove it/);
        assert.equal(readdirSync(elsewhere), []);
        rmSync(folder);

        if (process.getuid?.() === 0) {
          mkdirSync(folder, { mode: 0o700 });
          chownSync(folder, 65534, 65534);
          assert.match(
            await attempt(),
            /^warning .*belongs to user 65534, and this process runs as user 0; set XDG_RUNTIME_DIR/,
          );
          assert.equal(readdirSync(folder), []);
        } else {
          console.log('not root: the folder of another user is not tested');
        }

        const long = join(home, 'x'.repeat(90));
        mkdirSync(long);
        process.env['XDG_RUNTIME_DIR'] = long;
        assert.match(
          await attempt(),
          /^info no control socket: the path .* at most \d+ fit; set a shorter XDG_RUNTIME_DIR/,
        );

        process.env['XDG_RUNTIME_DIR'] = join(home, 'missing');
        assert.match(await attempt(), /^info no control socket: ENOENT/);

        // Relative or missing: the temporary directory is used.
        process.env['TMPDIR'] = elsewhere;
        for (const base of ['relative', '', undefined]) {
          if (base === undefined) delete process.env['XDG_RUNTIME_DIR'];
          else process.env['XDG_RUNTIME_DIR'] = base;
          const runtime = await here();
          assert.equal(readdirSync(join(elsewhere, `isthmus-${process.getuid?.()}`)), [`${runtime.id}.sock`]);
          await runtime.close();
        }
      } finally {
        for (const name of ['XDG_RUNTIME_DIR', 'TMPDIR']) {
          if (before[name] === undefined) delete process.env[name];
          else process.env[name] = before[name];
        }
      }
    }),
  );

  test(
    'events on diagnostics_channel',
    timebox(30, async () => {
      const names = [
        'listen',
        'connection:open',
        'connection:close',
        'handshake:failed',
        'region:attach',
        'region:detach',
      ];
      const seen: { name: string; event: any }[] = [];
      const listeners = names.map(
        (name) => [`isthmus:${name}`, (event: unknown) => seen.push({ name, event })] as const,
      );
      const take = () => seen.splice(0);
      for (const [name, listener] of listeners) subscribe(name, listener);
      try {
        const regions = newRegion();
        const runtime = await here({ regions, control: false });
        const [attached] = take();
        assert.is(attached?.name, 'region:attach');
        assert.is(attached?.event.runtime, runtime);
        assert.equal(
          { ...attached?.event.region, uuid: '' },
          { name: attached?.event.region.name, path: regions, kind: 'posix', size: statSync(regions).size, uuid: '' },
        );
        assert.match(attached?.event.region.uuid, /^[0-9a-f]{32}$/);

        let welcome = true;
        const accepted: Connection[] = [];
        const { port } = await runtime.listen({ accept: () => welcome }, (come) => {
          accepted.push(come);
        });
        const [listening] = take();
        assert.equal([listening?.name, listening?.event.host, listening?.event.port], ['listen', '127.0.0.1', port]);

        const other = await here({ control: false });
        const connection = await other.connect({ host: '127.0.0.1', port });
        await until(
          () => seen.length,
          (count) => count >= 2,
        );
        const opened = take();
        assert.equal(
          opened.map(({ name }) => name),
          ['connection:open', 'connection:open'],
        );
        const near = opened.find(({ event }) => event.runtime === other);
        assert.is(near?.event.connection, connection);
        assert.is(opened.find(({ event }) => event.runtime === runtime)?.event.connection, accepted[0]);

        connection.destroy();
        await accepted[0]?.closed;
        await until(
          () => seen.length,
          (count) => count >= 2,
        );
        const closed = take();
        assert.equal(
          closed.map(({ name }) => name),
          ['connection:close', 'connection:close'],
        );
        const reasons = new Map(closed.map(({ event }) => [event.runtime, event.closed]));
        assert.is(reasons.get(other).reason, 'local');
        assert.is(reasons.get(runtime).error.code, 'ERR_ISTHMUS_PEER_DIED');

        welcome = false;
        await other.connect({ host: '127.0.0.1', port }).catch(() => {});
        await until(
          () => seen.length,
          (count) => count >= 2,
        );
        const failed = take().sort((a, b) => a.event.role.localeCompare(b.event.role));
        assert.equal(
          failed.map(({ name, event }) => [name, event.role, event.error.code]),
          [
            ['handshake:failed', 'accept', 'ERR_ISTHMUS_HANDSHAKE_REFUSED'],
            ['handshake:failed', 'connect', 'ERR_ISTHMUS_HANDSHAKE_REFUSED'],
          ],
        );
        assert.equal(failed[1]?.event.address, { host: '127.0.0.1', port });

        await Promise.all([runtime.close(), other.close()]);
        const [detached, ...more] = take();
        assert.equal(
          [detached?.name, detached?.event.region.path, detached?.event.error],
          ['region:detach', regions, undefined],
        );
        assert.equal(more, []);
      } finally {
        for (const [name, listener] of listeners) unsubscribe(name, listener);
      }
    }),
  );

  test.run();
}

if (role) await play(roles);
else main();

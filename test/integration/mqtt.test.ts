/** The control side over a real broker: requests, answers byte for byte, statuses, and the commands that use them. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect as connectTcp } from 'node:net';
import { hostname, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { connect as connectMqtt, type MqttClient } from 'mqtt';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { startBroker } from '../../host/cli/support/embedded-broker.js';
import type { Status } from '../../host/control/payload.js';
import { requestsOf } from '../../host/control/requests.js';
import { ControlSocket } from '../../host/control/socket.js';
import type { RuntimeOptions } from '../../host/runtime/runtime.js';
import { hasMosquitto, TestBroker } from '../support/broker.js';
import { printed } from '../support/cli.js';
import { participants, type Scene } from '../support/participants.js';
import { Child, chosen, endChildren, program } from '../support/process.js';
import { newRegion, only, removeRegions } from '../support/regions.js';
import { StandIn } from '../support/standin.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const HOST = hostname();
const CLI = process.env['ISTHMUS_CLI'] ?? resolve('dist/cli.js');
const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);

/** Ask again until it holds. */
async function until<T>(get: () => Promise<T> | T, holds: (value: T) => boolean, seconds = 20): Promise<T> {
  const limit = performance.now() + seconds * 1000 * slowness;
  for (;;) {
    const value = await get();
    if (holds(value)) return value;
    if (performance.now() > limit) throw new Error(`still: ${JSON.stringify(value)}`);
    await pause(20);
  }
}

/** Another client of the broker: the part of the migration framework, or of a person. */
class Onlooker {
  readonly answers: string[] = [];
  readonly statuses = new Map<string, Status>();
  /** What the broker keeps, by instance. */
  readonly instances = new Map<string, Status & { readonly id: string }>();
  readonly client: MqttClient;

  private constructor(url: string) {
    this.client = connectMqtt(url, { reconnectPeriod: 100 });
    this.client.on('error', () => {});
    this.client.on('message', (topic, payload) => {
      const [, , , id = '', part, instance = ''] = topic.split('/');
      if (part === 'request') return;
      if (part === 'response') this.answers.push(`${id} ${payload.toString('latin1')}`);
      // After the last status of a process, which stays here, the broker keeps none.
      else if (payload.length === 0) this.instances.delete(instance);
      else {
        const status = JSON.parse(payload.toString()) as Status;
        this.statuses.set(id, status);
        this.instances.set(instance, { ...status, id });
      }
    });
  }

  static async start(url: string): Promise<Onlooker> {
    const onlooker = new Onlooker(url);
    await onlooker.client.subscribeAsync([`fast/pscom/${HOST}/+/response`, `fast/pscom/${HOST}/+/status/+`], {
      qos: 1,
    });
    onlookers.add(onlooker);
    return onlooker;
  }

  say(payload: string | Buffer, { to = 'any_proc', retain = false }: { to?: string; retain?: boolean } = {}) {
    return this.client.publishAsync(`fast/pscom/${HOST}/${to}/request`, payload, { qos: 1, retain });
  }

  state(child: Child, state: Status['state'], id = String(child.pid)): Promise<Status | undefined> {
    return until(
      () => this.statuses.get(id),
      (status) => status?.state === state,
    );
  }

  /** The answers so far, once there are that many; and a moment later still no more. */
  async heard(count: number): Promise<string[]> {
    await until(
      () => this.answers,
      ({ length }) => length >= count,
    );
    await pause(100);
    assert.is(this.answers.length, count, this.answers.join('; '));
    return this.answers;
  }
}

const onlookers = new Set<Onlooker>();

function main(): void {
  let broker: TestBroker;
  const home = mkdtempSync(join(tmpdir(), 'isthmus-test-mqtt-'));
  process.env['XDG_RUNTIME_DIR'] = home;

  const start = async (scene: Partial<Scene> = {}): Promise<Child> => {
    const child = Child.start(program('migratable'), 'process', { url: broker.url, ...scene });
    await child.event('ready');
    return child;
  };

  test.before(
    timebox(30, async () => {
      broker = await TestBroker.start();
    }),
  );
  test.after.each(async () => {
    for (const { client } of onlookers) client.end(true);
    onlookers.clear();
    await endChildren();
  });
  test.after(async () => {
    await broker.close();
    removeRegions();
    rmSync(home, { recursive: true, force: true });
  });

  test(
    'requests in every form, answered byte for byte as the C fork does, once for two runtimes',
    timebox(40, async () => {
      const onlooker = await Onlooker.start(broker.url);
      const child = await start({ count: 2 });
      const { pid } = child;
      const first = await onlooker.state(child, 'inactive');
      await until(
        () => onlooker.statuses.get(String(pid))?.plugins,
        (plugins) => Object.keys(plugins ?? {}).length === 2,
      );
      assert.is(first?.name, 'worker');
      assert.is(first?.pid, pid);
      await child.call('delay', 1, 200);
      const expected: string[] = [];
      for (const [suspend, resume] of [
        ['suspend', 'resume'],
        ['*', '*'],
        ['', ''],
        [`1 ${pid} 2`, `${pid}\0\0\0`],
        ['---\ntask: suspend\n', 'task: "resume"'],
        ['suspend\0   \0', ' \0resume'],
      ] as const) {
        await onlooker.say(suspend);
        expected.push(`${pid} ${pid} : ALLOWED`);
        await onlooker.heard(expected.length);
        await onlooker.state(child, 'allowed');
        assert.equal(await child.call('states'), ['allowed', 'allowed']);
        await onlooker.say(resume, { to: String(pid) });
        expected.push(`${pid} ${pid} : COMPLETED`);
        assert.equal(await onlooker.heard(expected.length), expected);
        await onlooker.state(child, 'inactive');
      }
    }),
  );

  test(
    'by hand: mosquitto_pub and mosquitto_sub',
    timebox(40, async () => {
      if (!hasMosquitto) {
        console.log('! no mosquitto: mosquitto_pub and mosquitto_sub are NOT TESTED');
        return;
      }
      const child = await start();
      const onlooker = await Onlooker.start(broker.url);
      await onlooker.state(child, 'inactive');
      const port = String(broker.port);
      const pub = (...args: string[]) =>
        spawnSync('mosquitto_pub', ['-p', port, '-t', `fast/pscom/${HOST}/any_proc/request`, ...args]);
      assert.is(pub('-m', '*').status, 0);
      await onlooker.state(child, 'allowed');
      assert.is(pub('-n').status, 0);
      await onlooker.heard(2);
      const status = spawnSync('mosquitto_sub', [
        '-p',
        port,
        '-t',
        `fast/pscom/${HOST}/${child.pid}/status/+`,
        '-C',
        '1',
      ]);
      assert.is(JSON.parse(status.stdout.toString()).state, 'inactive');
    }),
  );

  test(
    'runtimes of several threads give one answer, while threads start and end',
    timebox(90, async () => {
      const onlooker = await Onlooker.start(broker.url);
      const child = Child.start(program('migratable'), 'threads', { url: broker.url });
      await child.event('ready');
      const id = String(child.pid);
      const plugins = (count: number) =>
        until(
          () => onlooker.statuses.get(id),
          (status) => Object.keys(status?.plugins ?? {}).length === count && status?.state === 'inactive',
        );
      let count = 0;
      const both = async (states: string[]) => {
        await onlooker.say('suspend');
        assert.is((await onlooker.heard(++count)).at(-1), `${id} ${id} : ALLOWED`);
        await until(
          () => child.call<string[]>('states'),
          (now) => now.join() === states.join(),
        );
        await onlooker.say('resume');
        assert.is((await onlooker.heard(++count)).at(-1), `${id} ${id} : COMPLETED`);
        await onlooker.state(child, 'inactive');
      };
      // The stand-ins' ids are the same in all threads, apart from the thread.
      await plugins(2);
      await both(['', 'allowed', 'allowed']);
      await child.call('join');
      await plugins(3);
      await both(['allowed', 'allowed', 'allowed']);
      // A thread that ended without a message is waited for until it has been silent for some time.
      await child.call('terminate', 1);
      await both(['allowed', 'inactive', 'allowed']);
      await child.call('leave');
      await plugins(1);
      await both(['inactive', 'inactive', 'allowed']);
      assert.is(onlooker.statuses.get(id)?.state, 'inactive');
      await child.call('end', 2);
      await onlooker.state(child, 'offline');
    }),
  );

  test(
    'payloads that are no request, or for another process, have no effect',
    timebox(40, async () => {
      const onlooker = await Onlooker.start(broker.url);
      await onlooker.say('suspend', { retain: true });
      const child = await start({ options: { controlId: 'node.a' } });
      await onlooker.state(child, 'inactive', 'node.a');
      await until(
        () => child.call<string[]>('lines'),
        (lines) => lines.some((line) => /^warning a retained request .* is ignored/.test(line)),
      );
      await onlooker.heard(0);
      // A retained message is cleared with an empty payload, which the broker forwards like any other: a toggle, as for
      // the C fork.
      await onlooker.say('', { retain: true });
      await onlooker.heard(1);
      await onlooker.say('resume');
      assert.equal(await onlooker.heard(2), ['node.a node.a : ALLOWED', 'node.a node.a : COMPLETED']);
      onlooker.answers.length = 0;
      const before = await child.call('calls');
      for (const payload of [
        'Suspend',
        'task: stop',
        '1 2 3',
        '{"task":"suspend"}',
        '\x1b[2J',
        Buffer.alloc(1 << 20, '7 '),
        Buffer.from([0xff, 0xfe, 0x80]),
      ]) {
        await onlooker.say(payload);
      }
      await onlooker.say('suspend', { to: String(child.pid) });
      await onlooker.say('suspend', { to: 'node.b' });
      await onlooker.client.publishAsync('fast/pscom/elsewhere/any_proc/request', 'suspend');
      await onlooker.heard(0);
      assert.equal(await child.call('calls'), before);
      await onlooker.say('9 node.a');
      assert.equal(await onlooker.heard(1), ['node.a node.a : ALLOWED']);
      const lines = await child.call<string[]>('lines');
      assert.is(lines.filter((line) => /not understood/.test(line)).length, 6, lines.join('\n'));
      assert.ok(lines.every((line) => line.length < 300 && /^[\x20-\x7e…]*$/.test(line)));
    }),
  );

  test(
    'a request delivered twice is executed once',
    timebox(40, async () => {
      // A broker written for this test, which repeats a delivery: no real one does so on demand.
      const repeating = await startBroker();
      const { port } = repeating;
      await repeating.close();
      const { Aedes } = await import('aedes');
      const { createServer } = await import('node:net');
      const aedes = await Aedes.createBroker();
      const sockets = new Set<import('node:net').Socket>();
      const server = createServer((socket) => {
        sockets.add(socket);
        aedes.handle(socket);
      }).listen(port, '127.0.0.1');
      const url = `mqtt://127.0.0.1:${port}`;
      const runtime = new StandIn();
      const lines: string[] = [];
      const [member] = participants([runtime], { url }, lines);
      try {
        const onlooker = await Onlooker.start(url);
        await until(
          () => onlooker.statuses.get(String(process.pid))?.state,
          (state) => state === 'inactive',
        );
        // The connection of the client, seen from the broker: write the same PUBLISH to it twice, the second with DUP.
        const id = Object.keys((aedes as unknown as { clients: object }).clients).find((name) =>
          /^isthmus_/.test(name),
        );
        const { conn } = (aedes as unknown as { clients: Record<string, { conn: { write(bytes: Buffer): void } }> })
          .clients[id as string] as { conn: { write(bytes: Buffer): void } };
        const topic = Buffer.from(`fast/pscom/${HOST}/any_proc/request`);
        const body = Buffer.concat([
          Buffer.from([topic.length >> 8, topic.length & 255]),
          topic,
          Buffer.from([0x7f, 0x01]),
          Buffer.from('*'),
        ]);
        const publish = (flags: number) => conn.write(Buffer.concat([Buffer.from([0x30 | flags, body.length]), body]));
        publish(0x02);
        await onlooker.heard(1);
        publish(0x0a);
        publish(0x0a);
        assert.equal(await onlooker.heard(1), [`${process.pid} ${process.pid} : ALLOWED`]);
        assert.is(runtime.migration, 'allowed');
        assert.is(lines.filter((line) => /delivered before/.test(line)).length, 2);
      } finally {
        await member?.leave();
        for (const { client } of onlookers) client.end(true);
        for (const socket of sockets) socket.destroy();
        server.close();
        aedes.close();
      }
    }),
  );

  test(
    'the broker is restarted meanwhile: answer and status are sent when it is back',
    timebox(60, async () => {
      const own = await TestBroker.start();
      try {
        const onlooker = await Onlooker.start(own.url);
        const child = await start({ url: own.url });
        await onlooker.state(child, 'inactive');
        await child.call('delay', 0, 600);
        await onlooker.say('suspend');
        await onlooker.state(child, 'preparing');
        await own.stop();
        onlooker.statuses.clear();
        await until(
          () => child.call<string[]>('states'),
          ([state]) => state === 'allowed',
        );
        await pause(500);
        await own.start();
        await onlooker.state(child, 'allowed');
        assert.equal(await onlooker.heard(1), [`${child.pid} ${child.pid} : ALLOWED`]);
        await onlooker.say('resume');
        await onlooker.heard(2);
        assert.equal(await child.call('calls'), [['suspend', 'resume']]);
        const lines = await child.call<string[]>('lines');
        assert.is(
          lines.filter((line) => /^warning not connected to the broker/.test(line)).length <= 2,
          true,
          lines.join('\n'),
        );
      } finally {
        await own.close();
      }
    }),
  );

  test(
    'no broker, or a silent broker: no call waits for it, and closing is quick',
    timebox(40, async () => {
      const { createServer } = await import('node:net');
      const silent = createServer((socket) => socket.on('error', () => {})).listen(0, '127.0.0.1');
      await once(silent, 'listening');
      const { port } = silent.address() as { port: number };
      for (const url of ['mqtt://127.0.0.1:1', `mqtt://127.0.0.1:${port}`, 'mqtt://nowhere.invalid']) {
        const lines: string[] = [];
        const [member] = participants([new StandIn()], { url }, lines);
        await pause(300);
        const begin = performance.now();
        await member?.leave();
        assert.ok(performance.now() - begin < 1500 * slowness);
        const leaver = Child.start(program('migratable'), 'leaver', { url });
        await leaver.event('made');
        const { code } = await leaver.ended(15);
        assert.is(code, 0, leaver.output);
      }
      silent.close();
    }),
  );

  test(
    'COMPLETED is held back until the application confirms',
    timebox(30, async () => {
      const onlooker = await Onlooker.start(broker.url);
      const child = await start({ options: { postpone: true } });
      await onlooker.state(child, 'inactive');
      await onlooker.say('suspend');
      await onlooker.heard(1);
      await onlooker.say('resume');
      await until(
        () => child.call<string[]>('states'),
        ([state]) => state === 'inactive',
      );
      await pause(300);
      await onlooker.heard(1);
      await onlooker.state(child, 'resuming');
      await child.call('complete');
      assert.is((await onlooker.heard(2))[1], `${child.pid} ${child.pid} : COMPLETED`);
    }),
  );

  test(
    'status: offline in order, and by the last will of a killed process',
    timebox(30, async () => {
      const onlooker = await Onlooker.start(broker.url);
      const [killed, left] = await Promise.all([start(), start()]);
      await Promise.all([onlooker.state(killed, 'inactive'), onlooker.state(left, 'inactive')]);
      await left.call('leave');
      const last = await onlooker.state(left, 'offline');
      assert.is(last?.name, 'worker');
      assert.ok(last?.since);
      await killed.kill('SIGKILL');
      const will = await onlooker.state(killed, 'offline');
      assert.equal(
        { ...will, origin: undefined },
        {
          state: 'offline',
          since: null,
          name: '',
          pid: killed.pid,
          plugins: {},
          origin: undefined,
        },
      );
      // A later client sees what was lost, and nothing of an orderly end.
      const later = await Onlooker.start(broker.url);
      await later.state(killed, 'offline');
      assert.not.ok(later.statuses.has(String(left.pid)));
      // A tool in the same pid namespace proves that the process has ended, and removes it.
      assert.is((await printed(['status', '--broker', broker.url])).code, 0);
      await until(
        () => [...later.instances.values()],
        (kept) => !kept.some(({ id }) => id === String(killed.pid)),
      );
    }),
  );

  test(
    'credentials and TLS',
    timebox(60, async () => {
      if (!hasMosquitto) {
        console.log('! no mosquitto: credentials and TLS are NOT TESTED');
        return;
      }
      const path = (name: string) => join(home, name);
      const made = spawnSync('openssl', [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'],
        ...['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-addext', 'basicConstraints=CA:TRUE'],
        ...['-keyout', path('key.pem'), '-out', path('cert.pem')],
      ]);
      const tls =
        made.status === 0 ? { ca: path('cert.pem'), cert: path('cert.pem'), key: path('key.pem') } : undefined;
      if (!tls) console.log('! no openssl: TLS is NOT TESTED');
      const guarded = await TestBroker.start({ user: 'alice', password: 'p@ss:word', ...(tls ? { tls } : {}) });
      try {
        const where = `${tls ? 'localhost' : '127.0.0.1'}:${guarded.port}`;
        const scheme = tls ? 'mqtts' : 'mqtt';
        const ca = tls ? ['--ca', tls.cert] : [];
        const mqtt = tls ? { ca: readFileSync(tls.cert, 'utf8') } : {};
        const good = `${scheme}://alice:p%40ss%3Aword@${where}`;
        const child = await start({ url: good, options: { mqtt } });
        const suspended = await printed(['suspend', '--broker', good, ...ca, '--pid', String(child.pid)]);
        assert.is(suspended.code, 0, suspended.stderr);
        const bad = await printed(['status', '--broker', `${scheme}://alice:wrong@${where}`, ...ca]);
        assert.is(bad.code, 1);
        assert.match(bad.stderr, /Not authorized.*\(ERR_ISTHMUS_BROKER\)/i);
        assert.not.match(bad.stderr, /wrong/);
        if (tls) {
          const untrusted = await printed(['status', '--broker', good]);
          assert.is(untrusted.code, 1);
          assert.match(untrusted.stderr, /self[- ]signed certificate.*\(ERR_ISTHMUS_BROKER\)/i);
        }
        const denied = await start({ url: `${scheme}://eve:x@${where}`, options: { mqtt, controlId: 'eve' } });
        await until(
          () => denied.call<string[]>('lines'),
          (lines) => lines.some((line) => /^warning not connected to the broker .*[Nn]ot authorized/.test(line)),
        );
        assert.ok(!(await denied.call<string[]>('lines')).some((line) => /eve:x/.test(line)));
      } finally {
        await guarded.close();
      }
    }),
  );

  test(
    'isthmus suspend, status and resume: all processes, and exit code 0 only if all of them succeed',
    timebox(120, async () => {
      const own = await TestBroker.start();
      const at = ['--broker', own.url];
      try {
        const none = await printed(['suspend', ...at]);
        assert.is(none.code, 1);
        assert.match(none.stderr, /no process on .* takes part/);
        const first = await start({ url: own.url });
        const second = await start({ url: own.url, count: 2, options: { controlId: 'second' } });
        const onlooker = await Onlooker.start(own.url);
        await Promise.all([onlooker.state(first, 'inactive'), onlooker.state(second, 'inactive', 'second')]);

        const listed = await printed(['status', ...at]);
        assert.is(listed.code, 0, listed.stderr);
        assert.match(listed.stdout, new RegExp(`^${first.pid} +worker +inactive +\\d+ s +1 ivshmem$`, 'm'));
        assert.match(listed.stdout, /^second +worker +inactive +\d+ s +2 ivshmem$/m);

        const suspended = await printed(['suspend', ...at]);
        assert.is(suspended.code, 0, suspended.stderr);
        assert.match(suspended.stdout, new RegExp(`^${first.pid} worker: ALLOWED after \\d+ ms$`, 'm'));
        assert.match(suspended.stdout, /^second worker: ALLOWED after \d+ ms\n/m);
        assert.match(suspended.stdout, /^isthmus: 2 of 2 suspended\n$/m);
        assert.is((await printed(['suspend', ...at, '--json'])).code, 0, 'again: no harm');
        const one = await printed(['resume', ...at, '--pid', 'second', '--json']);
        assert.is(one.code, 0, one.stderr);
        const [row, ...more] = JSON.parse(one.stdout);
        assert.equal(more, []);
        assert.equal([row.id, row.answer, row.good], ['second', 'COMPLETED', true]);
        const rest = await printed(['resume', ...at]);
        assert.is(rest.code, 0, rest.stderr);
        assert.match(rest.stdout, /^second worker: is not suspended$/m);

        await second.call('fail', 1, 'no answer from b[8]');
        const failed = await printed(['suspend', ...at]);
        assert.is(failed.code, 1);
        assert.match(failed.stdout, /^second worker: FAILED no answer from b\[8\] after \d+ ms$/m);
        assert.match(failed.stdout, /^isthmus: 1 of 2 suspended\n$/m);
        assert.is((await printed(['resume', ...at])).code, 0);

        await first.call('delay', 0, 3000);
        const late = await printed(['suspend', ...at, '--wait', '0.5', '--pid', String(first.pid), '99999999']);
        assert.is(late.code, 1);
        assert.match(late.stdout, /^99999999: no answer within 0\.5 s$/m);
        assert.match(late.stdout, new RegExp(`^${first.pid} worker: no answer within 0\\.5 s$`, 'm'));

        assert.is((await printed(['resume', ...at])).code, 0);
        // Killed while the command waits for it.
        await first.call('delay', 0, 60_000);
        const killing = printed(['suspend', ...at, '--wait', '60']);
        await onlooker.state(first, 'preparing');
        await first.kill('SIGKILL');
        const killed = await killing;
        assert.is(killed.code, 1);
        assert.match(killed.stdout, new RegExp(`^${first.pid} worker: has lost its connection to the broker$`, 'm'));
        const gone = await printed(['status', ...at, '--pid', String(first.pid), '--json']);
        assert.is(gone.code, 1);
        assert.is(JSON.parse(gone.stdout)[0].state, 'offline');
        assert.not.match((await printed(['status', ...at])).stdout, new RegExp(`^${first.pid} `, 'm'));
      } finally {
        await own.close();
      }
    }),
  );

  test(
    'isthmus suspend --pid of a process that connects to the broker only after the request',
    timebox(60, async () => {
      const onlooker = await Onlooker.start(broker.url);
      await onlooker.client.subscribeAsync(`fast/pscom/${HOST}/late/request`);
      // Requested once, in vain.
      const asked = new Promise((resolve) => onlooker.client.once('message', resolve));
      const suspending = printed(['suspend', '--broker', broker.url, '--wait', '30', '--pid', 'late']);
      await asked;
      await start({ options: { controlId: 'late' } });
      const suspended = await suspending;
      assert.is(suspended.code, 0, suspended.stdout + suspended.stderr);
      assert.match(suspended.stdout, /^late worker: ALLOWED after \d+ ms$/m);
    }),
  );

  test(
    'runtimes are suspended and resumed by the commands, and lose no message',
    timebox(90, async () => {
      const regions = newRegion();
      const common = { regions, suspendResume: true, broker: broker.url, debug: 0 };
      const start = async (options: RuntimeOptions) => {
        const child = Child.start(program('migratable'), 'runtime', only(regions, { ...common, ...options }));
        await child.event('ready');
        return child;
      };
      const [alpha, beta] = await Promise.all([
        start({ name: 'alpha' }),
        start({ name: 'beta', postponeFeedback: true }),
      ]);
      assert.is(await beta.call('connect', await alpha.call('port')), 'ivshmem');
      await beta.call('send', 0, 10);
      const onlooker = await Onlooker.start(broker.url);
      for (const { pid } of [alpha, beta]) {
        await until(
          () => Object.values(onlooker.statuses.get(String(pid))?.plugins ?? {}),
          ([plugin]) => plugin === 'ivshmem',
        );
      }
      const at = ['--broker', broker.url, '--pid', String(alpha.pid), String(beta.pid), '--wait', '30'];
      for (let cycle = 1; cycle <= 3; cycle++) {
        const suspended = await printed(['suspend', ...at]);
        assert.is(suspended.code, 0, suspended.stdout + suspended.stderr);
        for (const { pid } of [alpha, beta]) {
          assert.not.ok(readFileSync(`/proc/${pid}/maps`, 'latin1').includes(regions));
        }
        await beta.call('send', cycle * 10, cycle * 10 + 10);
        await onlooker.state(beta, 'allowed');
        const resuming = printed(['resume', ...at]);
        // Not before it holds its answer back.
        await onlooker.state(beta, 'resuming');
        await pause(500);
        await beta.call('complete');
        const resumed = await resuming;
        assert.is(resumed.code, 0, resumed.stdout + resumed.stderr);
        const count = cycle * 10 + 10;
        await until(
          () => alpha.call<number[]>('received'),
          ({ length }) => length >= count,
        );
        assert.equal(
          await alpha.call('received'),
          Array.from({ length: count }, (_, i) => i),
        );
      }
      await Promise.all([alpha.call('close'), beta.call('close')]);
      await Promise.all([onlooker.state(alpha, 'offline'), onlooker.state(beta, 'offline')]);
    }),
  );

  test(
    'isthmus suspend --local: without a broker, and as long as it takes',
    timebox(60, async () => {
      const runtime = new StandIn();
      runtime.delay.suspend = 6000;
      const socket = ControlSocket.open(
        requestsOf(
          Object.assign(runtime, {
            debug: 0,
            inspect: () => {
              throw new Error('not here');
            },
          }),
        ),
        () => {},
      );
      assert.ok(socket);
      const { id } = socket as ControlSocket;
      try {
        const suspended = await printed(['suspend', '--local', id]);
        assert.is(suspended.code, 0, suspended.stderr);
        assert.match(suspended.stdout, new RegExp(`^isthmus: ${id} is allowed after 6\\d\\d\\d ms\\n$`));
        const resumed = await printed(['resume', '--local', id, '--json']);
        assert.is(resumed.code, 0, resumed.stderr);
        assert.is(JSON.parse(resumed.stdout).migration, 'inactive');
        runtime.delay.suspend = 10;
        runtime.fail.suspend = 'no answer from b[8]';
        const failed = await printed(['suspend', '--local', id]);
        assert.is(failed.code, 1);
        assert.match(failed.stderr, /no answer from b\[8\]/);
        assert.is((await printed(['suspend', '--local', id, '--pid', '7'])).code, 2);
        assert.is((await printed(['suspend', '--local', 'missing'])).code, 1);
      } finally {
        socket?.close();
      }
    }),
  );

  test(
    'isthmus broker serves, and ends by a signal',
    timebox(60, async () => {
      const child = Child.run(CLI, ['broker', '--port', '0']);
      const [, url] = await child.printed(/^isthmus: broker at (mqtt:\S+), pid \d+$/m);
      const member = await start({ url: url as string });
      const onlooker = await Onlooker.start(url as string);
      await onlooker.state(member, 'inactive');
      assert.is((await printed(['suspend', '--broker', url as string])).code, 0);
      assert.is((await printed(['resume', '--broker', url as string])).code, 0);
      const port = new URL(url as string).port;
      const taken = await printed(['broker', '--port', port]);
      assert.is(taken.code, 1);
      assert.match(taken.stderr, /EADDRINUSE/);
      child.process.kill('SIGINT');
      assert.is((await child.ended()).code, 0, child.output);
      const socket = connectTcp(Number(port), '127.0.0.1');
      assert.ok(await new Promise((done) => socket.on('error', () => done(true)).on('connect', () => done(false))));
    }),
  );

  test.run();
}

main();

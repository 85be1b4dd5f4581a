/**
 * Which process answers: two processes with one pid, answers that other clients of the broker forge, and access lists of the
 * broker, with real pid namespaces and a real mosquitto.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { connect as connectMqtt, type MqttClient } from 'mqtt';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { parseStatus, partsOfTopic, type Status, topics } from '../../host/control/payload.js';
import { StatusTopic } from '../../host/control/status-topic.js';
import { Core, coreLayout } from '../../host/core/core.js';
import { hasMosquitto, TestBroker } from '../support/broker.js';
import { printed } from '../support/cli.js';
import { participants, type Scene } from '../support/participants.js';
import { Child, chosen, endChildren, program } from '../support/process.js';
import { MIB, newRegion, only, removeRegions } from '../support/regions.js';
import { StandIn } from '../support/standin.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const HOST = hostname();
const slowness = Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1);
const NAMESPACES = spawnSync('unshare', ['-p', '-f', '--mount-proc', 'true']).status === 0;

/** What a command notes on standard error beside its failure. */
async function notesOf(args: readonly string[]): Promise<string> {
  const { write } = process.stderr;
  let notes = '';
  process.stderr.write = ((text: string) => {
    notes += text;
    return true;
  }) as typeof write;
  try {
    await printed(args);
  } finally {
    process.stderr.write = write;
  }
  return notes;
}

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

interface Kept extends Status {
  readonly id: string;
  readonly topic: string;
}

/** What the broker keeps of this host, by topic. */
class Statuses {
  readonly kept = new Map<string, Kept>();
  readonly client: MqttClient;

  constructor(url: string) {
    this.client = connectMqtt(url, { reconnectPeriod: 100 });
    this.client
      .on('error', () => {})
      .on('message', (topic, payload) => {
        const { id, part } = partsOfTopic(topic) ?? {};
        if (part !== 'status' || id === undefined) return;
        const status = parseStatus(payload);
        if (payload.length === 0) this.kept.delete(topic);
        else if (status) this.kept.set(topic, { ...status, id, topic });
      });
    clients.add(this.client);
  }

  static async start(url: string): Promise<Statuses> {
    const statuses = new Statuses(url);
    await statuses.client.subscribeAsync([`fast/pscom/${HOST}/+/status/+`], { qos: 1 });
    return statuses;
  }

  /** Once that many processes with that id are in that state. */
  async with(id: string, state: string, count = 1): Promise<Kept[]> {
    const found = () => [...this.kept.values()].filter((each) => each.id === id && each.state === state);
    return until(found, ({ length }) => length === count);
  }
}

const clients = new Set<MqttClient>();
/** End also when a test fails. */
const timers = new Set<NodeJS.Timeout>();

function rows(stdout: string): Record<string, unknown>[] {
  return JSON.parse(stdout) as Record<string, unknown>[];
}

function main(): void {
  let broker: TestBroker;
  const home = mkdtempSync(join(tmpdir(), 'isthmus-test-verified-'));
  process.env['XDG_RUNTIME_DIR'] = home;
  // A region of another program on this machine is nothing to the commands here.
  process.env['PSP_IVSHMEM_REGIONS'] = '';
  process.env['PSP_IVSHMEM_PCI'] = '0';

  const start = async (scene: Partial<Scene> = {}): Promise<Child> => {
    const child = Child.start(program('migratable'), 'process', { url: broker.url, ...scene });
    await child.event('ready');
    return child;
  };
  /** A process with pid 1, as the first one of a container has it. */
  const startAsFirst = async (role: string, options: unknown): Promise<Child> => {
    const under = ['unshare', '-p', '-f', '--mount-proc', '--kill-child'];
    const child = Child.start(program('migratable'), role, options, { under });
    await child.event('ready');
    return child;
  };

  test.before(
    timebox(30, async () => {
      broker = await TestBroker.start();
    }),
  );
  test.after.each(async () => {
    for (const timer of timers) clearInterval(timer);
    for (const client of clients) client.end(true);
    clients.clear();
    await endChildren();
    // Nothing of one test is seen by the next one.
    await broker.stop();
    await broker.start();
  });
  test.after(async () => {
    await broker.close();
    removeRegions();
    rmSync(home, { recursive: true, force: true });
  });

  test(
    'two processes with pid 1: seen as two, asked both, and a suspension is not complete while one of them has the region',
    timebox(120, async () => {
      if (!NAMESPACES) {
        console.log('! no pid namespace can be made (unshare -p): two processes with one pid are NOT TESTED');
        return;
      }
      const regions = newRegion();
      const options = only(regions, { regions, suspendResume: true, broker: broker.url, debug: 0, name: 'first' });
      const statuses = await Statuses.start(broker.url);
      const [first, second] = [
        await startAsFirst('runtime', options),
        // The second one does not give the region up: its suspension never ends.
        await startAsFirst('process', { url: broker.url }),
      ];
      assert.is((await statuses.with('1', 'inactive', 2)).length, 2);
      await second.call('delay', 0, 600_000);
      const at = ['--broker', broker.url];
      const listed = await printed(['status', ...at]);
      assert.is(listed.stdout.match(/^1\/[0-9a-f]{16} +(?:first|worker) +inactive/gm)?.length, 2, listed.stdout);

      const suspended = await printed(['suspend', ...at, '--wait', '2', '--json']);
      assert.is(suspended.code, 1, suspended.stdout);
      const answers = rows(suspended.stdout);
      assert.equal(
        answers.map(({ id }) => id),
        ['1', '1'],
      );
      assert.not.equal(answers[0]?.['instance'], answers[1]?.['instance']);
      assert.equal(answers.map(({ name, answer }) => `${name} ${answer}`).sort(), ['first ALLOWED', 'worker null']);
      assert.is((await printed(['suspend', ...at, '--wait', '1', '--pid', '1'])).code, 1, 'by its pid as well');

      // The end of one does not hide the other.
      await first.call('close');
      await until(
        () => [...statuses.kept.values()],
        (kept) => kept.length === 1,
      );
      const rest = await printed(['status', ...at]);
      assert.match(rest.stdout, /^1 +worker +(?:requested|preparing)/m);
      assert.is((await printed(['suspend', ...at, '--wait', '1'])).code, 1);
      // Each has noticed the other.
      const lines = await second.call<string[]>('lines');
      assert.is(
        lines.filter((line) => /^warning another process of .* has the control id 1 as well/.test(line)).length,
        1,
      );
      await second.call('delay', 0, 10);
    }),
  );

  test(
    'what the region says counts beside the answers: a process that takes no part still has it mapped',
    timebox(90, async () => {
      const regions = newRegion();
      const common = only(regions, { regions, broker: broker.url, debug: 0 });
      const under = NAMESPACES ? ['unshare', '-p', '-f', '--mount-proc', '--kill-child'] : [];
      const [taking, other] = [
        Child.start(program('migratable'), 'runtime', { ...common, suspendResume: true, name: 'taking' }),
        Child.start(program('migratable'), 'runtime', { ...common, suspendResume: false, name: 'other' }, { under }),
      ];
      await Promise.all([taking.event('ready'), other.event('ready')]);
      const statuses = await Statuses.start(broker.url);
      await statuses.with(String(taking.pid), 'inactive');
      process.env['PSP_IVSHMEM_REGIONS'] = regions;
      try {
        const at = ['--broker', broker.url];
        const held = await printed(['suspend', ...at]);
        assert.is(held.code, 1);
        assert.match(held.stdout, /^isthmus: 1 of 1 suspended$/m);
        assert.match(
          held.stderr,
          /1 slot of regions of this machine still held by a running process: other\[\d+\] \(slot \d+ of /,
        );
        assert.match(held.stderr, /^ {2}Do not unplug the device\./m);
        assert.is(
          (await printed(['suspend', ...at, '--pid', String(taking.pid)])).code,
          0,
          'asked for one process only',
        );
        // Another container has a device node of its own: the lock of a process there cannot be seen from here.
        const slot = Number(/\(slot (\d+) of /.exec(held.stderr)?.[1]);
        const { SLOT_INO, WINDOW } = coreLayout();
        const core = new Core(MIB);
        core.call.geometry(statSync(regions).size);
        const file = openSync(regions, 'r+');
        writeSync(file, Buffer.alloc(8, 0xee), 0, 8, core.call.slotAddress(slot) + SLOT_INO - WINDOW);
        closeSync(file);
        const elsewhere = await printed(['suspend', ...at]);
        assert.is(elsewhere.code, 1);
        assert.match(elsewhere.stderr, new RegExp(`still held by a running process: other.*slot ${slot} of `));
        // unshare(1) waits for the process.
        const children = readFileSync(`/proc/${other.pid}/task/${other.pid}/children`, 'utf8');
        const inside = NAMESPACES ? Number.parseInt(children, 10) : other.pid;
        process.kill(inside, 'SIGSTOP');
        const silent = await notesOf(['suspend', ...at]);
        process.kill(inside, 'SIGCONT');
        assert.match(silent, new RegExp(`cannot see which processes hold slot ${slot} of .*other\\[`));
        await other.call('close');
        assert.is((await printed(['suspend', ...at])).code, 0);

        const named = Child.start(program('migratable'), 'runtime', {
          ...common,
          suspendResume: true,
          controlId: 'worker',
          name: 'named',
        });
        await named.event('ready');
        await statuses.with('worker', 'inactive');
        process.kill(named.pid, 'SIGSTOP');
        const byName = await printed(['suspend', ...at, '--pid', 'worker', '--wait', '1']);
        process.kill(named.pid, 'SIGCONT');
        assert.is(byName.code, 1);
        assert.match(byName.stderr, /still held by a running process: named\[/, 'by its control id');
        const unknown = await notesOf(['suspend', ...at, '--pid', 'absent', '--wait', '0.1']);
        assert.match(unknown, /cannot see what absent holds: its pid is not known/);
      } finally {
        process.env['PSP_IVSHMEM_REGIONS'] = '';
      }
    }),
  );

  test(
    'the last status of a lost process with the same pid goes when its pid is used again, or when an operator says so',
    timebox(60, async () => {
      const statuses = await Statuses.start(broker.url);
      const id = String(process.pid);
      const [before] = participants([new StandIn()], { url: broker.url }, []);
      const [{ origin } = { origin: undefined }] = await statuses.with(id, 'inactive');
      assert.ok(origin, 'without /proc nothing is known of a process');
      await before?.leave();
      await statuses.with(id, 'inactive', 0);
      const lost = (id: string, more: object, instance: string) =>
        statuses.client.publishAsync(
          topics.status(HOST, id, instance),
          JSON.stringify({ state: 'offline', since: null, name: 'x', pid: process.pid, plugins: {}, ...more }),
          { qos: 1, retain: true },
        );
      // Of this pid, in this namespace, started at another time: it has ended. Of another kernel: that cannot be known.
      await lost(id, { origin: { ...origin, started: '1' } }, '00000000000000aa');
      await lost(id, { origin: { ...origin, kernel: 'ffff', started: '1' } }, '00000000000000bb');
      await statuses.with(id, 'offline', 2);
      const [member] = participants([new StandIn()], { url: broker.url }, []);
      await statuses.with(id, 'inactive');
      assert.match((await statuses.with(id, 'offline', 1))[0]?.topic ?? '', /bb$/);
      await member?.leave();
      assert.is((await printed(['status', '--broker', broker.url])).code, 0);
      await statuses.with(id, 'offline', 1);
      assert.is((await printed(['status', '--broker', broker.url, '--forget-lost'])).code, 0);
      await until(
        () => [...statuses.kept.keys()],
        ({ length }) => length === 0,
      );
    }),
  );

  test(
    'an answer that another client forges is no answer: a process that is not suspended is not reported as suspended',
    timebox(120, async () => {
      const statuses = await Statuses.start(broker.url);
      const child = await start();
      const id = String(child.pid);
      await statuses.with(id, 'inactive');
      const [known] = [...statuses.kept.values()];
      const instance = known?.topic.split('/').at(-1);
      await child.call('delay', 0, 600_000);
      const at = ['--broker', broker.url, '--wait', '2'];
      // All that a client can know that may publish, and may not read requests.
      const forged = [
        `${id} : ALLOWED`,
        `${id} : ALLOWED\0instance:${instance}`,
        `${id} : ALLOWED\0instance:${instance} nonce:${'x'.repeat(22)}`,
        `${id} : ALLOWED\0instance:0123456789abcdef nonce:${'x'.repeat(22)}`,
      ];
      const forging = setInterval(() => {
        for (const text of forged) statuses.client.publish(topics.response(HOST, id), text, { qos: 1 });
      }, 50);
      timers.add(forging);
      for (const args of [[], ['--pid', id], ['--unverified']]) {
        const suspended = await printed(['suspend', ...at, ...args, '--json']);
        assert.is(suspended.code, 1, suspended.stdout);
        assert.equal(
          rows(suspended.stdout).map(({ answer, good }) => [answer, good]),
          [[null, false]],
        );
        assert.match(suspended.stdout, /no answer to this request within 2 s, only one without its nonce/);
      }
      // The same for a status: before a device is pulled, only an answer counts. And the process sets it right.
      await statuses.client.publishAsync(known?.topic as string, JSON.stringify({ ...known, state: 'allowed' }), {
        qos: 1,
        retain: true,
      });
      assert.is((await printed(['suspend', ...at])).code, 1);
      await statuses.with(id, 'preparing');
      await statuses.client.publishAsync(known?.topic as string, '', { qos: 1, retain: true });
      await statuses.with(id, 'preparing');
      const lines = await child.call<string[]>('lines');
      assert.ok(lines.some((line) => /^warning another client of the broker has replaced the status/.test(line)));
      clearInterval(forging);
      await printed(['resume', ...at]);
      await child.call('delay', 0, 10);
      const good = await printed(['suspend', ...at, '--json']);
      assert.is(good.code, 0, good.stdout);
      assert.equal(
        rows(good.stdout).map(({ answer, verified }) => [answer, verified]),
        [['ALLOWED', true]],
      );
    }),
  );

  test(
    'an answer of a C pscom has no nonce: it is shown, and counts only when the operator says so',
    timebox(60, async () => {
      // Plays a C process that knows requests and answers only, as far as the broker sees it.
      const client = connectMqtt(broker.url);
      clients.add(client);
      await client.subscribeAsync(topics.requests(HOST));
      const requests: string[] = [];
      client.on('message', (_, payload) => {
        // A C string ends at its NUL.
        const [request = ''] = payload.toString('latin1').split('\0');
        requests.push(request);
        if (request === 'suspend') client.publish(topics.response(HOST, '77'), '77 : ALLOWED\0\0');
      });
      const at = ['--broker', broker.url, '--pid', '77', '--wait', '5'];
      const suspended = await printed(['suspend', ...at]);
      assert.is(suspended.code, 1);
      assert.match(
        suspended.stdout,
        /^77: ALLOWED not verified: an answer without the nonce of the request after \d+ ms$/m,
      );
      const taken = await printed(['suspend', ...at, '--unverified', '--json']);
      assert.is(taken.code, 0, taken.stdout);
      assert.equal(
        rows(taken.stdout).map(({ answer, verified }) => [answer, verified]),
        [['ALLOWED', false]],
      );
      assert.equal(requests, ['suspend', 'suspend']);
    }),
  );

  test(
    'an access list of the broker: what it hides is not reported as a process that does not take part',
    timebox(180, async () => {
      if (!hasMosquitto) {
        console.log('! no mosquitto: access lists are NOT TESTED');
        return;
      }
      const all = `fast/pscom/${HOST}`;
      const acl = [
        // As docs/migration.md has it.
        'user process',
        `topic read ${all}/+/request`,
        `topic readwrite ${all}/+/status/+`,
        `topic write ${all}/+/response`,
        'user operator',
        `topic read ${all}/#`,
        `topic write ${all}/+/request`,
        `topic write ${all}/+/status/+`,
        `topic write ${all}/isthmus-probe/response`,
        // Too little: may not see, may not ask, may not keep a status, may not read a request.
        'user blind',
        `topic write ${all}/+/request`,
        'user mute',
        `topic read ${all}/#`,
        'user hidden',
        `topic read ${all}/+/request`,
        'user outsider',
        `topic write ${all}/+/response`,
      ];
      const users = ['process', 'operator', 'blind', 'mute', 'hidden', 'outsider'];
      const guarded = await TestBroker.start({ users, acl });
      const as = (user: string) => `mqtt://${user}:${user}@127.0.0.1:${guarded.port}`;
      try {
        const at = (user: string) => ['--broker', as(user), '--wait', '2'];
        const none = await printed(['suspend', ...at('operator')]);
        assert.match(none.stderr, /no process on .* takes part/);
        const child = await start({ url: as('process') });
        for (const user of ['blind', 'outsider']) {
          const { code, stderr } = await printed(['suspend', ...at(user)]);
          assert.is(code, 1);
          assert.match(
            stderr,
            /its access list may hide the processes\n {2}Allow this user of the broker to read/,
            user,
          );
          assert.is((await printed(['status', '--broker', as(user)])).code, 1);
        }
        const statuses = await Statuses.start(as('operator'));
        await statuses.with(String(child.pid), 'inactive');
        const refused = await printed(['suspend', ...at('mute')]);
        assert.is(refused.code, 1);
        assert.match(refused.stdout, /the broker has not delivered the request, which its access list may refuse/);
        // A process that the list hides says so itself.
        const hidden = await start({ url: as('hidden'), options: { controlId: 'hidden' } });
        await until(
          () => hidden.call<string[]>('lines'),
          (lines) =>
            lines.some((line) =>
              /^warning the broker has confirmed the status .* its access list may refuse/.test(line),
            ),
        );
        // A client that may answer, and may read nothing, forges in vain.
        const outsider = connectMqtt(as('outsider'));
        clients.add(outsider);
        await child.call('delay', 0, 600_000);
        const forging = setInterval(() => {
          outsider.publish(topics.response(HOST, String(child.pid)), `${child.pid} : ALLOWED`);
        }, 50);
        timers.add(forging);
        assert.is((await printed(['suspend', ...at('operator')])).code, 1);
        clearInterval(forging);
        await printed(['resume', ...at('operator')]);
        await child.call('delay', 0, 10);
        const suspended = await printed(['suspend', ...at('operator')]);
        assert.is(suspended.code, 0, suspended.stdout);
        const lines = await child.call<string[]>('lines');
        assert.not.ok(
          lines.some((line) => /access list/.test(line)),
          lines.join('\n'),
        );
      } finally {
        await guarded.close();
      }
    }),
  );

  test(
    'a broker that refuses subscriptions: an error that names them, and a warning of the process',
    timebox(60, async () => {
      // Aedes says so in SUBACK; mosquitto with an access list accepts each subscription.
      const { Aedes } = await import('aedes');
      const { createServer } = await import('node:net');
      const aedes = await Aedes.createBroker({
        authorizeSubscribe: (_, subscription, done) =>
          done(null, /response|request/.test(subscription.topic) ? null : subscription),
      });
      const sockets = new Set<import('node:net').Socket>();
      const server = createServer((socket) => {
        sockets.add(socket);
        aedes.handle(socket);
      });
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      const url = `mqtt://127.0.0.1:${(server.address() as { port: number }).port}`;
      const lines: string[] = [];
      const [member] = participants([new StandIn()], { url }, lines);
      try {
        const { code, stderr } = await printed(['suspend', '--broker', url]);
        assert.is(code, 1);
        assert.match(
          stderr,
          /access list refuses the subscription to fast\/pscom\/.*\/\+\/response.*\(ERR_ISTHMUS_BROKER\)/,
        );
        await until(
          () => lines,
          (all) =>
            all.some((line) =>
              /^warning the broker refuses the subscription to .*request: this process receives no/.test(line),
            ),
        );
      } finally {
        await member?.leave();
        for (const socket of sockets) socket.destroy();
        server.close();
        aedes.close();
      }
    }),
  );

  test(
    'a host name that cannot be a level of a topic is refused, with a code, on both sides',
    timebox(20, async () => {
      for (const host of ['a/b', '+', 'x#', '']) {
        assert.throws(
          () => participants([new StandIn()], { url: broker.url, options: { host } }, []),
          (error: { code: string; message: string }) =>
            error.code === 'ERR_ISTHMUS_CONFIG' && error.message.includes(`the host name '${host}'`),
        );
        const { code, stderr } = await printed(['suspend', '--broker', broker.url, '--host', host]);
        assert.is(code, 2, stderr);
      }
    }),
  );

  test(
    'a status that others replace all the time is repaired at a limited rate',
    timebox(20, async () => {
      let published = 0;
      const topic = new StatusTopic({
        host: 'h',
        id: '7',
        instance: '0123456789abcdef',
        publish: async () => {
          published++;
          return true;
        },
        log: () => {},
      });
      const status: Status = { state: 'inactive', since: null, name: 'x', pid: 7, plugins: {} };
      await topic.publish(status);
      topic.received('0123456789abcdef', Buffer.from(JSON.stringify(status)), { retain: false });
      const begin = performance.now();
      for (let i = 0; i < 10_000; i++) topic.received('0123456789abcdef', Buffer.from(`${i}`), { retain: false });
      await until(
        () => published,
        (count) => count === 2,
      );
      assert.ok(performance.now() - begin >= 900);
      topic.stop();
    }),
  );

  test.run();
}

main();

/**
 * Invalid input on the control side: MQTT payloads and topics, requests to the control socket and answers from one,
 * arguments of the command line, bytes on the guard of a connection. Nothing throws or hangs; each input gets an answer
 * or an error with a code; and the runtime continues to work.
 *
 * ISTHMUS_TEST_FUZZ: how many requests go over a socket, default 200; a hundred times as many payloads are parsed.
 */

import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import fc from 'fast-check';
import { connectAsync } from 'mqtt';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { startBroker } from '../../host/cli/support/embedded-broker.js';
import { isControlId } from '../../host/config/control-id.js';
import type { RuntimeConnection } from '../../host/connection/connection.js';
import { ask } from '../../host/control/client.js';
import { controlFolder, pathOf } from '../../host/control/folder.js';
import {
  feedback,
  MAX_NONCES,
  MAX_PLUGINS,
  parseFeedback,
  parseRequest,
  parseStatus,
  partsOfTopic,
  topics,
} from '../../host/control/payload.js';
import { MAX_REQUEST_BYTES } from '../../host/control/socket.js';
import { addonMissing } from '../../host/native/native.js';
import { Runtime } from '../../host/runtime/runtime.js';
import { printed } from '../support/cli.js';
import { mutate } from '../support/mutate.js';
import { newRegion, only, removeRegions } from '../support/regions.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const seed = testSeed();
const REQUESTS = Number(process.env['ISTHMUS_TEST_FUZZ'] ?? 200);
const PAYLOADS = REQUESTS * 100;
const SIDE_BY_SIDE = 8;

const unhandled: unknown[] = [];
for (const event of ['unhandledRejection', 'uncaughtException'] as const) {
  process.on(event, (reason) => {
    console.error(`${event}:`, reason);
    unhandled.push(reason);
  });
}

// ── MQTT ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

const PAYLOAD_SEEDS = [
  'suspend', 'resume', '*', '', '17 4711 12', 'task: suspend', '--- \ntask: "resume" # now\nother: 1\n', '4711\0\0\0   ',
  'suspend\0nonce:abcdefghijklmnop_-0123', '4711 : ALLOWED\0instance:0123456789abcdef nonce:abcdefghijklmnop_-0123', '4711 : ALLOWED', '4711 : FAILED no room', 'any : COMPLETED',
  '{"state":"inactive","since":"2024-02-29T00:00:00Z","name":"x","pid":1,"plugins":{"a#1":"shm"},"more":3}',
].map((text) => Buffer.from(text)); // biome-ignore format: one line for one kind

/** Long inputs, of forms that may be slow in a regular expression. */
const LONG = [
  ' ',
  '\0',
  'task: ',
  'task:\t',
  '"',
  "'task'",
  '1 ',
  '#',
  '---\n',
  'a: b\n',
  '{"a":',
  '[',
  ' : FAILED ',
  '\n',
];

function checkPayload(bytes: Uint8Array): void {
  const request = parseRequest(bytes, '4711');
  assert.ok(['suspend', 'resume', 'toggle', 'others', 'unknown'].includes(request.kind));
  // No control character for a terminal gets into a log.
  if (request.kind === 'unknown') assert.match(request.why, /^[\x20-\x7e…]{0,100}$/);
  const said = parseFeedback(bytes);
  if (said) {
    assert.ok(isControlId(said.id));
    assert.not.match(feedback(said.id, said), /\p{C}/u);
    assert.ok(said.nonces.length <= MAX_NONCES);
  }
  const status = parseStatus(bytes);
  if (status) {
    assert.ok(Object.keys(status.plugins).length <= MAX_PLUGINS && status.name.length <= 200);
    assert.ok(Number.isSafeInteger(status.pid));
  }
}

test(
  `${PAYLOADS} MQTT payloads and topics`,
  timebox(60, () => {
    for (let number = 0; number < PAYLOADS; number++) {
      const random = seeded(seed + number);
      const base = PAYLOAD_SEEDS[random(PAYLOAD_SEEDS.length)] as Buffer;
      const bytes = mutate(base, PAYLOAD_SEEDS, [], random);
      try {
        checkPayload(bytes);
        partsOfTopic(bytes.toString('latin1'));
      } catch (error) {
        throw new Error(`payload ${number} of seed ${seed}: ${(error as Error).stack}\n${bytes.toString('hex')}`);
      }
    }
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), checkPayload), { seed, numRuns: 2000 });
    fc.assert(
      fc.property(fc.json({ maxDepth: 4 }), (json) => checkPayload(Buffer.from(json))),
      { seed, numRuns: 2000 },
    );
    for (const part of LONG) for (const length of [16_384, 70_000]) checkPayload(Buffer.alloc(length, part));
  }),
);

// ── The control socket ───────────────────────────────────────────────────────────────────────────────────────────────

/** Send this, and collect the answer until the end. */
function tell(path: string, bytes: Uint8Array, half: boolean): Promise<string> {
  return new Promise((resolve) => {
    let heard = '';
    const socket = connect(path, () => (half ? socket.end(bytes) : socket.write(bytes)));
    socket.setEncoding('utf8').on('data', (text: string) => {
      heard += text;
    });
    socket.on('error', () => {}).on('close', () => resolve(heard));
  });
}

test(
  `${REQUESTS} invalid requests to a control socket`,
  timebox(100, async () => {
    const home = mkdtempSync(join(tmpdir(), 'isthmus-test-'));
    process.env['XDG_RUNTIME_DIR'] = home;
    const runtime = await Runtime.create(only('', { control: true }));
    const path = pathOf(controlFolder(), runtime.id);
    assert.is((await ask(path, 'summary')).kind, 'result');
    const seeds = ['summary', 'inspect', 'debug', 'resume']
      .map((request) => JSON.stringify({ request, level: 2, timeout: 100, more: [1, { a: null }] }))
      .concat('{"request":"suspend","timeout":-1}', '[]', 'null', '{}', '{"__proto__":{"request":"summary"}}', '"')
      .map((text) => Buffer.from(text));
    const answers = new Map<string, number>();
    let number = 0;
    const work = async () => {
      while (number < REQUESTS) {
        // Valid ones are among them, whatever the seed is.
        const valid = number % 20 === 0;
        const random = seeded(seed + number++);
        const base = seeds[random(seeds.length)] as Buffer;
        const changed = valid
          ? (seeds[0] as Buffer)
          : random(8) === 0
            ? Buffer.alloc(MAX_REQUEST_BYTES + random(3), '[')
            : mutate(base, seeds, [], random);
        // This may be a valid request to suspend, which has tests of its own.
        if (changed.includes('suspend') && !changed.includes('-1')) continue;
        const ended = random(4) > 0;
        const heard = await tell(path, ended ? Buffer.concat([changed, Buffer.of(0x0a)]) : changed, !ended);
        if (heard === '') {
          answers.set('none', (answers.get('none') ?? 0) + 1);
          continue;
        }
        assert.match(heard, /^\{.*\}\n$/);
        const { error } = JSON.parse(heard) as { error?: { code: string | null } };
        if (error) assert.match(error.code ?? 'without a code', /^ERR_ISTHMUS_/, heard);
        const kind = error?.code ?? 'result';
        answers.set(kind, (answers.get(kind) ?? 0) + 1);
      }
    };
    await Promise.all(Array.from({ length: SIDE_BY_SIDE }, work));
    console.log(Object.fromEntries(answers));
    assert.ok(REQUESTS < 100 || (answers.has('result') && answers.has('ERR_ISTHMUS_INVALID_ARGUMENT')));
    assert.is((await ask(path, 'summary')).kind, 'result');
    await runtime.close();
    rmSync(home, { recursive: true, force: true });
  }),
);

test(
  'a control socket that sends arbitrary answers',
  timebox(60, async () => {
    const home = mkdtempSync(join(tmpdir(), 'isthmus-test-'));
    const path = join(home, 'socket');
    const seeds = ['{"result":{"migration":"inactive"}}\n', '{"error":{"code":"X","message":"no"}}\n', 'null\n'].map(
      (text) => Buffer.from(text),
    );
    let number = 0;
    const server: Server = createServer((socket) => {
      const random = seeded(seed + number++);
      socket.on('error', () => {});
      const bytes =
        random(5) === 0 ? Buffer.alloc(300_000, '{"result":') : mutate(seeds[random(3)]!, seeds, [], random);
      if (random(3)) socket.end(bytes);
      else {
        socket.write(bytes);
        if (random(2)) socket.destroy();
      }
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const kinds = new Set<string>();
    for (let i = 0; i < REQUESTS; i += SIDE_BY_SIDE) {
      const answers = Array.from({ length: SIDE_BY_SIDE }, () => ask(path, 'summary', {}, 100));
      for (const { kind } of await Promise.all(answers)) kinds.add(kind);
    }
    console.log([...kinds].sort().join(', '));
    for (const kind of kinds) assert.ok(['result', 'error', 'gone', 'silent'].includes(kind));
    server.close();
    rmSync(home, { recursive: true, force: true });
  }),
);

// ── The command line ─────────────────────────────────────────────────────────────────────────────────────────────────

const WORDS = [
  '', ' ', '-', '--', '---', '-1', '1e99', '0x10', 'NaN', 'Infinity', '99999999999999999999', '1.5', '\u{1f4a3}', 'a\nb',
  '\x1b[2J', '../../../etc/passwd', '/dev/null', '/', 'x'.repeat(5000), '%s%n', '[::1', ':', ':::::', 'host:65536', 'a:b:c',
  '--help=no', '--json=1', '-m=1', '__proto__', 'constructor', 'toString', '0000:00:99.9', 'uio99999', '.', '..', '*',
]; // biome-ignore format: one line for many

/** With words that refer to nothing: nothing is created, no peer is waited for. */
const COMMANDS = [
  ['info'], ['ps'], ['inspect'], ['debug'], ['debug', 'missing'], ['region', 'show'], ['region', 'confirm-dead'],
  ['region', 'confirm-dead', 'isthmus-missing'], ['region', 'fence'], ['region', 'fence', 'isthmus-missing'], ['server', '-m'],
  ['server', '-s', 'isthmus-missing', '-m'], ['pp', '-t'], ['pipe', '--size'], ['suspend', '--timeout'], ['device', 'xml'],
  ['help'], ['missing'], [],
]; // biome-ignore format: one line for many

test(
  'invalid arguments: an error message and an exit code',
  timebox(100, async () => {
    const home = mkdtempSync(join(tmpdir(), 'isthmus-test-'));
    process.env['XDG_RUNTIME_DIR'] = home;
    const random = seeded(seed);
    const codes = new Map<number, number>();
    for (const command of COMMANDS) {
      for (let i = 0; i < 12; i++) {
        const words = Array.from({ length: 1 + random(3) }, () => WORDS[random(WORDS.length)] as string);
        const { code, stdout, stderr } = await printed([...command, ...words]);
        const line = JSON.stringify([...command, ...words]).slice(0, 300);
        assert.ok(code >= 0 && code <= 2, `${line}: exit code ${code}`);
        // No stack, and no control characters for a terminal.
        assert.not.match(stderr, /^ +at .*:\d+:\d+\)?$/m, line);
        assert.not((stdout + stderr).includes('\x1b[2J'), line);
        if (code !== 0) assert.ok(stderr.trim().length > 0, `${line}: an error without a message`);
        codes.set(code, (codes.get(code) ?? 0) + 1);
      }
    }
    console.log(Object.fromEntries(codes));
    rmSync(home, { recursive: true, force: true });
  }),
);

(addonMissing() ? test.skip : test)(
  'names that act on a terminal: in no output of a command, and in JSON with the same meaning',
  timebox(100, async () => {
    const home = mkdtempSync(join(tmpdir(), 'isthmus-test-'));
    process.env['XDG_RUNTIME_DIR'] = home;
    const name = '\u202ex\x1b[2J\u2028\u200bé\x9b';
    const hostile = /(?!\n)[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u;
    const regions = newRegion();
    const lines: string[] = [];
    const options = { regions, control: true, name, debug: 4, log: (_: unknown, line: string) => lines.push(line) };
    const [a, b] = [await Runtime.create(only(regions, options)), await Runtime.create(only(regions, options))];
    const broker = await startBroker();
    const status = {
      ...{ state: 'inactive', since: null, pid: 7, plugins: { [name]: name } },
      ...{ name, origin: { kernel: name, namespace: name, started: name } },
    };
    const client = await connectAsync(broker.url);
    try {
      const { port } = await b.listen({}, () => {});
      const connection = await a.connect({ host: '127.0.0.1', port });
      await a.connect({ host: '127.0.0.1', port: 1 }, { signal: AbortSignal.timeout(200) }).catch(() => {});
      const topic = topics.status(hostname(), 'node.a', '0123456789abcdef');
      await client.publishAsync(topic, JSON.stringify(status), { retain: true, qos: 1 });
      client.on('message', () => {
        const said = `node.a : FAILED ${name} \0instance:0123456789abcdef`;
        void client.publishAsync(topics.response(hostname(), 'node.a'), said);
      });
      await client.subscribeAsync(topics.requests(hostname()));
      const path = regions;
      const at = ['--broker', broker.url];
      const named = new Set<string>();
      for (const command of [
        ['ps'],
        ['inspect', a.id],
        ['region', 'show', path],
        ['region', 'check', path],
        ['status', ...at],
        ['suspend', ...at, '--wait', '0.3'],
        ['info'],
        ['inspect', name],
        ['region', 'show', name],
        ['suspend', '--local', name],
      ]) {
        for (const json of [[], ['--json']]) {
          const { stdout, stderr } = await printed([...command, ...json]);
          assert.not.match(stdout + stderr, hostile, [...command, ...json].join(' '));
          if (
            json.length > 0 &&
            JSON.stringify(stdout ? JSON.parse(stdout) : '').includes(JSON.stringify(name).slice(1, -1))
          )
            named.add(command[0] as string);
        }
      }
      // The name went through them, and programs get it as it is.
      for (const command of ['ps', 'region', 'status', 'suspend']) assert.ok(named.has(command), command);
      connection.destroy(new Error(name));
      assert.ok(lines.length > 0);
      for (const line of lines) assert.not.match(line, hostile);
    } finally {
      await client.endAsync(true);
      await Promise.all([a, b].map((each) => each.close({ timeout: 500 })));
      await broker.close();
      rmSync(home, { recursive: true, force: true });
    }
  }),
);

// ── The guard ────────────────────────────────────────────────────────────────────────────────────────────────────────

(addonMissing() ? test.skip : test)(
  'bytes on the guard of a connection: at most this connection ends, no other',
  timebox(60, async () => {
    const options = only(newRegion());
    const [runtime, other] = [await Runtime.create(options), await Runtime.create(options)];
    const far: RuntimeConnection[] = [];
    const { port } = await other.listen({}, (connection) => {
      far.push(connection as RuntimeConnection);
    });
    const open = () => runtime.connect({ host: '127.0.0.1', port });
    const good = await open();
    for (let i = 0; far.length < 1 && i < 500; i++) await pause(5);
    const goodFar = far[0]!;
    let ended = 0;
    for (let number = 0; number < 100; number++) {
      const random = seeded(seed + number);
      const near = await open();
      for (let i = 0; far.length < number + 2 && i < 500; i++) await pause(5);
      const hostile = far[number + 1]!;
      await hostile.send('first').catch(() => {});
      const { link } = hostile.link!;
      for (let words = random(6); words > 0 && hostile.link; words--) {
        if (random(3)) link.sendShutdown?.(random(256), [0, -1, 1, port, 0x7fffffff, -0x80000000][random(6)]!);
        else if (random(2)) link.requestDrain?.();
        else link.finish();
      }
      if (random(2)) hostile.destroy();
      await near.send('x', { signal: AbortSignal.timeout(20) }).catch(() => {});
      for (let i = 0; i < 3; i++) await near.receive({ signal: AbortSignal.timeout(20) }).catch(() => {});
      if (near.state !== 'open') ended++;
      near.destroy();
      hostile.destroy();
    }
    console.log(`${ended} of 100 ended by it`);
    assert.ok(ended > 0);
    await good.send('still there');
    assert.is((await goodFar.receive())?.text(), 'still there');
    await Promise.all([runtime, other].map((one) => one.close({ timeout: 500 })));
  }),
);

test('no exception was left unhandled', () => assert.equal(unhandled, []));
test.after(removeRegions);
test.run();

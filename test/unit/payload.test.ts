/** Topics and payloads of the control side, byte for byte, and refused payloads. */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { maskBroker, readBroker } from '../../host/config/broker-url.js';
import { isControlId } from '../../host/config/control-id.js';
import {
  feedback,
  MAX_NONCES,
  MAX_REQUEST_BYTES,
  MAX_STATUS_BYTES,
  parseFeedback,
  parseRequest,
  parseStatus,
  partsOfTopic,
  proof,
  requestOf,
  topics,
  whyNoLevel,
} from '../../host/control/payload.js';
import { timebox } from '../support/timebox.js';

const kind = (text: string | Uint8Array, id = '4711') =>
  parseRequest(typeof text === 'string' ? Buffer.from(text, 'latin1') : text, id).kind;

test(
  'topics are those of the C fork',
  timebox(5, () => {
    assert.is(topics.requests('vm-1'), 'fast/pscom/vm-1/+/request');
    assert.is(topics.request('vm-1', 'any_proc'), 'fast/pscom/vm-1/any_proc/request');
    assert.is(topics.response('vm-1', '4711'), 'fast/pscom/vm-1/4711/response');
    const instance = '0123456789abcdef';
    assert.is(topics.status('vm-1', '4711', instance), `fast/pscom/vm-1/4711/status/${instance}`);
    const parts = (id: string, part: string, known?: string) => ({ id, part, instance: known });
    assert.equal(partsOfTopic('fast/pscom/vm-1/any_proc/request'), parts('any_proc', 'request'));
    assert.equal(partsOfTopic('fast/pscom/vm-1/7/response'), parts('7', 'response'));
    assert.equal(partsOfTopic('fast/pscom/vm-1/7/status'), parts('7', 'status'), 'of an older version');
    assert.equal(partsOfTopic(topics.status('vm-1', '7', instance)), parts('7', 'status', instance));
    for (const topic of [
      '',
      'fast/pscom/vm-1/request',
      'a/b/c/d/e/f',
      `fast/pscom/vm-1/7/request/${instance}`,
      'fast/pscom/vm-1/7/status/',
      'fast/pscom/vm-1/7/status/ABCDEF0123456789',
      `fast/pscom/vm-1/7/status/${instance}/x`,
    ]) {
      assert.is(partsOfTopic(topic), undefined, topic);
    }
    for (const host of ['a', 'vm-1.example', 'ä ö', '.']) assert.is(whyNoLevel(host), undefined, host);
    for (const host of ['', '+', 'a+b', '#', 'a#', '/', 'a/b', 'a\0']) assert.type(whyNoLevel(host), 'string', host);
  }),
);

test(
  'every form of a request, with the padding of the C side',
  timebox(5, () => {
    const forms: [string, string[]][] = [
      [
        'suspend',
        ['suspend', '"suspend"', 'task: suspend', "task: 'suspend'", '"task": "suspend"', '---\ntask: suspend'],
      ],
      [
        'suspend',
        ['task: suspend # now', '--- task: suspend', '---\r\ntask: suspend\r\n...\r\n', 'id: 7\ntask: suspend'],
      ],
      ['suspend', ['# from migfra\ntask:   suspend\nparameters:\n  task: resume']],
      ['resume', ['resume', 'task: resume', '---\ntask: resume\n', "'resume'"]],
      ['toggle', ['*', '', '4711', '1 4711', '4711 2 3', '1  2\t4711\n', 'vm.a 4711']],
      ['others', ['1', '1 2 3', '47110 471 14711']],
      [
        'unknown',
        ['Suspend', 'SUSPEND', 'suspend now', 'Task: suspend', 'task: Suspend', 'task:suspend', 'task: stop'],
      ],
      [
        'unknown',
        ['task: suspend\ntask: resume', 'a:\n  task: suspend', 'task: "suspend', '**', '* 4711', '-1', 'a/b 4711'],
      ],
      [
        'unknown',
        ['task: [suspend]', '{task: suspend}', '<task>suspend</task>', 'any_proc', '4711,4712', 'constructor'],
      ],
    ];
    const pads = ['', '\0', ' ', '\0\0 \0', ' '.repeat(50), '\n', '\r\n\0'];
    for (const [expected, texts] of forms) {
      for (const text of texts) {
        for (const before of ['', '\0', ' \0']) {
          for (const after of pads) {
            assert.is(kind(before + text + after), expected, JSON.stringify(before + text + after));
          }
        }
      }
    }
    // A C string ends at its first NUL, whatever follows in the buffer.
    assert.is(kind('suspend\0resume'), 'suspend');
    assert.is(kind('*\0\x7f\x80garbage'), 'toggle');
  }),
);

test(
  'a control id stands for the pid',
  timebox(5, () => {
    assert.is(kind('1 node-a:7 3', 'node-a:7'), 'toggle');
    assert.is(kind('node-b', 'node-a'), 'unknown', 'another id, or a mistake');
    for (const id of ['a', '4711', 'node.a-7:x_y', 'x'.repeat(64)]) assert.ok(isControlId(id), id);
    for (const id of ['', 'any_proc', 'suspend', 'resume', '*', 'a b', 'a/b', '+', '#', 'ä', 'x'.repeat(65), 'a\n']) {
      assert.not.ok(isControlId(id), id);
    }
  }),
);

test(
  'hostile sizes and bytes: refused, quickly',
  timebox(10, () => {
    const start = performance.now();
    assert.is(kind(new Uint8Array(MAX_REQUEST_BYTES)), 'toggle');
    assert.is(kind(new Uint8Array(MAX_REQUEST_BYTES + 1)), 'unknown');
    assert.is(kind(new Uint8Array(64 << 20).fill(0x31)), 'unknown');
    for (const text of ['1 ', 'a: b\n', '---', '\n \n-', '"', "task: '", '#', 'task', '\n---']) {
      const result = kind(text.repeat(Math.floor(MAX_REQUEST_BYTES / text.length)));
      assert.ok(['others', 'unknown'].includes(result), JSON.stringify(text));
    }
    assert.is(kind(Buffer.from(Array.from({ length: 256 }, (_, i) => i)).subarray(1)), 'unknown');
    const unknown = parseRequest(Buffer.from(`\x1b[2J${'ä'.repeat(5000)}`), '4711');
    assert.ok(unknown.kind === 'unknown' && unknown.why.length < 100 && /^[\x20-\x7e…]+$/.test(unknown.why));
    assert.ok(performance.now() - start < 5000);
  }),
);

test(
  'answers, byte for byte',
  timebox(5, () => {
    assert.is(feedback('4711', { outcome: 'ALLOWED' }), '4711 : ALLOWED');
    assert.is(feedback('4711', { outcome: 'COMPLETED', reason: 'not said' }), '4711 : COMPLETED');
    assert.is(feedback('a', { outcome: 'FAILED', reason: ' no\nanswer\0 ' }), 'a : FAILED no answer');
    assert.is(feedback('a', { outcome: 'FAILED' }), 'a : FAILED no reason given');
    assert.ok(feedback('a', { outcome: 'FAILED', reason: 'x'.repeat(1e6) }).length < 1000);
    const read = (text: string) => parseFeedback(Buffer.from(text));
    const none = { instance: undefined, nonces: [] };
    assert.equal(read('4711 : ALLOWED\0\0  \0'), { id: '4711', outcome: 'ALLOWED', reason: undefined, ...none });
    assert.equal(read('a : FAILED es läuft'), { id: 'a', outcome: 'FAILED', reason: 'es läuft', ...none });
    for (const text of ['', 'ALLOWED', '4711: ALLOWED', '4711 : allowed', 'a b : ALLOWED', '+ : ALLOWED', 'a : DONE']) {
      assert.is(read(text), undefined, text);
    }
    assert.is(parseFeedback(new Uint8Array(MAX_STATUS_BYTES + 1)), undefined);
  }),
);

test(
  'a nonce stands where a C string has ended, in the request and in its answer',
  timebox(5, () => {
    const nonce = 'abcdefghijklmnop_-0123';
    const instance = '0123456789abcdef';
    const read = (text: string) => parseRequest(Buffer.from(text, 'latin1'), '4711');
    for (const word of ['suspend', 'resume'] as const) {
      const request = requestOf(word, nonce);
      assert.equal(read(request), { kind: word, nonce });
      assert.equal(read(`${request}\0 \0`), { kind: word, nonce }, 'padded');
      // A C pscom copies the string, up to its NUL, to 50 bytes; it looks for numbers in it, and finds none.
      assert.is(request.split('\0')[0], word);
    }
    assert.equal(read(`task: suspend\0nonce:${nonce}`), { kind: 'suspend', nonce });
    for (const text of [
      'suspend',
      'suspend\0',
      'suspend\0\0  \0',
      `suspend nonce:${nonce}\0`,
      'suspend\0nonce:short',
    ]) {
      assert.not.ok((read(text) as { nonce?: string }).nonce, JSON.stringify(text));
    }
    for (const bad of ['a b', 'x'.repeat(65), `${'x'.repeat(20)}/+`, `${'x'.repeat(20)}\n`]) {
      assert.not.ok((read(`suspend\0nonce:${bad}`) as { nonce?: string }).nonce, bad);
    }
    const line = feedback('4711', { outcome: 'ALLOWED' });
    assert.is(proof(instance, []), '', 'an answer to the C framework is that of the C fork');
    const answer = line + proof(instance, [nonce, 'another-nonce-of-some-tool']);
    assert.equal(parseFeedback(Buffer.from(answer)), {
      id: '4711',
      outcome: 'ALLOWED',
      reason: undefined,
      instance,
      nonces: [nonce, 'another-nonce-of-some-tool'],
    });
    // In the reason it is text.
    const failed = parseFeedback(Buffer.from(`4711 : FAILED \u2028no instance:${instance} nonce:${nonce}`));
    assert.equal([failed?.instance, failed?.nonces], [undefined, []]);
    assert.not.match(feedback('a', { outcome: 'FAILED', reason: `a\0nonce:${nonce} \u202e` }), /[\0\u202e]/);
    const many = parseFeedback(Buffer.from(line + proof(instance, Array<string>(1000).fill(nonce))));
    assert.ok((many?.nonces.length ?? 0) <= MAX_NONCES);
  }),
);

test(
  'a status is read as far as it is valid',
  timebox(5, () => {
    const read = (value: unknown) =>
      parseStatus(Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)));
    const whole = {
      state: 'allowed',
      since: '2026-01-02T03:04:05.006Z',
      name: 'a b',
      pid: 7,
      plugins: { '7-0#1': 'tcp' },
    };
    assert.equal(read(whole), whole);
    const origin = { kernel: '0123456789abcdef', namespace: '4026531836', started: '12345' };
    assert.equal(read({ ...whole, origin: { ...origin, more: 1 } }), { ...whole, origin });
    for (const bad of [
      null,
      7,
      'x',
      {},
      { ...origin, kernel: '\x1b[2J' },
      { ...origin, started: 1 },
      { ...origin, namespace: '1'.repeat(99) },
    ]) {
      assert.equal(read({ ...whole, origin: bad }), whole);
    }
    assert.equal(read({ state: 'offline' }), { state: 'offline', since: null, name: '', pid: 0, plugins: {} });
    assert.equal(read({ ...whole, since: 'x', pid: '7', name: 3, plugins: { a: 1, b: 'tcp' } }), {
      state: 'allowed',
      since: null,
      name: '',
      pid: 0,
      plugins: { b: 'tcp' },
    });
    for (const value of ['', '[]', 'null', '7', '{', { state: 'gone' }, { state: ['allowed'] }]) {
      assert.is(read(value), undefined, JSON.stringify(value));
    }
    assert.is(parseStatus(new Uint8Array(MAX_STATUS_BYTES + 1)), undefined);
  }),
);

test(
  'the URL of a broker, and its form without the password',
  timebox(5, () => {
    const address = { secure: false, host: 'h', port: 1883, username: undefined, password: undefined };
    assert.equal(readBroker('mqtt://h'), address);
    assert.equal(readBroker('mqtts://u:p%40ss@[::1]:7/'), {
      secure: true,
      host: '::1',
      port: 7,
      username: 'u',
      password: 'p@ss',
    });
    assert.is(readBroker('mqtts://h')?.port, 8883);
    for (const text of [
      '',
      'h',
      'h:1883',
      'http://h',
      'mqtt://',
      'mqtt://h:0',
      'mqtt://h:99999',
      'mqtt://h/x',
      'mqtt://h?x',
    ]) {
      assert.is(readBroker(text), undefined, text);
    }
    assert.is(maskBroker('mqtt://u:secret@h:1883'), 'mqtt://u:***@h:1883');
    assert.is(maskBroker('mqtt://u:se/c@r:et@h'), 'mqtt://u:***@h');
    assert.is(maskBroker('u:secret@h'), 'u:***@h');
    assert.is(maskBroker('mqtt://h:1883'), 'mqtt://h:1883');
    assert.is(maskBroker('mqtt://u@h'), 'mqtt://u@h');
  }),
);

test.run();

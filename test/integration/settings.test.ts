/** Settings that change the behaviour of a runtime, between two runtimes over TCP. */
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { chosen } from '../support/process.js';
import { only } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);

async function pair(options: RuntimeOptions) {
  const server = await Runtime.create(only('', options));
  const client = await Runtime.create(only(''));
  let accept!: (connection: Connection) => void;
  const accepted = new Promise<Connection>((resolve) => {
    accept = resolve;
  });
  const { port } = await server.listen({}, (connection) => accept(connection));
  const near = await client.connect({ host: '127.0.0.1', port });
  const close = () => Promise.all([server.close({ timeout: 100 }), client.close({ timeout: 100 })]);
  return { near, far: await accepted, close };
}

const MESSAGES = 400;
const SIZE = 4000;

/** Does not wait: messages without room are not sent before the peer reads. */
function sendAll(near: Connection): void {
  for (let i = 0; i < MESSAGES; i++) near.send(new Uint8Array(SIZE).fill(i)).catch(() => {});
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await pause(10);
}

test(
  'PSP_UNEXPECTED_RECEIVES reads beyond the limit of unread bytes',
  timebox(30, async () => {
    const limit = 10_000;
    const bounded = await pair({ unread: limit });
    sendAll(bounded.near);
    const held = () => bounded.far.stats().unreadBytes;
    await until(() => held() >= limit);
    await pause(100);
    assert.ok(held() < limit + 2 * SIZE, `${held()} bytes`);
    await bounded.close();

    const { near, far, close } = await pair({ unread: limit, unexpectedReceives: true });
    sendAll(near);
    await until(() => far.stats().unreadMessages === MESSAGES);
    for (let i = 0; i < MESSAGES; i++) {
      const message = await far.receive();
      assert.is(message?.data.length, SIZE);
      assert.is(message?.data[SIZE - 1], i & 0xff);
    }
    await close();
  }),
);

test(
  'PSP_NETWORK decides which address is announced to the peer',
  timebox(30, async () => {
    const server = await Runtime.create(only(''));
    const told = async (network: string) => {
      const client = await Runtime.create(only('', { network }));
      const { port } = await server.listen({}, (connection) => seen(connection.peer.node));
      let seen!: (node: string) => void;
      const node = new Promise<string>((resolve) => {
        seen = resolve;
      });
      const connection = await client.connect({ host: '127.0.0.1', port });
      try {
        return await node;
      } finally {
        connection.destroy();
        await client.close();
      }
    };
    assert.is(await told('127.0.0.0/8'), '127.0.0.1');
    assert.is(await told('127.0.0.0'), '127.0.0.1');
    const usual = await told('');
    const lines: string[] = [];
    const log = (_: string, line: string) => lines.push(line);
    const client = await Runtime.create(only('', { network: '198.51.100.0/24', debug: 2, log }));
    assert.match(lines.join('\n'), new RegExp(`PSP_NETWORK: .*'198\\.51\\.100\\.0/24'; ${usual} is used`));
    await client.close();
    await server.close();
  }),
);

test.run();

/** Bytes of every kind and realm, in every call that takes some; and memory that goes away while a call needs it. */
import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { type Connection, type ReceiveInfo, Runtime, type RuntimeOptions } from '../../host/index.js';
import { kindsOfBytes, NO_BYTES_AT_ALL, transferred } from '../support/bytes.js';
import { eventually, rejection, thrownBy } from '../support/outcomes.js';
import { chosen } from '../support/process.js';
import { newRegion, only, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const CODE = 'ERR_ISTHMUS_INVALID_ARGUMENT';
const CONTENT = [1, 2, 3, 4, 5, 6, 7, 8];
const kinds = () => kindsOfBytes(CONTENT);
const zeros = () => kindsOfBytes(CONTENT.map(() => 0));

const plain = (value: any): number[] =>
  ArrayBuffer.isView(value)
    ? [...new Uint8Array(value.buffer, value.byteOffset, value.byteLength)]
    : [...new Uint8Array(value)];

const opened: Runtime[] = [];

/** Two ends of a connection over a plugin. */
async function pair(plugin: string, options: RuntimeOptions = {}) {
  const region = plugin === 'ivshmem' ? newRegion() : '';
  const near = await Runtime.create(only(region, options));
  const far = plugin === 'loop' ? near : await Runtime.create(only(region, options));
  opened.push(near, far);
  const accepted: Connection[] = [];
  const { port } = await far.listen({}, (connection) => void accepted.push(connection));
  const connect = async () => {
    const count = accepted.length;
    const a = await near.connect({ host: '127.0.0.1', port });
    await eventually('accepted', () => accepted.length > count);
    assert.is(a.plugin, plugin);
    return { a, b: accepted.at(-1) as Connection };
  };
  return { near, far, connect, ...(await connect()) };
}

async function polled(connection: Connection, target: any, info?: ReceiveInfo): Promise<number> {
  let length = -1;
  await eventually('a message', () => {
    length = connection.tryReceiveInto(target, info);
    return length >= 0;
  });
  return length;
}

/** Large messages go through a ring much smaller than they are; over tcp those from 1 MiB on are announced. */
const SMALL_RINGS = { ringSize: 16_384, tcpRingSize: 16_384, rendezvous: 1 << 20, unread: 1 };

/** The memory of a buffer goes to a thread, or to nowhere. */
const transfer = (bytes: Uint8Array) => structuredClone(bytes.buffer, { transfer: [bytes.buffer as ArrayBuffer] });

for (const plugin of ['loop', 'tcp', 'ivshmem']) {
  const check = (name: string, body: () => Promise<void>) => test(`${plugin}: ${name}`, timebox(40, body));

  check('messages from all kinds of bytes, and into them', async () => {
    const { near, far, a, b } = await pair(plugin);
    for (const [name, value] of kinds()) {
      await a.send(value, { xheader: value });
      assert.ok(a.trySend(value, { xheader: value }), name);
      await near.endpoint().postSend({ connection: a, data: value, xheader: value }).done;
      for (let i = 0; i < 3; i++) {
        const message = await b.receive();
        assert.equal([...(message?.data ?? [])], CONTENT, name);
        assert.equal([...(message?.xheader ?? [])], CONTENT, name);
      }
    }
    const xheaders = zeros();
    for (const [place, [name, target]] of zeros().entries()) {
      a.trySend(Uint8Array.from(CONTENT), { xheader: Uint8Array.from(CONTENT) });
      const xheader = xheaders[place]?.[1];
      assert.is(await polled(b, target, { xheader, xheaderLength: 0 }), 8, name);
      assert.equal(plain(target), CONTENT, name);
      assert.equal(plain(xheader), CONTENT, name);
    }
    for (const [name, target] of zeros()) {
      const posted = far.endpoint().postReceive({ connection: b, data: target });
      await a.send(Uint8Array.from(CONTENT));
      assert.equal([...(await posted.done).data], CONTENT, name);
      assert.equal(plain(target), CONTENT, name);
    }
  });

  check('streams take all kinds', async () => {
    const { connect } = await pair(plugin);
    for (const [name, value] of kinds()) {
      const { a, b } = await connect();
      const got: Buffer[] = [];
      b.stream().on('data', (chunk: Buffer) => got.push(chunk));
      a.stream().write(value);
      a.stream().end(value);
      await eventually(name, () => b.stream().readableEnded);
      assert.equal([...Buffer.concat(got)], [...CONTENT, ...CONTENT], name);
      a.stream().destroy();
      b.stream().destroy();
    }
  });

  check('remote memory and broadcasts take all kinds', async () => {
    const { near, far, a, b } = await pair(plugin);
    const shared = near.allocate(8, { connection: a });
    for (const [name, value] of kinds()) {
      shared.write(0, value);
      for (const memory of [value, shared]) {
        const { token, withdraw } = a.expose(memory, { write: true });
        for (const [form, target] of zeros().filter((_, place) => place % 5 === 0)) {
          await b.token(token).read(target);
          assert.equal(plain(target), CONTENT, `${name} ${form}`);
        }
        await b.token(token).write(value);
        withdraw();
      }
      const [, target] = zeros().find(([form]) => form === name) as [string, any];
      shared.read(0, target);
      assert.equal(plain(target), CONTENT, name);
    }
    if (plugin === 'loop') return;
    const one = near.endpoint().group({ id: 7, rank: 0, members: [undefined, a] });
    const other = far.endpoint().group({ id: 7, rank: 1, members: [b, undefined] });
    for (const [name, value] of kinds()) {
      const [, { data, xheader }] = await Promise.all([
        one.broadcast(0, value, { xheader: value }),
        other.broadcast(0),
      ]);
      assert.equal([...data, ...xheader], [...CONTENT, ...CONTENT], name);
    }
    await Promise.all([one.close(), other.close()]);
  });

  check('what is no bytes, or is gone, is refused by each call, and nothing is sent', async () => {
    const { near, far, a, b } = await pair(plugin);
    const memory = near.allocate(8, { connection: a });
    const exposed = a.expose(memory, { write: true });
    const token = b.token(exposed.token);
    const group = plugin === 'loop' ? undefined : near.endpoint().group({ id: 1, rank: 0, members: [undefined, a] });
    const refused = async (what: string, body: () => unknown) => {
      const error = await rejection((async () => body())());
      assert.is(error.code, CODE, `${what}: ${error}`);
    };
    const none = NO_BYTES_AT_ALL.map(
      (value) => [typeof value === 'object' ? 'an object' : String(value), value] as const,
    );
    for (const [what, value] of [...none, ...transferred()]) {
      if (typeof value !== 'string') {
        await refused(what, () => a.send(value));
        await refused(what, () => a.trySend(value));
        await refused(what, () => near.endpoint().postSend({ connection: a, data: value }));
      }
      await refused(what, () => a.send('x', { xheader: value }));
      await refused(what, () => a.trySend('x', { xheader: value }));
      await refused(what, () => near.endpoint().postSend({ connection: a, data: 'x', xheader: value }));
      await refused(what, () => b.tryReceiveInto(value));
      if (value) await refused(what, () => b.tryReceiveInto(Buffer.alloc(1), { xheader: value, xheaderLength: 0 }));
      await refused(what, () => far.endpoint().postReceive({ connection: b, data: value }));
      await refused(what, () => a.expose(value));
      await refused(what, () => a.token(value));
      await refused(what, () => token.read(value));
      await refused(what, () => token.write(value));
      await refused(what, () => memory.read(0, value));
      await refused(what, () => memory.write(0, value));
      if (group) {
        await refused(what, () => group.broadcast(0, value));
        await refused(what, () => group.broadcast(0, Buffer.alloc(1), { xheader: value }));
      }
    }
    await a.send('the only one');
    assert.is((await b.receive())?.text(), 'the only one');
    assert.is(a.stats().messagesSent, 1);
  });

  check('arguments in the wrong place, and numbers that are none', async () => {
    const { near, a, b } = await pair(plugin);
    const memory = near.allocate(100_000, { connection: a });
    const { token } = a.expose(memory, { write: true });
    const remote = b.token(token);
    const { signal } = new AbortController();
    const wrong: any = 65_536;
    for (const call of [
      () => remote.read(Buffer.alloc(8), wrong),
      () => remote.write(Buffer.alloc(8), wrong),
      () => remote.read(Buffer.alloc(8), signal as any),
      ...[-1, 1.5, Number.NaN, '8' as any, null as any, 2 ** 53].flatMap((offset) => [
        () => remote.read(Buffer.alloc(8), { offset }),
        () => remote.write(Buffer.alloc(8), { offset }),
        async () => memory.read(offset, Buffer.alloc(8)),
        async () => memory.write(offset, Buffer.alloc(8)),
        async () => a.tryLoan(offset),
        () => a.loan(offset),
        async () => near.allocate(offset),
      ]),
      () => a.send('x', signal as any),
      () => a.send('x', Buffer.alloc(3) as any),
      async () => a.trySend('x', Buffer.alloc(3) as any),
      () => a.receive(signal as any),
      () => a.borrow(signal as any),
      () => a.flush(signal as any),
      () => a.loan(8, signal as any),
      async () => a.expose(memory, true as any),
      async () => a.stream(4 as any),
      async () => a.poll(() => {}, Number.NaN),
      async () => a.poll(() => {}, -1),
      () => a.close(500 as any),
      () => a.close({ timeout: Number.NaN }),
      () => a.close({ timeout: '5' as any }),
      () => near.close(500 as any),
      () => near.close({ timeout: -1 }),
      () => near.endpoint().close({ timeout: -1 }),
      () => near.suspend(500 as any),
      () => near.suspend({ timeout: 2 ** 31 }),
    ]) {
      const error = await rejection(call());
      assert.is(error.code, CODE, `${call}: ${error}`);
    }
    for (const offset of [99_993, 100_000, 2 ** 32, 2 ** 32 + 8, 2 ** 52]) {
      assert.is((await rejection(remote.read(Buffer.alloc(8), { offset }))).code, 'ERR_ISTHMUS_RMA_DENIED');
      assert.is((await rejection(remote.write(Buffer.alloc(8), { offset }))).code, 'ERR_ISTHMUS_RMA_DENIED');
      assert.is(thrownBy(() => memory.read(offset, Buffer.alloc(8))).code, CODE);
    }
    // As long as a timer can be, and no shorter.
    const closing = a.close({ timeout: Number.POSITIVE_INFINITY });
    await pause(20);
    for await (const _ of b);
    await closing;
  });

  check('the memory of a message that waits is transferred away: it fails, others go on', async () => {
    const { a, b } = await pair(plugin, SMALL_RINGS);
    let count = 0;
    while (a.trySend(Buffer.alloc(4000, 1))) count++;
    const bytes = new Uint8Array(4000).fill(2);
    const [lost, last] = [a.send(bytes), a.send('the last')];
    transfer(bytes);
    const failed = rejection(lost);
    for (let i = 0; i < count; i++) assert.is((await b.receive())?.data[3999], 1);
    assert.is((await b.receive())?.text(), 'the last');
    assert.is((await failed).code, CODE);
    await last;
    assert.is(a.state, 'open');
  });

  for (const [what, length] of [
    ['of which a part is in the ring', 400_000],
    ['that was announced', 3 << 20],
  ] as const) {
    // Through a region an announced message is copied first.
    if (plugin !== 'tcp' && length > 1 << 20) continue;
    check(`the memory of a message ${what} is transferred away: the connection ends with a code`, async () => {
      const { a, b } = await pair(plugin, SMALL_RINGS);
      const bytes = new Uint8Array(length).fill(3);
      const failed = rejection(a.send(bytes));
      transfer(bytes);
      const received = rejection(b.receive());
      assert.is((await failed).code, CODE);
      assert.is((await a.closed).error?.code, CODE);
      assert.match((await received).code, /^ERR_ISTHMUS_(PEER_DIED|RMA_DENIED)$/);
    });
  }

  check('the memory that was to take bytes is transferred away', async () => {
    // All of it through the ring, in many turns of the event loop.
    const { near, far, a, b } = await pair(plugin, { ...SMALL_RINGS, rendezvous: 0xffffffff });
    const long = 8 << 20;
    // Of a posted receive, before and while its message comes.
    for (const length of [8, long]) {
      const target = new Uint8Array(length);
      const posted = far.endpoint().postReceive({ connection: b, data: target });
      if (length === 8) transfer(target);
      const sent = a.send(new Uint8Array(length).fill(4));
      if (length > 8) {
        while (target[0] !== 4) await new Promise((resolve) => setImmediate(resolve));
        assert.is(posted.state, 'started');
        transfer(target);
      }
      assert.is((await rejection(posted.done)).code, CODE, `${length}`);
      if (length === 8) assert.is((await b.receive())?.data.length, length);
      await sent;
    }
    // Of a read, and of what is exposed.
    const exposed = new Uint8Array(300_000).fill(5);
    const { token } = a.expose(exposed);
    const remote = b.token(token);
    const target = new Uint8Array(300_000);
    const read = rejection(remote.read(target));
    transfer(target);
    assert.is((await read).code, CODE);
    transfer(exposed);
    assert.is((await rejection(remote.read(new Uint8Array(8)))).code, 'ERR_ISTHMUS_RMA_DENIED');
    await a.send('and on');
    assert.is((await b.receive())?.text(), 'and on');
    assert.equal([a.state, b.state, near.migration], ['open', 'open', 'inactive']);
  });
}

test.after(async () => {
  await Promise.all(opened.map((runtime) => runtime.close({ timeout: 200 })));
  removeRegions();
});
test.run();

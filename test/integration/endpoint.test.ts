/** Endpoints: posted receives and their order, probes, cancelling, and on-demand connections. */

import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import type { IsthmusError } from '../../host/base/errors.js';
import type { Endpoint } from '../../host/endpoint/endpoint.js';
import type { ReceiveRequest } from '../../host/messaging/request.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { rejection } from '../support/outcomes.js';
import { chosen } from '../support/process.js';
import { newRegion, only, removeRegions } from '../support/regions.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const RING = 16_384;
const runtimes: Runtime[] = [];

async function newRuntime(options: RuntimeOptions = {}): Promise<Runtime> {
  const runtime = await Runtime.create(only('', { ringSize: RING, tcpRingSize: RING, ...options }));
  runtimes.push(runtime);
  return runtime;
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
async function until(what: string, condition: () => boolean): Promise<void> {
  for (let i = 0; !condition(); i++) {
    if (i > 20_000) throw new Error(`never: ${what}`);
    await (i < 100 ? turn() : pause(1));
  }
}

const tagged = (tag: number, length = 1) => new Uint8Array(length).fill(tag);
const withTag = (tag: number) => ({ xheader: Uint8Array.of(tag) });
const byTag = (tag: number) => (envelope: { xheader: Uint8Array }) => envelope.xheader[0] === tag;

/** Connections from a runtime to `count` endpoints of others, both ends. */
async function star(
  count: number,
  plugin: 'tcp' | 'ivshmem' | 'loop',
): Promise<{
  endpoint: Endpoint;
  pairs: { near: Connection; far: Connection }[];
}> {
  const regions = plugin === 'ivshmem' ? newRegion() : '';
  const hub = await newRuntime({ name: 'hub', regions });
  const other = plugin === 'loop' ? hub : await newRuntime({ name: 'other', regions });
  const pairs: { near: Connection; far: Connection }[] = [];
  for (let i = 0; i < count; i++) {
    let near: Connection | undefined;
    const listening = await hub.listen({}, (connection) => {
      near = connection;
    });
    const far = await other.endpoint({ name: 'far' }).connect(`127.0.0.1:${listening.port}`);
    await until('a connection', () => near !== undefined);
    assert.is(far.plugin, plugin);
    pairs.push({ near: near as unknown as Connection, far });
  }
  return { endpoint: hub.endpoint(), pairs };
}

for (const plugin of ['tcp', 'ivshmem', 'loop'] as const) {
  test(
    `${plugin}: receives from one, from any, by xheader, in place, truncated`,
    timebox(60, async () => {
      const { endpoint, pairs } = await star(2, plugin);
      const [a, b] = pairs as [(typeof pairs)[0], (typeof pairs)[0]];

      // Posted before and after the message.
      const first = endpoint.postReceive({ connection: b.near });
      const second = endpoint.postReceive({});
      await a.far.send('from a', withTag(1));
      const fromAny = await second.done;
      assert.is(fromAny.connection, a.near);
      assert.equal([...fromAny.xheader], [1]);
      assert.is(Buffer.from(fromAny.data).toString(), 'from a');
      assert.is(fromAny.truncated, false);
      assert.is(first.state, 'posted');
      await b.far.send('from b');
      assert.is(Buffer.from((await first.done).data).toString(), 'from b');
      assert.is(first.state, 'done');

      // One receive that matches the later of two messages; the earlier stays for receive().
      await a.far.send('one', withTag(1));
      await a.far.send('two', withTag(2));
      const two = await endpoint.postReceive({ match: byTag(2) }).done;
      assert.is(Buffer.from(two.data).toString(), 'two');
      assert.is((await a.near.receive())?.text(), 'one');

      // In place, of every length around the records and the ring; with room for all, and with less.
      for (const length of [0, 1, 1000, RING / 4 - 8, RING / 4, RING / 4 + 48, RING / 4 + 49, RING - 8, RING * 5 + 3]) {
        const data = Buffer.alloc(length, length % 251);
        for (const late of [false, true]) {
          for (const room of [length + 1, length, length >> 1]) {
            const target = new Uint8Array(room).fill(0xee);
            let request: ReceiveRequest | undefined;
            if (!late) request = endpoint.postReceive({ data: target, match: byTag(3) });
            const sent = a.far.send(data, withTag(3));
            if (late) {
              await until('the message is there', () => endpoint.iprobe({ match: byTag(3) }) !== undefined);
              request = endpoint.postReceive({ connection: a.near, data: target });
            }
            const received = await (request as ReceiveRequest).done;
            await sent;
            const kept = Math.min(room, length);
            assert.is(received.length, length);
            assert.is(received.data.length, kept);
            assert.is(received.truncated, room < length, `${room} for ${length}`);
            assert.is(received.data.buffer, target.buffer);
            assert.is(Buffer.compare(target.subarray(0, kept), data.subarray(0, kept)), 0);
            assert.ok(target.subarray(kept).every((byte) => byte === 0xee));
          }
        }
        const sent = a.far.send(data);
        const { data: part, length: whole } = await endpoint.postReceive({ maxLength: 10 }).done;
        await sent;
        assert.equal([part.length, whole], [Math.min(10, length), length]);
      }
      // Nothing is left of the message.
      await a.far.send('end');
      assert.is((await a.near.receive())?.text(), 'end');
    }),
  );

  test(
    `${plugin}: a posted receive that matches a later message completes although the limit of unread bytes is reached`,
    timebox(60, async () => {
      const { endpoint, pairs } = await star(1, plugin);
      const [{ near, far }] = pairs as [(typeof pairs)[0]];
      let refused = 0;
      let taken = 0;
      const chunk = tagged(1, 4000);
      while (refused < 30) {
        if (far.trySend(chunk, withTag(1))) {
          taken++;
          refused = 0;
        } else {
          refused++;
          await pause(1);
        }
        assert.ok(taken < 20_000, 'bounded');
      }
      const last = far.send('the one', withTag(9));
      const waiting = endpoint.postReceive({ match: byTag(9) });
      assert.is(Buffer.from((await waiting.done).data).toString(), 'the one');
      await last;
      // In order, and none missing.
      for (let i = 0; i < taken; i++) assert.is((await near.receive())?.data.length, 4000);
      await far.send('more');
      assert.is((await near.receive())?.text(), 'more');
    }),
  );

  test(
    `${plugin}: probes see messages and leave them`,
    timebox(30, async () => {
      const { endpoint, pairs } = await star(2, plugin);
      const [a, b] = pairs as [(typeof pairs)[0], (typeof pairs)[0]];
      assert.is(endpoint.iprobe(), undefined);
      const probing = endpoint.probe({ match: byTag(5) });
      const elsewhere = rejection(endpoint.probe({ connection: b.near }));
      await a.far.send('x', withTag(4));
      await a.far.send('yy', withTag(5));
      const found = await probing;
      assert.is(found.connection, a.near);
      assert.is(found.length, 2);
      assert.equal([...found.xheader], [5]);
      assert.is(endpoint.iprobe({ connection: b.near }), undefined);
      assert.is(endpoint.iprobe()?.length, 1);
      const reason = new Error('enough');
      const controller = new AbortController();
      const aborted = rejection(endpoint.probe({ match: () => false, signal: controller.signal }));
      controller.abort(reason);
      assert.is(await aborted, reason);
      await b.far.close();
      assert.is((await elsewhere).code, 'ERR_ISTHMUS_CLOSED');
      assert.is((await a.near.receive())?.text(), 'x');
      assert.is((await a.near.receive())?.text(), 'yy');
    }),
  );
}

test(
  'random receives, sends and cancellations, in the order of MPI',
  timebox(60, async () => {
    const seed = testSeed();
    const random = seeded(seed);
    const { endpoint, pairs } = await star(3, 'loop');
    interface Sent {
      readonly source: number;
      readonly tag: number;
      readonly number: number;
    }
    interface Posted {
      readonly source: number | undefined;
      readonly tag: number | undefined;
      readonly request: ReceiveRequest;
      readonly label: number;
    }
    const takes = (posted: Posted, sent: Sent) =>
      (posted.source ?? sent.source) === sent.source && (posted.tag ?? sent.tag) === sent.tag;
    let unread: Sent[] = [];
    let posted: Posted[] = [];
    const expected = new Map<number, number>();
    const got = new Map<number, number>();
    let labels = 0;
    let numbers = 0;
    const counts = [0, 0, 0];
    for (let step = 0; step < 1500; step++) {
      const source = random(3);
      const { near, far } = pairs[source] as (typeof pairs)[0];
      const kind = random(10);
      if (kind < 5) {
        const sent: Sent = { source, tag: random(3), number: numbers++ };
        const data = new Uint8Array(random(20) === 0 ? RING * 2 : 4 + random(100));
        new DataView(data.buffer).setUint32(0, sent.number);
        await far.send(data, withTag(sent.tag));
        counts[source] = (counts[source] as number) + 1;
        await until('it arrives', () => near.stats().messagesReceived === counts[source]);
        const taker = posted.find((one) => takes(one, sent));
        if (taker) {
          posted = posted.filter((one) => one !== taker);
          expected.set(taker.label, sent.number);
        } else {
          unread.push(sent);
        }
      } else if (kind < 9) {
        const any = random(2) === 0;
        const tag = random(2) === 0 ? undefined : random(3);
        const label = labels++;
        const request = endpoint.postReceive({
          ...(any ? {} : { connection: near }),
          ...(tag === undefined ? {} : { match: byTag(tag) }),
          ...(random(2) === 0 ? { data: new Uint8Array(RING * 2) } : {}),
        });
        request.done.then(
          ({ data }) => got.set(label, Buffer.from(data).readUInt32BE(0)),
          () => {},
        );
        const entry: Posted = { source: any ? undefined : source, tag, request, label };
        // From one source in order; among sources, any that the books allow.
        const candidates = unread.filter((one) => takes(entry, one));
        if (candidates.length > 0) {
          await request.done;
          const number = got.get(label) as number;
          const taken = unread.find((one) => one.number === number);
          assert.ok(taken && takes(entry, taken), `step ${step}: message ${number} was not expected`);
          const before = unread.filter((one) => takes(entry, one) && one.source === taken?.source);
          assert.is(number, before[0]?.number, `step ${step}, seed ${seed}`);
          unread = unread.filter((one) => one !== taken);
          expected.set(label, number);
        } else {
          posted.push(entry);
        }
      } else if (posted.length > 0) {
        const [entry] = posted.splice(random(posted.length), 1) as [Posted];
        assert.is(entry.request.cancel(), true);
        assert.is(entry.request.cancel(), false);
        assert.is((await rejection(entry.request.done)).code, 'ERR_ISTHMUS_CANCELLED');
      }
    }
    await until('all are there', () => got.size === expected.size);
    for (const [label, number] of expected) assert.is(got.get(label), number, `seed ${seed}, receive ${label}`);
    const late = posted.map(({ request }) => rejection(request.done));
    await endpoint.close();
    for (const error of await Promise.all(late)) assert.is(error.code, 'ERR_ISTHMUS_CLOSED');
  }),
);

test(
  'a mask selects the plugins of an endpoint',
  timebox(30, async () => {
    const regions = newRegion();
    const server = await newRuntime({ name: 'server', regions });
    const client = await newRuntime({ name: 'client', regions });
    const { port } = await server.listen({}, () => {});
    const plain = client.endpoint({ name: 'tcp', plugins: { only: ['tcp'] } });
    const first = await plain.connect(`127.0.0.1:${port}`);
    assert.is(first.plugin, 'tcp');
    assert.match(first.why ?? '', /ivshmem: masked for this endpoint/);
    assert.is((await client.connect(`127.0.0.1:${port}`)).plugin, 'ivshmem');
    const masked = server.endpoint({ name: 'masked', plugins: { delete: ['ivshmem', 'loop'] } });
    const listening = await masked.listen({}, () => {});
    assert.is((await client.connect(`127.0.0.1:${listening.port}`)).plugin, 'tcp');
    assert.is((await masked.connect(`127.0.0.1:${listening.port}`)).plugin, 'tcp', 'the own endpoint, without loop');
    assert.throws(
      () => client.endpoint({ name: 'x', plugins: { only: ['nothing'] } }),
      (error: IsthmusError) => error.code === 'ERR_ISTHMUS_INVALID_ARGUMENT',
    );
    const bare = client.endpoint({ name: 'none', plugins: { only: [] } });
    assert.is((await rejection(bare.connect(`127.0.0.1:${port}`))).code, 'ERR_ISTHMUS_NO_PLUGIN');
  }),
);

test(
  'sends can be cancelled until they have started',
  timebox(30, async () => {
    const { pairs } = await star(1, 'tcp');
    const [{ near, far }] = pairs as [(typeof pairs)[0]];
    const endpoint = runtimes.at(-1)?.endpoint({ name: 'far' }) as Endpoint;
    const large = endpoint.postSend({ connection: far, data: new Uint8Array(40 << 20) });
    const small = endpoint.postSend({ connection: far, data: 'never' });
    const after = endpoint.postSend({ connection: far, data: 'after', xheader: Uint8Array.of(1) });
    assert.is(large.state, 'started');
    assert.is(large.cancel(), false);
    assert.is(small.cancel(), true);
    assert.is(small.state, 'cancelled');
    assert.is((await rejection(small.done)).code, 'ERR_ISTHMUS_CANCELLED');
    assert.is((await near.receive())?.data.length, 40 << 20);
    assert.is((await near.receive())?.text(), 'after');
    await Promise.all([large.done, after.done]);
    assert.is(after.state, 'done');
    assert.throws(
      () => endpoint.postReceive({ connection: near }),
      (error: IsthmusError) => error.code === 'ERR_ISTHMUS_INVALID_ARGUMENT',
    );
  }),
);

test(
  'receives of a connection that ends reject; those for any source continue to wait',
  timebox(30, async () => {
    const { endpoint, pairs } = await star(2, 'tcp');
    const [a, b] = pairs as [(typeof pairs)[0], (typeof pairs)[0]];
    const anySource = endpoint.postReceive({});
    const own = endpoint.postReceive({ connection: a.near, match: byTag(1) });
    const dying = endpoint.postReceive({ connection: b.near, match: byTag(1) });
    await a.far.close();
    b.far.destroy();
    assert.is((await rejection(own.done)).code, 'ERR_ISTHMUS_CLOSED');
    assert.is((await rejection(dying.done)).code, 'ERR_ISTHMUS_PEER_DIED');
    assert.is(anySource.state, 'posted');
    const failing = endpoint.postReceive({
      match: () => {
        throw new Error('a match function');
      },
    });
    const runtime = runtimes.at(-2) as Runtime;
    const { port } = await runtime.listen({}, async (connection) => {
      await connection.closed;
    });
    const other = await newRuntime();
    const connection = await other.connect(`127.0.0.1:${port}`);
    await connection.send('first');
    assert.is(Buffer.from((await anySource.done).data).toString(), 'first');
    await connection.send('second');
    assert.match((await rejection(failing.done)).message, 'a match function');
    assert.is(Buffer.from((await endpoint.postReceive({}).done).data).toString(), 'second');
  }),
);

// ── On demand ────────────────────────────────────────────────────────────────────────────────────────────────────────

async function onDemandPair(
  names: [string, string],
  options: RuntimeOptions = {},
): Promise<{ a: Connection; b: Connection; runtimes: [Runtime, Runtime]; ports: [number, number] }> {
  const [first, second] = [
    await newRuntime({ name: names[0], ...options }),
    await newRuntime({ name: names[1], ...options }),
  ];
  const [p, q] = [await first.listen({}), await second.listen({})];
  const a = await first.connect(`127.0.0.1:${q.port}@${names[1]}`);
  const b = await second.connect({ host: '127.0.0.1', port: p.port, name: names[0] });
  return { a, b, runtimes: [first, second], ports: [p.port, q.port] };
}

for (const plugin of ['tcp', 'ivshmem'] as const) {
  for (const [what, names] of [
    ['the lower name first', ['AAAA', 'BBBB']],
    ['the greater name first', ['BBBB', 'AAAA']],
    ['equal names', ['same', 'same']],
  ] as const) {
    test(
      `${plugin}: on demand, ${what}`,
      timebox(30, async () => {
        const { a, b } = await onDemandPair([...names], plugin === 'tcp' ? {} : { regions: newRegion() });
        assert.equal([a.state, a.plugin, b.state], ['connecting', 'ondemand', 'connecting']);
        assert.is(a.trySend('not yet'), false);
        await a.send('hello', withTag(1));
        assert.is((await b.receive())?.text(), 'hello');
        assert.equal([a.state, a.plugin, b.plugin], ['open', plugin, plugin]);
        assert.is(b.peer.name, names[0]);
        await b.send('back');
        assert.is((await a.receive())?.text(), 'back');
        await a.close();
        assert.is(await b.receive(), undefined);
      }),
    );
  }
}

test(
  'on demand, both sides at the same instant',
  timebox(90, async () => {
    const random = seeded(testSeed());
    for (let round = 0; round < 12; round++) {
      const names = (
        [
          ['A', 'B'],
          ['B', 'A'],
          ['S', 'S'],
        ] as const
      )[round % 3] as readonly [string, string];
      const { a, b, runtimes: two } = await onDemandPair([...names]);
      const sends: Promise<void>[] = [];
      for (let i = 0; i < 20; i++) {
        if (random(3) === 0) await turn();
        sends.push(a.send(`a${i}`), b.send(`b${i}`));
      }
      for (let i = 0; i < 20; i++) {
        assert.is((await b.receive())?.text(), `a${i}`);
        assert.is((await a.receive())?.text(), `b${i}`);
      }
      await Promise.all(sends);
      for (const runtime of two) assert.is(runtime.connections().length, 1, `round ${round}, ${names}`);
      await Promise.all(two.map((runtime) => runtime.close()));
    }
  }),
);

test(
  'on demand to the own endpoint',
  timebox(30, async () => {
    const runtime = await newRuntime({ name: 'me' });
    const { port } = await runtime.listen({});
    const connection = await runtime.connect(`127.0.0.1:${port}@me`);
    assert.is(connection.plugin, 'loop');
    const data = new Uint8Array(RING * 3).fill(7);
    const sent = connection.send(data);
    assert.is(Buffer.compare((await connection.receive())?.data ?? data.subarray(1), data), 0);
    await sent;
    await connection.close();
    assert.is((await connection.closed).reason, 'local');
  }),
);

test(
  'on demand: no peer of that name, no listener, no peer that could be called back',
  timebox(60, async () => {
    const { a, ports, runtimes: two } = await onDemandPair(['A', 'B']);
    await a.send('x');
    const [first, second] = two;
    const stranger = await first.connect(`127.0.0.1:${ports[1]}@Z`);
    // The listener has no pending connection to A; and the open one belongs to another peer.
    assert.is((await rejection(stranger.send('x'))).code, 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
    assert.is((await stranger.closed).error?.code, 'ERR_ISTHMUS_HANDSHAKE_REFUSED');
    const greater = await newRuntime({ name: 'X', retry: 0 });
    const alone = await greater.connect(`127.0.0.1:${ports[0]}@A`);
    assert.is((await rejection(alone.send('x'))).code, 'ERR_ISTHMUS_CONNECT');
    const dialer = await newRuntime({ name: 'A', retry: 0 });
    const lost = await dialer.connect('127.0.0.1:1@B');
    assert.is((await rejection(lost.send('x'))).code, 'ERR_ISTHMUS_CONNECT');
    // Never used: it closes without a message to any peer.
    const unused = await second.connect(`127.0.0.1:${ports[0]}@A`);
    await unused.close();
    assert.is((await unused.closed).reason, 'local');
    // Closed while it dials.
    const slow = await newRuntime({ name: 'A' });
    const calling = await slow.connect('127.0.0.1:1@B');
    const sending = rejection(calling.send('x'));
    calling.destroy();
    assert.is((await sending).code, 'ERR_ISTHMUS_CLOSED');
  }),
);

test.after(async () => {
  await Promise.all(runtimes.map((runtime) => runtime.close({ timeout: 500 })));
  removeRegions();
});

test.run();

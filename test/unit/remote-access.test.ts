/** Memory of the peer: exposures and their tokens, reads and writes by messages and directly, and refusals. */
import { getEventListeners } from 'node:events';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { RegionMemory } from '../../host/memory/shared-memory.js';
import { sealToken } from '../../host/memory/token.js';
import { takeRun } from '../../host/region/runs.js';
import { NONE, TestRegion, write } from '../support/channel.js';
import { type Connected, connected, fate } from '../support/connection.js';
import { assertBytes, L, newCore, pattern } from '../support/core.js';
import { rejection, thrownBy } from '../support/outcomes.js';
import { timebox } from '../support/timebox.js';

const DENIED = 'ERR_ISTHMUS_RMA_DENIED';
const PROTOCOL = 'ERR_ISTHMUS_PEER_PROTOCOL';

/** Memory of `a`, as `b` sees it. */
function exposed(both: Connected, bytes: Uint8Array, options = {}) {
  const exposure = both.a.connection.expose(bytes, options);
  return { exposure, token: both.b.connection.token(exposure.token) };
}

async function through<T>(both: Connected, promise: Promise<T>): Promise<T> {
  const outcome = Promise.allSettled([promise]);
  await both.settle();
  await outcome;
  return promise;
}

const codeOf = async (both: Connected, promise: Promise<unknown>) => (await through(both, rejection(promise))).code;

test(
  'reads and writes by messages, at offsets, also of what is longer than the ring',
  timebox(5, async () => {
    const both = connected();
    const memory = pattern(6000, 1);
    const { token } = exposed(both, memory, { write: true });
    assert.equal([token.length, token.readable, token.writable, token.oneSided], [6000, true, true, false]);
    const target = new Uint8Array(5000);
    await through(both, token.read(target, { offset: 1000 }));
    assertBytes(target, memory.subarray(1000));
    const source = pattern(5500, 2);
    await through(both, token.write(source, { offset: 500 }));
    assertBytes(memory.subarray(500), source);
    assertBytes(memory.subarray(0, 500), pattern(6000, 1).subarray(0, 500));
    await through(both, token.read(new Uint8Array(0), { offset: 6000 }));
    assert.equal([await fate(both.a.connection), await fate(both.b.connection)], ['open', 'open']);
  }),
);

test(
  'what the token does not allow is refused here, what the peer does not allow there; no byte is written',
  timebox(5, async () => {
    const both = connected();
    const memory = new Uint8Array(100);
    const readable = exposed(both, memory);
    const writable = exposed(both, memory, { read: false, write: true });
    for (const offset of [-1, 1.5, Number.NaN]) {
      assert.is(
        await codeOf(both, readable.token.read(new Uint8Array(10), { offset })),
        'ERR_ISTHMUS_INVALID_ARGUMENT',
      );
    }
    assert.is(await codeOf(both, readable.token.read(new Uint8Array(10), { offset: 91 })), DENIED);
    assert.is(await codeOf(both, readable.token.write(new Uint8Array(10))), DENIED);
    assert.is(await codeOf(both, writable.token.read(new Uint8Array(10))), DENIED);

    assert.is(both.b.connection.counts.sent, 0, 'the peer was not asked');

    // A token that claims more than was granted.
    const forged = new Uint8Array(readable.exposure.token);
    new DataView(forged.buffer).setUint32(4, 3, true);
    new DataView(forged.buffer).setBigUint64(16, 200n, true);
    sealToken(forged);
    const lie = both.b.connection.token(forged);
    assert.is(await codeOf(both, lie.write(new Uint8Array(10).fill(7))), DENIED);
    assert.is(await codeOf(both, lie.read(new Uint8Array(101))), DENIED);
    assert.is(await codeOf(both, lie.read(new Uint8Array(1), { offset: 100 })), DENIED);
    const longer = new Uint8Array(writable.exposure.token);
    new DataView(longer.buffer).setBigUint64(16, 200n, true);
    sealToken(longer);
    const beyond = both.b.connection.token(longer).write(new Uint8Array(10).fill(7), { offset: 95 });
    assert.is(await codeOf(both, beyond), DENIED);
    assert.ok(memory.every((byte) => byte === 0));
    const target = new Uint8Array(100).fill(1);
    await through(both, lie.read(target));
    assertBytes(target, memory);
    for (const bytes of [NONE, new Uint8Array(56), readable.exposure.token.subarray(1)]) {
      assert.is(thrownBy(() => both.b.connection.token(bytes)).code, 'ERR_ISTHMUS_INVALID_ARGUMENT');
    }
  }),
);

test(
  'a token is worth nothing when it is withdrawn, or its connection is over',
  timebox(5, async () => {
    const both = connected();
    const memory = new Uint8Array(5000);
    const { exposure, token } = exposed(both, memory, { write: true });
    const writing = rejection(token.write(new Uint8Array(5000).fill(7)));
    both.a.connection.progress();
    const begun = memory.filter((byte) => byte === 7).length;
    assert.ok(begun > 0 && begun < 5000);
    exposure.withdraw();
    exposure.withdraw();
    assert.is((await through(both, writing)).code, DENIED, 'withdrawn between two fragments');
    assert.is(memory.filter((byte) => byte === 7).length, begun);
    assert.is(await codeOf(both, token.read(new Uint8Array(1))), DENIED);
    const other = exposed(both, memory);
    const read = rejection(other.token.read(new Uint8Array(1)));
    both.b.connection.destroy();
    assert.is((await read).code, 'ERR_ISTHMUS_CLOSED');
    assert.is(await codeOf(both, other.token.read(new Uint8Array(1))), 'ERR_ISTHMUS_CLOSED');
    both.a.connection.destroy();
    assert.is(thrownBy(() => both.a.connection.expose(memory)).code, 'ERR_ISTHMUS_CLOSED');
  }),
);

test(
  'a read whose signal is aborted leaves no listener and writes nothing; its answer is dropped',
  timebox(5, async () => {
    const both = connected();
    const { token } = exposed(both, pattern(100, 1));
    const controller = new AbortController();
    const target = new Uint8Array(100);
    const read = rejection(token.read(target, { signal: controller.signal }));
    const reason = new Error('enough');
    await Promise.resolve();
    controller.abort(reason);
    assert.is(await read, reason as unknown);
    await both.settle();
    assert.ok(target.every((byte) => byte === 0));
    assert.is(getEventListeners(controller.signal, 'abort').length, 0);
    const other = new AbortController();
    await through(both, token.read(target, { signal: other.signal }));
    assert.is(getEventListeners(other.signal, 'abort').length, 0);
    assertBytes(target, pattern(100, 1));
    assert.is(await fate(both.b.connection), 'open');
  }),
);

test(
  'at most 8 reads are under way; an answer is read whatever is unread',
  timebox(5, async () => {
    const both = connected({}, { limits: { unread: 1, maxMessageSize: 1 << 20 } });
    const { token } = exposed(both, pattern(100, 1));
    for (let i = 0; i < 3; i++) await both.a.connection.send('unread');
    const reads = Array.from({ length: 20 }, () => token.read(new Uint8Array(10)));
    await Promise.resolve();
    assert.is(both.b.connection.counts.sent, 8);
    await through(both, Promise.all(reads));
    assert.is(both.b.connection.counts.sent, 20);
    assert.is(both.b.connection.stats().unreadMessages, 3);
  }),
);

test(
  'requests and answers that make no sense end the connection; those to unknown memory do not',
  timebox(5, async () => {
    const cases: [type: number, xheader: Uint8Array, expected: string][] = [
      [L.MESSAGE_RMA_READ, new Uint8Array(19), `error ${PROTOCOL}`],
      [L.MESSAGE_RMA_READ, new Uint8Array(20).fill(1), 'open'],
      [L.MESSAGE_RMA_WRITE, NONE, 'open'],
      [L.MESSAGE_RMA_WRITE, new Uint8Array(8), 'open'],
      [L.MESSAGE_RMA_READ_ANSWER, new Uint8Array(7), `error ${PROTOCOL}`],
      [L.MESSAGE_RMA_READ_ANSWER, new Uint8Array(8), `error ${PROTOCOL}`],
    ];
    for (const [type, xheader, expected] of cases) {
      const both = connected();
      write(both.far, xheader, type, xheader.length);
      await both.settle().catch(() => {});
      assert.is(await fate(both.a.connection), expected, `${type} with ${xheader.length}`);
    }
  }),
);

test(
  'memory in a region: read and written without the peer, as long as it is granted',
  timebox(5, async () => {
    const core = newCore(4);
    const region = new TestRegion(core);
    const both = connected({ region: region.asRegion }, {}, core);
    const run = takeRun(region.asRegion, 5000)!;
    const memory = new RegionMemory(5000, { region: region.asRegion, ...run });
    memory.write(0, pattern(5000, 1));
    const exposure = both.a.connection.expose(memory, { write: true });
    const token = both.b.connection.token(exposure.token);
    assert.ok(token.oneSided);
    const target = new Uint8Array(1000);
    await token.read(target, { offset: 4000 });
    assertBytes(target, pattern(5000, 1).subarray(4000));
    await token.write(new Uint8Array(10).fill(7), { offset: 20 });
    assert.equal([...memory.view(19, 2)], [pattern(5000, 1)[19], 7]);
    assert.is(both.b.connection.counts.sent, 0, 'no message');
    const granted = (at: number) => core.u64(core.call.addressOf(run.frame) + at * L.GRANT_SIZE + L.GRANT_TOKEN) !== 0n;
    const other = both.a.connection.expose(memory);
    const withdrawn = both.b.connection.token(other.token);
    await withdrawn.read(target);
    assert.equal([granted(0), granted(1)], [true, true]);
    other.withdraw();
    assert.equal([granted(0), granted(1)], [true, false]);
    assert.is(await codeOf(both, withdrawn.read(target)), DENIED);
    const asked = both.b.connection.counts.sent;
    memory.evacuate(region.asRegion);
    assert.not(granted(0));
    assert.not(memory.inRegion);
    await through(both, token.read(target, { offset: 4000 }));
    assertBytes(target, pattern(5000, 1).subarray(4000), 'asked for');
    assert.is(both.b.connection.counts.sent, asked + 1);
    memory.release();
    assert.is(await codeOf(both, token.read(target)), DENIED);
    assert.is(thrownBy(() => both.a.connection.expose(memory)).code, 'ERR_ISTHMUS_RELEASED');
    const wrong = 'text' as unknown as Uint8Array;
    assert.is(thrownBy(() => (both.a.connection as Connection).expose(wrong)).code, 'ERR_ISTHMUS_INVALID_ARGUMENT');
  }),
);

test(
  'the bytes of a withdrawn exposure may change: an answer that waits has them as they were',
  timebox(5, async () => {
    const both = connected();
    const memory = pattern(5000, 1);
    const { exposure, token } = exposed(both, memory);
    const target = new Uint8Array(5000);
    const read = token.read(target);
    await Promise.resolve();
    both.a.connection.progress();
    exposure.withdraw();
    memory.fill(0);
    await through(both, read);
    assertBytes(target, pattern(5000, 1));
  }),
);

test.run();

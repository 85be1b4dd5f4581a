/**
 * Access of a peer to memory of this process: only as far and as long as granted, and with limited memory for its
 * requests. The far side composes its messages by hand.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { RuntimeConnection } from '../../host/connection/connection.js';
import { BROKEN, coreLayout, NOTHING } from '../../host/core/core.js';
import { Runtime } from '../../host/runtime/runtime.js';
import { newRegion, only, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const RING = 65_536;
const runtimes: Runtime[] = [];
const layout = coreLayout();

async function pair(
  regions = newRegion(),
): Promise<{ runtime: Runtime; near: RuntimeConnection; far: RuntimeConnection }> {
  const options = only(regions, { ringSize: RING });
  const [runtime, other] = [await Runtime.create(options), await Runtime.create(options)];
  runtimes.push(runtime, other);
  let accept!: (connection: RuntimeConnection) => void;
  const accepted = new Promise<RuntimeConnection>((resolve) => {
    accept = resolve;
  });
  const { port } = await other.listen({}, (connection) => accept(connection as RuntimeConnection));
  const near = (await runtime.connect({ host: '127.0.0.1', port })) as RuntimeConnection;
  return { runtime, near, far: await accepted };
}

async function tidy(): Promise<void> {
  await Promise.all(runtimes.splice(0).map((runtime) => runtime.close({ timeout: 500 }).catch(() => {})));
}

/** A message whose fragments are not all sent at once. */
class Slow {
  readonly #far: RuntimeConnection;
  #rest: number;
  #offset: number;

  constructor(far: RuntimeConnection, type: number, xheader: Uint8Array, length: number) {
    this.#far = far;
    this.#rest = xheader.length + length;
    this.#offset = far.core.call.claim(far.index, type, xheader.length, length);
    far.core.bytes.set(xheader, this.#offset);
  }

  /** Publish the next fragment, filled with that byte. @returns whether it was the last */
  go(byte: number, xlength = 0): boolean {
    const { core, index } = this.#far;
    const length = core.words[layout.RESULT_LENGTH >> 2] as number;
    core.bytes.fill(byte, this.#offset + xlength, this.#offset + length);
    core.call.commit(index);
    this.#rest -= length;
    if (this.#rest === 0) return true;
    this.#offset = core.call.claimMore(index);
    assert.ok(this.#offset !== NOTHING && this.#offset !== BROKEN);
    return false;
  }
}

/** The first words of a token: where the exposed memory begins. */
const address = (token: Uint8Array) => Buffer.from(token.subarray(8, 16));

for (const where of ['private', 'in the region'] as const) {
  test(
    `a write in progress ends when the memory (${where}) is withdrawn`,
    timebox(20, async () => {
      const { runtime, near, far } = await pair();
      const length = 40_000;
      const memory = where === 'private' ? new Uint8Array(length) : runtime.allocate(length);
      const bytes = () => {
        if (memory instanceof Uint8Array) return memory;
        const copy = new Uint8Array(length);
        memory.read(0, copy);
        return copy;
      };
      const exposure = near.expose(memory, { write: true });
      const write = new Slow(far, layout.MESSAGE_RMA_WRITE, address(exposure.token), length);
      write.go(1, 8);
      near.progress();
      const written = bytes().filter((byte) => byte === 1).length;
      assert.ok(written > 0 && written < length);
      exposure.withdraw();
      for (let over = false; !over; near.progress()) over = write.go(2);
      assert.is(bytes().filter((byte) => byte === 2).length, 0, 'written after the withdrawal');
      assert.is(bytes().filter((byte) => byte === 1).length, written);
      // The peer learns it: the answer to the request after the write is a refusal.
      await near.send('after');
      assert.is((await far.receive())?.text(), 'after');
      await tidy();
    }),
  );
}

test(
  'an answer in progress does not continue into the memory of an aborted read',
  timebox(20, async () => {
    const { near, far } = await pair();
    const exposure = far.expose(new Uint8Array(40_000));
    const token = near.token(exposure.token);
    const target = new Uint8Array(40_000);
    const abort = new AbortController();
    const reading = token.read(target, { signal: abort.signal }).catch((error: Error) => error.name);
    // The request, answered by hand.
    let id: Buffer | undefined;
    for (let i = 0; !id && i < 1000; i++) {
      if (far.core.call.peek(far.index) > 0) {
        const at = far.core.words[layout.RESULT_OFFSET >> 2] as number;
        id = Buffer.from(far.core.bytes.slice(at, at + 8));
        far.core.call.release(far.index);
      } else await pause(1);
    }
    assert.ok(id);
    const answer = new Slow(far, layout.MESSAGE_RMA_READ_ANSWER, id, target.length);
    answer.go(1, 8);
    near.progress();
    const filled = target.filter((byte) => byte === 1).length;
    assert.ok(filled > 0);
    abort.abort();
    assert.is(await reading, 'AbortError');
    for (let over = false; !over; near.progress()) over = answer.go(2);
    assert.is(target.filter((byte) => byte === 2).length, 0);
    await near.send('after');
    assert.is((await far.receive())?.text(), 'after');
    await tidy();
  }),
);

test(
  'a peer that sends requests and reads no answers is disconnected',
  timebox(60, async () => {
    const { near, far } = await pair();
    const request = Buffer.alloc(20, 7);
    let asked = 0;
    while (near.state === 'open' && asked < 1_000_000) {
      const offset = far.core.call.claim(far.index, layout.MESSAGE_RMA_READ, 20, 0);
      if (offset > 0) {
        far.core.bytes.set(request, offset);
        far.core.call.commit(far.index);
        asked++;
      } else near.progress();
    }
    assert.is((await near.closed).error?.code, 'ERR_ISTHMUS_PEER_PROTOCOL');
    await tidy();
  }),
);

test(
  'a run longer than the announced message is not adopted: it could never be released',
  timebox(20, async () => {
    const { near, far } = await pair();
    const { call } = far.core;
    const frame = call.takeRun(1 << 20);
    const place = call.grant(frame, 5, 6, 0, 100, layout.GRANT_READ) - 1;
    const { index } = near;
    assert.is(near.core.call.adoptGranted(index, frame, place, 5, 6, 100), 0);
    assert.is(near.core.call.halfKind(frame, layout.HALF_CONSUMER), 0, 'the offer is used up, and the half released');
    call.giveBack(frame, 257, layout.HALF_PRODUCER);
    await tidy();
  }),
);

test(
  'a signal cancels a rendezvous whose announcement has no room',
  timebox(20, async () => {
    const { runtime, near, far } = await pair();
    // The far side reads nothing.
    far.progress = () => false;
    for (const length of [1000, 8, 0]) while (near.trySend(new Uint8Array(length)));
    const free = () => runtime.regions()[0]?.freeFrames;
    const before = free();
    const abort = new AbortController();
    const data = new Uint8Array(1 << 20);
    const sending = near.send(data, { signal: abort.signal }).catch((error: Error) => error.name);
    await pause(20);
    assert.ok((free() ?? 0) < (before ?? 0), 'the message is not in the region');
    abort.abort();
    assert.is(await Promise.race([sending, pause(2000, 'still waiting')]), 'AbortError');
    assert.is(free(), before, 'its frames are free');
    near.destroy();
    far.destroy();
    await tidy();
  }),
);

test(
  'an empty grant in an invalid frame is not read outside the region',
  timebox(20, async () => {
    const { near, far } = await pair();
    for (const frame of [0x7ffff, 0xfffff, 0xffffffff, 0xffffff00]) {
      assert.is(near.core.call.granted(near.index, frame, 0, 5, 6, 0, 0, layout.GRANT_READ), 0);
    }
    // As received over the wire: a message of length 0, announced in such a frame.
    const data = Buffer.alloc(28);
    data.writeUInt32LE(0xfffff, 20);
    await far.sendTyped(layout.MESSAGE_RENDEZVOUS_REQ, Buffer.alloc(0), data);
    assert.is((await near.receive())?.data.length, 0);
    await tidy();
  }),
);

test.after(async () => {
  await tidy();
  removeRegions();
});
test.run();

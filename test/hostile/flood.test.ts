/**
 * Peers that write as fast as they are read, or request without reading the answers: every pass over a ring ends, and
 * the memory kept for a peer is limited. The other process is this file again, with the role `flooder`.
 */

import { setImmediate as turn } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { RuntimeConnection } from '../../host/connection/connection.js';
import { BROKEN, coreLayout, NOTHING } from '../../host/core/core.js';
import type { CoreExports } from '../../host/core/exports.js';
import type { BoundLink } from '../../host/link/bound-link.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { Child, endChildren, play, role, roleOptions, tell } from '../support/process.js';
import { newRegion, only, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

/** How long the other process floods, in milliseconds. */
const FLOOD = 2000;
/** Messages: far more than one pass, or a ring, has room for. */
const MANY = 100_000;
const RING = 65_536;

/** Put an empty message into the ring directly. @returns false: there is no room */
function put(core: CoreExports, index: number, type: number, xheader = 0): boolean {
  const offset = core.claim(index, type, xheader, 0);
  if (offset === NOTHING || offset === BROKEN) return false;
  core.commit(index);
  return true;
}

const roles: Record<string, () => Promise<void>> = {
  async flooder() {
    const { options, port } = roleOptions<{ options: RuntimeOptions; port: number }>();
    const runtime = await Runtime.create(options);
    const near = (await runtime.connect({ host: '127.0.0.1', port })) as RuntimeConnection;
    await near.send('ready');
    const { core, index } = near;
    const { MESSAGE_RMA_WRITE } = core.layout;
    let sent = 0;
    for (const end = performance.now() + FLOOD; performance.now() < end; ) {
      for (let i = 0; i < 1000; i++) if (put(core.call, index, MESSAGE_RMA_WRITE, 8)) sent++;
    }
    tell('sent', sent);
    process.exit();
  },
};

const runtimes: Runtime[] = [];
async function newRuntime(options: RuntimeOptions): Promise<Runtime> {
  const runtime = await Runtime.create(options);
  runtimes.push(runtime);
  return runtime;
}
async function tidy(): Promise<void> {
  await Promise.all(runtimes.splice(0).map((runtime) => runtime.close({ timeout: 500 }).catch(() => {})));
  await endChildren();
}

async function listening(runtime: Runtime): Promise<{ port: number; accepted: Promise<RuntimeConnection> }> {
  let accept!: (connection: RuntimeConnection) => void;
  const accepted = new Promise<RuntimeConnection>((resolve) => {
    accept = resolve;
  });
  const { port } = await runtime.listen({}, (connection) => accept(connection as RuntimeConnection));
  return { port, accepted };
}

async function pair(): Promise<{ runtime: Runtime; near: RuntimeConnection; far: RuntimeConnection }> {
  const options = only(newRegion(), { ringSize: RING });
  const [runtime, other] = [await newRuntime(options), await newRuntime(options)];
  const { port, accepted } = await listening(other);
  const near = (await runtime.connect({ host: '127.0.0.1', port })) as RuntimeConnection;
  assert.is(near.plugin, 'ivshmem');
  return { runtime, near, far: await accepted };
}

/** From here on the far side fills the ring whenever the near one reads it, up to `MANY` messages. */
function refilled(near: RuntimeConnection, far: RuntimeConnection, type: number): { count: number } {
  const link = near.link as { -readonly [key in keyof BoundLink]: BoundLink[key] };
  const { call } = link;
  const written = { count: 0 };
  const fill = () => {
    while (written.count < MANY && put(far.core.call, far.index, type, type === 0 ? 0 : 8)) written.count++;
  };
  const peek = (index: number) => {
    fill();
    return call.peek(index);
  };
  link.call = { ...call, peek, peekSpin: peek };
  return written;
}

function main(): void {
  const { MESSAGE_USER, MESSAGE_RMA_WRITE } = coreLayout();

  for (const [what, type, look] of [
    ['one pass over refused writes', MESSAGE_RMA_WRITE, (near) => near.progress()],
    ['one receive after such writes', MESSAGE_RMA_WRITE, (near) => void near.receive().catch(() => {})],
    ['one tryReceiveInto after such writes', MESSAGE_RMA_WRITE, (near) => near.tryReceiveInto(new Uint8Array(8))],
    ['one pass for a receive that matches none of them', MESSAGE_USER, (near) => near.progress()],
    ['a close, which drops messages', MESSAGE_USER, (near) => void near.close().catch(() => {})],
    ['the end of a peer that has closed', MESSAGE_USER, (near) => near.lifetime.onEnded({ kind: 'peer-closed' })],
    [
      'its shutdown acknowledgement',
      MESSAGE_USER,
      (near) => near.lifetime.onShutdownReceived(coreLayout().MESSAGE_SHUTDOWN_ACK, 0),
    ],
  ] as readonly (readonly [string, number, (near: RuntimeConnection) => unknown])[]) {
    test(
      `${what} ends, although the peer writes as fast as it is read`,
      timebox(20, async () => {
        const { runtime, near, far } = await pair();
        await turn();
        if (what.includes('wants none')) runtime.endpoint().postReceive({ match: () => false });
        const written = refilled(near, far, type);
        look(near);
        assert.ok(written.count > 0, 'nothing was written');
        assert.ok(written.count < MANY / 2, `${written.count} messages were read in one pass`);
        near.destroy();
        await tidy();
      }),
    );
  }

  test(
    'the event loop continues while another process floods',
    timebox(60, async () => {
      const options = only(newRegion(), { ringSize: RING });
      const { port, accepted } = await listening(await newRuntime(options));
      const child = Child.start(import.meta.url, 'flooder', { options, port });
      const connection = await accepted;
      assert.is(connection.plugin, 'ivshmem');
      assert.is((await connection.receive())?.text(), 'ready');
      let turns = 0;
      const ticking = setInterval(() => turns++, 10);
      const sent = await child.event<number>('sent');
      clearInterval(ticking);
      console.log(`${sent} messages, ${turns} turns of a timer`);
      assert.ok(sent > RING / 16 && turns >= 5, `${sent} messages, ${turns} turns`);
      await tidy();
    }),
  );

  test.after(async () => {
    await tidy();
    removeRegions();
  });
  test.run();
}

if (role) await play(roles);
else main();

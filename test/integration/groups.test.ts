/** Groups over a mix of plugins: broadcasts, barriers, late members, members that die. */

import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import type { IsthmusError } from '../../host/base/errors.js';
import type { Group } from '../../host/messaging/group.js';
import { Runtime } from '../../host/runtime/runtime.js';
import { rejection } from '../support/outcomes.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve } from '../support/process.js';
import { newRegion, only, removeRegions } from '../support/regions.js';
import { seeded, testSeed } from '../support/seeded.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const RING = 16_384;

const roles: Record<string, () => Promise<void>> = {
  /** A member in a process of its own: rank 0 of a group of two. */
  async member() {
    const runtime = await Runtime.create(only('', { tcpRingSize: RING }));
    const connection = await runtime.connect(`127.0.0.1:${roleOptions<{ port: number }>().port}`);
    const group = runtime.endpoint().group({ id: 7, rank: 0, members: [null, connection] });
    serve({
      broadcast: async (length: number) => {
        await group.broadcast(0, new Uint8Array(length).fill(1));
      },
      barrier: () => group.barrier(),
    });
  },
};

async function until(what: string, condition: () => boolean): Promise<void> {
  for (let i = 0; !condition(); i++) {
    if (i > 20_000) throw new Error(`never: ${what}`);
    await pause(1);
  }
}

interface Member {
  readonly runtime: Runtime;
  readonly members: (Connection | null)[];
}

/** Runtimes in this process, all connected: those with an even number share a region, the others use tcp. */
async function mesh(size: number): Promise<Member[]> {
  const region = newRegion(16 << 20);
  const all: Member[] = [];
  for (let rank = 0; rank < size; rank++) {
    const options = only(rank % 2 === 0 ? region : '', { ringSize: RING, tcpRingSize: RING, unread: 100_000 });
    const runtime = await Runtime.create({ name: `rank${rank}`, ...options });
    const members: (Connection | null)[] = new Array(size).fill(null);
    let accepted: Connection | undefined;
    const { port } = await runtime.listen({}, async (connection) => {
      accepted = connection;
      await connection.closed;
    });
    all.push({ runtime, members });
    for (let other = 0; other < rank; other++) {
      const { runtime: from, members: its } = all[other] as Member;
      accepted = undefined;
      its[rank] = await from.connect(`127.0.0.1:${port}`);
      await until('a connection', () => accepted !== undefined);
      members[other] = accepted as unknown as Connection;
      assert.is(its[rank]?.plugin, rank % 2 === 0 && other % 2 === 0 ? 'ivshmem' : 'tcp');
    }
  }
  return all;
}

const open = (all: readonly Member[], id: number, rank: number): Group =>
  (all[rank] as Member).runtime.endpoint().group({ id, rank, members: (all[rank] as Member).members });
const close = (all: readonly Member[]) => Promise.all(all.map(({ runtime }) => runtime.close({ timeout: 1000 })));
const filled = (length: number, value: number) => new Uint8Array(length).fill(value);

async function main(): Promise<void> {
  test(
    'broadcasts from every root, of every size, in order; barriers between them',
    timebox(120, async () => {
      const random = seeded(testSeed());
      for (const size of [1, 2, 5, 8]) {
        const all = await mesh(size);
        const groups = all.map((_, rank) => open(all, 1, rank));
        const plan = Array.from({ length: size === 8 ? 25 : 40 }, (_, i) => ({
          root: i < size ? i : random(size),
          length: [0, 1, 100, RING / 4, RING, RING * 6 + 1][random(6)] as number,
          barrier: random(4) === 0,
        }));
        let inside = 0;
        await Promise.all(
          groups.map(async (group, rank) => {
            for (const [number, { root, length, barrier }] of plan.entries()) {
              if (random(5) === 0) await pause(random(3));
              if (barrier) {
                inside++;
                const before = inside;
                await group.barrier();
                assert.ok(before <= inside);
              }
              const data = root === rank ? filled(length, number) : undefined;
              const message = await group.broadcast(root, data, { xheader: Uint8Array.of(number) });
              assert.is(message.data.length, length);
              assert.ok(message.data.every((byte) => byte === number));
              assert.equal([...message.xheader], [number]);
              if (root !== rank) message.data.fill(0xee); // A private copy.
            }
          }),
        );
        await Promise.all(groups.map((group) => group.close()));
        await close(all);
      }
    }),
  );

  test(
    'a barrier holds all members until the last has arrived',
    timebox(60, async () => {
      const all = await mesh(5);
      const groups = all.map((_, rank) => open(all, 2, rank));
      for (let late = 0; late < 5; late++) {
        let through = 0;
        const others = groups.map(async (group, rank) => {
          if (rank === late) return;
          await group.barrier();
          through++;
        });
        await pause(30);
        assert.is(through, 0);
        await (groups[late] as Group).barrier();
        await Promise.all(others);
        assert.is(through, 4);
      }
      await close(all);
    }),
  );

  test(
    'members that open late, two groups side by side, and messages besides',
    timebox(60, async () => {
      const all = await mesh(4);
      const early = [0, 1, 3].map((rank) => open(all, 3, rank));
      const other = [0, 1, 2, 3].map((rank) => open(all, 4, rank));
      const root = (early[0] as Group).broadcast(0, filled(50_000, 5));
      const second = (early[0] as Group).broadcast(0, filled(60_000, 6));
      const beside = (other[2] as Group).broadcast(2, filled(10, 7));
      await all[0]?.members[2]?.send('beside');
      assert.is((await all[2]?.members[0]?.receive())?.text(), 'beside');
      for (const rank of [0, 1, 3]) assert.is((await (other[rank] as Group).broadcast(2)).data[0], 7);
      await beside;
      await pause(20);
      const late = open(all, 3, 2);
      assert.is((await late.broadcast(0)).data.length, 50_000);
      for (const group of early.slice(1)) assert.is((await group.broadcast(0)).data[0], 5);
      for (const group of [...early.slice(1), late]) assert.is((await group.broadcast(0)).data.length, 60_000);
      await Promise.all([root, second]);
      assert.throws(
        () => open(all, 3, 0),
        (error: IsthmusError) => error.code === 'ERR_ISTHMUS_INVALID_ARGUMENT',
      );
      await close(all);
    }),
  );

  test(
    'a member that is far ahead waits for the others: the held messages are bounded',
    timebox(60, async () => {
      const all = await mesh(3);
      const groups = all.map((_, rank) => open(all, 5, rank));
      let sent = 0;
      const ahead = (async () => {
        for (let i = 0; i < 300; i++) {
          await (groups[0] as Group).broadcast(0, filled(20_000, i));
          sent++;
        }
      })();
      for (let last = -1; last !== sent; await pause(150)) last = sent;
      assert.ok(sent < 250, `${sent} broadcasts were accepted without a receiver`);
      await Promise.all(
        groups.slice(1).map(async (group) => {
          for (let i = 0; i < 300; i++) assert.is((await group.broadcast(0)).data[0], i % 256);
        }),
      );
      await ahead;
      await close(all);
    }),
  );

  test(
    'a member that dies fails the operations of the others, with its name',
    timebox(60, async () => {
      const all = await mesh(4);
      const groups = all.map((_, rank) => open(all, 6, rank));
      const waiting = [0, 1, 3].map((rank) => rejection((groups[rank] as Group).barrier()));
      for (const connection of (all[2] as Member).members) connection?.destroy();
      for (const error of await Promise.all(waiting)) {
        assert.is(error.code, 'ERR_ISTHMUS_GROUP');
        assert.match(error.message, /group 6: member 2 \(rank2, pid \d+\) is gone/);
      }
      assert.is((await rejection((groups[0] as Group).broadcast(0, filled(1, 1)))).code, 'ERR_ISTHMUS_GROUP');
      // The connections of the others stay, and a new group over them works.
      const rest = [0, 1, 3].map((rank) => all[rank] as Member);
      const survivors = rest.map(({ runtime, members }, rank) =>
        runtime.endpoint().group({ id: 60, rank, members: [0, 1, 3].map((old) => members[old] ?? null) }),
      );
      const [data] = await Promise.all([
        (survivors[1] as Group).broadcast(0),
        (survivors[0] as Group).broadcast(0, filled(3, 3)),
        (survivors[2] as Group).broadcast(0),
      ]);
      assert.is(data.data.length, 3);
      const controller = new AbortController();
      const aborted = rejection((survivors[0] as Group).barrier({ signal: controller.signal }));
      const reason = new Error('enough');
      controller.abort(reason);
      assert.is(await aborted, reason);
      assert.is((await rejection((survivors[0] as Group).barrier())).code, 'ERR_ISTHMUS_GROUP');
      await close(all);
    }),
  );

  test(
    'a member process that is killed in the middle',
    timebox(60, async () => {
      const runtime = await Runtime.create(only('', { tcpRingSize: RING }));
      let connection: Connection | undefined;
      const { port } = await runtime.listen({}, async (accepted) => {
        connection = accepted;
        await accepted.closed;
      });
      const child = Child.start(import.meta.url, 'member', { port });
      await until('the member', () => connection !== undefined);
      const group = runtime.endpoint().group({ id: 7, rank: 1, members: [connection, undefined] });
      const big = child.call('broadcast', 3_000_000);
      assert.is((await group.broadcast(0)).data.length, 3_000_000);
      await big;
      await Promise.all([group.barrier(), child.call('barrier')]);
      const waiting = rejection(group.broadcast(0));
      await child.kill('SIGKILL');
      const error = await waiting;
      assert.is(error.code, 'ERR_ISTHMUS_GROUP');
      assert.match(error.message, new RegExp(`member 0 \\(isthmus, pid ${child.pid}\\)`));
      await runtime.close();
    }),
  );

  test.after(async () => {
    await endChildren();
    removeRegions();
  });
  test.run();
}

if (role) await play(roles);
else await main();

/**
 * Remote memory: read, written, withdrawn; rendezvous. The far end is this file again, with the role `owner`.
 */

import { setTimeout as pause } from 'node:timers/promises';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import type { Exposure } from '../../host/api/remote-memory.js';
import type { SharedMemory } from '../../host/api/shared-memory.js';
import type { IsthmusError } from '../../host/base/errors.js';
import { sealToken } from '../../host/memory/token.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { rejection } from '../support/outcomes.js';
import { Child, chosen, endChildren, play, role, roleOptions, serve } from '../support/process.js';
import { newRegion, only, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const RING = 16_384;

const roles: Record<string, () => Promise<void>> = {
  /** Owns memory that others use, and sends and receives as the test asks. */
  async owner() {
    const runtime = await Runtime.create(roleOptions<RuntimeOptions>());
    const connections: Connection[] = [];
    const { port } = await runtime.listen({}, async (connection) => {
      connections.push(connection);
      await connection.closed;
    });
    const newest = () => connections.at(-1) as Connection;
    let memory: SharedMemory | undefined;
    let plain: Uint8Array | undefined;
    const exposures: Exposure[] = [];
    serve({
      port: () => port,
      async connected(count: number) {
        while (connections.length < count) await pause(1);
      },
      /** @returns whether the memory lies in the region, and the token */
      expose(size: number, kind: 'shared' | 'plain', write: boolean, fill: number) {
        const connection = newest();
        let exposed: SharedMemory | Uint8Array;
        if (kind === 'shared') {
          memory = runtime.allocate(size, { connection });
          memory.write(0, new Uint8Array(size).fill(fill));
          exposed = memory;
        } else {
          plain = new Uint8Array(size).fill(fill);
          exposed = plain;
        }
        const exposure = connection.expose(exposed, { write });
        exposures.push(exposure);
        return { inRegion: memory?.inRegion ?? false, token: [...exposure.token] };
      },
      withdraw: () => exposures.at(-1)?.withdraw(),
      release: () => memory?.release(),
      byte(offset: number) {
        const byte = new Uint8Array(1);
        if (plain) byte[0] = plain[offset] as number;
        else memory?.read(offset, byte);
        return byte[0];
      },
      forgetPlain() {
        plain = undefined;
      },
      free: () => runtime.regions().map(({ freeFrames }) => freeFrames),
      /** All at once: over tcp each is read only when it was fetched. */
      send: (lengths: readonly number[]) =>
        Promise.all(
          lengths.map((length) =>
            newest().send(new Uint8Array(length).fill(length % 251), { xheader: Uint8Array.of(length % 7) }),
          ),
        ).then(() => {}),
      async receive(lengths: readonly number[]) {
        for (const length of lengths) {
          const message = await newest().receive();
          if (message?.data.length !== length) throw new Error(`${message?.data.length} bytes, not ${length}`);
          if (message.data.some((byte) => byte !== length % 251)) throw new Error(`other bytes of ${length}`);
          if (message.xheader[0] !== length % 7) throw new Error('another xheader');
        }
      },
      close: () => newest().close(),
      destroy: () => newest().destroy(),
    });
  },
};

const runtimes: Runtime[] = [];

interface Subject {
  readonly runtime: Runtime;
  readonly near: Connection;
  readonly child: Child;
}

async function main(): Promise<void> {
  for (const plugin of ['ivshmem', 'tcp'] as const) {
    let started: Promise<{ runtime: Runtime; child: Child; port: number }> | undefined;
    let count = 0;
    const open = async (): Promise<Subject> => {
      started ??= (async () => {
        const options = only(plugin === 'tcp' ? '' : newRegion(32 << 20), {
          ringSize: RING,
          tcpRingSize: RING,
          rendezvous: 100_000,
          rendezvousIvshmem: 100_000,
        });
        const child = Child.start(import.meta.url, 'owner', options);
        const port = await child.call<number>('port');
        const runtime = await Runtime.create(options);
        runtimes.push(runtime);
        return { runtime, child, port };
      })();
      const { runtime, child, port } = await started;
      const near = await runtime.connect({ host: '127.0.0.1', port });
      assert.is(near.plugin, plugin);
      await child.call('connected', ++count);
      return { runtime, near, child };
    };

    for (const kind of ['shared', 'plain'] as const) {
      const oneSided = plugin === 'ivshmem' && kind === 'shared';
      test(
        `${plugin}: ${kind} memory is read and written, within its bounds and rights`,
        timebox(60, async () => {
          const { near, child } = await open();
          const size = 5_000_001;
          const readOnly = await child.call('expose', size, kind, false, 7);
          const token = near.token(Uint8Array.from(readOnly.token));
          assert.equal([token.length, token.readable, token.writable, token.oneSided], [size, true, false, oneSided]);
          const all = new Uint8Array(size);
          await token.read(all);
          assert.ok(all.every((byte) => byte === 7));
          await token.read(new Uint8Array(0), { offset: size });
          for (const [length, offset] of [
            [1, size],
            [size + 1, 0],
            [10, size - 9],
          ] as const) {
            assert.is((await rejection(token.read(new Uint8Array(length), { offset }))).code, 'ERR_ISTHMUS_RMA_DENIED');
          }
          assert.is((await rejection(token.write(Uint8Array.of(1)))).code, 'ERR_ISTHMUS_RMA_DENIED');

          // A token that claims more than was granted.
          for (const change of [
            (bytes: Buffer) => bytes.writeUInt32LE(3, 4),
            (bytes: Buffer) => bytes.writeBigUInt64LE(BigInt(size) + 4096n, 16),
            (bytes: Buffer) => bytes.writeBigUInt64LE(bytes.readBigUInt64LE(8) ^ (1n << 62n), 8),
            (bytes: Buffer) => bytes.writeBigUInt64LE(bytes.readBigUInt64LE(8) + (1n << 40n), 8),
          ]) {
            const forged = Buffer.from(readOnly.token);
            change(forged);
            assert.throws(
              () => near.token(forged),
              (error: IsthmusError) => error.code === 'ERR_ISTHMUS_INVALID_ARGUMENT',
            );
            const bad = near.token(sealToken(forged));
            const beyond = new Uint8Array(4096).fill(0xee);
            const attempt = bad.writable ? bad.write(beyond) : bad.read(beyond, { offset: bad.length - 4096 });
            assert.is((await rejection(attempt)).code, 'ERR_ISTHMUS_RMA_DENIED');
          }
          assert.throws(
            () => near.token(new Uint8Array(55)),
            (error: IsthmusError) => error.code === 'ERR_ISTHMUS_INVALID_ARGUMENT',
          );
          // Each of its bits changed, by a peer that knows the format: refused, or the same memory with the same rights.
          for (let bit = 0; bit < readOnly.token.length * 8; bit++) {
            const forged = Uint8Array.from(readOnly.token);
            forged[bit >> 3] = (forged[bit >> 3] as number) ^ (1 << (bit & 7));
            assert.throws(
              () => near.token(forged),
              (error: IsthmusError) => error.code === 'ERR_ISTHMUS_INVALID_ARGUMENT',
            );
            const read = async () => {
              const bad = near.token(sealToken(forged));
              const got = new Uint8Array(Math.min(bad.length, 64)).fill(0xee);
              await bad.read(got, { offset: bad.length - got.length });
              return [...new Set(got)];
            };
            const refused = ({ code }: IsthmusError) => {
              assert.match(code, /^ERR_ISTHMUS_(INVALID_ARGUMENT|RMA_DENIED)$/, `bit ${bit}`);
              return [7];
            };
            const seen = await read().catch(refused);
            assert.ok(seen.length === 0 || String(seen) === '7', `bit ${bit}: ${seen}`);
            const spoil = async () => near.token(forged).write(Uint8Array.of(9));
            assert.match((await rejection(spoil())).code, /^ERR_ISTHMUS_(INVALID_ARGUMENT|RMA_DENIED)$/, `bit ${bit}`);
          }
          assert.is(await child.call('byte', 0), 7);

          const writable = await child.call('expose', size, kind, true, 1);
          const target = near.token(Uint8Array.from(writable.token));
          await target.write(new Uint8Array(size - 10).fill(9), { offset: 5 });
          for (const [offset, expected] of [
            [4, 1],
            [5, 9],
            [size - 6, 9],
            [size - 5, 1],
          ] as const) {
            assert.is(await child.call('byte', offset), expected, `byte ${offset}`);
          }
          // Many at once, and messages between them.
          const parts = Array.from({ length: 40 }, () => new Uint8Array(100_000));
          await Promise.all([
            ...parts.map((part, i) => target.read(part, { offset: i * 1000 })),
            near.send(new Uint8Array(50).fill(50), { xheader: Uint8Array.of(1) }),
            child.call('receive', [50]),
          ]);
          assert.ok(parts.slice(1).every((part) => part.every((byte) => byte === 9)));

          // Withdrawn.
          await child.call('withdraw');
          const kept = new Uint8Array(10).fill(0xee);
          assert.is((await rejection(target.read(kept))).code, 'ERR_ISTHMUS_RMA_DENIED');
          assert.ok(kept.every((byte) => byte === 0xee || byte === 0));
          assert.is((await rejection(target.write(kept))).code, 'ERR_ISTHMUS_RMA_DENIED');
          assert.is(await child.call('byte', 5), 9);
          // The other grant is still valid, and ends with its memory.
          if (kind === 'plain') await child.call('forgetPlain');
          await near.close();
          assert.match((await rejection(token.read(kept))).code, /ERR_ISTHMUS_(CLOSED|RMA_DENIED)/);
          await child.call('release');
        }),
      );
    }

    test(
      `${plugin}: an aborted read, and one of a peer that dies`,
      timebox(60, async () => {
        const { near, child } = await open();
        const { token: bytes } = await child.call('expose', 1 << 20, 'plain', true, 3);
        const token = near.token(Uint8Array.from(bytes));
        const reason = new Error('enough');
        assert.is(await rejection(token.read(new Uint8Array(5), { signal: AbortSignal.abort(reason) })), reason);
        const controller = new AbortController();
        const reading = rejection(token.read(new Uint8Array(1 << 20), { signal: controller.signal }));
        controller.abort(reason);
        assert.is(await reading, reason);
        const target = new Uint8Array(100);
        await token.read(target);
        assert.ok(target.every((byte) => byte === 3));
        await child.call('send', [10]);
        assert.is((await near.receive())?.data.length, 10);
        const lost = rejection(token.read(new Uint8Array(1 << 20)));
        child.call('destroy');
        assert.match((await lost).code, /ERR_ISTHMUS_PEER_DIED|ERR_ISTHMUS_CLOSED/);
        await child.call('forgetPlain');
      }),
    );

    test(
      `${plugin}: rendezvous: around the threshold, in order with small ones, both ways, unread, posted`,
      timebox(90, async () => {
        const { near, child, runtime } = await open();
        const endpoint = runtime.endpoint();
        const lengths = [99_999, 100_000, 100_001, 5, 1_000_000, 0, 3_000_000, 17];
        const sendAll = async () => {
          for (const length of lengths) {
            await near.send(new Uint8Array(length).fill(length % 251), { xheader: Uint8Array.of(length % 7) });
          }
        };
        await Promise.all([
          sendAll(),
          child.call('receive', lengths),
          child.call('send', lengths),
          (async () => {
            for (const length of lengths) {
              const message = await near.receive();
              assert.is(message?.data.length, length);
              assert.ok(message?.data.every((byte) => byte === length % 251));
              assert.equal([...(message?.xheader ?? [])], [length % 7]);
            }
          })(),
        ]);

        // Unread: borrow, poll, tryReceiveInto and a posted receive each get one; one is truncated.
        const large = [200_000, 300_000, 400_000, 500_000, 600_000];
        // A receiver that copies out may get them through the ring while it waits; now it reads in place.
        for (let i = 0; i < 10; i++) near.poll(() => {}, 1);
        const sent = child.call('send', large);
        assert.is((await near.borrow())?.data.length, 200_000);
        let polled = 0;
        while (polled === 0) {
          near.poll((memory, offset, length) => {
            polled = length;
            assert.ok(memory.slice(offset, offset + length).every((byte) => byte === length % 251));
            // With a shared region, the message lies there, and info shows it.
            assert.is(memory.length > length, plugin !== 'tcp');
          }, 1);
          await pause(1);
        }
        assert.is(polled, 300_000);
        const target = new Uint8Array(400_000);
        while (near.tryReceiveInto(target) < 0) await pause(1);
        assert.ok(target.every((byte) => byte === 400_000 % 251));
        const probed = await endpoint.probe({ match: ({ length }) => length === 600_000 });
        assert.equal([...probed.xheader], [600_000 % 7]);
        const short = new Uint8Array(1000);
        const posted = await endpoint.postReceive({ data: short, match: ({ length }) => length === 600_000 }).done;
        assert.equal([posted.length, posted.truncated, posted.data.length], [600_000, true, 1000]);
        assert.ok(short.every((byte) => byte === 600_000 % 251));
        assert.is((await near.receive())?.data.length, 500_000);
        await sent;

        // The frames are free again.
        const [free] = await child.call<number[]>('free');
        for (let i = 0; i < 20; i++) {
          await Promise.all([child.call('send', [2_000_000]), near.receive()]);
        }
        for (let i = 0; ((await child.call<number[]>('free'))[0] ?? 0) < (free ?? 0); i++) {
          assert.ok(i < 500, `${await child.call('free')} frames are free, not ${free}`);
          await pause(5);
        }

        // A close waits until all messages are fetched, but not for ever if the other side leaves them unread.
        const last = child.call('send', [700_000]);
        const closing = child.call('close');
        assert.is((await near.receive())?.data.length, 700_000);
        await last;
        assert.is(await near.receive(), undefined);
        await closing;
      }),
    );
  }

  test(
    'memory in a region is read while its owner is stopped, and is freed with its grants and its owner',
    timebox(60, async () => {
      const options = only(newRegion(16 << 20), { ringSize: RING });
      const child = Child.start(import.meta.url, 'owner', options);
      const runtime = await Runtime.create(options);
      runtimes.push(runtime);
      const near = await runtime.connect({ host: '127.0.0.1', port: await child.call<number>('port') });
      await child.call('connected', 1);
      const { inRegion, token: bytes } = await child.call('expose', 1 << 20, 'shared', true, 42);
      assert.is(inRegion, true);
      const token = near.token(Uint8Array.from(bytes));
      assert.is(token.oneSided, true);
      await child.kill('SIGSTOP');
      const target = new Uint8Array(1 << 20);
      for (let i = 0; i < 10; i++) {
        await token.read(target);
        assert.ok(target.every((byte) => byte === (i === 0 ? 42 : i - 1 + 100)));
        await token.write(new Uint8Array(1 << 20).fill(i + 100));
      }
      await child.kill('SIGCONT');
      assert.is(await child.call('byte', 12_345), 109);
      await child.call('release');
      assert.is((await rejection(token.read(target))).code, 'ERR_ISTHMUS_RMA_DENIED');

      // Announced messages are delivered although their sender was killed.
      const free = runtime.regions()[0]?.freeFrames;
      const own = await child.call('send', [2_000_000]);
      assert.is(own, undefined);
      const endpoint = runtime.endpoint();
      await endpoint.probe();
      await child.kill('SIGKILL');
      await near.closed;
      const message = await near.receive();
      assert.is(message?.data.length, 2_000_000);
      assert.ok(message?.data.every((byte) => byte === 2_000_000 % 251));
      assert.is((await rejection(near.receive())).code, 'ERR_ISTHMUS_PEER_DIED');
      for (let i = 0; (runtime.regions()[0]?.freeFrames ?? 0) < (free ?? 0); i++) {
        assert.ok(i < 1000, `${runtime.regions()[0]?.freeFrames} of ${free} frames are free`);
        await pause(5);
      }

      // Memory of a closed runtime stays readable for its owner.
      const memory = runtime.allocate(10_000);
      assert.is(memory.inRegion, true);
      memory.write(100, new Uint8Array(50).fill(5));
      await runtime.close();
      const part = new Uint8Array(51);
      memory.read(99, part);
      assert.equal([part[0], part[1], part[50], memory.inRegion], [0, 5, 5, false]);
      memory.release();
      assert.throws(
        () => memory.read(0, part),
        (error: IsthmusError) => error.code === 'ERR_ISTHMUS_RELEASED',
      );
    }),
  );

  test(
    'tcp: a message that was announced but not fetched before its sender was gone is an error, not an endless wait',
    timebox(20, async () => {
      const options = only('', { rendezvous: 1000 });
      const [a, b] = [await Runtime.create(options), await Runtime.create(options)];
      let come: (connection: Connection) => void = () => {};
      const accepted = new Promise<Connection>((resolve) => {
        come = resolve;
      });
      const { port } = await b.listen({}, async (connection) => {
        come(connection);
        await connection.closed;
      });
      const sender = await a.connect({ host: '127.0.0.1', port });
      sender.send(new Uint8Array(100_000)).catch(() => {});
      const receiver = await accepted;
      while (receiver.stats().unreadMessages === 0) await pause(1);
      sender.destroy();
      await receiver.closed;
      const error = await Promise.race([
        receiver.receive().then(
          () => 'a message',
          (thrown: IsthmusError) => thrown.code,
        ),
        pause(5000, 'nothing'),
      ]);
      assert.is(error, 'ERR_ISTHMUS_PEER_DIED');
      await Promise.all([a.close(), b.close()]);
    }),
  );

  test.after(async () => {
    await Promise.all(runtimes.map((runtime) => runtime.close({ timeout: 500 })));
    await endChildren();
    removeRegions();
  });
  test.run();
}

if (role) await play(roles);
else await main();

/**
 * The process that owns one end of a region and stores into it while a victim uses the other: hostile/region.test.ts.
 */
import { setImmediate as turn } from 'node:timers/promises';
import type { RuntimeConnection } from '../../host/connection/connection.js';
import { Runtime } from '../../host/runtime/runtime.js';
import { L, mapInto, pattern, TestCore } from '../support/core.js';
import { Hostile, READ, type RingPlace, SIZE } from '../support/hostile.js';
import { play, serve } from '../support/process.js';
import { only } from '../support/regions.js';
import { seeded } from '../support/seeded.js';

type Where = 'own' | 'anywhere';

async function hostile(): Promise<void> {
  let core: TestCore;
  let hostile: Hostile;
  let random: (n: number) => number;
  let runtime: Runtime | undefined;
  const connections = new Set<RuntimeConnection>();
  /** The rings of a connection, as its own end has them; records are written where the reader is, or soon will be. */
  const ringsOf = ({ core: own, index }: RuntimeConnection): RingPlace[] => {
    const field = (name: number) => own.words[(own.call.entry(index) + name) >> 2] as number;
    const tx = { address: field(L.TX_RING), capacity: field(L.TX_RING + 4) + 1, position: () => field(L.TX_TAIL) };
    return [tx, { address: own.call.ringAddress(index), capacity: own.call.ringCapacity(index) }];
  };
  const store = (where: Where, rings: readonly RingPlace[]) => {
    if (where === 'anywhere') hostile.region(rings);
    else hostile.ring(rings[random(rings.length)]!);
  };
  /** A message in a run of its own, all of which the stores may hit. */
  const lend = (connection: RuntimeConnection) => {
    try {
      const loan = connection.tryLoan(random(20_000));
      if (loan && !connection.trySend(loan)) loan.release();
    } catch {
      // The connection has ended.
    }
  };
  const map = (path: string, size: number, seed: number) => {
    core = new TestCore(size);
    mapInto(core, path);
    random = seeded(seed);
    hostile = new Hostile(core, random);
  };
  serve({
    map,
    /** Store at full speed. */
    stores(where: Where, places: readonly RingPlace[], count: number) {
      const position = () => (where === 'own' ? core.u32(READ) : 8 * random(random(2) ? 16 : 1024));
      const rings = places.map((place, i) => (i % 2 === 0 ? { ...place, position } : place));
      let spun = 0;
      for (let i = 0; i < count; i++) {
        store(where, rings);
        // Up to some microseconds apart, so that every store can meet every instruction of the victim.
        for (let spin = random(4) === 0 ? random(4000) : 0; spin > 0; spin--) spun += spin;
      }
      return spun;
    },
    /** Write two values to one word by turns, as fast as possible. */
    flips(at: number, values: readonly string[], milliseconds: number) {
      const words = values.map(BigInt);
      // In one store: a DataView stores byte by byte.
      const there = new BigUint64Array(core.memory.buffer, at & ~7, 1);
      let count = 0;
      for (const end = performance.now() + milliseconds; performance.now() < end; ) {
        for (let i = 0; i < 1000; i++, count++) there[0] = words[i % words.length]!;
      }
      return count;
    },
    /** Attach as a normal process does, and accept connections. */
    async attach(path: string, seed: number) {
      await runtime?.close({ timeout: 0 }).catch(() => {});
      runtime = await Runtime.create(only(path, { debug: 0 }));
      map(path, SIZE, seed);
      const { port } = await runtime.listen({}, (connection) => {
        connections.add(connection as RuntimeConnection);
        connection.closed.then(() => connections.delete(connection as RuntimeConnection));
      });
      return port;
    },
    /** Send and corrupt by turns, while there is a connection. @returns stores */
    async misbehave(where: Where, count: number) {
      let done = 0;
      for (let idle = 0; done < count && idle < 200; ) {
        // Only memory that it owns at this moment: without a pause, so that no ring is given back in between.
        const open = [...connections].filter((one) => one.link);
        if (open.length === 0) {
          idle++;
          await turn();
          continue;
        }
        const one = open[random(open.length)]!;
        const word = random(4);
        if (word === 0) await one.send(pattern(random(3000), done)).catch(() => {});
        if (word === 1) lend(one);
        if (one.link) {
          const rings = ringsOf(one);
          for (let i = 1 + random(where === 'own' ? 4 : 200); i > 0; i--, done++) store(where, rings);
        }
        if (random(2)) await turn();
      }
      for (const one of connections) one.destroy();
      return done;
    },
  });
}

await play({ hostile });

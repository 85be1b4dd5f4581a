/** A process with a runtime that performs the steps of the measures. */
import { setTimeout as sleep } from 'node:timers/promises';
import type * as Library from '../../host/index.js';
import { now } from '../clock.js';
import type { RunOptions } from '../ends.js';
import { pin } from '../pinning.js';
import { Times } from '../results.js';
import { createRuntime, Player, type Ways } from '../transports/isthmus.js';
import { sample } from '../transports/sample.js';
import type { Handlers } from '../transports/transport.js';
import { callIntoWasm, copying, ringFromJs, ringInWasm } from './core.js';
import { ageOf, STAMP, sleepAtSocket, stamp, wakeBySocket } from './sleeper.js';

/** The options that a measure may set. */
type Settings = Pick<Library.RuntimeOptions, 'shmSize' | 'ringSize'>;

interface Run {
  readonly size: number;
  readonly milliseconds: number;
  readonly batch?: number;
}

export function probe(tag: string, options: RunOptions): Handlers {
  let runtime: Library.Runtime;
  let port = 0;
  const connections: Library.Connection[] = [];
  let player: Player;
  let running: Promise<void> = Promise.resolve();
  let ages = new Times();
  const age = (nanoseconds: number) => ages.add(nanoseconds);
  let timing: { stop(): Promise<Times> } | undefined;
  const start = (size: number, begin: () => Promise<void>) => {
    player.prepare(size);
    running = begin();
    running.catch(() => {});
  };
  return {
    // ─── the core ──────────────────────────────────────────────────────────────────────────────────────────────────────
    ringInWasm,
    ringFromJs,
    callIntoWasm,
    copying: ({ size, area }: { size: number; area: number }) => copying(size, area),

    // ─── a runtime ─────────────────────────────────────────────────────────────────────────────────────────────────────
    pin(end: 0 | 1) {
      if (options.cpus) pin(process.pid, options.cpus[end]);
    },
    async create({ ways, settings }: { ways?: Partial<Ways>; settings?: Settings }) {
      runtime = await createRuntime({ library: options.library, tag: `${options.tag}-${tag}` }, ways, settings);
    },
    async listen() {
      ({ port } = await runtime.listen({}, (connection) => {
        connections.push(connection);
      }));
      return port;
    },
    /** @returns the time of each connect in nanoseconds */
    async connect({ port: to, count }: { port: number; count: number }) {
      const took: number[] = [];
      for (let i = 0; i < count; i++) {
        const before = now();
        connections.push(await runtime.connect({ host: '127.0.0.1', port: to }));
        took.push(now() - before);
      }
      const wrong = connections.find(({ plugin }) => plugin !== 'shm');
      if (wrong) throw new Error(`a connection went over ${wrong.plugin}: ${wrong.why}`);
      return took;
    },
    async accepted(count: number) {
      while (connections.length < count) await sleep(5);
    },
    play({ index, form }: { index: number; form: Ways['form'] }) {
      player = new Player(runtime, connections[index] as Library.Connection, form);
    },
    echo: (size: number) => start(size, () => player.echo()),
    sink: (size: number) => start(size, () => player.sink()),
    ended: () => running,
    async latency({ size, milliseconds, batch = 1 }: Run) {
      player.prepare(size);
      const turn = () => player.runtime.turn();
      return sample(milliseconds, batch, (rounds) => player.play(rounds), turn);
    },
    async stream({ size, milliseconds }: Run) {
      player.prepare(size);
      return player.stream(milliseconds);
    },
    /** Play `count` round trips, without samples. */
    async rounds({ size, count }: { size: number; count: number }) {
      player.prepare(size);
      // In parts, so that the event loop can turn.
      for (let left = count; left > 0; left -= 1000) {
        const played = player.play(Math.min(1000, left));
        if (played) await played;
        await runtime.turn();
      }
    },
    endRun: () => player.end(),
    suspend: async () => {
      const before = now();
      await runtime.suspend();
      return now() - before;
    },
    resume: async () => {
      const before = now();
      await runtime.resume();
      return now() - before;
    },
    freeFrames: () => runtime.regions()[0]?.freeFrames,
    close: () => runtime.close(),

    // ─── the process ───────────────────────────────────────────────────────────────────────────────────────────────────
    memory() {
      globalThis.gc?.();
      return process.memoryUsage().rss;
    },
    /** Processor time of this process in microseconds. */
    cpu() {
      const { user, system } = process.cpuUsage();
      return user + system;
    },
    /** Milliseconds since this process started. */
    uptime: () => performance.now(),

    // ─── a timer of a millisecond, and its delay ───────────────────────────────────────────────────────────────────────
    startTimer() {
      const late = new Times();
      let on = true;
      const done = (async () => {
        while (on) {
          const before = now();
          await sleep(1);
          late.add(now() - before - 1e6);
        }
      })();
      timing = {
        async stop() {
          on = false;
          await done;
          return late;
        },
      };
    },
    async stopTimer() {
      const late = await timing?.stop();
      return { p50: late?.percentile(50), p99: late?.percentile(99), count: late?.count };
    },

    // ─── a sleeping process, and the process that wakes it ─────────────────────────────────────────────────────────────
    async sleepAtSocket() {
      await sleepAtSocket(options.folder, age);
    },
    sleepAtConnection() {
      void (async () => {
        for await (const { data } of connections[0] as Library.Connection) age(ageOf(data));
      })();
    },
    ages() {
      const { count } = ages;
      const found = { count, p50: count > 0 ? ages.percentile(50) : 0, p99: count > 0 ? ages.percentile(99) : 0 };
      ages = new Times();
      return found;
    },
    async wake({ by, pause, count }: { by: 'socket' | 'connection'; pause: number; count: number }) {
      const message = new Uint8Array(STAMP);
      const view = new DataView(message.buffer);
      const socket = by === 'socket' ? await wakeBySocket(options.folder) : undefined;
      for (let i = 0; i < count; i++) {
        await sleep(pause);
        stamp(view);
        if (socket) socket.write(message);
        else await connections[0]?.send(message);
      }
      await sleep(pause);
      socket?.destroy();
    },
  };
}

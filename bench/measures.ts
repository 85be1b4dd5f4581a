/** The micro-benchmarks: parts of the core, and measures other than ping-pong and streams. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Callee } from './calls.js';
import { median } from './clock.js';
import { type RunOptions, startEnd } from './ends.js';
import { type Plan, wanted } from './race.js';
import { type Measure, Times } from './results.js';
import type { Ways } from './transports/isthmus.js';

type Say = (name: string, title: string, value: number, unit: Measure['unit']) => void;

interface Context {
  readonly run: RunOptions;
  readonly quick: boolean;
  readonly say: Say;
}

interface Kind {
  /** For `--only`. */
  readonly name: string;
  readonly title: string;
  run(context: Context): Promise<void>;
}

/** Passes of measures that are compared in turns. */
const passes = ({ quick }: Context) => (quick ? 2 : 5);
const span = ({ quick }: Context) => (quick ? 50 : 200);

interface PairOptions {
  readonly ways?: Partial<Ways>;
  readonly settings?: { readonly shmSize?: number; readonly ringSize?: number };
  readonly near?: readonly string[];
  readonly far?: readonly string[];
  /** Do not print the output of the processes; the caller reads it. */
  readonly silent?: boolean;
}

let pairs = 0;

/** Two processes with a runtime each, pinned; the far one listens. */
class Pair {
  readonly near: Callee;
  readonly far: Callee;
  readonly port: number;
  connections = 0;

  private constructor(near: Callee, far: Callee, port: number) {
    this.near = near;
    this.far = far;
    this.port = port;
  }

  static async start({ run }: Context, options: PairOptions = {}): Promise<Pair> {
    const tag = `pair${pairs++}`;
    const [near, far] = ([options.near, options.far] as const).map((node = []) =>
      startEnd('probe', tag, run, { execArgv: ['--expose-gc', ...node], silent: options.silent ?? false }),
    ) as [Callee, Callee];
    await Promise.all([near.call('pin', 0), far.call('pin', 1)]);
    const { ways = {}, settings = {} } = options;
    await far.call('create', { ways, settings });
    const port = await far.call<number>('listen');
    await near.call('create', { ways, settings });
    return new Pair(near, far, port);
  }

  /** @returns the time of each connect in nanoseconds */
  async connect(count = 1): Promise<number[]> {
    const took = await this.near.call<number[]>('connect', { port: this.port, count });
    this.connections += count;
    await this.far.call('accepted', this.connections);
    return took;
  }

  async both(name: string, argument?: unknown): Promise<void> {
    await Promise.all([this.near.call(name, argument), this.far.call(name, argument)]);
  }

  async latency(size: number, milliseconds: number, batch: number): Promise<number[]> {
    await this.far.call('echo', size);
    const samples = await this.near.call<number[]>('latency', { size, milliseconds, batch });
    await this.near.call('endRun');
    await this.far.call('ended');
    return samples;
  }

  async stream(size: number, milliseconds: number): Promise<void> {
    await this.far.call('sink', size);
    await this.near.call('stream', { size, milliseconds });
    await this.near.call('endRun');
    await this.far.call('ended');
  }

  async end(): Promise<void> {
    await Promise.allSettled([this.near.call('close'), this.far.call('close')]);
    await Promise.all([this.near.end(), this.far.end()]);
  }
}

async function withPair<T>(context: Context, options: PairOptions, use: (pair: Pair) => Promise<T>): Promise<T> {
  const pair = await Pair.start(context, options);
  try {
    return await use(pair);
  } finally {
    await pair.end();
  }
}

const core: Kind = {
  name: 'core',
  title: 'parts of the core',
  async run({ run, say }) {
    const probe = startEnd('probe', 'core', run);
    try {
      await probe.call('pin', 0);
      const one = (name: string, argument?: unknown) => probe.call<number>(name, argument);
      say('core.call', 'a call into the core', await one('callIntoWasm'), 'ns');
      say('core.ring', 'ring alone in Wasm, 8 B: claim, commit, peek, release', await one('ringInWasm'), 'ns');
      say('core.js8', 'the same from JavaScript with both copies, 8 B', await one('ringFromJs', 8), 'ns');
      say('core.js64k', 'the same, 65,000 B, ring of 256 KiB', await one('ringFromJs', 65_000), 'ns');
      const ring = await one('copying', { size: 65_536, area: 256 * 1024 });
      say('core.copy', 'copy, 64 KiB into an area of 256 KiB', ring, 'B/s');
      say(
        'core.copyFar',
        'copy, 64 KiB into an area of 64 MiB',
        await one('copying', { size: 65_536, area: 1 << 26 }),
        'B/s',
      );
    } finally {
      await probe.end();
    }
  },
};

const connecting: Kind = {
  name: 'connect',
  title: 'connect, suspend, resume',
  async run(context) {
    await withPair(context, {}, async (pair) => {
      await pair.connect();
      const took = await pair.connect(context.quick ? 30 : 100);
      context.say('connect', 'connect (handshake and rings), median', median(took), 'ns');
    });
    await withPair(context, {}, async (pair) => {
      await pair.connect(4);
      const suspend: number[] = [];
      const resume: number[] = [];
      for (let i = 0; i < (context.quick ? 3 : 9); i++) {
        suspend.push(await pair.near.call<number>('suspend'));
        resume.push(await pair.near.call<number>('resume'));
      }
      context.say('suspend', 'suspend a runtime with 4 connections, median', median(suspend), 'ns');
      context.say('resume', 'resume it, median', median(resume), 'ns');
    });
  },
};

/** Longer than a runtime spins. */
const ASLEEP_MS = 20;

const waking: Kind = {
  name: 'wake',
  title: 'a message to a sleeping process',
  async run(context) {
    await withPair(context, {}, async (pair) => {
      await pair.connect();
      await pair.far.call('sleepAtSocket');
      await pair.far.call('sleepAtConnection');
      const found = { socket: [] as number[], connection: [] as number[] };
      const count = context.quick ? 20 : 60;
      for (let pass = 0; pass < passes(context); pass++) {
        for (const by of ['connection', 'socket'] as const) {
          await pair.near.call('wake', { by, pause: ASLEEP_MS, count });
          const { p50, count: heard } = await pair.far.call<{ p50: number; count: number }>('ages');
          if (heard !== count) throw new Error(`${heard} of ${count} messages woke`);
          found[by].push(p50);
        }
      }
      context.say('wake.isthmus', 'message to a sleeping process, one way, median', median(found.connection), 'ns');
      context.say('wake.unix', 'the same over a Unix-domain socket', median(found.socket), 'ns');
    });
  },
};

const idle: Kind = {
  name: 'idle',
  title: 'idle connections',
  async run(context) {
    const settings = { shmSize: 64 << 20, ringSize: 4096 };
    await withPair(context, { settings }, async (pair) => {
      await pair.connect();
      const [before, frames] = [await pair.far.call<number>('memory'), await pair.far.call<number>('freeFrames')];
      await pair.connect(99);
      await sleep(1500);
      const cpu = await pair.far.call<number>('cpu');
      const wait = context.quick ? 2000 : 6000;
      await sleep(wait);
      const used = (await pair.far.call<number>('cpu')) - cpu;
      context.say('idle.cpu', 'processor time with 100 idle connections', used / 1000 / wait, 'of a core');
      await pair.connect(900);
      const after = await pair.far.call<number>('memory');
      context.say('idle.memory', 'memory of the process per idle connection', (after - before) / 999, 'B');
      const taken = (frames - (await pair.far.call<number>('freeFrames'))) * 4096;
      context.say('idle.region', 'region per idle connection, both rings (of 4 KiB)', taken / 999, 'B');
    });
    // A busy connection alone and with idle ones, in turns.
    const alone = await Pair.start(context, { settings });
    const among = await Pair.start(context, { settings });
    try {
      await alone.connect();
      await among.connect(1001);
      for (const [form, title] of [
        ['into', 'polled'],
        ['await', 'await'],
      ] as const) {
        const times = { alone: new Times(), among: new Times() };
        for (let pass = 0; pass < passes(context); pass++) {
          for (const [name, pair] of [
            ['alone', alone],
            ['among', among],
          ] as const) {
            await pair.both('play', { index: 0, form });
            times[name].addAll(await pair.latency(8, span(context), form === 'into' ? 32 : 4));
          }
        }
        context.say(`busy.${form}.alone`, `8 B, ${title}, one connection`, times.alone.percentile(50), 'ns');
        context.say(`busy.${form}.among`, `8 B, ${title}, with 1,000 idle ones`, times.among.percentile(50), 'ns');
      }
    } finally {
      await Promise.all([alone.end(), among.end()]);
    }
  },
};

const timers: Kind = {
  name: 'timer',
  title: 'a timer under full load',
  async run(context) {
    for (const [form, title] of [
      ['into', 'polled'],
      ['await', 'await'],
    ] as const) {
      await withPair(context, {}, async (pair) => {
        await pair.connect();
        await pair.both('play', { index: 0, form });
        await pair.both('startTimer');
        await pair.stream(64, context.quick ? 1000 : 3000);
        const [near, far] = await Promise.all(
          [pair.near, pair.far].map((end) => end.call<{ p99: number }>('stopTimer')),
        );
        context.say(
          `timer.${form}.send`,
          `1 ms timer of the sender of 64 B, ${title}: delay, p99`,
          near?.p99 ?? NaN,
          'ns',
        );
        context.say(`timer.${form}.receive`, `1 ms timer of the receiver, ${title}: delay, p99`, far?.p99 ?? NaN, 'ns');
      });
    }
  },
};

/** Size of the young generation: one byte of garbage per message causes one collection in a million messages. */
const SEMI_SPACE_MIB = 1;
/** Pause before and after the counted messages: the trace and the clock of the process start at different times. */
const MARGIN_MS = 150;
const SETTLE_MS = 300;

/** Number of collections in the trace of a process between two times in milliseconds. */
function collectionsIn(trace: string, from: number, to: number): number {
  const times = [...trace.matchAll(/^\[\d+:[^\]]*\]\s+(\d+) ms: (?:Scavenge|Mark-)/gm)].map(([, time]) => Number(time));
  return times.filter((time) => time > from && time < to).length;
}

const garbage: Kind = {
  name: 'garbage',
  title: 'garbage per message',
  async run(context) {
    const count = context.quick ? 200_000 : 1_000_000;
    for (const form of ['into', 'poll'] as const) {
      const node = ['--trace-gc', `--max-semi-space-size=${SEMI_SPACE_MIB}`, `--min-semi-space-size=${SEMI_SPACE_MIB}`];
      const traces = { near: '', far: '' };
      const at = { near: [0, 0], far: [0, 0] };
      await withPair(context, { near: node, far: node, silent: true }, async (pair) => {
        for (const end of ['near', 'far'] as const) {
          pair[end].onOutput((text) => {
            traces[end] += text;
          });
        }
        await pair.connect();
        await pair.both('play', { index: 0, form });
        await pair.far.call('echo', 8);
        await pair.near.call('rounds', { size: 8, count: 100_000 });
        await sleep(SETTLE_MS);
        for (const end of ['near', 'far'] as const) at[end][0] = await pair[end].call<number>('uptime');
        await sleep(MARGIN_MS);
        await pair.near.call('rounds', { size: 8, count });
        await sleep(MARGIN_MS);
        for (const end of ['near', 'far'] as const) at[end][1] = await pair[end].call<number>('uptime');
        await sleep(SETTLE_MS);
        await pair.near.call('endRun');
        await pair.far.call('ended');
      });
      for (const [end, role] of [
        ['near', 'initiator'],
        ['far', 'responder'],
      ] as const) {
        if (!traces[end].includes('[')) throw new Error('there is no trace of the garbage collector');
        const [from = 0, to = 0] = at[end];
        const found = collectionsIn(traces[end], from, to);
        const most = ((found + 1) * SEMI_SPACE_MIB * 2 ** 20) / count;
        context.say(
          `garbage.${form}.${end}`,
          `collections (of ${SEMI_SPACE_MIB} MiB) in ${count / 1e6} M round trips, ${form}, ${role}`,
          found,
          '',
        );
        context.say(`garbage.${form}.${end}.bytes`, `garbage per round trip at most, ${form}, ${role}`, most, 'B');
      }
    }
  },
};

const KINDS: readonly Kind[] = [core, connecting, waking, idle, timers, garbage];

export const runMeasures = {
  /** @returns the number of steps, and the function that performs them */
  prepare(plan: Plan, run: RunOptions) {
    const kinds = KINDS.filter(({ name }) => wanted(name, plan.only));
    return {
      total: kinds.length,
      async run(step: (what: string) => void): Promise<{ measures: Measure[]; failed: string[] }> {
        const measures: Measure[] = [];
        const failed: string[] = [];
        const say: Say = (name, title, value, unit) => measures.push({ name, title, value, unit });
        for (const kind of kinds) {
          step(kind.title);
          try {
            await kind.run({ run, quick: plan.quick, say });
          } catch (error) {
            failed.push(`${kind.title}: ${(error as Error).message}`);
          }
        }
        return { measures, failed };
      },
    };
  },
};

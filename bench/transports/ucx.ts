/** `ucx_perftest` of UCX over its transport `posix`: a library in C that polls shared memory as Isthmus does. */
import { setTimeout as sleep } from 'node:timers/promises';
import { during, find, output } from './programs.js';
import type { EndOptions, Transport } from './transport.js';

const ENV = { UCX_TLS: 'posix,self', UCX_WARN_UNUSED_ENV_VARS: 'n' };
/** The server needs some time to listen: the client tries again after each pause. */
const RETRY_PAUSE_MS = 100;
const MAX_TRIES = 20;

interface Line {
  /** Median half round trip in nanoseconds. */
  readonly median: number;
  /** Messages per second. */
  readonly rate: number;
}

/** `ucx_perftest -f -v` prints the names of its columns, then one line. */
function parse(text: string): Line {
  const [names, values] = text
    .trim()
    .split('\n')
    .slice(-2)
    .map((line) => line.split(','));
  const value = (name: string) => {
    const place = names?.indexOf(name) ?? -1;
    const number = Number(values?.[place]);
    if (place < 0 || !Number.isFinite(number)) throw new Error(`ucx_perftest printed no ${name}: ${text}`);
    return number;
  };
  return { median: value('50.0_percentile_lat') * 1000, rate: value('overall_mr') };
}

async function run({ cpus }: EndOptions, port: number, test: string, size: number, count: number): Promise<Line> {
  const on = (end: 0 | 1) => (cpus ? ['-c', String(cpus[end])] : []);
  const ask = ['127.0.0.1', '-p', String(port), '-t', test, '-s', String(size), '-f', '-v'];
  const warm = ['-n', String(count), '-w', String(Math.ceil(count / 10))];
  return during('ucx_perftest', ['-p', String(port), ...on(1)], ENV, async () => {
    for (let tries = 1; ; tries++) {
      await sleep(RETRY_PAUSE_MS);
      try {
        return parse(await output('ucx_perftest', [...ask, ...warm, ...on(0)], ENV));
      } catch (error) {
        if (tries === MAX_TRIES) throw error;
      }
    }
  });
}

export const ucx: Transport = {
  name: 'ucx',
  title: 'UCX 1.13 posix, tag matching',
  ours: false,
  pinsItself: true,
  missing: () => (find('ucx_perftest') ? undefined : 'apt-get install ucx-utils'),
  async near(options) {
    let port = 20_000 + (process.pid % 10_000);
    /** Nanoseconds per message in the last run, by test and size. */
    const took = new Map<string, number>();
    const measure = async (test: string, size: number, milliseconds: number) => {
      const key = `${test} ${size}`;
      const guess = took.get(key) ?? 500 + size / 5;
      const line = await run(options, port++, test, size, Math.max(20, Math.ceil((milliseconds * 1e6) / guess)));
      took.set(key, 1e9 / line.rate);
      return line;
    };
    return {
      // The median of ucx_perftest itself: it does not print the samples.
      latency: async (size, milliseconds) => [(await measure('tag_lat', size, milliseconds)).median],
      async throughput(size, milliseconds) {
        const { rate } = await measure('tag_bw', size, milliseconds);
        return { sent: [1e9 / rate] };
      },
      async close() {},
    };
  },
};

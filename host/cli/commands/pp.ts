/** `isthmus pp`: ping-pong, both sides of it. C pscom's ping-pong can be at the other end, over tcp. */
import type { Command } from 'commander';
import { type Connection, Runtime } from '../../index.js';
import { aborted, address, exitCodeOf, integer, port, stopSignal } from '../support/args.js';
import {
  bytes,
  type Column,
  complain,
  describeError,
  duration,
  nobodyReads,
  rate,
  renderRow,
  say,
  UsageError,
} from '../support/output.js';
import { Echo, Ping } from '../support/pingpong.js';

/** How long a round may take when nobody says how many loops, in milliseconds. */
const ROUND = 200;
/** Messages that are verified when nobody says how many. */
const VERIFIED = 200;
const LARGEST = 2 ** 32 - 1;

interface Options {
  readonly listen?: number;
  readonly host?: string;
  readonly once?: boolean;
  readonly loops?: number;
  readonly minSize?: number;
  readonly maxSize?: number;
  readonly xheader?: number;
  readonly timeout?: number;
  readonly verify?: boolean;
  readonly json?: boolean;
}

const LISTENING = ['host', 'once'] as const;
const CONNECTING = ['loops', 'minSize', 'maxSize', 'xheader', 'timeout', 'verify', 'json'] as const;

const flag = (name: string) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

function checkRole(to: string | undefined, options: Options): void {
  if ((to === undefined) === (options.listen === undefined)) {
    throw new UsageError('either HOST:PORT or --listen PORT is wanted');
  }
  const wrong = (to === undefined ? CONNECTING : LISTENING).find((name) => options[name] !== undefined);
  if (wrong) throw new UsageError(`${flag(wrong)} does not go with ${to === undefined ? '--listen' : 'HOST:PORT'}`);
}

async function listen({ listen: at, host = '127.0.0.1', once = false }: Options & { listen: number }): Promise<number> {
  const stop = stopSignal();
  await using runtime = await Runtime.create({ name: 'pp' });
  const echo = new Echo(runtime);
  let code = 0;
  const ended = new AbortController();
  stop.addEventListener('abort', () => ended.abort(), { once: true });
  const listening = await runtime.listen({ port: at, host }, async (connection) => {
    if (once) await listening.close();
    try {
      await echo.serve(connection);
    } catch (error) {
      complain(describeError(error));
      if (once) code = 1;
    } finally {
      await connection.close().catch(() => {});
      if (once) ended.abort();
    }
  });
  say(
    `isthmus: echoing on ${listening.host.includes(':') ? `[${listening.host}]` : listening.host}:${listening.port}\n`,
  );
  await aborted(ended.signal);
  // Those who stop it by a signal want it gone, not to wait for peers that do not answer.
  await runtime.close({ timeout: 500 });
  return code;
}

interface Row {
  readonly size: number;
  readonly loops: number;
  readonly halfRoundTripNs: number;
  readonly bytesPerSecond: number;
  readonly plugin: string;
}

const COLUMNS: readonly Column[] = [
  { title: 'size', width: 10, right: true },
  { title: 'loops', width: 9, right: true },
  { title: 'half round trip', width: 15, right: true },
  { title: 'throughput', width: 11, right: true },
  { title: 'plugin', width: 9 },
];

function shape({ minSize = 1, maxSize = Math.max(minSize, 1 << 20), xheader = 12 }: Options) {
  return { minSize, maxSize, xheader };
}

/** `from`, then doubling up to `to`. */
function sizes(from: number, to: number): number[] {
  const list: number[] = [];
  for (let size = from; size <= to; size = size === 0 ? 1 : size * 2) list.push(size);
  return list;
}

async function measure(connection: Connection, ping: Ping, size: number, { loops, verify }: Options): Promise<Row> {
  await ping.between();
  const round = verify ? await ping.verify(size, loops ?? VERIFIED) : await ping.round(size, loops, ROUND);
  const { halfRoundTripNs } = round;
  return {
    size,
    loops: round.loops,
    halfRoundTripNs: Math.round(halfRoundTripNs * 10) / 10,
    bytesPerSecond: halfRoundTripNs > 0 ? Math.round((size * 1e9) / halfRoundTripNs) : 0,
    plugin: connection.plugin,
  };
}

async function connect(to: string, options: Options): Promise<number> {
  const { timeout = 30 } = options;
  const { minSize, maxSize, xheader } = shape(options);
  if (minSize > maxSize) throw new UsageError(`--min-size ${minSize} is over --max-size ${maxSize}`);
  const stop = stopSignal();
  try {
    await using runtime = await Runtime.create({ name: 'pp' });
    const connection = await runtime.connect(to, { signal: stop });
    const ping = new Ping(runtime, connection, { xheader, timeout: timeout * 1000, signal: stop });
    await play(to, connection, ping, options);
    await connection.close();
    return 0;
  } catch (error) {
    if (stop.aborted) return exitCodeOf(stop.reason);
    throw error;
  }
}

async function play(to: string, connection: Connection, ping: Ping, options: Options): Promise<void> {
  const { minSize, maxSize, xheader } = shape(options);
  const json = options.json ?? false;
  const rows: Row[] = [];
  if (!json) {
    const why = connection.why === undefined ? '' : `; ${connection.why}`;
    say(`${to} over ${connection.plugin}, xheader ${xheader} B${options.verify ? ', verified' : ''}${why}\n`);
    say(
      renderRow(
        COLUMNS,
        COLUMNS.map(({ title }) => title),
      ),
    );
  }
  for (const size of sizes(minSize, maxSize)) {
    if (nobodyReads()) break;
    const row = await measure(connection, ping, size, options);
    rows.push(row);
    if (json) continue;
    const half = duration(row.halfRoundTripNs);
    say(renderRow(COLUMNS, [bytes(size), String(row.loops), half, rate(row.bytesPerSecond), row.plugin]));
  }
  if (json) say(`${JSON.stringify(rows)}\n`);
}

export function addPp(program: Command, exit: (code: number) => void): void {
  program
    .command('pp')
    .summary('ping-pong: how long a message takes')
    .description(
      'Measure the half round trip of messages, as the ping-pong of pscom does. One side listens and echoes every ' +
        'message with its xheader; the other sends messages of growing size and prints a row for each size.',
    )
    .argument('[HOST:PORT]', 'where the other side listens', address)
    .option('--listen <PORT>', 'listen and echo; 0: any free port, which is printed', port)
    .option('--host <HOST>', 'address to listen at (default 127.0.0.1: peers are not authenticated)')
    .option('--once', 'with --listen: end when the first connection has ended')
    .option(
      '--loops <N>',
      `round trips for each size (default: as many as take ${ROUND} ms; from 100 on they are warmed up first)`,
      integer(1, 1e9, 'A number of loops'),
    )
    .option(
      '--min-size <B>',
      'smallest message in bytes; the size doubles from there (default 1)',
      integer(0, LARGEST, 'A size'),
    )
    .option('--max-size <B>', 'largest message in bytes (default 1048576)', integer(0, LARGEST, 'A size'))
    .option('--xheader <B>', 'bytes of the header beside the data (default 12)', integer(0, 65535, 'A length'))
    .option('--timeout <S>', 'how long to wait for an answer, in seconds (default 30)', integer(1, 86400, 'A time'))
    .option(
      '--verify',
      `change the content of every message and compare the answers (default ${VERIFIED} loops); the time includes that`,
    )
    .option('--json', 'print one JSON array of { size, loops, halfRoundTripNs, bytesPerSecond, plugin }')
    .addHelpText(
      'after',
      `
Example:
  $ isthmus server -s demo -m 64 &          # without a region it goes over tcp
  $ isthmus pp --listen 7100 &
  $ isthmus pp 127.0.0.1:7100 --min-size 8 --max-size 65536`,
    )
    .action(async (to: string | undefined, options: Options) => {
      checkRole(to, options);
      if (to !== undefined) exit(await connect(to, options));
      else if (options.listen !== undefined) exit(await listen({ ...options, listen: options.listen }));
    });
}

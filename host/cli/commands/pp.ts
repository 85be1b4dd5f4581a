/** `isthmus pp`: ping-pong, both sides. The ping-pong of pscom can be the peer, over tcp. */
import type { Command } from 'commander';
import { type Connection, Runtime } from '../../index.js';
import { integer, peerAddress, port } from '../support/args.js';
import { Echo } from '../support/echo.js';
import { describeError } from '../support/error-text.js';
import { UsageError } from '../support/errors.js';
import { type Exit, withExamples } from '../support/help.js';
import { isOutputClosed, print, printError, printJsonLine } from '../support/output.js';
import { Ping } from '../support/ping.js';
import { aborted, stopSignal, untilStopped } from '../support/signals.js';
import { type Column, renderRow } from '../support/table.js';
import { bytes, duration, hostAndPort, rate } from '../support/units.js';

/** Length of a round without `--loops`. */
const ROUND_MS = 200;
/** Loops of `--verify` without `--loops`. */
const VERIFIED_LOOPS = 200;
const DEFAULT_TIMEOUT_S = 30;
const MAX_SIZE = 2 ** 32 - 1;
/** For a close after a signal: a peer that does not answer is not waited for. */
const CLOSE_TIMEOUT_MS = 500;

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

/** Options of the side that listens, and of the side that connects. */
const LISTENING = ['host', 'once'] as const;
const CONNECTING = ['loops', 'minSize', 'maxSize', 'xheader', 'timeout', 'verify', 'json'] as const;

const flag = (name: string) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

/** @throws UsageError for options of the other side */
function checkOptions(to: string | undefined, options: Options): void {
  if ((to === undefined) === (options.listen === undefined)) {
    throw new UsageError('expected either HOST:PORT or --listen PORT');
  }
  const wrong = (to === undefined ? CONNECTING : LISTENING).find((name) => options[name] !== undefined);
  if (wrong) throw new UsageError(`${to === undefined ? '--listen' : 'HOST:PORT'} excludes ${flag(wrong)}`);
}

/** @returns the exit code */
async function listen({ listen: at, host = '127.0.0.1', once = false }: Options & { listen: number }): Promise<number> {
  using stop = stopSignal();
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
      printError(describeError(error));
      if (once) code = 1;
    } finally {
      await connection.close().catch(() => {});
      if (once) ended.abort();
    }
  });
  print(`isthmus: echoing on ${hostAndPort(listening)}\n`);
  await aborted(ended.signal);
  await runtime.close({ timeout: CLOSE_TIMEOUT_MS });
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

/** `from`, and doubled up to `to`. */
function sizes(from: number, to: number): number[] {
  const list: number[] = [];
  for (let size = from; size <= to; size = size === 0 ? 1 : size * 2) list.push(size);
  return list;
}

async function measure(connection: Connection, ping: Ping, size: number, { loops, verify }: Options): Promise<Row> {
  await ping.between();
  const round = verify ? await ping.verify(size, loops ?? VERIFIED_LOOPS) : await ping.round(size, loops, ROUND_MS);
  const { halfRoundTripNs } = round;
  return {
    size,
    loops: round.loops,
    halfRoundTripNs: Math.round(halfRoundTripNs * 10) / 10,
    bytesPerSecond: halfRoundTripNs > 0 ? Math.round((size * 1e9) / halfRoundTripNs) : 0,
    plugin: connection.plugin,
  };
}

/** @returns the exit code */
async function connect(to: string, options: Options): Promise<number> {
  const { timeout = DEFAULT_TIMEOUT_S } = options;
  const { minSize, maxSize, xheader } = shape(options);
  if (minSize > maxSize) throw new UsageError(`--min-size ${minSize} is greater than --max-size ${maxSize}`);
  using stop = stopSignal();
  return await untilStopped(stop, async () => {
    await using runtime = await Runtime.create({ name: 'pp' });
    const connection = await runtime.connect(to, { signal: stop });
    const ping = new Ping(runtime, connection, { xheader, timeout: timeout * 1000, signal: stop });
    await play(to, connection, ping, options);
    await connection.close();
  });
}

async function play(to: string, connection: Connection, ping: Ping, options: Options): Promise<void> {
  const { minSize, maxSize, xheader } = shape(options);
  const json = options.json ?? false;
  const rows: Row[] = [];
  if (!json) {
    const why = connection.why === undefined ? '' : `; ${connection.why}`;
    const titles = COLUMNS.map(({ title }) => title);
    print(`${to} over ${connection.plugin}, xheader ${xheader} B${options.verify ? ', verified' : ''}${why}\n`);
    print(renderRow(COLUMNS, titles));
  }
  for (const size of sizes(minSize, maxSize)) {
    if (isOutputClosed()) break;
    const row = await measure(connection, ping, size, options);
    rows.push(row);
    if (json) continue;
    const half = duration(row.halfRoundTripNs);
    print(renderRow(COLUMNS, [bytes(size), String(row.loops), half, rate(row.bytesPerSecond), row.plugin]));
  }
  if (json) printJsonLine(rows);
}

export function addPp(program: Command, exit: Exit): void {
  const command = program
    .command('pp')
    .summary('measure how long a message takes (ping-pong)')
    .description(
      'Measure the half round trip of messages, as the ping-pong of pscom does. One side listens, and echoes each message ' +
        'with its xheader. The other side sends messages of growing size, and prints a row for each size.',
    )
    .argument('[HOST:PORT]', 'where the other side listens', peerAddress)
    .option('--listen <PORT>', 'listen and echo; 0: any free port, which is printed', port)
    .option('--host <HOST>', 'address to listen at (default: 127.0.0.1, because peers are not authenticated)')
    .option('--once', 'with --listen: end when the first connection has ended')
    .option(
      '--loops <N>',
      `round trips for each size (default: as many as take ${ROUND_MS} ms); with 100 or more there is a warm-up`,
      integer(1, 1e9),
    )
    .option(
      '--min-size <B>',
      'smallest message in bytes, from which the size doubles (default: 1)',
      integer(0, MAX_SIZE),
    )
    .option('--max-size <B>', 'largest message in bytes (default: 1048576)', integer(0, MAX_SIZE))
    .option('--xheader <B>', 'bytes of the xheader of each message (default: 12)', integer(0, 65535))
    .option(
      '--timeout <S>',
      `how long to wait for an answer, in seconds (default: ${DEFAULT_TIMEOUT_S})`,
      integer(1, 86400),
    )
    .option(
      '--verify',
      `send other content in each message, and compare the answers (default: ${VERIFIED_LOOPS} loops); the time includes both`,
    )
    .option('--json', 'print one JSON array of { size, loops, halfRoundTripNs, bytesPerSecond, plugin }');
  withExamples(
    command,
    `
  $ isthmus pp --listen 7100 &
  $ isthmus pp 127.0.0.1:7100 --min-size 8 --max-size 65536
  $ PSP_SHM=0 PSP_IVSHMEM_REGIONS=demo isthmus pp 127.0.0.1:7100    # both sides: through a region of 'isthmus server'`,
  ).action(async (to: string | undefined, options: Options) => {
    checkOptions(to, options);
    if (to !== undefined) exit(await connect(to, options));
    else if (options.listen !== undefined) exit(await listen({ ...options, listen: options.listen }));
  });
}

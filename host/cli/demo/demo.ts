/**
 * `isthmus demo`, which `npm start` runs: a region server and two peers as processes of their own, a file from one peer to
 * the other, a migration of one of two that talk (demo-migration.ts), and what a message takes, beside a Unix-domain
 * socket.
 *
 * The processes are this program again, with `--role`; what each of them does is in roles.ts.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync, statfsSync, statSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import cliProgress from 'cli-progress';
import { type Command, Option } from 'commander';
import { IsthmusError } from '../../base/errors.js';
import { SHM } from '../../device/posix.js';
import { exitCodeOf, stopSignal } from '../support/args.js';
import { bytes, CliError, duration, indent, rate, renderTable, say } from '../support/output.js';
import { median } from '../support/pingpong.js';
import { Actor, type Stage } from './actor.js';
import { OTHER_MB, showMigration } from './demo-migration.js';
import { playRole, type Role } from './roles.js';

const REGION_MB = 64;
/** The least that the file must have, in bytes. */
const ENOUGH = 50_000_000;
/** For all of it, in milliseconds. */
const LIMIT = 240_000;
const BUSY = 'Is the machine very busy? Try again.';
const SIZES = [8, 1024, 65536] as const;
/** How often the two ways take turns. */
const PASSES = 5;
/** Of one measurement, in milliseconds. */
const SPAN = 60;

function checkSpace(): void {
  let free: number;
  try {
    const { bavail, bsize } = statfsSync(SHM);
    free = bavail * bsize;
  } catch {
    throw new CliError(
      `there is no ${SHM} here, which the simulated device of the demo lies in`,
      'Regions need Linux.',
    );
  }
  const needed = (REGION_MB + OTHER_MB) * 2 ** 20;
  if (free < needed) {
    throw new IsthmusError(
      'ERR_ISTHMUS_REGION_NO_SPACE',
      `${SHM} has ${bytes(free)} free, the regions of the demo need ${bytes(needed)}`,
      { path: SHM, needed, available: free },
    );
  }
}

/** Percentages at which a line is printed when there is no terminal to draw a bar on. */
const MARKS = [25, 50, 75, 100];

/** @returns what to call with the bytes so far, and at the end without any */
function progressBar(total: number): (done?: number) => void {
  if (!process.stdout.isTTY) {
    const marks = [...MARKS];
    return (done) => {
      while (done !== undefined && marks[0] !== undefined && (done / total) * 100 >= marks[0]) {
        say(`  ${String(marks.shift()).padStart(3)} %\n`);
      }
    };
  }
  const bar = new cliProgress.SingleBar(
    { format: '  {bar} {percentage} %  {mb} of {all} MB', stream: process.stdout, hideCursor: true },
    cliProgress.Presets.shades_classic,
  );
  const all = Math.round(total / 1e6);
  bar.start(total, 0, { mb: 0, all });
  return (done) => (done === undefined ? bar.stop() : bar.update(done, { mb: Math.round(done / 1e6) }));
}

/** Move a file. @throws CliError unless it went through the region and arrived as it was */
async function transfer(stage: Stage, receiver: Actor, sender: Actor, total: number): Promise<void> {
  const bar = progressBar(total);
  try {
    const [sent, received] = await Promise.all([
      sender.report('sent', stage.signal),
      receiver.report('received', stage.signal, (report) => {
        if (report.kind === 'progress') bar(report.bytes);
      }),
    ]);
    bar(received.bytes);
    bar();
    const seconds = sent.milliseconds / 1000;
    say(
      `  ${bytes(received.bytes)} in ${seconds.toFixed(2)} s, ${rate(received.bytes / seconds)}, hashed at both ends and written\n`,
    );
    say(`  SHA-256 sent      ${sent.sha256}\n  SHA-256 received  ${received.sha256}\n`);
    if (sent.sha256 !== received.sha256 || received.bytes !== total || received.written !== total) {
      throw new CliError(`the file did not arrive as it was: ${received.bytes} of ${total} bytes`);
    }
    say('  They are equal.\n\n');
  } finally {
    bar();
  }
}

/** Ping-pong through the region and through a Unix-domain socket, in turns. */
async function race(stage: Stage, port: number): Promise<void> {
  const path = join(stage.folder, 'socket');
  const socketEcho = stage.start('socket echo', { path });
  await socketEcho.report('ready', stage.signal);
  const socket = stage.start('socket ping', { path });
  const region = stage.start('region ping', { port });
  await Promise.all([socket.report('ready', stage.signal), region.report('ready', stage.signal)]);
  const rows: string[][] = [];
  for (const size of SIZES) {
    const times = { region: [] as number[], socket: [] as number[] };
    for (let pass = 0; pass < PASSES; pass++) {
      for (const [way, actor] of [
        ['region', region],
        ['socket', socket],
      ] as const) {
        actor.tell({ size, milliseconds: SPAN });
        times[way].push((await actor.report('measured', stage.signal)).halfRoundTripNs);
      }
    }
    const [through, plain] = [median(times.region), median(times.socket)];
    const ratio = plain / through;
    rows.push([bytes(size), duration(through), duration(plain), `1/${ratio.toFixed(ratio < 10 ? 1 : 0)}`]);
  }
  say('Ping-pong between two processes, half round trip, both sides polling the region:\n');
  const table = renderTable(
    [
      { title: 'size', right: true },
      { title: 'region', right: true },
      { title: 'Unix socket', right: true },
      { title: 'ratio', right: true },
    ],
    rows,
  );
  say(`${indent(table)}\n`);
}

async function play(stage: Stage): Promise<void> {
  const file = process.execPath;
  const total = statSync(file).size;
  const name = stage.region.slice(SHM.length + 1);
  const server = stage.start('region server', { name, megabytes: REGION_MB });
  await server.report('ready', stage.signal);
  say(`Region server: ${stage.region}, ${REGION_MB} MiB\n`);

  const receiver = stage.start('receiver', { output: join(stage.folder, 'received') });
  const { port } = await receiver.report('listening', stage.signal);
  const sender = stage.start('sender', { file, port });
  const { plugin, why, peer } = await sender.report('connected', stage.signal);
  say(
    `Two peers have found each other over 127.0.0.1:${port}: process ${peer} and its new neighbour, over plugin ${plugin}\n\n`,
  );
  if (plugin !== 'ivshmem') {
    throw new CliError(`the peers use ${plugin}, not ivshmem: ${why ?? 'no reason given'}`, "Look at 'isthmus info'.");
  }
  const small = total < ENOUGH ? `, which is smaller than the ${bytes(ENOUGH)} that were wanted` : '';
  say(`Transfer of ${file}, ${bytes(total)}${small}:\n`);
  await transfer(stage, receiver, sender, total);
  // From here on they would only take processor time from those who measure.
  await Promise.all([sender.end(), receiver.end()]);

  await showMigration(stage);

  if (availableParallelism() < 2) say("(There is one processor: two sides that poll get in each other's way.)\n");
  const echo = stage.start('region echo', {});
  await race(stage, (await echo.report('listening', stage.signal)).port);
}

/** @returns the exit code */
async function demo(): Promise<number> {
  const started = performance.now();
  checkSpace();
  const stop = stopSignal();
  const region = join(SHM, `isthmus-demo-${process.pid}-${randomBytes(4).toString('hex')}`);
  // The demo is the same for everybody, whatever is configured.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('PSP_')));
  env['PSP_IVSHMEM_REGIONS'] = region;
  // What two machines would use is the point here; processes of one user would meet over shm.
  env['PSP_SHM'] = '0';
  const actors: Actor[] = [];
  // Not AbortSignal.any and .timeout: Node 20 forgets about such signals when it collects garbage.
  const ending = new AbortController();
  const late = setTimeout(
    () => ending.abort(new CliError(`the demo was not done after ${LIMIT / 1000} s`, BUSY)),
    LIMIT,
  );
  stop.addEventListener('abort', () => ending.abort(stop.reason), { once: true });
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-demo-'));
  try {
    await play({
      region,
      folder,
      signal: ending.signal,
      start: (role, args, more) => {
        const actor = new Actor(role, args, { ...env, ...more });
        actors.push(actor);
        return actor;
      },
    });
    say(`All of it was right. ${((performance.now() - started) / 1000).toFixed(1)} s\n`);
    return 0;
  } catch (error) {
    if (stop.aborted) return exitCodeOf(stop.reason);
    throw error;
  } finally {
    clearTimeout(late);
    // The servers last: the others hold on to their regions.
    const serves = ({ role }: Actor) => role === 'region server';
    await Promise.all(actors.filter((actor) => !serves(actor)).map((actor) => actor.end()));
    await Promise.all(actors.filter(serves).map((actor) => actor.end()));
    for (const name of readdirSync(SHM))
      if (join(SHM, name).startsWith(region)) rmSync(join(SHM, name), { force: true });
    rmSync(folder, { recursive: true, force: true });
  }
}

export function addDemo(program: Command, exit: (code: number) => void): void {
  program
    .command('demo')
    .summary('set up two peers and a region, and show what they do')
    .description(
      'Start a region server and two peers, send a file of some 100 MB (this node) from one to the other, compare its ' +
        'SHA-256 at both ends; suspend and resume one of two peers that talk, as for a migration to another host and ' +
        'back, and count their messages; measure messages through the region and through a Unix-domain socket. Leaves ' +
        'nothing behind; exit code 0 if all of it was right.',
    )
    .addOption(new Option('--role <ROLE...>').hideHelp())
    .addHelpText(
      'after',
      `
Example:
  $ isthmus demo`,
    )
    .action(async ({ role }: { role?: [Role, string] }) => {
      exit(role ? await playRole(role[0], role[1]) : await demo());
    });
}

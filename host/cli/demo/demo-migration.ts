/**
 * The migration that `isthmus demo` shows: of two peers that stream messages to each other one goes to another host, and
 * comes back.
 *
 * A host is a region here. What a virtual machine sees of the host that it is on is a "seat": a path of its own, at which
 * the region of that host is linked. (test/support/hosts.ts is the same for tests.)
 */
import { linkSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import { hostname } from 'node:os';
import { basename } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { Feedback } from '../../control/payload.js';
import { Watcher } from '../../control/watcher.js';
import { startBroker } from '../commands/broker.js';
import { CliError, complain, indent, renderTable, say } from '../support/output.js';
import type { Actor, Stage } from './actor.js';
import { monotonic } from './streamer.js';

/** MiB of the region of the other host. */
export const OTHER_MB = 16;
/** How long messages stream before, between and after the migrations, in milliseconds. */
const SPAN = 250;
/** For an answer of a process, in milliseconds. It gives up by itself before that. */
const PATIENCE = 30_000;
/** Between two looks for it, in milliseconds. When it came is noted as it comes. */
const POLL = 5;
const BUG = "Please report it, with what 'isthmus info' and 'isthmus --version' print.";

/** With when it came. */
type Answer = Feedback & { readonly at: number };

/** Steers a process over MQTT, by what `isthmus suspend --pid` does it with. */
class Framework {
  readonly #watcher: Watcher;
  readonly #id: string;
  readonly #signal: AbortSignal;
  readonly #answers: Answer[];

  private constructor(watcher: Watcher, id: string, signal: AbortSignal, answers: Answer[]) {
    this.#watcher = watcher;
    this.#id = id;
    this.#signal = signal;
    this.#answers = answers;
  }

  static async open(broker: string, { pid }: Actor, signal: AbortSignal): Promise<Framework> {
    const answers: Answer[] = [];
    const watcher = await Watcher.open({
      broker,
      host: hostname(),
      log: (level, line) => {
        if (level === 'error' || level === 'warning') complain(`isthmus: ${line}\n`);
      },
      answer: (id, said) => {
        if (id === String(pid)) answers.push({ ...said, at: monotonic() });
      },
    });
    return new Framework(watcher, String(pid), signal, answers);
  }

  /** Wait until it takes requests. */
  async there(): Promise<void> {
    await this.#until(() => this.#watcher.statuses.get(this.#id)?.state === 'inactive' || undefined, 'no status');
  }

  /** @returns when it was asked, and when it has answered well */
  async ask(kind: 'suspend' | 'resume'): Promise<{ asked: number; answered: number }> {
    const asked = monotonic();
    void this.#watcher.request(this.#id, kind);
    const { outcome, reason, at } = await this.#until(() => this.#answers.shift(), `no answer to '${kind}'`);
    if (outcome !== (kind === 'suspend' ? 'ALLOWED' : 'COMPLETED')) {
      throw new CliError(`process ${this.#id} answers '${kind}' with ${outcome}${reason ? `: ${reason}` : ''}`, BUG);
    }
    return { asked, answered: at };
  }

  close(): Promise<void> {
    return this.#watcher.close();
  }

  async #until<T>(look: () => T | undefined, late: string): Promise<T> {
    for (const end = performance.now() + PATIENCE; ; await pause(POLL)) {
      this.#signal.throwIfAborted();
      const found = look();
      if (found !== undefined) return found;
      if (performance.now() > end) {
        throw new CliError(
          `process ${this.#id}: ${late} over MQTT in ${PATIENCE / 1000} s`,
          'Is the machine very busy? Try again.',
        );
      }
    }
  }
}

/** What a process has of files whose paths begin like this. */
function held({ pid }: Actor, path: string): { mappings: number; descriptors: number } {
  const mappings = readFileSync(`/proc/${pid}/maps`, 'latin1').split('\n');
  const descriptors = readdirSync(`/proc/${pid}/fd`).map((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch (error) {
      // Closed since the list was made.
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
      throw error;
    }
  });
  const count = (lines: string[]) => lines.filter((line) => line.includes(path)).length;
  return { mappings: count(mappings), descriptors: count(descriptors) };
}

interface Cast {
  readonly stage: Stage;
  readonly framework: Framework;
  readonly mover: Actor;
  readonly stayer: Actor;
  /** That of the one who moves. */
  readonly seat: string;
}

/** Somewhere to go, and over what the peers are expected to meet from there. */
interface Destination {
  readonly host: string;
  readonly region: string;
  readonly from: string;
  readonly plugin: string;
}

/** @throws CliError unless all of it was as it should be */
async function migrate(cast: Cast, { host, region, from, plugin }: Destination): Promise<void> {
  const { stage, framework, mover, stayer, seat } = cast;
  const back = Promise.all([mover.report('back', stage.signal), stayer.report('back', stage.signal)]);
  const early = back.then(() => {
    throw new CliError('the connection came back before it was suspended', BUG);
  });
  const before = held(mover, stage.region);
  if (before.mappings === 0) throw new CliError(`no mapping of the region in /proc/${mover.pid}/maps`, BUG);
  const suspended = await Promise.race([framework.ask('suspend'), early]);
  rmSync(seat);
  const after = held(mover, stage.region);
  if (after.mappings + after.descriptors > 0) {
    throw new CliError(
      `process ${mover.pid} still has ${after.mappings} mappings and ${after.descriptors} descriptors of the region`,
      BUG,
    );
  }
  linkSync(region, seat);
  const [resumed, [there, here]] = await Promise.all([framework.ask('resume'), back]);
  const events: [number, string][] = [
    [suspended.asked, 'suspend requested over MQTT'],
    [suspended.answered, 'ALLOWED'],
    [resumed.asked, `resume requested; the region of host ${host} is there`],
    [resumed.answered, 'COMPLETED'],
    [there.at, `first message to process ${mover.pid}`],
    [here.at, `first message from process ${mover.pid}`],
  ];
  const rows = events.toSorted(([a], [b]) => a - b).map(([at, what]) => [(at - suspended.asked).toFixed(1), what]);
  say(`Process ${mover.pid} moves to host ${host}: ${from} → ${there.plugin}\n`);
  say(indent(renderTable([{ title: 'ms', right: true }, { title: '' }], rows)));
  say(
    `  In /proc/${mover.pid}/maps and fd of the region: ${before.mappings} and ${before.descriptors} before, ` +
      'none when the migration was allowed\n',
  );
  for (const { why, pid } of [
    { ...there, pid: mover.pid },
    { ...here, pid: stayer.pid },
  ]) {
    if (why !== undefined) say(`  Why: ${why} (process ${pid})\n`);
  }
  say('\n');
  for (const { plugin: got, why } of [there, here]) {
    if (got !== plugin) {
      throw new CliError(`after the migration to host ${host} the peers use ${got}, not ${plugin}: ${why}`, BUG);
    }
  }
}

/** Let them come to an end, and count. @throws CliError unless everything has arrived once and in order */
async function settle({ stage, mover, stayer }: Cast): Promise<void> {
  for (const actor of [mover, stayer]) actor.tell({ stop: true });
  const [one, other] = await Promise.all([mover, stayer].map((actor) => actor.report('streamed', stage.signal)));
  if (!one || !other) throw new Error('unreachable');
  const ways = [
    { from: mover, to: stayer, sent: one.sent, got: other },
    { from: stayer, to: mover, sent: other.sent, got: one },
  ].map(({ from, to, sent, got }) => {
    const { received, doubled, disordered, damaged } = got;
    const wrong = [sent - received + doubled, doubled, disordered, damaged];
    return { wrong, row: [`${from.pid} to ${to.pid}`, sent, received, ...wrong].map(String) };
  });
  const [title, ...counts] = ['messages', 'sent', 'received', 'lost', 'doubled', 'out of order', 'damaged'];
  const columns = [{ title: title as string }, ...counts.map((count) => ({ title: count, right: true }))];
  say(
    indent(
      renderTable(
        columns,
        ways.map(({ row }) => row),
      ),
    ),
  );
  say('\n');
  if (ways.some(({ wrong }) => wrong.some((count) => count !== 0))) {
    throw new CliError('the messages did not arrive as they were sent, each once and in order', BUG);
  }
}

/** Let messages stream for a while. */
async function stream({ signal }: Stage): Promise<void> {
  await pause(SPAN);
  signal.throwIfAborted();
}

/** @throws CliError unless all of it was as it should be */
export async function showMigration(stage: Stage): Promise<void> {
  const { region, signal } = stage;
  const other = `${region}-other`;
  const seats = { mover: `${region}-mover`, stayer: `${region}-stayer` };
  const broker = await startBroker();
  const actors: Actor[] = [];
  let framework: Framework | undefined;
  try {
    const server = stage.start('region server', { name: basename(other), megabytes: OTHER_MB });
    const start = (name: keyof typeof seats, args: { port?: number } = {}) => {
      const seat = seats[name];
      linkSync(region, seat);
      const env = { PSP_IVSHMEM_REGIONS: seat, PSP_SUSPEND_RESUME: '1', PSP_MQTT_BROKER: broker.url };
      const actor = stage.start('streamer', { name, seat, ...args }, env);
      actors.push(actor);
      return actor;
    };
    const stayer = start('stayer');
    const { port } = await stayer.report('listening', signal);
    const mover = start('mover', { port });
    const met = await mover.report('connected', signal);
    if (met.plugin !== 'ivshmem') {
      throw new CliError(`the peers use ${met.plugin}, not ivshmem: ${met.why}`, "Look at 'isthmus info'.");
    }
    framework = await Framework.open(broker.url, mover, signal);
    await Promise.all([framework.there(), server.report('ready', signal)]);
    say(
      `Migration: processes ${mover.pid} and ${stayer.pid} on host A stream messages to each other, over plugin ivshmem;\n` +
        `one of them is suspended and resumed by way of an MQTT broker at ${broker.url}\n\n`,
    );
    const cast = { stage, framework, mover, stayer, seat: seats.mover };
    await stream(stage);
    await migrate(cast, { host: 'B', region: other, from: met.plugin, plugin: 'tcp' });
    await stream(stage);
    await migrate(cast, { host: 'A', region, from: 'tcp', plugin: 'ivshmem' });
    await stream(stage);
    await settle(cast);
  } finally {
    // Before the broker: they tell it that they go.
    await Promise.all(actors.map((actor) => actor.end()));
    await framework?.close();
    await broker.close();
  }
}

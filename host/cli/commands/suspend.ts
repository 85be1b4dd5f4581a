/** `isthmus suspend`, `resume` and `status`: the processes of a host, by way of a broker; or one runtime, without. */
import { hostname } from 'node:os';
import type { Command } from 'commander';
import { ask } from '../../control/client.js';
import type { Status } from '../../control/payload.js';
import { Watcher } from '../../control/watcher.js';
import { exitCodeOf, seconds, stopSignal } from '../support/args.js';
import { findRuntime, resultOf, TARGET } from '../support/find.js';
import { CliError, elapsed, renderTable, Screen, say, UsageError } from '../support/output.js';
import {
  type BrokerOptions,
  brokerLog,
  brokerOf,
  hostName,
  isSettled,
  type Kind,
  Processes,
  type Row,
  WAIT,
  withBroker,
} from '../support/steer.js';

/** What a runtime gets to say that its time is up, in milliseconds. */
const MARGIN = 2000;

interface Options extends BrokerOptions {
  readonly host: string;
  readonly wait?: number;
  readonly json?: true;
}

function withHost(command: Command): Command {
  const text = 'the host, by the name that it has for itself (default: this one)';
  return withBroker(command.option('--host <HOST>', text, hostName, hostname()));
}

// ─── suspend and resume ──────────────────────────────────────────────────────────────────────────────────────────────

const COLUMNS = [
  { title: 'process' },
  { title: 'name' },
  { title: 'state' },
  { title: 'answer' },
  { title: 'after', right: true },
  { title: '' },
];

function cells({ id, name, state, answer, reason = '', milliseconds }: Row): string[] {
  return [id, name, state, answer ?? '…', milliseconds === undefined ? '' : `${milliseconds} ms`, reason];
}

function line({ id, name, answer, reason, milliseconds }: Row): string {
  const who = name === '' ? id : `${id} ${name}`;
  const what = [answer, reason].filter((part) => part !== undefined).join(' ');
  return `${who}: ${what}${milliseconds === undefined ? '' : ` after ${milliseconds} ms`}\n`;
}

/** @returns the exit code */
async function steer(kind: Kind, options: Options): Promise<number> {
  const { pid, host, json = false, wait = WAIT } = options;
  const stop = stopSignal();
  const screen = new Screen<Row>({ columns: COLUMNS, cells, line, done: isSettled, silent: json });
  await using processes = await Processes.open({ ...brokerOf(options), host });
  const all = await processes.ask(kind, { pid, wait, stop, show: (rows) => screen.show(rows) });
  if (all.length === 0) {
    throw new CliError(
      `no process on ${host} takes part`,
      "Start it with PSP_SUSPEND_RESUME=1 and this broker; 'isthmus status' lists those that do.",
    );
  }
  const good = all.filter((row) => row.good).length;
  if (json) {
    const plain = all.map(({ id, name, state, answer = null, reason = null, milliseconds = null, good: ok }) => {
      return { id, name, state, answer, reason, milliseconds, good: ok };
    });
    say(`${JSON.stringify(plain, null, 2)}\n`);
  } else {
    say(`isthmus: ${good} of ${all.length} ${kind === 'suspend' ? 'suspended' : 'running'}\n`);
  }
  if (stop.aborted) return exitCodeOf(stop.reason);
  return good === all.length ? 0 : 1;
}

/** One runtime of this user, over its control socket: no broker is needed. */
async function steerLocal(kind: Kind, id: string, { wait, json }: Options): Promise<void> {
  const target = await findRuntime(id);
  const fields = kind === 'suspend' && wait !== undefined ? { timeout: Math.max(1, Math.round(wait * 1000)) } : {};
  const limit = (wait ?? WAIT) * 1000 + MARGIN;
  const start = performance.now();
  const answer = await ask(target.path, kind, fields, limit);
  if (answer.kind === 'silent') throw new CliError(`${target.id} has not answered in ${limit / 1000} s`);
  const { migration } = resultOf(target, answer) as { readonly migration: string };
  const milliseconds = Math.round(performance.now() - start);
  if (json) say(`${JSON.stringify({ id: target.id, migration, milliseconds })}\n`);
  else say(`isthmus: ${target.id} is ${migration} after ${milliseconds} ms\n`);
}

function addSteer(program: Command, kind: Kind, exit: (code: number) => void, summary: string, text: string): void {
  withHost(program.command(kind).summary(summary).description(text))
    .option('--local <ID>', `without a broker: ${TARGET}`)
    .option('--wait <SECONDS>', `how long to wait for the answers (default: ${WAIT})`, seconds)
    .option('--json', 'print one JSON array at the end')
    .addHelpText(
      'after',
      `
Example:
  $ isthmus ${kind}                         # all processes of this host
  $ isthmus ${kind} --host vm-1 --broker mqtt://user:password@10.0.0.1 --wait 30
  $ isthmus ${kind} --local pp              # one runtime of this user, without a broker`,
    )
    .action(async (options: Options & { readonly local?: string }) => {
      if (options.local === undefined) {
        exit(await steer(kind, options));
        return;
      }
      if (options.pid || options.broker) throw new UsageError("'--local' goes without '--pid' and '--broker'");
      await steerLocal(kind, options.local, options);
    });
}

// ─── status ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const STATUS_COLUMNS = [
  { title: 'process' },
  { title: 'name' },
  { title: 'state' },
  { title: 'since' },
  { title: 'connections' },
];

/** `3 ivshmem, 1 tcp`. */
function connections({ plugins, more }: Status): string {
  const counts = new Map<string, number>();
  for (const plugin of Object.values(plugins)) counts.set(plugin, (counts.get(plugin) ?? 0) + 1);
  const parts = [...counts].map(([plugin, count]) => `${count} ${plugin}`);
  if (more !== undefined) parts.push(`${more} more`);
  return parts.join(', ') || '-';
}

/** @returns the exit code */
async function status(options: Options): Promise<number> {
  const { pid, wait = 0, json } = options;
  let wake = () => {};
  const watcher = await Watcher.open({
    ...brokerOf(options),
    host: options.host,
    log: brokerLog,
    status: () => wake(),
  });
  const there = (id: string) => (watcher.statuses.get(id)?.state ?? 'offline') !== 'offline';
  try {
    const end = performance.now() + wait * 1000;
    while (pid && !pid.every(there) && performance.now() < end) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, Math.max(1, end - performance.now()));
        wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  } finally {
    await watcher.close();
  }
  const ids = pid ?? [...watcher.statuses.keys()].filter(there);
  const found = ids
    .toSorted((a, b) => a.localeCompare(b, 'en', { numeric: true }))
    .map((id): readonly [string, Status | undefined] => [id, watcher.statuses.get(id)]);
  if (json) {
    say(
      `${JSON.stringify(
        found.map(([id, said]) => ({ id, ...(said ?? { state: 'unknown' }) })),
        null,
        2,
      )}\n`,
    );
  } else if (found.length === 0) {
    say(`no process on ${options.host} takes part\n`);
  } else {
    const rows = found.map(([id, said]) => [
      id,
      said?.name ?? '',
      said?.state ?? 'unknown',
      said?.since ? elapsed(Date.now() - Date.parse(said.since)) : '-',
      said ? connections(said) : '-',
    ]);
    say(renderTable(STATUS_COLUMNS, rows));
  }
  return ids.every(there) ? 0 : 1;
}

export function addSuspend(program: Command, exit: (code: number) => void): void {
  addSteer(
    program,
    'suspend',
    exit,
    'suspend processes before a migration',
    'Ask processes over MQTT to close what they have of a device, and wait until they allow the migration. Exit code 0 ' +
      'only if all of them did. They go on when they are resumed; no message is lost.',
  );
  addSteer(
    program,
    'resume',
    exit,
    'resume processes after a migration',
    'Ask processes over MQTT to take their devices and connections again, and wait until they have. Exit code 0 only if ' +
      'all of them did. One that is not suspended needs nothing.',
  );
  withHost(
    program
      .command('status')
      .summary('the processes that can be suspended')
      .description(
        'List the processes of a host that take requests over MQTT, with what they are doing and the plugins of their ' +
          'connections. Exit code 1 if one that was named is not there.',
      ),
  )
    .option('--wait <SECONDS>', 'with --pid: how long to wait for them to be there (default: 0)', seconds)
    .option('--json', 'print one JSON array')
    .addHelpText(
      'after',
      `
Example:
  $ PSP_SUSPEND_RESUME=1 isthmus pp --listen 7100 &
  $ isthmus status
  $ isthmus status --host vm-1 --pid 4711 4712 --wait 10 --json`,
    )
    .action(async (options: Options) => {
      exit(await status(options));
    });
}

/** `isthmus suspend` and `isthmus resume`: all processes of a host through a broker, or one runtime of this user without. */
import { hostname } from 'node:os';
import type { Command } from 'commander';
import { ask } from '../../control/client.js';
import { hostName, seconds } from '../support/args.js';
import { type BrokerOptions, brokerOf, withBroker } from '../support/broker-options.js';
import { CliError, UsageError } from '../support/errors.js';
import { findRuntime, resultOf, TARGET } from '../support/find.js';
import { type Exit, withExamples } from '../support/help.js';
import { findHolders } from '../support/holders.js';
import { print, printError, printJson, printJsonLine } from '../support/output.js';
import { ProgressTable } from '../support/progress.js';
import { exitCodeOf, stopSignal } from '../support/signals.js';
import { DEFAULT_WAIT_S, isSettled, type Participant, Processes, type RequestKind } from '../support/steer.js';
import { counted } from '../support/units.js';

/** Holders of regions that a message names. */
const MAX_NAMED = 5;
/** After the time limit of the request the runtime answers that it was exceeded. */
const ANSWER_MARGIN_MS = 2000;

export interface HostOptions extends BrokerOptions {
  readonly host: string;
  readonly wait?: number;
  readonly json?: true;
}

/** The options of each command that reaches the processes of one host. */
/** @param asks whether the command waits for answers of processes */
export function withHost(command: Command, asks = true): Command {
  return withBroker(
    command.option('--host <HOST>', 'the host name, as the processes on that host see it', hostName, hostname()),
    asks,
  );
}

const COLUMNS = [
  { title: 'process' },
  { title: 'name' },
  { title: 'state' },
  { title: 'answer' },
  { title: 'after', right: true },
  { title: '' },
];

function cells({ label, name, state, answer, reason = '', milliseconds }: Participant): string[] {
  return [label, name, state, answer ?? '…', milliseconds === undefined ? '' : `${milliseconds} ms`, reason];
}

function line({ label, name, answer, reason, milliseconds }: Participant): string {
  const process = name === '' ? label : `${label} ${name}`;
  const result = [answer, reason].filter((part) => part !== undefined).join(' ');
  return `${process}: ${result}${milliseconds === undefined ? '' : ` after ${milliseconds} ms`}\n`;
}

/** A participant is named by its pid or by a control id; then its status has the pid. */
function pidsOf({ id, pid }: Participant): number[] {
  return [...(/^\d+$/.test(id) ? [Number(id)] : []), ...(pid === undefined ? [] : [pid])];
}

/**
 * What the regions of this machine say, beside the answers: a process that takes no part, or that the broker hides, may have one
 * mapped all the same.
 * @param only these participants, and the pids that were named; undefined: every process
 * @throws CliError if a process has
 */
async function checkHolders(only: readonly Participant[] | undefined): Promise<void> {
  const { holders, unseen } = await findHolders(only?.flatMap(pidsOf));
  for (const { label } of only?.filter((each) => pidsOf(each).length === 0) ?? []) {
    printError(`isthmus: cannot see what ${label} holds: its pid is not known\n`);
  }
  for (const why of unseen) printError(`isthmus: cannot see which processes hold ${why}\n`);
  if (holders.length === 0) return;
  const named = holders
    .slice(0, MAX_NAMED)
    .map((each) => `${each.name}[${each.pid}] (slot ${each.slot} of ${each.path}, pid namespace ${each.pidNamespace})`);
  throw new CliError(
    `${counted(holders.length, 'slot')} of regions of this machine still held by a running process: ${named.join(', ')}`,
    "Do not unplug the device. Start that process with PSP_SUSPEND_RESUME=1 and this broker, or end it; 'isthmus region show' " +
      'lists what holds a region.',
  );
}

/** @returns the exit code */
async function steerHost(kind: RequestKind, options: HostOptions): Promise<number> {
  const { pid, host, json = false, wait = DEFAULT_WAIT_S } = options;
  using stop = stopSignal();
  const table = new ProgressTable<Participant>({ columns: COLUMNS, cells, line, done: isSettled, silent: json });
  await using processes = await Processes.open({ ...brokerOf(options), host });
  const all = await processes.ask(kind, { pid, wait, stop, show: (rows) => table.show(rows) });
  if (all.length === 0) {
    throw await processes.whyNone(host);
  }
  const good = all.filter((participant) => participant.good).length;
  if (json) {
    const plain = all.map(
      ({ id, instance = null, name, state, answer = null, verified, reason = null, milliseconds = null, good: ok }) => {
        return { id, instance, name, state, answer, verified, reason, milliseconds, good: ok };
      },
    );
    printJson(plain);
  } else {
    print(`isthmus: ${good} of ${all.length} ${kind === 'suspend' ? 'suspended' : 'running'}\n`);
  }
  if (stop.aborted) return exitCodeOf(stop);
  if (kind === 'suspend' && host === hostname()) await checkHolders(pid && all);
  return good === all.length ? 0 : 1;
}

/** One runtime of this user, over its control socket. */
async function steerLocal(kind: RequestKind, id: string, { wait, json }: HostOptions): Promise<void> {
  const target = await findRuntime(id);
  const fields = kind === 'suspend' && wait !== undefined ? { timeout: Math.max(1, Math.round(wait * 1000)) } : {};
  const limit = (wait ?? DEFAULT_WAIT_S) * 1000 + ANSWER_MARGIN_MS;
  const start = performance.now();
  const answer = await ask(target.path, kind, fields, limit);
  if (answer.kind === 'silent') throw new CliError(`${target.id} has not answered within ${limit / 1000} s`);
  const { migration } = resultOf(target, answer) as { readonly migration: string };
  const milliseconds = Math.round(performance.now() - start);
  if (json) printJsonLine({ id: target.id, migration, milliseconds });
  else print(`isthmus: ${target.id} is ${migration} after ${milliseconds} ms\n`);
}

export function addSteering(program: Command, kind: RequestKind, exit: Exit, summary: string, text: string): void {
  const command = withHost(program.command(kind).summary(summary).description(text))
    .option('--local <ID>', `without a broker: ${TARGET}`)
    .option('--wait <SECONDS>', `how long to wait for the answers (default: ${DEFAULT_WAIT_S})`, seconds)
    .option('--json', 'print one JSON array at the end');
  withExamples(
    command,
    `
  $ isthmus ${kind}                         # all processes of this host
  $ isthmus ${kind} --host vm-1 --broker mqtt://user:password@10.0.0.1 --wait 30
  $ isthmus ${kind} --local pp              # one runtime of this user, without a broker`,
  ).action(async (options: HostOptions & { readonly local?: string }) => {
    if (options.local === undefined) {
      exit(await steerHost(kind, options));
      return;
    }
    if (options.pid || options.broker) throw new UsageError("'--local' excludes '--pid' and '--broker'");
    await steerLocal(kind, options.local, options);
  });
}

/** `isthmus status`: the processes of a host that can be suspended. */
import type { Command } from 'commander';
import type { Status } from '../../control/payload.js';
import { type KnownProcess, Watcher } from '../../control/watcher.js';
import { seconds } from '../support/args.js';
import { brokerLog, brokerOf } from '../support/broker-options.js';
import { type Exit, withExamples } from '../support/help.js';
import { print, printError, printJson } from '../support/output.js';
import { labelOf, noProcess } from '../support/steer.js';
import { renderTable } from '../support/table.js';
import { elapsed } from '../support/units.js';
import { Waiter } from '../support/waiter.js';
import { type HostOptions, withHost } from './steering.js';

/** Lost processes that a remark names. */
const MAX_NAMED = 10;

const COLUMNS = [
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

interface StatusOptions extends HostOptions {
  readonly forgetLost?: true;
}

const isOnline = ({ state }: Pick<Status, 'state'>): boolean => state !== 'offline';

/** Once the processes of `--pid` are online, or the time is over. */
async function awaitOnline(watcher: Watcher, { pid, wait = 0 }: HostOptions, waiter: Waiter): Promise<void> {
  const end = performance.now() + wait * 1000;
  while (pid?.some((id) => !watcher.withId(id).some(isOnline)) && performance.now() < end) {
    await waiter.wait(end - performance.now());
  }
}

/** The processes to list: all that are online, or those of `--pid`, whatever they are. */
function select(
  watcher: Watcher,
  { pid }: HostOptions,
): (KnownProcess | { readonly id: string; readonly state: 'unknown' })[] {
  const online = [...watcher.statuses.values()].filter(isOnline);
  if (!pid) return online;
  return pid.flatMap((id) => {
    const found = online.filter((process) => process.id === id);
    return found.length > 0 ? found : [watcher.withId(id).at(-1) ?? { id, state: 'unknown' as const }];
  });
}

/** What an operator should know beside the table. */
function remarks(watcher: Watcher): string {
  const all = [...watcher.statuses.values()];
  const online = all.filter(isOnline);
  const shared = [...new Set(online.map(({ id }) => id))].filter(
    (id) => watcher.withId(id).filter(isOnline).length > 1,
  );
  const lost = all.filter((process) => !isOnline(process) && process.since === null);
  const lines = shared.map(
    (id) =>
      `more than one process has the id ${id}: a request to it reaches all of them; give each its own PSP_CONTROL_ID\n`,
  );
  if (lost.length > 0) {
    const named = lost.slice(0, MAX_NAMED).map((process) => labelOf(process, all));
    const more = lost.length > MAX_NAMED ? ` and ${lost.length - MAX_NAMED} more` : '';
    lines.push(
      `lost from the broker, ended or only cut off from it: ${named.join(', ')}${more}; '--forget-lost' removes those that have ended\n`,
    );
  }
  return lines.join('');
}

/** @returns the exit code */
async function status(options: StatusOptions): Promise<number> {
  const { host, json, forgetLost = false } = options;
  const waiter = new Waiter();
  const watcher = await Watcher.open({ ...brokerOf(options), host, log: brokerLog, status: () => waiter.wake() });
  try {
    await awaitOnline(watcher, options, waiter);
    if (forgetLost) {
      const lost = [...watcher.statuses.values()].filter((process) => !isOnline(process));
      await Promise.all(lost.map((process) => watcher.forget(process)));
    }
    const found = select(watcher, options).toSorted((a, b) => a.id.localeCompare(b.id, 'en', { numeric: true }));
    if (json) {
      printJson(found.map((process) => ({ instance: null, ...process })));
    } else {
      if (found.length > 0) print(render(found));
      else if (await watcher.hearsItself()) print(`no process on ${host} takes part\n`);
      else throw await noProcess(watcher, host);
      printError(remarks(watcher));
    }
    return found.every((process) => process.state !== 'unknown' && isOnline(process)) ? 0 : 1;
  } finally {
    await watcher.close();
  }
}

function render(found: ReturnType<typeof select>): string {
  const rows = found.map((process) => {
    const label = labelOf({ instance: undefined, ...process }, found);
    if (process.state === 'unknown') return [label, '', 'unknown', '-', '-'];
    const { name, state, since } = process;
    return [label, name, state, since ? elapsed(Date.now() - Date.parse(since)) : '-', connections(process)];
  });
  return renderTable(COLUMNS, rows);
}

export function addStatus(program: Command, exit: Exit): void {
  const command = withHost(
    program
      .command('status')
      .summary('list the processes that can be suspended')
      .description(
        'List the processes of a host that accept requests over MQTT, with their states and the plugins of their ' +
          'connections. Exit code 1 if a process of --pid is not connected to the broker.',
      ),
    false,
  )
    .option('--wait <SECONDS>', 'with --pid: how long to wait for these processes to connect (default: 0)', seconds)
    .option('--forget-lost', 'remove from the broker what it keeps of processes that it lost: they have ended')
    .option('--json', 'print one JSON array');
  withExamples(
    command,
    `
  $ PSP_SUSPEND_RESUME=1 isthmus pp --listen 7100 &
  $ isthmus status
  $ isthmus status --host vm-1 --pid 4711 4712 --wait 10 --json`,
  ).action(async (options: StatusOptions) => {
    exit(await status(options));
  });
}

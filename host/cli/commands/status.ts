/** `isthmus status`: the processes of a host that can be suspended. */
import type { Command } from 'commander';
import type { Status } from '../../control/payload.js';
import { Watcher } from '../../control/watcher.js';
import { seconds } from '../support/args.js';
import { brokerLog, brokerOf } from '../support/broker-options.js';
import { type Exit, withExamples } from '../support/help.js';
import { print, printJson } from '../support/output.js';
import { renderTable } from '../support/table.js';
import { elapsed } from '../support/units.js';
import { Waiter } from '../support/waiter.js';
import { type HostOptions, withHost } from './steering.js';

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

const isOnline = (status: Status | undefined): boolean => status !== undefined && status.state !== 'offline';

/** The statuses that the broker has; with `--pid`, once these processes are online or the time is over. */
async function collect(options: HostOptions): Promise<ReadonlyMap<string, Status>> {
  const { pid, wait = 0, host } = options;
  const waiter = new Waiter();
  const watcher = await Watcher.open({ ...brokerOf(options), host, log: brokerLog, status: () => waiter.wake() });
  const missing = () => pid?.some((id) => !isOnline(watcher.statuses.get(id)));
  try {
    const end = performance.now() + wait * 1000;
    while (missing() && performance.now() < end) {
      await waiter.wait(end - performance.now());
    }
    return watcher.statuses;
  } finally {
    await watcher.close();
  }
}

/** @returns the exit code */
async function status(options: HostOptions): Promise<number> {
  const { pid, host, json } = options;
  const statuses = await collect(options);
  const ids = pid ?? [...statuses.keys()].filter((id) => isOnline(statuses.get(id)));
  const found = ids
    .toSorted((a, b) => a.localeCompare(b, 'en', { numeric: true }))
    .map((id): readonly [string, Status | undefined] => [id, statuses.get(id)]);
  if (json) {
    printJson(found.map(([id, known]) => ({ id, ...(known ?? { state: 'unknown' }) })));
  } else if (found.length === 0) {
    print(`no process on ${host} takes part\n`);
  } else {
    const rows = found.map(([id, known]) => [
      id,
      known?.name ?? '',
      known?.state ?? 'unknown',
      known?.since ? elapsed(Date.now() - Date.parse(known.since)) : '-',
      known ? connections(known) : '-',
    ]);
    print(renderTable(COLUMNS, rows));
  }
  return ids.every((id) => isOnline(statuses.get(id))) ? 0 : 1;
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
  )
    .option('--wait <SECONDS>', 'with --pid: how long to wait for these processes to connect (default: 0)', seconds)
    .option('--json', 'print one JSON array');
  withExamples(
    command,
    `
  $ PSP_SUSPEND_RESUME=1 isthmus pp --listen 7100 &
  $ isthmus status
  $ isthmus status --host vm-1 --pid 4711 4712 --wait 10 --json`,
  ).action(async (options: HostOptions) => {
    exit(await status(options));
  });
}

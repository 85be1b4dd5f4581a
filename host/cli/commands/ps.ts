/** `isthmus ps`: the runtimes of this user. */
import type { Command } from 'commander';
import { type Found, findRuntimes } from '../../control/client.js';
import { withExamples } from '../support/help.js';
import { print, printJson } from '../support/output.js';
import { renderTable } from '../support/table.js';
import { bytes, elapsed, hostAndPort } from '../support/units.js';

const COLUMNS = [
  { title: 'id' },
  { title: 'name' },
  { title: 'up', right: true },
  { title: 'connections', right: true },
  { title: 'sent', right: true },
  { title: 'received', right: true },
  { title: 'bytes out', right: true },
  { title: 'bytes in', right: true },
  { title: 'unread', right: true },
  { title: 'listens at' },
];

function row({ id, summary }: Found): string[] {
  if (!summary) return [id, '(does not answer)', ...COLUMNS.slice(2).map(() => '')];
  const { name, started, listeners, stats } = summary;
  return [
    id,
    name,
    elapsed(Date.now() - Date.parse(started)),
    String(stats.connections),
    String(stats.messagesSent),
    String(stats.messagesReceived),
    bytes(stats.bytesSent),
    bytes(stats.bytesReceived),
    String(stats.unreadMessages),
    listeners.map(hostAndPort).join(' ') || '-',
  ];
}

export function addPs(program: Command): void {
  const command = program
    .command('ps')
    .summary('list the runtimes of this user')
    .description(
      "List the runtimes in all processes of this user, with the messages that they have sent and received. 'isthmus " +
        "inspect' and 'isthmus debug' take the id of a runtime.",
    )
    .option('--json', 'print one JSON array');
  withExamples(
    command,
    `
  $ isthmus pp --listen 7100 &
  $ isthmus ps
  $ isthmus inspect pp                      # more about one of them`,
  ).action(async ({ json }: { json?: true }) => {
    const found = await findRuntimes();
    if (json) printJson(found.map(({ id, summary }) => ({ id, answers: summary !== undefined, ...summary })));
    else print(found.length === 0 ? 'no runtimes\n' : renderTable(COLUMNS, found.map(row)));
  });
}

/** `isthmus ps`: the runtimes of this user. */
import type { Command } from 'commander';
import { type Found, findRuntimes } from '../../control/client.js';
import { bytes, elapsed, renderTable, say } from '../support/output.js';

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
    listeners.map(({ host, port }) => (host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`)).join(' ') || '-',
  ];
}

export function addPs(program: Command): void {
  program
    .command('ps')
    .summary('the runtimes of this user')
    .description(
      'List the runtimes of this user, in whatever process, with what they have sent and received. The id is what ' +
        "'isthmus inspect' and 'isthmus debug' take.",
    )
    .option('--json', 'print one JSON array')
    .addHelpText(
      'after',
      `
Example:
  $ isthmus pp --listen 7100 &
  $ isthmus ps
  $ isthmus inspect pp                      # more about one of them`,
    )
    .action(async ({ json }: { json?: true }) => {
      const found = await findRuntimes();
      if (json) {
        const rows = found.map(({ id, summary }) => ({ id, answers: summary !== undefined, ...summary }));
        say(`${JSON.stringify(rows, null, 2)}\n`);
      } else if (found.length === 0) {
        say('no runtimes\n');
      } else {
        say(renderTable(COLUMNS, found.map(row)));
      }
    });
}

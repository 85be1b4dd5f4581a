/** `isthmus demo`: starts what it needs, and shows it. */
import { type Command, Option } from 'commander';
import { demo } from '../demo/demo.js';
import { runRole } from '../demo/roles.js';
import { type Exit, withExamples } from '../support/help.js';

export function addDemo(program: Command, exit: Exit): void {
  const command = program
    .command('demo')
    .summary('start two peers and a region, and show what they do')
    .description(
      'Start a region server and two peers. Send a file of about 100 MB (the program node) from one peer to the other, and ' +
        'compare its SHA-256 on both sides. Suspend and resume one of two peers, as for a migration to another host and ' +
        'back, and count their messages. Measure messages through the region and over a Unix-domain socket. Leaves nothing ' +
        'behind. Exit code 0 if all checks pass.',
    )
    .addOption(new Option('--role <ROLE...>').hideHelp());
  withExamples(
    command,
    `
  $ isthmus demo`,
  ).action(async ({ role }: { role?: [role: string, args: string] }) => {
    exit(role ? await runRole(...role) : await demo());
  });
}

/** `isthmus doctor`: what is missing on this machine, and what to do about it. The checks begin in support/diagnosis.ts. */
import type { Command } from 'commander';
import { diagnose } from '../support/diagnosis.js';
import type { Finding } from '../support/findings.js';
import { type Exit, withExamples } from '../support/help.js';
import { print, printJson } from '../support/output.js';

const MARKS = { good: 'ok  ', note: 'note', bad: 'BAD ', none: '-   ' } as const;

export function render(findings: readonly Finding[]): string {
  const lines = findings.map(
    ({ what, verdict, finding, action }) =>
      `${MARKS[verdict]}  ${what}: ${finding}\n${action === undefined ? '' : `      → ${action}\n`}`,
  );
  const missing = findings.filter(({ verdict }) => verdict === 'bad').length;
  return `${lines.join('')}\n${missing === 0 ? 'No requirement is missing.' : `Missing requirements: ${missing}.`}\n`;
}

export function addDoctor(program: Command, exit: Exit): void {
  const command = program
    .command('doctor')
    .summary('check what is missing, and what to do about it')
    .description(
      'Check what Isthmus needs, in a VM or on a host: the native part, addresses and memory, devices with their driver, ' +
        'permissions and mapping, regions and their peers, and the broker if requests over MQTT are on. Prints a line for ' +
        'each check, and what to do. Attaches nothing. Exit code 1 if a requirement is missing.',
    )
    .option('--json', 'print one JSON array');
  withExamples(
    command,
    `
  $ isthmus doctor
  $ PSP_IVSHMEM_REGIONS=ivshmem0 PSP_SUSPEND_RESUME=1 isthmus doctor`,
  ).action(async ({ json }: { json?: true }) => {
    const findings = await diagnose();
    if (json) printJson(findings);
    else print(render(findings));
    if (findings.some(({ verdict }) => verdict === 'bad')) exit(1);
  });
}

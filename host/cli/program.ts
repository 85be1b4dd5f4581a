/** The program `isthmus`, apart from its process: the table of its commands, and how errors become exit codes. */
import { Command, CommanderError, type OutputConfiguration } from 'commander';
import { IsthmusError } from '../base/errors.js';
import { printable } from '../base/printable.js';
import { version } from '../base/version.js';
import { addBroker } from './commands/broker.js';
import { addDebug } from './commands/debug.js';
import { addDemo } from './commands/demo.js';
import { addDevice } from './commands/device.js';
import { addDoctor } from './commands/doctor.js';
import { addInfo } from './commands/info.js';
import { addInspect } from './commands/inspect.js';
import { addMigrate } from './commands/migrate.js';
import { addPipe } from './commands/pipe.js';
import { addPp } from './commands/pp.js';
import { addPs } from './commands/ps.js';
import { addRegion } from './commands/region.js';
import { addResume } from './commands/resume.js';
import { addServer } from './commands/server.js';
import { addStatus } from './commands/status.js';
import { addSuspend } from './commands/suspend.js';
import { describeError } from './support/error-text.js';
import { UsageError } from './support/errors.js';
import { type Exit, withExamples } from './support/help.js';
import { print, printError } from './support/output.js';

/** The commands as the help lists them. */
const COMMANDS: readonly [group: string, ...((program: Command, exit: Exit) => void)[]][] = [
  ['Try it:', addDemo, addPp, addPipe],
  ['Regions and devices:', addServer, addRegion, addDevice],
  ['Inspection:', addInfo, addDoctor, addPs, addInspect, addDebug],
  ['Migration:', addSuspend, addResume, addStatus, addMigrate, addBroker],
];

function programOf(exit: Exit, output: OutputConfiguration): Command {
  const program = new Command('isthmus')
    .description('Messages between processes and virtual machines, through shared memory.')
    .version(version(), '--version', 'print the version')
    .exitOverride()
    .configureOutput(output);
  for (const [group, ...commands] of COMMANDS) {
    program.commandsGroup(group);
    for (const add of commands) add(program, exit);
  }
  program.commandsGroup('Help:').helpCommand('help [command]', 'display help for command');
  return withExamples(
    program,
    `
  $ isthmus demo                            # starts everything that it needs, and shows it
  $ isthmus info                            # what is on this machine

'isthmus COMMAND --help' has an example for each command. Settings come from environment variables (PSP_…);
'isthmus info' lists them.`,
  );
}

/**
 * Run one command.
 * @param args without the names of the interpreter and the program
 * @param writeError takes what is printed to standard error about the arguments
 * @returns the exit code: 0; 1 for an error; 2 for wrong arguments; or the code that the command sets
 */
export async function run(args: readonly string[], writeError = printError): Promise<number> {
  let code = 0;
  const exit = (value: number) => {
    code = value;
  };
  /** Wrong arguments: one line. */
  const reject = (text: string): void => {
    const [command] = args;
    const known = program.commands.some((one) => one.name() === command);
    const line = text
      .trim()
      .replace(/^error: /, '')
      .replace(/^command-argument value/, 'value')
      .replace(/\s*\n\s*/g, ' ');
    writeError(`isthmus: ${printable(line).replace(/\.$/, '')} (try 'isthmus ${known ? `${command} ` : ''}--help')\n`);
  };
  const program = programOf(exit, { writeOut: print, writeErr: writeError, outputError: reject });
  if (args.length === 0) {
    program.outputHelp();
    return 0;
  }
  try {
    await program.parseAsync([...args], { from: 'user' });
    return code;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    if (
      error instanceof UsageError ||
      (error instanceof IsthmusError && error.code === 'ERR_ISTHMUS_INVALID_ARGUMENT')
    ) {
      reject(error.message);
      return 2;
    }
    writeError(describeError(error));
    return 1;
  }
}

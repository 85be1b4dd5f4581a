/** The `isthmus` program, apart from the process that it runs in. Each subcommand has a file of its own. */
import { Command, CommanderError } from 'commander';
import { IsthmusError } from '../base/errors.js';
import { version } from '../base/version.js';
import { addBroker } from './commands/broker.js';
import { addDebug } from './commands/debug.js';
import { addDevice } from './commands/device.js';
import { addDoctor } from './commands/doctor.js';
import { addInfo } from './commands/info.js';
import { addInspect } from './commands/inspect.js';
import { addMigrate } from './commands/migrate.js';
import { addPipe } from './commands/pipe.js';
import { addPp } from './commands/pp.js';
import { addPs } from './commands/ps.js';
import { addRegion } from './commands/region.js';
import { addServer } from './commands/server.js';
import { addSuspend } from './commands/suspend.js';
import { addDemo } from './demo/demo.js';
import { complain, describeError, printable, say, UsageError } from './support/output.js';

/**
 * @param args without the names of program and interpreter
 * @param complaints takes what would go to standard error about the arguments
 * @returns the exit code
 */
export async function run(args: readonly string[], complaints = complain): Promise<number> {
  let code = 0;
  const exit = (value: number) => {
    code = value;
  };
  /** Wrong arguments get one line. */
  const usage = (text: string): void => {
    const [command] = args;
    const known = program.commands.some((one) => one.name() === command);
    const line = text
      .trim()
      .replace(/^error: /, '')
      .replace(/\s*\n\s*/g, ' ');
    complaints(`isthmus: ${printable(line).replace(/\.$/, '')} (try 'isthmus ${known ? `${command} ` : ''}--help')\n`);
  };
  const program = new Command('isthmus')
    .description('Messages between processes and virtual machines, through the memory that they share.')
    .version(version(), '--version', 'print the version')
    .exitOverride()
    .configureOutput({ writeOut: say, writeErr: complaints, outputError: usage })
    .addHelpText(
      'after',
      `
Example:
  $ isthmus demo                            # sets everything up and shows it
  $ isthmus info                            # what is there on this machine

'isthmus COMMAND --help' has an example for each command. Settings come from the environment (PSP_…); 'isthmus info'
lists them.`,
    );
  addServer(program);
  addPp(program, exit);
  addPipe(program, exit);
  addInfo(program);
  addPs(program);
  addInspect(program, exit);
  addDebug(program);
  addRegion(program, exit);
  addDoctor(program, exit);
  addDevice(program);
  addSuspend(program, exit);
  addMigrate(program, exit);
  addBroker(program);
  addDemo(program, exit);
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
      usage(error.message);
      return 2;
    }
    complaints(describeError(error));
    return 1;
  }
}

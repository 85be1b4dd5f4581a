/** `isthmus broker`: a small MQTT broker, to try the control of processes without installing one. */
import { type Command, InvalidArgumentError } from 'commander';
import { port as parsePort } from '../support/args.js';
import { startBroker } from '../support/embedded-broker.js';
import { withExamples } from '../support/help.js';
import { print } from '../support/output.js';
import { aborted, stopSignal } from '../support/signals.js';

function host(text: string): string {
  if (!/^[\w.:%-]+$/.test(text)) {
    throw new InvalidArgumentError('Expected an address of this machine, for example 127.0.0.1.');
  }
  return text;
}

export function addBroker(program: Command): void {
  const command = program
    .command('broker')
    .summary('serve MQTT, where no broker is installed')
    .description(
      'Serve MQTT until SIGINT or SIGTERM, and print the URL when the broker is ready. It has no passwords, and stores ' +
        'nothing: use it for trials, and mosquitto elsewhere.',
    )
    .option('--port <PORT>', 'port to listen at; 0: any free port', parsePort, 1883)
    .option(
      '--host <ADDRESS>',
      'address to listen at; anyone who can connect to it can suspend processes',
      host,
      '127.0.0.1',
    );
  withExamples(
    command,
    `
  $ isthmus broker &
  $ PSP_SUSPEND_RESUME=1 isthmus pp --listen 7100 &
  $ isthmus suspend
  $ isthmus resume`,
  ).action(async (options: { port: number; host: string }) => {
    using stop = stopSignal();
    const broker = await startBroker(options);
    print(`isthmus: broker at ${broker.url}, pid ${process.pid}\n`);
    await aborted(stop);
    await broker.close();
  });
}

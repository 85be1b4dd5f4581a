/** `isthmus broker`: a small MQTT broker for those who have none; the demo uses it as well. */
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { type Command, InvalidArgumentError } from 'commander';
import { aborted, port as parsePort, stopSignal } from '../support/args.js';
import { CliError, say } from '../support/output.js';

export interface EmbeddedBroker {
  readonly url: string;
  readonly port: number;
  close(): Promise<void>;
}

/**
 * Start a broker over TCP, without TLS and without passwords.
 * @param options.port default: a free one
 * @throws CliError if it cannot listen there
 */
export async function startBroker({ port = 0, host = '127.0.0.1' } = {}): Promise<EmbeddedBroker> {
  // Not with every command that starts.
  const { Aedes } = await import('aedes');
  const aedes = await Aedes.createBroker();
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    aedes.handle(socket);
  });
  try {
    server.listen({ port, host });
    await once(server, 'listening');
  } catch (error) {
    aedes.close();
    throw new CliError((error as Error).message, 'Perhaps there is a broker already; choose another --port.');
  }
  const address = server.address() as { readonly port: number };
  return {
    url: `mqtt://${host.includes(':') ? `[${host}]` : host}:${address.port}`,
    port: address.port,
    async close() {
      server.close();
      await new Promise<void>((resolve) => aedes.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
    },
  };
}

function host(text: string): string {
  if (!/^[\w.:%-]+$/.test(text)) throw new InvalidArgumentError('An address of this machine is wanted, as 127.0.0.1.');
  return text;
}

export function addBroker(program: Command): void {
  program
    .command('broker')
    .summary('an MQTT broker, for those who have none')
    .description(
      'Serve MQTT until the broker is stopped by SIGINT or SIGTERM, and print its URL when it is ready. It has no ' +
        'passwords and forgets everything at its end: for trying things out. Elsewhere use mosquitto.',
    )
    .option('--port <PORT>', '0: a free one', parsePort, 1883)
    .option('--host <ADDRESS>', 'where it listens; whoever reaches it can suspend processes', host, '127.0.0.1')
    .addHelpText(
      'after',
      `
Example:
  $ isthmus broker &
  $ PSP_SUSPEND_RESUME=1 isthmus pp --listen 7100 &
  $ isthmus suspend
  $ isthmus resume`,
    )
    .action(async (options: { port: number; host: string }) => {
      const stop = stopSignal();
      const broker = await startBroker(options);
      say(`isthmus: broker at ${broker.url}, pid ${process.pid}\n`);
      await aborted(stop);
      await broker.close();
    });
}

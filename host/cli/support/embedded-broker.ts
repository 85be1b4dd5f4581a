/** A small MQTT broker inside this process: for `isthmus broker` and for the demo. */
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { CliError } from './errors.js';
import { hostAndPort } from './units.js';

export interface EmbeddedBroker {
  readonly url: string;
  readonly port: number;
  close(): Promise<void>;
}

/** What the reader can do, by the error of `listen`. */
const ACTIONS: Readonly<Record<string, string>> = {
  EADDRINUSE: 'Another broker may use this port. Choose another one with --port.',
  EACCES: 'A port below 1024 is for root. Choose another one with --port.',
  EADDRNOTAVAIL: 'Give an address of this machine with --host.',
};

/**
 * Start a broker over TCP, without TLS and without passwords.
 * @param options.port default 0: any free port
 * @throws CliError if it cannot listen there
 */
export async function startBroker({ port = 0, host = '127.0.0.1' } = {}): Promise<EmbeddedBroker> {
  // Imported here: other commands start faster without it.
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
    const { message, code = '' } = error as NodeJS.ErrnoException;
    throw new CliError(message, ACTIONS[code]);
  }
  const address = server.address() as { readonly port: number };
  return {
    url: `mqtt://${hostAndPort({ host, port: address.port })}`,
    port: address.port,
    async close() {
      server.close();
      await new Promise<void>((resolve) => aedes.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
    },
  };
}

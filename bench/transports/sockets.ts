/** Sockets of Node: a Unix-domain socket, and TCP over 127.0.0.1. */
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { BytesNear, bytesFar } from './bytes.js';
import type { EndOptions, Far, Handlers, Near, Transport } from './transport.js';

type Place = { readonly path: string } | { readonly host: string; readonly port: number };

function socketFar(place: (options: EndOptions) => Place): (options: EndOptions) => Handlers {
  return (options) => {
    const { accepted, handlers } = bytesFar();
    return {
      ...handlers,
      async listen() {
        const server = createServer((socket) => {
          socket.setNoDelay(true);
          accepted(socket);
        });
        const where = place(options);
        if ('path' in where) rmSync(where.path, { force: true });
        server.listen(where);
        await once(server, 'listening');
        return 'path' in where ? where : { ...where, port: (server.address() as AddressInfo).port };
      },
    };
  };
}

async function socketNear(_options: EndOptions, start: () => Promise<Far>): Promise<Near> {
  const far = await start();
  const socket = connect(await far.call<Place & { port: number }>('listen'));
  await once(socket, 'connect');
  socket.setNoDelay(true);
  return new BytesNear(socket, far);
}

const common = { ours: false, missing: () => undefined, near: socketNear };

export const unix: Transport = {
  ...common,
  name: 'unix',
  title: 'Unix-domain socket',
  far: socketFar(({ folder }) => ({ path: join(folder, 'socket') })),
};

export const tcp: Transport = {
  ...common,
  name: 'tcp',
  title: 'TCP over 127.0.0.1',
  far: socketFar(() => ({ host: '127.0.0.1', port: 0 })),
};

/** Sockets of Node: a Unix-domain one, and TCP over 127.0.0.1. The echo sends bytes back as they come, whole messages or not: that is the fastest that they can do. */
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { now } from '../clock.js';
import { Pace } from './pace.js';
import { sample } from './sample.js';
import type { EndOptions, Far, Flow, Handlers, Near, Transport } from './transport.js';

type Place = { readonly path: string } | { readonly host: string; readonly port: number };

class SocketNear implements Near {
  readonly #socket: Socket;
  readonly #far: Far;
  #expected = 0;
  #have = 0;
  #heard: (() => void) | undefined;

  constructor(socket: Socket, far: Far) {
    this.#socket = socket;
    this.#far = far;
    socket.on('data', (chunk) => {
      this.#have += chunk.length;
      if (this.#have >= this.#expected) this.#heard?.();
    });
  }

  /** So many round trips, each begun in the event that ends the one before. */
  #play(message: Buffer, rounds: number): Promise<void> {
    return new Promise((resolve, reject) => {
      let left = rounds;
      const lost = () => reject(new Error('the socket was closed'));
      this.#socket.once('close', lost);
      this.#expected = message.length;
      this.#have = 0;
      this.#heard = () => {
        this.#have = 0;
        if (--left > 0) this.#socket.write(message);
        else {
          this.#socket.off('close', lost);
          resolve();
        }
      };
      this.#socket.write(message);
    });
  }

  latency(size: number, milliseconds: number, batch: number): Promise<number[]> {
    const message = Buffer.alloc(size, 0x2a);
    return sample(milliseconds, batch, (rounds) => this.#play(message, rounds));
  }

  async throughput(size: number, milliseconds: number): Promise<Flow> {
    const message = Buffer.alloc(size, 0x2a);
    await this.#far.call('sink', size);
    const end = now() + milliseconds * 1e6;
    const pace = new Pace(size);
    let messages = 0;
    while (now() < end) {
      messages++;
      if (!this.#socket.write(message)) await once(this.#socket, 'drain');
      pace.count(1);
    }
    const received = await this.#far.call<number[]>('drained', messages * size);
    await this.#far.call('echo');
    return { sent: pace.blocks, received };
  }

  async close(): Promise<void> {
    this.#socket.destroy();
  }
}

function socketFar(place: (options: EndOptions) => Place): (options: EndOptions) => Handlers {
  return (options) => {
    let echoes = true;
    let received = 0;
    let pace = new Pace(1);
    return {
      async listen() {
        const server = createServer((socket) => {
          socket.setNoDelay(true);
          socket.on('error', () => socket.destroy());
          socket.on('data', (chunk) => {
            if (echoes) socket.write(chunk);
            else {
              received += chunk.length;
              pace.countBytes(chunk.length);
            }
          });
        });
        const where = place(options);
        if ('path' in where) rmSync(where.path, { force: true });
        server.listen(where);
        await once(server, 'listening');
        return 'path' in where ? where : { ...where, port: (server.address() as AddressInfo).port };
      },
      sink(size: number) {
        echoes = false;
        pace = new Pace(size);
        received = 0;
      },
      async drained(bytes: number) {
        while (received < bytes) await new Promise((resolve) => setImmediate(resolve));
        return pace.blocks;
      },
      echo() {
        echoes = true;
      },
    };
  };
}

async function socketNear(_options: EndOptions, start: () => Promise<Far>): Promise<Near> {
  const far = await start();
  const socket = connect(await far.call<Place & { port: number }>('listen'));
  await once(socket, 'connect');
  socket.setNoDelay(true);
  return new SocketNear(socket, far);
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

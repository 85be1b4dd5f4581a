/** ZeroMQ over `ipc://`, a pair of sockets; the package in the registry contains the binary. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { now } from '../clock.js';
import { benchFolder } from '../folder.js';
import { Pace } from './pace.js';
import { sample } from './sample.js';
import type { EndOptions, Flow, Transport } from './transport.js';

/** The used parts of the package. It is installed in bench/node_modules, and only there. */
interface Pair extends AsyncIterable<Buffer[]> {
  connect(address: string): void;
  bind(address: string): Promise<void>;
  send(message: Uint8Array): Promise<void>;
  receive(): Promise<Buffer[]>;
  close(): void;
}

type Library = { readonly Pair: new (options: { linger: number }) => Pair };

const load = () => createRequire(join(benchFolder(), 'package.json'))('zeromq') as Library;
const at = ({ folder }: EndOptions) => `ipc://${join(folder, 'zeromq')}`;

export const zeromq: Transport = {
  name: 'zeromq',
  title: 'ZeroMQ ipc://',
  ours: false,
  missing() {
    try {
      load();
      return undefined;
    } catch (error) {
      return `the package zeromq does not load here: ${(error as Error).message.split('\n')[0]}`;
    }
  },
  async near(options, start) {
    const far = await start();
    await far.call('bind');
    const socket = new (load().Pair)({ linger: 0 });
    socket.connect(at(options));
    return {
      latency(size, milliseconds, batch) {
        const message = Buffer.alloc(size, 0x2a);
        return sample(milliseconds, batch, async (rounds) => {
          for (let i = 0; i < rounds; i++) {
            await socket.send(message);
            const [answer] = await socket.receive();
            if (answer?.length !== size) throw new Error('the other side does not echo');
          }
        });
      },
      async throughput(size, milliseconds): Promise<Flow> {
        const message = Buffer.alloc(size, 0x2a);
        const end = now() + milliseconds * 1e6;
        const pace = new Pace(size);
        await far.call('sink', size);
        while (now() < end) {
          await socket.send(message);
          pace.count(1);
        }
        // An empty message ends the stream, and is echoed.
        await socket.send(Buffer.alloc(0));
        await socket.receive();
        return { sent: pace.blocks, received: await far.call<number[]>('paces') };
      },
      async close() {
        socket.close();
      },
    };
  },
  far(options) {
    let echoes = true;
    let pace = new Pace(1);
    return {
      async bind() {
        const socket = new (load().Pair)({ linger: 0 });
        await socket.bind(at(options));
        void (async () => {
          for await (const [message] of socket) {
            if (message?.length === 0) echoes = true;
            if (echoes && message) await socket.send(message);
            else pace.count(1);
          }
        })();
      },
      sink(size: number) {
        echoes = false;
        pace = new Pace(size);
      },
      paces: () => pace.blocks,
    };
  },
};

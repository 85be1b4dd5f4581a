/** Request and answer as users write them: `await` a send, `await` its answer; a server that answers what it receives. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import type * as Isthmus from '../../host/index.js';

/** Bytes of a request, and of an answer. */
export const ASK_BYTES = 200;

/** What a client and a server are made of. */
export interface Place {
  /** The built library. */
  readonly library: string;
  /** For sockets, of this pair alone. */
  readonly folder: string;
}

export interface Client {
  /** One request, until its answer is there. */
  ask(): Promise<unknown>;
  /** What carried it. */
  readonly over: string;
}

export interface Kind {
  readonly name: string;
  readonly title: string;
  readonly env?: Readonly<Record<string, string>>;
  /** @returns what the client needs to find it */
  serve(place: Place): Promise<string>;
  client(place: Place, address: string, server: ChildProcess | undefined): Promise<Client>;
}

/** What the benchmark does not use must not be found by it: regions of others, a broker. */
const OPTIONS = { suspendResume: false, ivshmem: 0 };

const data = Buffer.alloc(ASK_BYTES, 1);

/** Calls `whole` for each {@link ASK_BYTES} of a stream. */
function pieces(whole: () => void): (chunk: Buffer) => void {
  let got = 0;
  return ({ length }) => {
    for (got += length; got >= ASK_BYTES; got -= ASK_BYTES) whole();
  };
}

/** The answer to the one request that is under way. */
class Answer {
  came: () => void = () => {};

  next(): Promise<void> {
    return new Promise((resolve) => {
      this.came = resolve;
    });
  }
}

function isthmus(name: string, title: string, env: Readonly<Record<string, string>>): Kind {
  const load = async ({ library }: Place) => (await import(library)) as typeof Isthmus;
  return {
    name,
    title,
    env,
    async serve(place) {
      const { Runtime } = await load(place);
      const runtime = await Runtime.create(OPTIONS);
      const { host, port } = await runtime.listen({}, async (connection) => {
        for await (const message of connection) await connection.send(message.data);
      });
      return `${host}:${port}`;
    },
    async client(place, address) {
      const { Runtime } = await load(place);
      const connection = await (await Runtime.create(OPTIONS)).connect(address);
      return {
        over: connection.plugin ?? 'nothing',
        async ask() {
          await connection.send(data);
          return connection.receive();
        },
      };
    },
  };
}

export const KINDS: readonly Kind[] = [
  isthmus('isthmus', 'Isthmus, default settings', {}),
  isthmus('block', 'Isthmus, PSP_WAIT=block', { PSP_WAIT: 'block' }),
  {
    name: 'unix',
    title: 'Unix-domain socket',
    async serve({ folder }) {
      const path = join(folder, 'socket');
      const server = createServer((socket) => socket.on('data', (chunk) => socket.write(chunk)));
      await once(server.listen(path), 'listening');
      return path;
    },
    async client(_place, address) {
      const socket = connect(address);
      await once(socket, 'connect');
      const answer = new Answer();
      socket.on(
        'data',
        pieces(() => answer.came()),
      );
      return {
        over: 'socket',
        ask() {
          socket.write(data);
          return answer.next();
        },
      };
    },
  },
  {
    name: 'ipc',
    title: 'child_process IPC',
    async serve() {
      process.on('message', (what) => what instanceof Uint8Array && process.send?.(what));
      return '';
    },
    async client(_place, _address, server) {
      const answer = new Answer();
      server?.on('message', (what) => what instanceof Uint8Array && answer.came());
      return {
        over: 'IPC',
        ask() {
          server?.send(data);
          return answer.next();
        },
      };
    },
  },
];

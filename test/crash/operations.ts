/**
 * The operations of a process that dies, and what the survivor at the other end of its connection does meanwhile. A new
 * operation is covered when it is added to OPERATIONS.
 */
import type { Connection } from '../../host/api/connection.js';
import type { RmaToken } from '../../host/api/remote-memory.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { MIB, only } from '../support/regions.js';

/** Connections of a process that dies under load. */
export const LOAD = 3;
export const REGION = 8 * MIB;
export const RING = 16_384;
/** From this length on messages go by reference. */
const RENDEZVOUS = 65_536;

/** Options of all processes of a region. */
export function optionsFor(region: string): RuntimeOptions {
  return only(region, {
    ringSize: RING,
    rendezvousIvshmem: RENDEZVOUS,
    // A process that got no processor for the second in which a listener waits for its first byte tries again.
    retry: 2,
    handshakeTimeout: 5000,
    resumeTimeout: 2000 * Number(process.env['ISTHMUS_TEST_SLOWNESS'] ?? 1),
  });
}

/** Message `number`, at least 8 bytes long: its number, and bytes that follow from it. */
export function numbered(number: number, length: number): Buffer {
  const bytes = Buffer.alloc(Math.max(8, length), (number * 31 + 7) & 0xff);
  bytes.writeUInt32LE(number, 0);
  bytes.writeUInt32LE(bytes.length, 4);
  return bytes;
}

/** @throws if it is not that message, complete */
export function checkNumbered(number: number, data: Uint8Array): void {
  const length = data.length < 8 ? 8 : Buffer.from(data).readUInt32LE(4);
  if (Buffer.compare(data, numbered(number, length)) !== 0)
    throw new Error(`message ${number} differs from what was sent`);
}

const SMALL = [8, 100, 0, 3000, 8];
const FRAGMENTS = [50_000, 20];
const REFERENCES = [200_000, 8, 90_000];
const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** The process that dies. */
export class Victim {
  readonly options: RuntimeOptions;
  /** Port of the survivor. */
  readonly port: number;
  /** A message has been sent. */
  readonly #committed: () => void;
  runtime!: Runtime;
  connection!: Connection;
  /** The next connection that a peer makes to this runtime. */
  accepted!: Promise<Connection>;
  ownPort = 0;
  #sent = 0;

  constructor(options: RuntimeOptions, port: number, committed: () => void) {
    this.options = options;
    this.port = port;
    this.#committed = committed;
  }

  async attach(): Promise<void> {
    this.runtime = await Runtime.create(this.options);
  }

  async listen(): Promise<void> {
    let come: (connection: Connection) => void;
    this.accepted = new Promise((resolve) => {
      come = resolve;
    });
    const { port } = await this.runtime.listen({}, async (connection) => {
      come(connection);
      await connection.closed;
    });
    this.ownPort = port;
  }

  async connect(): Promise<void> {
    this.connection = await this.runtime.connect({ host: '127.0.0.1', port: this.port });
    if (this.connection.plugin !== 'ivshmem') throw new Error(`connected by ${this.connection.plugin}`);
  }

  async send(lengths: readonly number[]): Promise<void> {
    for (const length of lengths) {
      await this.connection.send(numbered(this.#sent, length));
      this.#sent++;
      this.#committed();
    }
  }

  /** Receive the next message as a loan. */
  async lend(length: number): Promise<void> {
    const data = numbered(this.#sent, length);
    const loan = await this.connection.loan(data.length);
    loan.data.set(data);
    await this.connection.send(loan);
    this.#sent++;
    this.#committed();
  }

  async take(count: number): Promise<void> {
    for (let number = 0; number < count; number++) {
      const message = await this.connection.receive();
      if (!message) throw new Error('an orderly end');
      checkNumbered(number, message.data);
    }
  }
}

export interface Operation {
  readonly name: string;
  /** What the process does before its steps are counted. Without it, even attaching is counted. */
  readonly before?: (victim: Victim) => Promise<void>;
  readonly run: (victim: Victim) => Promise<void>;
  /** The survivor: connect to the victim when it runs. */
  readonly dial?: boolean;
  /** The survivor: how long it does nothing at all when the victim runs, in milliseconds. */
  readonly busy?: number;
  /** The survivor: its answer to the first message, besides receiving. */
  readonly answer?: (connection: Connection) => Promise<void>;
  /** Other ends of the survivor's connection than ERR_ISTHMUS_PEER_DIED. */
  readonly ends?: readonly string[];
}

const nothing = async () => {};

const connected = async (victim: Victim) => {
  await victim.listen();
  await victim.connect();
};

const give = (lengths: readonly number[]) => async (connection: Connection) => {
  for (const [number, length] of lengths.entries()) await connection.send(numbered(number, length));
};

const ORDERLY = ['orderly'];
/** The message that the survivor answers. */
const GO = [8];
/** A suspended peer may come back, for a time. */
const SUSPENDED = ['ERR_ISTHMUS_RESUME_TIMEOUT'];

let token: RmaToken | undefined;

export const OPERATIONS: readonly Operation[] = [
  { name: 'attach', run: (victim) => victim.attach() },
  {
    name: 'leave',
    before: nothing,
    run: ({ runtime }) => runtime.close(),
  },
  {
    name: 'connect',
    before: nothing,
    run: async (victim) => {
      await victim.connect();
      await victim.send([8]);
    },
  },
  {
    name: 'accept',
    before: (victim) => victim.listen(),
    dial: true,
    run: async (victim) => {
      victim.connection = await victim.accepted;
      await victim.send([8]);
    },
  },
  { name: 'send', before: connected, run: (victim) => victim.send(SMALL) },
  {
    name: 'receive',
    before: connected,
    answer: give(SMALL),
    run: async (victim) => {
      await victim.send(GO);
      await victim.take(SMALL.length);
    },
  },
  { name: 'fragment', before: connected, run: (victim) => victim.send(FRAGMENTS) },
  {
    name: 'receive fragments',
    before: connected,
    answer: give(FRAGMENTS),
    run: async (victim) => {
      await victim.send(GO);
      await victim.take(FRAGMENTS.length);
    },
  },
  {
    name: 'rendezvous',
    before: connected,
    run: async (victim) => {
      await victim.send(REFERENCES);
      await victim.connection.flush();
    },
  },
  {
    name: 'receive by rendezvous',
    before: connected,
    answer: give(REFERENCES),
    run: async (victim) => {
      await victim.send(GO);
      await victim.take(REFERENCES.length);
    },
  },
  {
    name: 'borrow',
    before: connected,
    answer: give(SMALL),
    run: async (victim) => {
      await victim.send(GO);
      const held = [];
      for (const _ of SMALL) held.push(await victim.connection.borrow());
      for (const message of held) message?.[Symbol.dispose]();
    },
  },
  {
    name: 'loan',
    before: connected,
    run: async (victim) => {
      const unsent = await victim.connection.loan(30_000);
      for (const length of REFERENCES) await victim.lend(length);
      unsent.release();
      await victim.lend(40_000);
    },
  },
  {
    name: 'borrow loans',
    before: connected,
    answer: async (connection) => {
      for (const [number, length] of REFERENCES.entries()) {
        const data = numbered(number, length);
        const loan = await connection.loan(data.length);
        loan.data.set(data);
        await connection.send(loan);
      }
    },
    run: async (victim) => {
      await victim.send(GO);
      const held = [];
      for (const [number] of REFERENCES.entries()) {
        const message = await victim.connection.borrow();
        checkNumbered(number, message?.data.slice() ?? new Uint8Array());
        held.push(message);
      }
      for (const message of held) message?.[Symbol.dispose]();
    },
  },
  {
    name: 'expose memory',
    before: connected,
    run: async ({ runtime, connection }) => {
      const memory = runtime.allocate(50_000, { connection });
      memory.write(0, Buffer.alloc(50_000, 1));
      const exposures = [connection.expose(memory), connection.expose(memory, { write: true })];
      for (const exposure of exposures) exposure[Symbol.dispose]();
      const second = runtime.allocate(10_000, { connection });
      second.release();
      memory.release();
    },
  },
  {
    name: 'remote memory',
    before: async (victim) => {
      await connected(victim);
      await victim.send(GO);
      const message = await victim.connection.receive();
      token = victim.connection.token(message?.data ?? new Uint8Array());
    },
    answer: async (connection) => {
      const { token: bytes } = connection.expose(new Uint8Array(30_000), { write: true });
      await connection.send(bytes);
    },
    run: async () => {
      const bytes = new Uint8Array(20_000);
      await token?.write(bytes);
      await token?.read(bytes);
    },
  },
  {
    name: 'suspend',
    before: connected,
    ends: SUSPENDED,
    run: async (victim) => {
      await victim.send([8]);
      await victim.runtime.suspend();
    },
  },
  {
    name: 'resume',
    before: async (victim) => {
      await connected(victim);
      await victim.runtime.suspend();
    },
    ends: SUSPENDED,
    run: async (victim) => {
      await victim.runtime.resume();
      await victim.send([8]);
    },
  },
  {
    name: 'close',
    before: connected,
    ends: ORDERLY,
    run: async (victim) => {
      await victim.send([8]);
      await victim.connection.close();
    },
  },
  {
    name: 'be closed',
    before: connected,
    answer: (connection) => connection.close(),
    ends: [...ORDERLY, 'ERR_ISTHMUS_CLOSED'],
    run: async (victim) => {
      await victim.send(GO);
      if (await victim.connection.receive()) throw new Error('nothing was sent');
      await victim.connection.close();
    },
  },
  {
    name: 'destroy',
    before: connected,
    ends: ORDERLY,
    run: async ({ connection }) => {
      connection.destroy();
    },
  },
  {
    name: 'close the runtime',
    before: connected,
    ends: ORDERLY,
    run: ({ runtime }) => runtime.close(),
  },
  {
    name: 'sleep',
    before: connected,
    // The survivor finds it asleep and wakes it.
    answer: async (connection) => {
      for (let i = 0; i < 3; i++) {
        await pause(60);
        await connection.send(numbered(i, 8));
      }
    },
    run: async (victim) => {
      await victim.send(GO);
      await victim.take(3);
    },
  },
];

/**
 * Two runtimes of one process meet: the process creates the region, joins it, and removes the file of `shm`.
 * @returns the plugin of their connection
 */
export async function meet(options: RuntimeOptions): Promise<string> {
  const [a, b] = [await Runtime.create(options), await Runtime.create(options)];
  const { port } = await b.listen({}, async (connection) => {
    for await (const { data } of connection) await connection.send(data);
  });
  const connection = await a.connect({ host: '127.0.0.1', port });
  await connection.send(numbered(0, 100));
  const answer = await connection.receive();
  checkNumbered(0, answer?.data ?? new Uint8Array());
  await Promise.all([a.close(), b.close()]);
  return connection.plugin;
}

/** The survivor is busy from before the message is sent until others have reclaimed from the dead process. */
export const UNHEARD: Operation = {
  name: 'rendezvous unheard',
  before: connected,
  busy: 1500,
  run: async (victim) => {
    await victim.send(REFERENCES);
    process.kill(process.pid, 'SIGKILL');
  },
};

/** In a region without other processes. */
export const MEET: Operation = {
  name: 'meet',
  run: async ({ options }) => {
    await meet(options);
  },
};

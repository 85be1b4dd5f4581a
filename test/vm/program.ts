/**
 * The program in a guest: an application, called from outside; and both ends of the conformance suite. It uses Isthmus
 * from the package that is installed beside it.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { test as uvuTest } from 'uvu';
import { Tally } from '../../host/cli/demo/tally.js';
import { type Connection, Runtime, type RuntimeOptions } from '../../host/index.js';
import { Remote, role, roleOptions, serve, tell } from '../support/calls.js';
import { conformance, dataOf } from '../support/conformance.js';
import { pairsWith, serveFar } from '../support/far.js';
import { seeded } from '../support/seeded.js';

/** Where guests listen: on all addresses of their network. */
const ANYWHERE = '0.0.0.0';
/** Messages sent at once, before the event loop turns. */
const BATCH = 4;

// ── An application ───────────────────────────────────────────────────────────────────────────────────────────────────

export interface FlowOptions {
  /** The longest message, in bytes; most are short. */
  readonly longest: number;
  /** Pause between two batches, in milliseconds. */
  readonly pace: number;
}

/** A connection that sends numbered messages, and counts received ones. */
class Flow {
  readonly connection: Connection;
  readonly tally = new Tally();
  damaged = 0;
  sent = 0;
  /** Number of messages that the peer reports to have sent; undefined: it has not ended. */
  announced: number | undefined;
  error: string | undefined;
  #going = false;
  #sending = Promise.resolve();
  /** Both ends compute the bytes of a message from this seed and from the number of the message. */
  readonly #seed: number;

  constructor(connection: Connection, seed: number) {
    this.connection = connection;
    this.#seed = seed;
    this.#receive().catch((error: Error) => {
      this.error = 'code' in error ? String(error.code) : error.message;
    });
  }

  async #receive(): Promise<void> {
    for await (const { data } of this.connection) {
      const message = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
      const number = message.readUInt32LE(0);
      if (message.length === 4) this.announced = number;
      else if (message.equals(dataOf(this.#seed, number, message.length))) this.tally.take(number);
      else this.damaged++;
    }
  }

  start({ longest, pace }: FlowOptions): void {
    const random = seeded(this.#seed);
    const length = () => 5 + (random(10) < 9 ? random(200) : random(longest));
    this.#going = true;
    this.#sending = (async () => {
      while (this.#going) {
        await Promise.all(
          Array.from({ length: BATCH }, () => this.connection.send(dataOf(this.#seed, this.sent++, length()))),
        );
        await new Promise((resolve) => setTimeout(resolve, pace));
      }
      const end = Buffer.alloc(4);
      end.writeUInt32LE(this.sent);
      await this.connection.send(end);
    })();
    // The error reaches the code that waits for the end.
    this.#sending.catch(() => {});
  }

  /** @returns the number of messages sent */
  async stop(): Promise<number> {
    this.#going = false;
    await this.#sending;
    return this.sent;
  }

  view(): FlowView {
    const { connection, sent, announced, damaged, error, tally } = this;
    const { plugin, why, state } = connection;
    const { received, doubled, disordered } = tally;
    const lost = announced === undefined ? undefined : tally.lost(announced);
    return { plugin, why, state, sent, received, announced, lost, doubled, disordered, damaged, error };
  }
}

export interface FlowView {
  readonly plugin: string;
  readonly why: string | undefined;
  readonly state: Connection['state'];
  readonly sent: number;
  readonly received: number;
  readonly announced: number | undefined;
  readonly lost: number | undefined;
  readonly doubled: number;
  readonly disordered: number;
  readonly damaged: number;
  readonly error: string | undefined;
}

/** Open files and mappings of this process that prevent unplugging a device. */
function held(): string[] {
  const files = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return '';
    }
  });
  const maps = readFileSync('/proc/self/maps', 'utf8').split('\n');
  return [...files, ...maps].filter((line) => /\/dev\/uio|resource2/.test(line));
}

async function application(): Promise<void> {
  const { seed, ...options } = roleOptions<RuntimeOptions & { readonly seed: number }>();
  const runtime = await Runtime.create(options);
  const flows: Flow[] = [];
  const happened: string[] = [];
  const take = (connection: Connection) => {
    const flow = new Flow(connection, seed);
    flows.push(flow);
    for (const event of ['stalled', 'recovered'] as const) {
      connection.on(event, () => happened.push(`${flows.indexOf(flow)} ${event}`));
    }
    return flows.length - 1;
  };
  const flow = (number: number) => flows[number] as Flow;
  serve({
    async listen() {
      const { port } = await runtime.listen({ host: ANYWHERE }, async (connection) => {
        tell('come', take(connection));
        await connection.closed;
      });
      return port;
    },
    connect: async (host: string, port: number) => take(await runtime.connect({ host, port })),
    start: (number: number, how: FlowOptions) => flow(number).start(how),
    stop: (number: number) => flow(number).stop(),
    view: (number: number) => flow(number).view(),
    happened: () => happened,
    regions: () => runtime.regions(),
    migration: () => runtime.migration,
    held,
    close: () => runtime.close(),
  });
  tell('ready', process.pid);
}

// ── The conformance suite ────────────────────────────────────────────────────────────────────────────────────────────

async function far(): Promise<void> {
  await serveFar(await Runtime.create(roleOptions<RuntimeOptions>()), { host: ANYWHERE });
  tell('ready', process.pid);
}

interface Conformance {
  readonly plugin: string;
  readonly seed: number;
  readonly scale: number;
  readonly ring: number;
  readonly options: RuntimeOptions;
  /** Address of the far end's machine. */
  readonly host: string;
  /** Port where the far end connects. */
  readonly port: number;
  /** Run only these tests. */
  readonly only: string;
}

/** The near end: runs the suite here. The far end, whose parent this process is, is started from outside. */
async function suite(): Promise<void> {
  const { plugin, seed, scale, ring, options, host, port, only } = roleOptions<Conformance>();
  const { remote } = await Remote.listen(ANYWHERE, port);
  console.log('waiting for the far end');
  await remote.event('ready', 120);
  const runtime = await Runtime.create(options);
  const open = pairsWith(async () => ({ runtime, child: remote, host }));
  conformance({ plugin, ring, seed, scale, stream: plugin === 'tcp', open }, (name, body) => {
    if (!new RegExp(only).test(name)) return;
    uvuTest(name, async () => {
      const start = performance.now();
      await body();
      console.log(`${((performance.now() - start) / 1000).toFixed(1)} s  ${name}`);
    });
  });
  uvuTest.after(async () => {
    await runtime.close();
    remote.close();
  });
  uvuTest.run();
}

const roles: Record<string, () => Promise<void>> = { application, far, suite };
await roles[role ?? '']?.();

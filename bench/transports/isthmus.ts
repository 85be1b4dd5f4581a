/**
 * Isthmus, through its public API and used as the README shows: polled forms poll in a bounded loop and let the event
 * loop turn at bounded intervals. host/cli/support/ping.ts does it the same way.
 */
import { pathToFileURL } from 'node:url';
import type * as Library from '../../host/index.js';
import { now } from '../clock.js';
import { Pace } from './pace.js';
import { sample } from './sample.js';
import type { EndOptions, Far, Flow, Handlers, Near, Transport } from './transport.js';

/**
 * How both ends send and receive.
 *
 * - `into`: `trySend`, `tryReceiveInto`
 * - `poll`: `trySend`, `poll` with a handler that reads the first and the last byte in place
 * - `reference`: `tryLoan` and `trySend`, `poll`; neither side writes or reads the message
 * - `loan`: the same, but the sender writes and the receiver reads the whole message
 * - `receive`: `trySend`, `await receive()`
 * - `await`: `await send()`, `await receive()` and nothing else
 */
export type Form = 'into' | 'poll' | 'reference' | 'loan' | 'receive' | 'await';

export interface Ways {
  readonly form: Form;
  readonly plugin?: 'shm' | 'tcp';
  readonly wait?: 'adaptive' | 'spin' | 'block';
}

/** Polls between two turns of the event loop: about a millisecond. */
const POLL_BUDGET = 20_000;
/** A message counts as one poll, and one more for each 2^n of its bytes. */
const BYTES_PER_POLL_LOG2 = 8;
/** Messages of a stream between two clock readings. */
const BURST = 64;
/** Ends a run: no other message is empty. */
const END = new Uint8Array(0);

export async function createRuntime(
  { library, tag }: Pick<EndOptions, 'library' | 'tag'>,
  { plugin = 'shm', wait = 'adaptive' }: Partial<Ways> = {},
  more: Library.RuntimeOptions = {},
): Promise<Library.Runtime> {
  const { Runtime } = (await import(pathToFileURL(library).href)) as typeof Library;
  const shm = plugin === 'shm' ? {} : { shm: 0 };
  return Runtime.create({ name: 'bench', shmName: `bench-${tag}`, ivshmem: 0, control: false, wait, ...shm, ...more });
}

/** One side of a connection over which a ping-pong or a stream is played. */
export class Player {
  readonly runtime: Library.Runtime;
  readonly connection: Library.Connection;
  readonly #form: Form;
  readonly #budget: number;
  #out = new Uint8Array(0);
  #target = new Uint8Array(8);
  #cost = 1;
  /** Round trips that are left; whether the message of the next one has been sent. */
  #left = 0;
  #sent = false;
  #ended = false;
  /** Messages received. */
  received = 0;
  /** Pace of received or sent messages. */
  pace = new Pace(8);
  /** Result of the reads of the `poll` handler: it keeps the compiler from removing them. */
  seen = 0;
  readonly #handle = (memory: Uint8Array, offset: number, length: number) => {
    if (this.#form === 'loan') this.#target.set(memory.subarray(offset, offset + length));
    else if (length > 0 && this.#form === 'poll') {
      this.seen ^= (memory[offset] as number) ^ (memory[offset + length - 1] as number);
    }
    this.#came(length);
  };

  constructor(runtime: Library.Runtime, connection: Library.Connection, form: Form) {
    this.runtime = runtime;
    this.connection = connection;
    this.#form = form;
    // Over tcp no message arrives before the event loop has turned.
    this.#budget = connection.plugin === 'tcp' ? 1 : POLL_BUDGET;
  }

  /** Prepare a run with messages of `size` bytes. */
  prepare(size: number): void {
    this.#out = new Uint8Array(size).fill(0x2a);
    if (this.#target.length < size) this.#target = new Uint8Array(size);
    this.#cost = 1 + (size >> BYTES_PER_POLL_LOG2);
    this.#ended = false;
    this.received = 0;
    this.pace = new Pace(size);
  }

  #came(length: number): void {
    if (length === this.#out.length) this.received++;
    else if (length === 0) this.#ended = true;
    else throw new Error(`received a message of ${length} bytes instead of ${this.#out.length}`);
  }

  /** Send one message if there is room. */
  #give(): boolean {
    const { connection } = this;
    const out = this.#out;
    if (this.#form !== 'reference' && this.#form !== 'loan') return connection.trySend(out);
    const loan = connection.tryLoan(out.length);
    if (!loan) return false;
    if (this.#form === 'loan') loan.data.set(out);
    if (connection.trySend(loan)) return true;
    loan.release();
    return false;
  }

  /** Receive one message if one is there. */
  #take(): boolean {
    if (this.#form !== 'into') return this.connection.poll(this.#handle, 1) === 1;
    const length = this.connection.tryReceiveInto(this.#target);
    if (length < 0) return false;
    this.#came(length);
    return true;
  }

  // The awaiting forms have loops of their own, as an application would: an async function around each call would be measured too.

  /** Count a message that `receive()` returned. */
  #heard(message: Library.Message | undefined): void {
    if (message === undefined) throw new Error('the other side has closed the connection');
    this.#came(message.data.length);
  }

  /** @returns false: `send()` has to be awaited */
  #sendNow(bytes: Uint8Array): boolean {
    return this.#form === 'receive' && this.connection.trySend(bytes);
  }

  get #polls(): boolean {
    return this.#form !== 'receive' && this.#form !== 'await';
  }

  // ─── near ────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Play `rounds` round trips. */
  play(rounds: number): Promise<void> | undefined {
    this.#left = rounds;
    if (!this.#polls) return this.#playWaiting();
    this.#rally();
    return this.#left > 0 ? this.#playOn() : undefined;
  }

  /** Play until no round trip is left or the budget is used up. */
  #rally(): void {
    let rest = this.#budget;
    while (this.#left > 0 && rest > 0) {
      if (!this.#sent) {
        if (!this.#give()) {
          rest--;
          continue;
        }
        this.#sent = true;
      }
      let got = this.#take();
      while (!got && --rest > 0) got = this.#take();
      if (!got) return;
      this.#sent = false;
      this.#left--;
      rest -= this.#cost;
    }
  }

  async #playOn(): Promise<void> {
    while (this.#left > 0) {
      await this.runtime.turn();
      this.#rally();
    }
  }

  async #playWaiting(): Promise<void> {
    const { connection } = this;
    const out = this.#out;
    for (; this.#left > 0; this.#left--) {
      if (!this.#sendNow(out)) await connection.send(out);
      this.#heard(await connection.receive());
    }
  }

  /** Send for `milliseconds`. @returns the number of messages */
  async stream(milliseconds: number): Promise<number> {
    const { connection } = this;
    const out = this.#out;
    const end = now() + milliseconds * 1e6;
    const burst = Math.max(1, BURST >> (this.#cost >> 6));
    let count = 0;
    for (let turned = now(), at = turned; at < end; at = now()) {
      if (this.#form === 'await') {
        for (let i = 0; i < burst; i++, count++) await connection.send(out);
        this.pace.count(burst);
        continue;
      }
      // While the ring is full, try again within the budget: the other side consumes meanwhile.
      for (let i = 0, rest = this.#budget; i < burst && rest > 0; ) {
        if (this.#give()) {
          i++;
          count++;
          this.pace.count(1);
        } else rest--;
      }
      if (at - turned > 1e6 || this.#budget === 1) {
        await this.runtime.turn();
        turned = at;
      }
    }
    return count;
  }

  /** End the run of the other side. */
  end(): Promise<void> {
    return this.connection.send(END);
  }

  // ─── far ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Answer each message with another, until the end. */
  async echo(): Promise<void> {
    if (this.#polls) {
      for (this.#sent = true; !this.#ended; ) {
        this.#answer();
        await this.runtime.turn();
      }
      return;
    }
    const { connection } = this;
    const out = this.#out;
    for (;;) {
      this.#heard(await connection.receive());
      if (this.#ended) return;
      if (!this.#sendNow(out)) await connection.send(out);
    }
  }

  #answer(): void {
    const cost = this.#cost;
    for (let rest = this.#budget; rest > 0 && !this.#ended; ) {
      if (!this.#sent) {
        rest--;
        this.#sent = this.#give();
      } else if (!this.#take()) {
        rest--;
      } else {
        if (!this.#ended) this.#sent = this.#give();
        rest -= cost;
      }
    }
  }

  /** Receive messages until the end. */
  async sink(): Promise<void> {
    if (!this.#polls) {
      while (!this.#ended) {
        this.#heard(await this.connection.receive());
        this.pace.count(1);
      }
      return;
    }
    for (;;) {
      this.#drain();
      if (this.#ended) return;
      await this.runtime.turn();
    }
  }

  #drain(): void {
    const { connection } = this;
    const cost = this.#cost;
    if (this.#form !== 'into') {
      for (let rest = this.#budget; rest > 0 && !this.#ended; ) {
        const came = connection.poll(this.#handle, BURST);
        if (came > 0) this.pace.count(came);
        rest -= 1 + came * cost;
      }
      return;
    }
    for (let rest = this.#budget; rest > 0 && !this.#ended; ) {
      if (this.#take()) {
        this.pace.count(1);
        rest -= cost;
      } else rest--;
    }
  }
}

/** The near end; {@link isthmusFar} is the other end. */
class IsthmusNear implements Near {
  readonly #far: Far;
  readonly #options: EndOptions;
  readonly #ways: Ways;
  #player: Player | undefined;

  constructor(far: Far, options: EndOptions, ways: Ways) {
    this.#far = far;
    this.#options = options;
    this.#ways = ways;
  }

  async #connect(): Promise<Player> {
    const port = await this.#far.call<number>('listen', this.#ways);
    const runtime = await createRuntime(this.#options, this.#ways);
    const connection = await runtime.connect({ host: '127.0.0.1', port });
    const { plugin = 'shm', form } = this.#ways;
    if (connection.plugin !== plugin) throw new Error(`it went over ${connection.plugin}: ${connection.why}`);
    await this.#far.call('accepted');
    return new Player(runtime, connection, form);
  }

  async #with<T>(size: number, run: (player: Player) => Promise<T>): Promise<T> {
    this.#player ??= await this.#connect();
    this.#player.prepare(size);
    try {
      return await run(this.#player);
    } finally {
      // A runtime that spins must not take a processor from the next transport.
      if (this.#ways.wait === 'spin') await this.close();
    }
  }

  latency(size: number, milliseconds: number, batch: number): Promise<number[]> {
    return this.#with(size, async (player) => {
      await this.#far.call('echo', size);
      const samples = await sample(
        milliseconds,
        batch,
        (rounds) => player.play(rounds),
        () => player.runtime.turn(),
      );
      await player.end();
      await this.#far.call('ended');
      return samples;
    });
  }

  throughput(size: number, milliseconds: number): Promise<Flow> {
    return this.#with(size, async (player) => {
      await this.#far.call('sink', size);
      const messages = await player.stream(milliseconds);
      await player.end();
      const { came, received } = await this.#far.call<{ came: number; received: number[] }>('ended');
      if (came !== messages) throw new Error(`${messages} messages were sent and ${came} received`);
      return { sent: player.pace.blocks, received };
    });
  }

  async close(): Promise<void> {
    const player = this.#player;
    this.#player = undefined;
    await player?.connection.close();
    await player?.runtime.close();
    if (player) await this.#far.call('leave');
  }
}

function isthmusFar(options: EndOptions): Handlers {
  let runtime: Library.Runtime | undefined;
  let accepted: Promise<Player> | undefined;
  let player: Player | undefined;
  let run: Promise<void> | undefined;
  const start = (size: number, begin: (player: Player) => Promise<void>) => {
    player?.prepare(size);
    run = begin(player as Player);
    run.catch(() => {});
  };
  return {
    async listen(ways: Ways) {
      const created = await createRuntime(options, ways);
      runtime = created;
      let accept!: (player: Player) => void;
      accepted = new Promise((resolve) => {
        accept = resolve;
      });
      const { port } = await created.listen({}, (connection) => accept(new Player(created, connection, ways.form)));
      return port;
    },
    async accepted() {
      player = await accepted;
    },
    echo: (size: number) => start(size, (player) => player.echo()),
    sink: (size: number) => start(size, (player) => player.sink()),
    async ended() {
      await run;
      return { came: player?.received, received: player?.pace.blocks };
    },
    leave: () => runtime?.close(),
  };
}

export function isthmus(name: string, title: string, ways: Ways, library?: string): Transport {
  const own = (options: EndOptions) => (library === undefined ? options : { ...options, library });
  const tagged = (options: EndOptions) => ({ ...own(options), tag: `${options.tag}-${name}` });
  return {
    name,
    title,
    ours: true,
    missing: () => undefined,
    near: async (options, far) => new IsthmusNear(await far(), tagged(options), ways),
    far: (options) => isthmusFar(tagged(options)),
  };
}

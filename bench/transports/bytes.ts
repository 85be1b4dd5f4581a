/** Byte streams of Node. The echo sends bytes back as they arrive, whole messages or not, which is the fastest way. */
import { once } from 'node:events';
import type { Duplex } from 'node:stream';
import { now } from '../clock.js';
import { Pace } from './pace.js';
import { sample } from './sample.js';
import type { Far, Flow, Handlers, Near } from './transport.js';

export class BytesNear implements Near {
  readonly #stream: Duplex;
  readonly #far: Far;
  readonly #closed: () => Promise<void>;
  #expected = 0;
  #have = 0;
  #heard: (() => void) | undefined;

  /** @param closed called when the stream is destroyed, at the end */
  constructor(stream: Duplex, far: Far, closed = async () => {}) {
    this.#stream = stream;
    this.#far = far;
    this.#closed = closed;
    stream.on('data', (chunk: Buffer) => {
      this.#have += chunk.length;
      if (this.#have >= this.#expected) this.#heard?.();
    });
  }

  /** Play `rounds` round trips, each begun in the event that ends the one before. */
  #play(message: Buffer, rounds: number): Promise<void> {
    return new Promise((resolve, reject) => {
      let left = rounds;
      const lost = () => reject(new Error('the stream was closed'));
      this.#stream.once('close', lost);
      this.#expected = message.length;
      this.#have = 0;
      this.#heard = () => {
        this.#have = 0;
        if (--left > 0) this.#stream.write(message);
        else {
          this.#stream.off('close', lost);
          resolve();
        }
      };
      this.#stream.write(message);
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
      if (!this.#stream.write(message)) await once(this.#stream, 'drain');
      pace.count(1);
    }
    const received = await this.#far.call<number[]>('drained', messages * size);
    await this.#far.call('echo');
    return { sent: pace.blocks, received };
  }

  async close(): Promise<void> {
    this.#stream.destroy();
    await this.#closed();
  }
}

/** The far side of a stream. The transport that opens the stream calls `accepted` with it. */
export function bytesFar(): { readonly accepted: (stream: Duplex) => void; readonly handlers: Handlers } {
  let echoes = true;
  let received = 0;
  let pace = new Pace(1);
  return {
    accepted(stream) {
      stream.on('error', () => stream.destroy());
      stream.on('data', (chunk: Buffer) => {
        if (echoes) stream.write(chunk);
        else {
          received += chunk.length;
          pace.countBytes(chunk.length);
        }
      });
    },
    handlers: {
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
    },
  };
}

/** The common part of the two kinds of channel that come with Node: whole messages, an event for each. */
import { now } from '../clock.js';
import { Pace } from './pace.js';
import { sample } from './sample.js';
import type { Flow, Near } from './transport.js';

/** A channel for bytes and numbers. A number is control: -n asks to count n messages without an echo, 0 acknowledges them. */
export interface Channel {
  /** @param done called when the message has been handed over, if the channel reports that */
  post(what: Uint8Array | number, done?: () => void): void;
  listen(heard: (what: Uint8Array | number) => void): void;
  close(): Promise<void>;
}

/** Bytes in flight per window, for a channel that does not report that it is full. */
const WINDOW_BYTES = 1 << 22;

export class ChannelNear implements Near {
  readonly #channel: Channel;
  #heard: (what: Uint8Array | number) => void = () => {};

  constructor(channel: Channel) {
    this.#channel = channel;
    channel.listen((what) => this.#heard(what));
  }

  #play(message: Uint8Array, rounds: number): Promise<void> {
    return new Promise((resolve, reject) => {
      let left = rounds;
      this.#heard = (what) => {
        if (typeof what === 'number' || what.length !== message.length)
          reject(new Error('the other side does not echo'));
        else if (--left > 0) this.#channel.post(message);
        else resolve();
      };
      this.#channel.post(message);
    });
  }

  latency(size: number, milliseconds: number, batch: number): Promise<number[]> {
    const message = new Uint8Array(size).fill(0x2a);
    return sample(milliseconds, batch, (rounds) => this.#play(message, rounds));
  }

  /** Send windows of messages, each acknowledged: otherwise all messages would queue up in memory. */
  async throughput(size: number, milliseconds: number): Promise<Flow> {
    const message = new Uint8Array(size).fill(0x2a);
    const window = Math.max(1, Math.min(1000, Math.floor(WINDOW_BYTES / size)));
    const end = now() + milliseconds * 1e6;
    const pace = new Pace(size);
    // Two windows are in flight, so that the other side always has messages.
    let open = 0;
    let acknowledged: (() => void) | undefined;
    this.#heard = () => {
      open--;
      acknowledged?.();
    };
    const room = (most: number) =>
      new Promise<void>((resolve) => {
        acknowledged = () => {
          if (open > most) return;
          acknowledged = undefined;
          resolve();
        };
        acknowledged();
      });
    while (now() < end) {
      this.#channel.post(-window);
      for (let i = 0; i < window; i++) this.#channel.post(message);
      open++;
      await room(1);
      pace.count(window);
    }
    await room(0);
    return { sent: pace.blocks };
  }

  close(): Promise<void> {
    return this.#channel.close();
  }
}

/** The far side: echoes each message, unless a negative number has asked to count messages first. */
export function answer(channel: Channel): void {
  let count = 0;
  channel.listen((what) => {
    if (typeof what === 'number') count -= what;
    else if (count === 0) channel.post(what);
    else if (--count === 0) channel.post(0);
  });
}

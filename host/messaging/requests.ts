/** Requests in the manner of pscom and MPI: what is posted now and done later. */

import type { Connection, Sendable } from '../api/connection.js';
import type { Envelope, Match } from '../api/envelope.js';
import { IsthmusError } from '../base/errors.js';
import { type Message, NO_BYTES } from '../base/message.js';
import { type Matching, Receiver } from '../channel/matching.js';
import type { PendingSend } from '../channel/sender.js';
import type { RuntimeConnection } from '../connection/runtime-connection.js';

/** What a posted receive got. */
export interface Received {
  readonly connection: Connection;
  /** The user's header, a copy. */
  readonly xheader: Uint8Array;
  /** The data: the filled part of the buffer that was posted, or memory of its own. */
  readonly data: Uint8Array;
  /** Length of the data as it was sent, in bytes. */
  readonly length: number;
  /** Whether the message was longer than what there was room for. */
  readonly truncated: boolean;
}

export interface PostReceiveOptions {
  /** Receive from this connection only. Left out: from any of the endpoint. */
  readonly connection?: Connection | undefined;
  /** Which messages are taken; left out: all. */
  readonly match?: Match | undefined;
  /** Filled in place. Do not touch it until `done` settles. */
  readonly data?: Uint8Array | undefined;
  /** Bytes of data that are kept at most; default: as many as `data` has, or all. */
  readonly maxLength?: number | undefined;
}

export interface PostSendOptions {
  readonly connection: Connection;
  /** Must not change until `done` settles. */
  readonly data: Sendable;
  /** At most 65,535 bytes. */
  readonly xheader?: Uint8Array | undefined;
}

export interface ProbeOptions {
  readonly connection?: Connection | undefined;
  readonly match?: Match | undefined;
}

/** A receive or a send that is under way. */
export interface Request<T> {
  /**
   * Settles once. Rejects with ERR_ISTHMUS_CANCELLED after `cancel()`, and with what ended the connection.
   * Nobody has to look at it: a rejection that nobody handles is not reported.
   */
  readonly done: Promise<T>;
  readonly state: 'posted' | 'started' | 'done' | 'failed' | 'cancelled';
  /** Take it back. @returns false if it has started or is over: what has started cannot be cancelled */
  cancel(): boolean;
}

export type ReceiveRequest = Request<Received>;
export type SendRequest = Request<void>;

type State = Request<unknown>['state'];

function cancelled(what: string): IsthmusError {
  return new IsthmusError('ERR_ISTHMUS_CANCELLED', `the ${what} was cancelled`);
}

/** A posted receive. */
export class PostedReceive extends Receiver implements ReceiveRequest {
  readonly done: Promise<Received>;
  override readonly maxLength: number;
  #state: State = 'posted';
  #withdraw: (() => boolean) | undefined;
  #resolve!: (received: Received) => void;
  #reject!: (error: unknown) => void;

  constructor({ match, data, maxLength }: PostReceiveOptions) {
    super(match, data);
    if (maxLength !== undefined && !(Number.isInteger(maxLength) && maxLength >= 0)) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `maxLength: ${maxLength} is not a number of bytes`);
    }
    this.maxLength = Math.min(maxLength ?? Number.POSITIVE_INFINITY, data?.length ?? Number.POSITIVE_INFINITY);
    this.done = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.done.catch(() => {});
  }

  get state(): State {
    return this.#state;
  }

  /** @internal It waits; `withdraw` takes it back. */
  posted(withdraw: () => boolean): void {
    this.#withdraw = withdraw;
  }

  override begin(): void {
    this.#state = 'started';
  }

  complete(connection: Connection, { data, xheader }: Message, length: number): void {
    this.#state = 'done';
    this.#resolve({ connection, xheader, data, length, truncated: data.length < length });
  }

  reject(error: unknown): void {
    this.#state = 'failed';
    this.#reject(error);
  }

  cancel(): boolean {
    if (this.#state !== 'posted' || !this.#withdraw?.()) return false;
    this.#state = 'cancelled';
    this.#reject(cancelled('receive'));
    return true;
  }
}

/** A posted send. */
export class PostedSend implements SendRequest {
  readonly done: Promise<void>;
  readonly #connection: RuntimeConnection;
  readonly #entry: PendingSend | undefined;
  #state: State = 'posted';
  #reject!: (error: unknown) => void;

  /** @throws as `connection.send` does, for what cannot be sent at all */
  constructor(connection: RuntimeConnection, { data, xheader }: PostSendOptions) {
    this.#connection = connection;
    let resolve!: () => void;
    this.done = new Promise<void>((ok, failed) => {
      resolve = ok;
      this.#reject = failed;
    });
    this.done.catch(() => {});
    this.#entry = connection.post(
      data,
      xheader ?? NO_BYTES,
      () => {
        this.#state = 'done';
        resolve();
      },
      (error) => {
        this.#state = 'failed';
        this.#reject(error);
      },
    );
  }

  get state(): State {
    return this.#state === 'posted' && this.#entry !== undefined && this.#entry.sent >= 0 ? 'started' : this.#state;
  }

  cancel(): boolean {
    if (this.#state !== 'posted' || !this.#entry || !this.#connection.cancel(this.#entry)) return false;
    this.#state = 'cancelled';
    this.#reject(cancelled('send'));
    return true;
  }
}

/** Wait until a message is there that a receive with these options would take. It stays. */
export function waitForMessage(
  matching: Matching,
  { connection, match }: ProbeOptions,
  signal: AbortSignal | undefined,
): Promise<Envelope> {
  return new Promise((resolve, reject) => {
    const settle = () => signal?.removeEventListener('abort', abort);
    const prober = {
      connection,
      match,
      found: (envelope: Envelope) => {
        settle();
        resolve(envelope);
      },
      reject: (error: unknown) => {
        settle();
        reject(error);
      },
    };
    const abort = () => {
      if (matching.removeProber(prober)) reject(signal?.reason);
    };
    signal?.addEventListener('abort', abort, { once: true });
    matching.addProber(prober);
  });
}

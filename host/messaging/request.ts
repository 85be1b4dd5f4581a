/** One request, as in pscom and MPI: posted now, done later. */

import type { Connection, Sendable } from '../api/connection.js';
import type { Envelope, Match } from '../api/envelope.js';
import { abortable } from '../base/abortable.js';
import { type Bytes, bytesOf } from '../base/bytes.js';
import { IsthmusError } from '../base/errors.js';
import type { Message } from '../base/message.js';
import type { PendingSend } from '../channel/sender.js';
import type { RuntimeConnection } from '../connection/connection.js';
import type { Matching } from '../matching/matching.js';
import { PendingReceive } from '../matching/pending-receive.js';

/** The result of a posted receive. */
export interface Received {
  readonly connection: Connection;
  /** The application's header, a copy. */
  readonly xheader: Uint8Array;
  /** The data: the filled part of the posted buffer, or memory of its own. */
  readonly data: Uint8Array;
  /** Length of the data as sent, in bytes. */
  readonly length: number;
  /** Whether the message was longer than the buffer or `maxLength`. */
  readonly truncated: boolean;
}

export interface PostReceiveOptions {
  /** Receive from this connection only; default: from any connection of the endpoint. */
  readonly connection?: Connection | undefined;
  /** Take only messages for which this returns true; default: all. */
  readonly match?: Match | undefined;
  /** Buffer to fill in place. Do not use it until `done` settles. */
  readonly data?: Bytes | undefined;
  /** Bytes of data to keep at most; default: the length of `data`, or all. */
  readonly maxLength?: number | undefined;
}

export interface PostSendOptions {
  readonly connection: Connection;
  /** Must not change until `done` settles. */
  readonly data: Sendable;
  /** At most 65,535 bytes. */
  readonly xheader?: Bytes | undefined;
}

export interface ProbeOptions {
  readonly connection?: Connection | undefined;
  readonly match?: Match | undefined;
}

/** A receive or a send that is under way. */
export interface Request<T> {
  /**
   * Settles once. Rejects with ERR_ISTHMUS_CANCELLED after `cancel()`, and with the error that ended the connection. It may
   * be ignored: it never causes an unhandled rejection.
   */
  readonly done: Promise<T>;
  readonly state: 'posted' | 'started' | 'done' | 'failed' | 'cancelled';
  /** Cancel the request. @returns false: it has started, or is done; a request that has started cannot be cancelled */
  cancel(): boolean;
}

export type ReceiveRequest = Request<Received>;
export type SendRequest = Request<void>;

type State = Request<unknown>['state'];

function cancelled(what: string): IsthmusError {
  return new IsthmusError('ERR_ISTHMUS_CANCELLED', `the ${what} was cancelled`);
}

/** A posted receive. */
export class PostedReceive extends PendingReceive implements ReceiveRequest {
  readonly done: Promise<Received>;
  override readonly maxLength: number;
  #state: State = 'posted';
  #withdraw: (() => boolean) | undefined;
  #resolve!: (received: Received) => void;
  #reject!: (error: unknown) => void;

  constructor({ match, data: buffer, maxLength }: PostReceiveOptions) {
    const data = buffer === undefined ? undefined : bytesOf(buffer, 'data');
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

  /** @internal It waits for a message; `withdraw` cancels that. */
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

  /** @throws as `connection.send` does, for a message that cannot be sent at all */
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
      { xheader },
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

/** Wait for a message that a receive with these options would take. The message stays. */
export function waitForMessage(
  matching: Matching,
  { connection, match }: ProbeOptions,
  signal: AbortSignal | undefined,
): Promise<Envelope> {
  return abortable(signal, (resolve, reject) => {
    const prober = { connection, match, found: resolve, reject };
    matching.addProber(prober);
    return () => matching.removeProber(prober);
  });
}

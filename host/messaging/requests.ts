/** The requests of an endpoint: receives and sends that are posted, and probes. */
import type { Connection } from '../api/connection.js';
import type { Envelope } from '../api/envelope.js';
import type { IsthmusError } from '../base/errors.js';
import type { RuntimeConnection } from '../connection/connection.js';
import type { Matching } from '../matching/matching.js';
import {
  PostedReceive,
  PostedSend,
  type PostReceiveOptions,
  type PostSendOptions,
  type ProbeOptions,
  type ReceiveRequest,
  type SendRequest,
  waitForMessage,
} from './request.js';

export class Requests {
  readonly #matching: Matching;
  readonly #connections: ReadonlySet<RuntimeConnection>;
  readonly #own: (connection: Connection) => RuntimeConnection;

  /**
   * @param matching receives for any connection of the endpoint
   * @param own checks that a connection is one of the endpoint's
   */
  constructor(
    matching: Matching,
    connections: ReadonlySet<RuntimeConnection>,
    own: (connection: Connection) => RuntimeConnection,
  ) {
    this.#matching = matching;
    this.#connections = connections;
    this.#own = own;
  }

  postReceive(options: PostReceiveOptions): ReceiveRequest {
    const request = new PostedReceive(options);
    if (options.connection !== undefined) this.#postAt(this.#own(options.connection), request);
    else this.#postAtAny(request);
    return request;
  }

  #postAt(connection: RuntimeConnection, request: PostedReceive): void {
    const { receiver } = connection;
    connection.progress();
    if (receiver.offer(request)) return;
    connection.throwIfEnded();
    request.posted(() => receiver.withdraw(request));
    receiver.post(request);
    connection.poke();
  }

  #postAtAny(request: PostedReceive): void {
    for (const connection of this.#connections) {
      connection.progress();
      if (connection.receiver.offer(request)) return;
    }
    request.posted(() => this.#matching.remove(request));
    this.#matching.add(request);
    // A connection at its limit of unread bytes leaves messages in its ring: one of them may match.
    for (const connection of [...this.#connections]) if (request.state === 'posted') connection.poke();
  }

  postSend(options: PostSendOptions): SendRequest {
    return new PostedSend(this.#own(options.connection), options);
  }

  iprobe({ connection, match }: ProbeOptions): Envelope | undefined {
    const candidates = connection === undefined ? this.#connections : [this.#own(connection)];
    for (const one of candidates) {
      one.progress();
      const found = one.receiver.find(match);
      if (found) return one.receiver.pending.envelope(found);
    }
    return undefined;
  }

  /** {@link iprobe} has found nothing: wait. */
  async probe(options: ProbeOptions, signal: AbortSignal | undefined): Promise<Envelope> {
    if (options.connection !== undefined) this.#own(options.connection).throwIfEnded();
    const waiting = waitForMessage(this.#matching, options, signal);
    for (const connection of [...this.#connections]) connection.poke();
    return waiting;
  }

  /** Receives and probes for any connection fail with this error. */
  close(error: IsthmusError): void {
    this.#matching.rejectAll(error);
  }
}

/** A connection as an application has it, and the contracts that it relies on. */
import type { IsthmusError } from '../base/errors.js';
import type { BorrowedMessage, Message } from '../base/message.js';
import type { ConnectionEvents } from './events.js';
import type { Loan } from './loan.js';
import type { Peer } from './peer.js';
import type { ExposeOptions, Exposure, RmaToken } from './remote-memory.js';
import type { SharedMemory } from './shared-memory.js';
import type { ConnectionStream, StreamOptions } from './stream.js';

/** Bytes to send; a string is sent as UTF-8. */
export type Sendable = Uint8Array | ArrayBuffer | string;

/** Why a connection is closed. */
export interface Closed {
  /** `local`: by this side's close or destroy; `peer`: in order by the other side; `error`: otherwise. */
  readonly reason: 'local' | 'peer' | 'error';
  readonly error?: IsthmusError;
}

/** Filled by `tryReceiveInto`, so that the caller need not make an object for each message. */
export interface ReceiveInfo {
  /** Receives the xheader from its beginning, if there is one and it fits. */
  xheader?: Uint8Array;
  /** Length of the message's xheader in bytes. */
  xheaderLength: number;
}

/** What `connection.stats()` tells. */
export interface ConnectionStats {
  readonly messagesSent: number;
  readonly messagesReceived: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** How often the ring was full when something was to be sent. */
  readonly stalls: number;
  /** Bytes of the transmit ring that the peer has not consumed yet, record headers included. */
  readonly ringUsed: number;
  /** Capacity of the transmit ring in bytes. */
  readonly ringSize: number;
  /** Messages that wait for room in the transmit ring. */
  readonly pendingSends: number;
  /** Received and not yet taken by the application: messages, and the bytes that they occupy. */
  readonly unreadMessages: number;
  readonly unreadBytes: number;
  /** How long the oldest of them has been there, in milliseconds, to some hundredths of a second. */
  readonly oldestUnreadMs: number;
}

/**
 * One connection. Messages arrive once, whole and in order.
 *
 * What committed records hold is delivered before the error of a dead peer. An aborted call rejects with
 * `signal.reason` and loses no message. Leaving an iterator closes nothing.
 */
export interface Connection extends AsyncDisposable, AsyncIterable<Message> {
  /** Name of the plugin that carries it. */
  readonly plugin: string;
  /** Why not a better plugin; undefined if this is the best one. */
  readonly why: string | undefined;
  /** Who the peer says it is. */
  readonly peer: Peer;
  readonly state: 'connecting' | 'open' | 'suspended' | 'closing' | 'closed';
  /** Settles when the connection is closed; never rejects. */
  readonly closed: Promise<Closed>;
  /**
   * For how long the peer has shown no sign of life, in milliseconds and steps of 500, once that is `stallTimeout`; 0: it
   * lives, as far as one can see, and always where nobody can: over `tcp` and `loop`, and in any state but `open`. A
   * stalled connection goes on: what is sent waits in the ring or for room there, and nothing is lost.
   */
  readonly stalled: number;
  /**
   * Be told when the connection stalls, and when it has recovered. Between the two it may as well be suspended or closed.
   * There are no other events; what a listener throws is logged, and nothing else comes of it.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT
   */
  on<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this;
  /** {@link on}, for the next time only. */
  once<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this;
  /** Take back one {@link on} or {@link once} of that listener. */
  off<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this;
  /**
   * Send a message: resolves when it is in the ring, waits for room. The bytes must not change until then. A message of
   * which the first part is on its way is not given up by `signal`.
   * @param xheader at most 65,535 bytes
   * @param data a {@link Loan} is the peer's from here on, whatever becomes of the call
   * @throws ERR_ISTHMUS_CLOSED, ERR_ISTHMUS_MESSAGE_TOO_LARGE, ERR_ISTHMUS_PEER_DIED, ERR_ISTHMUS_PEER_TIMEOUT,
   * `signal.reason`; ERR_ISTHMUS_RELEASED, ERR_ISTHMUS_INVALID_ARGUMENT: a loan that was sent, or of another connection
   */
  send(
    data: Sendable | Loan,
    options?: { xheader?: Uint8Array | undefined; signal?: AbortSignal | undefined },
  ): Promise<void>;
  /**
   * Send a message if there is room now. False: not taken, and nothing changed. The bytes are the caller's again when it
   * returns. Allocates nothing for a message that the ring takes whole. A {@link Loan} that was not taken is still the
   * caller's.
   * @throws ERR_ISTHMUS_CLOSED, ERR_ISTHMUS_MESSAGE_TOO_LARGE, ERR_ISTHMUS_PEER_DIED, ERR_ISTHMUS_PEER_TIMEOUT;
   * ERR_ISTHMUS_RELEASED, ERR_ISTHMUS_INVALID_ARGUMENT: a loan that was sent, or of another connection
   */
  trySend(data: Sendable | Loan, options?: { xheader?: Uint8Array | undefined }): boolean;
  /**
   * Room for a message of `size` bytes in the memory that both ends map: fill it, and send it without a copy. Waits until
   * the region has a run of free frames for it, for ever if a peer never releases what it has borrowed. Where there is no
   * region (over `tcp`, while suspended), or one that is too small whoever uses it, it is memory of our own, and is
   * copied when it is sent.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_MESSAGE_TOO_LARGE, ERR_ISTHMUS_CLOSED, what ended the connection,
   * `signal.reason`
   */
  loan(size: number, options?: { signal?: AbortSignal | undefined }): Promise<Loan>;
  /** {@link loan} without waiting; undefined: the region has no such room now. @throws as {@link loan} */
  tryLoan(size: number): Loan | undefined;
  /**
   * Resolves when the peer's runtime has consumed all that was sent so far. Over `tcp`: when the kernel has it.
   * @throws ERR_ISTHMUS_CLOSED, ERR_ISTHMUS_PEER_DIED, ERR_ISTHMUS_PEER_TIMEOUT, `signal.reason`
   */
  flush(options?: { signal?: AbortSignal | undefined }): Promise<void>;
  /**
   * The next message, a copy of its own; undefined at the orderly end.
   * @throws what ended the connection, after all messages before it were delivered; `signal.reason`
   */
  receive(options?: { signal?: AbortSignal | undefined }): Promise<Message | undefined>;
  /**
   * Copy the data of the next message to the beginning of `target`, without waiting and without allocating. Polls: while
   * an application calls it, nobody else looks at the connection.
   * @returns the length in bytes, or -1 if nothing is there
   * @throws ERR_ISTHMUS_BUFFER_TOO_SMALL (the message stays); ERR_ISTHMUS_CLOSED at the orderly end; what else ended it
   */
  tryReceiveInto(target: Uint8Array, info?: ReceiveInfo): number;
  /**
   * The next message where it lies, for the one who has read what {@link BorrowedMessage} says about such bytes;
   * undefined at the orderly end.
   */
  borrow(options?: { signal?: AbortSignal | undefined }): Promise<BorrowedMessage | undefined>;
  /**
   * Call `handler` for each message that is there, at most `limit`, with the place of its data in `memory`; the bytes are
   * the handler's until it returns. They may be changing under its hands: copy, then look. Allocates nothing.
   * @returns how many
   */
  poll(handler: (memory: Uint8Array, offset: number, length: number) => void, limit?: number): number;
  /**
   * The connection as a Node `Duplex`, always the same one: {@link ConnectionStream} says what it promises. From then on it
   * is the stream who receives.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT
   */
  stream(options?: StreamOptions): ConnectionStream;
  /**
   * Let the peer read (default), or write, some memory, until it is withdrawn or the connection ends. The peer makes
   * what it gets of `token` an {@link RmaToken}.
   * @throws ERR_ISTHMUS_CLOSED, ERR_ISTHMUS_RELEASED, ERR_ISTHMUS_INVALID_ARGUMENT
   */
  expose(memory: SharedMemory | Uint8Array, options?: ExposeOptions): Exposure;
  /** What the peer has exposed. @throws ERR_ISTHMUS_INVALID_ARGUMENT: these bytes are no token */
  token(bytes: Uint8Array): RmaToken;
  stats(): ConnectionStats;
  /**
   * Close in order: what was sent so far is delivered, then the peer is told. Receiving ends at once.
   * @param timeout in milliseconds, default `closeTimeout`; then the connection is cut
   * @throws ERR_ISTHMUS_CLOSE_TIMEOUT, `signal.reason` (cut as well)
   */
  close(options?: { timeout?: number | undefined; signal?: AbortSignal | undefined }): Promise<void>;
  /** Cut at once. The peer gets an error. */
  destroy(error?: Error): void;
  /** Keep the process alive for this connection (the default), or not. */
  ref(): this;
  unref(): this;
}

/** The public interface of a connection. */
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

/** Filled by `tryReceiveInto`: the caller makes one, and not one for each message. */
export interface ReceiveInfo {
  /** Receives the xheader from its beginning, if there is one and it fits. */
  xheader?: Uint8Array;
  /** Length of the message's xheader in bytes. */
  xheaderLength: number;
}

/** Counters of `connection.stats()`. */
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
  /** Messages that have been received and that the application has not taken, and the bytes that they occupy. */
  readonly unreadMessages: number;
  readonly unreadBytes: number;
  /** Age of the oldest of them in milliseconds, to some hundredths of a second. */
  readonly oldestUnreadMs: number;
}

/**
 * One connection. Messages arrive once, whole and in order.
 *
 * Messages that a peer had committed before it died are delivered before the error. An aborted call rejects with
 * `signal.reason` and loses no message. Leaving an iterator does not close the connection.
 */
export interface Connection extends AsyncDisposable, AsyncIterable<Message> {
  /** Name of the plugin of its link. */
  readonly plugin: string;
  /** Why plugins of higher priority were not used; undefined: this one has the highest. */
  readonly why: string | undefined;
  /** The peer, as it describes itself. */
  readonly peer: Peer;
  readonly state: 'connecting' | 'open' | 'suspended' | 'closing' | 'closed';
  /** Settles when the connection is closed; never rejects. */
  readonly closed: Promise<Closed>;
  /**
   * For how long the peer has shown no sign of life, in milliseconds and steps of 500, once that is `stallTimeout`. 0: the
   * peer shows signs of life. Always 0 where they cannot be seen: over `tcp` and `loop`, and in any state but `open`. A
   * stalled connection stays usable: messages wait in the ring, or for room in it, and nothing is lost.
   */
  readonly stalled: number;
  /**
   * Add a listener for a connection that stalls, or that has recovered. A stalled connection may also be suspended or
   * closed instead. There are no other events. An error that a listener throws is logged, and has no other effect.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT
   */
  on<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this;
  /** {@link on}, for the next time only. */
  once<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this;
  /** Remove a listener that {@link on} or {@link once} added, once. */
  off<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this;
  /**
   * Send a message. Waits for room, and resolves when the message is in the ring; its bytes must not change until then.
   * `signal` does not withdraw a message of which the first part is in the ring.
   * @param xheader at most 65,535 bytes
   * @param data a {@link Loan} belongs to the peer from here on, also when the call fails
   * @throws ERR_ISTHMUS_CLOSED, ERR_ISTHMUS_MESSAGE_TOO_LARGE, ERR_ISTHMUS_PEER_DIED, ERR_ISTHMUS_PEER_TIMEOUT,
   * `signal.reason`; ERR_ISTHMUS_RELEASED, ERR_ISTHMUS_INVALID_ARGUMENT: a loan that was sent, or of another connection
   */
  send(
    data: Sendable | Loan,
    options?: { xheader?: Uint8Array | undefined; signal?: AbortSignal | undefined },
  ): Promise<void>;
  /**
   * Send a message if there is room now. The caller may change its bytes when the call returns. Allocates nothing for a
   * message that fits into the ring as a whole.
   * @returns false: the message was not taken, and nothing changed; a {@link Loan} is still the caller's
   * @throws ERR_ISTHMUS_CLOSED, ERR_ISTHMUS_MESSAGE_TOO_LARGE, ERR_ISTHMUS_PEER_DIED, ERR_ISTHMUS_PEER_TIMEOUT;
   * ERR_ISTHMUS_RELEASED, ERR_ISTHMUS_INVALID_ARGUMENT: a loan that was sent, or of another connection
   */
  trySend(data: Sendable | Loan, options?: { xheader?: Uint8Array | undefined }): boolean;
  /**
   * Room for a message of `size` bytes in the memory that both ends map: fill it, and send it without a copy. Waits until
   * the region has a run of free frames for it, without a limit if a peer never releases the messages that it has borrowed.
   * Without a region (over `tcp`, while suspended), or in one whose capacity is smaller than the message, the loan is
   * memory of this process, and is copied when it is sent.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_MESSAGE_TOO_LARGE, ERR_ISTHMUS_CLOSED, what ended the connection,
   * `signal.reason`
   */
  loan(size: number, options?: { signal?: AbortSignal | undefined }): Promise<Loan>;
  /** {@link loan} without waiting; undefined: the region has no such room now. @throws as {@link loan} */
  tryLoan(size: number): Loan | undefined;
  /**
   * Resolves when the peer's runtime has consumed all messages sent so far; over `tcp`: when the kernel has taken them.
   * @throws ERR_ISTHMUS_CLOSED, ERR_ISTHMUS_PEER_DIED, ERR_ISTHMUS_PEER_TIMEOUT, `signal.reason`
   */
  flush(options?: { signal?: AbortSignal | undefined }): Promise<void>;
  /**
   * The next message, in memory of its own; undefined: the connection was closed in order.
   * @throws the error that ended the connection, behind the messages that came before it; `signal.reason`
   */
  receive(options?: { signal?: AbortSignal | undefined }): Promise<Message | undefined>;
  /**
   * Copy the data of the next message to the beginning of `target`, without waiting and without allocating. The application
   * polls: as long as it goes on calling this, the runtime does not poll the connection itself.
   * @returns the length in bytes; -1: there is no message
   * @throws ERR_ISTHMUS_BUFFER_TOO_SMALL (the message stays); ERR_ISTHMUS_CLOSED: the connection was closed in order; the
   * error that ended it
   */
  tryReceiveInto(target: Uint8Array, info?: ReceiveInfo): number;
  /**
   * The next message where it lies; undefined: the connection was closed in order. Read about such bytes at
   * {@link BorrowedMessage} first.
   * @throws as {@link receive}
   */
  borrow(options?: { signal?: AbortSignal | undefined }): Promise<BorrowedMessage | undefined>;
  /**
   * Call `handler` for each message that is there, at most `limit`, with the place of its data in `memory`. The handler may
   * use the bytes until it returns. The peer may change them meanwhile: copy them first, then check them. Allocates nothing.
   * @returns the number of messages
   * @throws as {@link tryReceiveInto} when the connection has ended; the error of the handler; ERR_ISTHMUS_INVALID_ARGUMENT:
   * called by its own handler
   */
  poll(handler: (memory: Uint8Array, offset: number, length: number) => void, limit?: number): number;
  /**
   * The connection as a Node `Duplex`, the same one at each call; {@link ConnectionStream} has its contract. From then on
   * the stream receives the messages.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT
   */
  stream(options?: StreamOptions): ConnectionStream;
  /**
   * Let the peer read (default) or write some memory, until it is withdrawn or the connection ends. The peer passes the
   * token of the {@link Exposure} to {@link token}.
   * @throws ERR_ISTHMUS_CLOSED, ERR_ISTHMUS_RELEASED, ERR_ISTHMUS_INVALID_ARGUMENT
   */
  expose(memory: SharedMemory | Uint8Array, options?: ExposeOptions): Exposure;
  /** Memory that the peer has exposed. @throws ERR_ISTHMUS_INVALID_ARGUMENT: these bytes are not a token */
  token(bytes: Uint8Array): RmaToken;
  stats(): ConnectionStats;
  /**
   * Close in order: messages sent so far are delivered, then the peer sees the end. Receiving ends at once.
   * @param timeout in milliseconds, default `closeTimeout`; then the connection is cut
   * @throws ERR_ISTHMUS_CLOSE_TIMEOUT, `signal.reason` (cut as well)
   */
  close(options?: { timeout?: number | undefined; signal?: AbortSignal | undefined }): Promise<void>;
  /** Cut at once. The peer gets an error. */
  destroy(error?: Error): void;
  /** The connection keeps the process alive (default). */
  ref(): this;
  /** The connection does not keep the process alive. */
  unref(): this;
}

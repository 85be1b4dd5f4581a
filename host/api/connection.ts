/** A connection as an application sees it, and its contracts. */
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

/** Filled by `tryReceiveInto`: the caller passes the same object each time, so that no message needs a new one. */
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
  /** Number of times that the ring was full when a message was to be sent. */
  readonly stalls: number;
  /** Bytes of the transmit ring that the peer has not consumed yet, record headers included. */
  readonly ringUsed: number;
  /** Capacity of the transmit ring in bytes. */
  readonly ringSize: number;
  /** Messages that wait for room in the transmit ring. */
  readonly pendingSends: number;
  /** Messages that have been received and not yet taken by the application, and the bytes that they occupy. */
  readonly unreadMessages: number;
  readonly unreadBytes: number;
  /** Age of the oldest of them in milliseconds, to some hundredths of a second. */
  readonly oldestUnreadMs: number;
}

/**
 * One connection. Messages arrive once, whole and in order.
 *
 * Committed records are delivered before the error of a dead peer. An aborted call rejects with `signal.reason` and loses
 * no message. Leaving an iterator closes nothing.
 */
export interface Connection extends AsyncDisposable, AsyncIterable<Message> {
  /** Name of the plugin that carries it. */
  readonly plugin: string;
  /** Why not a better plugin; undefined if this is the best one. */
  readonly why: string | undefined;
  /** The peer, as it describes itself. Not authenticated. */
  readonly peer: Peer;
  readonly state: 'connecting' | 'open' | 'suspended' | 'closing' | 'closed';
  /** Settles when the connection is closed; never rejects. */
  readonly closed: Promise<Closed>;
  /**
   * How long the peer has shown no sign of life, in milliseconds and steps of 500, once that reaches `stallTimeout`; 0: the
   * peer shows signs of life. Always 0 over `tcp` and `loop`, where they cannot be seen, and in any state but `open`. A
   * stalled connection goes on: messages wait in the ring or for room there, and none is lost.
   */
  readonly stalled: number;
  /**
   * Add a listener for `stalled` or `recovered`. Between the two events the connection may also be suspended or closed.
   * There are no other events. An error that a listener throws is logged and has no other effect.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT
   */
  on<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this;
  /** {@link on}, for the next event only. */
  once<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this;
  /** Remove a listener that {@link on} or {@link once} added. */
  off<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this;
  /**
   * Send a message: waits for room, resolves when the message is in the ring. The bytes must not change until then. `signal`
   * does not withdraw a message of which the first part is in the ring.
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
   * Send a message if there is room now. False: it was not taken, and nothing changed. The caller may reuse the bytes when
   * the call returns. Allocates nothing for a message that fits into the ring. A {@link Loan} that was not taken still
   * belongs to the caller.
   * @throws ERR_ISTHMUS_CLOSED, ERR_ISTHMUS_MESSAGE_TOO_LARGE, ERR_ISTHMUS_PEER_DIED, ERR_ISTHMUS_PEER_TIMEOUT;
   * ERR_ISTHMUS_RELEASED, ERR_ISTHMUS_INVALID_ARGUMENT: a loan that was sent, or of another connection
   */
  trySend(data: Sendable | Loan, options?: { xheader?: Uint8Array | undefined }): boolean;
  /**
   * Room for a message of `size` bytes in the memory that both ends map: fill it, and send it without a copy. Waits until
   * the region has a run of free frames for it; there is no limit if a peer never releases what it has borrowed. Without a
   * region (over `tcp`, while suspended), or with one that is too small in total, the loan is memory of this process, and
   * is copied when it is sent.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT, ERR_ISTHMUS_MESSAGE_TOO_LARGE, ERR_ISTHMUS_CLOSED, what ended the connection,
   * `signal.reason`
   */
  loan(size: number, options?: { signal?: AbortSignal | undefined }): Promise<Loan>;
  /** {@link loan} without waiting; undefined: the region has no such room now. @throws as {@link loan} */
  tryLoan(size: number): Loan | undefined;
  /**
   * Resolves when the peer's runtime has consumed everything that was sent so far; over `tcp`, when the kernel has it.
   * @throws ERR_ISTHMUS_CLOSED, ERR_ISTHMUS_PEER_DIED, ERR_ISTHMUS_PEER_TIMEOUT, `signal.reason`
   */
  flush(options?: { signal?: AbortSignal | undefined }): Promise<void>;
  /**
   * The next message, in memory of its own; undefined at the orderly end.
   * @throws what ended the connection, after all messages before it were delivered; `signal.reason`
   */
  receive(options?: { signal?: AbortSignal | undefined }): Promise<Message | undefined>;
  /**
   * Copy the data of the next message to the beginning of `target`, without waiting and without allocating. While an
   * application calls it, the runtime does not poll the connection itself.
   * @returns the length in bytes, or -1 if there is no message
   * @throws ERR_ISTHMUS_BUFFER_TOO_SMALL (the message stays); ERR_ISTHMUS_CLOSED at the orderly end; what else ended the connection;
   * ERR_ISTHMUS_REGION_LOST: the memory went away during the copy, and `target` does not have the message
   */
  tryReceiveInto(target: Uint8Array, info?: ReceiveInfo): number;
  /**
   * The next message where it lies, which saves the copy; undefined at the orderly end. {@link BorrowedMessage} says what
   * an application may do with such bytes.
   * @throws as {@link receive}
   */
  borrow(options?: { signal?: AbortSignal | undefined }): Promise<BorrowedMessage | undefined>;
  /**
   * Call `handler` for each message that is there, at most `limit`, with the place of its data in `memory`. The bytes stay
   * until the handler returns. The peer may still change them: copy first, then check. Allocates nothing per message.
   * @returns the number of messages
   * @throws as {@link tryReceiveInto} when the connection has ended; ERR_ISTHMUS_REGION_LOST: the memory went away while the
   * handler ran, and what it saw last may be zeros in place of the message; the error of the handler; ERR_ISTHMUS_INVALID_ARGUMENT:
   * called by its own handler
   */
  poll(handler: (memory: Uint8Array, offset: number, length: number) => void, limit?: number): number;
  /**
   * The connection as a Node `Duplex`, the same one for each call ({@link ConnectionStream}). From then on the stream
   * receives: the application does not.
   * @throws ERR_ISTHMUS_INVALID_ARGUMENT
   */
  stream(options?: StreamOptions): ConnectionStream;
  /**
   * Let the peer read (the default) or write memory of this side, until it is withdrawn or the connection ends. The peer
   * passes the bytes of `token` to {@link token}.
   * @throws ERR_ISTHMUS_CLOSED, ERR_ISTHMUS_RELEASED, ERR_ISTHMUS_INVALID_ARGUMENT
   */
  expose(memory: SharedMemory | Uint8Array, options?: ExposeOptions): Exposure;
  /** Memory that the peer has exposed. @throws ERR_ISTHMUS_INVALID_ARGUMENT: these bytes are no token */
  token(bytes: Uint8Array): RmaToken;
  stats(): ConnectionStats;
  /**
   * Close in order: what was sent so far is delivered, then the end. Receiving ends at once.
   * @param timeout in milliseconds, default `closeTimeout`; then the connection is cut
   * @throws ERR_ISTHMUS_CLOSE_TIMEOUT, `signal.reason` (cut as well)
   */
  close(options?: { timeout?: number | undefined; signal?: AbortSignal | undefined }): Promise<void>;
  /** Cut at once. The peer gets an error. */
  destroy(error?: Error): void;
  /** Keep the process alive as long as the connection is open (the default). */
  ref(): this;
  /** Do not keep the process alive for this connection. */
  unref(): this;
}

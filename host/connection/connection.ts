/** A connection of a runtime: the facade over its parts, which are wired here. */
import type { Closed, Connection, ConnectionStats, ReceiveInfo, Sendable } from '../api/connection.js';
import type { ConnectionEvents } from '../api/events.js';
import type { Loan } from '../api/loan.js';
import type { MessageCounts, Peer } from '../api/peer.js';
import type { ExposeOptions, Exposure, RmaToken } from '../api/remote-memory.js';
import type { SharedMemory } from '../api/shared-memory.js';
import type { ConnectionStream, StreamOptions } from '../api/stream.js';
import { abortable } from '../base/abortable.js';
import { optionsOf, timeoutOf } from '../base/arguments.js';
import { type Bytes, bytesOf } from '../base/bytes.js';
import { IsthmusError } from '../base/errors.js';
import type { BorrowedMessage, Message } from '../base/message.js';
import { PolledReads, type PollHandler } from '../channel/polled-reads.js';
import { Receiver } from '../channel/receiver.js';
import { type PendingSend, Sender } from '../channel/sender.js';
import type { Core } from '../core/core.js';
import type { Extent } from '../link/borrowed-records.js';
import type { BoundLink } from '../link/bound-link.js';
import { type Closing, Lifecycle, type Phase } from '../link/lifecycle.js';
import { LinkBinding } from '../link/link-binding.js';
import { ProtocolRouter } from '../link/protocol-router.js';
import type { Matching } from '../matching/matching.js';
import { ConnectionMemory } from '../memory/connection-memory.js';
import type { Link, SocketOptions } from '../plugins/plugin.js';
import type { Pollable } from '../polling/poller.js';
import type { Region } from '../region/region.js';
import type { ConnectionContext, Route } from './context.js';
import { Counters } from './counters.js';
import { type ConfirmRole, LinkLifetime } from './link-lifetime.js';
import { Liveness } from './liveness.js';
import { type SendOptions, SendPath } from './send-path.js';
import { Shutdown } from './shutdown.js';
import { DuplexStream } from './stream.js';

export class RuntimeConnection implements Connection, Pollable {
  /** @internal */
  readonly matching: Matching;
  /** @internal */
  readonly lifecycle: Lifecycle;
  /** @internal Message types: rooms above register theirs. */
  readonly router = new ProtocolRouter();
  /** @internal */
  readonly shutdown: Shutdown;
  /** @internal */
  readonly receiver: Receiver;
  /** @internal */
  readonly lifetime: LinkLifetime;
  readonly #context: ConnectionContext;
  readonly #binding: LinkBinding;
  readonly #sender: Sender;
  readonly #polled: PolledReads;
  readonly #memory: ConnectionMemory;
  readonly #path: SendPath;
  readonly #liveness: Liveness;
  readonly #counters: Counters;
  #closing: Promise<void> | undefined;
  #stream: DuplexStream | undefined;

  /** @param route what is known of the peer before there is a link */
  constructor(route: Route, context: ConnectionContext) {
    const { matching, poller, limits, log } = context;
    this.#context = context;
    this.matching = matching;
    this.lifecycle = new Lifecycle((from, event, to, step) => {
      const { name, pid } = this.peer;
      const code = to === 'closed' && from !== to ? this.lifecycle.error?.code : undefined;
      const why = code === undefined ? '' : `, ${code}`;
      log('debug', `connection to ${name}[${pid}]: ${from}, ${event} ${outcomeOf(from, to, step)}${why}`);
    });
    const binding = new LinkBinding(this.lifecycle, poller, this);
    const sender = new Sender(binding);
    this.receiver = new Receiver(this, binding, matching, this.router, limits);
    this.#binding = binding;
    this.#sender = sender;
    this.#polled = new PolledReads(this.receiver, sender);
    this.#memory = new ConnectionMemory(binding, sender, this.receiver, this.router);
    this.#counters = new Counters(binding);
    this.#liveness = new Liveness(context, log, context.onSilence);
    this.shutdown = new Shutdown(binding, sender, this.router, () => this.#requestDrain(), context.listenPort);
    this.lifetime = new LinkLifetime(
      {
        binding,
        sender,
        receiver: this.receiver,
        polled: this.#polled,
        memory: this.#memory,
        shutdown: this.shutdown,
        liveness: this.#liveness,
        counters: this.#counters,
      },
      context,
      route,
    );
    this.#path = new SendPath(binding, sender, this.#memory, limits.maxMessageSize);
    sender.onBlocked = () => {
      if (binding.link) binding.pollForRoom();
      else if (this.lifecycle.state === 'connecting') context.bringUp();
    };
    this.receiver.onEndOfInput = () => this.#endOfInput();
    this.#liveness.onPeerTimeout = (error) => {
      // The peer may still write: its half of this side's ring is free when it, too, lets go.
      if (this.lifecycle.state === 'open') this.lifetime.onEnded({ kind: 'lost', error });
    };
  }

  // ─── what it is ────────────────────────────────────────────────────────────────────────────────────────────────────

  get plugin(): string {
    return this.lifetime.route.plugin;
  }

  get why(): string | undefined {
    return this.lifetime.route.why;
  }

  get peer(): Peer {
    return this.lifetime.route.peer;
  }

  get state(): Connection['state'] {
    return this.lifecycle.state;
  }

  get closed(): Promise<Closed> {
    return this.lifetime.closed;
  }

  /** @internal Of the link, or of the last one. */
  get route(): Route {
    return this.lifetime.route;
  }

  /** @internal Undefined while there is none. */
  get link(): BoundLink | undefined {
    return this.#binding.link;
  }

  /** @internal */
  get linked(): boolean {
    return this.#binding.link !== undefined;
  }

  /** @internal Whether there has been a link. */
  get everLinked(): boolean {
    return this.#binding.core !== undefined;
  }

  /** @internal The region that both ends map, if that is how they reach each other. */
  get region(): Region | undefined {
    return this.#binding.region;
  }

  /** @internal For the poller. */
  get core(): Core {
    return this.#binding.core as Core;
  }

  /** @internal For the poller. */
  get index(): number {
    return (this.#binding.link as BoundLink).index;
  }

  // ─── sending ───────────────────────────────────────────────────────────────────────────────────────────────────────

  send(data: Sendable | Loan, options?: SendOptions): Promise<void> {
    return this.#path.send(data, options);
  }

  trySend(data: Sendable | Loan, options?: SendOptions): boolean {
    return this.#path.trySend(data, options);
  }

  async loan(size: number, options?: { signal?: AbortSignal | undefined }): Promise<Loan> {
    return this.#path.loan(size, signalOf(options));
  }

  tryLoan(size: number): Loan | undefined {
    return this.#path.tryLoan(size);
  }

  async flush(options?: { signal?: AbortSignal | undefined }): Promise<void> {
    return this.#path.flush(signalOf(options));
  }

  /** @internal {@link SendPath.post} */
  post(
    data: Sendable,
    options: SendOptions,
    resolve: () => void,
    reject: (error: unknown) => void,
  ): PendingSend | undefined {
    return this.#path.post(data, options, resolve, reject);
  }

  /** @internal @returns false: the message has begun, or has been sent */
  cancel(entry: PendingSend): boolean {
    return this.#sender.cancel(entry);
  }

  /** @internal {@link SendPath.sendTyped} */
  sendTyped(type: number, xheader: Uint8Array, data: Uint8Array): Promise<void> {
    return this.#path.sendTyped(type, xheader, data);
  }

  /** @internal */
  get wantsToSend(): boolean {
    return this.#sender.waiting > 0;
  }

  // ─── receiving ─────────────────────────────────────────────────────────────────────────────────────────────────────

  receive(options?: { signal?: AbortSignal | undefined }): Promise<Message | undefined> {
    // Not async: a promise around a promise costs three turns of the microtask queue.
    let signal: AbortSignal | undefined;
    if (options !== undefined) {
      try {
        signal = signalOf(options);
        signal?.throwIfAborted();
      } catch (error) {
        return Promise.reject(error);
      }
    }
    return this.lifecycle.closing ? Promise.resolve(undefined) : this.receiver.receive(signal);
  }

  async borrow(options?: { signal?: AbortSignal | undefined }): Promise<BorrowedMessage | undefined> {
    const signal = signalOf(options);
    signal?.throwIfAborted();
    return this.lifecycle.closing ? undefined : this.receiver.borrow(signal);
  }

  tryReceiveInto(target: Bytes, info?: ReceiveInfo): number {
    if (info?.xheader) {
      const xheader = bytesOf(info.xheader, 'info.xheader');
      // Bytes of another kind or realm: from here on the object has a view of the same memory.
      if (xheader !== info.xheader) info.xheader = xheader;
    }
    return this.#polled.tryReceiveInto(bytesOf(target, 'target'), info);
  }

  poll(handler: PollHandler, limit = Number.MAX_SAFE_INTEGER): number {
    if (!(limit >= 0)) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `a limit is a number of messages, not ${String(limit)}`);
    }
    return this.#polled.poll(handler, limit);
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Message> {
    for (;;) {
      const message = await this.receive();
      if (message === undefined) return;
      yield message;
    }
  }

  stream(options?: StreamOptions): ConnectionStream {
    this.#stream ??= new DuplexStream(this, options);
    return this.#stream;
  }

  /** @internal A receive was posted that messages in the ring may match. */
  poke(): void {
    this.#binding.poll();
  }

  /** @internal @throws what ended the connection, if no further message will come */
  throwIfEnded(): void {
    if (!this.receiver.ring.ended && this.lifecycle.sends) return;
    throw this.lifecycle.error ?? new IsthmusError('ERR_ISTHMUS_CLOSED', 'no further message will come');
  }

  /** The application has seen the end of what the peer sends: it waits for no answer any more. */
  #endOfInput(): undefined {
    if (this.lifecycle.error) throw this.lifecycle.error;
    if (this.lifecycle.state === 'open') this.#startClose('peer', {}).catch(() => {});
    return undefined;
  }

  // ─── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────

  expose(memory: SharedMemory | Bytes, options?: ExposeOptions): Exposure {
    this.lifecycle.check();
    return this.#memory.exposures.expose(memory, optionsOf(options, '{ read, write }') ?? {});
  }

  token(bytes: Bytes): RmaToken {
    return this.#memory.access.token(bytesOf(bytes, 'a token'));
  }

  // ─── progress ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @internal For the poller. */
  get waitsForRoom(): boolean {
    return (this.#sender.waiting > 0 || this.lifecycle.exchanging) && !this.lifecycle.over;
  }

  /** @internal For the poller. */
  progress(): boolean {
    return this.lifetime.progress();
  }

  // ─── links and suspensions ─────────────────────────────────────────────────────────────────────────────────────────

  /** @internal {@link LinkLifetime.attach} */
  attach(link: Link, route: Route, onUp: () => void, role?: ConfirmRole): void {
    this.lifetime.attach(link, route, onUp, role);
  }

  /** @internal {@link LinkLifetime.revert} */
  revert(): void {
    this.lifetime.revert();
  }

  /** @internal {@link LinkLifetime.suspend} */
  suspend(): Promise<unknown> {
    return this.lifetime.suspend();
  }

  /** @internal The peer suspends, and said so at a listener: its request lies behind what is unread. */
  onDrainRequested(): void {
    this.lifetime.onDrainRequested();
  }

  /** Ask the peer to read on whatever it has unread, and read on here. */
  #requestDrain(): void {
    const link = this.#binding.link?.link;
    if (link?.requestDrain) link.requestDrain();
    else if (this.shutdown.asked) this.#context.requestDrain();
    this.#binding.wake();
  }

  /** @internal Numbers of messages over all links, for the peer to compare. */
  get counts(): MessageCounts {
    const { messagesSent, messagesReceived } = this.#counters.get();
    return { sent: messagesSent, received: messagesReceived };
  }

  /** @internal {@link LinkLifetime.abandon} */
  abandon(core: Core): Extent[] {
    return this.lifetime.abandon(core);
  }

  // ─── silence of the peer ───────────────────────────────────────────────────────────────────────────────────────────

  get stalled(): number {
    return this.lifecycle.state === 'open' ? this.#liveness.silence : 0;
  }

  on<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this {
    this.#liveness.listen(event, listener, false);
    return this;
  }

  once<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this {
    this.#liveness.listen(event, listener, true);
    return this;
  }

  off<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this {
    this.#liveness.unlisten(event, listener);
    return this;
  }

  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @internal The peer broke the protocol, or cannot be reached again: this connection ends, and only this one. */
  fail(error: IsthmusError): void {
    this.lifetime.fail(error);
  }

  destroy(error?: Error): void {
    const cause =
      error === undefined || error instanceof IsthmusError
        ? error
        : new IsthmusError('ERR_ISTHMUS_CLOSED', error.message, { cause: error });
    this.lifetime.cut(cause);
  }

  async close(options?: { timeout?: number | undefined; signal?: AbortSignal | undefined }): Promise<void> {
    return this.#startClose('local', optionsOf(options, '{ timeout, signal }') ?? {});
  }

  #startClose(
    why: Closing,
    options: { timeout?: number | undefined; signal?: AbortSignal | undefined },
  ): Promise<void> {
    const timeout = timeoutOf(options.timeout ?? this.#context.closeTimeout);
    if (this.lifecycle.over) return this.#closing ?? Promise.resolve();
    // Each call has a limit of its own: the runtime's close does not wait for one that was given weeks.
    const closing = this.#close(why, timeout, options.signal);
    this.#closing ??= closing;
    return closing;
  }

  async #close(why: Closing, timeout: number, signal: AbortSignal | undefined): Promise<void> {
    const { lifecycle } = this;
    // A connection that never came up and has nothing to send has no peer to tell.
    const alone = lifecycle.state === 'connecting' && this.#sender.waiting === 0;
    const first = lifecycle.close(why);
    if (first) this.receiver.discard();
    if (alone) {
      this.lifetime.cut();
      return;
    }
    let timer: NodeJS.Timeout | undefined;
    const closed = abortable<unknown>(signal, (resolve, reject) => {
      timer = setTimeout(() => {
        reject(new IsthmusError('ERR_ISTHMUS_CLOSE_TIMEOUT', `the peer did not finish the close within ${timeout} ms`));
      }, timeout);
      this.closed.then(resolve);
    });
    try {
      if (first) this.lifetime.startClosing();
      await closed;
    } catch (error) {
      this.lifetime.cut();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  stats(): ConnectionStats {
    const { unread } = this.receiver;
    const { link } = this.#binding;
    return {
      ...this.#counters.withOutOfBand(),
      ringUsed: link ? Math.max(0, link.call.unread(link.index)) : 0,
      ringSize: link?.capacity ?? 0,
      pendingSends: this.#sender.waiting,
      unreadMessages: unread.length,
      unreadBytes: unread.bytes,
      oldestUnreadMs: unread.ageMs,
    };
  }

  /** @internal {@link LinkLifetime.setSocketOptions} */
  setSocketOptions(options: SocketOptions): void {
    this.lifetime.setSocketOptions(options);
  }

  ref(): this {
    this.lifetime.ref();
    return this;
  }

  unref(): this {
    this.lifetime.unref();
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function signalOf(options: { signal?: AbortSignal | undefined } | undefined): AbortSignal | undefined {
  return optionsOf(options, '{ signal }')?.signal;
}

/** What an event has made of a connection, for the trace. */
function outcomeOf(from: Phase, to: Phase, step: string | undefined): string {
  if (to !== from) return step === undefined ? `→ ${to}` : `→ ${to} (${step})`;
  return step === undefined ? 'ignored' : `→ ${step}`;
}

/** A connection of a runtime: two rings, whatever carries them, from its first link to its end. */

import type { Closed, Connection, ConnectionStats, ReceiveInfo, Sendable } from '../api/connection.js';
import type { ConnectionEvents } from '../api/events.js';
import type { Loan } from '../api/loan.js';
import type { Peer } from '../api/peer.js';
import type { ExposeOptions, Exposure, RmaToken } from '../api/remote-memory.js';
import type { SharedMemory } from '../api/shared-memory.js';
import type { ConnectionStream, StreamOptions } from '../api/stream.js';
import { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import { type BorrowedMessage, type Message, NO_BYTES } from '../base/message.js';
import type { Borrowing } from '../channel/borrowed-records.js';
import { Carrier } from '../channel/bound-link.js';
import type { Announced, Matching } from '../channel/matching.js';
import { Inbound, type InboundOwner, type Sink } from '../channel/receiver.js';
import { Outbound, type OutboundOwner, type PendingSend } from '../channel/sender.js';
import type { Core } from '../core/core.js';
import type { ConInfo, Counts } from '../handshake/frames.js';
import { Loans, type LoansOwner, RegionLoan } from '../memory/loan.js';
import { type Offered, Rma, type RmaOwner } from '../memory/rma.js';
import type { Link, LinkEnd, LinkOwner } from '../plugins/plugin.js';
import type { DirectPolling, Pollable, Poller } from '../polling/poller.js';
import type { Region } from '../region/region.js';
import { Stalls, type StallsOwner } from './liveness.js';
import { DuplexStream } from './stream.js';
import { Suspension, type SuspensionOwner } from './suspension.js';

const MAX_XHEADER = 65_535;
/** Bytes from which on it is worth asking whether the peer waits for a message. */
const LARGE = 16_384;
const encoder = new TextEncoder();

function bytesOf(data: Sendable | Loan): Uint8Array {
  if (data instanceof Uint8Array) return data;
  if (typeof data === 'string') return encoder.encode(data);
  if (data instanceof ArrayBuffer) return new Uint8Array(data);
  throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'data is not a Uint8Array, an ArrayBuffer or a string');
}

/** Who is at the other end, and over what: known as soon as a connection is up. */
export interface Route {
  readonly plugin: string;
  readonly why: string | undefined;
  readonly peer: Peer;
  /** What makes it possible to meet again; undefined where both ends are here. */
  readonly ends?: Ends | undefined;
}

/** The two ends of a handshake. */
export interface Ends {
  /** As we introduced ourselves: our id for life. */
  readonly local: ConInfo;
  /** Our address on the way to the peer. */
  readonly host: string;
  /** A port where the peer listens, as far as we know. */
  readonly listens: number | undefined;
}

/** What an endpoint does with the messages of its groups. */
export interface GroupTraffic {
  /** @throws ERR_ISTHMUS_PEER_PROTOCOL */
  received(connection: RuntimeConnection, type: number, xheader: Uint8Array, data: Uint8Array): void;
  /** Bytes that have come over a connection and wait. */
  held(connection: RuntimeConnection): number;
  /** Whether a group waits for something over it. */
  expects(connection: RuntimeConnection): boolean;
}

/** What an endpoint gives to its connections. */
export interface ConnectionContext {
  readonly poller: Poller;
  readonly matching: Matching;
  readonly maxMessageSize: number;
  /** Bytes of unread messages that are taken out of the ring. */
  readonly unread: number;
  /** Bytes from which on data is announced over a plugin, instead of sent. */
  readonly rendezvous: (plugin: string) => number;
  readonly groups: GroupTraffic;
  /** The connection wants to send and has no link. */
  readonly bringUp: (connection: RuntimeConnection) => void;
  /** It is suspended: both sides have let go of the link. */
  readonly suspended: (connection: RuntimeConnection) => void;
  /** Tell the peer, past what it does not read, that there is something for it. */
  readonly hurry: (connection: RuntimeConnection) => void;
  /** Where the peer of a connection could reach us; a listener is opened if there is none. 0: nowhere. */
  readonly listenPort: (connection: RuntimeConnection) => Promise<number>;
  /** In milliseconds. */
  readonly closeTimeout: number;
  /** In milliseconds; 0: for ever. */
  readonly stallTimeout: number;
  readonly peerTimeout: number;
  /** The peer has fallen silent for so many milliseconds, or is back after so many. */
  readonly silence: (connection: RuntimeConnection, event: keyof ConnectionEvents, silence: number) => void;
  readonly log: Log;
  /** The connection is closed and holds nothing any more. */
  readonly gone: (connection: RuntimeConnection) => void;
}

const NO_COUNTS = { messagesSent: 0, messagesReceived: 0, bytesSent: 0, bytesReceived: 0, stalls: 0 };
/** Bytes of a SHUTDOWN message. */
const MAX_SHUTDOWN = 64;

export class RuntimeConnection
  implements
    Connection,
    LinkOwner,
    Pollable,
    InboundOwner,
    OutboundOwner,
    RmaOwner,
    LoansOwner,
    StallsOwner,
    SuspensionOwner
{
  readonly closed: Promise<Closed>;
  readonly matching: Matching;
  readonly maxMessageSize: number;
  readonly unreadLimit: number;
  readonly #context: ConnectionContext;
  readonly #in: Inbound;
  readonly #out: Outbound;
  readonly #resolveClosed: (closed: Closed) => void;
  /** @internal Settles when there is a link for the first time, or never. */
  readonly opened: Promise<void>;
  #resolveOpened!: () => void;
  #route: Route;
  #on: Carrier | undefined;
  /** That of the link, or of the last one. */
  #core: Core | undefined;
  #polled = false;

  #state: Connection['state'] = 'connecting';
  #suspension: Suspension | undefined;
  #stalls: Stalls | undefined;
  #error: IsthmusError | undefined;
  #end: LinkEnd | undefined;
  #closing: Promise<void> | undefined;
  /** Whether this side closed it. */
  #local = false;
  /** It did so because the application had seen that the peer is done. */
  #answering = false;
  #finished = false;
  /** The link is cut: nothing goes in or out any more. */
  #freed = false;
  /** It holds nothing any more. */
  #gone = false;
  /** Sums over the links before this one. */
  #past = NO_COUNTS;
  /** Bytes of messages that lay in runs, of which the rings saw announcements. */
  #sentBeside = 0;
  #receivedBeside = 0;
  /** Called when the other side is known to have the link as well. */
  #tentative: (() => void) | undefined;
  readonly #onLetGo: (() => void)[] = [];
  /** Rings of links that are no more, of which messages are borrowed. */
  readonly #borrowings = new Set<Borrowing>();
  #direct: DirectPolling | undefined;
  #referenced = true;
  #looking = false;
  /** @internal Groups that it is a part of, and whether something has come for one that is not open yet. */
  groups = 0;
  /** @internal */
  early = false;
  #rma: Rma | undefined;
  #loans: Loans | undefined;
  /** Read on whatever is unread: the peer's wish to suspend lies behind it. */
  #hurried = false;
  #stream: DuplexStream | undefined;
  /** Data of so many bytes is announced, and fetched by the peer. */
  #rendezvous = Number.POSITIVE_INFINITY;

  /** @param route what is known of the other end before there is a link */
  constructor(route: Route, context: ConnectionContext) {
    this.#route = route;
    this.#context = context;
    this.matching = context.matching;
    this.maxMessageSize = context.maxMessageSize;
    this.unreadLimit = context.unread;
    this.#in = new Inbound(this);
    this.#out = new Outbound(this);
    let resolveClosed!: (closed: Closed) => void;
    this.closed = new Promise((resolve) => {
      resolveClosed = resolve;
    });
    this.#resolveClosed = resolveClosed;
    this.opened = new Promise((resolve) => {
      this.#resolveOpened = resolve;
    });
  }

  get connection(): Connection {
    return this;
  }

  get plugin(): string {
    return this.#route.plugin;
  }

  get why(): string | undefined {
    return this.#route.why;
  }

  get peer(): Peer {
    return this.#route.peer;
  }

  get state(): Connection['state'] {
    return this.#state;
  }

  /** @internal */
  get core(): Core {
    return this.#core as Core;
  }

  /** @internal */
  get index(): number {
    return (this.#on as Carrier).index;
  }

  /** @internal Whether it lies in this core. */
  uses(core: Core): boolean {
    return this.#on?.core === core;
  }

  /**
   * @internal The way is there. `up` is called when messages go over it.
   * @param confirm who dials for a connection that may have been up tells that he has not given up meanwhile (`say`); who
   * was dialled waits for that (`await`), and without it goes back to where he was, with nothing lost
   */
  attach(link: Link, route: Route, up: () => void, confirm?: 'say' | 'await'): void {
    const carrier = new Carrier(link);
    this.#on = carrier;
    this.#core = carrier.core;
    this.#polled = carrier.polled;
    this.#in.attach(carrier);
    // suspend.pml: begin.
    const begin = () => {
      this.#tentative = undefined;
      this.#route = route;
      this.#rendezvous = this.#context.rendezvous(route.plugin);
      this.#out.attach(carrier);
      if (this.#state === 'connecting' || this.#state === 'suspended') this.#state = 'open';
      this.#suspension?.up();
      this.#resolveOpened();
      up();
    };
    if (this.#referenced) link.ref();
    else link.unref();
    if (carrier.polled) this.#context.poller.add(this);
    if (confirm === 'await') {
      this.#tentative = () => {
        begin();
        for (const done of this.#onLetGo.splice(0)) done();
        if (this.#on === carrier) this.#pumpOut();
      };
    } else {
      begin();
      if (confirm === 'say') this.#out.first(carrier.core.layout.MESSAGE_SUSPEND);
    }
    link.start(this);
    if (!this.#freed && this.#on === carrier && !this.#tentative) this.#pumpOut();
  }

  /** @internal Whether it has a link of which it is not known yet that the other side has it too. */
  get tentative(): boolean {
    return this.#tentative !== undefined;
  }

  /** @internal The other side has given up the link before it began. (suspend.pml: revert) */
  revert(): void {
    if (!this.#tentative) return;
    this.#tentative = undefined;
    this.#unlink();
    this.#end = undefined;
    this.#context.suspended(this);
    for (const done of this.#onLetGo.splice(0)) done();
  }

  // ─── sending ───────────────────────────────────────────────────────────────────────────────────────────────────────

  async send(
    data: Sendable | Loan,
    options?: { xheader?: Uint8Array | undefined; signal?: AbortSignal | undefined },
  ): Promise<void> {
    const signal = options?.signal;
    signal?.throwIfAborted();
    const xheader = options?.xheader ?? NO_BYTES;
    if (data instanceof RegionLoan) return this.#pass(data, xheader, signal);
    const bytes = bytesOf(data);
    this.#checkSend(bytes.length, xheader);
    const flows = bytes.length > LARGE && this.spins && this.#out.flows(bytes.length);
    if (!flows && this.#announces(bytes.length)) return this.#announce(xheader, bytes, signal);
    const sent = this.#out.begin(0, xheader, bytes, flows);
    if (sent < bytes.length + xheader.length) return this.#out.wait(0, xheader, bytes, sent, signal);
  }

  /** Whether data of so many bytes is announced: for its length, or because the peer wants to see it in one piece. */
  #announces(length: number): boolean {
    if (length >= this.#rendezvous) return true;
    return length > LARGE && this.#rendezvous <= this.maxMessageSize && this.#out.wantsRun(length);
  }

  #announce(xheader: Uint8Array, bytes: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    return this.#offering(signal, (taken, failed) => {
      const offered = this.#memory().offer(xheader, bytes, true, taken, failed);
      if (!offered) taken(this.#out.wait(0, xheader, bytes, this.#out.begin(0, xheader, bytes), signal));
      return offered;
    });
  }

  /** Wait until an announcement has its place in the order of messages; `signal` takes back one that waits for room. */
  #offering(
    signal: AbortSignal | undefined,
    offer: (taken: (sent?: Promise<void>) => void, failed: (error: unknown) => void) => Offered | undefined,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      let abort: (() => void) | undefined;
      const settle = () => {
        if (abort) signal?.removeEventListener('abort', abort);
      };
      const taken = (sent?: Promise<void>) => {
        settle();
        resolve(sent);
      };
      const failed = (error: unknown) => {
        settle();
        reject(error);
      };
      const offered = offer(taken, failed);
      if (!offered || !signal) return;
      abort = () => {
        if (offered.withdraw()) reject(signal.reason);
      };
      signal.addEventListener('abort', abort, { once: true });
    });
  }

  /** Send what a loan holds. */
  #pass(loan: RegionLoan, xheader: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    this.#checkLoan(loan, xheader);
    const { region } = this;
    const { place } = loan;
    if (place && place.region === region && region.attached) {
      loan.spend();
      return this.#offering(signal, (taken, failed) =>
        this.#memory().pass(region, place.run, loan.length, xheader, taken, failed),
      );
    }
    // Another way than when it was lent, and that region may go before the bytes have left.
    const bytes = place ? loan.data.slice() : loan.data;
    loan.release();
    return this.send(bytes, { xheader, signal });
  }

  #checkLoan(loan: RegionLoan, xheader: Uint8Array): void {
    if (!this.#loans || !loan.isOf(this.#loans)) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'this loan is of another connection');
    }
    loan.check();
    this.#checkSend(loan.length, xheader);
  }

  trySend(data: Sendable | Loan, options?: { xheader?: Uint8Array | undefined }): boolean {
    const xheader = options?.xheader ?? NO_BYTES;
    if (data instanceof RegionLoan) return this.#tryPass(data, xheader);
    const bytes = data instanceof Uint8Array ? data : bytesOf(data);
    this.#checkSend(bytes.length, xheader);
    if (this.#announces(bytes.length) && this.#out.waiting === 0) {
      if (bytes.length > LARGE && this.spins && this.#out.flows(bytes.length)) {
        return this.#out.trySend(0, xheader, bytes, true);
      }
      if (this.#memory().offer(xheader, bytes, false)) return true;
    }
    return this.#out.trySend(0, xheader, bytes);
  }

  #tryPass(loan: RegionLoan, xheader: Uint8Array): boolean {
    this.#checkLoan(loan, xheader);
    const { region } = this;
    const { place } = loan;
    if (place && place.region === region && region.attached) {
      if (this.#out.waiting > 0) this.#out.pump();
      if (this.#out.waiting > 0) return false;
      loan.spend();
      this.#memory().pass(region, place.run, loan.length, xheader);
      return true;
    }
    if (!this.#out.trySend(0, xheader, loan.data)) return false;
    loan.release();
    return true;
  }

  async loan(size: number, options?: { signal?: AbortSignal | undefined }): Promise<Loan> {
    options?.signal?.throwIfAborted();
    this.#checkSize(size);
    return this.#lending().get(size, options?.signal);
  }

  tryLoan(size: number): Loan | undefined {
    this.checkOpen();
    this.#checkSize(size);
    return this.#lending().try(size);
  }

  #checkSize(size: number): void {
    if (!Number.isSafeInteger(size) || size < 0) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `a loan of ${size} bytes`);
    }
    this.#checkLength(size, 0);
  }

  #lending(): Loans {
    this.#loans ??= new Loans(this);
    return this.#loans;
  }

  /**
   * @internal Send a message that one can take back as long as it has not started.
   * @returns undefined if it is in the ring already
   */
  post(
    data: Sendable,
    xheader: Uint8Array,
    resolve: () => void,
    reject: (error: unknown) => void,
  ): PendingSend | undefined {
    const bytes = bytesOf(data);
    this.#checkSend(bytes.length, xheader);
    if (bytes.length >= this.#rendezvous && this.#memory().offer(xheader, bytes, true, resolve, reject))
      return undefined;
    const sent = this.#out.begin(0, xheader, bytes);
    if (sent < bytes.length + xheader.length) return this.#out.queue(0, xheader, bytes, sent, resolve, reject);
    resolve();
    return undefined;
  }

  /** @internal */
  cancel(entry: PendingSend): boolean {
    return this.#out.cancel(entry);
  }

  /** @internal */
  checkOpen(): void {
    if (this.#state === 'closing' || this.#state === 'closed') throw this.#error ?? this.#closedError();
  }

  #checkSend(length: number, xheader: Uint8Array): void {
    this.checkOpen();
    this.#checkLength(length, xheader.length);
  }

  #checkLength(length: number, xlength: number): void {
    const limit = this.maxMessageSize;
    if (xlength <= MAX_XHEADER && length + xlength <= limit) return;
    throw new IsthmusError(
      'ERR_ISTHMUS_MESSAGE_TOO_LARGE',
      `a message of ${length} bytes with an xheader of ${xlength}; the limits are ${limit} for both and ${MAX_XHEADER} for the xheader`,
      { needed: length + xlength, available: limit },
    );
  }

  #closedError(): IsthmusError {
    return new IsthmusError('ERR_ISTHMUS_CLOSED', `the connection is ${this.#state}`);
  }

  /** @internal Something waits to be sent. */
  stuck(): void {
    if (this.#on) {
      if (this.#polled) this.#context.poller.pollAgain(this);
    } else if (this.#state === 'connecting') {
      this.#context.bringUp(this);
    }
  }

  /** @internal Nothing waits any more. */
  drained(): boolean {
    return this.#state === 'closing' ? this.#finish() : false;
  }

  async flush({ signal }: { signal?: AbortSignal | undefined } = {}): Promise<void> {
    let pause = 0;
    for (;;) {
      signal?.throwIfAborted();
      this.checkOpen();
      if (this.#out.waiting > 0) this.#out.pump();
      if (this.#out.waiting === 0 && !this.#on?.cutOff && this.#out.unread() === 0) return;
      // The peer says nothing when it is done, and it may take its time: look often at first.
      if (pause < 1) await new Promise((resolve) => setImmediate(resolve));
      else await new Promise((resolve) => setTimeout(resolve, Math.min(pause, 10)));
      pause += 0.02;
    }
  }

  // ─── receiving ─────────────────────────────────────────────────────────────────────────────────────────────────────

  receive(options?: { signal?: AbortSignal | undefined }): Promise<Message | undefined> {
    // Not async: a promise around a promise costs three turns of the microtask queue.
    const signal = options?.signal;
    if (signal?.aborted) return Promise.reject(signal.reason);
    return this.#local ? Promise.resolve(undefined) : this.#in.receive(signal);
  }

  async borrow(options?: { signal?: AbortSignal | undefined }): Promise<BorrowedMessage | undefined> {
    options?.signal?.throwIfAborted();
    return this.#local ? undefined : this.#in.borrow(options?.signal);
  }

  tryReceiveInto(target: Uint8Array, info?: ReceiveInfo): number {
    return this.#in.tryReceiveInto(target, info);
  }

  poll(handler: (memory: Uint8Array, offset: number, length: number) => void, limit = Number.MAX_SAFE_INTEGER): number {
    return this.#in.poll(handler, limit);
  }

  /** @internal For receives that are posted at the endpoint. */
  get inbound(): Inbound {
    return this.#in;
  }

  /** @internal Somebody waits for messages that may lie in the ring. */
  look(): void {
    if (this.#polled) this.wake();
    else this.progress();
  }

  /** @internal @throws what ended it, if nothing more will come */
  throwIfEnded(): void {
    if (this.#in.ended || this.#state === 'closing' || this.#state === 'closed') {
      throw this.#error ?? new IsthmusError('ERR_ISTHMUS_CLOSED', 'no further message will come');
    }
  }

  /** @internal The application has seen the end: nobody waits for an answer any more. */
  endOfInput(): undefined {
    if (this.#error) throw this.#error;
    if (this.#state === 'open') {
      this.#answering = true;
      this.close().catch(() => {});
    }
    return undefined;
  }

  /** @internal */
  polls(): void {
    if (!this.#polled) return;
    let direct = this.#direct;
    if (direct === undefined || !direct.valid) {
      direct = this.#context.poller.startDirect(this);
      this.#direct = direct;
    }
    direct.used = true;
  }

  /** @internal */
  get spins(): boolean {
    return this.#polled && this.#context.poller.spins;
  }

  /** @internal */
  due(cost: number): Promise<void> | undefined {
    return this.#context.poller.turnDue(cost);
  }

  /** @internal */
  pump(): void {
    if (this.#out.waiting > 0) this.#out.pump();
  }

  /** @internal Somebody waits for a message, or there is room for further ones. */
  wake(): void {
    const on = this.#on;
    if (!on || this.#freed) return;
    if (on.polled) this.#context.poller.pollAgain(this);
    else if (!this.#looking && on.call.readable(on.index)) {
      this.#looking = true;
      setImmediate(() => {
        this.#looking = false;
        this.progress();
      });
    }
  }

  /** @internal */
  get greedy(): boolean {
    return (
      this.#hurried ||
      this.tentative ||
      this.#suspending ||
      this.#rma?.expects === true ||
      (this.groups > 0 && this.#context.groups.expects(this))
    );
  }

  /** @internal */
  get heldBytes(): number {
    return this.groups > 0 || this.early ? this.#context.groups.held(this) : 0;
  }

  /** @internal */
  sink(type: number, xheader: Uint8Array, length: number): Sink | undefined {
    const { layout } = this.core;
    if (type >= layout.MESSAGE_RMA_WRITE && type <= layout.MESSAGE_RENDEZVOUS_FIN) {
      return this.#memory().sink(type, xheader, length);
    }
    if (type === layout.MESSAGE_BCAST || type === layout.MESSAGE_BARRIER) return undefined;
    if (type >= layout.MESSAGE_SHUTDOWN_REQ && type <= layout.MESSAGE_SUSPEND && length <= MAX_SHUTDOWN)
      return undefined;
    throw new IsthmusError(
      'ERR_ISTHMUS_PEER_PROTOCOL',
      `the peer sent a message of type ${type}, which is not supported`,
    );
  }

  /** @internal */
  control(type: number, xheader: Uint8Array, data: Uint8Array): void {
    const { layout } = this.core;
    if (type === layout.MESSAGE_BCAST || type === layout.MESSAGE_BARRIER) {
      this.#context.groups.received(this, type, xheader, data);
      return;
    }
    if (type >= layout.MESSAGE_SHUTDOWN_REQ) {
      this.#shutdown(type, data);
      return;
    }
    this.#memory().control(type, xheader, data);
  }

  /** @internal */
  announced(xheader: Uint8Array, data: Uint8Array): Announced {
    return this.#memory().announced(xheader, data);
  }

  // ─── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────

  expose(memory: SharedMemory | Uint8Array, options: ExposeOptions = {}): Exposure {
    this.checkOpen();
    return this.#memory().expose(memory, options);
  }

  token(bytes: Uint8Array): RmaToken {
    return this.#memory().token(bytes);
  }

  #memory(): Rma {
    this.#rma ??= new Rma(this);
    return this.#rma;
  }

  /** @internal */
  get carrier(): Carrier | undefined {
    return this.#on;
  }

  /** @internal */
  get region(): Region | undefined {
    return this.#on?.link.region;
  }

  /** @internal {@link sendControl}, waiting for room. */
  sendFor(type: number, xheader: Uint8Array, data: Uint8Array): Promise<void> {
    this.#checkSend(data.length, xheader);
    return new Promise((resolve, reject) => {
      const sent = this.#out.begin(type, xheader, data);
      if (sent < data.length + xheader.length) this.#out.queue(type, xheader, data, sent, resolve, reject);
      else resolve();
    });
  }

  /** @internal A message of the protocol's own, behind what is queued. */
  sendControl(
    type: number,
    xheader: Uint8Array,
    data: Uint8Array,
    resolve?: () => void,
    reject?: (error: unknown) => void,
  ): PendingSend | undefined {
    if (this.#freed) return undefined;
    const sent = this.#out.begin(type, xheader, data);
    if (sent < data.length + xheader.length) return this.#out.queue(type, xheader, data, sent, resolve, reject);
    resolve?.();
    return undefined;
  }

  /** @internal */
  announce(frame: number, place: number, length: number, low: number, high: number): boolean {
    return this.#out.announce(frame, place, length, low, high);
  }

  /** @internal */
  beside(sent: number, received: number): void {
    this.#sentBeside += sent;
    this.#receivedBeside += received;
  }

  /** @internal What we offered has been fetched. */
  quiet(): void {
    if (this.#state === 'closing' && this.#out.waiting === 0) this.#finish();
  }

  /** @internal Frames are wanted: some may be back. */
  reclaim(): void {
    this.#rma?.reclaim();
  }

  // ─── progress ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @internal */
  get waitsForRoom(): boolean {
    return (this.#out.waiting > 0 || this.#suspending) && !this.#freed;
  }

  /** @internal */
  progress(): boolean {
    const on = this.#on;
    if (!on || this.#freed) return false;
    const before = on.call.position(on.index);
    const moved = this.#out.waiting > 0 || this.#state === 'closing' ? this.#pumpOut() : false;
    this.#in.progress();
    if (this.#in.ended) this.#in.dismiss();
    return moved || this.#on !== on || on.call.position(on.index) !== before;
  }

  #pumpOut(): boolean {
    return this.#out.waiting > 0 ? this.#out.pump() : this.drained();
  }

  /** @internal */
  onReadable(): void {
    this.progress();
  }

  /** @internal */
  onWritable(): void {
    if (this.#freed) return;
    if (this.#suspension?.suspended) this.letGo();
    else this.#pumpOut();
  }

  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @internal The link says that the other side is gone: all that it committed is in the ring by now. (suspend.pml: ended) */
  onEnded(end: LinkEnd): void {
    if (this.#end) return;
    this.#end = end;
    if (end.kind === 'lost' && this.#state === 'open') this.#error = end.error;
    this.#settle();
  }

  /** Take everything out of the ring, then let go of it: the rings are bounded, and the peer writes no more. */
  #settle(): void {
    if (this.#freed || !this.#end) return;
    this.#in.drain(this.#end.kind === 'lost');
    if (this.#freed) return; // What it had written broke the rules.
    if (this.#tentative) {
      this.revert();
      return;
    }
    if (!this.#on && this.#suspension?.suspended) return; // Its last word was among it.
    // The word that it is back may have been among it as well: then it was open when it was lost.
    if (this.#end.kind === 'lost' && this.#state === 'open') this.#error ??= this.#end.error;
    const error = this.#error;
    this.#state = 'closed';
    const reason = error ?? this.#closedError();
    this.#in.cut(reason);
    this.#out.rejectAll(reason);
    this.#rma?.end(reason, false);
    if (!this.#finished && this.#end.kind === 'peer-closed') {
      this.#finished = true;
      this.#out.sendEof();
      this.#on?.link.finish();
    }
    this.#free();
    if (this.#local) this.#resolveClosed({ reason: this.#answering ? 'peer' : 'local' });
    else if (error) this.#resolveClosed({ reason: 'error', error });
    else this.#resolveClosed({ reason: 'peer' });
    this.#in.dismiss();
  }

  /** @internal The core found something that cannot be. */
  broken(): IsthmusError {
    const on = this.#on as Carrier;
    const { FAILURE_HEAD, FAILURE_MESSAGE } = on.core.layout;
    const what =
      on.failure === FAILURE_HEAD
        ? 'a head position that cannot be'
        : on.failure === FAILURE_MESSAGE
          ? 'fragments that do not fit together'
          : 'a record that cannot be';
    const error = this.#error ?? new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', `the peer wrote ${what} into the ring`);
    this.fail(error);
    return error;
  }

  /** @internal The peer broke the rules: this connection ends, and only this one. */
  fail(error: IsthmusError): void {
    this.#cut({ reason: 'error', error });
  }

  #cut(closed: Closed): void {
    if (this.#freed) return;
    if (closed.error) this.#error ??= closed.error;
    this.#state = 'closed';
    const reason = this.#error ?? this.#closedError();
    this.#in.cut(reason);
    this.#out.rejectAll(reason);
    this.#rma?.end(reason, true);
    this.#free();
    this.#resolveClosed(closed);
    this.#in.dismiss();
  }

  #free(): void {
    if (this.#freed) return;
    this.#freed = true;
    this.#unlink();
  }

  /** Let go of the link, and of its ring when nothing of it is borrowed any more. */
  #unlink(): void {
    const on = this.#on;
    if (on) {
      // Its entry in the core is somebody else's soon.
      this.#past = this.#counts();
      this.#context.poller.remove(this);
      on.link.destroy();
    }
    this.#on = undefined;
    this.#direct = undefined;
    this.#stalls?.reset();
    this.#out.detach();
    const borrowing = this.#in.detach();
    const gone = () => {
      on?.link.free();
      if (borrowing) this.#borrowings.delete(borrowing);
      this.settled();
    };
    // Borrowed bytes stay where they are until they are given back.
    if (!borrowing) gone();
    else {
      this.#borrowings.add(borrowing);
      borrowing.leave(gone);
    }
  }

  /**
   * @internal A region that the connection lies in, or has lain in, is going away.
   * @returns the places in the memory that must keep their bytes, because messages are borrowed
   */
  abandon(core: Core): { readonly offset: number; readonly length: number }[] {
    if (this.#on?.core === core) this.#cut({ reason: 'local' });
    const kept = [...this.#borrowings].flatMap((borrowing) => borrowing.abandon(core) ?? []);
    return [...kept, ...(this.#loans?.abandon(core) ?? []), ...(this.#rma?.abandon(core) ?? [])];
  }

  /** @internal Something that an application had in its hands is back. The connection is gone when nothing is out. */
  settled(): void {
    if (!this.#freed || this.#gone || this.#borrowings.size > 0) return;
    if ((this.#loans?.out ?? 0) > 0 || (this.#rma?.borrowed ?? 0) > 0) return;
    this.#gone = true;
    this.#context.gone(this);
  }

  // ─── silence of the peer ───────────────────────────────────────────────────────────────────────────────────────────

  get stalled(): number {
    return this.#state === 'open' ? (this.#stalls?.silence ?? 0) : 0;
  }

  on<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this {
    this.#stall().listen(event, listener, false);
    return this;
  }

  once<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this {
    this.#stall().listen(event, listener, true);
    return this;
  }

  off<Event extends keyof ConnectionEvents>(event: Event, listener: ConnectionEvents[Event]): this {
    this.#stalls?.unlisten(event, listener);
    return this;
  }

  #stall(): Stalls {
    this.#stalls ??= new Stalls(this, this.#context);
    return this.#stalls;
  }

  /** @internal What waits for a peer to suspend or to close has limits of its own. */
  onSilence(ms: number): void {
    if (this.#state === 'open') this.#stall().silent(ms);
  }

  /** @internal */
  silenceChanged(event: keyof ConnectionEvents, silence: number): void {
    this.#context.silence(this, event, silence);
  }

  /** @internal The peer may still write, but we wait no longer: its half of our ring is free when it, too, lets go. */
  timedOut(error: IsthmusError): void {
    if (this.#state === 'open') this.onEnded({ kind: 'lost', error });
  }

  // ─── suspending ────────────────────────────────────────────────────────────────────────────────────────────────────

  get #suspending(): boolean {
    return this.#suspension?.underWay === true;
  }

  /** @internal Whether it has a way to the peer. */
  get linked(): boolean {
    return this.#on !== undefined;
  }

  /** @internal Whether it has had one. */
  get everLinked(): boolean {
    return this.#core !== undefined;
  }

  /** @internal */
  get suspension(): Suspension {
    this.#suspension ??= new Suspension(this);
    return this.#suspension;
  }

  /** @internal */
  get wantsToSend(): boolean {
    return this.#out.waiting > 0;
  }

  /** @internal Of the link, or of the last one. */
  get route(): Route {
    return this.#route;
  }

  /** @internal */
  get log(): Log {
    return this.#context.log;
  }

  #shutdown(type: number, data: Uint8Array): void {
    if (type === this.core.layout.MESSAGE_SUSPEND && data.length === 0) {
      this.#tentative?.();
      return;
    }
    // Who has said that he is done, and hears that the other will say nothing for now, need not come back for the rest.
    if (this.#finished) this.onEnded({ kind: 'peer-closed' });
    else this.suspension.received(type, data);
  }

  /** @internal */
  lastWord(type: number, data: Uint8Array, sent: () => void): void {
    if (!this.#freed) this.#out.last(type, data, sent);
  }

  /** @internal Say it past the ring. @returns false: it is in there, or there is no such way */
  lastWordAside(type: number, value: number): boolean {
    const link = this.#on?.link;
    if (!link?.sendShutdown || !this.#out.giveUpLast()) return false;
    link.sendShutdown(type, value);
    return true;
  }

  /** @internal suspend.pml: last_word_heard. */
  onShutdownReceived(type: number, value: number): void {
    if (this.#freed || !this.#on) return;
    this.#in.drainAndForget();
    if (this.#freed || !this.#on) return;
    const data = Buffer.alloc(4);
    data.writeInt32LE(value);
    this.#shutdown(type, data);
  }

  /** @internal */
  hurry(): void {
    const link = this.#on?.link;
    if (link?.requestDrain) link.requestDrain();
    else if (this.#suspension?.asked) this.#context.hurry(this);
    this.wake();
  }

  /** @internal The other side suspends, and cannot say so where we read. */
  onDrainRequested(): void {
    this.#hurried = true;
    this.wake();
  }

  /** @internal Let go of the link. Settles when that is done, or the connection is closed. */
  suspend(): Promise<unknown> {
    if (!this.#on) return Promise.resolve();
    const letGo = Promise.race([this.closed, new Promise<void>((resolve) => this.#onLetGo.push(resolve))]);
    if (this.#tentative) return letGo.then(() => this.suspend());
    // One that is closing ends by itself.
    if (this.#state === 'open') this.suspension.start();
    return letGo;
  }

  /** @internal */
  listenPort(): Promise<number> {
    return this.#context.listenPort(this);
  }

  /** @internal suspend.pml: let_go. */
  letGo(): void {
    const on = this.#on;
    if (!on) return;
    // Over a stream our last word may still be on its way out of the ring: onWritable() comes back here.
    if (!on.polled && on.call.unread(on.index) > 0) return;
    if (this.#in.inMessage) {
      this.fail(new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', 'the peer suspended in the middle of a message'));
      return;
    }
    this.#hurried = false;
    this.#in.evacuate();
    this.#out.evacuate(on.bytes.buffer);
    this.#rma?.evacuate();
    on.link.finish();
    this.#unlink();
    this.#end = undefined;
    if (this.#state === 'open') this.#state = 'suspended';
    this.#context.suspended(this);
    for (const done of this.#onLetGo.splice(0)) done();
  }

  /** @internal What has gone over it in all, for the other side to compare. */
  get counts(): Counts {
    const { messagesSent, messagesReceived } = this.#counts();
    return { sent: messagesSent, received: messagesReceived };
  }

  #counts(): typeof NO_COUNTS {
    const on = this.#on;
    if (!on) return this.#past;
    const { layout } = on.core;
    const count = (counter: number) => on.core.count(on.index, counter);
    return {
      messagesSent: this.#past.messagesSent + count(layout.COUNT_SENT),
      messagesReceived: this.#past.messagesReceived + count(layout.COUNT_RECEIVED),
      bytesSent: this.#past.bytesSent + count(layout.COUNT_SENT_BYTES),
      bytesReceived: this.#past.bytesReceived + count(layout.COUNT_RECEIVED_BYTES),
      stalls: this.#past.stalls + count(layout.COUNT_FULL),
    };
  }

  /** All queued messages are out: send EOF and announce the close. @returns whether that happened now */
  #finish(): boolean {
    // What was offered is still to be fetched.
    if (this.#finished || this.#freed || this.#rma?.offering || !this.#out.sendEof()) return false;
    this.#finished = true;
    this.#on?.link.finish();
    return true;
  }

  close(options: { timeout?: number | undefined; signal?: AbortSignal | undefined } = {}): Promise<void> {
    if (this.#state === 'closed') return this.#closing ?? Promise.resolve();
    // Each call has a limit of its own: the runtime's close is not to wait for one that was given weeks.
    const closing = this.#close(options.timeout ?? this.#context.closeTimeout, options.signal);
    this.#closing ??= closing;
    return closing;
  }

  async #close(timeout: number, signal: AbortSignal | undefined): Promise<void> {
    // One that never came up and has nothing to send has nobody to tell.
    if (this.#state === 'connecting' && this.#out.waiting === 0) {
      this.#local = true;
      this.#in.discard();
      this.#cut({ reason: 'local' });
      return;
    }
    const first = this.#state !== 'closing';
    if (first) {
      this.#state = 'closing';
      this.#local = true;
      this.#in.discard();
    }
    let timer: NodeJS.Timeout | undefined;
    let abort: (() => void) | undefined;
    const cut = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(new IsthmusError('ERR_ISTHMUS_CLOSE_TIMEOUT', `the peer did not finish the close within ${timeout} ms`));
      }, timeout);
      abort = () => reject(signal?.reason);
      if (signal?.aborted) abort();
      else signal?.addEventListener('abort', abort, { once: true });
    });
    try {
      if (first) {
        if (this.#end) this.#settle();
        else this.#pumpOut();
        this.#in.progress();
        this.wake();
      }
      await Promise.race([this.closed, cut]);
    } catch (error) {
      this.#cut({ reason: 'local' });
      throw error;
    } finally {
      clearTimeout(timer);
      if (abort) signal?.removeEventListener('abort', abort);
    }
  }

  destroy(error?: Error): void {
    if (this.#freed) return;
    const cause =
      error === undefined || error instanceof IsthmusError
        ? error
        : new IsthmusError('ERR_ISTHMUS_CLOSED', error.message, { cause: error });
    this.#cut(cause ? { reason: 'local', error: cause } : { reason: 'local' });
  }

  stats(): ConnectionStats {
    const unread = {
      unreadMessages: this.#in.unreadMessages,
      unreadBytes: this.#in.unreadBytes,
      oldestUnreadMs: this.#in.oldestUnreadMs,
    };
    const pendingSends = this.#out.waiting;
    const on = this.#on;
    const counts = this.#counts();
    return {
      ...counts,
      bytesSent: counts.bytesSent + this.#sentBeside,
      bytesReceived: counts.bytesReceived + this.#receivedBeside,
      ringUsed: on ? Math.max(0, on.call.unread(on.index)) : 0,
      ringSize: on?.capacity ?? 0,
      pendingSends,
      ...unread,
    };
  }

  stream(options?: StreamOptions): ConnectionStream {
    this.#stream ??= new DuplexStream(this, options);
    return this.#stream;
  }

  ref(): this {
    this.#referenced = true;
    this.#on?.link.ref();
    return this;
  }

  unref(): this {
    this.#referenced = false;
    this.#on?.link.unref();
    return this;
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Message> {
    for (;;) {
      const message = await this.receive();
      if (message === undefined) return;
      yield message;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

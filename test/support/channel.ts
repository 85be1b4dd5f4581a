/**
 * The two ends of a connection in one process, for tests of the parts of a connection: real rings in a private core, real
 * parts, and links that do nothing by themselves. What arrives at an end, and when, is the test's to say.
 *
 * The core plays both peers of a region: each entry attaches to the ring of the other one, as two processes do.
 */
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import type { IsthmusError } from '../../host/base/errors.js';
import { Message } from '../../host/base/message.js';
import { PolledReads } from '../../host/channel/polled-reads.js';
import { Receiver } from '../../host/channel/receiver.js';
import type { ReceiveLimits } from '../../host/channel/ring-reader.js';
import { Sender } from '../../host/channel/sender.js';
import type { BorrowedRecords } from '../../host/link/borrowed-records.js';
import { BoundLink } from '../../host/link/bound-link.js';
import { Lifecycle } from '../../host/link/lifecycle.js';
import { LinkBinding } from '../../host/link/link-binding.js';
import { ProtocolRouter } from '../../host/link/protocol-router.js';
import { Matching } from '../../host/matching/matching.js';
import { PendingReceive } from '../../host/matching/pending-receive.js';
import type { Link, LinkOwner } from '../../host/plugins/plugin.js';
import { type Pollable, Poller } from '../../host/polling/poller.js';
import type { Region } from '../../host/region/region.js';
import { L, newCore, openEntry, pattern, Sender as RawSender, type TestCore } from './core.js';

const encoder = new TextEncoder();

export const bytesOf = (text: string): Uint8Array => encoder.encode(text);
export const textOf = (bytes: Uint8Array): string => new TextDecoder().decode(bytes.slice());
export const NONE = new Uint8Array(0);
/** Longer than a ring of RING_MIN. */
export const LONG = pattern(10_000, 1);

// ─── links ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface LinkOptions {
  /** Of each ring, in bytes. */
  readonly capacity?: number;
  /** As over shared memory; false: as over a stream. */
  readonly polled?: boolean;
  /** The region that both ends map. */
  readonly region?: Region | undefined;
  /** Whether a shutdown message and the request to drain can go another way than through the ring. */
  readonly outOfBand?: boolean;
}

/** A link that writes down what its connection asks of it. */
export class TestLink implements Link {
  readonly core: TestCore;
  readonly index: number;
  readonly polled: boolean;
  readonly region: Region | undefined;
  /** Calls but those that {@link commits}, {@link releases} and {@link rings} count. */
  readonly told: string[] = [];
  commits = 0;
  releases = 0;
  rings = 0;
  owner: LinkOwner | undefined;
  peer: TestLink | undefined;
  /** Called by `start`. */
  onStart: (owner: LinkOwner) => void = () => {};
  /** Called with each entry of {@link told}. */
  onTold: (what: string) => void = () => {};
  readonly requestDrain?: () => void;
  readonly sendShutdown?: (type: number, value: number) => void;

  constructor(core: TestCore, index: number, { polled = true, region, outOfBand = false }: LinkOptions) {
    this.core = core;
    this.index = index;
    this.polled = polled;
    this.region = region;
    if (!outOfBand) return;
    this.requestDrain = () => this.#tell('requestDrain');
    this.sendShutdown = (type, value) => this.#tell(`sendShutdown ${type} ${value}`);
  }

  #tell(what: string): void {
    this.told.push(what);
    this.onTold(what);
  }

  start(owner: LinkOwner): void {
    this.owner = owner;
    this.onStart(owner);
  }

  committed(): void {
    this.commits++;
  }

  released(): void {
    this.releases++;
  }

  ring(): void {
    this.rings++;
  }

  finish(): void {
    this.#tell('finish');
  }

  destroy(): void {
    this.owner = undefined;
    this.core.call.dropTransmit(this.index);
    this.#tell('destroy');
  }

  free(): void {
    this.core.call.free(this.index);
    this.#tell('free');
  }

  ref(): void {
    this.#tell('ref');
  }

  unref(): void {
    this.#tell('unref');
  }
}

function attachTo(core: TestCore, index: number, other: number): void {
  const { call } = core;
  const frame = (call.ringAddress(other) - call.addressOf(0)) / L.FRAME;
  const capacity = call.ringCapacity(other);
  assert.is(call.attachRing(index, frame, capacity, core.slot, core.generation | 0, 0, 0), L.ATTACH_OK);
}

/** Two links, each the other's far end. */
export function linkPair(core: TestCore, options: LinkOptions = {}): [TestLink, TestLink] {
  const { capacity = L.RING_MIN } = options;
  const indices = [openEntry(core, capacity), openEntry(core, capacity)] as const;
  const [a, b] = indices;
  attachTo(core, a, b);
  attachTo(core, b, a);
  for (const index of indices) core.call.start(index);
  const [near, far] = [new TestLink(core, a, options), new TestLink(core, b, options)];
  near.peer = far;
  far.peer = near;
  return [near, far];
}

/** The core as the region of both ends. */
export class TestRegion {
  readonly core: TestCore;
  readonly uuid = Buffer.alloc(16, 7);
  attached = true;

  constructor(core: TestCore) {
    this.core = core;
  }

  get usable(): boolean {
    return this.attached;
  }

  get capacity(): number {
    return this.core.frames * L.FRAME - this.core.call.tableBytes() - L.FRAME;
  }

  get asRegion(): Region {
    return this as unknown as Region;
  }
}

// ─── the poller ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A poller that polls when the test says so (`pollOnce`), and counts how often it was woken. */
export class TestPoller extends Poller {
  wakes = 0;
  /** What a call that is answered at once has to wait for. */
  due: Promise<void> | undefined;
  /** Costs that were asked for. */
  readonly costs: number[] = [];

  constructor(spins = false) {
    let woken = () => {};
    super(spins ? 'adaptive' : 'block', () => ({ spins, wake: () => woken(), rung() {}, stop() {} }));
    woken = () => {
      this.wakes++;
    };
  }

  override turnDue(cost: number): Promise<void> | undefined {
    this.costs.push(cost);
    return this.due;
  }
}

// ─── one end ───────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface EndOptions {
  readonly limits?: Partial<ReceiveLimits>;
  readonly spins?: boolean;
  readonly matching?: Matching;
}

/** One end of a channel: the parts of a connection, without what closes and suspends it. */
export class End implements Pollable {
  readonly connection: Connection;
  readonly lifecycle = new Lifecycle();
  readonly router = new ProtocolRouter();
  readonly matching: Matching;
  readonly poller: TestPoller;
  readonly binding: LinkBinding;
  readonly sender: Sender;
  readonly receiver: Receiver;
  readonly polled: PolledReads;
  /** Each of them has ended the connection. */
  readonly violations: IsthmusError[] = [];
  /** Calls of the poller. */
  passes = 0;

  constructor(name: string, { limits, spins = false, matching = new Matching() }: EndOptions = {}) {
    this.connection = { name } as unknown as Connection;
    this.matching = matching;
    this.poller = new TestPoller(spins);
    this.binding = new LinkBinding(this.lifecycle, this.poller, this);
    this.sender = new Sender(this.binding);
    this.receiver = new Receiver(this.connection, this.binding, matching, this.router, {
      unread: 1 << 20,
      maxMessageSize: 1 << 24,
      ...limits,
    });
    this.polled = new PolledReads(this.receiver, this.sender);
    this.sender.onBlocked = () => {
      if (this.binding.link) this.binding.pollForRoom();
    };
    this.binding.onViolation = (error) => {
      this.violations.push(error);
      this.cut(error);
    };
  }

  attach(link: TestLink): BoundLink {
    const bound = new BoundLink(link);
    this.binding.bind(bound);
    this.receiver.attach(bound);
    this.binding.join();
    this.lifecycle.raise('linkUp');
    this.lifecycle.raise('confirm');
    this.sender.attach(bound);
    return bound;
  }

  detach(): BorrowedRecords | undefined {
    if (this.binding.link) this.binding.leave();
    this.binding.unbind();
    this.sender.detach();
    this.polled.detach();
    return this.receiver.detach();
  }

  /** The connection ends. */
  cut(error: IsthmusError): void {
    this.lifecycle.error ??= error;
    if (!this.lifecycle.raise('violation')) return;
    this.receiver.cut(error);
    this.sender.rejectAll(error);
    this.detach();
    this.receiver.dismiss();
  }

  get core(): TestCore {
    return this.binding.core as TestCore;
  }

  get index(): number {
    return (this.binding.link as BoundLink).index;
  }

  get waitsForRoom(): boolean {
    return this.sender.waiting > 0;
  }

  progress(): boolean {
    this.passes++;
    const { link } = this.binding;
    if (!link) return false;
    const before = link.call.position(link.index);
    const moved = this.sender.waiting > 0 && this.sender.pump();
    this.receiver.ring.progress();
    if (this.receiver.ring.ended) this.receiver.dismiss();
    return moved || this.binding.link !== link || link.call.position(link.index) !== before;
  }

  /** The messages that are unread, with those in the ring; announced ones stay. */
  texts(): string[] {
    const { receiver } = this;
    receiver.ring.progress();
    const texts: string[] = [];
    while (receiver.unread.peek() instanceof Message) texts.push(textOf((receiver.unread.shift() as Message).data));
    return texts;
  }
}

export interface Channel {
  readonly core: TestCore;
  readonly a: End;
  readonly b: End;
  readonly near: TestLink;
  readonly far: TestLink;
}

/** Two ends that are connected. The limits are those of `b`. */
export function channel({ limits, spins, matching, ...link }: LinkOptions & EndOptions = {}): Channel {
  const core = newCore(4);
  const [near, far] = linkPair(core, link);
  const a = new End('a', { spins: spins ?? false });
  const b = new End('b', { ...(limits && { limits }), ...(matching && { matching }), spins: spins ?? false });
  a.attach(near);
  b.attach(far);
  return { core, a, b, near, far };
}

/** Fill the ring to the peer with empty messages. @returns how many */
export function fill({ sender }: End): number {
  for (let count = 0; ; count++) if (!sender.trySend(0, NONE, NONE)) return count;
}

// ─── messages record by record ─────────────────────────────────────────────────────────────────────────────────────────

/** A message that is written record by record. */
export class Records {
  readonly #link: TestLink;
  readonly #body: Uint8Array;
  readonly #type: number;
  readonly #xlength: number;
  #sent = -1;

  /** @param body xheader and data */
  constructor(link: TestLink, body: Uint8Array, type = 0, xlength = 0) {
    this.#link = link;
    this.#body = body;
    this.#type = type;
    this.#xlength = xlength;
  }

  /** Write the next record. @returns whether it was the last one */
  next(): boolean {
    const { core, index } = this.#link;
    const { call } = core;
    const at =
      this.#sent < 0
        ? call.claim(index, this.#type, this.#xlength, this.#body.length - this.#xlength)
        : call.claimMore(index);
    assert.ok(at > 0, 'no room for the next record');
    const from = Math.max(0, this.#sent);
    this.#sent = from + core.result(L.RESULT_LENGTH);
    core.bytes.set(this.#body.subarray(from, this.#sent), at);
    call.commit(index);
    return this.#sent === this.#body.length;
  }
}

/** Write a message that fits into the ring. */
export function write({ core, index }: TestLink, body: Uint8Array | string, type = 0, xlength = 0): void {
  const bytes = typeof body === 'string' ? bytesOf(body) : body;
  assert.ok(new RawSender(core, index, bytes, type, xlength).go(), 'no room for the message');
}

// ─── receives ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A posted receive that writes down what becomes of it. */
export class TestReceive extends PendingReceive {
  override readonly maxLength: number;
  override readonly borrows: boolean;
  begun = 0;
  /** The message, its length as sent, and whether it was lent. */
  got: { data: Uint8Array; xheader: Uint8Array; length: number; lent: boolean } | undefined;
  error: unknown;
  /** Gives back a message that was lent. */
  release: () => void = () => {};
  onDone: () => void = () => {};

  constructor({
    match,
    target,
    maxLength = Number.POSITIVE_INFINITY,
    borrows = false,
  }: {
    match?: PendingReceive['match'];
    target?: Uint8Array;
    maxLength?: number;
    borrows?: boolean;
  } = {}) {
    super(match, target);
    this.maxLength = maxLength;
    this.borrows = borrows;
  }

  override begin(): void {
    this.begun++;
  }

  complete(_connection: Connection, { data, xheader }: Message, length: number): void {
    assert.is(this.got, undefined, 'completed twice');
    this.got = { data, xheader, length, lent: false };
    this.onDone();
  }

  override lend(_connection: Connection, message: Parameters<PendingReceive['lend']>[1]): void {
    assert.is(this.got, undefined, 'completed twice');
    const { data, xheader } = message;
    this.got = { data, xheader, length: data.length, lent: true };
    this.release = () => message.release();
    this.onDone();
  }

  /** As of a promise, only the first one counts. */
  reject(error: unknown): void {
    if (this.error !== undefined) return;
    this.error = error;
    this.onDone();
  }

  /** The text of what it got; `error CODE`; undefined: it is pending. */
  get outcome(): string | undefined {
    if (this.error !== undefined) return `error ${(this.error as { code?: string }).code ?? String(this.error)}`;
    return this.got && textOf(this.got.data);
  }
}

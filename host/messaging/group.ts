/**
 * Groups: operations that all members take part in, over any mix of plugins.
 *
 * Every member has a connection to every other, and a rank. A broadcast goes down a binomial tree from its root, a
 * barrier in rounds to ranks ever further away (dissemination). Every operation has a number, which all members count in
 * the same way, because they call the same operations in the same order. Members pass on what comes for a number that
 * their own application has not come to yet: a late one delays nobody but those who need its own part.
 */
import type { Closed, Connection } from '../api/connection.js';
import { IsthmusError } from '../base/errors.js';
import { Message, NO_BYTES } from '../base/message.js';
import type { RuntimeConnection } from '../connection/runtime-connection.js';

export interface GroupOptions {
  /** u32 that names the group; the same at all members, and no other open group of this endpoint. */
  readonly id: number;
  /** Own place among the members. */
  readonly rank: number;
  /** The connection to each member, by rank; the own place is empty (undefined or null). */
  readonly members: readonly (Connection | undefined | null)[];
}

export interface GroupCallOptions {
  readonly signal?: AbortSignal | undefined;
}

export interface BroadcastOptions extends GroupCallOptions {
  /** At most 65,519 bytes. */
  readonly xheader?: Uint8Array | undefined;
}

/** What an endpoint does for its groups. */
export interface GroupHost {
  send(connection: RuntimeConnection, type: number, xheader: Uint8Array, data: Uint8Array): Promise<void>;
  /** Look for what others send. */
  wake(connection: RuntimeConnection): void;
  readonly types: { readonly BCAST: number; readonly BARRIER: number };
  closed(group: Group): void;
}

//   ╒══ xheader of BCAST and BARRIER, little-endian ══╕
//   │  0 u32 group                                    │
//   │  4 u32 root of a broadcast; round of a barrier  │
//   │  8 u32 number of the operation                  │
//   │ 12 u32 rank of who sends this                   │
//   │ 16 the user's                                   │
//   ╘═════════════════════════════════════════════════╛
export const GROUP_HEADER = 16;
/** Operations that a member may be ahead of another: beyond that it waits for it. */
const AHEAD = 1024;

/** A message of a group. */
export interface GroupMessage {
  readonly group: number;
  readonly second: number;
  readonly number: number;
  readonly rank: number;
  readonly xheader: Uint8Array;
  readonly data: Uint8Array;
}

/** @throws ERR_ISTHMUS_PEER_PROTOCOL */
export function decodeGroup(xheader: Uint8Array, data: Uint8Array): GroupMessage {
  if (xheader.length < GROUP_HEADER) {
    throw new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', `a message of a group with ${xheader.length} bytes of xheader`);
  }
  const header = Buffer.from(xheader.buffer, xheader.byteOffset, xheader.byteLength);
  return {
    group: header.readUInt32LE(0),
    second: header.readUInt32LE(4),
    number: header.readUInt32LE(8),
    rank: header.readUInt32LE(12),
    xheader: xheader.subarray(GROUP_HEADER),
    data,
  };
}

interface Waiting {
  readonly from: number;
  readonly resolve: (message: GroupMessage) => void;
  readonly reject: (error: unknown) => void;
}

/** A group of this endpoint. */
export class Group implements AsyncDisposable {
  readonly id: number;
  readonly rank: number;
  readonly size: number;
  readonly #host: GroupHost;
  readonly #members: readonly (RuntimeConnection | undefined)[];
  /** Number of the next operation. */
  #next = 0;
  /** Operations that our application is in. */
  readonly #active = new Set<number>();
  /** What has come and is not wanted yet, by {@link keyOf}. */
  readonly #arrived = new Map<string, GroupMessage>();
  readonly #waiting = new Map<string, Waiting>();
  #error: IsthmusError | undefined;
  #closed = false;

  /** @internal */
  constructor({ id, rank }: GroupOptions, members: readonly (RuntimeConnection | undefined)[], host: GroupHost) {
    this.id = id;
    this.rank = rank;
    this.size = members.length;
    this.#members = members;
    this.#host = host;
    for (const [place, connection] of members.entries()) {
      if (!connection) continue;
      connection.groups++;
      void connection.closed.then((closed) => this.#lost(place, closed));
    }
  }

  /** Whether something of this connection is waited for. @internal */
  expects(connection: RuntimeConnection): boolean {
    for (const { from } of this.#waiting.values()) if (this.#members[from] === connection) return true;
    return false;
  }

  /** Bytes of this connection that wait for the application. @internal */
  heldOf(connection: RuntimeConnection): number {
    let held = 0;
    for (const { rank, data, xheader } of this.#arrived.values()) {
      if (this.#members[rank] === connection) held += data.length + xheader.length + 64;
    }
    return held;
  }

  /**
   * Send data from one member to all others.
   * @param root the rank that has the data
   * @param data wanted at the root, ignored elsewhere
   * @returns the message, at the root what was given
   * @throws ERR_ISTHMUS_GROUP: a member is gone, the message names it; ERR_ISTHMUS_CLOSED, `signal.reason`: the group
   * cannot be used any more, because its members have lost count
   */
  async broadcast(root: number, data?: Uint8Array, { xheader, signal }: BroadcastOptions = {}): Promise<Message> {
    if (!Number.isInteger(root) || root < 0 || root >= this.size) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `${root} is no rank of a group of ${this.size}`);
    }
    if (root === this.rank && !(data instanceof Uint8Array)) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'the root of a broadcast has to give its data');
    }
    return this.#operation(signal, async (number) => {
      if (root === this.rank) {
        const message = new Message(data as Uint8Array, xheader ?? NO_BYTES);
        await this.#pass(root, number, message.xheader, message.data);
        return message;
      }
      const { BCAST } = this.#host.types;
      const arrived = await this.#receive(keyOf(BCAST, number, root, this.#parent(root)), this.#parent(root));
      // It may still be on its way to others, who must not see what our application does to it.
      const shared = this.#children(root).length > 0;
      return new Message(shared ? new Uint8Array(arrived.data) : arrived.data, arrived.xheader);
    });
  }

  /** Resolves when every member has called it. @throws as {@link broadcast} */
  async barrier({ signal }: GroupCallOptions = {}): Promise<void> {
    return this.#operation(signal, async (number) => {
      const { BARRIER } = this.#host.types;
      for (let round = 0, distance = 1; distance < this.size; round++, distance *= 2) {
        const to = (this.rank + distance) % this.size;
        const from = (this.rank - distance + this.size) % this.size;
        await Promise.all([
          this.#send(to, BARRIER, round, number, NO_BYTES, NO_BYTES),
          this.#receive(keyOf(BARRIER, number, round, from), from),
        ]);
      }
    });
  }

  async #operation<T>(signal: AbortSignal | undefined, body: (number: number) => Promise<T>): Promise<T> {
    signal?.throwIfAborted();
    this.#check();
    const number = this.#next;
    this.#next = (number + 1) >>> 0;
    this.#active.add(number);
    const abort = () => this.#fail(signal?.reason);
    signal?.addEventListener('abort', abort, { once: true });
    try {
      return await body(number);
    } finally {
      this.#active.delete(number);
      signal?.removeEventListener('abort', abort);
    }
  }

  #check(): void {
    if (this.#error) throw this.#error;
    if (this.#closed) throw new IsthmusError('ERR_ISTHMUS_CLOSED', 'the group is closed');
  }

  // ─── the tree ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Who passes a broadcast of this root on to us: our place, counted from the root, without its lowest bit. */
  #parent(root: number): number {
    const place = (this.rank - root + this.size) % this.size;
    return ((place & (place - 1)) + root) % this.size;
  }

  /** Whom we pass it on to: the furthest first, because it has most to pass on itself. */
  #children(root: number): number[] {
    const place = (this.rank - root + this.size) % this.size;
    const children: number[] = [];
    for (let bit = 1; bit < this.size && (place & bit) === 0; bit *= 2) {
      if (place + bit < this.size) children.unshift((place + bit + root) % this.size);
    }
    return children;
  }

  async #pass(root: number, number: number, xheader: Uint8Array, data: Uint8Array): Promise<void> {
    const { BCAST } = this.#host.types;
    await Promise.all(this.#children(root).map((child) => this.#send(child, BCAST, root, number, xheader, data)));
  }

  async #send(
    to: number,
    type: number,
    second: number,
    number: number,
    xheader: Uint8Array,
    data: Uint8Array,
  ): Promise<void> {
    const header = Buffer.alloc(GROUP_HEADER + xheader.length);
    header.writeUInt32LE(this.id, 0);
    header.writeUInt32LE(second, 4);
    header.writeUInt32LE(number, 8);
    header.writeUInt32LE(this.rank, 12);
    header.set(xheader, GROUP_HEADER);
    try {
      await this.#host.send(this.#members[to] as RuntimeConnection, type, header, data);
    } catch (error) {
      this.#fail(this.#gone(to, error));
      throw this.#error;
    }
  }

  // ─── what comes ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @internal A message of this group. @throws ERR_ISTHMUS_PEER_PROTOCOL */
  received(connection: RuntimeConnection, type: number, message: GroupMessage): void {
    if (this.#error) return; // Nobody waits for it any more.
    const { number, rank, second } = message;
    const bad = (what: string) => {
      throw new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', `group ${this.id}: ${what}`);
    };
    if (this.#members[rank] !== connection) bad(`a message of rank ${rank} over the connection of another`);
    const ahead = (number - this.#next) | 0;
    const key = keyOf(type, number, second, rank);
    const waiting = this.#waiting.get(key);
    if (!this.#active.has(number) && (ahead < 0 || ahead > AHEAD))
      bad(`operation ${number}, while ${this.#next} is next`);
    if (this.#arrived.has(key)) bad(`the same message twice`);
    if (type === this.#host.types.BCAST) {
      if (second >= this.size || second === this.rank || this.#parent(second) !== rank) {
        bad(`a broadcast of rank ${second} from rank ${rank}`);
      }
      this.#pass(second, number, message.xheader, message.data).catch(() => {}); // The group has failed, and says so.
    }
    if (waiting) {
      this.#waiting.delete(key);
      waiting.resolve(message);
    } else {
      this.#arrived.set(key, message);
    }
  }

  #receive(key: string, from: number): Promise<GroupMessage> {
    const connection = this.#members[from] as RuntimeConnection;
    const arrived = this.#arrived.get(key);
    if (arrived) {
      this.#arrived.delete(key);
      this.#host.wake(connection);
      return Promise.resolve(arrived);
    }
    if (this.#error) return Promise.reject(this.#error);
    return new Promise((resolve, reject) => {
      this.#waiting.set(key, { from, resolve, reject });
      this.#host.wake(connection);
    });
  }

  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #gone(rank: number, cause: unknown): IsthmusError {
    const { name, pid } = (this.#members[rank] as RuntimeConnection).peer;
    const why = cause instanceof Error ? `: ${cause.message}` : '';
    return new IsthmusError(
      'ERR_ISTHMUS_GROUP',
      `group ${this.id}: member ${rank} (${name}, pid ${pid}) is gone${why}`,
      {
        cause,
      },
    );
  }

  #lost(rank: number, { error }: Closed): void {
    if (!this.#closed) this.#fail(this.#gone(rank, error));
  }

  #fail(reason: unknown): void {
    this.#error ??=
      reason instanceof IsthmusError
        ? reason
        : new IsthmusError('ERR_ISTHMUS_GROUP', `group ${this.id}: an operation was aborted`, { cause: reason });
    for (const waiting of this.#waiting.values()) waiting.reject(reason);
    this.#waiting.clear();
    this.#arrived.clear();
  }

  /**
   * Leave: no message, the others need not be there. What a member still waits for fails. The connections stay.
   * Whoever wants all to be done before calls `barrier()`.
   */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#fail(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the group was closed'));
    this.#closed = true;
    for (const connection of this.#members) if (connection) connection.groups--;
    this.#host.closed(this);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function keyOf(type: number, number: number, second: number, from: number): string {
  return `${type}:${number}:${second}:${from}`;
}

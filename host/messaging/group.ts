/**
 * Groups: operations of several members, over any mix of plugins.
 *
 * Each member has a rank, and a connection to every other member. `tree.ts` says which of them talk to each other. Each
 * operation has a number; all members count alike, because they call the same operations in the same order. A member
 * passes a message on also when its own application has not called that operation yet, so a late member delays only those
 * that need its own contribution.
 */
import type { Closed, Connection } from '../api/connection.js';
import { onAbort } from '../base/abortable.js';
import { optionsOf } from '../base/arguments.js';
import { type Bytes, bytesOf } from '../base/bytes.js';
import { IsthmusError } from '../base/errors.js';
import { Message, NO_BYTES } from '../base/message.js';
import type { RuntimeConnection } from '../connection/connection.js';
import { coreLayout } from '../core/core.js';
import { encodeGroupHeader, type GroupMessage, heldBytes } from './group-message.js';
import { barrierRounds, childrenOf, parentOf } from './tree.js';

export interface GroupOptions {
  /** u32, the same at all members; no other open group of this endpoint has it. */
  readonly id: number;
  /** The place of this endpoint among the members. */
  readonly rank: number;
  /** The connection to each member, by rank. The place of this endpoint is empty (undefined or null). */
  readonly members: readonly (Connection | undefined | null)[];
}

export interface GroupCallOptions {
  readonly signal?: AbortSignal | undefined;
}

export interface BroadcastOptions extends GroupCallOptions {
  /** At most 65,519 bytes. */
  readonly xheader?: Bytes | undefined;
}

/** Operations that a peer may be ahead of this member. */
const MAX_AHEAD = 1024;

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
  readonly #members: readonly (RuntimeConnection | undefined)[];
  readonly #onClose: (group: Group) => void;
  readonly #broadcast = coreLayout().MESSAGE_BCAST;
  readonly #barrier = coreLayout().MESSAGE_BARRIER;
  /** Number of the next operation. */
  #next = 0;
  /** Operations that the application has called and that are not done. */
  readonly #active = new Set<number>();
  /** Messages for which the application has not called yet, by {@link keyOf}. */
  readonly #arrived = new Map<string, GroupMessage>();
  readonly #waiting = new Map<string, Waiting>();
  #error: IsthmusError | undefined;
  #closed = false;

  /** @internal */
  constructor(
    { id, rank }: GroupOptions,
    members: readonly (RuntimeConnection | undefined)[],
    onClose: (group: Group) => void,
  ) {
    this.id = id;
    this.rank = rank;
    this.size = members.length;
    this.#members = members;
    this.#onClose = onClose;
    for (const [place, connection] of members.entries()) {
      if (!connection) continue;
      void connection.closed.then((closed) => this.#onMemberClosed(place, closed));
    }
  }

  /** @internal Whether an operation waits for a message of this connection. */
  expects(connection: RuntimeConnection): boolean {
    for (const { from } of this.#waiting.values()) if (this.#members[from] === connection) return true;
    return false;
  }

  /** @internal Bytes of this connection that wait for the application. */
  heldBytesOf(connection: RuntimeConnection): number {
    let held = 0;
    for (const message of this.#arrived.values()) {
      if (this.#members[message.rank] === connection) held += heldBytes(message);
    }
    return held;
  }

  /**
   * Send data from one member to all others.
   * @param root the rank that has the data
   * @param data required at the root, ignored at other members
   * @returns the message; at the root the one that was passed
   * @throws ERR_ISTHMUS_GROUP: a member is gone, the message names it; ERR_ISTHMUS_CLOSED, `signal.reason`: the group
   * cannot be used any more, because its members no longer count alike
   */
  async broadcast(root: number, data?: Bytes, options?: BroadcastOptions): Promise<Message> {
    const { xheader, signal } = optionsOf(options, '{ xheader, signal }') ?? {};
    if (!Number.isInteger(root) || root < 0 || root >= this.size) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `${root} is not a rank of a group of ${this.size}`);
    }
    // Only the root has something to pass.
    const own = root === this.rank ? bytesOf(data, 'data of the root') : undefined;
    const header = xheader === undefined ? NO_BYTES : bytesOf(xheader, 'xheader');
    return this.#operation(signal, async (number) => {
      if (own) {
        const message = new Message(own, header);
        await this.#forward(root, number, message.xheader, message.data);
        return message;
      }
      const parent = parentOf(this.rank, root, this.size);
      const arrived = await this.#receive(keyOf(this.#broadcast, number, root, parent), parent);
      // The data may still be on its way to other members: changes of the application must not reach them.
      const shared = childrenOf(this.rank, root, this.size).length > 0;
      return new Message(shared ? new Uint8Array(arrived.data) : arrived.data, arrived.xheader);
    });
  }

  /** Resolves when every member has called it. @throws as {@link broadcast} */
  async barrier(options?: GroupCallOptions): Promise<void> {
    const signal = optionsOf(options, '{ signal }')?.signal;
    return this.#operation(signal, async (number) => {
      for (const [round, { to, from }] of barrierRounds(this.rank, this.size).entries()) {
        await Promise.all([
          this.#send(to, this.#barrier, round, number, NO_BYTES, NO_BYTES),
          this.#receive(keyOf(this.#barrier, number, round, from), from),
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
    const stopListening = onAbort(signal, () => this.#fail(signal?.reason));
    try {
      return await body(number);
    } finally {
      this.#active.delete(number);
      stopListening();
    }
  }

  #check(): void {
    if (this.#error) throw this.#error;
    if (this.#closed) throw new IsthmusError('ERR_ISTHMUS_CLOSED', 'the group is closed');
  }

  // ─── sending ───────────────────────────────────────────────────────────────────────────────────────────────────────

  async #forward(root: number, number: number, xheader: Uint8Array, data: Uint8Array): Promise<void> {
    const children = childrenOf(this.rank, root, this.size);
    await Promise.all(children.map((child) => this.#send(child, this.#broadcast, root, number, xheader, data)));
  }

  async #send(
    to: number,
    type: number,
    rootOrRound: number,
    number: number,
    xheader: Uint8Array,
    data: Uint8Array,
  ): Promise<void> {
    const header = encodeGroupHeader({ group: this.id, rootOrRound, number, rank: this.rank, xheader });
    try {
      await (this.#members[to] as RuntimeConnection).sendTyped(type, header, data);
    } catch (error) {
      this.#fail(this.#memberGone(to, error));
      throw this.#error;
    }
  }

  // ─── receiving ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @internal A message of this group. @throws ERR_ISTHMUS_PEER_PROTOCOL */
  received(connection: RuntimeConnection, type: number, message: GroupMessage): void {
    if (this.#error) return; // No operation waits for it any more.
    const { number, rank, rootOrRound } = message;
    const bad = (what: string) => {
      throw new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', `group ${this.id}: ${what}`);
    };
    if (this.#members[rank] !== connection) bad(`a message of rank ${rank} over the connection of another`);
    const ahead = (number - this.#next) | 0;
    const key = keyOf(type, number, rootOrRound, rank);
    const waiting = this.#waiting.get(key);
    if (!this.#active.has(number) && (ahead < 0 || ahead > MAX_AHEAD)) {
      bad(`operation ${number}, while ${this.#next} is next`);
    }
    if (this.#arrived.has(key)) bad(`the same message twice`);
    if (type === this.#broadcast) {
      if (
        rootOrRound >= this.size ||
        rootOrRound === this.rank ||
        parentOf(this.rank, rootOrRound, this.size) !== rank
      ) {
        bad(`a broadcast of rank ${rootOrRound} from rank ${rank}`);
      }
      this.#forward(rootOrRound, number, message.xheader, message.data).catch(() => {}); // The group has failed already.
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
      connection.poke();
      return Promise.resolve(arrived);
    }
    if (this.#error) return Promise.reject(this.#error);
    return new Promise((resolve, reject) => {
      this.#waiting.set(key, { from, resolve, reject });
      connection.poke();
    });
  }

  // ─── ending ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #memberGone(rank: number, cause: unknown): IsthmusError {
    const { name, pid } = (this.#members[rank] as RuntimeConnection).peer;
    const why = cause instanceof Error ? `: ${cause.message}` : '';
    const text = `group ${this.id}: member ${rank} (${name}, pid ${pid}) is gone${why}`;
    return new IsthmusError('ERR_ISTHMUS_GROUP', text, { cause });
  }

  #onMemberClosed(rank: number, { error }: Closed): void {
    if (!this.#closed) this.#fail(this.#memberGone(rank, error));
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
   * Leave the group. No message is sent, and no other member has to take part. Operations that have not finished fail. The
   * connections stay. An application that needs all members to be done calls `barrier()` first.
   */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#fail(new IsthmusError('ERR_ISTHMUS_CLOSED', 'the group was closed'));
    this.#closed = true;
    this.#onClose(this);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function keyOf(type: number, number: number, rootOrRound: number, from: number): string {
  return `${type}:${number}:${rootOrRound}:${from}`;
}

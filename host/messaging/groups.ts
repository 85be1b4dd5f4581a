/** The groups of an endpoint, and messages for groups that are not open yet. */

import { IsthmusError } from '../base/errors.js';
import type { ReadDemand } from '../channel/ring-reader.js';
import type { RuntimeConnection } from '../connection/connection.js';
import { coreLayout } from '../core/core.js';
import type { MessageHandler } from '../link/protocol-router.js';
import { Group, type GroupOptions } from './group.js';
import { decodeGroupMessage, type GroupMessage, heldBytes } from './group-message.js';

/** A message for a group that is not open yet. */
interface EarlyMessage {
  readonly connection: RuntimeConnection;
  readonly type: number;
  readonly message: GroupMessage;
}

/** Why a connection reads on, or stops reading, for groups. */
class GroupDemand implements ReadDemand {
  readonly #groups: Groups;
  readonly #connection: RuntimeConnection;

  constructor(groups: Groups, connection: RuntimeConnection) {
    this.#groups = groups;
    this.#connection = connection;
  }

  get expects(): boolean {
    return this.#groups.expects(this.#connection);
  }

  get heldBytes(): number {
    return this.#groups.heldBytes(this.#connection);
  }
}

export class Groups {
  readonly #open = new Map<number, Group>();
  /** Ids of closed groups: late messages for them are dropped. */
  readonly #closed = new Set<number>();
  /** In order of arrival. Their bytes count as unread: at its limit a connection stops reading. */
  #early: EarlyMessage[] = [];
  /** Connections that have a {@link GroupDemand}: members of a group, and those with an early message. */
  readonly #demanding = new Set<RuntimeConnection>();

  /** @throws ERR_ISTHMUS_INVALID_ARGUMENT */
  open(options: GroupOptions, own: (connection: unknown) => RuntimeConnection): Group {
    const { id, rank, members } = options;
    const fail = (what: string): never => {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `group: ${what}`);
    };
    if (!Number.isInteger(id) || id < 0 || id > 0xffffffff) fail(`${id} is not an id: a u32 is required`);
    if (!Array.isArray(members) || !Number.isInteger(rank) || rank < 0 || rank >= members.length) {
      fail(`${rank} is not a rank among ${members?.length} members`);
    }
    if (this.#open.has(id)) fail(`${id} is open already`);
    const connections = members.map((member, place) => (place === rank ? undefined : own(member)));
    if (new Set(connections).size !== connections.length) fail('a connection appears twice');
    const group = new Group(options, connections, () => {
      this.#open.delete(id);
      this.#closed.add(id);
    });
    this.#open.set(id, group);
    this.#closed.delete(id);
    for (const connection of connections) if (connection) this.#demand(connection);
    const mine = this.#early.filter(({ message }) => message.group === id);
    this.#early = this.#early.filter(({ message }) => message.group !== id);
    for (const { connection, type, message } of mine) {
      try {
        group.received(connection, type, message);
      } catch (error) {
        connection.fail(error as IsthmusError);
      }
      connection.poke();
    }
    return group;
  }

  /** Messages of a connection for groups come here. */
  enter(connection: RuntimeConnection): void {
    const { MESSAGE_BCAST, MESSAGE_BARRIER } = coreLayout();
    const make = (type: number) => this.#handler(connection, type);
    for (const type of [MESSAGE_BCAST, MESSAGE_BARRIER]) connection.router.register(type, make);
  }

  /** From here on groups are a reason of the connection to read on, or to stop reading. It is asked at each message. */
  #demand(connection: RuntimeConnection): void {
    if (this.#demanding.has(connection)) return;
    this.#demanding.add(connection);
    connection.receiver.ring.addDemand(new GroupDemand(this, connection));
  }

  #handler(connection: RuntimeConnection, type: number): MessageHandler {
    return {
      begin: () => undefined,
      complete: (xheader, data) => {
        this.#received(connection, type, decodeGroupMessage(xheader, data));
        return undefined;
      },
    };
  }

  #received(connection: RuntimeConnection, type: number, message: GroupMessage): void {
    const group = this.#open.get(message.group);
    if (group) {
      group.received(connection, type, message);
      return;
    }
    if (this.#closed.has(message.group)) return;
    this.#early.push({ connection, type, message });
    this.#demand(connection);
  }

  /** Bytes that have come over a connection and wait for the application. */
  heldBytes(connection: RuntimeConnection): number {
    let held = 0;
    for (const { connection: from, message } of this.#early) {
      if (from === connection) held += heldBytes(message);
    }
    for (const group of this.#open.values()) held += group.heldBytesOf(connection);
    return held;
  }

  /** Whether a group waits for a message over a connection. */
  expects(connection: RuntimeConnection): boolean {
    for (const group of this.#open.values()) if (group.expects(connection)) return true;
    return false;
  }

  /** A connection is released: drop what it sent for groups that were never opened with it. */
  forget(connection: RuntimeConnection): void {
    this.#early = this.#early.filter((one) => one.connection !== connection);
    this.#demanding.delete(connection);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#open.values()].map((group) => group.close()));
    this.#early = [];
  }
}

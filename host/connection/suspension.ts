/**
 * Suspending one connection, and what it needs to come back (docs/protocol.md, "SHUTDOWN"): finish the message under way,
 * say one last word, hear the other's, let go of the link. The states are the core's (assembly/migration.ts).
 */

import type { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';
import { coreLayout, machines } from '../core/core.js';

/** What a connection does for it. */
export interface SuspensionOwner {
  /** Send this behind the message under way, and nothing after it. `sent` when it is in the ring. */
  lastWord(type: number, data: Uint8Array, sent: () => void): void;
  /**
   * Say it past the ring, and give up what has begun there: it comes again over the next link.
   * @returns false: it has been said, or there is no such way
   */
  lastWordAside(type: number, port: number): boolean;
  /** Read on whatever is unread, and ask the other side to. */
  hurry(): void;
  /** Both have said their last word: let go of the link. */
  letGo(): void;
  fail(error: IsthmusError): void;
  /** Where the peer can reach us, in the end a listener that is opened for this. 0: nowhere. */
  listenPort(): Promise<number>;
  readonly log: Log;
}

/** How long our last word may wait for room in the ring, in milliseconds. */
const ROOM = 100;

type Event = 'SUSPEND' | 'SENT' | 'REQ' | 'ACK' | 'RESUME' | 'UP';

export class Suspension {
  readonly #owner: SuspensionOwner;
  #state: number;
  #asked = false;
  #peerPort = 0;
  /** Events that meant nothing in their state. */
  ignored = 0;

  constructor(owner: SuspensionOwner) {
    this.#owner = owner;
    this.#state = coreLayout().SUSPENSION_NONE;
  }

  /** Whether it was this side that asked; then it is also this side that comes back. */
  get asked(): boolean {
    return this.#asked;
  }

  /** Where the peer listens; 0: nowhere. */
  get peerPort(): number {
    return this.#peerPort;
  }

  /** Whether one of the two wants to suspend, and the link is still there. */
  get underWay(): boolean {
    const { SUSPENSION_SUSPENDING, SUSPENSION_SENT, SUSPENSION_RECEIVED } = coreLayout();
    const state = this.#state;
    return state === SUSPENSION_SUSPENDING || state === SUSPENSION_SENT || state === SUSPENSION_RECEIVED;
  }

  get suspended(): boolean {
    const { SUSPENSION_SUSPENDED, SUSPENSION_RESUMING } = coreLayout();
    return this.#state === SUSPENSION_SUSPENDED || this.#state === SUSPENSION_RESUMING;
  }

  /** This side wants to. (suspend.pml: start) */
  start(): void {
    if (this.#handle('SUSPEND') !== coreLayout().SUSPENSION_SUSPENDING) return;
    this.#asked = true;
    this.#owner.hurry();
    this.#say(coreLayout().MESSAGE_SHUTDOWN_REQ);
  }

  /** A message of the peer about it. (suspend.pml: heard) */
  received(type: number, data: Uint8Array): void {
    const { MESSAGE_SHUTDOWN_REQ, MESSAGE_SHUTDOWN_ACK, SUSPENSION_RECEIVED, SUSPENSION_NONE } = coreLayout();
    if (type !== MESSAGE_SHUTDOWN_REQ && type !== MESSAGE_SHUTDOWN_ACK) {
      this.#ignore('SUSPEND of the peer');
      return;
    }
    const port = data.length >= 4 ? Buffer.from(data).readInt32LE() : 0;
    const before = this.#state;
    const state = this.#handle(type === MESSAGE_SHUTDOWN_REQ ? 'REQ' : 'ACK');
    if (state === before) return;
    this.#peerPort = port > 0 && port < 65_536 ? port : 0;
    if (before === SUSPENSION_NONE && state === SUSPENSION_RECEIVED) {
      this.#owner.hurry();
      this.#say(MESSAGE_SHUTDOWN_ACK);
    }
    if (this.suspended) this.#owner.letGo();
  }

  /** A link is being made again. */
  resume(): void {
    this.#handle('RESUME');
  }

  /** What was to make a link has been given up. */
  pause(): void {
    if (this.#state === coreLayout().SUSPENSION_RESUMING) this.#handle('SUSPEND');
  }

  /** There is a link again. */
  up(): void {
    this.#asked = false;
    if (this.suspended) this.#handle('UP');
  }

  /** suspend.pml: listen_port, said; last_word_aside behind the limit. */
  #say(type: number): void {
    const say = (port: number) => {
      const data = Buffer.alloc(4);
      data.writeInt32LE(port);
      const said = () => {
        clearTimeout(timer);
        this.#handle('SENT');
        if (this.suspended) this.#owner.letGo();
      };
      // A ring of which messages are borrowed may have no room for the rest of a message, however much is read.
      const timer = setTimeout(() => {
        if (this.underWay && this.#owner.lastWordAside(type, port)) said();
      }, ROOM).unref();
      this.#owner.lastWord(type, data, said);
    };
    this.#owner.listenPort().then(say, () => say(0));
  }

  #handle(event: Event): number {
    const layout = coreLayout();
    const next = machines().suspension(this.#state, layout[`SUSPENSION_EVENT_${event}`]);
    if (next === this.#state) this.#ignore(event);
    this.#state = next;
    return next;
  }

  #ignore(event: string): void {
    this.ignored++;
    this.#owner.log('info', `suspension: ${event} means nothing in state ${this.#state}; ignored`);
  }
}

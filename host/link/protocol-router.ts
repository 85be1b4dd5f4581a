/**
 * Messages that are not the application's: which part of the runtime takes which type.
 *
 * Rendezvous, remote memory, groups and shutdown register here. A handler is made when the first message of its type
 * comes, so that a connection without such messages pays nothing for them.
 */
import { IsthmusError } from '../base/errors.js';
import { NO_BYTES } from '../base/message.js';
import type { Announced } from '../matching/announced.js';

/** Where the data of a message goes. */
export interface Sink {
  /** As far as there is room; the rest is dropped. */
  readonly target: Uint8Array;
  /** Called before each fragment. False: the owner has taken the memory back, and the rest is dropped. */
  readonly open?: () => boolean;
}

/** For data that is dropped. */
export const NOWHERE: Sink = { target: NO_BYTES };

export interface MessageHandler {
  /**
   * A message begins.
   * @param length of its data, in bytes
   * @returns where the data goes; undefined: memory of its own
   * @throws IsthmusError if such a message breaks the protocol
   */
  begin(xheader: Uint8Array, length: number): Sink | undefined;
  /**
   * The message is complete.
   * @param data the target that {@link begin} gave, as far as it was filled
   * @returns a message for the application that it announces, if it does
   * @throws IsthmusError if it breaks the protocol
   */
  complete(xheader: Uint8Array, data: Uint8Array): Announced | undefined;
}

/** A message that no handler takes. */
export function unsupported(type: number): IsthmusError {
  return new IsthmusError(
    'ERR_ISTHMUS_PEER_PROTOCOL',
    `the peer sent a message of type ${type}, which is not supported`,
  );
}

/** Called once for each type that it is registered for, when the first message of that type comes. */
export type MakeHandler = (type: number) => MessageHandler;

export class ProtocolRouter {
  readonly #makers: (MakeHandler | undefined)[] = [];
  #handlers: (MessageHandler | undefined)[] | undefined;

  /**
   * @param type MESSAGE_… of the core's layout
   * @param make the same function for several types costs a connection less memory than one for each
   */
  register(type: number, make: MakeHandler): void {
    if (this.#makers[type]) throw new Error(`message type ${type} is registered twice`);
    this.#makers[type] = make;
  }

  /** @throws ERR_ISTHMUS_PEER_PROTOCOL: no handler takes that type */
  handler(type: number): MessageHandler {
    let handler = this.#handlers?.[type];
    if (!handler) {
      const make = this.#makers[type];
      if (!make) throw unsupported(type);
      handler = make(type);
      this.#handlers ??= [];
      this.#handlers[type] = handler;
    }
    return handler;
  }
}

/**
 * The exchange of SHUTDOWN messages by which a connection is suspended (docs/protocol.md, "SHUTDOWN"): finish the message
 * under way, send the last message, receive the peer's, let go of the link. The phases are those of `link/lifecycle.ts`.
 */
import type { Sender } from '../channel/sender.js';
import { coreLayout } from '../core/core.js';
import type { LinkBinding } from '../link/link-binding.js';
import { type MessageHandler, type ProtocolRouter, unsupported } from '../link/protocol-router.js';

/** How long the last message may wait for room in the ring before it is sent out of band. */
const MAX_WAIT_FOR_ROOM_MS = 100;
/** Bytes of a SHUTDOWN message: C sends 4. */
const MAX_SHUTDOWN_BYTES = 64;
/** Bytes of SHUTDOWN_REQ: an i32, the port. */
const REQUEST_BYTES = 4;

export class Shutdown {
  /** Whether this side asked for the suspension; then it is also this side that comes back. */
  asked = false;
  /** Where the peer listens; 0: nowhere. */
  peerPort = 0;
  readonly #binding: LinkBinding;
  readonly #sender: Sender;
  readonly #requestDrain: () => void;
  readonly #listenPort: () => Promise<number>;

  /**
   * @param requestDrain asks the peer to read on whatever it has unread, and this side to do so
   * @param listenPort where the peer can reach this side, in the end a listener that is opened for it. 0: nowhere
   */
  constructor(
    binding: LinkBinding,
    sender: Sender,
    router: ProtocolRouter,
    requestDrain: () => void,
    listenPort: () => Promise<number>,
  ) {
    this.#binding = binding;
    this.#sender = sender;
    this.#requestDrain = requestDrain;
    this.#listenPort = listenPort;
    const { MESSAGE_SHUTDOWN_REQ, MESSAGE_SHUTDOWN_ACK, MESSAGE_SUSPEND } = coreLayout();
    const make = (type: number) => this.#handler(type);
    for (const type of [MESSAGE_SHUTDOWN_REQ, MESSAGE_SHUTDOWN_ACK, MESSAGE_SUSPEND]) router.register(type, make);
  }

  #handler(type: number): MessageHandler {
    return {
      begin: (xheader, length) => {
        if (length > MAX_SHUTDOWN_BYTES) throw unsupported(type);
        // Behind this message the connection is kept for its peer: no other form of it begins that.
        const isRequest = type === coreLayout().MESSAGE_SHUTDOWN_REQ;
        if (isRequest && (xheader.length > 0 || length !== REQUEST_BYTES)) throw unsupported(type);
        return undefined;
      },
      complete: (xheader, data) => {
        this.receive(type, xheader, data);
        return undefined;
      },
    };
  }

  /** This side suspends. (suspend.pml: start) */
  start(): void {
    if (!this.#binding.lifecycle.raise('suspend')) return;
    this.asked = true;
    this.#requestDrain();
    this.#send(coreLayout().MESSAGE_SHUTDOWN_REQ);
  }

  /** A SHUTDOWN message of the peer, from the ring or out of band. (suspend.pml: heard) */
  receive(type: number, xheader: Uint8Array, data: Uint8Array): void {
    const { lifecycle } = this.#binding;
    const { MESSAGE_SHUTDOWN_REQ, MESSAGE_SHUTDOWN_ACK, MESSAGE_SUSPEND } = coreLayout();
    if (type === MESSAGE_SUSPEND && xheader.length === 0 && data.length === 0) {
      if (lifecycle.unconfirmed) lifecycle.raise('confirm');
      return;
    }
    // This side has sent its end: a peer that suspends need not come back, as nothing more is to be sent.
    if (lifecycle.phase === 'eofSent') {
      lifecycle.raise('peerClosed');
      return;
    }
    // C's SUSPEND has a port in its xheader, and means nothing to this side.
    if (type === MESSAGE_SUSPEND) return;
    const event = type === MESSAGE_SHUTDOWN_REQ ? 'request' : 'acknowledge';
    const port = data.length >= 4 ? Buffer.from(data).readInt32LE() : 0;
    const first = lifecycle.phase === 'open';
    if (lifecycle.defines(event)) this.peerPort = port > 0 && port < 65_536 ? port : 0;
    if (!lifecycle.raise(event) || !first) return;
    this.#requestDrain();
    this.#send(MESSAGE_SHUTDOWN_ACK);
  }

  /** There is a link again. */
  linkUp(): void {
    this.asked = false;
  }

  /** suspend.pml: listen_port, said; last_word_aside behind the limit. */
  #send(type: number): void {
    const { lifecycle } = this.#binding;
    const send = (port: number) => {
      if (!lifecycle.exchanging) return;
      const data = Buffer.alloc(4);
      data.writeInt32LE(port);
      const sent = () => {
        clearTimeout(timer);
        lifecycle.raise('shutdownQueued');
      };
      // A ring of which records are borrowed may have no room for the rest of a message, however much is read.
      const timer = setTimeout(() => {
        if (lifecycle.exchanging && this.#sendOutOfBand(type, port)) sent();
      }, MAX_WAIT_FOR_ROOM_MS).unref();
      this.#sender.sendShutdown(type, data, sent);
    };
    this.#listenPort().then(send, () => send(0));
  }

  /** @returns false: the message is in the ring, or the link has no such way */
  #sendOutOfBand(type: number, port: number): boolean {
    const link = this.#binding.link?.link;
    if (!link?.sendShutdown || !this.#sender.withdrawShutdown()) return false;
    link.sendShutdown(type, port);
    return true;
  }
}

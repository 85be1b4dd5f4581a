/** One attempt of one plugin, seen from the handshake. The plugin sees the {@link AttemptChannel}. */
import type { Peer } from '../api/peer.js';
import { IsthmusError, messageOf } from '../base/errors.js';
import type { Attempt, AttemptChannel, Plugin } from '../plugins/plugin.js';

/** What a channel needs of the handshake that it belongs to. */
export interface ChannelContext {
  /** The STEP frame. @throws ERR_ISTHMUS_INVALID_ARGUMENT: not STEP1 to STEP4, or too large a payload */
  encodeStep(type: number, payload: Uint8Array): Buffer;
  encodeOk(): Buffer;
  send(frame: Buffer): void;
  /** `okSent` has become true. */
  onReady(channel: Channel): void;
  giveUp(channel: Channel, reason: string): void;
}

export class Channel implements AttemptChannel {
  readonly role: 'connect' | 'accept';
  readonly plugin: Plugin;
  readonly label: string;
  readonly address: Peer['address'];
  okSent = false;
  okReceived = false;
  readonly #context: ChannelContext;
  #attempt: Attempt | undefined;
  /** Frames that the plugin sends within {@link begin}. None of them leaves if the attempt cannot begin. */
  #early: Buffer[] | undefined = [];
  #refusal: string | undefined;
  #closed = false;

  constructor(
    role: 'connect' | 'accept',
    plugin: Plugin,
    label: string,
    address: Peer['address'],
    context: ChannelContext,
  ) {
    this.role = role;
    this.plugin = plugin;
    this.label = label;
    this.address = address;
    this.#context = context;
  }

  /**
   * Create the attempt.
   * @returns the frames that it sent at once; or a string, the reason why it could not begin: it has been undone then
   */
  begin(create: (channel: AttemptChannel) => Attempt): Buffer[] | string {
    try {
      this.#attempt = create(this);
    } catch (error) {
      this.#refusal ??= messageOf(error);
    }
    const early = this.#early ?? [];
    this.#early = undefined;
    if (this.#refusal === undefined) return early;
    this.undo();
    return this.#refusal;
  }

  /** Pass a STEP frame to the plugin. Throws what the plugin throws. */
  onStep(type: number, payload: Buffer): void {
    this.#attempt?.step(type, payload);
  }

  /** Pass ARCH_OK to the plugin. Throws what the plugin throws. */
  onOk(): void {
    this.okReceived = true;
    this.#attempt?.agreed();
  }

  /** The attempt has failed. Idempotent. From here on calls of the plugin have no effect. */
  undo(): void {
    if (this.#closed) return;
    this.#closed = true;
    try {
      this.#attempt?.undo();
    } catch {
      // A plugin that fails to clean up must not keep the next one from being tried.
    }
  }

  /** The attempt has succeeded: it belongs to the caller. */
  take(): Attempt {
    this.#closed = true;
    if (!this.#attempt) throw new IsthmusError('ERR_ISTHMUS_HANDSHAKE', `${this.label}: agreed before it began`);
    return this.#attempt;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** @throws ERR_ISTHMUS_INVALID_ARGUMENT: a type other than STEP1 to STEP4, or a payload of more than 4 KiB */
  step(type: number, payload: Uint8Array): void {
    const frame = this.#context.encodeStep(type, payload);
    if (this.okSent) {
      // Behind ARCH_OK the peer expects phase 2.
      this.next('a STEP frame after ARCH_OK');
      return;
    }
    this.#send(frame);
  }

  ok(): void {
    if (this.#closed || this.okSent) return;
    this.okSent = true;
    this.#send(this.#context.encodeOk());
    this.#context.onReady(this);
  }

  next(reason: string): void {
    if (this.#closed) return;
    if (this.#early) this.#refusal ??= reason;
    else this.#context.giveUp(this, reason);
  }

  #send(frame: Buffer): void {
    if (this.#closed) return;
    if (this.#early) this.#early.push(frame);
    else this.#context.send(frame);
  }
}

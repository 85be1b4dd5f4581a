/** One attempt that is under way, seen from the handshake; to the plugin it is the {@link AttemptChannel}. */
import type { Peer } from '../api/peer.js';
import { IsthmusError, messageOf } from '../base/errors.js';
import type { Attempt, AttemptChannel, Plugin } from '../plugins/plugin.js';
import { encodeFrame, FRAME, FRAME_LIMITS, isStep } from './frames.js';

/** What a {@link Channel} asks of the handshake that it belongs to. */
export interface ChannelOwner {
  send(frame: Buffer): void;
  /** `okSent` has become true. */
  ready(channel: Channel): void;
  giveUp(channel: Channel, reason: string): void;
}

export class Channel implements AttemptChannel {
  readonly role: 'connect' | 'accept';
  readonly plugin: Plugin;
  readonly label: string;
  readonly address: Peer['address'];
  okSent = false;
  okReceived = false;
  readonly #owner: ChannelOwner;
  #attempt: Attempt | undefined;
  /** Frames from within `begin`: none of them is sent if the attempt cannot even begin. */
  #early: Buffer[] | undefined = [];
  #refusal: string | undefined;
  #closed = false;

  constructor(
    role: 'connect' | 'accept',
    plugin: Plugin,
    label: string,
    address: Peer['address'],
    owner: ChannelOwner,
  ) {
    this.role = role;
    this.plugin = plugin;
    this.label = label;
    this.address = address;
    this.#owner = owner;
  }

  /** Create the attempt. The frames that it sent at once, or why it could not begin; nothing is left of it then. */
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

  /** Hand a STEP frame to the plugin. May throw what the plugin throws. */
  received(type: number, payload: Buffer): void {
    this.#attempt?.step(type, payload);
  }

  /** Hand ARCH_OK to the plugin. May throw what the plugin throws. */
  agreed(): void {
    this.okReceived = true;
    this.#attempt?.agreed();
  }

  /** The attempt has not come to anything. Idempotent; from here on the plugin's calls have no effect. */
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

  /** Throws ERR_ISTHMUS_INVALID_ARGUMENT for another type than STEP1 to STEP4, or over 4 KiB of payload. */
  step(type: number, payload: Uint8Array): void {
    if (!isStep(type) || payload.length > FRAME_LIMITS.maxPayload) {
      throw new IsthmusError(
        'ERR_ISTHMUS_INVALID_ARGUMENT',
        `step: STEP1 to STEP4 with up to ${FRAME_LIMITS.maxPayload} bytes, not 0x${type.toString(16)} with ${payload.length}`,
      );
    }
    if (this.okSent) {
      // Behind our ARCH_OK the other side expects phase 2.
      this.next('a STEP frame after ARCH_OK');
      return;
    }
    this.#send(encodeFrame(type, payload));
  }

  ok(): void {
    if (this.#closed || this.okSent) return;
    this.okSent = true;
    this.#send(encodeFrame(FRAME.ARCH_OK));
    this.#owner.ready(this);
  }

  next(reason: string): void {
    if (this.#closed) return;
    if (this.#early) this.#refusal ??= reason;
    else this.#owner.giveUp(this, reason);
  }

  #send(frame: Buffer): void {
    if (this.#closed) return;
    if (this.#early) this.#early.push(frame);
    else this.#owner.send(frame);
  }
}

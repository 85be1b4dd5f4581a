/**
 * The handshake that chooses a plugin ("precon"), without input or output of its own: bytes go in by
 * {@link Precon.receive} and come out by `write`; `done` is called once, at the end. `attach.ts` binds it to a socket.
 * This file holds what both roles share; the roles are {@link ConnectingPrecon} and {@link AcceptingPrecon}.
 *
 * ```
 *  connecting side                        accepting side
 *  VERSION CON_INFO ARCH_REQ(best) ──────▶
 *                                  ◀────── VERSION CON_INFO        (after `admit` returned true)
 *                                  ◀────── ARCH_NEXT               cannot use that plugin
 *  ARCH_REQ(next) ───────────────────────▶
 *  STEP… ◀───────────────────────────────▶ STEP…                  exchanged by the plugins
 *  ARCH_OK ──────────────────────────────▶
 *                                  ◀────── ARCH_OK
 * ```
 *
 * A side is done when it has received ARCH_OK and has queued its own.
 *
 * Frames of both sides cross on the wire. ARCH_REQ separates what the connecting side sends for one attempt from what it
 * sends for the next. The other direction has no such mark, so: **for each ARCH_REQ that fails the accepting side sends
 * exactly one ARCH_NEXT**, also when the connecting side gave up. A connecting side that gave up proposes its next plugin
 * at once and drops every frame until that ARCH_NEXT. (The C implementation sends that ARCH_NEXT, too, for a plugin that it
 * does not have, which is every plugin of this project but tcp.)
 *
 * Source of the format and the rules: docs/protocol.md, "Phase 1: the handshake".
 */

import type { ConInfo, MessageCounts, Peer } from '../api/peer.js';
import { IsthmusError, messageOf } from '../base/errors.js';
import type { Plugin, Proposal } from '../plugins/plugin.js';
import type { PluginRegistry } from '../plugins/registry.js';
import { Channel } from './channel.js';
import {
  checkVersion,
  decodeConInfo,
  decodeCounts,
  encodeFrame,
  encodeStep,
  FRAME,
  type Frame,
  FrameDecoder,
  type FrameLimits,
  frameName,
} from './frames.js';
import type { PreconOutcome } from './outcome.js';

/** ARCH_REQs in one handshake: the accepting side allows as many, and the connecting side sends as many. */
export const MAX_REQUESTS = 32;

export interface PreconLimits extends FrameLimits {
  /** ARCH_REQs in one handshake, default {@link MAX_REQUESTS}. */
  readonly maxRequests: number;
}

/** Options of both roles. */
export interface PreconOptions {
  /** The CON_INFO of this side. */
  readonly local: ConInfo;
  readonly registry: PluginRegistry;
  /** Remote address of the socket; becomes {@link Peer.address}. */
  readonly address?: Peer['address'];
  readonly limits?: Partial<PreconLimits>;
  /** Bytes to send, in order. */
  write(bytes: Buffer): void;
  /** Called once, after the last `write`. */
  done(outcome: PreconOutcome): void;
}

/** The handshake of one connection, either role. See the top of the file. */
export abstract class Precon {
  readonly #role: 'connect' | 'accept';
  readonly #options: PreconOptions;
  readonly #decoder: FrameDecoder;
  protected readonly maxRequests: number;
  /** The reason against each plugin that has failed or could not be tried. */
  protected readonly reasons: string[] = [];
  protected local: ConInfo;
  protected peer: Peer | undefined;
  protected listens: number | undefined;
  protected channel: Channel | undefined;
  protected versionSeen = false;
  /** What this side waits for in front of the next frame, for messages. Frames wait meanwhile. */
  protected asking: string | undefined;
  #counts: MessageCounts | undefined;
  #depth = 0;
  #output: Buffer[] = [];
  #outcome: PreconOutcome | undefined;
  #reported = false;
  /** Whether the peer has sent a byte. */
  #heard = false;

  constructor(role: 'connect' | 'accept', options: PreconOptions) {
    this.#role = role;
    this.#options = options;
    this.local = options.local;
    this.maxRequests = options.limits?.maxRequests ?? MAX_REQUESTS;
    this.#decoder = new FrameDecoder(options.limits);
  }

  /** Begin: the connecting side sends its CON_INFO and proposes its best plugin; the accepting side waits. */
  abstract start(): void;

  /** A frame that the roles treat differently. Throws IsthmusError: the handshake fails with it. */
  protected abstract onFrame(frame: Frame): void;

  /** An attempt of this side was given up, and the peer has been told by ARCH_NEXT. */
  protected abstract onGivenUp(): void;

  /** Bytes of the peer, cut anywhere. */
  receive(chunk: Uint8Array): void {
    this.#heard = true;
    this.run(() => this.#decoder.push(chunk));
  }

  /** The peer will send nothing more. */
  socketEnded(): void {
    this.abort(
      new IsthmusError(
        'ERR_ISTHMUS_HANDSHAKE_REFUSED',
        `the peer closed the connection while this side waited for ${this.waitingFor}`,
        { temporary: this.#temporary },
      ),
    );
  }

  socketFailed(error: Error): void {
    this.abort(
      new IsthmusError(
        'ERR_ISTHMUS_HANDSHAKE_REFUSED',
        `the connection broke while this side waited for ${this.waitingFor}: ${error.message}`,
        { cause: error, errno: (error as NodeJS.ErrnoException).code, temporary: this.#temporary },
      ),
    );
  }

  /** A listener that does not want this side says so (REFUSED), and says nothing when it has too much to do. */
  get #temporary(): true | undefined {
    return this.#role === 'connect' && !this.#heard ? true : undefined;
  }

  /** End the handshake: the attempt is undone, and `done` gets the error. No effect after the end. */
  abort(error: IsthmusError): void {
    this.run(() => this.fail(error));
  }

  /** For messages: what has to happen next. */
  get waitingFor(): string {
    if (this.asking) return this.asking;
    if (!this.peer) return 'CON_INFO';
    if (!this.channel) return 'ARCH_REQ';
    const { label, okReceived } = this.channel;
    return okReceived ? `the local part of ${label}` : `ARCH_OK for ${label}`;
  }

  /** Whether an attempt of a plugin is under way. */
  get attempting(): boolean {
    return this.channel !== undefined;
  }

  /** Whether the next word is the peer's. */
  get waitsForPeer(): boolean {
    return !this.asking && !this.channel?.okReceived;
  }

  /**
   * The one entry: all output of one entry is written in one piece, and `done` is called when no method of this class is
   * on the stack any more, because plugins call back from within calls of this class.
   */
  protected run(body: () => void): void {
    if (this.#outcome) return;
    this.#depth++;
    try {
      body();
      if (this.#depth === 1) this.#readFrames();
    } catch (error) {
      this.fail(
        error instanceof IsthmusError
          ? error
          : new IsthmusError('ERR_ISTHMUS_HANDSHAKE', `the handshake failed: ${messageOf(error)}`, { cause: error }),
      );
    } finally {
      this.#depth--;
    }
    if (this.#depth > 0) return;
    if (this.#output.length > 0) {
      const bytes = Buffer.concat(this.#output);
      this.#output = [];
      this.#options.write(bytes);
    }
    if (!this.#outcome || this.#reported) return;
    this.#reported = true;
    this.#options.done(this.#outcome);
  }

  #readFrames(): void {
    while (!this.#outcome) {
      // Behind ARCH_OK come the bytes of phase 2: no frame is taken out unless the attempt is given up after all.
      if (this.asking || this.channel?.okReceived) {
        this.#decoder.checkPending();
        return;
      }
      const frame = this.#decoder.next();
      if (!frame) return;
      this.#handle(frame);
    }
  }

  #handle(frame: Frame): void {
    switch (frame.type) {
      case FRAME.VERSION:
        if (this.versionSeen) throw this.outOfOrder(frame);
        checkVersion(frame.payload);
        this.versionSeen = true;
        return;
      case FRAME.COUNTS:
        this.#counts = decodeCounts(frame.payload);
        return;
      case FRAME.BACK_ACK:
        throw this.outOfOrder(frame);
      default:
        this.onFrame(frame);
    }
  }

  protected peerOf(frame: Frame): Peer {
    return { ...decodeConInfo(frame.payload), address: this.#options.address };
  }

  protected outOfOrder(frame: Frame): IsthmusError {
    const state = this.peer ? `while this side waits for ${this.waitingFor}` : 'before its CON_INFO';
    const side = this.#role === 'accept' ? 'connecting' : 'accepting';
    return new IsthmusError(
      'ERR_ISTHMUS_HANDSHAKE',
      `the ${side} side sent ${frameName(frame.type)} out of order, ${state}`,
    );
  }

  // ─── an attempt ────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Begin an attempt. If it cannot begin, nothing is sent, and the reason is noted.
   * @param before frame to send in front of those of the plugin
   */
  protected begin(plugin: Plugin, label: string, before: Buffer | undefined, create: Proposal['attempt']): boolean {
    const channel = new Channel(this.#role, plugin, label, this.#options.address, {
      encodeStep,
      encodeOk: () => encodeFrame(FRAME.ARCH_OK),
      send: (frame) => this.run(() => this.send(frame)),
      onReady: (ready) => this.run(() => this.#finishIfAgreed(ready)),
      giveUp: (given, reason) => this.run(() => this.#giveUp(given, reason)),
    });
    const early = channel.begin(create);
    if (typeof early === 'string') {
      this.reasons.push(`${label}: ${early}`);
      return false;
    }
    this.channel = channel;
    if (before) this.send(before);
    for (const frame of early) this.send(frame);
    return true;
  }

  /** A STEP frame of the peer. */
  protected step({ type, payload }: Frame): void {
    const { channel } = this;
    if (!channel) return;
    try {
      channel.onStep(type, payload);
    } catch (error) {
      this.#giveUp(channel, messageOf(error));
    }
  }

  /** ARCH_OK of the peer. */
  protected archOk(): void {
    const { channel } = this;
    // It was on its way when this side gave up: that of tcp comes right behind the ARCH_REQ that this side has refused.
    if (!channel) return;
    try {
      channel.onOk();
    } catch (error) {
      this.#giveUp(channel, messageOf(error));
      return;
    }
    this.#finishIfAgreed(channel);
  }

  /** The peer gave up the attempt. @returns false: both sides gave up at the same time */
  protected dropAttempt(): boolean {
    const { channel } = this;
    if (!channel) return false;
    channel.undo();
    this.reasons.push(`${channel.label}: refused by the peer`);
    this.channel = undefined;
    return true;
  }

  /** A plugin of this side gives up on an attempt that the peer knows of. */
  #giveUp(channel: Channel, reason: string): void {
    if (channel.closed || channel !== this.channel) return;
    channel.undo();
    this.reasons.push(`${channel.label}: ${reason}`);
    if (channel.okSent) {
      // The peer may have taken this ARCH_OK for the end of the handshake: there is no way back.
      throw new IsthmusError('ERR_ISTHMUS_HANDSHAKE', `${channel.label} failed after it had sent ARCH_OK: ${reason}`);
    }
    this.send(encodeFrame(FRAME.ARCH_NEXT));
    this.channel = undefined;
    this.onGivenUp();
  }

  #finishIfAgreed(channel: Channel): void {
    if (this.#outcome || channel !== this.channel || channel.closed) return;
    if (!channel.okSent || !channel.okReceived || !this.peer) return;
    const why = this.reasons.join('; ');
    this.finish({
      kind: 'agreed',
      attempt: channel.take(),
      plugin: channel.plugin,
      label: channel.label,
      peer: this.peer,
      local: this.local,
      counts: this.#counts,
      listens: this.listens,
      rest: this.#decoder.rest(),
      why: why === '' ? undefined : why,
    });
  }

  // ─── output and end ────────────────────────────────────────────────────────────────────────────────────────────────

  protected send(frame: Buffer): void {
    if (!this.#outcome) this.#output.push(frame);
  }

  protected finish(outcome: PreconOutcome): void {
    this.#outcome = outcome;
  }

  protected fail(error: IsthmusError): void {
    if (this.#outcome) return;
    this.channel?.undo();
    this.finish({ kind: 'failed', error, told: false });
  }

  /** Tell the peer, by a last frame, that it is not let in. */
  protected refuse(error: IsthmusError): void {
    if (this.#outcome) return;
    this.channel?.undo();
    this.send(encodeFrame(FRAME.REFUSED));
    this.finish({ kind: 'failed', error, told: true });
  }
}

/**
 * The handshake that chooses a plugin ("precon"), without input or output of its own: bytes go in by
 * {@link Precon.receive}, come out by `write`, and the end is told once by `done`. `attach.ts` puts it on a socket.
 *
 * ```
 *  connecting side                        accepting side
 *  VERSION CON_INFO ARCH_REQ(best) ──────▶
 *                                  ◀────── VERSION CON_INFO        (after `admit` said yes)
 *                                  ◀────── ARCH_NEXT               cannot use that plugin
 *  ARCH_REQ(next) ───────────────────────▶
 *  STEP… ◀───────────────────────────────▶ STEP…                  the plugins talk
 *  ARCH_OK ──────────────────────────────▶
 *                                  ◀────── ARCH_OK
 * ```
 *
 * A side is through when it has received ARCH_OK and has queued its own.
 *
 * Frames cross. What the connecting side sends for an attempt is told from what it sends for the next one by the
 * ARCH_REQ between them. In the other direction there is nothing between, so: **of each ARCH_REQ that comes to
 * nothing the accepting side sends exactly one ARCH_NEXT**, also when it was the connecting side that gave up. A
 * connecting side that gave up proposes its next plugin at once and drops what comes until that ARCH_NEXT. (For a
 * plugin that it does not have, which is any of ours but tcp, C sends that ARCH_NEXT as well.)
 *
 * Source of the format and the rules: "The wire protocol", phase 1.
 */

import type { Peer } from '../api/peer.js';
import { IsthmusError, messageOf } from '../base/errors.js';
import type { Attempt, Plugin, Proposal } from '../plugins/plugin.js';
import type { PluginRegistry } from '../plugins/registry.js';
import { Channel } from './channel.js';
import {
  type ConInfo,
  type Counts,
  checkVersion,
  decodeArchReq,
  decodeConInfo,
  decodeCounts,
  decodeListens,
  encodeArchReq,
  encodeConInfo,
  encodeCounts,
  encodeFrame,
  encodeListens,
  encodeVersion,
  FRAME,
  type Frame,
  FrameDecoder,
  type FrameLimits,
  frameName,
  isStep,
} from './frames.js';
import { type Preference, preferences } from './preferences.js';

/** ARCH_REQs in one handshake: what the accepting side allows, and what the connecting side sends. */
export const MAX_REQUESTS = 32;

export interface PreconLimits extends FrameLimits {
  /** ARCH_REQs in one handshake, {@link MAX_REQUESTS}. */
  readonly maxRequests: number;
}

/** Somebody asks for one of our on-demand connections. */
export interface OnDemandRequest {
  /**
   * `connect`: this TCP connection is to become it. `back-connect`: we are asked to connect to the peer. `hurry`: to read
   * on.
   */
  readonly kind: 'connect' | 'back-connect' | 'hurry';
  readonly peer: Peer;
}

/** `local`: what CON_INFO answers, default {@link PreconOptions.local}. `counts`: of a connection that has been up. */
export type OnDemandAnswer = { readonly local?: ConInfo; readonly counts?: Counts | undefined };

export interface PreconOptions {
  readonly role: 'connect' | 'accept';
  /** Our end of the connection. */
  readonly local: ConInfo;
  readonly registry: PluginRegistry;
  /** Where the socket comes from; goes into {@link Peer.address}. */
  readonly address?: Peer['address'];
  readonly limits?: Partial<PreconLimits>;
  /** Connecting side: introduce ourselves with CON_INFO_DEMAND. */
  readonly demand?: boolean;
  /** Connecting side: what has gone over the connection so far. */
  readonly counts?: Counts | undefined;
  /** Connecting side: a port where we listen. */
  readonly listens?: number | undefined;
  /** Accepting side: asked before anything is sent. False, or an error, refuses (ERR_ISTHMUS_HANDSHAKE_REFUSED). */
  readonly admit?: ((peer: Peer) => boolean | Promise<boolean>) | undefined;
  /** Accepting side: asked after `admit`; undefined refuses. Without it every on-demand request is refused. */
  readonly onDemand?:
    | ((request: OnDemandRequest) => OnDemandAnswer | undefined | Promise<OnDemandAnswer | undefined>)
    | undefined;
  /** Bytes to send, in order. */
  write(bytes: Buffer): void;
  /** How it ended: called once, after the last `write`. Nothing happens after it. */
  done(outcome: PreconOutcome): void;
}

/** A plugin was agreed on. The owner calls `attempt.open(socket, rest)`, or `attempt.undo()`. */
export interface Agreed {
  readonly kind: 'agreed';
  readonly attempt: Attempt;
  readonly plugin: Plugin;
  /** For people: `ivshmem (ivshmem0)`; on the accepting side the name of the plugin. */
  readonly label: string;
  readonly peer: Peer;
  /** What we introduced ourselves as. */
  readonly local: ConInfo;
  /** What the peer says has gone over the connection so far. */
  readonly counts: Counts | undefined;
  /** A port where the peer listens, as far as we know. */
  readonly listens: number | undefined;
  /** What arrived behind the last frame: with tcp the first bytes of phase 2. */
  readonly rest: Buffer;
  /** What was wrong with each plugin that would have been better; undefined if this was the first choice. */
  readonly why: string | undefined;
}

export type PreconOutcome =
  | Agreed
  /** We answered BACK_ACK: this TCP connection has served its purpose. */
  | { readonly kind: 'acknowledged'; readonly peer: Peer }
  | { readonly kind: 'failed'; readonly error: IsthmusError };

/** The handshake of one connection. See the top of the file. */
export class Precon {
  readonly #options: PreconOptions;
  readonly #maxRequests: number;
  readonly #decoder: FrameDecoder;
  /** Connecting side: what is left to propose. */
  #preferences: Preference[] = [];
  /** Why each attempt so far has come to nothing, and what could not be attempted. */
  readonly #reasons: string[] = [];
  #local: ConInfo;
  #counts: Counts | undefined;
  #listens: number | undefined;
  #versionSeen = false;
  #peer: Peer | undefined;
  /** ARCH_REQs that the accepting side received. */
  #requests = 0;
  /** Connecting side: ARCH_NEXTs to come, for attempts that it gave up itself. What comes before them is stale. */
  #owed = 0;
  #channel: Channel | undefined;
  /** Somebody outside was asked about the peer and has not answered yet; frames wait. */
  #asking: 'accept' | 'onDemand' | undefined;
  #depth = 0;
  #output: Buffer[] = [];
  #outcome: PreconOutcome | undefined;
  #told = false;

  constructor(options: PreconOptions) {
    this.#options = options;
    this.#local = options.local;
    this.#maxRequests = options.limits?.maxRequests ?? MAX_REQUESTS;
    this.#decoder = new FrameDecoder(options.limits);
  }

  /** Begin: the connecting side introduces itself and proposes its best plugin. */
  start(): void {
    if (this.#options.role === 'accept') return;
    this.#run(() => {
      this.#send(encodeVersion());
      this.#send(encodeConInfo(this.#local, this.#options.demand ? FRAME.CON_INFO_DEMAND : FRAME.CON_INFO));
      if (this.#options.counts) this.#send(encodeCounts(this.#options.counts));
      if (this.#options.listens) this.#send(encodeListens(this.#options.listens));
      this.#listens = this.#options.address?.port;
      this.#preferences = preferences(this.#options.registry, this.#maxRequests);
      this.#proposeNext();
    });
  }

  /** Bytes of the other side, cut anywhere. */
  receive(chunk: Uint8Array): void {
    this.#run(() => this.#decoder.push(chunk));
  }

  /** The other side will send nothing more. */
  socketEnded(): void {
    this.abort(
      new IsthmusError(
        'ERR_ISTHMUS_HANDSHAKE_REFUSED',
        `the other side closed the connection while we waited for ${this.waitingFor}`,
      ),
    );
  }

  socketFailed(error: Error): void {
    this.abort(
      new IsthmusError(
        'ERR_ISTHMUS_HANDSHAKE_REFUSED',
        `the connection broke while we waited for ${this.waitingFor}: ${error.message}`,
        { cause: error, errno: (error as NodeJS.ErrnoException).code },
      ),
    );
  }

  /** End it: what is under way is undone, and `done` gets the error. No effect after the end. */
  abort(error: IsthmusError): void {
    this.#run(() => this.#fail(error));
  }

  /** For people: what has to happen next. */
  get waitingFor(): string {
    if (this.#asking) return `the answer of '${this.#asking}'`;
    if (!this.#peer) return 'CON_INFO';
    if (!this.#channel) return 'ARCH_REQ';
    const { label, okReceived } = this.#channel;
    return okReceived ? `our own part of ${label}` : `ARCH_OK for ${label}`;
  }

  /**
   * Every way in leads through here. The output of one entry is written in one piece, and `done` is called when
   * nothing of ours is on the stack any more: plugins call back from within the calls that we make to them.
   */
  #run(body: () => void): void {
    if (this.#outcome) return;
    this.#depth++;
    try {
      body();
      if (this.#depth === 1) this.#drain();
    } catch (error) {
      this.#fail(
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
    if (!this.#outcome || this.#told) return;
    this.#told = true;
    this.#options.done(this.#outcome);
  }

  #drain(): void {
    while (!this.#outcome) {
      // Behind ARCH_OK come the bytes of phase 2: no frame is taken out unless the attempt is given up after all.
      if (this.#asking || this.#channel?.okReceived) {
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
        if (this.#versionSeen) throw this.#outOfOrder(frame);
        checkVersion(frame.payload);
        this.#versionSeen = true;
        return;
      case FRAME.CON_INFO:
        if (!this.#versionSeen || this.#peer) throw this.#outOfOrder(frame);
        this.#peer = this.#peerOf(frame);
        if (this.#options.role === 'accept') this.#askAccept(this.#peer, () => this.#welcome());
        return;
      case FRAME.CON_INFO_DEMAND:
        if (!this.#versionSeen || this.#peer || this.#options.role === 'connect') throw this.#outOfOrder(frame);
        this.#peer = this.#peerOf(frame);
        this.#askOnDemand({ kind: 'connect', peer: this.#peer }, (_peer, { counts }) => {
          this.#welcome();
          if (counts) this.#send(encodeCounts(counts));
        });
        return;
      case FRAME.BACK_CONNECT:
      case FRAME.HURRY:
        if (this.#peer || this.#options.role === 'connect') throw this.#outOfOrder(frame);
        this.#peer = this.#peerOf(frame);
        this.#askOnDemand({ kind: frame.type === FRAME.HURRY ? 'hurry' : 'back-connect', peer: this.#peer }, (peer) => {
          this.#send(encodeFrame(FRAME.BACK_ACK));
          this.#outcome = { kind: 'acknowledged', peer };
        });
        return;
      case FRAME.BACK_ACK:
        throw this.#outOfOrder(frame);
      case FRAME.ARCH_REQ:
        this.#archReq(frame);
        return;
      case FRAME.ARCH_OK:
        this.#archOk(frame);
        return;
      case FRAME.ARCH_NEXT:
        this.#archNext(frame);
        return;
      case FRAME.COUNTS:
        this.#counts = decodeCounts(frame.payload);
        return;
      case FRAME.LISTENS:
        if (this.#options.role === 'accept') this.#listens = decodeListens(frame.payload);
        return;
      default:
        if (isStep(frame.type)) this.#step(frame);
    }
  }

  #peerOf(frame: Frame): Peer {
    return { ...decodeConInfo(frame.payload), address: this.#options.address };
  }

  #outOfOrder(frame: Frame): IsthmusError {
    const state = this.#peer ? `while we wait for ${this.waitingFor}` : 'before it has introduced itself';
    const side = this.#options.role === 'accept' ? 'connecting' : 'accepting';
    return new IsthmusError(
      'ERR_ISTHMUS_HANDSHAKE',
      `the ${side} side sent ${frameName(frame.type)} out of order, ${state}`,
    );
  }

  // ---------------------------------------------------------------- who it is

  #welcome(): void {
    this.#send(encodeVersion());
    this.#send(encodeConInfo(this.#local));
  }

  #askAccept(peer: Peer, admitted: () => void): void {
    const { admit } = this.#options;
    // Only true lets somebody in: an answer that was forgotten does not.
    const question = () => (admit ? admit(peer) : true);
    this.#ask('accept', question, (answer) => {
      if (answer !== true) throw this.#refused("refused by 'accept'");
      admitted();
    });
  }

  #askOnDemand(request: OnDemandRequest, granted: (peer: Peer, answer: OnDemandAnswer) => void): void {
    const { onDemand } = this.#options;
    const refused = `no on-demand connection for ${JSON.stringify(request.peer.name)} (${request.kind})`;
    if (!onDemand) throw this.#refused(refused);
    const question = () => onDemand(request);
    this.#askAccept(request.peer, () => {
      this.#ask('onDemand', question, (answer) => {
        if (!answer) throw this.#refused(refused);
        if (answer.local) this.#local = answer.local;
        granted(request.peer, answer);
      });
    });
  }

  /** Ask somebody outside, who may answer at once or later. An error of theirs refuses the peer. */
  #ask<T>(who: 'accept' | 'onDemand', question: () => T | Promise<T>, then: (answer: T) => void): void {
    let answer: T | Promise<T>;
    try {
      answer = question();
    } catch (error) {
      throw this.#refused(`'${who}' failed: ${messageOf(error)}`, error);
    }
    if (!isThenable(answer)) {
      then(answer);
      return;
    }
    this.#asking = who;
    const resume = (body: () => void) => {
      this.#run(() => {
        this.#asking = undefined;
        body();
      });
    };
    answer.then(
      (value) => resume(() => then(value)),
      (error: unknown) => this.abort(this.#refused(`'${who}' failed: ${messageOf(error)}`, error)),
    );
  }

  #refused(message: string, cause?: unknown): IsthmusError {
    return new IsthmusError('ERR_ISTHMUS_HANDSHAKE_REFUSED', message, { cause });
  }

  // ---------------------------------------------------------------- which plugin

  /** Connecting side: begin with the best that is left. */
  #proposeNext(): void {
    for (let next = this.#preferences.shift(); next; next = this.#preferences.shift()) {
      if ('reason' in next) this.#reasons.push(next.reason);
      else if (this.#propose(next.proposal)) return;
    }
    const reasons = this.#reasons.join('; ') || 'there is none';
    this.#fail(new IsthmusError('ERR_ISTHMUS_NO_PLUGIN', `no plugin works between the two sides: ${reasons}`));
  }

  #propose(proposal: Proposal): boolean {
    return this.#begin(proposal.plugin, proposal.label, encodeArchReq(proposal.plugin.archId), (channel) =>
      proposal.attempt(channel),
    );
  }

  /** Begin an attempt. If that does not work, nothing is sent. */
  #begin(plugin: Plugin, label: string, before: Buffer | undefined, create: Proposal['attempt']): boolean {
    const channel = new Channel(this.#options.role, plugin, label, this.#options.address, {
      send: (frame) => this.#run(() => this.#send(frame)),
      ready: (ready) => this.#run(() => this.#finishIfAgreed(ready)),
      giveUp: (given, reason) => this.#run(() => this.#giveUp(given, reason)),
    });
    const early = channel.begin(create);
    if (typeof early === 'string') {
      this.#reasons.push(`${label}: ${early}`);
      return false;
    }
    this.#channel = channel;
    if (before) this.#send(before);
    for (const frame of early) this.#send(frame);
    return true;
  }

  #archReq(frame: Frame): void {
    if (this.#options.role === 'connect' || !this.#peer || this.#channel) throw this.#outOfOrder(frame);
    if (++this.#requests > this.#maxRequests) {
      throw new IsthmusError('ERR_ISTHMUS_HANDSHAKE', `the other side proposed more than ${this.#maxRequests} plugins`);
    }
    if (!this.#acceptPlugin(decodeArchReq(frame.payload))) this.#send(encodeFrame(FRAME.ARCH_NEXT));
  }

  #acceptPlugin(archId: number): boolean {
    let plugin: Plugin | string;
    try {
      plugin = this.#options.registry.byArch(archId);
    } catch (error) {
      plugin = messageOf(error);
    }
    if (typeof plugin === 'string') {
      this.#reasons.push(plugin);
      return false;
    }
    const found = plugin;
    return this.#begin(found, found.name, undefined, (channel) => found.accept(channel));
  }

  #step(frame: Frame): void {
    if (this.#options.role === 'connect' && !this.#peer) throw this.#outOfOrder(frame);
    const channel = this.#channel;
    if (!channel || this.#owed > 0) return;
    try {
      channel.received(frame.type, frame.payload);
    } catch (error) {
      this.#giveUp(channel, messageOf(error));
    }
  }

  #archOk(frame: Frame): void {
    if (this.#options.role === 'connect' ? !this.#peer : this.#requests === 0) throw this.#outOfOrder(frame);
    const channel = this.#channel;
    // It was on its way when we gave up: tcp's comes right behind the ARCH_REQ that we have refused.
    if (!channel || this.#owed > 0) return;
    try {
      channel.agreed();
    } catch (error) {
      this.#giveUp(channel, messageOf(error));
      return;
    }
    this.#finishIfAgreed(channel);
  }

  #archNext(frame: Frame): void {
    const channel = this.#channel;
    if (this.#options.role === 'connect') {
      if (!this.#peer) throw this.#outOfOrder(frame);
      if (this.#owed > 0) {
        this.#owed--;
        return;
      }
    } else if (this.#requests === 0) {
      throw this.#outOfOrder(frame);
    }
    // Both sides gave up at the same time.
    if (!channel) return;
    channel.undo();
    this.#reasons.push(`${channel.label}: refused by the peer`);
    this.#channel = undefined;
    if (this.#options.role === 'connect') this.#proposeNext();
    else this.#send(encodeFrame(FRAME.ARCH_NEXT));
  }

  /** A plugin of ours gives up on an attempt that the other side knows of. */
  #giveUp(channel: Channel, reason: string): void {
    if (channel.closed || channel !== this.#channel) return;
    channel.undo();
    this.#reasons.push(`${channel.label}: ${reason}`);
    if (channel.okSent) {
      // The other side may have taken our ARCH_OK for the end of the handshake: there is no way back.
      throw new IsthmusError('ERR_ISTHMUS_HANDSHAKE', `${channel.label} failed after it had said ARCH_OK: ${reason}`);
    }
    this.#send(encodeFrame(FRAME.ARCH_NEXT));
    this.#channel = undefined;
    if (this.#options.role === 'connect') {
      this.#owed++;
      this.#proposeNext();
    }
  }

  #finishIfAgreed(channel: Channel): void {
    if (this.#outcome || channel !== this.#channel || channel.closed) return;
    if (!channel.okSent || !channel.okReceived || !this.#peer) return;
    const why = this.#reasons.join('; ');
    this.#outcome = {
      kind: 'agreed',
      attempt: channel.take(),
      plugin: channel.plugin,
      label: channel.label,
      peer: this.#peer,
      local: this.#local,
      counts: this.#counts,
      listens: this.#listens,
      rest: this.#decoder.rest(),
      why: why === '' ? undefined : why,
    };
  }

  #send(frame: Buffer): void {
    if (!this.#outcome) this.#output.push(frame);
  }

  #fail(error: IsthmusError): void {
    if (this.#outcome) return;
    this.#channel?.undo();
    this.#outcome = { kind: 'failed', error };
  }
}

function isThenable<T>(value: T | Promise<T>): value is Promise<T> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function';
}

/** The accepting role of the handshake: it admits the peer, or not, and answers its proposals. */
import type { Peer } from '../api/peer.js';
import { IsthmusError, messageOf } from '../base/errors.js';
import type { Plugin } from '../plugins/plugin.js';
import {
  decodeArchReq,
  decodeListens,
  encodeConInfo,
  encodeCounts,
  encodeFrame,
  encodeVersion,
  FRAME,
  type Frame,
  isStep,
} from './frames.js';
import type { OnDemandAnswer, OnDemandRequest, Stage } from './outcome.js';
import { Precon, type PreconOptions } from './precon.js';

export interface AcceptingOptions extends PreconOptions {
  /**
   * Asked at each stage. Undefined: the handshake goes on at once; otherwise when the promise resolves, which it does not
   * when the handshake is aborted.
   */
  readonly pass?: ((stage: Stage) => Promise<void> | undefined) | undefined;
  /** Called before anything is sent. False, or an error, refuses (ERR_ISTHMUS_HANDSHAKE_REFUSED). */
  readonly admit?: ((peer: Peer) => boolean | Promise<boolean>) | undefined;
  /** Called after `admit`; undefined refuses. Without it every on-demand request is refused. */
  readonly onDemand?:
    | ((request: OnDemandRequest) => OnDemandAnswer | undefined | Promise<OnDemandAnswer | undefined>)
    | undefined;
}

export class AcceptingPrecon extends Precon {
  readonly #options: AcceptingOptions;
  /** ARCH_REQs received. */
  #requests = 0;

  constructor(options: AcceptingOptions) {
    super('accept', options);
    this.#options = options;
  }

  start(): void {}

  protected onFrame(frame: Frame): void {
    switch (frame.type) {
      case FRAME.CON_INFO:
        if (!this.versionSeen || this.peer) throw this.outOfOrder(frame);
        this.#introduced(frame, (peer) => this.#askAccept(peer, () => this.#introduce()));
        return;
      case FRAME.CON_INFO_DEMAND:
        if (!this.versionSeen || this.peer) throw this.outOfOrder(frame);
        this.#introduced(frame, (peer) =>
          this.#askOnDemand({ kind: 'connect', peer }, ({ counts }) => {
            this.#introduce();
            if (counts) this.send(encodeCounts(counts));
          }),
        );
        return;
      case FRAME.BACK_CONNECT:
      case FRAME.HURRY:
        if (this.peer) throw this.outOfOrder(frame);
        this.#introduced(frame, (peer) =>
          this.#askOnDemand({ kind: frame.type === FRAME.HURRY ? 'drain' : 'back-connect', peer }, () => {
            this.send(encodeFrame(FRAME.BACK_ACK));
            this.finish({ kind: 'acknowledged', peer });
          }),
        );
        return;
      case FRAME.LISTENS:
        this.listens = decodeListens(frame.payload);
        return;
      case FRAME.ARCH_REQ:
        this.#archReq(frame);
        return;
      case FRAME.ARCH_OK:
        if (this.#requests === 0) throw this.outOfOrder(frame);
        this.archOk();
        return;
      case FRAME.ARCH_NEXT:
        if (this.#requests === 0) throw this.outOfOrder(frame);
        if (this.dropAttempt()) this.send(encodeFrame(FRAME.ARCH_NEXT));
        return;
      default:
        if (isStep(frame.type)) this.step(frame);
    }
  }

  protected onGivenUp(): void {}

  // ─── admitting the peer ────────────────────────────────────────────────────────────────────────────────────────────

  #introduce(): void {
    this.send(encodeVersion());
    this.send(encodeConInfo(this.local));
  }

  #introduced(frame: Frame, next: (peer: Peer) => void): void {
    const peer = this.peerOf(frame);
    this.peer = peer;
    this.#pass('introduced', () => next(peer));
  }

  /** Go on when the admission lets this handshake. */
  #pass(stage: Stage, next: () => void): void {
    const turn = this.#options.pass?.(stage);
    if (!turn) {
      next();
      return;
    }
    this.asking = 'its turn';
    turn.then(() => {
      this.run(() => {
        this.asking = undefined;
        next();
      });
    });
  }

  #askAccept(peer: Peer, admitted: () => void): void {
    const { admit } = this.#options;
    const question = () => (admit ? admit(peer) : true);
    this.#ask('accept', question, (answer) => {
      // Only true admits: a callback that forgets to return refuses.
      if (answer !== true) this.refuse(refused("refused by 'accept'"));
      else admitted();
    });
  }

  #askOnDemand(request: OnDemandRequest, granted: (answer: OnDemandAnswer) => void): void {
    const { onDemand } = this.#options;
    const none = `no on-demand connection for ${JSON.stringify(request.peer.name)} (${request.kind})`;
    if (!onDemand) {
      this.refuse(refused(none));
      return;
    }
    const question = () => onDemand(request);
    this.#askAccept(request.peer, () => {
      this.#ask('onDemand', question, (answer) => {
        if (!answer) {
          this.refuse(refused(none));
          return;
        }
        if (answer.local) this.local = answer.local;
        granted(answer);
      });
    });
  }

  /** Call a callback of the owner, which may answer at once or later. An error of it refuses the peer. */
  #ask<T>(name: 'accept' | 'onDemand', question: () => T | Promise<T>, onAnswer: (answer: T) => void): void {
    const failed = (error: unknown) => this.refuse(refused(`'${name}' failed: ${messageOf(error)}`, error));
    let answer: T | Promise<T>;
    try {
      answer = question();
    } catch (error) {
      failed(error);
      return;
    }
    if (!isThenable(answer)) {
      onAnswer(answer);
      return;
    }
    this.asking = `the answer of '${name}'`;
    answer.then(
      (value) => {
        this.run(() => {
          this.asking = undefined;
          onAnswer(value);
        });
      },
      (error: unknown) => this.run(() => failed(error)),
    );
  }

  // ─── answering proposals ───────────────────────────────────────────────────────────────────────────────────────────

  #archReq(frame: Frame): void {
    if (!this.peer || this.channel) throw this.outOfOrder(frame);
    if (++this.#requests > this.maxRequests) {
      throw new IsthmusError('ERR_ISTHMUS_HANDSHAKE', `the peer proposed more than ${this.maxRequests} plugins`);
    }
    const archId = decodeArchReq(frame.payload);
    this.#pass('proposed', () => {
      if (!this.#acceptPlugin(archId)) this.send(encodeFrame(FRAME.ARCH_NEXT));
    });
  }

  #acceptPlugin(archId: number): boolean {
    let plugin: Plugin | string;
    try {
      plugin = this.#options.registry.byArch(archId);
    } catch (error) {
      plugin = messageOf(error);
    }
    if (typeof plugin === 'string') {
      this.reasons.push(plugin);
      return false;
    }
    const found = plugin;
    return this.begin(found, found.name, undefined, (channel) => found.accept(channel));
  }
}

function refused(message: string, cause?: unknown): IsthmusError {
  return new IsthmusError('ERR_ISTHMUS_HANDSHAKE_REFUSED', message, { cause });
}

function isThenable<T>(value: T | Promise<T>): value is Promise<T> {
  return typeof value === 'object' && value !== null && 'then' in value && typeof value.then === 'function';
}

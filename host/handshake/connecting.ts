/** The connecting role of the handshake: it introduces itself and proposes plugins, best first. */
import type { MessageCounts } from '../api/peer.js';
import { IsthmusError } from '../base/errors.js';
import type { Proposal } from '../plugins/plugin.js';
import {
  encodeArchReq,
  encodeConInfo,
  encodeCounts,
  encodeListens,
  encodeVersion,
  FRAME,
  type Frame,
  isStep,
} from './frames.js';
import { Precon, type PreconOptions } from './precon.js';
import { type Preference, preferences } from './preferences.js';

export interface ConnectingOptions extends PreconOptions {
  /** Send CON_INFO_DEMAND instead of CON_INFO. */
  readonly demand?: boolean;
  /** What the connection has carried so far. */
  readonly counts?: MessageCounts | undefined;
  /** A port where this side listens. */
  readonly listens?: number | undefined;
}

export class ConnectingPrecon extends Precon {
  readonly #options: ConnectingOptions;
  /** Not proposed yet. */
  #preferences: Preference[] = [];
  /** ARCH_NEXTs to come, for attempts that this side gave up. Frames of an attempt that come before them are stale. */
  #pendingNexts = 0;

  constructor(options: ConnectingOptions) {
    super('connect', options);
    this.#options = options;
  }

  start(): void {
    const { demand, counts, listens, address, registry } = this.#options;
    this.run(() => {
      this.send(encodeVersion());
      this.send(encodeConInfo(this.local, demand ? FRAME.CON_INFO_DEMAND : FRAME.CON_INFO));
      if (counts) this.send(encodeCounts(counts));
      if (listens) this.send(encodeListens(listens));
      this.listens = address?.port;
      this.#preferences = preferences(registry, this.maxRequests);
      this.#proposeNext();
    });
  }

  protected onFrame(frame: Frame): void {
    switch (frame.type) {
      case FRAME.CON_INFO:
        if (!this.versionSeen || this.peer) throw this.outOfOrder(frame);
        this.peer = this.peerOf(frame);
        return;
      case FRAME.REFUSED:
        throw new IsthmusError('ERR_ISTHMUS_HANDSHAKE_REFUSED', 'the peer does not let this side in', {
          temporary: false,
        });
      case FRAME.CON_INFO_DEMAND:
      case FRAME.BACK_CONNECT:
      case FRAME.HURRY:
      case FRAME.ARCH_REQ:
        throw this.outOfOrder(frame);
      case FRAME.ARCH_OK:
        if (!this.peer) throw this.outOfOrder(frame);
        if (this.#pendingNexts === 0) this.archOk();
        return;
      case FRAME.ARCH_NEXT:
        if (!this.peer) throw this.outOfOrder(frame);
        if (this.#pendingNexts > 0) this.#pendingNexts--;
        else if (this.dropAttempt()) this.#proposeNext();
        return;
      default:
        if (!isStep(frame.type)) return;
        if (!this.peer) throw this.outOfOrder(frame);
        if (this.#pendingNexts === 0) this.step(frame);
    }
  }

  protected onGivenUp(): void {
    this.#pendingNexts++;
    this.#proposeNext();
  }

  /** Begin with the best plugin that is left. */
  #proposeNext(): void {
    for (let next = this.#preferences.shift(); next; next = this.#preferences.shift()) {
      if ('reason' in next) this.reasons.push(next.reason);
      else if (this.#propose(next.proposal)) return;
    }
    const reasons = this.reasons.join('; ') || 'there is none';
    this.fail(new IsthmusError('ERR_ISTHMUS_NO_PLUGIN', `no plugin works between the two sides: ${reasons}`));
  }

  #propose(proposal: Proposal): boolean {
    return this.begin(proposal.plugin, proposal.label, encodeArchReq(proposal.plugin.archId), (channel) =>
      proposal.attempt(channel),
    );
  }
}

/** The link that a connection uses at present, and what the poller of the runtime does for it. */
import { IsthmusError } from '../base/errors.js';
import type { Core } from '../core/core.js';
import type { DirectPolling, Pollable, Poller } from '../polling/poller.js';
import type { Region } from '../region/region.js';
import type { BoundLink } from './bound-link.js';
import type { Lifecycle } from './lifecycle.js';

export class LinkBinding {
  readonly lifecycle: Lifecycle;
  /** Undefined while there is none. */
  link: BoundLink | undefined;
  /** That of the link, or of the last one; undefined: there has been no link. */
  core: Core | undefined;
  /** Bytes from which on data is announced over this link, instead of sent. */
  announceFrom = Number.POSITIVE_INFINITY;
  /** The peer broke the protocol: the connection is to end. Set by the connection. */
  onViolation: (error: IsthmusError) => void = () => {};
  readonly #poller: Poller;
  readonly #pollable: Pollable;
  /** Bytes of messages that lay in runs, of which the rings saw announcements. */
  sentOutOfBand = 0;
  receivedOutOfBand = 0;
  #polled = false;
  #direct: DirectPolling | undefined;
  #scheduled = false;

  /** @param pollable what the poller calls for this connection */
  constructor(lifecycle: Lifecycle, poller: Poller, pollable: Pollable) {
    this.lifecycle = lifecycle;
    this.#poller = poller;
    this.#pollable = pollable;
  }

  bind(link: BoundLink): void {
    this.link = link;
    this.core = link.core;
    this.#polled = link.polled;
  }

  /** From here on the poller looks after the rings. */
  join(): void {
    if (this.#polled) this.#poller.add(this.#pollable);
  }

  leave(): void {
    this.#poller.remove(this.#pollable);
  }

  unbind(): void {
    this.link = undefined;
    this.#direct = undefined;
  }

  /** The region that both ends map, if that is how they reach each other. */
  get region(): Region | undefined {
    return this.link?.link.region;
  }

  /** Whether a call that finds nothing may poll on for some microseconds before it waits. */
  get spins(): boolean {
    return this.#polled && this.#poller.spins;
  }

  /** What a call that is answered at once has to wait for, so that the event loop has its turn; undefined: nothing. */
  due(cost: number): Promise<void> | undefined {
    return this.#poller.turnDue(cost);
  }

  /** The application polls by itself: the runtime leaves the rings to it. */
  polledDirectly(): void {
    if (!this.#polled) return;
    let direct = this.#direct;
    if (direct === undefined || !direct.valid) {
      direct = this.#poller.startDirect(this.#pollable);
      this.#direct = direct;
    }
    direct.used = true;
  }

  /** A receive is pending, or there is room for further messages: the runtime polls the rings again. */
  wake(): void {
    const { link } = this;
    if (!link || this.lifecycle.over) return;
    if (link.polled) this.#poller.pollAgain(this.#pollable);
    else if (!this.#scheduled && link.call.readable(link.index)) {
      this.#scheduled = true;
      setImmediate(() => {
        this.#scheduled = false;
        this.#pollable.progress();
      });
    }
  }

  /** Messages may lie in the ring that a posted receive takes. */
  poll(): void {
    if (this.#polled) this.wake();
    else this.#pollable.progress();
  }

  /** A message waits for room in the ring. */
  pollForRoom(): void {
    if (this.#polled) this.#poller.pollAgain(this.#pollable);
  }

  /** The core found a state of a ring that the protocol rules out: the connection ends. @returns why */
  violated(): IsthmusError {
    const link = this.link as BoundLink;
    // Zeros in place of the region contradict everything that was there.
    if (link.core.lost) {
      const lost = link.core.lostError();
      this.onViolation(lost);
      return lost;
    }
    const { FAILURE_HEAD, FAILURE_MESSAGE } = link.core.layout;
    const what =
      link.failure === FAILURE_HEAD
        ? 'a head position that cannot be'
        : link.failure === FAILURE_MESSAGE
          ? 'fragments that do not fit together'
          : 'a record that cannot be';
    const error =
      this.lifecycle.error ?? new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', `the peer wrote ${what} into the ring`);
    this.onViolation(error);
    return error;
  }
}

/**
 * A peer over shared memory that falls silent: what the application is told of it, and when it is given up.
 *
 * Silence is not death. A paused virtual machine looks the same and will write again, so what a silent peer holds of the
 * region stays its own; without `peerTimeout` its connections wait as long as it takes.
 */
import type { ConnectionEvents } from '../api/events.js';
import { IsthmusError } from '../base/errors.js';
import type { Log } from '../base/log.js';

/** In milliseconds; 0: for ever. */
export interface LivenessLimits {
  readonly stallTimeout: number;
  readonly peerTimeout: number;
}

interface Listening {
  readonly event: keyof ConnectionEvents;
  readonly listener: (silence: number) => void;
  readonly once: boolean;
}

const EVENTS: readonly string[] = ['stalled', 'recovered'] satisfies (keyof ConnectionEvents)[];

/** Watches the silence of one peer. */
export class Liveness {
  /** The peer has been silent for `peerTimeout`. Set by the connection. */
  onPeerTimeout: (error: IsthmusError) => void = () => {};
  readonly #log: Log;
  readonly #onChange: (event: keyof ConnectionEvents, silence: number) => void;
  readonly #limits: LivenessLimits;
  readonly #listening: Listening[] = [];
  #silence = 0;
  #stalled = false;

  /** @param onChange told of each event in front of the listeners */
  constructor(
    limits: LivenessLimits,
    log: Log,
    onChange: (event: keyof ConnectionEvents, silence: number) => void = () => {},
  ) {
    this.#limits = limits;
    this.#log = log;
    this.#onChange = onChange;
  }

  /** In milliseconds; 0: not stalled. */
  get silence(): number {
    return this.#stalled ? this.#silence : 0;
  }

  /** @param ms how long the peer has been silent by now; 0: it shows signs of life again */
  silent(ms: number): void {
    const { stallTimeout, peerTimeout } = this.#limits;
    const before = this.silence;
    this.#silence = ms;
    if (ms === 0) {
      this.#stalled = false;
      if (before > 0) this.#tell('recovered', before);
      return;
    }
    if (before === 0 && stallTimeout > 0 && ms >= stallTimeout) {
      this.#stalled = true;
      this.#tell('stalled', ms);
    }
    if (peerTimeout > 0 && ms >= peerTimeout) {
      this.onPeerTimeout(
        new IsthmusError('ERR_ISTHMUS_PEER_TIMEOUT', `the peer has shown no sign of life for ${ms} ms`),
      );
    }
  }

  /** There is no link any more: no peer is silent, and none has recovered. */
  reset(): void {
    this.#silence = 0;
    this.#stalled = false;
  }

  #tell(event: keyof ConnectionEvents, silence: number): void {
    this.#onChange(event, silence);
    for (const one of [...this.#listening]) {
      if (one.event !== event) continue;
      if (one.once) this.#remove(one);
      try {
        one.listener(silence);
      } catch (error) {
        const text = error instanceof Error ? error.message : String(error);
        this.#log('error', `a listener for '${event}' failed: ${text}`);
      }
    }
  }

  /** @throws ERR_ISTHMUS_INVALID_ARGUMENT */
  listen(event: keyof ConnectionEvents, listener: (silence: number) => void, once: boolean): void {
    if (!EVENTS.includes(event)) {
      throw new IsthmusError(
        'ERR_ISTHMUS_INVALID_ARGUMENT',
        `a connection has no event '${String(event)}', only ${EVENTS.join(' and ')}`,
      );
    }
    if (typeof listener !== 'function') {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `the listener for '${event}' is not a function`);
    }
    this.#listening.push({ event, listener, once });
  }

  /** Remove the listener that was added last, as EventEmitter does. */
  unlisten(event: keyof ConnectionEvents, listener: (silence: number) => void): void {
    const found = this.#listening.filter((one) => one.event === event && one.listener === listener).at(-1);
    if (found) this.#remove(found);
  }

  #remove(one: Listening): void {
    const place = this.#listening.indexOf(one);
    if (place >= 0) this.#listening.splice(place, 1);
  }
}

/** Connects of an endpoint: those under way, and what a suspension of the process does to them. */
import { unlessAborted, withEither } from '../base/abortable.js';
import { IsthmusError } from '../base/errors.js';
import type { Route } from '../connection/context.js';
import { type AskOptions, askListener } from '../handshake/ask-listener.js';
import type { Connected } from '../handshake/attach.js';
import { type DialOptions, dial } from '../handshake/dial.js';
import { FRAME } from '../handshake/frames.js';
import type { ParsedAddress } from './address.js';
import type { EndpointContext, EndpointState } from './state.js';

/** Time for a stream's peer to answer a SHUTDOWN_REQ before its listener gets a drain request. */
const DRAIN_REQUEST_DELAY_MS = 50;

interface Dialing {
  readonly cancel: AbortController;
  readonly ended: Promise<unknown>;
}

export class Dialer {
  readonly #context: EndpointContext;
  readonly #state: EndpointState;
  readonly #listenPort: () => number | undefined;
  readonly #dialing = new Set<Dialing>();
  /** The process is suspended: settles when it resumes. */
  #held: { readonly released: Promise<void>; readonly release: () => void } | undefined;

  /** @param listenPort a port where this endpoint listens, for the peer to know */
  constructor(context: EndpointContext, state: EndpointState, listenPort: () => number | undefined) {
    this.#context = context;
    this.#state = state;
    this.#listenPort = listenPort;
  }

  /** Aborted when the runtime is closed. */
  get ending(): AbortSignal {
    return this.#context.ending;
  }

  /** Options that all handshakes of this endpoint share. @param signal aborted with {@link ending}, too */
  options(signal: AbortSignal): Omit<DialOptions, 'host' | 'port' | 'local'> {
    const { config, log } = this.#context;
    return {
      registry: this.#state.registry,
      retry: config.retry,
      handshakeTimeoutMs: config.handshakeTimeout,
      signal,
      log: (line) => log('info', line),
      listens: this.#listenPort(),
    };
  }

  /** {@link dial}. A failure is reported as an event of the endpoint. */
  async dial({ host, port }: ParsedAddress, options: Omit<DialOptions, 'host' | 'port'>): Promise<Connected> {
    try {
      return await dial({ ...options, host, port });
    } catch (error) {
      if (error instanceof IsthmusError && error.code !== 'ERR_ISTHMUS_CLOSED') {
        this.#context.events.failed('connect', { host, port }, error);
      }
      throw error;
    }
  }

  /** Dial for the application. While the process is suspended, the connect waits; one that was cut begins again. */
  async connect(address: ParsedAddress, signal: AbortSignal | undefined): Promise<Connected> {
    for (;;) {
      await this.#untilReleased(signal);
      this.#state.check();
      const cancel = new AbortController();
      const attempt = withEither([signal, cancel.signal, this.#state.ending, this.ending], (either) =>
        this.dial(address, { ...this.options(either), local: this.#state.conInfo() }),
      );
      const dialing = { cancel, ended: attempt.catch(() => {}) };
      this.#dialing.add(dialing);
      try {
        return await attempt;
      } catch (error) {
        if (!cancel.signal.aborted || signal?.aborted || this.#state.closed) throw error;
      } finally {
        this.#dialing.delete(dialing);
      }
    }
  }

  async #untilReleased(signal: AbortSignal | undefined): Promise<void> {
    while (this.#held) {
      signal?.throwIfAborted();
      const { released } = this.#held;
      await withEither([signal, this.#state.ending, this.ending], (either) => unlessAborted(either, released));
    }
  }

  /** Ask the listener of a peer to connect back. */
  askBack(options: AskOptions): Promise<void> {
    return askListener(options);
  }

  /**
   * Ask the listener of a peer to drain the connection: over a stream the peer may have stopped reading in front of the
   * SHUTDOWN_REQ.
   * @param isNeeded called after the time that the peer has to answer by itself
   */
  requestDrain({ ends, peer }: Route, isNeeded: () => boolean): void {
    if (!ends?.listens || !peer.address) return;
    const { host } = peer.address;
    const { local, listens: port } = ends;
    const { log } = this.#context;
    setTimeout(() => {
      if (!isNeeded()) return;
      const options = { ...this.options(this.ending), host, port, local, frame: FRAME.HURRY, retry: 0 };
      askListener(options).catch((error: Error) => log('info', `drain request to ${peer.name}: ${error.message}`));
    }, DRAIN_REQUEST_DELAY_MS).unref();
  }

  // ─── suspending ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** New connects wait. Resolves when those under way have ended. */
  async hold(): Promise<void> {
    if (!this.#held) {
      let release!: () => void;
      const released = new Promise<void>((resolve) => {
        release = resolve;
      });
      this.#held = { released, release };
    }
    await Promise.all([...this.#dialing].map(({ ended }) => ended));
  }

  /** Cut the connects under way. They begin again after {@link release}. */
  cut(): void {
    for (const { cancel } of this.#dialing) cancel.abort();
  }

  release(): void {
    this.#held?.release();
    this.#held = undefined;
  }
}

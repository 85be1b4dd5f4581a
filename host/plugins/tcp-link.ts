/**
 * The link of `tcp`: a stream link that notices a peer whose host is gone.
 *
 * A host that is gone sends no FIN. While nothing is sent, keep-alive finds out: after the initial delay the kernel asks
 * once a second, and ends the socket after ten questions without an answer (ETIMEDOUT; libuv sets these numbers). While
 * sent bytes are not acknowledged it does not ask, but repeats them, for about 15 minutes. So this link looks itself
 * whether the other host answers, and gives it the same time. TCP_USER_TIMEOUT would do that in the kernel, but it also
 * ends connections to a live peer that does not read.
 */
import type { Socket } from 'node:net';
import { messageOf } from '../base/errors.js';
import type { Core } from '../core/core.js';
import { addon, addonMissing } from '../native/native.js';
import type { SocketOptions } from './plugin.js';
import { StreamLink } from './stream-link.js';

/** The kernel's probes behind the initial delay: ten, one a second. */
const PROBING_MS = 10_000;
/** How often the other host is found silent before it is given up: this process may have stood still in between. */
const CHECKS = 8;

/**
 * The descriptor of a socket. Node keeps it in a handle that is not documented and may not be there.
 * @internal
 */
export function descriptorOf(socket: Socket): number | undefined {
  const fd = (socket as { _handle?: { fd?: unknown } | null })._handle?.fd;
  return typeof fd === 'number' && fd >= 0 ? fd : undefined;
}

export class TcpLink extends StreamLink {
  readonly #socket: Socket;
  readonly #log: (line: string) => void;
  #timer: NodeJS.Timeout | undefined;

  /**
   * @param keepAlive seconds of silence before the first probe; 0: none
   * @throws as StreamLink
   */
  constructor(
    core: Core,
    ringSize: number,
    socket: Socket,
    rest: Buffer,
    keepAlive: number,
    log: (line: string) => void,
  ) {
    super(core, ringSize, socket, rest);
    this.#socket = socket;
    this.#log = log;
    socket.once('close', () => clearInterval(this.#timer));
    if (keepAlive > 0) this.setSocketOptions({ keepAlive: { on: true, initialDelay: keepAlive * 1000 } });
  }

  override setSocketOptions(options: SocketOptions): void {
    super.setSocketOptions(options);
    const { keepAlive } = options;
    if (!keepAlive) return;
    // Below a second the delay stays as it was, in the kernel too.
    if (keepAlive.on && keepAlive.initialDelay < 1000 && this.#timer) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    if (keepAlive.on && keepAlive.initialDelay >= 1000) this.#watch(keepAlive.initialDelay + PROBING_MS);
  }

  /** End the socket when the other host has answered nothing for so long. */
  #watch(limit: number): void {
    const socket = this.#socket;
    if (socket.destroyed || addonMissing()) return;
    const interval = Math.ceil(limit / CHECKS);
    let silent = 0;
    this.#timer = setInterval(() => {
      const fd = descriptorOf(socket);
      if (fd === undefined) return;
      try {
        silent = addon().unansweredFor(fd) >= interval ? silent + 1 : 0;
      } catch (error) {
        clearInterval(this.#timer);
        this.#log(`a host that is gone is noticed late, since its silence cannot be seen: ${messageOf(error)}`);
        return;
      }
      if (silent < CHECKS) return;
      socket.destroy(Object.assign(new Error(`no answer for ${limit} ms`), { code: 'ETIMEDOUT' }));
    }, interval).unref();
  }
}

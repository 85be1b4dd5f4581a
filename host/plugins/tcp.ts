/**
 * `tcp`: what is always there. The socket of the handshake carries the messages (docs/protocol.md, "Phase 2: messages").
 */
import type { Socket } from 'node:net';
import { messageOf } from '../base/errors.js';
import type { Core } from '../core/core.js';
import { mapper } from '../native/native.js';
import { ARCH, type Attempt, type AttemptChannel, type Plugin, type Proposal } from './plugin.js';
import { StreamLink } from './stream.js';

/** pscom's options for its sockets, in the units of setsockopt(2). */
export interface TcpOptions {
  readonly noDelay: boolean;
  /** Bytes; 0: the kernel's own. */
  readonly sendBuffer: number;
  readonly receiveBuffer: number;
  readonly ringSize: number;
  readonly log: (line: string) => void;
}

/**
 * The descriptor of a socket. Node keeps it in a handle of its own, which is not documented and may not be there.
 * @internal
 */
export function descriptorOf(socket: Socket): number | undefined {
  const fd = (socket as { _handle?: { fd?: unknown } | null })._handle?.fd;
  return typeof fd === 'number' && fd >= 0 ? fd : undefined;
}

export class TcpPlugin implements Plugin {
  readonly name = 'tcp';
  readonly archId = ARCH.tcp;
  readonly priority = 2;
  readonly migratable = false;
  readonly #core: () => Core;
  readonly #options: TcpOptions;
  /** It did not work, which was told, and it will not. */
  #unsized = false;

  /** @param core gives the private core, made with the first use */
  constructor(core: () => Core, options: TcpOptions) {
    this.#core = core;
    this.#options = options;
  }

  unavailable(): string | undefined {
    return undefined;
  }

  proposals(): Proposal[] {
    return [{ plugin: this, label: 'tcp', attempt: (channel) => this.accept(channel) }];
  }

  /** Both sides are ready at once. */
  accept(channel: AttemptChannel): Attempt {
    const { noDelay, ringSize } = this.#options;
    channel.ok();
    return {
      step() {},
      agreed() {},
      undo() {},
      open: (socket, rest) => {
        socket.setNoDelay(noDelay);
        this.#size(socket);
        return new StreamLink(this.#core(), ringSize, socket, rest);
      },
    };
  }

  destroy(): void {}

  /** The buffers are a matter of speed: without them the connection works as well. */
  #size(socket: Socket): void {
    const { sendBuffer, receiveBuffer, log } = this.#options;
    if ((sendBuffer === 0 && receiveBuffer === 0) || this.#unsized) return;
    try {
      const fd = descriptorOf(socket);
      if (fd !== undefined) mapper().setSocketBuffers(fd, sendBuffer, receiveBuffer);
      // One that is gone already has none.
      else if (!socket.destroyed) throw new Error('this version of Node does not show the descriptors of its sockets');
    } catch (error) {
      this.#unsized = true;
      log(`sendBuffer and receiveBuffer are not set: ${messageOf(error)}`);
    }
  }
}

/**
 * Plugin `tcp`, which is always available. The socket of the handshake carries the messages (docs/protocol.md, "Phase 2:
 * messages").
 */
import type { Socket } from 'node:net';
import { messageOf } from '../base/errors.js';
import type { Core } from '../core/core.js';
import { addon } from '../native/native.js';
import { ARCH, type Attempt, type AttemptChannel, type Plugin, type Proposal } from './plugin.js';
import { descriptorOf, TcpLink } from './tcp-link.js';

/** Options of its sockets, pscom's in the units of setsockopt(2). */
export interface TcpOptions {
  readonly noDelay: boolean;
  /** Bytes; 0: the kernel's default. */
  readonly sendBuffer: number;
  readonly receiveBuffer: number;
  /** Seconds of silence after which the kernel asks whether the peer's host is there; 0: never. */
  readonly keepAlive: number;
  readonly ringSize: number;
  readonly log: (line: string) => void;
}

export class TcpPlugin implements Plugin {
  readonly name = 'tcp';
  readonly archId = ARCH.tcp;
  readonly priority = 2;
  readonly migratable = false;
  readonly #core: () => Core;
  readonly #options: TcpOptions;
  /** Setting the buffer sizes failed and was logged: it would fail again. */
  #bufferSizesFailed = false;

  /** @param core returns the private core, which is created with the first use */
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
    const { noDelay, ringSize, keepAlive, log } = this.#options;
    channel.ok();
    return {
      step() {},
      agreed() {},
      undo() {},
      open: (socket, rest) => {
        socket.setNoDelay(noDelay);
        this.#setBufferSizes(socket);
        return new TcpLink(this.#core(), ringSize, socket, rest, keepAlive, log);
      },
    };
  }

  destroy(): void {}

  /** Buffer sizes only matter for speed: without them the connection works as well. */
  #setBufferSizes(socket: Socket): void {
    const { sendBuffer, receiveBuffer, log } = this.#options;
    if ((sendBuffer === 0 && receiveBuffer === 0) || this.#bufferSizesFailed) return;
    try {
      const fd = descriptorOf(socket);
      if (fd !== undefined) addon().setSocketBuffers(fd, sendBuffer, receiveBuffer);
      // A destroyed socket has no descriptor.
      else if (!socket.destroyed) throw new Error('this version of Node does not show the descriptors of its sockets');
    } catch (error) {
      this.#bufferSizesFailed = true;
      log(`sendBuffer and receiveBuffer are not set: ${messageOf(error)}`);
    }
  }
}

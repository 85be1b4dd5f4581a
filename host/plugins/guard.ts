/**
 * The guard: the socket of a handshake that has ended in another transport. It stays open as long as the connection. One
 * byte on it announces an orderly close; its end without that byte means that the peer died (docs/protocol.md, "The
 * guard").
 *
 * It has no keep-alive: a paused virtual machine answers no probe, and is not dead. For the same reason a guard whose bytes
 * were not acknowledged, until the kernel gave up, tells nothing. The heartbeat in the region goes on to tell.
 */
import type { Socket } from 'node:net';

const BYE = 0x25;
/** Isthmus' own: the receive ring holds a record that must not wait until the application has read those before it. */
const DRAIN_REQUEST = 0x53;
/** Isthmus' own: a shutdown message for which the ring had no room, as type u8 and value i32 (little-endian). */
const SHUTDOWN = 0x4c;
const SHUTDOWN_BYTES = 6;
/** The other host did not answer, as far as this one knows. */
const SILENT: ReadonlySet<unknown> = new Set(['ETIMEDOUT', 'EHOSTUNREACH', 'ENETUNREACH', 'EHOSTDOWN', 'ENETDOWN']);

/** What a guard receives besides the end. */
export interface GuardOwner {
  onDrainRequested(): void;
  onShutdownReceived(type: number, value: number): void;
}

export class Guard {
  readonly #socket: Socket;
  #byeReceived = false;
  #onEnd: ((bye: boolean) => void) | undefined;
  readonly #owner: GuardOwner | undefined;
  /** The first bytes of a message that has not come completely. */
  #incomplete: Buffer = Buffer.alloc(0);

  /**
   * @param socket the socket of the handshake, which the guard owns from here on
   * @param rest what came behind the last frame of the handshake
   * @param onEnd called once, by an event of the socket, when the peer has ended the socket; `bye`: it had announced that
   */
  constructor(socket: Socket, rest: Buffer, onEnd: (bye: boolean) => void, owner?: GuardOwner) {
    this.#socket = socket;
    this.#onEnd = onEnd;
    this.#owner = owner;
    this.#receive(rest);
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    // 'close' follows.
    socket.on('error', ({ code }: NodeJS.ErrnoException) => {
      if (SILENT.has(code)) this.#onEnd = undefined;
    });
    socket.on('end', () => this.#end());
    socket.on('close', () => this.#end());
    socket.resume();
  }

  requestDrain(): void {
    if (this.#socket.writable) this.#socket.write(Buffer.of(DRAIN_REQUEST));
  }

  sendShutdown(type: number, value: number): void {
    const bytes = Buffer.alloc(SHUTDOWN_BYTES);
    bytes.writeUInt8(SHUTDOWN, 0);
    bytes.writeUInt8(type, 1);
    bytes.writeInt32LE(value, 2);
    if (this.#socket.writable) this.#socket.write(bytes);
  }

  /** Announce the orderly close. */
  bye(): void {
    if (this.#socket.writable) this.#socket.end(Buffer.of(BYE));
  }

  /** Close the socket. Idempotent. */
  destroy(): void {
    // With the byte under way the kernel has to deliver it: end the socket, and read no more.
    if (this.#socket.writableEnded) this.#socket.destroySoon();
    else this.#socket.destroy();
  }

  ref(): void {
    this.#socket.ref();
  }

  unref(): void {
    this.#socket.unref();
  }

  #receive(bytes: Buffer): void {
    let rest = this.#incomplete.length > 0 ? Buffer.concat([this.#incomplete, bytes]) : bytes;
    this.#incomplete = Buffer.alloc(0);
    while (rest.length > 0) {
      const what = rest[0];
      if (what === SHUTDOWN) {
        if (rest.length < SHUTDOWN_BYTES) {
          this.#incomplete = Buffer.from(rest);
          return;
        }
        this.#owner?.onShutdownReceived(rest.readUInt8(1), rest.readInt32LE(2));
        rest = rest.subarray(SHUTDOWN_BYTES);
        continue;
      }
      if (what === BYE) this.#byeReceived = true;
      else if (what === DRAIN_REQUEST) this.#owner?.onDrainRequested();
      rest = rest.subarray(1);
    }
  }

  #end(): void {
    const onEnd = this.#onEnd;
    this.#onEnd = undefined;
    onEnd?.(this.#byeReceived);
  }
}

/**
 * The guard: the socket of a handshake that has ended in another transport. It stays open as long as the connection, and
 * one byte on it announces an orderly close; its end without that byte means that the peer died (docs/protocol.md,
 * "The guard").
 */
import type { Socket } from 'node:net';

const BYE = 0x25;
/** Isthmus' own: the receive ring holds a record that must not wait until the application has read those before it. */
const DRAIN_REQUEST = 0x53;
/** Isthmus' own: a shutdown message for which the ring had no room, as type u8 and value i32 (little-endian). */
const SHUTDOWN = 0x4c;
const SHUTDOWN_BYTES = 6;

/** What a guard receives besides the end. */
export interface GuardOwner {
  onDrainRequested(): void;
  onShutdownReceived(type: number, value: number): void;
}

export class Guard {
  readonly #socket: Socket;
  #byeHeard = false;
  #over: ((bye: boolean) => void) | undefined;
  readonly #owner: GuardOwner | undefined;
  #begun: Buffer = Buffer.alloc(0);

  /**
   * @param socket and `rest`, as a handshake hands them over
   * @param over called once, by an event of the socket, when it has ended: whether the peer had announced that
   */
  constructor(socket: Socket, rest: Buffer, over: (bye: boolean) => void, owner?: GuardOwner) {
    this.#socket = socket;
    this.#over = over;
    this.#owner = owner;
    this.#heard(rest);
    socket.on('data', (chunk: Buffer) => this.#heard(chunk));
    socket.on('error', () => {}); // 'close' follows.
    socket.on('end', () => this.#ended());
    socket.on('close', () => this.#ended());
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

  /** Let go of the socket. Idempotent. */
  destroy(): void {
    // With the byte under way the kernel must deliver it: end, and do not read on.
    if (this.#socket.writableEnded) this.#socket.destroySoon();
    else this.#socket.destroy();
  }

  ref(): void {
    this.#socket.ref();
  }

  unref(): void {
    this.#socket.unref();
  }

  #heard(bytes: Buffer): void {
    let rest = this.#begun.length > 0 ? Buffer.concat([this.#begun, bytes]) : bytes;
    this.#begun = Buffer.alloc(0);
    while (rest.length > 0) {
      const what = rest[0];
      if (what === SHUTDOWN) {
        if (rest.length < SHUTDOWN_BYTES) {
          this.#begun = Buffer.from(rest);
          return;
        }
        this.#owner?.onShutdownReceived(rest.readUInt8(1), rest.readInt32LE(2));
        rest = rest.subarray(SHUTDOWN_BYTES);
        continue;
      }
      if (what === BYE) this.#byeHeard = true;
      else if (what === DRAIN_REQUEST) this.#owner?.onDrainRequested();
      rest = rest.subarray(1);
    }
  }

  #ended(): void {
    const over = this.#over;
    this.#over = undefined;
    over?.(this.#byeHeard);
  }
}

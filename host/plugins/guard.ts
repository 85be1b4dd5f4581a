/**
 * The guard: the socket of a handshake that has ended in another transport. It stays open as long as the connection, and
 * one byte on it announces an orderly close; its end without that byte means that the peer died (PROTOCOL.md, phase 1).
 */
import type { Socket } from 'node:net';

const BYE = 0x25;
/** Ours: something lies in the ring that is not to wait until the application has read what is in front of it. */
const HURRY = 0x53;
/** Ours: type u8 and value i32 (little-endian) of a last word for which the ring had no room. */
const LAST_WORD = 0x4c;
const LAST_WORD_LENGTH = 6;

/** What a guard hears besides the end. */
export interface GuardOwner {
  hurried(): void;
  lastWord(type: number, value: number): void;
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

  hurry(): void {
    if (this.#socket.writable) this.#socket.write(Buffer.of(HURRY));
  }

  lastWord(type: number, value: number): void {
    const bytes = Buffer.alloc(LAST_WORD_LENGTH);
    bytes.writeUInt8(LAST_WORD, 0);
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
      if (what === LAST_WORD) {
        if (rest.length < LAST_WORD_LENGTH) {
          this.#begun = Buffer.from(rest);
          return;
        }
        this.#owner?.lastWord(rest.readUInt8(1), rest.readInt32LE(2));
        rest = rest.subarray(LAST_WORD_LENGTH);
        continue;
      }
      if (what === BYE) this.#byeHeard = true;
      else if (what === HURRY) this.#owner?.hurried();
      rest = rest.subarray(1);
    }
  }

  #ended(): void {
    const over = this.#over;
    this.#over = undefined;
    over?.(this.#byeHeard);
  }
}

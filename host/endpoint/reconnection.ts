/** One connection that comes up by itself, and what is under way to bring it up. */
import type { ConInfo } from '../api/peer.js';
import { abortable } from '../base/abortable.js';
import { IsthmusError } from '../base/errors.js';
import type { RuntimeConnection } from '../connection/connection.js';
import type { ParsedAddress } from './address.js';

export class Reconnection {
  readonly connection: RuntimeConnection;
  /** This end, whose id stays for the life of the connection. */
  readonly local: ConInfo;
  /** Where the peer listens. Port 0: nowhere; the peer has to connect. */
  address: ParsedAddress;
  /** Id of the peer's end; undefined: the connection has never been up. */
  peerId: bigint | undefined;
  /** Aborts the effort that is under way. */
  effort: AbortController | undefined;
  /** An effort was given up for a suspension of this process. The peer may wait for it, and does not ask again. */
  interrupted = false;
  /** The peer has sent counts: it is no C program, and a listener of its kind that refuses for good says so. */
  answers = false;
  readonly #waiting = new Set<() => void>();
  #limit: NodeJS.Timeout | undefined;

  constructor(connection: RuntimeConnection, address: ParsedAddress, local: ConInfo) {
    this.connection = connection;
    this.address = address;
    this.local = local;
  }

  /** Whether the connection has been up. */
  get again(): boolean {
    return this.peerId !== undefined;
  }

  /** Negative: the name of this end is smaller; 0: the names are equal. The smaller one dials. */
  get order(): number {
    return compareNames(this.local.name, this.address.name as string);
  }

  /** End the connection unless it is up within that time. */
  startLimit(ms: number): void {
    clearTimeout(this.#limit);
    this.#limit = setTimeout(() => {
      this.connection.fail(
        new IsthmusError('ERR_ISTHMUS_RESUME_TIMEOUT', `the peer was suspended and has not come back in ${ms} ms`),
      );
    }, ms).unref();
  }

  clearLimit(): void {
    clearTimeout(this.#limit);
  }

  /** Promises that wait for the connection. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** Wait until the connection is up, or has ended. It never rejects, and has no limit of its own. */
  untilUpOrGone(): Promise<void> {
    return new Promise((resolve) => this.#waiting.add(resolve));
  }

  /** Wait for the peer to connect. @throws ERR_ISTHMUS_CONNECT: not within the time limit; `signal.reason` */
  untilPeerConnects(signal: AbortSignal, timeoutMs: number): Promise<void> {
    if (this.connection.linked) return Promise.resolve();
    return abortable(signal, (resolve, reject) => {
      const release = () => {
        clearTimeout(timer);
        this.#waiting.delete(up);
      };
      const up = () => {
        release();
        resolve();
      };
      const timer = setTimeout(() => {
        const { host, port } = this.address;
        const text = `the peer at ${host}:${port} was to connect, and has not within ${Math.round(timeoutMs)} ms`;
        release();
        reject(new IsthmusError('ERR_ISTHMUS_CONNECT', text));
      }, timeoutMs);
      this.#waiting.add(up);
      return release;
    });
  }

  /** Messages go over the connection. */
  up(): void {
    this.interrupted = false;
    this.#wake();
  }

  /** The connection has ended. Efforts have been aborted before. */
  gone(): void {
    this.#wake();
  }

  #wake(): void {
    for (const resolve of [...this.#waiting]) resolve();
    this.#waiting.clear();
  }
}

/** Compare names by their first 8 bytes, NUL-padded, as the C implementation does. */
export function compareNames(a: string, b: string): number {
  return Buffer.compare(nameBytes(a), nameBytes(b));
}

function nameBytes(name: string): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.write(name, 'utf8');
  return bytes;
}

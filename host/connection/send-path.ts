/**
 * Which way a message takes: through the ring, by announcement, or by reference to a loan.
 *
 * Through the ring goes what is short, and what the peer copies out at this moment. Announced is what reaches the
 * rendezvous threshold, and what the peer reads in place and would not find in one piece in the ring.
 */
import type { Sendable } from '../api/connection.js';
import type { Loan } from '../api/loan.js';
import { abortable } from '../base/abortable.js';
import { optionsOf } from '../base/arguments.js';
import { type Bytes, bytesOf } from '../base/bytes.js';
import { IsthmusError } from '../base/errors.js';
import { NO_BYTES } from '../base/message.js';
import type { PendingSend, Sender } from '../channel/sender.js';
import type { Lifecycle } from '../link/lifecycle.js';
import type { LinkBinding } from '../link/link-binding.js';
import type { ConnectionMemory } from '../memory/connection-memory.js';
import { RegionLoan } from '../memory/loan.js';
import type { Offered } from '../memory/rendezvous.js';

const MAX_XHEADER_BYTES = 65_535;
/** Bytes from which on it is worth checking whether the peer waits for a message. */
const LARGE_BYTES = 16_384;
const encoder = new TextEncoder();

/** What `send` and `trySend` take. */
export interface SendOptions {
  readonly xheader?: Bytes | undefined;
  readonly signal?: AbortSignal | undefined;
}

function dataOf(data: Sendable | Loan): Uint8Array {
  return typeof data === 'string' ? encoder.encode(data) : bytesOf(data, 'data');
}

function xheaderOf(options: SendOptions | undefined): Uint8Array {
  const xheader = optionsOf(options, '{ xheader, signal }')?.xheader;
  return xheader === undefined ? NO_BYTES : bytesOf(xheader, 'xheader');
}

export class SendPath {
  readonly #lifecycle: Lifecycle;
  readonly #binding: LinkBinding;
  readonly #sender: Sender;
  readonly #memory: ConnectionMemory;
  readonly #maxMessageSize: number;

  constructor(binding: LinkBinding, sender: Sender, memory: ConnectionMemory, maxMessageSize: number) {
    this.#lifecycle = binding.lifecycle;
    this.#binding = binding;
    this.#sender = sender;
    this.#memory = memory;
    this.#maxMessageSize = maxMessageSize;
  }

  // ─── checks ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #check(length: number, xheader: Uint8Array): void {
    if (!this.#lifecycle.sends) throw this.#lifecycle.closedError();
    this.#checkLength(length, xheader.length);
  }

  #checkLength(length: number, xlength: number): void {
    const limit = this.#maxMessageSize;
    if (xlength <= MAX_XHEADER_BYTES && length + xlength <= limit) return;
    throw new IsthmusError(
      'ERR_ISTHMUS_MESSAGE_TOO_LARGE',
      `a message of ${length} bytes with an xheader of ${xlength}; the limits are ${limit} for both and ${MAX_XHEADER_BYTES} for the xheader`,
      { needed: length + xlength, available: limit },
    );
  }

  #checkLoan(loan: RegionLoan, xheader: Uint8Array): void {
    if (!loan.isOf(this.#memory.loans)) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'this loan is of another connection');
    }
    loan.check();
    this.#check(loan.length, xheader);
  }

  // ─── the way ───────────────────────────────────────────────────────────────────────────────────────────────────────

  #streams(length: number): boolean {
    return length > LARGE_BYTES && this.#binding.spins && this.#sender.shouldStream(length);
  }

  /** Whether data of so many bytes is announced: for its length, or because the peer reads it in place. */
  #announces(length: number): boolean {
    const { announceFrom } = this.#binding;
    if (length >= announceFrom) return true;
    return length > LARGE_BYTES && announceFrom <= this.#maxMessageSize && this.#sender.wantsRun(length);
  }

  // ─── waiting for room ──────────────────────────────────────────────────────────────────────────────────────────────

  async send(data: Sendable | Loan, options: SendOptions | undefined): Promise<void> {
    const xheader = xheaderOf(options);
    const signal = options?.signal;
    signal?.throwIfAborted();
    if (data instanceof RegionLoan) return this.#pass(data, xheader, signal);
    const bytes = dataOf(data);
    this.#check(bytes.length, xheader);
    const streams = this.#streams(bytes.length);
    if (!streams && this.#announces(bytes.length)) return this.#announce(xheader, bytes, signal);
    const sent = this.#sender.begin(0, xheader, bytes, streams);
    if (sent < bytes.length + xheader.length) return this.#sender.wait(0, xheader, bytes, sent, signal);
  }

  #announce(xheader: Uint8Array, bytes: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    return this.#offering(signal, (resolve, reject) => {
      const offered = this.#memory.rendezvous.offer(xheader, bytes, true, resolve, reject);
      if (!offered) {
        const sent = this.#sender.begin(0, xheader, bytes);
        resolve(this.#sender.wait(0, xheader, bytes, sent, signal));
      }
      return offered;
    });
  }

  /** Wait until an announcement has its place in the order of messages; `signal` withdraws one that waits for room. */
  #offering(
    signal: AbortSignal | undefined,
    offer: (resolve: (sent?: Promise<void>) => void, reject: (error: unknown) => void) => Offered | undefined,
  ): Promise<void> {
    return abortable<void>(signal, (resolve, reject) => {
      const offered = offer((sent) => resolve(sent as Promise<void>), reject);
      return offered && (() => offered.withdraw());
    });
  }

  /** Send the content of a loan. */
  #pass(loan: RegionLoan, xheader: Uint8Array, signal: AbortSignal | undefined): Promise<void> {
    this.#checkLoan(loan, xheader);
    const { region } = this.#binding;
    const { place } = loan;
    if (place && place.region === region && region.attached) {
      loan.spend();
      return this.#offering(signal, (resolve, reject) =>
        this.#memory.rendezvous.pass(region, place.run, loan.length, xheader, resolve, reject),
      );
    }
    // The way has changed since the loan, and its region may go away before the bytes have left.
    const bytes = place ? loan.data.slice() : loan.data;
    loan.release();
    return this.send(bytes, { xheader, signal });
  }

  // ─── without waiting ───────────────────────────────────────────────────────────────────────────────────────────────

  trySend(data: Sendable | Loan, options: SendOptions | undefined): boolean {
    const xheader = options === undefined ? NO_BYTES : xheaderOf(options);
    if (data instanceof RegionLoan) return this.#tryPass(data, xheader);
    const bytes = dataOf(data);
    this.#check(bytes.length, xheader);
    if (this.#announces(bytes.length) && this.#sender.waiting === 0) {
      if (this.#streams(bytes.length)) return this.#sender.trySend(0, xheader, bytes, true);
      if (this.#memory.rendezvous.offer(xheader, bytes, false)) return true;
    }
    return this.#sender.trySend(0, xheader, bytes);
  }

  #tryPass(loan: RegionLoan, xheader: Uint8Array): boolean {
    this.#checkLoan(loan, xheader);
    const { region } = this.#binding;
    const { place } = loan;
    const sender = this.#sender;
    if (place && place.region === region && region.attached) {
      if (sender.waiting > 0) sender.pump();
      if (sender.waiting > 0) return false;
      loan.spend();
      this.#memory.rendezvous.pass(region, place.run, loan.length, xheader);
      return true;
    }
    if (!sender.trySend(0, xheader, bytesOf(loan.data, 'the loan'))) return false;
    loan.release();
    return true;
  }

  // ─── loans ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  async loan(size: number, signal: AbortSignal | undefined): Promise<Loan> {
    signal?.throwIfAborted();
    this.#checkSize(size);
    return this.#memory.loans.get(size, signal);
  }

  tryLoan(size: number): Loan | undefined {
    this.#lifecycle.check();
    this.#checkSize(size);
    return this.#memory.loans.try(size);
  }

  #checkSize(size: number): void {
    if (!Number.isSafeInteger(size) || size < 0) {
      throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `a loan of ${size} bytes`);
    }
    this.#checkLength(size, 0);
  }

  // ─── for rooms above ───────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Send a message that can be withdrawn as long as it has not begun.
   * @returns undefined: it is in the ring
   */
  post(
    data: Sendable,
    options: SendOptions,
    resolve: () => void,
    reject: (error: unknown) => void,
  ): PendingSend | undefined {
    const xheader = xheaderOf(options);
    const bytes = dataOf(data);
    this.#check(bytes.length, xheader);
    const announced = bytes.length >= this.#binding.announceFrom;
    if (announced && this.#memory.rendezvous.offer(xheader, bytes, true, resolve, reject)) return undefined;
    const sent = this.#sender.begin(0, xheader, bytes);
    if (sent < bytes.length + xheader.length) return this.#sender.queue(0, xheader, bytes, sent, resolve, reject);
    resolve();
    return undefined;
  }

  /** Send a message of another type than the application's, waiting for room. */
  sendTyped(type: number, xheader: Uint8Array, data: Uint8Array): Promise<void> {
    this.#check(data.length, xheader);
    return new Promise((resolve, reject) => {
      const sent = this.#sender.begin(type, xheader, data);
      if (sent < data.length + xheader.length) this.#sender.queue(type, xheader, data, sent, resolve, reject);
      else resolve();
    });
  }

  async flush(signal: AbortSignal | undefined): Promise<void> {
    const sender = this.#sender;
    let pause = 0;
    for (;;) {
      signal?.throwIfAborted();
      this.#lifecycle.check();
      if (sender.waiting > 0) sender.pump();
      if (sender.waiting === 0 && !this.#binding.link?.cutOff && sender.unread() === 0) return;
      // No event tells that the peer has consumed: poll often at first, since it may take its time.
      if (pause < 1) await new Promise((resolve) => setImmediate(resolve));
      else await new Promise((resolve) => setTimeout(resolve, Math.min(pause, 10)));
      pause += 0.02;
    }
  }
}

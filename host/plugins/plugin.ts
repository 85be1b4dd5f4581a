/**
 * The interface of a plugin, and of the links that it opens.
 *
 * The names are pscom's. A connection reads and writes two rings; a plugin moves the bytes between them and the peer. The
 * handshake that chooses a plugin is in `handshake/` (docs/protocol.md, "Phase 1: the handshake").
 */
import type { Socket } from 'node:net';
import type { Peer } from '../api/peer.js';
import type { IsthmusError } from '../base/errors.js';
import type { Core } from '../core/core.js';
import type { Region } from '../region/region.js';

/** Types of the frames that plugins exchange during a handshake (docs/protocol.md, "Phase 1: the handshake"). */
export const STEP = { STEP1: 0x100013, STEP2: 0x100014, STEP3: 0x100015, STEP4: 0x100016 } as const;

/**
 * Architecture ids on the wire. `shm` and `ivshmem` of the C pscom (104, 120) have another memory layout, so these ids
 * differ.
 */
export const ARCH = { loop: 102, tcp: 103, shm: 204, ivshmem: 220 } as const;

/** How a {@link Link} ended. In both cases the receive ring still holds what the peer committed before. */
export type LinkEnd =
  /** The peer closed in order. */
  | { readonly kind: 'peer-closed' }
  /** The peer died or broke the protocol. */
  | { readonly kind: 'lost'; readonly error: IsthmusError };

/** What an application asks of the socket under a connection, in the terms of `net.Socket`. */
export interface SocketOptions {
  readonly noDelay?: boolean;
  /** `initialDelay`: milliseconds of silence before the first probe; below 1,000: as it was, or as the kernel has it. */
  readonly keepAlive?: { readonly on: boolean; readonly initialDelay: number };
}

/** An open transport under a connection: an entry of a core's connection table, and what moves bytes between its rings and the peer. */
export interface Link {
  readonly core: Core;
  /** Index into the core's connection table. */
  readonly index: number;
  /**
   * True: bytes appear in the ring without any event in this process, so the runtime has to poll (shared memory). False:
   * the plugin calls {@link LinkOwner.onReadable} (loop, tcp).
   */
  readonly polled: boolean;
  /** The region that both sides map, if the link goes through one. */
  readonly region?: Region | undefined;
  /** The connection is set up: from here on the link reports events to it. */
  start(owner: LinkOwner): void;
  /** The connection has committed records to the transmit ring. Not called when `polled`. */
  committed(): void;
  /** The connection has released records of the receive ring. Not called when `polled`. */
  released(): void;
  /** A record was committed and the peer sleeps: ring its doorbell. Only when `polled`. */
  ring?(): void;
  /** Ask the peer, out of band, to read on: a record that must not wait lies behind records that it leaves unread. */
  requestDrain?(): void;
  /**
   * Send the shutdown message out of band, because the transmit ring has no room for it. The message that had begun there
   * has been given up.
   */
  sendShutdown?(type: number, value: number): void;
  /** The transmit ring holds everything that will be sent, EOF included: deliver it, and announce the orderly close. */
  finish(): void;
  /** Close the socket and drop the transmit ring. The receive ring stays readable. Idempotent. */
  destroy(): void;
  /** After destroy(), when nothing of the receive ring is in use any more: free the entry and that ring. */
  free(): void;
  ref(): void;
  unref(): void;
  /** Only where the messages go through a socket. */
  setSocketOptions?(options: SocketOptions): void;
}

/** What a {@link Link} reports to its connection. */
export interface LinkOwner {
  /** There may be records in the receive ring. */
  onReadable(): void;
  /** There may be room in the transmit ring. */
  onWritable(): void;
  /** The peer asks, out of band, that the receive ring be read to its end: a shutdown message lies in it. */
  onDrainRequested(): void;
  /**
   * The shutdown message of the peer came out of band. A message that is incomplete in the receive ring comes again over
   * the next link.
   */
  onShutdownReceived(type: number, value: number): void;
  /**
   * The peer has shown no sign of life for `ms` milliseconds. Called repeatedly while the silence lasts, and with 0 when
   * it is over. Only over shared memory, where signs of life can be seen.
   */
  onSilence(ms: number): void;
  /** Called once. */
  onEnded(end: LinkEnd): void;
}

/** What an attempt may do in the handshake that it is part of. */
export interface AttemptChannel {
  readonly role: 'connect' | 'accept';
  /** The remote address of the handshake's socket; undefined if the socket is closed already. */
  readonly address: Peer['address'];
  /** Send a STEP frame (`STEP.STEP1` …). */
  step(type: number, payload: Uint8Array): void;
  /** This side is ready: send ARCH_OK. Exactly once. */
  ok(): void;
  /** Give up on this plugin: undo, send ARCH_NEXT; the connecting side then proposes its next one. */
  next(reason: string): void;
}

/** One attempt of one plugin at one connection: from ARCH_REQ to ARCH_OK or ARCH_NEXT. */
export interface Attempt {
  /** A STEP frame of the peer. May throw: the attempt is then given up with the error's message. */
  step(type: number, payload: Uint8Array): void;
  /** The peer sent ARCH_OK: the plugin is agreed. Calls `channel.ok()` if that has not been done. */
  agreed(): void;
  /** Undo whatever was set up. Idempotent; not called after `open`. */
  undo(): void;
  /** The handshake is over: the plugin owns the socket now, and `rest`, the bytes that came after the last frame. */
  open(socket: Socket, rest: Buffer): Link;
}

/** A proposal of the connecting side: one ARCH_REQ. A plugin may make several (one for each region). */
export interface Proposal {
  readonly plugin: Plugin;
  /** For people: `ivshmem (ivshmem0)`. */
  readonly label: string;
  /** Throws if it cannot even begin. */
  attempt(channel: AttemptChannel): Attempt;
}

export interface Plugin {
  readonly name: string;
  /** u32 that names the plugin on the wire. */
  readonly archId: number;
  /** Default priority; `PSP_<NAME>` overrides it. */
  readonly priority: number;
  /** Whether its connections survive a migration of the process: of the built-in plugins only those of `loop` do. */
  readonly migratable: boolean;
  /** Why it cannot be used in this process, or undefined. Asked before each handshake. */
  unavailable(): string | undefined;
  /** The proposals of the connecting side, best first. */
  proposals(): Proposal[];
  /** The accepting side received ARCH_REQ. Throws to refuse (ARCH_NEXT). */
  accept(channel: AttemptChannel): Attempt;
  /** Release everything. No attempt is under way, and no link is open. */
  destroy(): void | Promise<void>;
}

/** A link through a region: both rings lie in shared memory, and a guard tells of the end of the peer. */
import type { Socket } from 'node:net';
import { IsthmusError } from '../base/errors.js';
import type { Core } from '../core/core.js';
import type { PeerDoorbell } from '../region/doorbell.js';
import type { Attachment } from '../region/peer-table.js';
import type { Region } from '../region/region.js';
import { Guard } from './guard.js';
import type { Link, LinkEnd, LinkOwner } from './plugin.js';

export interface RegionLinkOptions {
  readonly region: Region;
  /** Entry in the region's core. */
  readonly index: number;
  readonly peer: Attachment;
  /** The socket of the handshake, and what came behind its last frame. */
  readonly socket: Socket;
  readonly rest: Buffer;
  /** Whether the end of the guard is the end of the peer (`PSP_GUARD`). */
  readonly guard: boolean;
  /** Called when the link needs the region no more. */
  readonly onFreed: (() => void) | undefined;
}

export class RegionLink implements Link {
  readonly core: Core;
  readonly index: number;
  readonly polled = true;
  readonly region: Region;
  readonly #guard: Guard;
  readonly #guarded: boolean;
  readonly #onFreed: (() => void) | undefined;
  readonly #unwatch: () => void;
  readonly #bell: { readonly bell: PeerDoorbell; release(): void };
  #owner: LinkOwner | undefined;
  /** The end, if it came before there was an owner. */
  #earlyEnd: LinkEnd | undefined;
  /** What else came before there was an owner. */
  readonly #early: ((owner: LinkOwner) => void)[] = [];
  #destroyed = false;
  /** The guard ended without an orderly close: the peer is dead, or seems to be. */
  #peerLost = false;

  constructor({ region, index, peer, socket, rest, guard, onFreed }: RegionLinkOptions) {
    this.core = region.core;
    this.index = index;
    this.region = region;
    this.#guarded = guard;
    this.#onFreed = onFreed;
    this.core.call.start(index);
    this.#bell = region.doorbells.link(peer);
    this.#unwatch = region.watch(peer, {
      onLost: () => this.#lost('the peer has lost its place in the region: it was declared dead'),
      onSilence: (ms) => this.#owner?.onSilence(ms),
    });
    this.#guard = new Guard(socket, rest, (bye) => this.#onGuardEnd(bye), {
      onDrainRequested: () => this.#report((owner) => owner.onDrainRequested()),
      onShutdownReceived: (type, value) => this.#report((owner) => owner.onShutdownReceived(type, value)),
    });
  }

  start(owner: LinkOwner): void {
    this.#owner = owner;
    // Each of them may destroy the link.
    for (const report of this.#early.splice(0)) if (this.#owner) report(owner);
    if (this.#earlyEnd && this.#owner) owner.onEnded(this.#earlyEnd);
  }

  #report(what: (owner: LinkOwner) => void): void {
    if (this.#owner) what(this.#owner);
    else if (!this.#destroyed) this.#early.push(what);
  }

  requestDrain(): void {
    this.#guard.requestDrain();
  }

  sendShutdown(type: number, value: number): void {
    this.#guard.sendShutdown(type, value);
  }

  committed(): void {}

  released(): void {}

  ring(): void {
    this.#bell.bell.ring();
  }

  finish(): void {
    this.#guard.bye();
  }

  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#owner = undefined;
    this.#unwatch();
    this.#bell.release();
    this.core.call.dropTransmit(this.index);
    this.#guard.destroy();
  }

  free(): void {
    this.core.call.free(this.index);
    // What the dead peer's half was kept for has been read.
    if (this.#peerLost) this.region.reapSoon();
    this.#onFreed?.();
  }

  ref(): void {
    this.#guard.ref();
  }

  unref(): void {
    this.#guard.unref();
  }

  #onGuardEnd(bye: boolean): void {
    if (bye) return this.#end({ kind: 'peer-closed' });
    this.#peerLost = true;
    this.region.reapSoon();
    if (this.#guarded) this.#lost('the peer ended without closing the connection');
  }

  #lost(why: string): void {
    // A peer that has lost the pages of the region ends first; this side may not have accessed them since.
    const error = this.region.whyLost() ?? new IsthmusError('ERR_ISTHMUS_PEER_DIED', why);
    this.#end({ kind: 'lost', error });
  }

  #end(end: LinkEnd): void {
    this.#unwatch();
    if (this.#owner) this.#owner.onEnded(end);
    else this.#earlyEnd ??= end;
  }
}

/**
 * Shared memory: the attempts and links of `ivshmem` and of `shm` (shm.ts), one implementation over two kinds of backing;
 * and plugin `ivshmem`, whose regions are attached as long as the runtime.
 *
 * STEP1, little-endian (docs/protocol.md, "STEP1 of shm and ivshmem"): region UUID (16 bytes), slot u32, generation u32,
 * nonce u64, offset of the receive ring in the region u64, its capacity in bytes u64. The accepting side answers the
 * connecting side's with its own, and says ARCH_OK only behind the other's: so there is never an ARCH_OK under way for a
 * plugin that was given up.
 *
 * The nonce lies in the ring itself, fresh for each handshake: a copy of the region, however new, does not have it, and
 * two handshakes of one process at the same time do not get into each other's way.
 */

import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { IsthmusError } from '../base/errors.js';
import type { Core } from '../core/core.js';
import { openEntry } from '../core/private.js';
import type { PeerBell } from '../region/doorbell.js';
import type { Attachment } from '../region/mapped.js';
import type { Region } from '../region/region.js';
import { Guard } from './guard.js';
import type { Attempt, AttemptChannel, Link, LinkEnd, LinkOwner, Plugin, Proposal } from './plugin.js';
import { STEP } from './plugin.js';

const STEP_LENGTH = 48;
/** Capacities of rings in bytes, unless they are wanted otherwise, and the part of the free memory that one takes. */
const LEAST_RING = 16_384;
const MOST_RING = 1 << 20;
const RING_SHARE = 48;

interface Step {
  readonly uuid: Buffer;
  readonly slot: number;
  readonly generation: number;
  readonly nonce: Buffer;
  readonly offset: bigint;
  readonly capacity: bigint;
}

function encodeStep(step: Step): Buffer {
  const payload = Buffer.alloc(STEP_LENGTH);
  step.uuid.copy(payload, 0);
  payload.writeUInt32LE(step.slot, 16);
  payload.writeUInt32LE(step.generation, 20);
  step.nonce.copy(payload, 24);
  payload.writeBigUInt64LE(step.offset, 32);
  payload.writeBigUInt64LE(step.capacity, 40);
  return payload;
}

function decodeStep(bytes: Uint8Array): Step {
  if (bytes.length !== STEP_LENGTH) throw new Error(`a STEP1 of ${bytes.length} bytes`);
  const payload = Buffer.from(bytes);
  return {
    uuid: payload.subarray(0, 16),
    slot: payload.readUInt32LE(16),
    generation: payload.readUInt32LE(20),
    nonce: payload.subarray(24, 32),
    offset: payload.readBigUInt64LE(32),
    capacity: payload.readBigUInt64LE(40),
  };
}

/**
 * The capacity of a ring unless it is wanted otherwise: a part of what is free in the region, as a power of two. So the
 * first connections have rings in which large messages stream (docs/performance.md), and there is room for many more.
 */
export function ringSizeFor({ core }: Region, wanted: number | undefined): number {
  if (wanted !== undefined) return wanted;
  const share = (core.freeFrames() * core.layout.FRAME) / RING_SHARE;
  return 2 ** Math.floor(Math.log2(Math.min(Math.max(share, LEAST_RING), MOST_RING)));
}

class RegionLink implements Link {
  readonly core: Core;
  readonly index: number;
  readonly polled = true;
  readonly region: Region;
  readonly #guard: Guard;
  readonly #guarded: boolean;
  readonly #freed: (() => void) | undefined;
  readonly #unwatch: () => void;
  readonly #bell: { readonly bell: PeerBell; release(): void };
  #owner: LinkOwner | undefined;
  #early: LinkEnd | undefined;
  /** What came before there was an owner. */
  readonly #heard: ((owner: LinkOwner) => void)[] = [];
  #destroyed = false;
  /** The peer is dead, or seems to be. */
  #died = false;

  constructor(
    region: Region,
    index: number,
    peer: Attachment,
    socket: Socket,
    rest: Buffer,
    guarded: boolean,
    freed: (() => void) | undefined,
  ) {
    this.core = region.core;
    this.index = index;
    this.region = region;
    this.#guarded = guarded;
    this.#freed = freed;
    this.core.call.start(index);
    this.#bell = region.doorbells.link(peer);
    this.#unwatch = region.watch(peer, {
      gone: () => this.#lost('the peer has lost its place in the region: it was declared dead'),
      silent: (ms) => this.#owner?.onSilence(ms),
    });
    this.#guard = new Guard(socket, rest, (bye) => this.#over(bye), {
      onDrainRequested: () => this.#tell((owner) => owner.onDrainRequested()),
      onShutdownReceived: (type, value) => this.#tell((owner) => owner.onShutdownReceived(type, value)),
    });
  }

  start(owner: LinkOwner): void {
    this.#owner = owner;
    for (const what of this.#heard.splice(0)) if (this.#owner) what(owner);
    if (this.#early && this.#owner) owner.onEnded(this.#early);
  }

  #tell(what: (owner: LinkOwner) => void): void {
    if (this.#owner) what(this.#owner);
    else if (!this.#destroyed) this.#heard.push(what);
  }

  requestDrain(): void {
    this.#guard.requestDrain();
  }

  sendShutdown(type: number, value: number): void {
    this.#guard.sendShutdown(type, value);
  }

  // Whoever polls sees for himself.
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
    // What was kept of it for us to read is not needed any more.
    if (this.#died) this.region.reapSoon();
    this.#freed?.();
  }

  ref(): void {
    this.#guard.ref();
  }

  unref(): void {
    this.#guard.unref();
  }

  #over(bye: boolean): void {
    if (bye) return this.#ended({ kind: 'peer-closed' });
    this.#died = true;
    this.region.reapSoon();
    if (this.#guarded) this.#lost('the peer ended without closing the connection');
  }

  #lost(why: string): void {
    this.#ended({ kind: 'lost', error: new IsthmusError('ERR_ISTHMUS_PEER_DIED', why) });
  }

  #ended(end: LinkEnd): void {
    this.#unwatch();
    if (this.#owner) this.#owner.onEnded(end);
    else this.#early ??= end;
  }
}

/** What an attempt has to know of its plugin. */
export interface RegionSource {
  /** Capacity of a receive ring in bytes; undefined: by the size of the region. */
  readonly ringSize: number | undefined;
  /** Whether the end of the guard is the end of the peer (`PSP_GUARD`). */
  readonly guard: boolean;
  /** Regions that may be the one of that UUID. */
  byUuid(uuid: Buffer): readonly Region[];
}

export class RegionAttempt implements Attempt {
  readonly #channel: AttemptChannel;
  readonly #plugin: RegionSource;
  readonly #freed: (() => void) | undefined;
  #region: Region | undefined;
  /** Our entry in the region's core. */
  #index: number | undefined;
  /** Who it is, once that is verified. */
  #peer: Attachment | undefined;

  /** @param freed called when the link that came of it needs the region no more */
  constructor(plugin: RegionSource, channel: AttemptChannel, freed?: () => void) {
    this.#plugin = plugin;
    this.#channel = channel;
    this.#freed = freed;
  }

  /** Allocate our receive ring and tell the other side where it is. */
  offer(region: Region): void {
    this.#allocate(region);
    this.#announce();
  }

  step(type: number, payload: Uint8Array): void {
    if (type !== STEP.STEP1 || this.#peer) throw new Error('an unexpected STEP frame');
    const step = decodeStep(payload);
    if (this.#channel.role === 'connect') {
      this.#verify(step);
      this.#channel.ok();
      return;
    }
    // Copies of one region have its UUID too: the proof tells which of ours is the peer's.
    let refusal: unknown = new Error('no region in common');
    for (const region of this.#plugin.byUuid(step.uuid)) {
      try {
        this.#allocate(region);
        this.#verify(step);
        this.#announce();
        return;
      } catch (error) {
        this.undo();
        refusal = error;
      }
    }
    throw refusal;
  }

  agreed(): void {
    if (!this.#peer) throw new Error('ARCH_OK before STEP1');
    if (this.#channel.role === 'accept') this.#channel.ok();
  }

  undo(): void {
    if (this.#index === undefined) return;
    this.#region?.core.call.free(this.#index);
    this.#index = undefined;
  }

  open(socket: Socket, rest: Buffer): Link {
    if (!this.#region || !this.#peer || this.#index === undefined) throw new Error('nothing was agreed');
    const link = new RegionLink(this.#region, this.#index, this.#peer, socket, rest, this.#plugin.guard, this.#freed);
    this.#index = undefined; // The link's now.
    return link;
  }

  #allocate(region: Region): void {
    this.#region = region;
    this.#index = openEntry(region.core, ringSizeFor(region, this.#plugin.ringSize));
  }

  #announce(): void {
    const region = this.#region as Region;
    const index = this.#index as number;
    const { call, layout } = region.core;
    const nonce = randomBytes(8);
    call.setNonce(index, nonce.readUInt32LE(0), nonce.readUInt32LE(4));
    const step = encodeStep({
      uuid: region.uuid,
      slot: region.slot,
      generation: region.generation,
      nonce,
      offset: BigInt(call.ringAddress(index) - layout.WINDOW),
      capacity: BigInt(call.ringCapacity(index)),
    });
    this.#channel.step(STEP.STEP1, step);
  }

  /** That the peer's ring is where it says, in our own mapping: the proof that the memory is the same. */
  #verify(step: Step): void {
    const region = this.#region as Region;
    const { call, layout, size } = region.core;
    if (!step.uuid.equals(region.uuid)) throw new Error('another region');
    if (step.slot === region.slot) throw new Error('the peer claims our own slot');
    if (
      call.slotState(step.slot) !== layout.SLOT_ATTACHED ||
      call.slotGeneration(step.slot) >>> 0 !== step.generation
    ) {
      throw new Error('not the same memory (the peer is not in the peer table here)');
    }
    if (
      step.offset % BigInt(layout.FRAME) !== 0n ||
      step.offset >= BigInt(size) ||
      step.capacity > BigInt(layout.RING_MAX)
    ) {
      throw new Error('a ring that cannot be');
    }
    const result = call.attachRing(
      this.#index as number,
      Number(step.offset / BigInt(layout.FRAME)),
      Number(step.capacity),
      step.slot,
      step.generation | 0,
      step.nonce.readUInt32LE(0),
      step.nonce.readUInt32LE(4),
    );
    if (result === layout.ATTACH_OFFER) throw new Error('not the same memory (the ring is not offered here)');
    if (result === layout.ATTACH_NONCE)
      throw new Error('not the same memory (the nonce is not here: a copy of the region?)');
    if (result !== layout.ATTACH_OK) throw new Error('a ring that cannot be');
    this.#peer = { slot: step.slot, generation: step.generation };
  }
}

export interface RegionPluginOptions extends Pick<RegionSource, 'ringSize' | 'guard'> {
  readonly name: string;
  readonly archId: number;
  readonly priority: number;
}

export class RegionPlugin implements Plugin, RegionSource {
  readonly name: string;
  readonly archId: number;
  readonly priority: number;
  readonly migratable = false;
  readonly ringSize: number | undefined;
  readonly guard: boolean;
  #regions: readonly Region[] = [];
  #missing: string | undefined;

  constructor(options: RegionPluginOptions) {
    this.name = options.name;
    this.archId = options.archId;
    this.priority = options.priority;
    this.ringSize = options.ringSize;
    this.guard = options.guard;
  }

  /** @param missing why there are none */
  use(regions: readonly Region[], missing: string | undefined): void {
    this.#regions = regions;
    this.#missing = missing;
  }

  #attached(): Region[] {
    return this.#regions.filter((region) => region.usable);
  }

  byUuid(uuid: Buffer): Region[] {
    return this.#attached().filter((region) => region.uuid.equals(uuid));
  }

  unavailable(): string | undefined {
    return this.#attached().length > 0 ? undefined : (this.#missing ?? 'no region');
  }

  proposals(): Proposal[] {
    return this.#attached().map((region) => ({
      plugin: this,
      label: `${this.name} (${region.backing.name})`,
      attempt: (channel) => {
        const attempt = new RegionAttempt(this, channel);
        attempt.offer(region);
        return attempt;
      },
    }));
  }

  accept(channel: AttemptChannel): Attempt {
    return new RegionAttempt(this, channel);
  }

  destroy(): void {}
}

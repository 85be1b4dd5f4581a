/**
 * An attempt to connect through a region, by `shm` or `ivshmem`.
 *
 * Each side announces its receive ring with a STEP1 frame. The accepting side answers that of the connecting side, and
 * sends ARCH_OK only after the other's ARCH_OK. So an ARCH_OK is never under way for a plugin that was given up.
 *
 * Each ring carries a nonce, fresh for each handshake. It proves that both sides have mapped the same memory: a copy of
 * the region, however new, does not hold it. It also keeps apart two handshakes of one process at the same time.
 */
import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { openEntry } from '../core/private.js';
import type { Attachment } from '../region/peer-table.js';
import type { Region } from '../region/region.js';
import type { Attempt, AttemptChannel, Link } from './plugin.js';
import { STEP } from './plugin.js';
import { RegionLink } from './region-link.js';
import { decodeStep, encodeStep, type RegionStep } from './region-step.js';

/** Capacity of a ring that is not configured: a part of the free memory, within these limits. */
const MIN_RING_BYTES = 16_384;
const MAX_RING_BYTES = 1 << 20;
const RINGS_PER_REGION = 48;

/**
 * The capacity of a receive ring in bytes: as configured, else a part of what is free in the region, as a power of two. So
 * the first connections have rings in which large messages stream (docs/performance.md), and there is room for many more.
 */
export function ringSizeFor({ core }: Region, configured: number | undefined): number {
  if (configured !== undefined) return configured;
  const share = (core.freeFrames() * core.layout.FRAME) / RINGS_PER_REGION;
  return 2 ** Math.floor(Math.log2(Math.min(Math.max(share, MIN_RING_BYTES), MAX_RING_BYTES)));
}

/** What an attempt needs of its plugin. */
export interface RegionSource {
  /** Capacity of a receive ring in bytes; undefined: by the size of the region. */
  readonly ringSize: number | undefined;
  /** Whether the end of the guard is the end of the peer (`PSP_GUARD`). */
  readonly guard: boolean;
  /** Regions with that UUID: more than one where one is a copy. */
  byUuid(uuid: Buffer): readonly Region[];
}

export class RegionAttempt implements Attempt {
  readonly #channel: AttemptChannel;
  readonly #source: RegionSource;
  readonly #onFreed: (() => void) | undefined;
  #region: Region | undefined;
  /** Entry in the region's core. */
  #index: number | undefined;
  /** The peer, once its ring is verified. */
  #peer: Attachment | undefined;

  /** @param onFreed called when the link that came of the attempt needs the region no more */
  constructor(source: RegionSource, channel: AttemptChannel, onFreed?: () => void) {
    this.#source = source;
    this.#channel = channel;
    this.#onFreed = onFreed;
  }

  /** Allocate a receive ring, and announce it. */
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
    // Copies of a region have its UUID too: the nonce shows which of them the peer has mapped.
    let refusal: unknown = new Error('no region in common');
    for (const region of this.#source.byUuid(step.uuid)) {
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
    const link = new RegionLink({
      region: this.#region,
      index: this.#index,
      peer: this.#peer,
      socket,
      rest,
      guard: this.#source.guard,
      onFreed: this.#onFreed,
    });
    this.#index = undefined; // The link owns the entry.
    return link;
  }

  #allocate(region: Region): void {
    this.#region = region;
    this.#index = openEntry(region.core, ringSizeFor(region, this.#source.ringSize));
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

  /** Check that the peer's ring is where its STEP1 says, in this process's own mapping: the memory is the same then. */
  #verify(step: RegionStep): void {
    const region = this.#region as Region;
    const { call, layout, size } = region.core;
    if (!step.uuid.equals(region.uuid)) throw new Error('another region');
    if (step.slot === region.slot) throw new Error('the peer claims the slot of this process');
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
      throw new Error('offset or capacity of the ring is impossible');
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
    if (result !== layout.ATTACH_OK) throw new Error('offset or capacity of the ring is impossible');
    this.#peer = { slot: step.slot, generation: step.generation };
  }
}

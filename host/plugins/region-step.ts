/**
 * The STEP1 frame of `shm` and `ivshmem`: which region the sender has mapped, and where its receive ring lies in it.
 *
 * Format (docs/protocol.md, "STEP1 of shm and ivshmem"), little-endian: region UUID (16 bytes), slot u32, generation u32,
 * nonce u64, offset of the receive ring in the region u64, capacity of the ring in bytes u64.
 */

const STEP_BYTES = 48;

export interface RegionStep {
  readonly uuid: Buffer;
  readonly slot: number;
  readonly generation: number;
  readonly nonce: Buffer;
  readonly offset: bigint;
  readonly capacity: bigint;
}

export function encodeStep(step: RegionStep): Buffer {
  const payload = Buffer.alloc(STEP_BYTES);
  step.uuid.copy(payload, 0);
  payload.writeUInt32LE(step.slot, 16);
  payload.writeUInt32LE(step.generation, 20);
  step.nonce.copy(payload, 24);
  payload.writeBigUInt64LE(step.offset, 32);
  payload.writeBigUInt64LE(step.capacity, 40);
  return payload;
}

/** @throws Error: not of that length */
export function decodeStep(bytes: Uint8Array): RegionStep {
  if (bytes.length !== STEP_BYTES) throw new Error(`a STEP1 of ${bytes.length} bytes`);
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

/** The token of exposed memory as an application passes it on, and the two halves in which the core takes 64 bits. */
import { IsthmusError } from '../base/errors.js';

//   ╒══════════ token, little-endian ══════════╕
//   │  0 u8[4] "RMA1"                          │
//   │  4 u32 rights                            │
//   │  8 u64 token       │ 16 u64 length       │
//   │ 24 u8[16] UUID of the region, or zeros   │
//   │ 40 u32 frame       │ 44 u32 place        │
//   │ 48 u32 offset      │ 52 u32 reserved     │
//   ╘══════════════════════════════════════════╛
const TOKEN_MAGIC = 'RMA1';
const TOKEN_SIZE = 56;
export const low = (word: bigint) => Number(BigInt.asUintN(32, word));
export const high = (word: bigint) => Number(BigInt.asUintN(32, word >> 32n));

export interface TokenFields {
  readonly base: bigint;
  readonly length: number;
  readonly rights: number;
  readonly uuid: Buffer;
  readonly frame: number;
  readonly place: number;
  readonly offset: number;
}

/** What stands for exposed memory, in a form that can be sent. */
export function encodeToken(fields: {
  base: bigint;
  length: number;
  rights: number;
  grant: { readonly frame: number; readonly place: number } | undefined;
  uuid: Buffer | undefined;
}): Uint8Array {
  const bytes = Buffer.alloc(TOKEN_SIZE);
  bytes.write(TOKEN_MAGIC, 0, 'latin1');
  bytes.writeUInt32LE(fields.rights, 4);
  bytes.writeBigUInt64LE(fields.base, 8);
  bytes.writeBigUInt64LE(BigInt(fields.length), 16);
  const { grant, uuid } = fields;
  if (grant && uuid) {
    uuid.copy(bytes, 24);
    bytes.writeUInt32LE(grant.frame, 40);
    bytes.writeUInt32LE(grant.place, 44);
  }
  return new Uint8Array(bytes);
}

/** @throws ERR_ISTHMUS_INVALID_ARGUMENT: these bytes are no token */
export function decodeToken(token: Uint8Array): TokenFields {
  const bytes = Buffer.from(token);
  const length = bytes.length === TOKEN_SIZE ? bytes.readBigUInt64LE(16) : -1n;
  if (length < 0n || length > BigInt(Number.MAX_SAFE_INTEGER) || bytes.toString('latin1', 0, 4) !== TOKEN_MAGIC) {
    throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', 'these bytes are no token');
  }
  return {
    base: bytes.readBigUInt64LE(8),
    length: Number(length),
    rights: bytes.readUInt32LE(4),
    uuid: bytes.subarray(24, 40),
    frame: bytes.readUInt32LE(40),
    place: bytes.readUInt32LE(44),
    offset: bytes.readUInt32LE(48),
  };
}

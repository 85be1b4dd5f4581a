/** The token of exposed memory as an application passes it on, and the two halves in which the core takes 64 bits. */
import { IsthmusError } from '../base/errors.js';

//   ╒══════════ token, little-endian ══════════╕
//   │  0 u8[4] "RMA2"                          │
//   │  4 u32 rights                            │
//   │  8 u64 token       │ 16 u64 length       │
//   │ 24 u8[16] UUID of the region, or zeros   │
//   │ 40 u32 frame       │ 44 u32 place        │
//   │ 48 u32 zero        │ 52 u32 CRC-32 of   │
//   │                    │ the bytes before it │
//   ╘══════════════════════════════════════════╛
const TOKEN_MAGIC = 'RMA2';
const TOKEN_SIZE = 56;
const CRC_OFFSET = 52;
const MAX_SHARED_BYTES = 2 ** 31;
// Rights, as in the core's GRANT_….
export const READ = 1;
export const WRITE = 2;
export const low = (word: bigint) => Number(BigInt.asUintN(32, word));
export const high = (word: bigint) => Number(BigInt.asUintN(32, word >> 32n));

export interface TokenFields {
  readonly base: bigint;
  readonly length: number;
  readonly rights: number;
  readonly uuid: Buffer;
  readonly frame: number;
  readonly place: number;
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
  return sealToken(new Uint8Array(bytes));
}

/** Write the check value of a token. @returns the same bytes */
export function sealToken(token: Uint8Array): Uint8Array {
  new DataView(token.buffer, token.byteOffset).setUint32(CRC_OFFSET, crc32(token.subarray(0, CRC_OFFSET)), true);
  return token;
}

/** CRC-32 as of gzip (RFC 1952). Bit by bit: tokens are few and short, and Node 20 has no function for it. */
function crc32(bytes: Uint8Array): number {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/**
 * The check value tells a token that was spoiled on its way. It proves nothing: what a token claims is checked by the peer
 * that is asked, or against the grant in the region, and here only as far as a value could do harm in this process.
 * @throws ERR_ISTHMUS_INVALID_ARGUMENT: these bytes are no token
 */
export function decodeToken(token: Uint8Array): TokenFields {
  const wrong = (what: string): IsthmusError =>
    new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `these bytes are no token: ${what}`);
  const bytes = Buffer.from(token);
  if (bytes.length !== TOKEN_SIZE) throw wrong(`${bytes.length} bytes instead of ${TOKEN_SIZE}`);
  if (bytes.toString('latin1', 0, 4) !== TOKEN_MAGIC) throw wrong('they do not begin as one of this version');
  if (bytes.readUInt32LE(CRC_OFFSET) !== crc32(bytes.subarray(0, CRC_OFFSET))) throw wrong('they were changed');
  const fields = {
    base: bytes.readBigUInt64LE(8),
    length: Number(bytes.readBigUInt64LE(16)),
    rights: bytes.readUInt32LE(4),
    uuid: bytes.subarray(24, 40),
    frame: bytes.readUInt32LE(40),
    place: bytes.readUInt32LE(44),
  };
  const shared = fields.uuid.some((byte) => byte !== 0);
  // In a region lengths have 31 bits, and the core takes them as numbers of 32.
  const most = shared ? MAX_SHARED_BYTES : Number.MAX_SAFE_INTEGER;
  if (fields.length > most) throw wrong(`a length of ${fields.length}`);
  if (fields.rights > READ + WRITE) throw wrong(`rights 0x${fields.rights.toString(16)}`);
  if (!shared && (fields.frame !== 0 || fields.place !== 0)) throw wrong('a place without a region');
  if (bytes.readUInt32LE(48) !== 0) throw wrong('a value that is not known');
  return fields;
}

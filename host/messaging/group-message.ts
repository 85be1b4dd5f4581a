/** The messages of groups, BCAST and BARRIER. Source of the format: docs/protocol.md, "Groups". */
import { IsthmusError } from '../base/errors.js';

//   ╒══ xheader of BCAST and BARRIER, little-endian ══╕
//   │  0 u32 group                                    │
//   │  4 u32 root of a broadcast; round of a barrier  │
//   │  8 u32 number of the operation                  │
//   │ 12 u32 rank of the sender                       │
//   │ 16 xheader of the application                   │
//   ╘═════════════════════════════════════════════════╛
const HEADER_BYTES = 16;

export interface GroupMessage {
  readonly group: number;
  /** Root of a broadcast; round of a barrier. */
  readonly rootOrRound: number;
  readonly number: number;
  /** Rank of the sender. */
  readonly rank: number;
  /** Of the application. */
  readonly xheader: Uint8Array;
  readonly data: Uint8Array;
}

/** The xheader on the wire. */
export function encodeGroupHeader({ group, rootOrRound, number, rank, xheader }: Omit<GroupMessage, 'data'>): Buffer {
  const header = Buffer.alloc(HEADER_BYTES + xheader.length);
  header.writeUInt32LE(group, 0);
  header.writeUInt32LE(rootOrRound, 4);
  header.writeUInt32LE(number, 8);
  header.writeUInt32LE(rank, 12);
  header.set(xheader, HEADER_BYTES);
  return header;
}

/** @throws ERR_ISTHMUS_PEER_PROTOCOL */
export function decodeGroupMessage(xheader: Uint8Array, data: Uint8Array): GroupMessage {
  if (xheader.length < HEADER_BYTES) {
    throw new IsthmusError('ERR_ISTHMUS_PEER_PROTOCOL', `a message of a group with ${xheader.length} bytes of xheader`);
  }
  const header = Buffer.from(xheader.buffer, xheader.byteOffset, xheader.byteLength);
  return {
    group: header.readUInt32LE(0),
    rootOrRound: header.readUInt32LE(4),
    number: header.readUInt32LE(8),
    rank: header.readUInt32LE(12),
    xheader: xheader.subarray(HEADER_BYTES),
    data,
  };
}

/** Bytes that a message counts for while it waits for the application. */
export function heldBytes({ data, xheader }: GroupMessage): number {
  return data.length + xheader.length + 64;
}

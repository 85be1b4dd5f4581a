/** What is written to a stream, as the messages that carry it. */
import { types } from 'node:util';
import { bytesOf } from '../base/bytes.js';

/** Bytes of short pieces that are joined: for one message, or from several messages. */
export const MAX_JOINED_BYTES = 65_536;

/** Bytes as Node's streams take them; anything else as it is: they refuse it with a code of their own. */
export function chunkOf(chunk: unknown): unknown {
  if (typeof chunk === 'string' || chunk instanceof Uint8Array) return chunk;
  return types.isArrayBufferView(chunk) || types.isAnyArrayBuffer(chunk) ? bytesOf(chunk, 'a chunk') : chunk;
}

/** Messages from chunks: short neighbours joined, long chunks split, none empty. */
export function* pieces(chunks: readonly Buffer[], most: number): Generator<Buffer> {
  const limit = Math.min(MAX_JOINED_BYTES, most);
  let first = 0;
  while (first < chunks.length) {
    let end = first;
    let length = 0;
    while (end < chunks.length && length + (chunks[end] as Buffer).length <= limit) {
      length += (chunks[end++] as Buffer).length;
    }
    if (end - first > 1) {
      if (length > 0) yield Buffer.concat(chunks.slice(first, end), length);
      first = end;
      continue;
    }
    const chunk = chunks[first++] as Buffer;
    for (let from = 0; from < chunk.length; from += most) yield chunk.subarray(from, from + most);
  }
}

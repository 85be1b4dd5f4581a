/** The exchange of two C programs (`test/wire/*.jsonl`). */
import { readFileSync } from 'node:fs';
import { FRAME, type Frame, FrameDecoder } from '../../host/handshake/frames.js';

/** Both directions of a capture, complete. */
export function capture(name: string): Record<'C>S' | 'S>C', Buffer> {
  // The tests run as bundles in another folder, but always from the root of the repository.
  const lines = readFileSync(`test/wire/${name}.jsonl`, 'utf8').trim().split('\n');
  const entries = lines.map((line) => JSON.parse(line) as { dir: 'C>S' | 'S>C'; hex?: string });
  const stream = (dir: string) =>
    Buffer.concat(entries.filter((entry) => entry.dir === dir).map((entry) => Buffer.from(entry.hex ?? '', 'hex')));
  return { 'C>S': stream('C>S'), 'S>C': stream('S>C') };
}

/** The frames up to ARCH_OK, or all frames, and the bytes after them. */
export function split(stream: Buffer): { frames: Frame[]; handshake: Buffer; rest: Buffer } {
  const decoder = new FrameDecoder();
  decoder.push(stream);
  const frames: Frame[] = [];
  for (let frame = decoder.next(); frame; frame = decoder.next()) {
    frames.push(frame);
    if (frame.type === FRAME.ARCH_OK) break;
  }
  const rest = decoder.rest();
  return { frames, handshake: stream.subarray(0, stream.length - rest.length), rest };
}

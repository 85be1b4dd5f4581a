/** Copies between the memory of a core and memory of the process, each form the fastest for its length. */
import type { BoundLink } from './bound-link.js';

/** Up to this many bytes a loop is faster than `TypedArray.set`, which costs some 20 ns before the first byte. */
const MAX_LOOP_IN = 12;
/** Out of the memory `set` needs a view, which costs 50 ns more and is garbage: first a loop of bytes, then one of words. */
const MAX_LOOP_OUT = 12;
const MAX_WORD_LOOP_OUT = 128;

/** Copy all of `bytes` to `offset` of the memory. */
export function copyIn(memory: Uint8Array, bytes: Uint8Array, offset: number): void {
  const length = bytes.length;
  if (length > MAX_LOOP_IN) memory.set(bytes, offset);
  else for (let i = 0; i < length; i++) memory[offset + i] = bytes[i] as number;
}

/** Longer copies go into memory that is not zeroed first: zeroing takes half of the time at 64 KiB. */
const MAX_ZEROED = 2048;

/** A copy in memory of its own. */
export function copyOf(memory: Uint8Array, offset: number, length: number): Uint8Array {
  if (length <= MAX_LOOP_OUT) {
    // `slice` looks up the constructor of the array, which takes as long as the rest of the copy.
    const small = new Uint8Array(length);
    for (let i = 0; i < length; i++) small[i] = memory[offset + i] as number;
    return small;
  }
  if (length <= MAX_ZEROED) return memory.slice(offset, offset + length);
  const copy = new Uint8Array(Buffer.allocUnsafeSlow(length).buffer);
  copy.set(memory.subarray(offset, offset + length));
  return copy;
}

/** Copy `length` bytes at `offset` of the memory to the beginning of `target`. */
export function copyOut(memory: Uint8Array, offset: number, length: number, target: Uint8Array): void {
  if (length > MAX_LOOP_OUT) target.set(memory.subarray(offset, offset + length));
  else for (let i = 0; i < length; i++) target[i] = memory[offset + i] as number;
}

/** {@link copyOut} for a caller that passes the same target each time: up to 128 bytes it makes no garbage then. */
export class CopyOut {
  #target: Uint8Array | undefined;
  /** The beginning of the target, once it has come twice and if it is aligned. */
  #words: Uint32Array | undefined;

  copy({ bytes, words }: Pick<BoundLink, 'bytes' | 'words'>, offset: number, length: number, target: Uint8Array): void {
    if (length > MAX_LOOP_OUT && length <= MAX_WORD_LOOP_OUT && (offset & 3) === 0) {
      const to = this.#wordsOf(target);
      if (to) {
        const from = offset >> 2;
        const whole = length >> 2;
        for (let i = 0; i < whole; i++) to[i] = words[from + i] as number;
        for (let i = whole << 2; i < length; i++) target[i] = bytes[offset + i] as number;
        return;
      }
    }
    copyOut(bytes, offset, length, target);
  }

  #wordsOf(target: Uint8Array): Uint32Array | undefined {
    if (target !== this.#target) {
      this.#target = target;
      this.#words = undefined;
    } else if (this.#words === undefined && (target.byteOffset & 3) === 0) {
      const length = Math.min(target.length, MAX_WORD_LOOP_OUT) >> 2;
      this.#words = new Uint32Array(target.buffer, target.byteOffset, length);
    }
    return this.#words;
  }

  /** Drop the references to memory of the application. */
  forget(): void {
    this.#target = undefined;
    this.#words = undefined;
  }
}

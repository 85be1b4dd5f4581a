/** Fields of the tables: text, bytes that are reserved, numbers in messages. */
import type { Core } from '../../core/core.js';

export const hex = (value: number | bigint) => `0x${value.toString(16)}`;

export function isZero({ bytes }: Core, from: number, to: number): boolean {
  return bytes.subarray(from, to).every((byte) => byte === 0);
}

/** What is wrong with reserved bytes, which are zero; or undefined. @param base address of the structure that they are in */
export function reservedFault({ bytes }: Core, base: number, from: number, to: number): string | undefined {
  const at = bytes.subarray(from, to).findIndex((byte) => byte !== 0);
  return at < 0 ? undefined : `its reserved byte ${from + at - base} is ${bytes[from + at]}, not 0`;
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** What is wrong with a text field, or undefined. It holds UTF-8, then zeros, at least one. */
export function textFault(field: Uint8Array): string | undefined {
  const end = field.indexOf(0);
  if (end < 0) return 'has no end';
  if (field.subarray(end).some((byte) => byte !== 0)) return 'has bytes behind its end';
  try {
    utf8.decode(field.subarray(0, end));
    return undefined;
  } catch {
    return 'is not UTF-8';
  }
}

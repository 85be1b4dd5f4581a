/** Messages with a number, so that a loss, a repetition, a wrong order and a changed byte are all detected. */

/** Message `number`: its number, and up to `longest` bytes that follow from it. */
export function numbered(number: number, longest: number): Buffer {
  const bytes = Buffer.alloc(8 + ((number * 7919) % longest), number & 0xff);
  bytes.writeUInt32LE(number, 0);
  return bytes;
}

/** @throws Error if it is not {@link numbered} with the same arguments */
export function checkNumbered(number: number, data: Uint8Array, longest: number): void {
  if (Buffer.compare(data, numbered(number, longest)) !== 0)
    throw new Error(`message ${number} differs from what was sent`);
}

/** What counts as bytes, in every call that takes some: one function decides. */
import { types } from 'node:util';
import { IsthmusError } from './errors.js';

/** Bytes as applications have them: any view (Buffer, typed array, DataView) and any buffer, also of another realm. */
export type Bytes = ArrayBufferView | ArrayBuffer | SharedArrayBuffer;

/**
 * The memory of a value as a Uint8Array of this realm; a Uint8Array or Buffer of this realm itself. Nothing is copied.
 * @param name of the argument, for the message
 * @throws ERR_ISTHMUS_INVALID_ARGUMENT: it is no bytes; or its memory is gone (detached by a transfer, or a resizable buffer
 * that has become too short for the view)
 */
export function bytesOf(value: unknown, name: string): Uint8Array {
  // A view whose memory is gone has the length 0, too.
  if (value instanceof Uint8Array && value.length !== 0) return value;
  return viewOf(value, name);
}

function viewOf(value: unknown, name: string): Uint8Array {
  if (types.isArrayBufferView(value)) {
    if (isGone(value)) throw gone(name);
    if (value instanceof Uint8Array) return value;
    return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  }
  if (types.isAnyArrayBuffer(value)) {
    try {
      return new Uint8Array(value);
    } catch {
      throw gone(name);
    }
  }
  const how = typeof value === 'string' ? ': encode the string (Buffer.from(text), or TextEncoder)' : '';
  const what = value === null ? 'null' : typeof value === 'object' ? 'an object' : `a ${typeof value}`;
  throw new IsthmusError(
    'ERR_ISTHMUS_INVALID_ARGUMENT',
    `${name} must be bytes (Buffer, Uint8Array, another view, ArrayBuffer or SharedArrayBuffer), not ${what}${how}`,
  );
}

/** Whether the memory of a view is gone. Node 20 has no `buffer.detached`, and no version tells it of a view. */
function isGone(view: ArrayBufferView): boolean {
  try {
    if (types.isDataView(view)) return view.byteLength < 0;
    // Every method of typed arrays begins with that check.
    Uint8Array.prototype.keys.call(view as Uint8Array);
    return false;
  } catch {
    return true;
  }
}

/** The memory of a message of `length` bytes has gone before all of it was sent. */
export function goneMessage(length: number): IsthmusError {
  return new IsthmusError(
    'ERR_ISTHMUS_INVALID_ARGUMENT',
    `the memory of a message of ${length} bytes was transferred or cut short before the message was sent`,
  );
}

/** The memory that was to take a message, or the peer's memory, has gone meanwhile. */
export function goneTarget(): IsthmusError {
  return new IsthmusError(
    'ERR_ISTHMUS_INVALID_ARGUMENT',
    'the memory for the bytes was transferred or cut short before they came',
  );
}

function gone(name: string): IsthmusError {
  return new IsthmusError(
    'ERR_ISTHMUS_INVALID_ARGUMENT',
    `the memory of ${name} is gone: it was transferred (postMessage, structuredClone), or its buffer was resized`,
  );
}

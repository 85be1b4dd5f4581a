/** Invalid byte streams, from a seed: bytes that a broken or hostile peer might send. */

type Random = (n: number) => number;

/** Lengths and counts at which arithmetic fails. */
const VALUES = [
  0, 1, 7, 8, 9, 24, 0x7f, 0xff, 0x1000, 0x1001, 0xffff, 0x10000, 0x3fffffff, 0x40000001, 0x7fffffff, 0x80000000,
  0xfffffff7, 0xfffffff8, 0xffffffff,
];

function bytes(random: Random, length: number): Buffer {
  const made = Buffer.alloc(length);
  for (let i = 0; i < length; i++) made[i] = random(256);
  return made;
}

/** Replace `length` bytes at `at`. */
function replaced(stream: Buffer, at: number, length: number, by: Buffer): Buffer {
  return Buffer.concat([stream.subarray(0, at), by, stream.subarray(at + length)]);
}

/** One change. `others`: streams to take parts from. `places`: offsets of lengths, as far as they are known. */
function once(stream: Buffer, others: readonly Buffer[], places: readonly number[], random: Random): Buffer {
  const at = random(stream.length + 1);
  const some = Math.min(stream.length - at, 1 + random(random(2) ? 8 : 200));
  switch (random(8)) {
    case 0: {
      const copy = Buffer.from(stream);
      for (let flips = 1 + random(4); flips > 0 && copy.length > 0; flips--) {
        const place = random(copy.length);
        copy[place] = (copy[place] as number) ^ (1 << random(8));
      }
      return copy;
    }
    case 1:
      return Buffer.from(stream.subarray(0, at));
    case 2:
      return replaced(stream, at, 0, stream.subarray(at, at + some)); // twice
    case 3: {
      const other = others[random(others.length)] ?? stream;
      const from = random(other.length + 1);
      return Buffer.concat([stream.subarray(0, at), other.subarray(from)]);
    }
    case 4:
      return replaced(stream, at, 0, bytes(random, 1 + random(40)));
    case 5:
      return replaced(stream, at, some, Buffer.alloc(0));
    default: {
      // Lengths most of all: everything that is read after one depends on it.
      const copy = Buffer.from(stream);
      const known = places.length > 0 && random(4) > 0;
      const place = known ? (places[random(places.length)] as number) : random(Math.max(1, copy.length - 3));
      if (place + 4 > copy.length) return copy;
      const value = VALUES[random(VALUES.length)] as number;
      if (random(2)) copy.writeUInt32LE(value, place);
      else copy.writeUInt32BE(value, place);
      return copy;
    }
  }
}

/** One to four changes of a stream. */
export function mutate(
  stream: Buffer,
  others: readonly Buffer[],
  places: readonly number[],
  random: (n: number) => number,
): Buffer {
  let mutant = stream;
  // The offsets are those of the original stream: after the first change they are as good as any.
  for (let changes = 1 + random(4); changes > 0; changes--) mutant = once(mutant, others, places, random);
  return mutant;
}

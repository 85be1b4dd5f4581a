/**
 * Writes of a hostile peer into a shared region: words chosen by their meaning, and values at which arithmetic fails.
 * One mutation is one store of four or eight bytes, or a few bytes of a payload.
 */
import { type ConstantName, constant, L, MIB, recordHeader, type TestCore } from './core.js';

/** A word in the header frame, behind the header, into which the victim writes how far it has read: a peer could guess that. */
export const READ = L.WINDOW + 4000;
/** Bytes of a region for a victim and a hostile process. */
export const SIZE = 4 * MIB;

type Random = (n: number) => number;

/** A ring, as seen by a process that has the region mapped. */
export interface RingPlace {
  /** Address of the ring in a core. */
  readonly address: number;
  readonly capacity: number;
  /** Position of its reader, as far as that is known: the record there is read next. */
  readonly position?: () => number;
}

/** A run that the peer pretends to offer, with a ring or grants in it; one of the numbers may be invalid. */
export interface Forged {
  readonly frame: number;
  readonly frames: number;
  readonly slot: number;
  readonly generation: number;
  readonly capacity: number;
  readonly ready: number;
  readonly start: number;
  /** Values of grant 0. */
  readonly offset: number;
  readonly length: number;
  readonly rights: number;
}

/** The nonce of a forged ring, and the token of a forged grant: the same word. */
export const NONCE = [11, 12] as const;

const SLOT_WORDS: ConstantName[] = [
  'SLOT_SLEEPING',
  'SLOT_SUMMARY',
  'SLOT_HEARTBEAT',
  'SLOT_INSTANCE',
  'SLOT_DEV',
  'SLOT_INO',
];
const RING_WORDS: ConstantName[] = [
  'RING_NONCE',
  'RING_CAPACITY',
  'RING_READY',
  'RING_START',
  'RING_TAIL',
  'RING_HEAD',
  'RING_ARMED',
  'RING_RECEIVE_MODE',
];
const slotWords = SLOT_WORDS.map(constant);
const ringWords = RING_WORDS.map(constant);
const MASK = 0xffffffffffffffffn;

const EDGES = [
  0, 1, 7, 8, 9, 15, 16, 0xff, 0xfff, 0x1000, 0xffff, 0x10000, 0xfffff, 0x3fffffff, 0x7fffffff, 0x80000000, 0x80000001,
  0xfffffff0, 0xfffffff7, 0xfffffff8, 0xffffffff,
];

export class Hostile {
  readonly #core: TestCore;
  readonly #random: Random;
  readonly #slotsAt: number;
  readonly #extentsAt: number;
  readonly #extents: number;
  readonly #mapAt: number;
  readonly #frames: number;
  readonly #slots: number;
  /** Stores so far, by target. */
  readonly stores: Map<string, number>;
  count = 0;
  /** Description of the last store. */
  forged: Forged | undefined;

  /**
   * @param core maps the region, which is still valid
   * @param stores counts the stores
   */
  constructor(core: TestCore, random: Random, stores = new Map<string, number>()) {
    this.stores = stores;
    this.#core = core;
    this.#random = random;
    this.#slotsAt = core.call.slotAddress(0);
    this.#extentsAt = core.extent(0);
    this.#extents = core.u32(L.HEADER_EXTENTS);
    this.#mapAt = core.half(0, 0);
    this.#frames = core.frames;
    this.#slots = core.slots;
  }

  #did(what: string): void {
    this.count++;
    this.stores.set(what, (this.stores.get(what) ?? 0) + 1);
  }

  #u32(at: number, what: string, value = this.#word(this.#core.u32(at))): void {
    this.#core.setU32(at, value);
    this.#did(what);
  }

  #u64(at: number, what: string, value: bigint): void {
    this.#core.setU64(at, BigInt.asUintN(64, value));
    this.#did(what);
  }

  /** A value in place of a word. */
  #word(present: number): number {
    const random = this.#random;
    switch (random(8)) {
      case 0:
        return present ^ (1 << random(32));
      case 1:
        return present + 1;
      case 2:
        return present - 1;
      case 3:
        return present + (random(2) ? 8 : -8);
      case 4:
        return this.#core.u32(L.WINDOW + random(this.#core.size >> 2) * 4);
      case 5:
        return random(0x100000000);
      default:
        return EDGES[random(EDGES.length)]!;
    }
  }

  #double(present: bigint): bigint {
    const random = this.#random;
    switch (random(6)) {
      case 0:
        return 0n;
      case 1:
        return MASK;
      case 2:
        return present ^ (1n << BigInt(random(64)));
      case 3:
        return present + (random(2) ? 1n : -1n);
      case 4:
        return this.#core.u64(L.WINDOW + random(this.#core.size >> 3) * 8);
      default:
        return (BigInt(this.#word(0) >>> 0) << 32n) | BigInt(this.#word(0) >>> 0);
    }
  }

  /** A length near those that a ring of that capacity can hold. */
  #length(capacity: number): number {
    const random = this.#random;
    const most = capacity / 4 - L.RECORD_HEADER;
    const near = [
      0,
      1,
      7,
      8,
      9,
      most - 1,
      most,
      most + 1,
      most + 8,
      capacity / 4,
      capacity - 8,
      capacity,
      capacity + 8,
    ];
    return random(3) === 0 ? EDGES[random(EDGES.length)]! : random(2) ? near[random(near.length)]! : random(most);
  }

  /** One store into a ring, or into its records: memory that a peer of that connection may write to. */
  ring({ address, capacity, position }: RingPlace): void {
    const random = this.#random;
    const data = address + L.RING_DATA;
    const head = position?.() ?? this.#core.u32(address + L.RING_HEAD);
    const place = (at: number) => data + ((at & (capacity - 1) & ~7) >>> 0);
    switch (random(10)) {
      case 0: {
        const which = random(ringWords.length);
        this.#u32(address + ringWords[which]!, RING_WORDS[which]!);
        return;
      }
      case 1:
        // Correct, or almost: so that the record passes the first checks.
        this.#u32(address + L.RING_HEAD, 'RING_HEAD', head + 8 * (random(9) - 4));
        return;
      case 2:
      case 3:
      case 4: {
        const at = head + [0, 0, 0, 8, -8, capacity, capacity / 2][random(7)]!;
        const kind = random(8) === 0 ? random(256) : 1 + random(4);
        const toEnd = capacity - (head & (capacity - 1));
        const length = kind === L.RECORD_PAD && random(2) ? toEnd - L.RECORD_HEADER : this.#length(capacity);
        this.#u64(place(head), 'record', recordHeader(length, kind, at));
        return;
      }
      case 5: {
        // A valid record, with a net header that may be invalid.
        const body = random(capacity / 4 - 16) & ~7;
        const type = random(3) ? random(13) : random(0x10000);
        const [x, d] = random(2) ? [0, body] : [this.#length(capacity) & 0xffff, this.#length(capacity)];
        this.#core.setU64(place(head) + 8, BigInt(type) | (BigInt(x) << 16n) | (BigInt(d >>> 0) << 32n));
        const kind = random(3) ? L.RECORD_FIRST : L.RECORD_MORE;
        this.#u64(place(head), 'message', recordHeader(body + (random(4) ? 8 : 0), kind, head));
        return;
      }
      case 6: {
        const at = place(head) + 8;
        this.#u64(at, 'net header', this.#double(this.#core.u64(at)));
        return;
      }
      case 7: {
        const at = place(head);
        this.#u64(at, 'record', this.#double(this.#core.u64(at)));
        return;
      }
      case 8: {
        const at = data + random(capacity >> 3) * 8;
        this.#u64(at, 'records', this.#double(this.#core.u64(at)));
        return;
      }
      default: {
        const at = data + random(capacity - 64);
        this.#core.bytes.fill(random(256), at, at + 1 + random(64));
        this.#did('payload');
      }
    }
  }

  #tag(): bigint {
    const random = this.#random;
    const slot = random(3) ? random(4) : random(1024);
    const count = random(2) ? 1 + random(64) : EDGES[random(EDGES.length)]! & 0xfffff;
    const word = this.#core.u64(this.#slotsAt + (slot % this.#slots) * L.SLOT_SIZE);
    const generation = random(4) ? word >> 32n : BigInt(this.#word(1) >>> 0);
    return (generation << 32n) | BigInt(((random(4) << 30) | (slot << 20) | count) >>> 0);
  }

  #tagAt(at: number, what: string): void {
    this.#u64(at, what, this.#random(2) ? this.#tag() : this.#double(this.#core.u64(at)));
  }

  /** All extents have owners, and no half is held. */
  #wipe(): void {
    const tag = this.#tag();
    for (let i = 0; i < this.#extents; i++) this.#core.setU64(this.#extentsAt + i * 8, tag);
    this.#core.bytes.fill(0, this.#mapAt, this.#mapAt + this.#frames * L.HALVES);
    this.#did('all tags');
  }

  /** An offer that is as consistent as its writer wants: several stores that count as one. */
  #forge(): void {
    const random = this.#random;
    const edge = () => EDGES[random(EDGES.length)]!;
    const wrong = random(12);
    const slot = wrong === 0 ? this.#slots + random(1024 - this.#slots) : 1;
    const word = this.#core.u64(this.#slotsAt + (slot % this.#slots) * L.SLOT_SIZE);
    const generation = wrong === 1 ? edge() : Number(word >> 32n);
    const capacity = wrong === 2 ? edge() : 4096 << random(3);
    const frames = wrong === 3 ? edge() & 0xfffff : wrong === 4 ? 1 + random(8) : 1 + (capacity >>> 12);
    const ready = wrong === 5 ? edge() : random(L.CONNECTIONS);
    const start = wrong === 6 ? edge() : 8 * random(1024);
    const room = (frames - 1) * L.FRAME;
    const offset = wrong === 7 ? edge() : 0;
    const length = wrong === 8 ? edge() : wrong === 9 ? room + random(3) : random(room + 1);
    const frame = wrong === 10 ? this.#frames - 1 - random(3) : random(this.#frames);
    const kinds = random(2) ? [L.HALF_CONSUMER, L.HALF_PRODUCER] : [L.HALF_PRODUCER, L.HALF_CONSUMER];
    for (const [i, which] of kinds.entries()) {
      const kind = wrong === 11 ? random(4) : i === 0 ? L.KIND_HELD : L.KIND_OFFERED;
      const low = ((kind << 30) | (slot << 20) | frames) >>> 0;
      this.#core.setU64(this.#mapAt + frame * L.HALVES + which, (BigInt(generation) << 32n) | BigInt(low));
    }
    const at = L.WINDOW + frame * L.FRAME;
    // A ring has its capacity where a grant has its offset, and so on.
    const ring = random(2);
    const rights = 1 + random(3);
    const words = ring ? [...NONCE, capacity, ready, start] : [...NONCE, offset, length, rights];
    for (const [i, value] of words.entries()) this.#core.setU32(at + i * 4, value);
    this.forged = { frame, frames, slot, generation, capacity, ready, start, offset, length, rights };
    this.#did(ring ? 'forged ring' : 'forged grant');
  }

  /** One store anywhere in the region: tables, grants, rings of other connections. */
  region(rings: readonly RingPlace[]): void {
    const random = this.#random;
    const slot = this.#slotsAt + (random(4) ? random(4) : random(this.#slots)) * L.SLOT_SIZE;
    switch (random(12)) {
      case 10:
      case 11:
        return random(100) === 0 ? this.#wipe() : this.#forge();
      case 0:
        this.#u32(L.WINDOW + random(36) * 4, 'header');
        return;
      case 1: {
        const present = this.#core.u64(slot);
        const states = [L.SLOT_FREE, L.SLOT_CLAIMED, L.SLOT_ATTACHED, L.SLOT_DEAD, L.SLOT_FENCED, random(256)];
        const word = random(2) ? (present & ~0xffn) | BigInt(states[random(states.length)]!) : this.#double(present);
        this.#u64(slot, 'SLOT_WORD', word);
        return;
      }
      case 2: {
        const which = random(slotWords.length);
        this.#u64(slot + slotWords[which]!, SLOT_WORDS[which]!, this.#double(this.#core.u64(slot + slotWords[which]!)));
        return;
      }
      case 3: {
        const word = random(64);
        this.#core.setU64(slot + L.SLOT_READY + word * 8, this.#double(0n));
        this.#u64(slot + L.SLOT_SUMMARY, 'ready', random(2) ? 1n << BigInt(word) : MASK);
        return;
      }
      case 4:
        this.#tagAt(this.#extentsAt + random(this.#extents) * 8, 'extent');
        return;
      case 5:
      case 6:
        // Mostly frames in which runs are.
        this.#tagAt(
          this.#mapAt + random(random(2) ? this.#frames : Math.min(this.#frames, 96)) * 16 + random(2) * 8,
          'half',
        );
        return;
      case 7: {
        const frame = L.WINDOW + random(this.#frames) * L.FRAME;
        this.#u32(frame + random(8) * 4 + random(4) * 32, 'grant');
        return;
      }
      case 8: {
        const at = L.WINDOW + random(this.#core.size >> 3) * 8;
        this.#u64(at, 'anywhere', this.#double(this.#core.u64(at)));
        return;
      }
      default:
        this.ring(rings[random(rings.length)]!);
    }
  }
}

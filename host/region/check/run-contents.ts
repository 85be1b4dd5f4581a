/** The check of what the runs contain: the words and records of a ring, the grants of an application's memory. */
import type { Core } from '../../core/core.js';
import type { RegionView } from '../region-view.js';
import type { Counts, Findings } from './findings.js';

const wrap = (position: number) => position >>> 0;
const aligned = (position: number) => (position & 7) === 0;

/** The walk through the records of a ring. */
interface Walk {
  /** Position behind the last record. */
  readonly end: number;
  /** Records behind the tail that the producer has published. */
  readonly ahead: number;
}

export class RunContents {
  readonly #view: RegionView;
  readonly #core: Core;
  readonly #counts: Counts;
  readonly #findings: Findings;
  /** Frame of the ring that has a ready bit, by slot and index. */
  readonly #bits = new Map<string, number>();

  constructor(view: RegionView, counts: Counts, findings: Findings) {
    this.#view = view;
    this.#core = view.core;
    this.#counts = counts;
    this.#findings = findings;
  }

  /**
   * @param reader slot of the reader
   * @param written whether a writer holds the producer's half
   * @param writable whether a writer holds that half, or it is offered to one
   */
  checkRing(frame: number, frames: number, reader: number, written: boolean, writable: boolean): void {
    const { layout } = this.#core;
    const where = `ring at frame ${frame}`;
    const bytes = this.#view.read(frame * layout.FRAME, frames * layout.FRAME);
    const word = (at: number) => bytes.readUInt32LE(at);
    const capacity = word(layout.RING_CAPACITY);
    if (capacity < layout.RING_MIN || capacity > layout.RING_MAX || (capacity & (capacity - 1)) !== 0) {
      this.#findings.error(where, `its capacity is ${capacity}, which no ring has`);
      return;
    }
    if (frames !== 1 + capacity / layout.FRAME) {
      this.#findings.error(where, `its capacity is ${capacity}, and its run has ${frames} frames`);
      return;
    }
    const bit = word(layout.RING_READY);
    if (bit >= layout.CONNECTIONS)
      this.#findings.error(where, `its ready bit is ${bit}; there are ${layout.CONNECTIONS}`);
    const twin = this.#bits.get(`${reader} ${bit}`);
    if (twin !== undefined)
      this.#findings.error(where, `its ready bit is ${bit} of slot ${reader}, as that of the ring at ${twin}`);
    this.#bits.set(`${reader} ${bit}`, frame);
    const armed = word(layout.RING_ARMED);
    if (armed > 1) this.#findings.error(where, `its word 'armed' is ${armed}, neither 0 nor 1`);
    const mode = word(layout.RING_RECEIVE_MODE);
    if (mode > layout.RECEIVE_MODE_IN_PLACE)
      this.#findings.error(where, `its word 'receive mode' is ${mode}, which does not exist`);
    const [start, head, tail] = [word(layout.RING_START), word(layout.RING_HEAD), word(layout.RING_TAIL)];
    if (![start, head, tail].every(aligned)) {
      this.#findings.error(where, `its positions are no multiples of 8: start ${start}, head ${head}, tail ${tail}`);
      return;
    }
    if (wrap(tail - head) > capacity) {
      this.#findings.error(
        where,
        `its head is ${head} and its tail ${tail}: ${wrap(tail - head)} of ${capacity} bytes used`,
      );
      return;
    }
    if (writable && !written && (head !== start || tail !== start)) {
      this.#findings.error(
        where,
        `no process writes it yet, and its positions are start ${start}, head ${head}, tail ${tail}`,
      );
      return;
    }
    const walk = this.#walk(where, bytes, capacity, head, tail);
    if (walk && wrap(walk.end - tail) > capacity) {
      this.#findings.error(where, `its records end at ${walk.end}, in front of its tail ${tail}`);
    } else if (walk && walk.ahead > 1) {
      // The tail follows each commit, so only one can be under way.
      this.#findings.error(where, `${walk.ahead} records lie behind its tail ${tail}`);
    }
  }

  /** Walk from the head to the word that is zero. @returns undefined: a record was wrong */
  #walk(where: string, bytes: Buffer, capacity: number, head: number, tail: number): Walk | undefined {
    const { layout } = this.#core;
    const limit = (capacity >>> layout.RECORD_SHIFT) + layout.RECORD_EXTRA - layout.RECORD_HEADER;
    const used = wrap(tail - head);
    let ahead = 0;
    let walked = 0;
    let padded = false;
    /** Bytes of the message that are to come; undefined: the walk has not met the beginning of a message yet. */
    let rest: number | undefined;
    for (;;) {
      const position = wrap(head + walked);
      const place = position & (capacity - 1);
      const at = layout.RING_DATA + place;
      const header = bytes.readBigUInt64LE(at);
      const fault = (what: string): undefined => {
        this.#findings.error(where, `the record at position ${position} (header 0x${header.toString(16)}) ${what}`);
        return undefined;
      };
      if (header === 0n) {
        if (!padded) return { end: position, ahead };
        return fault('is missing: there is padding in front of it');
      }
      const [payload, tag] = [bytes.readUInt32LE(at), bytes.readUInt32LE(at + 4)];
      const kind = tag >>> 24;
      if ((tag & 0xffffff) !== ((position >>> 3) & 0xffffff)) return fault('is of another position');
      if (kind !== layout.RECORD_PAD && kind !== layout.RECORD_FIRST && kind !== layout.RECORD_MORE) {
        return fault(`is of kind ${kind}, which does not exist`);
      }
      const toEnd = capacity - place;
      const span = (payload + layout.RECORD_HEADER + 7) & ~7;
      if (kind === layout.RECORD_PAD) {
        if (padded || payload !== toEnd - layout.RECORD_HEADER) {
          return fault(`is padding of ${payload} bytes, ${toEnd} in front of the end`);
        }
      } else if (payload > limit || span > toEnd) {
        return fault(`has ${payload} bytes, at most ${Math.min(limit, toEnd - layout.RECORD_HEADER)} are possible`);
      }
      // The word behind the last record has to be there as well.
      if (walked + span + layout.RECORD_HEADER > capacity) return fault('leaves no room for the end');
      if (kind !== layout.RECORD_PAD) {
        const body = this.#checkBody(kind, payload, bytes.readBigUInt64LE(at + layout.RECORD_HEADER), rest);
        if (typeof body === 'string') return fault(body);
        rest = body;
        this.#counts.records.total++;
        this.#counts.records.bytes += payload;
        if (walked >= used) ahead++;
      }
      padded = kind === layout.RECORD_PAD;
      walked += span;
    }
  }

  /** @returns how many bytes of the message are to come after this record; undefined: unknown; a text: what is wrong */
  #checkBody(kind: number, payload: number, net: bigint, rest: number | undefined): number | undefined | string {
    const { layout } = this.#core;
    let left = rest;
    let here = payload;
    if (kind === layout.RECORD_FIRST) {
      if (payload < layout.NET_HEADER) return `begins a message with ${payload} bytes`;
      if (left) return `begins a message while ${left} bytes of the one before are to come`;
      left = Number((net >> 16n) & 0xffffn) + Number(net >> 32n);
      here -= layout.NET_HEADER;
    } else if (payload === 0) return 'goes on with a message and has no bytes';
    if (left === undefined) return undefined;
    if (here > left) return `has ${here} bytes of a message of which ${left} are to come`;
    return left - here;
  }

  /** The first frame of an application's memory lists the ranges that it grants. */
  checkMemory(frame: number, frames: number): void {
    const { layout } = this.#core;
    const where = `run at frame ${frame}`;
    const grants = this.#view.read(frame * layout.FRAME, layout.FRAME);
    const room = (frames - 1) * layout.FRAME;
    const rights = layout.GRANT_READ | layout.GRANT_WRITE;
    const tokens = new Map<bigint, number>();
    for (let place = 0; place < layout.GRANTS; place++) {
      const at = place * layout.GRANT_SIZE;
      const token = grants.readBigUInt64LE(at + layout.GRANT_TOKEN);
      if (token === 0n) continue;
      this.#counts.grants.total++;
      const offset = grants.readUInt32LE(at + layout.GRANT_OFFSET);
      const length = grants.readUInt32LE(at + layout.GRANT_LENGTH);
      const right = grants.readUInt32LE(at + layout.GRANT_RIGHTS);
      if (offset + length > room) {
        this.#findings.error(where, `grant ${place} is of ${length} bytes at ${offset}, and the run has ${room}`);
      }
      if (right === 0 || (right & ~rights) !== 0) this.#findings.error(where, `grant ${place} gives rights ${right}`);
      const twin = tokens.get(token);
      if (twin !== undefined) this.#findings.error(where, `grants ${twin} and ${place} have one token`);
      tokens.set(token, place);
    }
  }
}

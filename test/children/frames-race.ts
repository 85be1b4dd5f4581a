/**
 * An allocator that races with others on one region, until a word in the box ends it. Arguments: the path of the
 * region, its MiB, a seed, the frame of the box.
 */
import { writeSync } from 'node:fs';
import { setPriority } from 'node:os';
import * as assert from 'uvu/assert';
import { L, MIB, mapInto, TestCore } from '../support/core.js';
import { seeded } from '../support/seeded.js';

const [path = '', mibs, workerSeed, boxFrame] = process.argv.slice(2);
const { HALF_CONSUMER: READER, HALF_PRODUCER: WRITER } = L;
/** Letters in the box: (frame, slot) and the number of the run, each u32. */
const LETTERS = 32;

interface Run {
  readonly frame: number;
  readonly count: number;
  readonly number: number;
}

interface Adopted extends Run {
  readonly mark: number;
}

/**
 * Take and give back runs, with a pattern in each frame. Word 0 of the first frame holds the number of the run from the
 * moment when all is written until it is given back; word 1 of every frame holds its mark. Letters in the box announce
 * runs to other processes, which adopt the other half, check the number as the handshake checks a nonce, and watch the
 * marks until they release it.
 */
function allocate(): never {
  // The watching process comes first, on however few processors.
  setPriority(10);
  const core = new TestCore(Number(mibs) * MIB);
  const mapping = mapInto(core, path);
  const { call } = core;
  const random = seeded(Number(workerSeed));
  for (let slot = 1; call.holdsSlot() === 0; slot = 1 + (slot % (core.slots - 1))) {
    if (call.slotState(slot) !== L.SLOT_FREE || !mapping.lock(slot)) continue;
    if (call.claimSlot(slot, 1)) assert.is(call.publishSlot(), 1);
    else mapping.unlock(slot);
  }
  const box = call.addressOf(Number(boxFrame));
  const word = (frame: number, index: number) => call.addressOf(frame) + index * 4;
  const runs: Run[] = [];
  const adopted: Adopted[] = [];
  const counts = { taken: 0, refused: 0, adopted: 0, stale: 0 };
  let number = 0;
  const check = (run: Run, mark: number) => {
    for (let i = run.frame; i < run.frame + run.count; i++) {
      const found = core.u32(word(i, 1));
      if (found !== mark) throw new Error(`frame ${i} of run ${run.frame}+${run.count}: ${found} instead of ${mark}`);
    }
  };
  const markOf = (run: Run) => (core.slot << 24) | (core.generation << 16) | (run.number & 0xffff);
  const giveBack = () => {
    const run = runs.splice(random(runs.length), 1)[0];
    if (!run) return;
    check(run, markOf(run));
    core.setU32(word(run.frame, 0), 0);
    call.giveBack(run.frame, run.count, READER);
  };
  const letGo = () => {
    const run = adopted.splice(random(adopted.length), 1)[0];
    if (!run) return;
    check(run, run.mark);
    call.letGo(run.frame, WRITER, run.count);
  };
  writeSync(1, 'going\n');
  while (core.u32(box) === 0) {
    switch (random(4)) {
      case 0: {
        const count = 1 + random(random(3) ? 8 : 60);
        const frame = call.take(count, READER);
        if (frame === 0) {
          counts.refused++;
          giveBack();
          break;
        }
        const run = { frame, count, number: ++number };
        const mark = markOf(run);
        for (let i = frame; i < frame + count; i++) core.setU32(word(i, 1), mark);
        core.setU32(word(frame, 0), number);
        runs.push(run);
        counts.taken++;
        const letter = box + 8 + random(LETTERS) * 8;
        core.setU32(letter + 4, number);
        core.setU32(letter, frame * 256 + core.slot);
        break;
      }
      case 1:
        giveBack();
        break;
      case 2: {
        const letter = box + 8 + random(LETTERS) * 8;
        const from = core.u32(letter);
        const told = core.u32(letter + 4);
        const frame = Math.floor(from / 256);
        const slot = from % 256;
        if (from === 0 || slot === core.slot) break;
        const count = call.adopt(frame, WRITER, slot, call.slotGeneration(slot));
        if (count === 0) break;
        if (core.u32(word(frame, 0)) === told) {
          adopted.push({ frame, count, number: told, mark: core.u32(word(frame, 1)) });
          counts.adopted++;
        } else {
          counts.stale++;
          call.letGo(frame, WRITER, count);
        }
        break;
      }
      default:
        if (adopted.length > 10 || random(3) === 0) letGo();
        else if (random(10) === 0) call.collect();
    }
    if (runs.length > 25) giveBack();
  }
  while (runs.length > 0) giveBack();
  while (adopted.length > 0) letGo();
  call.leave();
  mapping.detach();
  writeSync(1, `${JSON.stringify(counts)}\n`);
  process.exit(0);
}

allocate();

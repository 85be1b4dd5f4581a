/** Loans of a connection: memory of the region where there is some, counted until they come back. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { IsthmusError } from '../../host/base/errors.js';
import { Loans, type RegionLoan } from '../../host/memory/loan.js';
import { giveBack, takeRun } from '../../host/memory/runs.js';
import { channel, linkPair, TestRegion } from '../support/channel.js';
import { FakeClock } from '../support/clock.js';
import { rejection, thrownBy } from '../support/outcomes.js';
import { timebox } from '../support/timebox.js';

function scene() {
  const { a, core } = channel();
  const region = new TestRegion(core);
  const [near] = linkPair(core, { region: region.asRegion });
  a.detach();
  a.attach(near);
  const told: string[] = [];
  let onReclaim = () => {};
  const loans = new Loans(
    a.binding,
    () => {
      told.push('reclaim');
      onReclaim();
    },
    () => told.push('returned'),
  );
  core.call.trim();
  const free = core.freeFrames();
  return {
    a,
    core,
    region,
    loans,
    told,
    /** Frames that are taken. */
    taken: () => {
      core.call.trim();
      return free - core.freeFrames();
    },
    /** Take all the room that is left. @returns gives it back */
    full: () => {
      const runs: [number, number][] = [];
      for (let length = 1 << 20; length >= 1; length >>= 1) {
        for (let run = takeRun(region.asRegion, length); run; run = takeRun(region.asRegion, length)) {
          runs.push([run.frame, length]);
        }
      }
      return () => {
        for (const [frame, length] of runs) giveBack(region.asRegion, frame, length);
      };
    },
    reclaims: (what: () => void) => {
      onReclaim = what;
    },
  };
}

test(
  'a loan lies in the region, and its frames come back with its release; twice is once',
  timebox(5, () => {
    const { core, loans, told, taken } = scene();
    const loan = loans.try(10_000) as RegionLoan;
    assert.ok(loan.inRegion);
    assert.equal([loan.length, loan.data.length, loans.out, taken()], [10_000, 10_000, 1, 4]);
    assert.is(loan.data.buffer, core.bytes.buffer);
    assert.is(loan.data, loan.data);
    loan.release();
    assert.equal([loans.out, taken(), told], [0, 0, ['returned']]);
    loan.release();
    assert.equal([loans.out, told], [0, ['returned']]);
    assert.is(thrownBy(() => loan.data).code, 'ERR_ISTHMUS_RELEASED');
    assert.is(thrownBy(() => loan.check()).code, 'ERR_ISTHMUS_RELEASED');
  }),
);

test(
  'without a region, of no bytes, or of more than the region could ever have: memory of the process',
  timebox(5, () => {
    const { a, region, loans, taken } = scene();
    for (const length of [0, region.capacity + 1]) {
      const loan = loans.try(length) as RegionLoan;
      assert.equal([loan.inRegion, loan.data.length, loan.place], [false, length, undefined]);
      loan.release();
    }
    a.detach();
    const loan = loans.try(100) as RegionLoan;
    assert.equal([loan.inRegion, loan.data.length, taken()], [false, 100, 0]);
    loan.release();
    assert.is(loans.out, 0);
  }),
);

test(
  'a region that is detached lends nothing',
  timebox(5, () => {
    const { region, loans } = scene();
    region.attached = false;
    assert.not(loans.try(100)?.inRegion);
  }),
);

test(
  'without room none now, unless frames that peers gave back are found',
  timebox(5, () => {
    const { loans, told, full, reclaims } = scene();
    const empty = full();
    assert.is(loans.try(5000), undefined);
    assert.equal([loans.out, told], [0, ['reclaim']]);
    reclaims(empty);
    const loan = loans.try(5000);
    assert.ok(loan?.inRegion);
    loan.release();
  }),
);

/** Let the first pauses pass, which are turns of the event loop. */
async function turns(clock: FakeClock): Promise<void> {
  for (let i = 0; i < 4; i++) await clock.advance(0);
}

test(
  'get waits for room, with pauses that grow to 10 ms',
  timebox(5, async () => {
    using clock = new FakeClock();
    const { loans, told, full } = scene();
    const empty = full();
    let loan: RegionLoan | undefined;
    const got = loans.get(5000, undefined).then((one) => {
      loan = one as RegionLoan;
    });
    await turns(clock);
    await clock.advance(1000);
    assert.is(loan, undefined);
    const tries = told.splice(0).length;
    assert.ok(tries > 90 && tries < 130, `${tries} tries in a second`);
    empty();
    await clock.advance(10);
    await got;
    assert.ok(loan?.inRegion);
    assert.is(clock.pending, 0);
  }),
);

test(
  'get ends with its signal, and with the connection',
  timebox(5, async () => {
    using clock = new FakeClock();
    const { a, loans, full } = scene();
    assert.ok(await loans.get(10, undefined), 'at once where there is room');
    full();
    const controller = new AbortController();
    const aborted = rejection(loans.get(5000, controller.signal));
    const ended = rejection(loans.get(5000, undefined));
    await turns(clock);
    await clock.advance(50);
    const reason = new Error('enough');
    controller.abort(reason);
    await clock.advance(20);
    assert.is(await aborted, reason as unknown);
    const died = new IsthmusError('ERR_ISTHMUS_PEER_DIED', 'it died');
    a.cut(died);
    await clock.advance(20);
    assert.is(await ended, died);
    assert.is(clock.pending, 0);
    assert.is(await rejection(loans.get(10, undefined)), died, 'also where there is room');
    assert.is(await rejection(loans.get(10, controller.signal)), reason as unknown);
  }),
);

test(
  'a loan that was sent is not the application’s any more; its run is the message’s',
  timebox(5, () => {
    const { loans, told, taken } = scene();
    const loan = loans.try(5000) as RegionLoan;
    loan.spend();
    assert.equal([loans.out, told], [0, ['returned']]);
    assert.is(thrownBy(() => loan.data).code, 'ERR_ISTHMUS_RELEASED');
    loan.release();
    assert.is(taken(), 3, 'it is not given back here');
    assert.ok(loan.place);
  }),
);

test(
  'loans come back in any order; the owner is told with the last one',
  timebox(5, () => {
    const { loans, told, taken } = scene();
    for (const order of [
      [0, 1, 2, 3],
      [3, 2, 1, 0],
      [1, 3, 0, 2],
      [2, 0, 3, 1],
    ]) {
      told.splice(0);
      const all = Array.from({ length: 4 }, (_, i) => loans.try(100 + i) as RegionLoan);
      for (const [i, which] of order.entries()) {
        assert.equal(told, []);
        assert.is(loans.out, 4 - i);
        all[which]!.release();
      }
      assert.equal([told, loans.out, taken()], [['returned'], 0, 0]);
    }
  }),
);

test(
  'a loan is of the connection that lent it',
  timebox(5, () => {
    const [one, two] = [scene(), scene()];
    const loan = one.loans.try(10) as RegionLoan;
    assert.ok(loan.isOf(one.loans));
    assert.not(loan.isOf(two.loans));
  }),
);

test(
  'when the region goes away, the bytes of its loans are kept, and only those that are out',
  timebox(5, () => {
    const { core, region, loans, told } = scene();
    const other = scene();
    const [seen, unseen, back, outside] = [1000, 2000, 3000, 0].map((length) => loans.try(length) as RegionLoan) as [
      RegionLoan,
      RegionLoan,
      RegionLoan,
      RegionLoan,
    ];
    seen.data.fill(7);
    back.release();
    assert.equal(loans.abandon(other.core), []);
    const places = [seen, unseen].map(({ place, length }) => ({ offset: place!.run.address, length }));
    assert.equal(loans.abandon(core), places);
    region.attached = false;
    assert.equal([seen.inRegion, unseen.inRegion, seen.place], [false, false, undefined]);
    assert.ok(seen.data.every((byte) => byte === 7));
    assert.equal([unseen.data.length, outside.data.length], [2000, 0], 'and can be looked at');
    assert.equal(loans.abandon(core), [], 'once');
    for (const loan of [seen, unseen, outside]) loan.release();
    assert.equal([loans.out, told], [0, ['returned']]);
  }),
);

test(
  'a loan of a region that is gone gives nothing back',
  timebox(5, () => {
    const { core, region, loans } = scene();
    const loan = loans.try(1000) as RegionLoan;
    const before = core.tags().length;
    region.attached = false;
    loan.release();
    assert.is(core.tags().length, before);
    assert.is(loans.out, 0);
  }),
);

test.run();

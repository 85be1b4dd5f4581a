/** Which thread of a process leads: threads that hear each other, in time that passes when a test says so. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Leadership, MAX_SILENCE_MS } from '../../host/control/leadership.js';
import { FakeClock } from '../support/clock.js';
import { timebox } from '../support/timebox.js';

/** Time for a leader to answer. */
const ANSWER_MS = 250;

/** Threads of one process; a deaf one neither hears nor is heard. */
class Process {
  readonly threads = new Map<number, Leadership>();
  readonly deaf = new Set<number>();
  readonly events: string[] = [];

  start(number: number): Leadership {
    const thread = new Leadership(number, {
      send: (kind) => {
        for (const [other, leadership] of this.threads) {
          if (other === number || this.deaf.has(number) || this.deaf.has(other)) continue;
          // As over a channel: not before this call has returned.
          queueMicrotask(() => (kind === 'query' ? leadership.onWho() : leadership.onLead(number)));
        }
      },
      changed: (leading) => this.events.push(`${number} ${leading ? 'leads' : 'follows'}`),
      newLeader: () => this.events.push(`${number} has a new leader`),
    });
    this.threads.set(number, thread);
    thread.start();
    return thread;
  }

  get leaders(): number[] {
    return [...this.threads].filter(([, { leading }]) => leading).map(([number]) => number);
  }

  /** One heartbeat of each thread. */
  async beat(clock: FakeClock): Promise<void> {
    for (const [number, thread] of this.threads) {
      if (thread.leading) {
        for (const [other, leadership] of this.threads) {
          if (other !== number && !this.deaf.has(number) && !this.deaf.has(other)) leadership.onLead(number);
        }
      } else {
        thread.checkLeader();
      }
    }
    await clock.advance(1000);
  }
}

function check(name: string, body: (clock: FakeClock, process: Process) => Promise<void>): void {
  test(
    name,
    timebox(5, async () => {
      using clock = new FakeClock();
      await body(clock, new Process());
      assert.is(clock.pending, 0, 'no timer is left');
    }),
  );
}

check('the main thread leads at once, also when another one did', async (clock, process) => {
  process.start(3);
  await clock.advance(ANSWER_MS);
  assert.equal(process.leaders, [3]);
  process.start(0);
  await clock.advance(0);
  assert.equal(process.leaders, [0]);
  assert.equal(process.events, ['3 leads', '0 leads', '3 follows', '3 has a new leader']);
});

check('another thread leads when none answers in time, and follows one that does', async (clock, process) => {
  const first = process.start(4);
  await clock.advance(ANSWER_MS - 1);
  assert.not(first.leading);
  await clock.advance(1);
  assert.ok(first.leading);
  process.start(2);
  await clock.advance(0);
  assert.is(clock.pending, 0, 'answered: the question is over');
  await clock.advance(ANSWER_MS);
  await process.beat(clock);
  assert.equal(process.leaders, [4]);
  assert.equal(process.events, ['4 leads', '2 has a new leader']);
});

check('of two that lead the one with the lower number stays', async (clock, process) => {
  process.deaf.add(5);
  process.start(2);
  process.start(5);
  await clock.advance(ANSWER_MS);
  assert.equal(process.leaders, [2, 5]);
  process.deaf.clear();
  process.threads.get(2)?.onLead(5);
  await clock.advance(0);
  assert.equal(process.leaders, [2]);
});

check('a leader that is leaving, or silent for too long, is replaced', async (clock, process) => {
  process.start(0);
  const second = process.start(1);
  process.start(2);
  await clock.advance(0);
  const before = [...process.events];
  second.onLeft(2);
  await clock.advance(ANSWER_MS);
  assert.equal(process.events, before, 'one that did not lead is not replaced');
  assert.equal(process.leaders, [0]);
  process.threads.delete(0);
  second.onLeft(0);
  await clock.advance(ANSWER_MS);
  assert.equal(process.leaders, [1]);
  process.deaf.add(1);
  process.threads.delete(1);
  for (let ms = 0; ms <= MAX_SILENCE_MS; ms += 1000) {
    assert.equal(process.leaders, []);
    await process.beat(clock);
  }
  await process.beat(clock);
  assert.equal(process.leaders, [2]);
});

check('a thread that stops while it asks does not lead', async (clock, process) => {
  const thread = process.start(7);
  thread.stop();
  await clock.advance(10 * ANSWER_MS);
  assert.not(thread.leading);
  assert.equal(process.events, []);
});

test.run();

/** The alarm of the poller's pauses: once, late rather than early, and not after it was cleared. */
import { setTimeout as pause } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { addon } from '../../host/native/native.js';
import { type Alarm, newAlarm } from '../../host/polling/alarm.js';
import { timebox } from '../support/timebox.js';

/** With the native addon; and without a descriptor for its timer. */
const KINDS: readonly [string, (callback: () => void) => Alarm][] = [
  ['fine', newAlarm],
  [
    'coarse',
    (callback) => {
      const native = addon() as { Timer: unknown };
      const { Timer } = native;
      native.Timer = class {
        constructor() {
          throw Object.assign(new Error('timerfd_create: EMFILE'), { code: 'EMFILE' });
        }
      };
      try {
        return newAlarm(callback);
      } finally {
        native.Timer = Timer;
      }
    },
  ],
];

for (const [kind, make] of KINDS) {
  test(
    `${kind}: calls once for each time that it was set, and not before its time`,
    timebox(20, async () => {
      let calls = 0;
      let called = () => {};
      const alarm = make(() => {
        calls++;
        called();
      });
      // An alarm keeps no process alive.
      const alive = setInterval(() => {}, 1000);
      for (const milliseconds of [5, 0.05]) {
        const before = performance.now();
        const over = new Promise<void>((resolve) => {
          called = resolve;
        });
        alarm.set(milliseconds);
        await over;
        // Timers of Node count whole milliseconds.
        assert.ok(performance.now() - before >= Math.floor(milliseconds) - 1, `${milliseconds} ms`);
      }
      await pause(20);
      assert.is(calls, 2);
      alarm.set(5);
      alarm.clear();
      await pause(30);
      assert.is(calls, 2, 'cleared');
      alarm.set(1);
      alarm.set(60_000);
      await pause(30);
      assert.is(calls, 2, 'set anew');
      alarm.set(5);
      alarm.close();
      await pause(30);
      assert.is(calls, 2, 'closed');
      clearInterval(alive);
    }),
  );
}

test(
  'the fine one is finer',
  timebox(20, async () => {
    const alive = setInterval(() => {}, 1000);
    const times: number[] = [];
    let called = () => {};
    const alarm = newAlarm(() => called());
    for (let i = 0; i < 50; i++) {
      const before = performance.now();
      const over = new Promise<void>((resolve) => {
        called = resolve;
      });
      alarm.set(0.05);
      await over;
      times.push(performance.now() - before);
    }
    alarm.close();
    clearInterval(alive);
    // Of a loaded machine the slow ones say nothing. A timer of Node takes about a millisecond.
    const [, , , , , fast] = times.sort((a, b) => a - b);
    assert.ok(fast! < 0.5, `${fast} ms`);
  }),
);

test.run();

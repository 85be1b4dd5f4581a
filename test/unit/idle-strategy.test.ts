/** How a runtime waits, turn by turn: against an event loop and a clock of the test's own. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Wait } from '../../host/config/config.js';
import type { Alarm } from '../../host/polling/alarm.js';
import {
  type EventLoop,
  EventLoopIdleStrategy,
  FALLBACK_POLL_MS,
  MAX_IDLE_TURN_MS,
  PAUSES,
  SPIN_MS,
  SPIN_ROUNDS,
  type TrySleep,
} from '../../host/polling/idle-strategy.js';
import { MAX_SPIN_MS, MIN_PROBE_PAUSE_MS, PREEMPTED_MS } from '../../host/polling/spin-account.js';
import { timebox } from '../support/timebox.js';

class Loop implements EventLoop {
  /** In milliseconds. */
  time = 1000;
  readonly immediates = new Map<number, () => void>();
  alarm: { at: number | undefined; callback: () => void; closed: boolean } | undefined;
  #last = 0;

  now(): number {
    return this.time;
  }

  setImmediate(callback: () => void): NodeJS.Immediate {
    this.immediates.set(++this.#last, callback);
    return this.#last as unknown as NodeJS.Immediate;
  }

  clearImmediate(immediate: NodeJS.Immediate | undefined): void {
    this.immediates.delete(immediate as unknown as number);
  }

  newAlarm(callback: () => void): Alarm {
    assert.is(this.alarm, undefined, 'one is enough');
    const alarm = { at: undefined as number | undefined, callback, closed: false };
    this.alarm = alarm;
    return {
      set: (ms) => {
        alarm.at = this.time + ms;
      },
      clear: () => {
        alarm.at = undefined;
      },
      close: () => {
        alarm.closed = true;
      },
    };
  }

  /** One turn, some time after the one before. */
  turn(after = 0): void {
    this.time += after;
    const due = [...this.immediates.values()];
    this.immediates.clear();
    for (const callback of due) callback();
  }

  /** The pause that the alarm is set to; undefined: it is not set. */
  get pause(): number | undefined {
    const at = this.alarm?.at;
    return at === undefined ? undefined : Math.round((at - this.time) * 1000) / 1000;
  }

  ring(): void {
    const { alarm } = this;
    if (!alarm || alarm.at === undefined) throw new Error('the alarm is not set');
    this.time = Math.max(this.time, alarm.at);
    alarm.at = undefined;
    alarm.callback();
  }
}

function scene(wait: Wait, state: ReturnType<TrySleep> = 'quiet') {
  const loop = new Loop();
  /** Rounds of each pass, and `sleep` for each attempt to sleep. */
  const seen: (number | 'sleep')[] = [];
  const answers = { found: false, state, polled: () => {} };
  const idle = new EventLoopIdleStrategy(
    wait,
    (rounds) => {
      seen.push(rounds);
      answers.polled();
      return answers.found;
    },
    () => {
      seen.push('sleep');
      return answers.state;
    },
    loop,
  );
  return { loop, idle, answers, seen: () => seen.splice(0) };
}

/** Turns without anything to find, until the strategy tries to sleep. */
function rest({ loop, seen }: ReturnType<typeof scene>): void {
  loop.turn(SPIN_MS);
  assert.equal(seen(), [0, 'sleep']);
}

test(
  'woken: polls in the next turn, once however often it was woken',
  timebox(5, () => {
    const { loop, idle, seen } = scene('adaptive');
    assert.is(loop.immediates.size, 0);
    idle.wake();
    idle.wake();
    assert.is(loop.immediates.size, 1);
    assert.equal(seen(), [], 'not at once');
    loop.turn();
    assert.equal(seen(), [0]);
    assert.is(loop.immediates.size, 1, 'and goes on');
  }),
);

test(
  'adaptive: spins while the event loop has nothing else to do, for as long as its account pays',
  timebox(5, () => {
    const { loop, idle, answers, seen } = scene('adaptive');
    idle.wake();
    assert.ok(idle.spins);
    loop.turn();
    assert.equal(seen(), [0], 'how long the turn before took is not known');
    loop.turn(MAX_IDLE_TURN_MS * 0.9);
    assert.equal(seen(), [SPIN_ROUNDS]);
    loop.turn(MAX_IDLE_TURN_MS * 1.1);
    assert.equal(seen(), [0], 'a busy loop');
    answers.found = true;
    loop.turn(0.01);
    answers.found = false;
    seen();
    const found = loop.time;
    loop.turn(MAX_IDLE_TURN_MS * 0.9);
    assert.equal(seen(), [SPIN_ROUNDS], 'it is free again');
    loop.time = found + MAX_SPIN_MS - 0.001;
    loop.turn(0);
    assert.equal(seen(), [0], 'the time since the last activity counts, not that since it was woken');
    loop.turn(0.002);
    assert.equal(seen(), [0, 'sleep']);
    assert.is(loop.immediates.size, 0);
    assert.is(loop.pause, PAUSES[0].pauseMs);
  }),
);

test(
  'adaptive: behind waits in vain it sleeps at once, but for a probe now and then',
  timebox(5, () => {
    const one = scene('adaptive', 'asleep');
    const { loop, idle, seen } = one;
    idle.wake();
    rest(one);
    assert.not(idle.spins);
    for (let i = 0; i < 2; i++) {
      // The first one is the probe that an empty account lends.
      idle.rung();
      loop.turn(1);
      assert.equal(seen(), i === 0 ? [0] : [0, 'sleep']);
      if (i === 0) rest(one);
    }
    idle.rung();
    loop.turn(MIN_PROBE_PAUSE_MS * 2);
    assert.equal(seen(), [0]);
    assert.is(loop.immediates.size, 1, 'the next probe');
  }),
);

test(
  'adaptive: where a peer cannot ring, each wait spins, since a timer would find its message late',
  timebox(5, () => {
    const one = scene('adaptive', 'quiet');
    const { loop, idle, seen } = one;
    idle.wake();
    rest(one);
    for (let i = 0; i < 5; i++) {
      idle.wake();
      loop.turn(0.01);
      loop.turn(SPIN_MS - 0.02);
      assert.equal(seen(), [0, 0]);
      assert.ok(idle.spins);
      loop.turn(0.02);
      assert.equal(seen(), [0, 'sleep']);
    }
  }),
);

test(
  'adaptive: a pass that takes too long has lost the processor to another process: no more spinning',
  timebox(5, () => {
    for (const [took, spinsOn] of [
      [PREEMPTED_MS * 0.9, true],
      [PREEMPTED_MS * 1.1, false],
    ] as const) {
      const { loop, idle, answers, seen } = scene('adaptive', 'asleep');
      idle.wake();
      // Fill the account.
      answers.found = true;
      for (let i = 0; i < 100; i++) loop.turn(0.001);
      answers.found = false;
      seen();
      answers.polled = () => {
        loop.time += took;
      };
      loop.turn(0.001);
      assert.equal(seen(), spinsOn ? [SPIN_ROUNDS] : [SPIN_ROUNDS, 'sleep']);
      assert.is(idle.spins, spinsOn);
    }
  }),
);

test(
  'adaptive: what is found without spinning earns nothing, and a wait that begins anew does not lose its probe',
  timebox(5, () => {
    const one = scene('adaptive', 'asleep');
    const { loop, idle, answers, seen } = one;
    idle.wake();
    rest(one);
    assert.not(idle.spins);
    // The pass itself posts a receive, and finds something: a doorbell or a timer has led to it.
    answers.polled = () => idle.wake();
    answers.found = true;
    idle.rung();
    loop.turn(1);
    assert.equal(seen(), [0]);
    assert.not(idle.spins, 'nothing is earned');
    answers.polled = () => {};
    answers.found = false;
    // The probe of that wait has been decided, and is over: a later wait begins twice, and gets the next one.
    rest(one);
    idle.rung();
    idle.rung();
    loop.turn(MIN_PROBE_PAUSE_MS * 3);
    assert.equal(seen(), [0]);
    assert.is(loop.immediates.size, 1, 'the next probe');
  }),
);

test(
  'adaptive: where something keeps it awake it polls on, but does not spin',
  timebox(5, () => {
    const { loop, idle, seen } = scene('adaptive', 'busy');
    idle.wake();
    loop.turn(SPIN_MS);
    loop.turn(MAX_IDLE_TURN_MS / 2);
    assert.equal(seen(), [0, 'sleep', 0, 'sleep']);
  }),
);

test(
  'what is woken by its own pass polls in the next turn, without trying to sleep',
  timebox(5, () => {
    const { loop, idle, answers, seen } = scene('block');
    idle.wake();
    answers.polled = () => idle.wake();
    loop.turn();
    assert.equal(seen(), [0]);
    assert.is(loop.immediates.size, 1);
  }),
);

test(
  'spin: never sleeps; block: never spins',
  timebox(5, () => {
    const spin = scene('spin');
    spin.idle.wake();
    spin.loop.turn();
    for (let i = 0; i < 5; i++) spin.loop.turn(MAX_IDLE_TURN_MS / 2);
    spin.loop.turn(1e6);
    spin.loop.turn(MAX_IDLE_TURN_MS / 2);
    const [first, ...others] = spin.seen();
    assert.is(first, 0);
    assert.equal(others, [...Array<number>(5).fill(SPIN_ROUNDS), 0, SPIN_ROUNDS]);
    assert.is(spin.loop.immediates.size, 1);
    const block = scene('block');
    block.idle.wake();
    block.loop.turn();
    assert.equal(block.seen(), [0, 'sleep']);
    block.answers.found = true;
    block.loop.ring();
    assert.equal(block.seen(), [0, 'sleep']);
    assert.is(block.loop.pause, PAUSES[0].pauseMs);
  }),
);

test(
  'quiet: the timer polls, less and less often',
  timebox(5, () => {
    const one = scene('adaptive', 'quiet');
    const { loop, idle, answers, seen } = one;
    idle.wake();
    const start = loop.time;
    rest(one);
    assert.is(loop.pause, 0.05);
    for (const [passed, pause] of [
      [4.9, 0.05],
      [5, 0.2],
      [19.9, 0.2],
      [20, 1],
      [100, 4],
      [500, 10],
      [1e6, 10],
    ] as const) {
      loop.time = start + passed;
      loop.ring();
      assert.equal(seen(), [0, 'sleep']);
      assert.is(loop.pause, pause, `after ${passed} ms`);
    }
    answers.found = true;
    loop.ring();
    assert.equal(seen(), [0], 'it has found something: no pause');
    assert.is(loop.pause, undefined);
    assert.is(loop.immediates.size, 1);
  }),
);

test(
  'asleep: left to the doorbell, and polled now and then all the same',
  timebox(5, () => {
    const one = scene('adaptive', 'asleep');
    const { loop, idle, seen } = one;
    idle.wake();
    rest(one);
    for (let i = 0; i < 3; i++) {
      assert.is(loop.pause, FALLBACK_POLL_MS);
      loop.ring();
      assert.equal(seen(), [0, 'sleep']);
    }
  }),
);

test(
  'busy: what has come after all is polled without a pause',
  timebox(5, () => {
    const { loop, idle, seen } = scene('block', 'busy');
    idle.wake();
    for (let i = 0; i < 3; i++) {
      loop.turn(10);
      assert.equal(seen(), [0, 'sleep']);
      assert.is(loop.immediates.size, 1);
    }
    assert.is(loop.alarm, undefined);
  }),
);

test(
  'woken in a pause: the pause is over, and its alarm stays for the next one',
  timebox(5, () => {
    const one = scene('adaptive', 'asleep');
    const { loop, idle, seen } = one;
    idle.wake();
    rest(one);
    loop.time += 50;
    idle.wake();
    assert.is(loop.immediates.size, 1);
    loop.turn();
    assert.equal(seen(), [0], 'and counts as activity');
    loop.turn(MAX_IDLE_TURN_MS / 2);
    assert.equal(seen(), [SPIN_ROUNDS]);
    rest(one);
    const { pause = 0 } = loop;
    assert.ok(pause > 40 && pause < 50, 'set once: each setting is a system call');
    loop.ring();
    assert.equal(seen(), [0, 'sleep'], 'it goes off early, which does no harm');
    assert.is(loop.pause, FALLBACK_POLL_MS);
  }),
);

test(
  'the doorbell: polls in the next turn, and counts as activity from there on',
  timebox(5, () => {
    const one = scene('adaptive', 'asleep');
    const { loop, idle, seen } = one;
    idle.wake();
    rest(one);
    loop.time += 50;
    idle.rung();
    idle.rung();
    assert.is(loop.immediates.size, 1);
    loop.turn(1);
    assert.equal(seen(), [0]);
    loop.turn(MAX_IDLE_TURN_MS / 2);
    assert.equal(seen(), [SPIN_ROUNDS]);
    rest(one);
    assert.ok(Math.abs((loop.pause ?? 0) - 47) < 0.01, 'the alarm has stayed as it was');
    loop.turn();
    assert.equal(seen(), [], 'it rang once');
  }),
);

test(
  'the alarm comes before the turn that the doorbell asked for: one pass for both',
  timebox(5, () => {
    const one = scene('adaptive', 'asleep');
    const { loop, idle, seen } = one;
    idle.wake();
    rest(one);
    idle.rung();
    loop.ring();
    assert.equal(seen(), [0]);
    assert.is(loop.immediates.size, 1, 'the next turn, and not that of the doorbell as well');
    assert.is(loop.pause, undefined);
  }),
);

test(
  'stopped: nothing is left that could poll',
  timebox(5, () => {
    for (const rings of [false, true]) {
      const one = scene('adaptive', 'asleep');
      const { loop, idle, seen } = one;
      idle.wake();
      rest(one);
      if (rings) idle.rung();
      idle.stop();
      assert.is(loop.immediates.size, 0);
      assert.ok(loop.alarm?.closed);
      idle.wake();
      idle.rung();
      assert.is(loop.immediates.size, 0);
      // As the callback of a doorbell that had begun.
      loop.alarm?.callback();
      assert.equal(seen(), []);
    }
  }),
);

test(
  'stopped by what it polls: it neither sleeps nor polls again',
  timebox(5, () => {
    const { loop, idle, answers, seen } = scene('block');
    idle.wake();
    answers.polled = () => idle.stop();
    loop.turn();
    assert.equal(seen(), [0]);
    assert.is(loop.immediates.size, 0);
  }),
);

test.run();

/** Which connections a poller serves, in which order, and which it leaves alone. On private cores, without sockets. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Core } from '../../host/core/core.js';
import { EventLoopTurns } from '../../host/polling/event-loop-turns.js';
import type { IdleStrategy, PollOnce, TrySleep } from '../../host/polling/idle-strategy.js';
import { MAX_BATCH, type Pollable, Poller, RECLAIM_MS } from '../../host/polling/poller.js';
import { newCore, Pair, type TestCore } from '../support/core.js';
import { timebox } from '../support/timebox.js';

/** An idle strategy that only writes down what it is told. */
class Idle implements IdleStrategy {
  readonly spins = false;
  readonly pollOnce: PollOnce;
  readonly trySleep: TrySleep;
  readonly told: string[];

  constructor(pollOnce: PollOnce, trySleep: TrySleep, told: string[]) {
    this.pollOnce = pollOnce;
    this.trySleep = trySleep;
    this.told = told;
  }

  wake(): void {
    this.told.push('wake');
  }

  rung(): void {
    this.told.push('rung');
  }

  stop(): void {
    this.told.push('stop');
  }
}

/** A core that counts what the poller asks of it. */
class Watched {
  readonly test: TestCore;
  readonly core: Core;
  /** Arguments of each `poll`. */
  readonly polls: number[] = [];

  constructor() {
    this.test = newCore(4);
    const { call } = this.test;
    const poll = (rounds: number) => {
      this.polls.push(rounds);
      return call.poll(rounds);
    };
    this.core = Object.create(this.test, { call: { value: { ...call, poll } } }) as Core;
  }
}

/** A connection that takes one message at a time, as long as `takes` says so. */
class Fake implements Pollable {
  readonly core: Core;
  readonly pair: Pair;
  readonly index: number;
  waitsForRoom = false;
  takes = true;
  readonly #name: string;
  readonly #served: string[];

  constructor({ core, test: memory }: Watched, name: string, served: string[]) {
    this.core = core;
    this.pair = new Pair(memory, 8192);
    this.index = this.pair.b;
    this.#name = name;
    this.#served = served;
  }

  send(count = 1): this {
    for (let i = 0; i < count; i++) assert.ok(this.pair.send(new Uint8Array(8)), 'the ring is full');
    return this;
  }

  progress(): boolean {
    this.#served.push(this.#name);
    if (!this.takes) return false;
    return this.pair.receive() !== undefined;
  }
}

function scene() {
  /** Names of connections in the order in which they were served, and what the idle strategy was told. */
  const told: string[] = [];
  let idle!: Idle;
  const poller = new Poller('adaptive', (pollOnce, trySleep) => {
    idle = new Idle(pollOnce, trySleep, told);
    return idle;
  });
  const watched = new Watched();
  const connection = (name: string, on = watched) => {
    const fake = new Fake(on, name, told);
    poller.add(fake);
    told.splice(0);
    return fake;
  };
  return {
    told,
    poller,
    idle,
    watched,
    connection,
    /** What one pass serves; whether there was something. */
    pass: (rounds = 0): [string, boolean] => {
      told.splice(0);
      const active = idle.pollOnce(rounds);
      return [told.splice(0).join(''), active];
    },
  };
}

/** The timer with which the poller looks for connections that are not polled directly any more; `tick` lets it pass. */
function intervals(): { tick(): void; running(): number; restore(): void } {
  const { setInterval: makes, clearInterval: clears } = globalThis;
  const timers = new Map<object, () => void>();
  globalThis.setInterval = ((callback: () => void, ms: number) => {
    assert.is(ms, RECLAIM_MS);
    const timer = { unref: () => timer };
    timers.set(timer, callback);
    return timer;
  }) as unknown as typeof setInterval;
  globalThis.clearInterval = ((timer: object) => timers.delete(timer)) as unknown as typeof clearInterval;
  return {
    tick: () => {
      for (const callback of [...timers.values()]) callback();
    },
    running: () => timers.size,
    restore: () => {
      globalThis.setInterval = makes;
      globalThis.clearInterval = clears;
    },
  };
}

test(
  'rings are served in turn, one step each',
  timebox(5, () => {
    const { connection, pass } = scene();
    const [a, b, c] = ['a', 'b', 'c'].map((name) => connection(name));
    assert.equal(pass(), ['', false], 'nothing came');
    a!.send(3);
    b!.send(1);
    c!.send(2);
    const [served, active] = pass();
    assert.ok(active);
    assert.is(served.length, 6);
    assert.equal([...served.slice(0, 3)].sort(), ['a', 'b', 'c'], 'each once before one comes twice');
    assert.equal([...served.slice(3, 5)].sort(), ['a', 'c']);
    assert.is(served[5], 'a');
    assert.equal(pass(), ['', false]);
  }),
);

test(
  'a pass serves a bounded number for each core, and the rest with the next one',
  timebox(5, () => {
    const { connection, pass } = scene();
    connection('a').send(MAX_BATCH + 10);
    connection('b', new Watched()).send(MAX_BATCH + 20);
    const [first, active] = pass();
    assert.is(first, 'a'.repeat(MAX_BATCH) + 'b'.repeat(MAX_BATCH));
    assert.ok(active);
    assert.equal(pass(), ['a'.repeat(10) + 'b'.repeat(20), true]);
    assert.equal(pass(), ['', false]);
  }),
);

test(
  'only the first poll of a core looks many times',
  timebox(5, () => {
    const { connection, pass, watched } = scene();
    connection('a').send(2);
    pass(7);
    assert.equal(watched.polls, [7, 0, 0]);
  }),
);

test(
  'a connection that is added is polled, and the runtime awake',
  timebox(5, () => {
    const { poller, told, watched, pass } = scene();
    const fake = new Fake(watched, 'a', told).send();
    poller.add(fake);
    assert.equal(told, ['wake']);
    assert.equal(pass(), ['a', true]);
  }),
);

test(
  'what came behind a pause is found by its ready bit',
  timebox(5, () => {
    const { connection, pass, idle } = scene();
    const [a] = ['a', 'b'].map((name) => connection(name));
    assert.is(idle.trySleep(), 'quiet');
    a!.send();
    assert.equal(pass(), ['a', true]);
  }),
);

test(
  'a connection whose application takes nothing is left, until it is polled again',
  timebox(5, () => {
    const { connection, pass, poller, told, watched } = scene();
    const a = connection('a').send();
    a.takes = false;
    assert.equal(pass(), ['a', false], 'asked once');
    assert.equal(watched.polls, [0, 0], 'and then found no more');
    assert.equal(pass(), ['', false]);
    poller.pollAgain(a);
    assert.equal(told, ['wake']);
    a.takes = true;
    assert.equal(pass(), ['a', true]);
  }),
);

test(
  'a blocked connection is polled at each pass, and keeps the runtime from sleeping',
  timebox(5, () => {
    const { connection, pass, idle, watched } = scene();
    watched.core.sleeper = { heard: true, rung: () => {} };
    const a = connection('a').send();
    a.takes = false;
    a.waitsForRoom = true;
    for (let i = 0; i < 3; i++) {
      assert.equal(pass(), ['a', false]);
      assert.is(idle.trySleep(), 'quiet', 'no peer rings for room');
    }
    a.waitsForRoom = false;
    assert.equal(pass(), ['a', false], 'for the last time');
    assert.equal(pass(), ['', false]);
    assert.is(idle.trySleep(), 'asleep');
  }),
);

test(
  'before a pause: busy, quiet or asleep, by all cores together',
  timebox(5, () => {
    const { connection, idle, pass, watched, poller } = scene();
    assert.is(idle.trySleep(), 'asleep', 'no connections');
    const a = connection('a');
    assert.is(idle.trySleep(), 'quiet', 'no doorbell');
    watched.core.sleeper = { heard: true, rung: () => {} };
    assert.is(idle.trySleep(), 'asleep');
    watched.core.sleeper = { heard: false, rung: () => {} };
    assert.is(idle.trySleep(), 'quiet', 'one peer cannot ring');
    watched.core.sleeper = { heard: true, rung: () => {} };
    const other = new Watched();
    const b = connection('b', other);
    assert.is(idle.trySleep(), 'quiet', 'one core without a doorbell');
    b.send();
    poller.pollAgain(b);
    assert.is(idle.trySleep(), 'busy');
    assert.ok(b.pair.receive());
    poller.pollAgain(a);
    a.send();
    assert.is(idle.trySleep(), 'busy', 'busy of the first core stays');
    assert.equal(pass(), ['a', true]);
    poller.remove(b);
    assert.is(idle.trySleep(), 'asleep', 'the other core is not asked any more');
  }),
);

test(
  'a connection that is polled directly is left alone',
  timebox(5, () => {
    const clock = intervals();
    try {
      const { connection, pass, poller, watched, told } = scene();
      const a = connection('a');
      const direct = poller.startDirect(a);
      assert.ok(direct.valid);
      assert.is(poller.startDirect(a), direct, 'one at a time');
      a.send();
      assert.equal(pass(), ['', false]);
      assert.equal(watched.polls.splice(0), [0], 'not even found');
      // As a ready bit does.
      watched.core.call.addToPollSet(a.index);
      assert.equal(pass(), ['', false]);
      assert.equal(watched.polls, [0, 0], 'found once');
      poller.pollAgain(a);
      assert.not(direct.valid);
      assert.equal(told, ['wake']);
      assert.equal(pass(), ['a', true]);
      assert.is.not(poller.startDirect(a), direct);
      poller.stop();
    } finally {
      clock.restore();
    }
  }),
);

test(
  'a connection that is not polled directly for a while is taken back',
  timebox(5, () => {
    const clock = intervals();
    try {
      const { connection, pass, poller, told } = scene();
      const [a, b] = ['a', 'b'].map((name) => connection(name).send()) as [Fake, Fake];
      const direct = poller.startDirect(a);
      const other = poller.startDirect(b);
      assert.is(clock.running(), 1, 'one timer for all');
      clock.tick();
      assert.ok(direct.valid && other.valid, 'both were polled in that time');
      direct.used = true;
      clock.tick();
      assert.ok(direct.valid);
      assert.not(other.valid);
      assert.equal(told, ['wake']);
      assert.equal(pass(), ['b', true]);
      poller.startDirect(a);
      clock.tick();
      assert.ok(direct.valid, 'asking again is polling');
      clock.tick();
      assert.not(direct.valid);
      assert.is(clock.running(), 0);
      assert.equal(pass(), ['a', true]);
    } finally {
      clock.restore();
    }
  }),
);

test(
  'a connection that waits for room is not left to its application',
  timebox(5, () => {
    const { connection, pass, poller } = scene();
    const a = connection('a').send();
    a.waitsForRoom = true;
    assert.not(poller.startDirect(a).valid);
    assert.equal(pass(), ['a', true]);
  }),
);

test(
  'the doorbell: what it rang for is served at once, and the others later',
  timebox(5, () => {
    const { poller, told, connection } = scene();
    const first = new Watched();
    const second = new Watched();
    for (const { core } of [first, second]) core.sleeper = { heard: true, rung: () => {} };
    connection('a', first).send();
    const b = connection('b', second).send();
    second.core.sleeper?.rung();
    assert.equal(told.splice(0), ['b', 'rung'], 'the first core was not rung for');
    second.core.sleeper?.rung();
    assert.equal(told.splice(0), ['rung'], 'nothing came');
    const clock = intervals();
    try {
      poller.startDirect(b);
      // As a ready bit does.
      second.core.call.addToPollSet(b.index);
      b.send();
      second.core.sleeper?.rung();
      assert.equal(told.splice(0), ['rung'], 'its application polls it directly');
      poller.stop();
      told.splice(0);
      first.core.sleeper?.rung();
      assert.equal(told, [], 'stopped');
    } finally {
      clock.restore();
    }
  }),
);

test(
  'a connection that is removed is served no more, nor one of which nothing is known',
  timebox(5, () => {
    const clock = intervals();
    try {
      const { connection, pass, poller, told, watched, idle } = scene();
      const a = connection('a').send();
      const b = connection('b').send();
      const direct = poller.startDirect(a);
      poller.remove(a);
      assert.not(direct.valid);
      clock.tick();
      assert.equal(told, [], 'nor taken back');
      assert.equal(pass(), ['b', true]);
      const c = connection('c').send();
      poller.remove(c);
      watched.polls.splice(0);
      assert.equal(pass(), ['', false]);
      assert.equal(watched.polls, [0], 'not even found');
      poller.pollAgain(a);
      assert.equal(told, []);
      // Another link has its entry now.
      const next: Pollable = { core: a.core, index: a.index, waitsForRoom: false, progress: () => told.push('c') > 9 };
      poller.add(next);
      poller.remove(a);
      assert.equal(pass(), ['c', false]);
      poller.remove(next);
      poller.remove(b);
      const stray = new Fake(watched, 'd', told).send();
      connection('e');
      watched.core.call.addToPollSet(stray.index);
      watched.polls.splice(0);
      assert.equal(pass(), ['', false]);
      assert.equal(watched.polls, [0, 0], 'found once');
      assert.is(idle.trySleep(), 'quiet');
    } finally {
      clock.restore();
    }
  }),
);

test(
  'a blocked connection that is removed is forgotten',
  timebox(5, () => {
    const { connection, pass, poller, idle, watched } = scene();
    watched.core.sleeper = { heard: true, rung: () => {} };
    const a = connection('a').send();
    connection('b');
    a.takes = false;
    a.waitsForRoom = true;
    pass();
    poller.remove(a);
    assert.is(idle.trySleep(), 'asleep');
    assert.equal(pass(), ['', false]);
  }),
);

test(
  'stopped: nothing is served, and no timer is left',
  timebox(5, () => {
    const clock = intervals();
    try {
      const { connection, pass, poller, told } = scene();
      const [a, b, c] = ['a', 'b', 'c'].map((name) => connection(name).send()) as [Fake, Fake, Fake];
      b.takes = false;
      b.waitsForRoom = true;
      pass();
      poller.startDirect(a);
      c.send();
      poller.stop();
      assert.equal(told, ['stop']);
      assert.is(clock.running(), 0);
      assert.equal(pass(), ['', false]);
    } finally {
      clock.restore();
    }
  }),
);

test(
  'callers may spin but with `block`, as long as spinning pays with `adaptive`',
  timebox(5, () => {
    const spins = (['spin', 'adaptive', 'block'] as const).map((wait) => new Poller(wait).spins);
    assert.equal(spins, [true, true, false]);
  }),
);

// ── Turns of the event loop ──────────────────────────────────────────────────────────────────────────────────────────

/** Calls until one has to wait, at most `limit`. */
function calls(turns: EventLoopTurns, limit: number, cost = 1): number {
  for (let i = 1; i <= limit; i++) if (turns.due(cost) !== undefined) return i;
  return limit + 1;
}

test(
  'calls that are answered at once let the event loop turn, after a while and all together',
  timebox(5, async () => {
    let now = 100;
    const turns = new EventLoopTurns(() => now);
    assert.is(calls(turns, 100), 32);
    const due = turns.due(1);
    assert.instance(due, Promise);
    for (let i = 0; i < 100; i++) assert.is(turns.due(1), due, 'the later ones wait for the same turn');
    let turned = false;
    setImmediate(() => {
      turned = true;
    });
    let over = false;
    void due?.then(() => {
      over = true;
    });
    for (let i = 0; i < 100; i++) await Promise.resolve();
    assert.not(over, 'not within this turn');
    await due;
    assert.not(turned, 'the turn was asked for first');
    assert.is(calls(turns, 1000), 1001, 'no time has passed since');
    now += 0.99;
    assert.is(calls(turns, 1000), 1001);
    now += 0.01;
    assert.ok(calls(turns, 32) <= 32);
  }),
);

test(
  'the clock is read now and then, not for each call',
  timebox(5, () => {
    let reads = 0;
    const turns = new EventLoopTurns(() => {
      reads++;
      return 0;
    });
    assert.is(calls(turns, 320), 321);
    assert.is(reads, 10);
  }),
);

test(
  'a call that costs more counts for more',
  timebox(5, () => {
    assert.is(calls(new EventLoopTurns(() => 100), 100, 16), 2);
    assert.is(calls(new EventLoopTurns(() => 100), 100, 64), 1);
  }),
);

test(
  'the poller gives the event loop its turn',
  timebox(5, async () => {
    const poller = new Poller('block');
    let due: Promise<void> | undefined;
    for (let i = 0; i < 32; i++) {
      assert.is(due, undefined);
      due = poller.turnDue(1);
    }
    assert.instance(due, Promise);
    await due;
    poller.stop();
  }),
);

test.run();

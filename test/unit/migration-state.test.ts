/** The state machines of suspending and resuming: every event in every state, and a way out of each state. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { machines } from '../../host/core/core.js';
import { Migration } from '../../host/runtime/migration.js';
import { type ConstantName, constant } from '../support/core.js';
import { timebox } from '../support/timebox.js';

/** A constant whose name is put together. */
const number = (...parts: string[]) => constant(parts.join('_') as ConstantName);

type Table = Readonly<Record<string, Readonly<Record<string, string>>>>;

const SUSPENSION: Table = {
  NONE: { SUSPEND: 'SUSPENDING', REQ: 'RECEIVED' },
  SUSPENDING: { SENT: 'SENT', REQ: 'RECEIVED' },
  SENT: { REQ: 'SUSPENDED', ACK: 'SUSPENDED' },
  RECEIVED: { SENT: 'SUSPENDED' },
  SUSPENDED: { RESUME: 'RESUMING', UP: 'NONE' },
  RESUMING: { SUSPEND: 'SUSPENDED', UP: 'NONE' },
};
const SUSPENSION_EVENTS = ['SUSPEND', 'SENT', 'REQ', 'ACK', 'RESUME', 'UP'];

const MIGRATION: Table = {
  INACTIVE: { REQUEST: 'REQUESTED' },
  REQUESTED: { PREPARE: 'PREPARING', FAIL: 'FINISHED', RESUME: 'FINISHED' },
  PREPARING: { ALLOW: 'ALLOWED', FAIL: 'FINISHED', RESUME: 'FINISHED' },
  ALLOWED: { RESUME: 'FINISHED' },
  FINISHED: { ATTACHED: 'RESUMING' },
  RESUMING: { BACK: 'INACTIVE' },
};
const MIGRATION_EVENTS = ['REQUEST', 'PREPARE', 'ALLOW', 'FAIL', 'RESUME', 'ATTACHED', 'BACK'];

for (const [name, table, events, first] of [
  ['SUSPENSION', SUSPENSION, SUSPENSION_EVENTS, 'NONE'],
  ['MIGRATION', MIGRATION, MIGRATION_EVENTS, 'INACTIVE'],
] as const) {
  const machine = machines()[name === 'SUSPENSION' ? 'suspension' : 'migration'];
  const states = Object.keys(table);

  test(
    `${name}: every event in every state`,
    timebox(5, () => {
      assert.is(states.length, constant(`${name}_STATES`));
      assert.is(events.length, constant(`${name}_EVENTS`));
      for (const state of states) {
        for (const event of events) {
          const expected = table[state]?.[event] ?? state;
          const found = machine(number(name, state), number(name, 'EVENT', event));
          assert.is(found, number(name, expected), `${event} in ${state}`);
        }
      }
    }),
  );

  test(
    `${name}: from each state the first is reachable, and each is reachable from the first`,
    timebox(5, () => {
      const reachable = (from: string): Set<string> => {
        const seen = new Set([from]);
        for (const state of seen) for (const next of Object.values(table[state] ?? {})) seen.add(next);
        return seen;
      };
      for (const state of states) assert.ok(reachable(state).has(first), state);
      assert.is(reachable(first).size, states.length);
    }),
  );
}

test(
  'two ends, in any order of requests and messages: both are suspended, and no ACK is unexpected',
  timebox(10, () => {
    const { suspension } = machines();
    const event = (name: string) => number('SUSPENSION_EVENT', name);
    const is = (state: number, name: string) => state === number('SUSPENSION', name);
    interface End {
      state: number;
      /** Suspends at some point. */
      asks: boolean;
      /** The message that it owes: sent after the application message in progress. */
      owes: 'REQ' | 'ACK' | undefined;
      said: boolean;
    }
    interface World {
      ends: [End, End];
      /** Messages in flight to each end, in order. */
      lines: [string[], string[]];
    }
    const seen = new Set<string>();
    let ends = 0;
    const walk = (world: World): void => {
      const key = JSON.stringify(world);
      if (seen.has(key)) return;
      seen.add(key);
      let moved = false;
      const step = (change: (copy: World) => void) => {
        moved = true;
        const copy = structuredClone(world);
        change(copy);
        walk(copy);
      };
      for (const i of [0, 1] as const) {
        const end = world.ends[i];
        const line = world.lines[i];
        const gone = is(end.state, 'SUSPENDED');
        if (end.asks) {
          step(({ ends: copies }) => {
            const copy = copies[i];
            copy.asks = false;
            const next = suspension(copy.state, event('SUSPEND'));
            if (next !== copy.state) copy.owes = 'REQ';
            copy.state = next;
          });
        }
        if (end.owes && !end.said) {
          step(({ ends: copies, lines }) => {
            const copy = copies[i];
            lines[1 - i]?.push(copy.owes as string);
            copy.said = true;
            copy.state = suspension(copy.state, event('SENT'));
          });
        }
        if (line.length > 0) {
          assert.not(gone, `a ${line[0]} arrives at an end that has released the link`);
          step(({ ends: copies, lines }) => {
            const copy = copies[i];
            const word = lines[i].shift() as string;
            const next = suspension(copy.state, event(word));
            assert.is.not(next, copy.state, `${word} in state ${copy.state}`);
            if (is(copy.state, 'NONE')) copy.owes = 'ACK';
            copy.state = next;
          });
        }
      }
      if (moved) return;
      ends++;
      for (const end of world.ends) assert.ok(is(end.state, 'SUSPENDED'), key);
    };
    const none = constant('SUSPENSION_NONE');
    for (const asks of [
      [true, false],
      [false, true],
      [true, true],
    ]) {
      const end = (i: number): End => ({ state: none, asks: asks[i] as boolean, owes: undefined, said: false });
      walk({ ends: [end(0), end(1)], lines: [[], []] });
    }
    assert.ok(ends > 0 && seen.size > 20, `${seen.size} worlds`);
  }),
);

test(
  'a new suspension while an interrupted one still detaches from devices: one after the other',
  timebox(10, async () => {
    const done: string[] = [];
    const leaving: (() => void)[] = [];
    const migration = new Migration({
      endpoints: [],
      connections: () => [],
      leaveDevices: () =>
        new Promise((resolve) => {
          leaving.push(() => {
            done.push('left');
            resolve();
          });
        }),
      takeDevices: async () => {
        done.push('taken');
      },
      changed: (state) => done.push(state),
      timeout: 10_000,
      log: () => {},
    });
    const until = async (condition: () => boolean) => {
      while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
    };
    const first = migration.suspend().catch((error: Error) => error);
    await until(() => leaving.length === 1);
    const resumed = migration.resume();
    await new Promise((resolve) => setTimeout(resolve, 5));
    const second = migration.suspend();
    leaving.shift()?.();
    await until(() => leaving.length === 1);
    leaving.shift()?.();
    await second;
    assert.instance(await first, Error);
    await resumed;
    assert.is(migration.migration, 'allowed');
    const once = ['requested', 'preparing', 'left'];
    assert.equal(done, [...once, 'finished', 'taken', 'resuming', 'inactive', ...once, 'allowed']);
  }),
);

test.run();

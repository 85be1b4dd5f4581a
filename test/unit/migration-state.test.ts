/** The state machine of a migration: every event in every state, and a way out of each state. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { stateMachine } from '../../host/core/core.js';
import { Migration } from '../../host/runtime/migration.js';
import { type ConstantName, constant, L } from '../support/core.js';
import { timebox } from '../support/timebox.js';

/** A constant whose name is put together. */
const number = (...parts: string[]) => constant(parts.join('_') as ConstantName);

type Table = Readonly<Record<string, Readonly<Record<string, string>>>>;

const MIGRATION: Table = {
  INACTIVE: { REQUEST: 'REQUESTED' },
  REQUESTED: { PREPARE: 'PREPARING', FAIL: 'FINISHED', RESUME: 'FINISHED' },
  PREPARING: { ALLOW: 'ALLOWED', FAIL: 'FINISHED', RESUME: 'FINISHED' },
  ALLOWED: { RESUME: 'FINISHED' },
  FINISHED: { ATTACHED: 'RESUMING' },
  RESUMING: { BACK: 'INACTIVE' },
};
const MIGRATION_EVENTS = ['REQUEST', 'PREPARE', 'ALLOW', 'FAIL', 'RESUME', 'ATTACHED', 'BACK'];

const states = Object.keys(MIGRATION);

test(
  'every event in every state',
  timebox(5, () => {
    const { migration } = stateMachine();
    assert.is(states.length, L.MIGRATION_STATES);
    assert.is(MIGRATION_EVENTS.length, L.MIGRATION_EVENTS);
    for (const state of states) {
      for (const event of MIGRATION_EVENTS) {
        const expected = MIGRATION[state]?.[event] ?? state;
        const found = migration(number('MIGRATION', state), number('MIGRATION_EVENT', event));
        assert.is(found, number('MIGRATION', expected), `${event} in ${state}`);
      }
    }
  }),
);

test(
  'from each state the first is reachable, and each is reachable from the first',
  timebox(5, () => {
    const reachable = (from: string): Set<string> => {
      const seen = new Set([from]);
      for (const state of seen) for (const next of Object.values(MIGRATION[state] ?? {})) seen.add(next);
      return seen;
    };
    for (const state of states) assert.ok(reachable(state).has('INACTIVE'), state);
    assert.is(reachable('INACTIVE').size, states.length);
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

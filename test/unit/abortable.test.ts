/** Promises that a signal can reject: the first settlement decides, and the listener is removed. */
import { getEventListeners } from 'node:events';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { abortable, onAbort, type Start, unlessAborted, withEither } from '../../host/base/abortable.js';
import { timebox } from '../support/timebox.js';

const listeners = (signal: AbortSignal) => getEventListeners(signal, 'abort').length;
const turn = () => new Promise((resolve) => setImmediate(resolve));

/** What became of a promise until now. */
function outcome(promise: Promise<unknown>): { is: string } {
  const seen = { is: 'pending' };
  promise.then(
    (value) => {
      seen.is = `resolved: ${String(value)}`;
    },
    (error: unknown) => {
      seen.is = `rejected: ${error instanceof Error ? error.message : String(error)}`;
    },
  );
  return seen;
}

/** An operation that the test settles by hand. */
function started(signal: AbortSignal | undefined, answer?: () => boolean | undefined) {
  const calls = { started: 0, withdrawn: 0 };
  let resolve!: Parameters<Start<string>>[0];
  let reject!: Parameters<Start<string>>[1];
  const promise = abortable<string>(signal, (...settle) => {
    [resolve, reject] = settle;
    calls.started++;
    return () => {
      calls.withdrawn++;
      return answer?.();
    };
  });
  return { calls, seen: outcome(promise), resolve, reject };
}

test(
  'the first settlement decides, and removes the listener',
  timebox(5, async () => {
    for (const [how, expected] of [
      ['resolve', 'resolved: done'],
      ['reject', 'rejected: done'],
    ] as const) {
      const control = new AbortController();
      const { calls, seen, ...settle } = started(control.signal);
      assert.is(listeners(control.signal), 1);
      settle[how]('done');
      assert.is(listeners(control.signal), 0, how);
      control.abort(new Error('stop'));
      await turn();
      assert.is(seen.is, expected);
      assert.equal(calls, { started: 1, withdrawn: 0 });
    }
  }),
);

test(
  'an abort withdraws once and rejects with the reason',
  timebox(5, async () => {
    const control = new AbortController();
    const { calls, seen, resolve } = started(control.signal);
    control.abort(new Error('stop'));
    assert.is(listeners(control.signal), 0);
    resolve('late');
    await turn();
    assert.is(seen.is, 'rejected: stop');
    assert.is(calls.withdrawn, 1);
  }),
);

test(
  'what cannot be withdrawn any more goes on, and its result comes',
  timebox(5, async () => {
    const control = new AbortController();
    const { calls, seen, resolve } = started(control.signal, () => false);
    control.abort(new Error('stop'));
    await turn();
    assert.is(seen.is, 'pending');
    assert.is(listeners(control.signal), 0);
    resolve('done');
    await turn();
    assert.is(seen.is, 'resolved: done');
    assert.is(calls.withdrawn, 1);
  }),
);

test(
  'only false means too late; nothing to withdraw rejects',
  timebox(5, async () => {
    const control = new AbortController();
    const withdrawn = started(control.signal, () => true);
    const plain = outcome(abortable(control.signal, () => undefined));
    control.abort(new Error('stop'));
    await turn();
    assert.is(withdrawn.seen.is, 'rejected: stop');
    assert.is(plain.is, 'rejected: stop');
  }),
);

test(
  'the promise rejects with the error of the withdrawal, if there is one',
  timebox(5, async () => {
    const control = new AbortController();
    const seen = outcome(abortable(control.signal, (_, reject) => () => reject(new Error('cancelled'))));
    control.abort(new Error('stop'));
    await turn();
    assert.is(seen.is, 'rejected: cancelled');
  }),
);

test(
  'with an aborted signal nothing is started',
  timebox(5, async () => {
    const signal = AbortSignal.abort(new Error('stop'));
    let begun = 0;
    const seen = outcome(
      abortable(signal, () => {
        begun++;
      }),
    );
    await turn();
    assert.is(seen.is, 'rejected: stop');
    assert.is(begun, 0);
    assert.is(listeners(signal), 0);
  }),
);

test(
  'what settles while it is started adds no listener',
  timebox(5, async () => {
    const control = new AbortController();
    const { signal } = control;
    let withdrawn = 0;
    const withdraw = () => {
      withdrawn++;
    };
    const all = [
      abortable<string>(signal, (resolve) => {
        resolve('done');
        return withdraw;
      }),
      abortable<string>(signal, (_, reject) => {
        reject(new Error('failed'));
        return withdraw;
      }),
      abortable<string>(signal, () => {
        throw new Error('thrown');
      }),
      abortable<string>(undefined, () => {
        throw new Error('thrown');
      }),
    ].map(outcome);
    assert.is(listeners(signal), 0);
    control.abort(new Error('stop'));
    await turn();
    const results = all.map(({ is }) => is);
    assert.equal(results, ['resolved: done', 'rejected: failed', 'rejected: thrown', 'rejected: thrown']);
    assert.is(withdrawn, 0);
  }),
);

test(
  'a signal that is aborted while the work is started withdraws it',
  timebox(5, async () => {
    const control = new AbortController();
    let withdrawn = 0;
    const seen = outcome(
      abortable(control.signal, () => {
        control.abort(new Error('stop'));
        return () => {
          withdrawn++;
        };
      }),
    );
    await turn();
    assert.is(seen.is, 'rejected: stop');
    assert.is(withdrawn, 1);
    assert.is(listeners(control.signal), 0);
  }),
);

test(
  'resolved with a promise: what that comes to counts, the signal no more',
  timebox(5, async () => {
    const control = new AbortController();
    const { seen, resolve } = started(control.signal);
    resolve(turn().then(() => 'later'));
    assert.is(listeners(control.signal), 0);
    control.abort(new Error('stop'));
    await turn();
    await turn();
    assert.is(seen.is, 'resolved: later');
  }),
);

test(
  'without a signal it is a promise',
  timebox(5, async () => {
    const { calls, seen, resolve } = started(undefined);
    resolve('done');
    await turn();
    assert.is(seen.is, 'resolved: done');
    assert.equal(calls, { started: 1, withdrawn: 0 });
  }),
);

test(
  'thousands of calls with one signal leave nothing with it',
  timebox(5, async () => {
    const { signal } = new AbortController();
    for (let i = 0; i < 1000; i++) {
      await abortable<void>(signal, (resolve) => {
        if (i % 2) resolve();
        else setImmediate(resolve);
      });
      await unlessAborted(signal, Promise.resolve());
      onAbort(signal, () => {})();
    }
    assert.is(listeners(signal), 0);
  }),
);

test(
  'unlessAborted: the promise or the signal, whichever comes first',
  timebox(5, async () => {
    const control = new AbortController();
    const { signal } = control;
    assert.is(await unlessAborted(signal, Promise.resolve('done')), 'done');
    assert.is(await unlessAborted(undefined, Promise.resolve('done')), 'done');
    const failing = outcome(unlessAborted(signal, Promise.reject(new Error('failed'))));
    let fail!: (error: Error) => void;
    const late = outcome(
      unlessAborted(
        signal,
        new Promise((_, reject) => {
          fail = reject;
        }),
      ),
    );
    await turn();
    control.abort(new Error('stop'));
    // Neither this rejection nor that below may come to the process as an unhandled one: that would fail the file.
    fail(new Error('too late'));
    const never = outcome(unlessAborted(signal, Promise.reject(new Error('not seen'))));
    await turn();
    assert.equal([failing.is, late.is, never.is], ['rejected: failed', 'rejected: stop', 'rejected: stop']);
    assert.is(listeners(signal), 0);
  }),
);

test(
  'onAbort: once, at once where it is too late to wait, and not after it was removed',
  timebox(5, () => {
    const control = new AbortController();
    const { signal } = control;
    const calls: string[] = [];
    const twice = () => calls.push('twice');
    const remove = [onAbort(signal, twice), onAbort(signal, twice), onAbort(signal, () => calls.push('removed'))];
    remove[2]?.();
    remove[2]?.();
    assert.is(listeners(signal), 2);
    control.abort();
    assert.equal(calls, ['twice', 'twice']);
    onAbort(signal, () => calls.push('at once'))();
    onAbort(undefined, () => calls.push('never'))();
    assert.equal(calls, ['twice', 'twice', 'at once']);
    assert.is(listeners(signal), 0);
  }),
);

test(
  'withEither: the first of the signals, for its reason; afterwards nothing is left with any of them',
  timebox(10, async () => {
    const [one, other] = [new AbortController(), new AbortController()];
    for (let i = 0; i < 5000; i++) {
      assert.is(await withEither([one.signal, undefined, other.signal], async ({ aborted }) => aborted), false);
    }
    // What AbortSignal.any keeps in Node 20 is no listener, but has a symbol of its own.
    for (const { signal } of [one, other]) {
      assert.is(listeners(signal), 0);
      for (const key of Object.getOwnPropertySymbols(signal)) {
        const { size = 0 } = ((signal as never)[key] ?? {}) as { size?: number };
        assert.ok(size < 10, `${String(key)}: ${size}`);
      }
    }
    const failing = withEither([one.signal, other.signal], (either) => unlessAborted(either, new Promise(() => {})));
    const seen = outcome(failing);
    other.abort(new Error('the other'));
    one.abort(new Error('too late'));
    await turn();
    assert.is(seen.is, 'rejected: the other');
    const late = await withEither([one.signal], async (either) => [either.aborted, (either.reason as Error).message]);
    assert.equal(late, [true, 'too late']);
    assert.equal([listeners(one.signal), listeners(other.signal)], [0, 0]);
  }),
);

test.run();

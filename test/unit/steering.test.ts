/** Migration requests to the runtimes of a process, and the single answer to each. */
import { setTimeout as pause } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { feedback } from '../../host/control/payload.js';
import { type Member, Steering } from '../../host/control/steering.js';
import { StandIn } from '../support/standin.js';
import { timebox } from '../support/timebox.js';

function scene(count: number, postpone = false) {
  const answers: string[] = [];
  const nonces: (readonly string[])[] = [];
  const states: string[] = [];
  const lines: string[] = [];
  const steering: Steering = new Steering({
    answer: (said, to) => {
      answers.push(feedback('7', said));
      nonces.push(to);
    },
    changed: () => {
      if (states.at(-1) !== steering.state) states.push(steering.state);
    },
    log: (_, line) => lines.push(line),
  });
  const runtimes = Array.from({ length: count }, () => new StandIn());
  const members = runtimes.map((runtime): Member => ({ runtime, postpone }));
  for (const member of members) steering.join(member);
  states.length = 0;
  const until = async (holds: () => boolean) => {
    const limit = performance.now() + 5000;
    while (!holds()) {
      if (performance.now() > limit) throw new Error(JSON.stringify({ answers, states, lines }));
      await pause(2);
    }
  };
  /** Until that many answers have been sent and no operation is in progress. */
  const answered = async (number: number) => {
    await until(() => answers.length >= number && ['inactive', 'allowed'].includes(steering.state));
    await pause(20);
    assert.is(answers.length, number, answers.join('; '));
    return answers;
  };
  return { steering, runtimes, members, answers, nonces, states, lines, until, answered };
}

test(
  'two runtimes give one answer, when the slower one is ready',
  timebox(10, async () => {
    const { steering, runtimes, states, answered } = scene(2);
    (runtimes[1] as StandIn).delay = { suspend: 120, resume: 120 };
    const start = performance.now();
    steering.request('suspend');
    assert.equal(await answered(1), ['7 : ALLOWED']);
    assert.ok(performance.now() - start >= 119);
    assert.equal(states, ['requested', 'preparing', 'allowed']);
    steering.request('resume');
    assert.equal(await answered(2), ['7 : ALLOWED', '7 : COMPLETED']);
    assert.equal(states.slice(3), ['resuming', 'inactive']);
  }),
);

test(
  'an answer names the nonces of the requests that it answers, and of no others',
  timebox(20, async () => {
    const { steering, runtimes, nonces, answered, until } = scene(1);
    const [runtime] = runtimes as [StandIn];
    steering.request('resume', 'nothing to do');
    steering.request('suspend', 'a');
    steering.request('suspend', 'b');
    steering.request('suspend');
    await answered(1);
    assert.equal(nonces.at(-1), ['a', 'b']);
    steering.request('suspend', 'c');
    await answered(2);
    assert.equal(nonces.at(-1), ['c'], 'suspended already');
    steering.request('resume', 'd');
    steering.request('resume', 'e');
    await answered(3);
    assert.equal(nonces.at(-1), ['d', 'e']);
    // A resume stops the suspension: each has its answer.
    runtime.delay.suspend = 5000;
    steering.request('suspend', 'f');
    await until(() => runtime.migration === 'preparing');
    steering.request('resume', 'g');
    assert.is((await answered(5))[3], '7 : FAILED a resume came first');
    assert.equal(nonces.slice(3), [['f'], ['g']]);
    runtime.delay = { suspend: 10, resume: 100 };
    steering.request('suspend', 'h');
    await answered(6);
    steering.request('resume', 'i');
    await until(() => runtime.migration === 'resuming');
    // A suspension that is to follow, and is withdrawn, is not answered; nor by a later answer.
    steering.request('suspend', 'j');
    steering.request('resume', 'k');
    await answered(7);
    steering.request('toggle', 'not of a toggle');
    await answered(8);
    assert.equal(nonces.slice(5), [['h'], ['i', 'k'], []]);
    for (let i = 0; i < 1000; i++) steering.request('suspend', `n${i}`);
    await answered(1008);
    assert.ok(nonces.every((each) => each.length <= 16));
  }),
);

test(
  'every request in every state',
  timebox(20, async () => {
    const { steering, runtimes, answers, lines, until, answered } = scene(1);
    const runtime = runtimes[0] as StandIn;
    runtime.delay = { suspend: 60, resume: 60 };
    steering.request('resume');
    assert.equal(answers, []);
    assert.match(lines.at(-1) ?? '', /^request to resume ignored: the process is inactive$/);

    steering.request('suspend');
    await until(() => steering.state === 'preparing');
    steering.request('suspend');
    steering.request('toggle');
    await answered(1);
    steering.request('suspend');
    assert.equal(await answered(2), ['7 : ALLOWED', '7 : ALLOWED']);
    assert.equal(runtime.calls, ['suspend']);

    steering.request('toggle');
    await until(() => steering.state === 'resuming');
    steering.request('resume');
    steering.request('toggle');
    await answered(3);
    assert.equal(runtime.calls, ['suspend', 'resume']);

    // Suspended again while it resumes: both are answered, in order.
    steering.request('toggle');
    await answered(4);
    steering.request('resume');
    steering.request('suspend');
    await answered(6);
    assert.equal(answers.slice(3), ['7 : ALLOWED', '7 : COMPLETED', '7 : ALLOWED']);

    // A suspend that is withdrawn while it resumes.
    steering.request('resume');
    steering.request('suspend');
    steering.request('resume');
    await answered(7);
    assert.is(steering.state, 'inactive');
  }),
);

test(
  'a resume while preparing: the suspension fails, all connections come back',
  timebox(10, async () => {
    const { steering, runtimes, until, answered } = scene(2);
    (runtimes[0] as StandIn).delay.suspend = 2000;
    steering.request('suspend');
    await until(() => runtimes[1]?.migration === 'allowed');
    steering.request('resume');
    assert.equal(await answered(2), ['7 : FAILED a resume came first', '7 : COMPLETED']);
    assert.equal(
      runtimes.map(({ migration }) => migration),
      ['inactive', 'inactive'],
    );
  }),
);

test(
  'one runtime fails: FAILED with its reason at once, and the others come back',
  timebox(10, async () => {
    const { steering, runtimes, answers, until, answered } = scene(3);
    const [first, second, third] = runtimes as [StandIn, StandIn, StandIn];
    second.fail.suspend = 'no answer from\nb[8]';
    second.delay.suspend = 50;
    third.delay.suspend = 3000;
    steering.request('suspend');
    await until(() => answers.length > 0);
    assert.equal(await answered(1), ['7 : FAILED no answer from b[8]']);
    assert.is(steering.state, 'inactive');
    assert.ok([first, second, third].every(({ migration }) => migration === 'inactive'));
    steering.request('suspend');
    third.delay.suspend = 10;
    assert.is((await answered(2))[1], '7 : ALLOWED');
    first.fail.resume = 'not back';
    steering.request('resume');
    assert.is((await answered(3))[2], '7 : FAILED not back');
  }),
);

test(
  'COMPLETED waits for every application that asked for it',
  timebox(10, async () => {
    const { steering, members, answers, until, answered } = scene(3, true);
    const [first, second, third] = members as [Member, Member, Member];
    steering.complete(first);
    steering.request('suspend');
    await answered(1);
    steering.request('resume');
    await until(() => members.every(({ runtime }) => runtime.migration === 'inactive'));
    await pause(30);
    assert.is(steering.state, 'resuming');
    steering.request('toggle');
    steering.complete(first);
    steering.complete(first);
    steering.leave(third);
    await pause(30);
    assert.equal(answers, ['7 : ALLOWED']);
    steering.complete(second);
    assert.is((await answered(2))[1], '7 : COMPLETED');
    // Reported before the connections are back: that counts as well.
    steering.request('suspend');
    await answered(3);
    steering.request('resume');
    for (const member of members) steering.complete(member);
    assert.is((await answered(4))[3], '7 : COMPLETED');
  }),
);

test(
  'runtimes created and closed meanwhile',
  timebox(10, async () => {
    const { steering, runtimes, members, answered } = scene(2);
    (runtimes[1] as StandIn).delay.suspend = 100;
    const late = new StandIn();
    steering.request('suspend');
    steering.join({ runtime: late, postpone: false });
    await answered(1);
    assert.is(late.migration, 'allowed');
    // A runtime created while the process is suspended holds no device either.
    const later = new StandIn();
    steering.join({ runtime: later, postpone: false });
    assert.equal(later.calls, ['suspend']);
    await answered(1);
    (runtimes[0] as StandIn).delay.resume = 500;
    (runtimes[0] as StandIn).fail.resume = 'closed';
    steering.request('resume');
    steering.leave(members[0] as Member);
    assert.is((await answered(2))[1], '7 : COMPLETED');
    assert.ok([late, later].every(({ migration }) => migration === 'inactive'));
  }),
);

test(
  'a migration that was not requested over the broker is not answered',
  timebox(10, async () => {
    const { steering, runtimes, answers, states, answered } = scene(1);
    const runtime = runtimes[0] as StandIn;
    await runtime.suspend();
    assert.equal(states, ['requested', 'preparing', 'allowed']);
    await runtime.resume();
    assert.equal(answers, []);
    // A request that arrives meanwhile is answered.
    runtime.delay.suspend = 50;
    void runtime.suspend();
    steering.request('suspend');
    assert.equal(await answered(1), ['7 : ALLOWED']);
    steering.request('toggle');
    await answered(2);
  }),
);

test.run();

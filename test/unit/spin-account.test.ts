/** How long a wait may spin: the account by itself, and against fixed rules in simulated time. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  MAX_BALANCE_MS,
  MAX_PROBE_PAUSE_MS,
  MAX_SPIN_MS,
  MIN_PROBE_PAUSE_MS,
  SLEEP_COST_MS,
  SpinAccount,
} from '../../host/polling/spin-account.js';
import { type Scenario, type SpinRule, simulate } from '../support/processors.js';
import { timebox } from '../support/timebox.js';

/** An account that one wait in vain has emptied. */
function emptied(): SpinAccount {
  const account = new SpinAccount();
  account.allowance(0);
  account.inVain(MAX_SPIN_MS);
  return account;
}

/** Let time pass until a wait may spin. @returns when that was */
function untilProbe(account: SpinAccount, from: number): number {
  for (let now = from; ; now += 0.5) if (account.allowance(now) > 0) return now;
}

test(
  'a new account pays for one wait; found early, each wait adds what a sleep would have cost',
  timebox(5, () => {
    const account = new SpinAccount();
    assert.ok(account.earned);
    assert.is(account.allowance(0), MAX_SPIN_MS);
    account.inVain(MAX_SPIN_MS - 0.5);
    account.found(0.01);
    assert.ok(Math.abs(account.allowance(1) - (0.5 + SLEEP_COST_MS - 0.01)) < 1e-9);
    for (let i = 0; i < 1000; i++) account.found(0);
    assert.is(account.allowance(2), MAX_SPIN_MS, 'one wait spins no longer than this');
    for (let left = MAX_BALANCE_MS; left > 0; left -= MAX_SPIN_MS) {
      assert.ok(account.earned);
      account.inVain(MAX_SPIN_MS);
    }
    assert.not(account.earned, 'and this was all that it held');
  }),
);

test(
  'in vain: the time is paid for, and an empty account sleeps at once, but for probes',
  timebox(5, () => {
    const account = emptied();
    const probes: number[] = [];
    for (let now = 0.5; now < 10_000; now += 0.5) {
      const allowed = account.allowance(now);
      if (allowed === 0) continue;
      assert.is(allowed, MAX_SPIN_MS);
      probes.push(now);
      account.inVain(MAX_SPIN_MS);
    }
    const pauses = probes.slice(1).map((at, i) => at - (probes[i] as number));
    assert.is(pauses[0], MIN_PROBE_PAUSE_MS);
    for (let i = 1; i < pauses.length; i++) assert.ok((pauses[i] as number) >= (pauses[i - 1] as number));
    assert.is(pauses.at(-1), MAX_PROBE_PAUSE_MS);
    const spun = probes.length * MAX_SPIN_MS;
    assert.ok(spun < 10_000 / 200, `${spun} ms of 10 s`);
  }),
);

test(
  'a probe that finds something early opens the account again; when it has recovered, later probes come soon',
  timebox(5, () => {
    const account = emptied();
    for (let now = 0; now < 5000; now += 1) if (account.allowance(now) > 0) account.inVain(MAX_SPIN_MS);
    let now = untilProbe(account, 5000);
    account.found(0.02);
    assert.ok(account.earned);
    for (let i = 0; i < 20; i++) account.found(0.01);
    while (account.earned) {
      account.allowance(now);
      account.inVain(MAX_SPIN_MS);
    }
    now = untilProbe(account, now + 2 * MAX_PROBE_PAUSE_MS);
    account.inVain(MAX_SPIN_MS);
    assert.is(untilProbe(account, now + 0.5) - now, MIN_PROBE_PAUSE_MS);
  }),
);

test(
  'a probe that finds an answer later than a sleep would have brought it is in vain',
  timebox(5, () => {
    const account = emptied();
    let now = untilProbe(account, 0);
    account.found(SLEEP_COST_MS * 5);
    const first = untilProbe(account, now + 0.5) - now;
    now += first;
    account.found(SLEEP_COST_MS * 5);
    assert.ok(untilProbe(account, now + 0.5) - now > first);
    assert.not(account.earned);
  }),
);

test(
  'found late: the answer took longer than a sleep would have, and the account pays the difference',
  timebox(5, () => {
    const account = new SpinAccount();
    account.found(SLEEP_COST_MS + 0.5);
    assert.ok(Math.abs(account.allowance(0) - (MAX_SPIN_MS - 0.5)) < 1e-9);
  }),
);

test(
  'preempted: the account is closed for a while, however full it was',
  timebox(5, () => {
    const account = new SpinAccount();
    for (let i = 0; i < 1000; i++) account.found(0);
    account.preempted(100);
    assert.not(account.earned);
    for (let now = 100; now < 100 + 2 * MIN_PROBE_PAUSE_MS; now += 1) assert.is(account.allowance(now), 0);
    assert.is(account.allowance(100 + 2 * MIN_PROBE_PAUSE_MS), MAX_SPIN_MS);
  }),
);

const fixed = (ms: number) => (): SpinRule => ({ allowance: () => ms, found() {}, inVain() {}, preempted() {} });
const SCENARIOS: readonly Omit<Scenario, 'seconds'>[] = [
  { processors: 1, load: 0, workUs: 2 },
  { processors: 1, load: 3, workUs: 2 },
  { processors: 2, load: 0, workUs: 2 },
  { processors: 2, load: 2, workUs: 2 },
  { processors: 2, load: 4, workUs: 2 },
  { processors: 2, load: 12, workUs: 2 },
  { processors: 2, load: 0, workUs: 50 },
  { processors: 2, load: 0, workUs: 1000 },
  { processors: 2, load: 0, workUs: 2, quotaUs: 50_000 },
  { processors: 2, load: 0, workUs: 200, quotaUs: 50_000 },
  { processors: 1, load: 0, workUs: 2, pairs: 4 },
  { processors: 2, load: 0, workUs: 2, pairs: 4 },
  { processors: 2, load: 0, workUs: 50, pairs: 4 },
];

for (const scenario of SCENARIOS) {
  test(
    `simulated, ${JSON.stringify(scenario)}: about as many answers as the better of never and always spinning`,
    timebox(20, () => {
      const seen = { ...scenario, seconds: 1 };
      const never = simulate(seen, fixed(0));
      const always = simulate(seen, fixed(2));
      const account = simulate(seen, () => new SpinAccount());
      assert.ok(account >= 0.9 * Math.max(never, always), `never ${never}, always ${always}, account ${account}`);
    }),
  );
}

test.run();

/** The lifecycle of a connection: every event in every phase, live and closing, against a list of its own. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { IsthmusError } from '../../host/base/errors.js';
import { EVENTS, Lifecycle, type LifecycleEvent, PHASES, type Phase, TABLE } from '../../host/link/lifecycle.js';
import { timebox } from '../support/timebox.js';

type Raised = Exclude<LifecycleEvent, 'close'>;

/**
 * `phase event → phase`; `live` and `closing` in front: only for such a connection. What is not listed changes nothing.
 * Cut stands for violation and destroy, in every phase up to eofSent.
 */
const EXPECTED = `
  idle             dial             → connecting
  idle             linkUp           → confirming
  connecting       hold             → idle
  connecting       linkUp           → confirming
  confirming       confirm          → open
  confirming       revert           → idle
  confirming       peerClosed       → idle
  confirming       lost             → idle
  live    open     suspend          → suspending
  open             request          → shutdownReceived
  closing open     queueEmpty       → eofSent
  open             peerClosed       → closed
  open             lost             → closed
  suspending       shutdownQueued   → shutdownSent
  suspending       request          → shutdownReceived
  closing suspending queueEmpty     → eofSent
  suspending       peerClosed       → closed
  suspending       lost             → closed
  shutdownSent     request          → draining
  shutdownSent     acknowledge      → draining
  shutdownSent     peerClosed       → closed
  shutdownSent     lost             → closed
  shutdownReceived shutdownQueued   → draining
  closing shutdownReceived queueEmpty → eofSent
  shutdownReceived peerClosed       → closed
  shutdownReceived lost             → closed
  draining         letGo            → suspended
  draining         peerClosed       → closed
  draining         lost             → closed
  suspended        dial             → resuming
  suspended        linkUp           → reconfirming
  resuming         hold             → suspended
  resuming         linkUp           → reconfirming
  reconfirming     confirm          → open
  reconfirming     revert           → suspended
  reconfirming     peerClosed       → suspended
  reconfirming     lost             → suspended
  eofSent          peerClosed       → closed
  eofSent          lost             → closed
  closed           borrowsReturned  → released
`;

interface Line {
  readonly when: 'live' | 'closing' | undefined;
  readonly phase: Phase;
  readonly event: Raised;
  readonly to: Phase;
}

const lines: Line[] = EXPECTED.trim()
  .split('\n')
  .map((line) => {
    const [, when, phase, event, to] = /^\s*(?:(live|closing)\s+)?(\w+)\s+(\w+)\s+→ (\w+)$/.exec(line) ?? [];
    return { when, phase, event, to } as Line;
  });
const CUTTABLE = PHASES.filter((phase) => phase !== 'closed' && phase !== 'released');
for (const phase of CUTTABLE) {
  lines.push({ when: undefined, phase, event: 'violation', to: 'closed' });
  lines.push({ when: undefined, phase, event: 'destroy', to: 'closed' });
}

/** How each phase is reached from the first, by events alone. */
const WAYS: { readonly [phase in Phase]: readonly Raised[] } = {
  idle: [],
  connecting: ['dial'],
  confirming: ['linkUp'],
  open: ['linkUp', 'confirm'],
  suspending: ['linkUp', 'confirm', 'suspend'],
  shutdownSent: ['linkUp', 'confirm', 'suspend', 'shutdownQueued'],
  shutdownReceived: ['linkUp', 'confirm', 'request'],
  draining: ['linkUp', 'confirm', 'request', 'shutdownQueued'],
  suspended: ['linkUp', 'confirm', 'request', 'shutdownQueued', 'letGo'],
  resuming: ['linkUp', 'confirm', 'request', 'shutdownQueued', 'letGo', 'dial'],
  reconfirming: ['linkUp', 'confirm', 'request', 'shutdownQueued', 'letGo', 'linkUp'],
  eofSent: ['linkUp', 'confirm', 'queueEmpty'],
  closed: ['destroy'],
  released: ['destroy', 'borrowsReturned'],
};

/** A lifecycle in that phase, marked as closing or not; undefined: it cannot be in it that way. */
function at(phase: Phase, closing: boolean): Lifecycle | undefined {
  const lifecycle = new Lifecycle();
  const [...way] = WAYS[phase];
  // The end is sent by a connection that is being closed, and by no other.
  if (phase === 'eofSent' && !closing) return undefined;
  for (const event of way) {
    if (event === 'queueEmpty') assert.ok(lifecycle.close('local'));
    assert.ok(lifecycle.raise(event), `${event} on the way to ${phase}`);
  }
  if (phase === 'closed' || phase === 'released') {
    if (!closing) return lifecycle;
    const other = new Lifecycle();
    other.close('local');
    for (const event of way) assert.ok(other.raise(event));
    return other;
  }
  if (closing && phase !== 'eofSent') assert.ok(lifecycle.close('local'));
  assert.is(lifecycle.phase, phase);
  return lifecycle;
}

test(
  'every event in every phase, live and closing',
  timebox(10, () => {
    let cells = 0;
    for (const phase of PHASES) {
      for (const closing of [false, true]) {
        for (const event of EVENTS) {
          if (event === 'close') continue;
          const lifecycle = at(phase, closing);
          if (!lifecycle) continue;
          cells++;
          const line = lines.find(
            (one) =>
              one.phase === phase &&
              one.event === event &&
              (one.when === undefined || one.when === (closing ? 'closing' : 'live')),
          );
          const what = `${closing ? 'closing' : 'live'} ${phase}, ${event}`;
          const before = lifecycle.ignored;
          assert.is(lifecycle.defines(event), line !== undefined, what);
          assert.is(lifecycle.raise(event), line !== undefined, what);
          assert.is(lifecycle.phase, line?.to ?? phase, what);
          assert.is(lifecycle.ignored, before + (line ? 0 : 1), `${what}: counted`);
        }
      }
    }
    assert.is(cells, (PHASES.length * 2 - 1) * (EVENTS.length - 1));
  }),
);

test(
  'close marks a connection once, in every phase in which there is something left to close',
  timebox(5, () => {
    for (const phase of PHASES) {
      const lifecycle = at(phase, false);
      if (!lifecycle) continue;
      const over = phase === 'closed' || phase === 'released';
      assert.is(lifecycle.close('peer'), !over, phase);
      assert.is(lifecycle.closing, over ? undefined : 'peer', phase);
      assert.is(lifecycle.close('local'), false, `${phase}: twice`);
      assert.is(lifecycle.closing, over ? undefined : 'peer', 'the first reason stays');
      assert.is(lifecycle.ignored, over ? 2 : 1, 'counted');
    }
  }),
);

test(
  'what the application is told, and whether it may send',
  timebox(5, () => {
    const states = Object.fromEntries(
      PHASES.map((phase) => {
        const [live, closing] = [at(phase, false), at(phase, true)];
        for (const one of [live, closing]) {
          if (one) assert.is(one.sends, one.state !== 'closing' && one.state !== 'closed', phase);
        }
        return [phase, [live?.state, closing?.state]];
      }),
    );
    assert.equal(states, {
      idle: ['connecting', 'closing'],
      connecting: ['connecting', 'closing'],
      confirming: ['connecting', 'closing'],
      open: ['open', 'closing'],
      suspending: ['open', 'closing'],
      shutdownSent: ['open', 'closing'],
      shutdownReceived: ['open', 'closing'],
      draining: ['open', 'closing'],
      suspended: ['suspended', 'closing'],
      resuming: ['suspended', 'closing'],
      reconfirming: ['suspended', 'closing'],
      eofSent: [undefined, 'closing'],
      closed: ['closed', 'closed'],
      released: ['closed', 'closed'],
    });
  }),
);

test(
  'from each phase there is a way to the end, and from the first one to each',
  timebox(5, () => {
    const reachable = (from: Phase): Set<Phase> => {
      const seen = new Set([from]);
      for (const phase of seen) for (const { to } of Object.values(TABLE[phase])) seen.add(to);
      return seen;
    };
    for (const phase of PHASES) assert.ok(reachable(phase).has('released'), phase);
    assert.is(reachable('idle').size, PHASES.length);
  }),
);

test(
  'each transition and each ignored event is traced, with the step of the model',
  timebox(5, () => {
    const traced: string[] = [];
    const lifecycle = new Lifecycle((from, event, to, step) => traced.push(`${from} ${event} ${to} ${step}`));
    lifecycle.raise('linkUp');
    lifecycle.raise('acknowledge');
    lifecycle.raise('confirm');
    lifecycle.close('local');
    lifecycle.raise('queueEmpty');
    lifecycle.raise('lost');
    assert.equal(traced, [
      'idle linkUp confirming agreed',
      'confirming acknowledge confirming undefined',
      'confirming confirm open begin',
      'open close open closing',
      'open queueEmpty eofSent undefined',
      'eofSent lost closed ended',
    ]);
  }),
);

test(
  'a subscriber is told behind each change, and may raise the next event',
  timebox(5, () => {
    const lifecycle = new Lifecycle();
    const told: string[] = [];
    lifecycle.onTransition = (event, from) => {
      told.push(`${from} ${event} ${lifecycle.phase}`);
      if (lifecycle.phase === 'draining') lifecycle.raise('letGo');
    };
    for (const event of ['linkUp', 'confirm', 'request', 'lost', 'shutdownQueued'] as const) {
      if (event !== 'lost') lifecycle.raise(event);
    }
    assert.is(lifecycle.phase, 'suspended');
    assert.equal(told.slice(-2), ['shutdownReceived shutdownQueued draining', 'draining letGo suspended']);
    lifecycle.raise('acknowledge');
    assert.is(told.length, 5, 'an event that changes nothing is not told');
  }),
);

test(
  'what a call on an ended connection gets: what ended it, else its state',
  timebox(5, () => {
    const lifecycle = at('open', false) as Lifecycle;
    lifecycle.check();
    lifecycle.close('local');
    assert.throws(
      () => lifecycle.check(),
      (error: unknown) =>
        error instanceof IsthmusError && error.code === 'ERR_ISTHMUS_CLOSED' && /closing/.test(error.message),
    );
    lifecycle.error = new IsthmusError('ERR_ISTHMUS_PEER_DIED', 'it died');
    lifecycle.raise('lost');
    assert.throws(
      () => lifecycle.check(),
      (error: unknown) => error === lifecycle.error,
    );
  }),
);

test(
  'two ends, in whatever order they ask and hear: both are suspended, and no acknowledgement comes unexpected',
  timebox(10, () => {
    interface End {
      readonly lifecycle: Lifecycle;
      /** Suspends in the end. */
      asks: boolean;
      /** What it owes: sent when its message under way is out. */
      owes: 'request' | 'acknowledge' | undefined;
      sent: boolean;
      readonly inbox: ('request' | 'acknowledge')[];
    }
    const end = (asks: boolean): End => ({
      lifecycle: at('open', false) as Lifecycle,
      asks,
      owes: undefined,
      sent: false,
      inbox: [],
    });
    /** Every step that one of the two could take now. */
    const steps = (ends: readonly [End, End]): (() => void)[] =>
      [0, 1].flatMap((i) => {
        const [me, other] = [ends[i] as End, ends[1 - i] as End];
        const { lifecycle } = me;
        const can: (() => void)[] = [];
        if (me.asks) {
          can.push(() => {
            me.asks = false;
            if (lifecycle.raise('suspend')) me.owes = 'request';
          });
        }
        const { owes } = me;
        if (owes && !me.sent) {
          can.push(() => {
            me.sent = true;
            other.inbox.push(owes);
            assert.ok(lifecycle.raise('shutdownQueued'));
          });
        }
        if (me.inbox.length > 0 && lifecycle.phase !== 'draining') {
          can.push(() => {
            const word = me.inbox.shift() as 'request' | 'acknowledge';
            const first = lifecycle.phase === 'open';
            assert.ok(lifecycle.raise(word), `${word} in ${lifecycle.phase}`);
            if (first) me.owes = 'acknowledge';
          });
        }
        return can;
      });
    let runs = 0;
    const explore = (both: boolean, choices: readonly number[]): void => {
      const ends = [end(true), end(both)] as const;
      for (const choice of choices) steps(ends)[choice]?.();
      const can = steps(ends);
      for (let next = 0; next < can.length; next++) explore(both, [...choices, next]);
      if (can.length > 0) return;
      runs++;
      for (const { lifecycle, inbox } of ends) {
        assert.is(lifecycle.phase, 'draining');
        assert.is(inbox.length, 0);
      }
    };
    explore(true, []);
    explore(false, []);
    assert.ok(runs > 5, `${runs} orders`);
  }),
);

test(
  'the steps that the table names are steps of suspend.pml, and the model names this file',
  timebox(5, () => {
    const model = readFileSync(join(process.env.ISTHMUS_ROOT ?? '.', 'test/model/suspend.pml'), 'utf8');
    const steps = new Set(Object.values(TABLE).flatMap((row) => Object.values(row).map(({ step }) => step)));
    steps.delete(undefined);
    assert.ok(steps.size >= 9, [...steps].join());
    for (const step of steps) {
      assert.match(model, new RegExp(`^(?:inline ${step}\\(|${step}:)`, 'm'), `${step} is a step of the model`);
    }
    assert.match(model, /host\/link\/lifecycle\.ts/);
  }),
);

test.run();

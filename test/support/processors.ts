/**
 * Pairs of processes that send each other requests and answers, and processes that compute, on a few processors with a simple
 * scheduler: to compare rules for spinning, in simulated time and without chance.
 *
 * Time passes in microseconds. Runnable processes take turns of 3 ms. A process that is woken runs at once on a free
 * processor, else in place of one that computes, as it has used less of its share; else it waits for its turn. With a
 * quota all of them together have so much of each 100 ms.
 */

/** What a rule decides. Times in milliseconds, as in `SpinAccount`. */
export interface SpinRule {
  allowance(now: number): number;
  found(spun: number): void;
  inVain(spun: number): void;
  preempted(now: number): void;
}

export interface Scenario {
  readonly processors: number;
  /** Of a client and a server; default 1. */
  readonly pairs?: number;
  /** Processes that only compute. */
  readonly load: number;
  /** Microseconds that the server computes for an answer. */
  readonly workUs: number;
  /** Microseconds of processor time in each 100 ms; default: all. */
  readonly quotaUs?: number;
  readonly seconds: number;
}

const SLICE_US = 3000;
const QUOTA_PERIOD_US = 100_000;
/** Processor time of a ring: system call, and the wake-up of the other side. */
const RING_US = 4;
/** From a ring until the woken process runs on a free processor. */
const WAKE_US = 25;
/** Processor time of a process from its wake-up to what it does next, and that of announcing a sleep. */
const AWAKE_US = 6;
const ASLEEP_US = 3;
/** Processor time of a message between processes that are awake. */
const MESSAGE_US = 1;
/** A pass over the rings, as the spinning side makes them. */
const PASS_US = 15;

type State = 'working' | 'spinning' | 'falling asleep' | 'asleep' | 'waking' | 'computing';

interface Process {
  state: State;
  /** Of processor time until the state ends. */
  left: number;
  /** Messages that have come and were not read. */
  inbox: number;
  /** Since when the wait lasts, and until when it spins. */
  since: number;
  until: number;
  passStart: number;
  peer: Process | undefined;
  readonly isClient: boolean;
  readonly rule: SpinRule | undefined;
  readonly workUs: number;
}

/** @returns answers that the clients received */
export function simulate(scenario: Scenario, newRule: () => SpinRule): number {
  const { processors, load, seconds, pairs = 1, quotaUs = Number.POSITIVE_INFINITY } = scenario;
  const process = (isClient: boolean, workUs: number, rule: SpinRule | undefined, state: State): Process => ({
    state,
    left: workUs,
    inbox: 0,
    since: 0,
    until: 0,
    passStart: 0,
    peer: undefined,
    isClient,
    rule,
    workUs,
  });
  const queue: Process[] = [];
  for (let i = 0; i < pairs; i++) {
    const client = process(true, MESSAGE_US, newRule(), 'working');
    const server = process(false, MESSAGE_US + scenario.workUs, newRule(), 'asleep');
    client.peer = server;
    server.peer = client;
    queue.push(client);
  }
  for (let i = 0; i < load; i++) queue.push(process(false, 0, undefined, 'computing'));
  const running: (Process | undefined)[] = Array.from({ length: processors }, () => undefined);
  const sliceLeft = running.map(() => 0);
  const sleepers = new Map<Process, number>();
  let answers = 0;
  let used = 0;

  const send = (from: Process) => {
    const to = from.peer as Process;
    to.inbox++;
    if (to.state === 'asleep') {
      to.state = 'waking';
      from.left += RING_US;
      return to;
    }
    return undefined;
  };
  const wait = (one: Process, now: number) => {
    one.since = now;
    one.until = now + (one.rule as SpinRule).allowance(now / 1000) * 1000;
    one.state = one.until > now ? 'spinning' : 'falling asleep';
    one.left = one.state === 'spinning' ? PASS_US : ASLEEP_US;
    one.passStart = now;
  };
  const read = (one: Process) => {
    one.inbox--;
    if (one.isClient) answers++;
    one.state = 'working';
    one.left = one.workUs;
  };
  /** One microsecond of a process on a processor. @returns false: it sleeps */
  const run = (one: Process, now: number): boolean => {
    const rule = one.rule as SpinRule;
    one.left--;
    switch (one.state) {
      case 'working':
        if (one.left > 0) return true;
        {
          const woken = send(one);
          if (woken) sleepers.set(woken, now + RING_US + WAKE_US);
          if (woken) {
            // The ring is paid for before the wait begins.
            one.state = 'waking';
            return true;
          }
        }
        wait(one, now);
        return true;
      case 'waking':
        if (one.left > 0) return true;
        if (one.inbox > 0) read(one);
        else wait(one, now);
        return true;
      case 'spinning':
        if (one.inbox > 0) {
          rule.found((now - one.since) / 1000);
          read(one);
          return true;
        }
        if (one.left > 0) return true;
        if (now - one.passStart > 500) {
          rule.preempted(now / 1000);
          one.until = now;
        }
        if (now < one.until) {
          one.left = PASS_US;
          one.passStart = now;
          return true;
        }
        rule.inVain((now - one.since) / 1000);
        one.state = 'falling asleep';
        one.left = ASLEEP_US;
        return true;
      case 'falling asleep':
        if (one.left > 0) return true;
        if (one.inbox > 0) {
          read(one);
          return true;
        }
        one.state = 'asleep';
        return false;
      default:
        return true;
    }
  };

  for (let now = 0; now < seconds * 1e6; now++) {
    if (now % QUOTA_PERIOD_US === 0) used = 0;
    for (const [one, at] of sleepers) {
      if (at > now) continue;
      sleepers.delete(one);
      one.left = AWAKE_US;
      const free = running.indexOf(undefined);
      const hog = running.findIndex((other) => other?.state === 'computing');
      if (free >= 0) running[free] = one;
      else if (hog >= 0) {
        queue.push(running[hog] as Process);
        running[hog] = one;
      } else {
        queue.unshift(one);
        continue;
      }
      sliceLeft[free >= 0 ? free : hog] = SLICE_US;
    }
    for (let processor = 0; processor < processors; processor++) {
      if (used >= quotaUs) break;
      let one = running[processor];
      if (!one || (sliceLeft[processor] as number) <= 0) {
        const next = queue.shift();
        if (next) {
          if (one) queue.push(one);
          running[processor] = next;
          one = next;
        }
        sliceLeft[processor] = SLICE_US;
      }
      if (!one) continue;
      used++;
      sliceLeft[processor] = (sliceLeft[processor] as number) - 1;
      if (!run(one, now)) running[processor] = undefined;
    }
  }
  return answers;
}

/** `npm run bench -- --scarce`: request and answer where processors are scarce, beside a Unix socket and IPC, in turns. */
import { type ChildProcess, fork } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Callee } from '../calls.js';
import { median } from '../clock.js';
import { forkEnd, type RunOptions } from '../ends.js';
import type { Step } from '../race.js';
import type { Asked, Scarce, ScarceRow } from '../results.js';
import { KINDS, type Kind } from './asking.js';
import { Group, Load, SETTINGS, type Setting } from './scarcity.js';

export interface ScarcePlan {
  readonly rounds: number;
  /** Length of one turn in milliseconds. */
  readonly span: number;
  readonly only: readonly string[] | undefined;
}

export const SCARCE_PLANS = { full: { rounds: 7, span: 1000 }, quick: { rounds: 3, span: 500 } } as const;

/** Before a turn: the peers know each other, and the compiler has seen the code. */
const WARM_UP_MS = 300;
/** The kind that the others are compared with. */
const BESIDE = 'unix';

export function prepareScarce(plan: ScarcePlan, run: RunOptions) {
  const settings = SETTINGS.filter(({ name }) => plan.only === undefined || plan.only.includes(name));
  return {
    total: settings.length * KINDS.length * plan.rounds,
    settings: settings.length,
    async run(step: Step): Promise<Scarce> {
      const rows: ScarceRow[] = [];
      const skipped: { title: string; why: string }[] = [];
      for (const setting of settings) {
        const why = whyNot(setting, run);
        if (why === undefined) rows.push(...(await measureSetting(setting, plan, run, step)));
        else {
          skipped.push({ title: setting.title, why });
          for (let i = 0; i < KINDS.length * plan.rounds; i++) step(`${setting.title}: left out`);
        }
      }
      return { rows, skipped };
    },
  };
}

function whyNot({ quota }: Setting, { cpus }: RunOptions): string | undefined {
  if (!cpus) return `there are no two processors, or there is no taskset`;
  if (quota === undefined) return undefined;
  try {
    Group.make(quota).remove();
    return undefined;
  } catch (error) {
    return `no control group can be made here: ${(error as Error).message}`;
  }
}

async function measureSetting(
  setting: Setting,
  plan: ScarcePlan,
  run: RunOptions,
  step: Step,
): Promise<readonly ScarceRow[]> {
  const [near, far] = run.cpus as readonly [number, number];
  const cpus = setting.processors === 1 ? [near] : [near, far];
  const turns = new Map<string, Asked[]>(KINDS.map(({ name }) => [name, []]));
  const group = setting.quota === undefined ? undefined : Group.make(setting.quota);
  const load = new Load(setting.load ?? 0, cpus);
  try {
    for (let round = 0; round < plan.rounds; round++) {
      // Each round in the opposite order of the one before.
      for (const kind of round % 2 === 0 ? KINDS : [...KINDS].reverse()) {
        step(`${setting.title}: ${kind.title}`);
        (turns.get(kind.name) as Asked[]).push(await turn(setting, kind, cpus, plan.span, run, group));
      }
    }
  } finally {
    load.stop();
    group?.remove();
  }
  const beside = turns.get(BESIDE) as Asked[];
  return KINDS.map(({ name, title }) => {
    const own = turns.get(name) as Asked[];
    const of = (what: (one: Asked, i: number) => number) => median(own.map(what));
    return {
      setting: setting.name,
      title: setting.title,
      kind: name,
      kindTitle: title,
      over: own[0]?.over ?? '',
      perSecond: of(({ perSecond }) => perSecond),
      p50: of(({ p50 }) => p50),
      p99: of(({ p99 }) => p99),
      ratio: of(({ perSecond }, i) => perSecond / (beside[i] as Asked).perSecond),
      tailRatio: of(({ p99 }, i) => p99 / (beside[i] as Asked).p99),
    };
  });
}

/** One turn: fresh processes. @returns the requests of all pairs together, the median of their times */
async function turn(
  { pairs = 1 }: Setting,
  kind: Kind,
  cpus: readonly number[],
  span: number,
  run: RunOptions,
  group: Group | undefined,
): Promise<Asked> {
  const folder = mkdtempSync(join(run.folder, 'pairs-'));
  const children: ChildProcess[] = [];
  try {
    for (let i = 0; i < pairs; i++) {
      const own = { ...run, tag: `${run.tag}-${i}`, folder: mkdtempSync(join(folder, 'pair-')) };
      const child = forkEnd(fork, 'client', kind.name, own, {
        // The affinity of a process is inherited by what it starts.
        execPath: 'taskset',
        execArgv: ['-c', cpus.join(','), process.execPath],
        env: { ...process.env, PSP_SHM_NAME: `bench-${run.tag}`, ...kind.env },
      });
      children.push(child);
      group?.add(child.pid as number);
    }
    const clients = children.map((child) => new Callee(child));
    await Promise.all(clients.map((client) => client.call('open')));
    await Promise.all(clients.map((client) => client.call('measure', WARM_UP_MS)));
    const seen = await Promise.all(clients.map((client) => client.call<Asked>('measure', span)));
    await Promise.all(clients.map((client) => client.end()));
    return {
      perSecond: seen.reduce((sum, { perSecond }) => sum + perSecond, 0),
      p50: median(seen.map(({ p50 }) => p50)),
      p99: median(seen.map(({ p99 }) => p99)),
      over: seen[0]?.over ?? '',
    };
  } finally {
    for (const child of children) child.kill('SIGKILL');
    // The servers see the end of their clients; a group can be removed when it is empty.
    await sleep(50);
    rmSync(folder, { recursive: true, force: true });
  }
}

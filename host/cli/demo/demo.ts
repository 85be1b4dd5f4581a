/**
 * `isthmus demo`, which `npm start` runs: a region server and two peers in processes of their own; a file from one peer to
 * the other (transfer.ts), a migration of one of two peers (migration.ts), and the latency of messages (latency.ts).
 *
 * The processes run this program with `--role`; roles.ts has what each of them does.
 */

import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { IsthmusError } from '../../base/errors.js';
import { SHM } from '../../device/posix.js';
import { CliError } from '../support/errors.js';
import { print } from '../support/output.js';
import { stopSignal, untilStopped } from '../support/signals.js';
import { bytes, MIB } from '../support/units.js';
import { BUSY } from './advice.js';
import { showLatency } from './latency.js';
import { OTHER_MB, showMigration } from './migration.js';
import { type DemoRun, RoleProcess } from './role-process.js';
import { showTransfer } from './transfer.js';

const REGION_MB = 64;
/** For the whole demo. */
const LIMIT_MS = 240_000;

function checkSpace(): void {
  let available: number;
  try {
    const { bavail, bsize } = statfsSync(SHM);
    available = bavail * bsize;
  } catch {
    throw new CliError(`there is no ${SHM} here, where the demo creates its regions`, 'Regions need Linux.');
  }
  const needed = (REGION_MB + OTHER_MB) * MIB;
  if (available < needed) {
    throw new IsthmusError(
      'ERR_ISTHMUS_REGION_NO_SPACE',
      `${SHM} has ${bytes(available)} free, the regions of the demo need ${bytes(needed)}`,
      { path: SHM, needed, available },
    );
  }
}

async function showAll(run: DemoRun): Promise<void> {
  const server = run.start('region server', { name: basename(run.region), megabytes: REGION_MB });
  await server.report('ready', run.signal);
  print(`Region server: ${run.region}, ${REGION_MB} MiB\n`);
  await showTransfer(run);
  await showMigration(run);
  await showLatency(run);
}

/** The environment of the processes: the demo does not depend on the settings of the user. */
function environment(region: string): NodeJS.ProcessEnv {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('PSP_')));
  // Without shm, which processes of one user prefer: the demo shows what two virtual machines use.
  return { ...env, PSP_IVSHMEM_REGIONS: region, PSP_SHM: '0' };
}

/** @returns the exit code */
export async function demo(): Promise<number> {
  const started = performance.now();
  checkSpace();
  using stop = stopSignal();
  const region = join(SHM, `isthmus-demo-${process.pid}-${randomBytes(4).toString('hex')}`);
  const env = environment(region);
  const processes: RoleProcess[] = [];
  // Not AbortSignal.any and .timeout: garbage collection in Node.js 20 drops such signals.
  const ending = new AbortController();
  const late = setTimeout(
    () => ending.abort(new CliError(`the demo has not ended within ${LIMIT_MS / 1000} s`, BUSY)),
    LIMIT_MS,
  );
  stop.addEventListener('abort', () => ending.abort(stop.reason), { once: true });
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-demo-'));
  return await untilStopped(stop, async () => {
    try {
      await showAll({
        region,
        folder,
        signal: ending.signal,
        start: (role, args, more) => {
          const child = new RoleProcess(role, args, { ...env, ...more });
          processes.push(child);
          return child;
        },
      });
      print(`All checks passed in ${((performance.now() - started) / 1000).toFixed(1)} s.\n`);
    } finally {
      clearTimeout(late);
      // The region servers last: the other processes use their regions.
      const isServer = ({ role }: RoleProcess) => role === 'region server';
      await Promise.all(processes.filter((child) => !isServer(child)).map((child) => child.end()));
      await Promise.all(processes.filter(isServer).map((child) => child.end()));
      for (const path of readdirSync(SHM).map((name) => join(SHM, name))) {
        if (path.startsWith(region)) rmSync(path, { force: true });
      }
      rmSync(folder, { recursive: true, force: true });
    }
  });
}

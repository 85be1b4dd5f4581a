/**
 * Runs the crash test at its full length: every step of every operation, and ISTHMUS_CRASH_KILLS (10,000) deaths under full
 * load, from a seed that the test prints and ISTHMUS_TEST_SEED sets. `npm run test:all` runs a short version.
 */
import { spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const kills = Number(process.env.ISTHMUS_CRASH_KILLS ?? 10_000);
const { status } = spawnSync(process.execPath, [join(here, 'test.mjs'), 'test/crash/', '--all'], {
  stdio: 'inherit',
  env: {
    ISTHMUS_TEST_SEED: String(randomInt(2 ** 31)),
    ISTHMUS_TEST_TIMES: '1',
    // The limit of the file is made for 1,000 deaths.
    ISTHMUS_TEST_SLOWNESS: String(Math.max(2, Math.ceil(kills / 500))),
    ISTHMUS_CRASH_STEP: '1',
    ...process.env,
    ISTHMUS_CRASH_KILLS: String(kills),
  },
});
process.exit(status ?? 1);

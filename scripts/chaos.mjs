/**
 * Runs the chaos test of migrations at its full length: ISTHMUS_CHAOS_CYCLES (10,000) suspensions, from a seed that the
 * test prints and ISTHMUS_TEST_SEED sets. `npm run test:all` runs a short version.
 */
import { spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const cycles = Number(process.env.ISTHMUS_CHAOS_CYCLES ?? 10_000);
const { status } = spawnSync(process.execPath, [join(here, 'test.mjs'), 'integration/chaos', '--all'], {
  stdio: 'inherit',
  env: {
    ISTHMUS_TEST_SEED: String(randomInt(2 ** 31)),
    ISTHMUS_TEST_TIMES: '1',
    // A suspension takes a second and more on a slow machine; the limits are made for 200 suspensions.
    ISTHMUS_TEST_SLOWNESS: String(Math.max(1, Math.ceil(cycles / 200)) * 2),
    ...process.env,
    ISTHMUS_CHAOS_CYCLES: String(cycles),
  },
});
process.exit(status ?? 1);

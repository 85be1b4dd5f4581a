/**
 * The chaos test of migrations for as long as it takes: ISTHMUS_CHAOS_CYCLES (10,000) suspensions, from a seed that is
 * printed and taken from ISTHMUS_TEST_SEED. `npm run test:all` has a short one of it.
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
    // A second and more for each on a slow machine: the limits are for 200.
    ISTHMUS_TEST_SLOWNESS: String(Math.max(1, Math.ceil(cycles / 200)) * 2),
    ...process.env,
    ISTHMUS_CHAOS_CYCLES: String(cycles),
  },
});
process.exit(status ?? 1);

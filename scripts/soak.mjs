/**
 * Runs the soak test at its full length: ISTHMUS_SOAK_CYCLES (10,000) connections that open and close, then
 * ISTHMUS_SOAK_MINUTES (60) of full load. `npm run test:all` runs a short version of both.
 */
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const cycles = Number(process.env.ISTHMUS_SOAK_CYCLES ?? 10_000);
const minutes = Number(process.env.ISTHMUS_SOAK_MINUTES ?? 60);
const { status } = spawnSync(process.execPath, [join(here, 'test.mjs'), 'soak/soak', '--all'], {
  stdio: 'inherit',
  env: {
    ISTHMUS_TEST_TIMES: '1',
    // Seconds for the file.
    ISTHMUS_TEST_TIMEOUT: String(Math.ceil(600 + cycles / 2 + minutes * 120)),
    ...process.env,
    ISTHMUS_SOAK_CYCLES: String(cycles),
    ISTHMUS_SOAK_MINUTES: String(minutes),
  },
});
process.exit(status ?? 1);

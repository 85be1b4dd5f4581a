/**
 * Runs the tests with hostile peers of `npm run test:all` round after round, each round with another seed, until a test
 * fails or the command is interrupted.
 *
 *   npm run test:hostile [-- FILTER…]
 *
 * ISTHMUS_TEST_SEED: the seed of the first round; each further round adds one. ISTHMUS_HOSTILE_MUTATIONS: stores in each
 * round (1,000,000). ISTHMUS_HOSTILE_ROUNDS: the number of rounds (no limit).
 */
import { spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const args = process.argv.slice(2);
if (args.includes('--help') || args.includes('-h')) {
  console.log(`Usage: npm run test:hostile [-- FILTER…]

Run the tests with hostile peers round after round, each round with another seed, until a test fails or Ctrl-C.
FILTER: a part of the path of a test (default: core.slow, region, control, test/wire/fuzz).

  ISTHMUS_TEST_SEED            seed of the first round (now)
  ISTHMUS_HOSTILE_MUTATIONS    stores in each round (1000000)
  ISTHMUS_TEST_FUZZ            byte streams in each test that has them (1000)
  ISTHMUS_HOSTILE_ROUNDS       end after so many (never)

Example:
  $ npm run test:hostile
  $ ISTHMUS_TEST_SEED=42 ISTHMUS_HOSTILE_ROUNDS=1 npm run test:hostile -- hostile/core`);
  process.exit(0);
}
const filters = args.length > 0 ? args : ['hostile/core.slow', 'hostile/region', 'hostile/control', 'wire/fuzz'];
const first = Number(process.env.ISTHMUS_TEST_SEED ?? Math.floor(Date.now() / 1000));
const rounds = Number(process.env.ISTHMUS_HOSTILE_ROUNDS ?? Number.POSITIVE_INFINITY);
const tests = join(dirname(fileURLToPath(import.meta.url)), 'test.mjs');
const started = performance.now();

for (let round = 0; round < rounds; round++) {
  const seed = (first + round) >>> 0;
  console.log(
    `\n━━ round ${round + 1}, ISTHMUS_TEST_SEED=${seed}, ${((performance.now() - started) / 60_000).toFixed(1)} min`,
  );
  const env = {
    ISTHMUS_HOSTILE_MUTATIONS: '1000000',
    ISTHMUS_TEST_FUZZ: '1000',
    ISTHMUS_TEST_JOBS: '1',
    ...process.env,
    ISTHMUS_TEST_SEED: String(seed),
  };
  const child = spawn(process.execPath, [tests, '--all', ...filters], { env, stdio: 'inherit' });
  // The runner of the tests ends its processes, and then itself.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, () => child.kill(signal));
  const code = await new Promise((resolve) => child.once('exit', (value, signal) => resolve(signal ? 1 : value)));
  if (code !== 0) {
    console.log(`\nRepeat it with: ISTHMUS_TEST_SEED=${seed} ISTHMUS_HOSTILE_ROUNDS=1 npm run test:hostile`);
    process.exit(code);
  }
}

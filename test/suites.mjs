// @ts-check
/**
 * What steers the runner, in one place: which files run alone, how long each may take, and which run only with
 * `npm run test:all`. A file that is not named here is part of `npm test`, runs beside another one, and has
 * ISTHMUS_TEST_TIMEOUT (120) seconds.
 *
 * Keys are paths below test/; the name of a folder ends with a slash and holds for all its files, unless an entry of a
 * file says otherwise. scripts/suites.mjs lists the settings; scripts/test.mjs refuses to run when a key leads nowhere,
 * when a setting is unknown or of a wrong type, and when a steering comment is left in a test file.
 *
 * @type {import('../scripts/suites.mjs').Manifest}
 */
export const suites = {
  'crash/crash.test.ts': { limitSeconds: 1500, onlyWithAll: true },

  'hostile/branches.test.ts': { limitSeconds: 400, onlyWithAll: true },
  'hostile/control.test.ts': { limitSeconds: 200 },
  'hostile/core.slow.test.ts': { limitSeconds: 600, onlyWithAll: true },
  'hostile/core.test.ts': { limitSeconds: 600 },
  'hostile/region.test.ts': { limitSeconds: 900, onlyWithAll: true },

  // It wants both processors for what it measures.
  'integration/bench.test.ts': { alone: true, limitSeconds: 500, onlyWithAll: true },
  'integration/chaos.slow.test.ts': { alone: true, limitSeconds: 900, onlyWithAll: true },
  'integration/cli.test.ts': { limitSeconds: 300, onlyWithAll: true },
  'integration/control.test.ts': { limitSeconds: 300, onlyWithAll: true },
  'integration/coverage.test.ts': { limitSeconds: 300, onlyWithAll: true },
  'integration/death.slow.test.ts': { limitSeconds: 900, onlyWithAll: true },
  'integration/death.test.ts': { limitSeconds: 300, onlyWithAll: true },
  'integration/demo.test.ts': { alone: true, limitSeconds: 600, onlyWithAll: true },
  'integration/dev.test.ts': { limitSeconds: 400, onlyWithAll: true },
  'integration/device.slow.test.ts': { limitSeconds: 300, onlyWithAll: true },
  'integration/endpoint.test.ts': { limitSeconds: 200 },
  'integration/groups.test.ts': { limitSeconds: 200 },
  'integration/limits.test.ts': { limitSeconds: 300, onlyWithAll: true },
  'integration/lost.test.ts': { limitSeconds: 200 },
  'integration/many.test.ts': { alone: true, limitSeconds: 200, onlyWithAll: true },
  'integration/messages.test.ts': { limitSeconds: 400 },
  'integration/migrate.test.ts': { limitSeconds: 600, onlyWithAll: true },
  'integration/migration.test.ts': { limitSeconds: 300 },
  'integration/mqtt.test.ts': { limitSeconds: 400, onlyWithAll: true },
  'integration/plugins.test.ts': { limitSeconds: 400, onlyWithAll: true },
  'integration/resources.test.ts': { limitSeconds: 200 },
  'integration/rma.test.ts': { limitSeconds: 200 },
  'integration/server.test.ts': { limitSeconds: 400, onlyWithAll: true },
  'integration/shm.test.ts': { limitSeconds: 600, onlyWithAll: true },
  'integration/sockets.test.ts': { onlyWithAll: true },
  // The times at which the test stops processes, and the shares of a processor that the next two measure, mean something
  // only where no other file takes the processors.
  'integration/stalled.test.ts': { alone: true, limitSeconds: 300, onlyWithAll: true },
  'integration/waiting.slow.test.ts': { alone: true, limitSeconds: 300, onlyWithAll: true },
  'integration/waiting.test.ts': { alone: true, onlyWithAll: true },
  'integration/stream.test.ts': { limitSeconds: 300, onlyWithAll: true },

  'model/model.test.ts': { limitSeconds: 1500, onlyWithAll: true },

  'package/': { alone: true, limitSeconds: 900, onlyWithAll: true },

  'sanitize/native.test.ts': { limitSeconds: 600, onlyWithAll: true },

  'soak/soak.test.ts': { alone: true, limitSeconds: 800, onlyWithAll: true },

  'vendor/': { onlyWithAll: true },
  'vendor/driver.test.ts': { limitSeconds: 600 },

  // A guest takes both processors, and goes through the tests of a file one after the other.
  'vm/': { alone: true, onlyWithAll: true, rerunWhole: true },
  'vm/devices.test.ts': { limitSeconds: 1500 },
  'vm/driver.test.ts': { limitSeconds: 900 },
  'vm/libvirt.test.ts': { limitSeconds: 900 },
  'vm/made.test.ts': { limitSeconds: 1200 },
  'vm/migration.test.ts': { limitSeconds: 1500 },
  'vm/silence.test.ts': { limitSeconds: 1200 },

  'wire/fuzz.test.ts': { limitSeconds: 240 },
};

/**
 * Runs when npm installs the package: uses the prebuilt native part if it loads, or compiles one.
 *
 * The script never fails: without the native part `tcp` and `loop` work, and every other part reports why it does not. In a
 * checkout scripts/setup.mjs builds the native part, and this script does nothing.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);

function loads() {
  try {
    require('node-gyp-build')(root);
    return true;
  } catch {
    return false;
  }
}

const asked = process.env.npm_config_build_from_source === 'true';
if (!existsSync(join(root, 'scripts/setup.mjs')) && process.platform === 'linux' && (asked || !loads())) {
  const compiler = require.resolve('node-gyp-build/bin.js');
  const { status, error } = spawnSync(process.execPath, [compiler], { cwd: root, stdio: 'inherit' });
  if (status !== 0 || !loads()) {
    console.warn(
      `isthmus: the native part could not be compiled (${error?.message ?? `exit code ${status}`}); that needs python3, ` +
        'make and a C++ compiler. tcp and loop work without it, shared memory does not.',
    );
  }
}

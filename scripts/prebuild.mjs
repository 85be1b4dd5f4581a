/**
 * Copies the native part into prebuilds/, where node-gyp-build finds it in an installed package.
 *
 * One Node-API binary serves every version of Node; its name says that it is linked against glibc. It runs wherever Node's
 * own Linux binaries run, unless it needs a newer C library than they do: the script checks that.
 */
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { root, wasmTarget } from './build.mjs';

/** The newest versions that the binary may need: those of Debian 11 and RHEL 9. */
const NEWEST = { GLIBC: '2.31', GLIBCXX: '3.4.28', CXXABI: '1.3.12' };

if (wasmTarget !== 'release') {
  console.error('prebuild: a package takes the release build of the core: unset ISTHMUS_WASM');
  process.exit(1);
}
const source = join(root, 'build/Release/isthmus.node');
rmSync(join(root, 'prebuilds'), { recursive: true, force: true });
if (process.platform !== 'linux' || !existsSync(source)) {
  console.error('prebuild: there is no native part to put into the package; it will be compiled where it is installed');
} else {
  const folder = join(root, `prebuilds/linux-${process.arch}`);
  const target = join(folder, 'isthmus.napi.glibc.node');
  mkdirSync(folder, { recursive: true });
  copyFileSync(source, target);
  // Without binutils the file stays larger.
  spawnSync('strip', ['--strip-unneeded', target], { stdio: 'ignore' });

  const symbols = spawnSync('objdump', ['-T', target], { encoding: 'utf8' }).stdout ?? '';
  const newer = (a, b) => a.localeCompare(b, 'en', { numeric: true }) > 0;
  for (const [library, newest] of Object.entries(NEWEST)) {
    const asked = [...symbols.matchAll(new RegExp(`\\(${library}_([0-9.]+)\\)`, 'g'))].map(([, version]) => version);
    const most = asked.reduce((a, b) => (newer(b, a) ? b : a), '0');
    if (newer(most, newest)) {
      const names = symbols.split('\n').filter((line) => line.includes(`(${library}_${most})`));
      console.error(
        `prebuild: warning: the binary needs ${library}_${most}, newer than ${newest}:\n${names.join('\n')}`,
      );
    }
  }
}

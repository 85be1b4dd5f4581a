/** What guests are made of can be made here: kernel, driver, initramfs, and the disk with Node and the package. */
import { statSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { timebox } from '../support/timebox.js';
import { disk, starter } from './image.js';
import { kernel } from './kernel.js';
import { missing } from './needs.js';

const why = missing();
if (why) console.log(`! SKIPPED (npm run test:vm:setup): ${why}`);
const made = why ? test.skip : test;

made(
  'a kernel of Debian, the driver for it, an initramfs; Node and the installed package',
  timebox(1000, async () => {
    const found = kernel();
    console.log(`  ${found.version}`);
    for (const path of [starter(found), await disk()]) {
      const { size } = statSync(path);
      console.log(`  ${path}: ${(size / 0x100000).toFixed(1)} MiB`);
      assert.ok(size > 0x100000);
    }
    assert.equal([starter(found), await disk()], [starter(found), await disk()], 'made once');
  }),
);
test.run();

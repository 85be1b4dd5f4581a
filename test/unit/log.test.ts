/** The log: levels that may change, and the file of PSP_DEBUG_OUT. */
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { IsthmusError } from '../../host/base/errors.js';
import { expandPath, type Level, makeLog } from '../../host/base/log.js';
import { timebox } from '../support/timebox.js';

const folder = mkdtempSync(join(tmpdir(), 'isthmus-test-log-'));
test.after(() => rmSync(folder, { recursive: true }));

test(
  'the level decides, and may change',
  timebox(5, () => {
    const lines: string[] = [];
    const log = makeLog(2, 'x', { sink: (level, line) => lines.push(`${level} ${line}`) });
    const all = () => {
      lines.length = 0;
      for (const level of ['error', 'warning', 'info', 'debug'] as Level[]) log(level, 'y');
      return lines.length;
    };
    assert.is(all(), 2);
    assert.equal(lines, ['error y', 'warning y']);
    for (const [limit, count] of [
      [0, 0],
      [4, 4],
      [10, 4],
      [1, 1],
    ] as const) {
      log.limit = limit;
      assert.is(all(), count);
    }
  }),
);

test(
  'a sink that throws has no effect on the caller',
  timebox(5, () => {
    const log = makeLog(4, 'x', {
      sink: () => {
        throw new Error('no');
      },
    });
    log('error', 'y');
  }),
);

test(
  'a log file is appended to, readable by its owner only, even after it was moved away',
  timebox(5, () => {
    const path = join(folder, 'log-$$');
    const file = join(folder, `log-${process.pid}`);
    const umask = process.umask(0);
    try {
      makeLog(3, 'first', { path })('info', 'one');
      makeLog(3, 'second', { path })('warning', 'two');
    } finally {
      process.umask(umask);
    }
    assert.is(statSync(file).mode & 0o777, 0o600);
    const lines = readFileSync(file, 'utf8').trimEnd().split('\n');
    assert.is(lines.length, 2);
    const stamp = '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z';
    assert.match(lines[0] as string, new RegExp(`${stamp} isthmus first\\[${process.pid}\\] info: one$`));
    assert.match(lines[1] as string, / isthmus second\[\d+\] warning: two$/);
    const log = makeLog(1, 'third', { path });
    rmSync(file);
    log('error', 'three');
    assert.match(readFileSync(file, 'utf8'), / error: three\n$/);
  }),
);

test(
  'a file that cannot be written gives an error that names it',
  timebox(5, () => {
    try {
      makeLog(0, 'x', { path: join(folder, 'missing', 'log') });
    } catch (error) {
      assert.is((error as IsthmusError).code, 'ERR_ISTHMUS_CONFIG');
      assert.match((error as IsthmusError).message, /PSP_DEBUG_OUT: '.*\/missing\/log' .*ENOENT/);
      return;
    }
    throw new Error('the path was accepted');
  }),
);

test(
  'names in the path are expanded as pscom expands them',
  timebox(5, () => {
    const environment = { RANK: '3', A_1: 'x' };
    assert.is(expandPath(`/a/log_\${RANK}_$$`, environment), `/a/log_3_${process.pid}`);
    assert.is(expandPath('$A_1/$RANK.log', environment), 'x/3.log');
    assert.is(expandPath('$MISSING-', environment), '-');
    assert.is(expandPath('100$', environment), '100$');
  }),
);

test.run();

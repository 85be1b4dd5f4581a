/** What an error tells its reader to do: that of its errno, and not that of another one. */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { adviceFor, adviceForErrno, ERRNO_ADVICE } from '../../host/base/advice.js';
import { ERRORS, type ErrorCode, IsthmusError } from '../../host/base/errors.js';
import { describeError } from '../../host/cli/support/error-text.js';
import { checkFolder } from '../../host/control/folder.js';
import { openDevice, systemError } from '../../host/device/backing.js';
import { posixBacking } from '../../host/device/posix.js';
import { thrownBy } from '../support/outcomes.js';
import { timebox } from '../support/timebox.js';

const root = process.env['ISTHMUS_ROOT'] ?? '.';
const folder = mkdtempSync(join(tmpdir(), 'isthmus-advice-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

/** Words that only one advice may use. */
const OWN: Record<string, RegExp> = {
  EMFILE: /ulimit -n/,
  ENOMEM: /ulimit -v/,
  ENOSPC: /shm-size/,
  ENFILE: /file-max/,
};

test(
  'each errno that the code or the kernel may name has advice, and none has that of another',
  timebox(5, () => {
    const named = new Set<string>();
    const visit = (path: string): void => {
      for (const entry of readdirSync(path, { withFileTypes: true })) {
        if (entry.isDirectory()) visit(join(path, entry.name));
        else if (/[.](ts|cc)$/.test(entry.name)) {
          const source = readFileSync(join(path, entry.name), 'utf8');
          for (const [word] of source.matchAll(/\bE[A-Z0-9]{3,}\b/g)) if (word in constants.errno) named.add(word);
        }
      }
    };
    visit(join(root, 'host'));
    visit(join(root, 'native'));
    assert.ok(named.size > 10, [...named].join(' '));
    // Handled where they come, or no failure: they reach no reader.
    const inner = new Set(['ECONNABORTED', 'EINTR']);
    for (const errno of named) if (!inner.has(errno)) assert.ok(adviceForErrno(errno), `no advice for ${errno}`);
    for (const [errno, advice] of Object.entries(ERRNO_ADVICE)) {
      assert.match(errno, /^E[A-Z0-9]+$/);
      for (const [owner, words] of Object.entries(OWN)) if (owner !== errno) assert.not.match(advice, words, errno);
    }
    for (const nothing of ['toString', 'EUNKNOWN', undefined, 2]) assert.is(adviceForErrno(nothing), undefined);
  }),
);

test(
  'errors of real system calls',
  timebox(10, () => {
    writeFileSync(join(folder, 'file'), '');
    mkdirSync(join(folder, 'sub'));
    symlinkSync('loop', join(folder, 'loop'));
    const open = (path: string) => thrownBy(() => openDevice(join(folder, path)));
    const missing = thrownBy(() => systemFailure(() => readFileSync(join(folder, 'missing'))));
    assert.match(adviceFor(missing), /does not exist/);
    for (const [error, errno] of [
      [missing, 'ENOENT'],
      [open('sub'), 'EISDIR'],
      [open('loop'), 'ELOOP'],
      [open('file/below'), 'ENOTDIR'],
      [open('x'.repeat(300)), 'ENAMETOOLONG'],
      [thrownBy(() => systemFailure(() => mkdirSync(join(folder, 'sub')))), 'EEXIST'],
    ] as const) {
      assert.is(error.code, 'ERR_ISTHMUS_SYSCALL');
      assert.is(error.errno, errno);
      assert.is(adviceFor(error), ERRNO_ADVICE[errno]);
    }
    // A code of its own says more, unless the errno says what is in the way.
    const region = thrownBy(() => posixBacking(join(folder, 'missing')).open());
    assert.is(adviceFor(region), ERRORS.ERR_ISTHMUS_REGION_NOT_FOUND.action);
    const full = new IsthmusError('ERR_ISTHMUS_REGION_NOT_FOUND', 'cannot open', { errno: 'EMFILE' });
    assert.is(adviceFor(full), ERRNO_ADVICE['EMFILE']);
    const caused = new IsthmusError('ERR_ISTHMUS_CONNECT', 'connect', {
      cause: Object.assign(new Error(), { code: 'EMFILE' }),
    });
    assert.is(adviceFor(caused), ERRNO_ADVICE['EMFILE']);
    assert.match(adviceFor(new IsthmusError('ERR_ISTHMUS_SYSCALL', 'no window', { syscall: 'mmap' })), /address space/);
    for (const code of Object.keys(ERRORS) as ErrorCode[]) {
      assert.is(adviceFor(new IsthmusError(code, 'without an errno')), ERRORS[code].action);
    }
  }),
);

test(
  'a process that has no descriptor left is told so',
  timebox(20, () => {
    const script = `
      const { openSync } = require('node:fs');
      try { for (;;) openSync('/dev/null'); } catch (error) { console.log(JSON.stringify([error.code, error.syscall])); }`;
    const limited = `ulimit -n 40; exec "${process.execPath}" -e "$0"`;
    const { stdout } = spawnSync('bash', ['-c', limited, script], { encoding: 'utf8' });
    const [code, syscall] = JSON.parse(stdout);
    const error = systemError(Object.assign(new Error('x'), { code, syscall }), 'cannot open', '/dev/null');
    assert.match(describeError(error), /EMFILE \(ERR_ISTHMUS_SYSCALL\)\n {2}.*'ulimit -n'/);
  }),
);

test(
  'a control folder with a wrong mode says nothing of descriptors; an error of Node has the advice, too',
  timebox(5, () => {
    const open = join(folder, 'open');
    mkdirSync(open);
    chmodSync(open, 0o755);
    const text = describeError(thrownBy(() => checkFolder(open)));
    assert.match(text, /mode 0755, not 0700\); run: chmod 700.*\n {2}Do what the message says/);
    for (const words of Object.values(OWN)) assert.not.match(text, words);
    const plain = thrownBy<Error>(() => readFileSync(join(folder, 'missing')));
    assert.match(describeError(plain), /^isthmus: ENOENT.*\n {2}The path in the message does not exist/);
  }),
);

/** What a room makes of an error of Node. */
function systemFailure(body: () => unknown): void {
  try {
    body();
  } catch (error) {
    throw systemError(error, 'cannot do it to', folder);
  }
}

test.run();

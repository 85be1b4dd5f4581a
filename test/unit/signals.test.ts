/** Signals of a command: the first one stops it, and a command that has ended leaves no handler behind. */
import { once } from 'node:events';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { stopSignal } from '../../host/cli/support/signals.js';
import { printed } from '../support/cli.js';
import { timebox } from '../support/timebox.js';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const handlers = () => SIGNALS.map((signal) => process.listenerCount(signal));

test(
  'the first signal aborts, with its name as the reason, and a second one finds no handler',
  timebox(20, async () => {
    const before = handlers();
    for (const signal of SIGNALS) {
      using stop = stopSignal();
      assert.equal(
        handlers(),
        before.map((count) => count + 1),
      );
      const aborted = once(stop, 'abort');
      process.kill(process.pid, signal);
      await aborted;
      assert.is(stop.reason, signal);
      assert.equal(handlers(), before);
    }
  }),
);

/** Each fails at once, after it has begun to listen for signals. */
const FAILING = [
  ['broker', '--host', '192.0.2.1', '--port', '1'],
  ['suspend', '--broker', 'mqtt://127.0.0.1:1'],
  ['resume', '--broker', 'mqtt://127.0.0.1:1'],
  ['server', '-s', '/nonexistent/region', '-m', '1'],
  ['pipe', '127.0.0.1:1'],
  ['pp', '127.0.0.1:1'],
  ['pp', '--listen', '1', '--host', '192.0.2.1'],
  ['migrate', '--qmp', '/nonexistent', '--to-qmp', '/nonexistent', '--uri', 'unix:/nonexistent', '--host', 'vm'],
] as const;

for (const command of FAILING) {
  test(
    `no handler is left by: isthmus ${command.join(' ')}`,
    timebox(60, async () => {
      const before = handlers();
      const { code, stderr } = await printed(command);
      assert.is.not(code, 0);
      assert.not.match(stderr, /usage|unknown option/i);
      assert.equal(handlers(), before);
    }),
  );
}

test.run();

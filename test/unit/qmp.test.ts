/** The client of QEMU's control channel, against a stand-in that sends messages in rare orders. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Qmp, QmpError } from '../../host/cli/vm/qmp.js';
import { QmpStandIn, SILENT } from '../support/qmp.js';
import { newPath } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

async function failure(promise: Promise<unknown>): Promise<QmpError> {
  try {
    await promise;
  } catch (error) {
    assert.instance(error, QmpError);
    return error as QmpError;
  }
  throw new Error('it did not fail');
}

async function withStandIn(body: (qemu: QmpStandIn, qmp: Qmp) => Promise<void>): Promise<void> {
  const qemu = await QmpStandIn.start();
  const qmp = await Qmp.open(qemu.path);
  try {
    await body(qemu, qmp);
  } finally {
    await qmp.close();
    await qemu.close();
  }
}

test(
  'freed waits until QEMU has no block of that memory, and for no other',
  timebox(10, () =>
    withStandIn(async (qemu, qmp) => {
      const line = (name: string) => `${name.padStart(24)}    4 KiB  0x0000000000000000\r\n`;
      const list = (...names: string[]) => [line('Block Name'), line('pc.ram'), ...names.map(line)].join('');
      let asked = 0;
      qemu.handlers['human-monitor-command'] = ({ 'command-line': command }) => {
        assert.is(command, 'info ramblock');
        const others = ['0000:00:03.0/mem10', '0000:00:03.0/a-mem1'];
        return ++asked < 4 ? list(...others, '0000:00:04.0/mem1') : list(...others);
      };
      assert.is(await qmp.freed('mem1', 5000), true);
      assert.is(asked, 4);
      assert.is(await qmp.freed('mem10', 20), false);
    }),
  ),
);

test(
  'answers find their commands, whatever arrives between them and in whatever pieces',
  timebox(10, () =>
    withStandIn(async (qemu, qmp) => {
      qemu.handlers['first'] = async ({ n }) => {
        qemu.event('RESUME');
        await pause(30);
        return { n };
      };
      qemu.handlers['second'] = () => [2];
      assert.equal(await Promise.all([qmp.execute('first', { n: 1 }), qmp.execute('second')]), [{ n: 1 }, [2]]);
      qemu.handlers['pieces'] = async () => {
        const text = JSON.stringify({ return: 'ü', id: 5 });
        for (const char of text) {
          qemu.write(char);
          await pause(1);
        }
        qemu.write('\n\r\n');
        return SILENT;
      };
      assert.is(
        await failure(qmp.execute('none')).then(({ message }) => message),
        'none: The command none has not been found',
      );
      assert.is(await qmp.execute('pieces'), 'ü');
    }),
  ),
);

test(
  'a late answer is not mistaken for the answer to the next command',
  timebox(10, () =>
    withStandIn(async (qemu, qmp) => {
      qemu.handlers['slow'] = () => pause(100).then(() => 'slow');
      qemu.handlers['next'] = () => pause(200).then(() => 'next');
      const late = await failure(qmp.execute('slow', {}, { limit: 20 }));
      assert.is(late.failure, 'late');
      assert.match(late.message, /QEMU has not answered slow \(0\.02 s\)$/);
      assert.is(await qmp.execute('next'), 'next');
    }),
  ),
);

test(
  'events: earlier ones, later ones, none from before `since`',
  timebox(10, () =>
    withStandIn(async (qemu, qmp) => {
      qemu.handlers['now'] = () => qemu.event('DEVICE_DELETED', { device: 'a' });
      await qmp.execute('now');
      const { eventCount } = qmp;
      assert.is(eventCount, 1);
      assert.equal((await qmp.event('DEVICE_DELETED', ({ device }) => device === 'a')).data, { device: 'a' });
      const again = qmp.event('DEVICE_DELETED', ({ device }) => device === 'a', { since: eventCount });
      qemu.event('DEVICE_DELETED', { device: 'b' });
      qemu.event('DEVICE_DELETED', { device: 'a', path: '/x' });
      assert.equal((await again).data, { device: 'a', path: '/x' });
      assert.is((await failure(qmp.event('STOP', undefined, { limit: 20 }))).failure, 'late');
    }),
  ),
);

test(
  'a signal ends a wait at once',
  timebox(10, () =>
    withStandIn(async (qemu, qmp) => {
      qemu.handlers['never'] = () => SILENT;
      const stop = new AbortController();
      const reason = new Error('enough');
      const waits = [
        qmp.execute('never', {}, { signal: stop.signal }),
        qmp.event('NEVER', undefined, { signal: stop.signal }),
      ];
      await pause(20);
      stop.abort(reason);
      for (const wait of [...waits, qmp.execute('never', {}, { signal: stop.signal })]) {
        assert.is(await wait.catch((error) => error), reason);
      }
    }),
  ),
);

test(
  'QEMU ends, has another client, is not QEMU, or is missing',
  timebox(20, async () => {
    await withStandIn(async (qemu, qmp) => {
      const second = await failure(Qmp.open(qemu.path, { limit: 50 }));
      assert.match(second.message, /has not sent its greeting: is another client connected\?/);
      qemu.handlers['quit'] = () => {
        qemu.hangUp();
        return SILENT;
      };
      const waiting = failure(qmp.event('NEVER'));
      assert.is((await failure(qmp.execute('quit'))).failure, 'closed');
      assert.is((await waiting).failure, 'closed');
      assert.is((await failure(qmp.execute('query-status'))).failure, 'closed');
    });
    await withStandIn(async (qemu, qmp) => {
      const waiting = failure(qmp.event('NEVER'));
      qemu.write('SSH-2.0\r\n');
      assert.is((await waiting).failure, 'notQmp');
    });
    for (const address of [newPath('unused'), '127.0.0.1:1', 'localhost:1']) {
      const error = await Qmp.open(address).catch((why) => why);
      assert.match(String(error.code), /ENOENT|ECONNREFUSED/);
    }
  }),
);

const QEMU = 'qemu-system-x86_64';
if (spawnSync(QEMU, ['--version']).error) console.log(`! no ${QEMU} here: QMP of a real QEMU is NOT TESTED`);
else {
  test(
    'a real QEMU: a command, an error, an event, the end',
    timebox(30, async () => {
      const path = newPath('qmp');
      const args = ['-machine', 'none', '-nodefaults', '-display', 'none', '-qmp', `unix:${path},server=on,wait=off`];
      const qemu = spawn(QEMU, args, { stdio: ['ignore', 'inherit', 'inherit'] });
      try {
        const ended = once(qemu, 'exit');
        let qmp: Qmp | undefined;
        while (!qmp) {
          qmp = await Qmp.open(path).catch(() => undefined);
          await pause(20);
        }
        const status = (await qmp.execute('query-status')) as { status: string };
        assert.is(status.status, 'running');
        assert.match(
          (await failure(qmp.execute('device_del', { id: 'x' }))).message,
          /^device_del: Device 'x' not found/,
        );
        await qmp.execute('stop');
        await qmp.event('STOP');
        await qmp.execute('quit');
        assert.equal(await ended, [0, null]);
        assert.is((await failure(qmp.execute('query-status'))).failure, 'closed');
        await qmp.close();
      } finally {
        qemu.kill('SIGKILL');
      }
    }),
  );
}

test.run();

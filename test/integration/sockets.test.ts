/** The options of tcp's sockets, asked of the kernel: PSP_SO_SNDBUF and PSP_SO_RCVBUF. */
import { closeSync, openSync, readdirSync, readlinkSync } from 'node:fs';
import { Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { createPrivateCore } from '../../host/core/private.js';
import { addon } from '../../host/native/native.js';
import { TcpPlugin } from '../../host/plugins/tcp.js';
import { Runtime, type RuntimeOptions } from '../../host/runtime/runtime.js';
import { only } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

/** The buffers of all sockets of this process, as `send receive`. */
function buffers(): string[] {
  const found: string[] = [];
  for (const fd of readdirSync('/proc/self/fd')) {
    try {
      if (!readlinkSync(`/proc/self/fd/${fd}`).startsWith('socket:')) continue;
      const { send, receive } = addon().socketBuffers(Number(fd));
      found.push(`${send} ${receive}`);
    } catch {
      // Closed meanwhile: the descriptor of the folder itself.
    }
  }
  return found;
}

async function connected(
  first: RuntimeOptions,
  second: RuntimeOptions,
  body: (near: Connection, far: Connection) => Promise<void>,
): Promise<void> {
  const [a, b] = await Promise.all([Runtime.create(only('', first)), Runtime.create(only('', second))]);
  try {
    let far: Connection | undefined;
    const { port } = await b.listen({}, async (connection) => {
      far = connection;
      await connection.closed;
    });
    const near = await a.connect({ host: '127.0.0.1', port });
    while (!far) await pause(1);
    await body(near, far);
  } finally {
    await Promise.all([a.close({ timeout: 500 }), b.close({ timeout: 500 })]);
  }
}

test(
  'both sides set the configured sizes',
  timebox(20, async () => {
    const near = { sendBuffer: 70_000, receiveBuffer: 90_000 };
    process.env['PSP_SO_SNDBUF'] = '50000';
    process.env['PSP_SO_RCVBUF'] = '40000';
    try {
      await connected(near, {}, async (a, b) => {
        // The kernel doubles the values, for its own bookkeeping.
        const found = buffers();
        assert.ok(found.includes('140000 180000'), found.join(', '));
        assert.ok(found.includes('100000 80000'), found.join(', '));
        const large = Buffer.alloc(1 << 20, 5);
        const sent = a.send(large);
        assert.is(Buffer.compare((await b.receive())?.data ?? Buffer.alloc(0), large), 0);
        await sent;
      });
    } finally {
      delete process.env['PSP_SO_SNDBUF'];
      delete process.env['PSP_SO_RCVBUF'];
    }
    // Only one of them.
    await connected({ sendBuffer: 60_000 }, {}, async () => {
      const found = buffers().filter((each) => each.startsWith('120000 '));
      assert.is(found.length, 1);
    });
  }),
);

test(
  'keep-alive: the setting, and setKeepAlive and setNoDelay of the stream instead of it',
  timebox(20, async () => {
    const calls: string[] = [];
    const { setKeepAlive, setNoDelay } = Socket.prototype;
    Socket.prototype.setKeepAlive = function (on?: boolean, delay?: number) {
      calls.push(`keepAlive ${on} ${delay}`);
      return setKeepAlive.call(this, on, delay);
    };
    Socket.prototype.setNoDelay = function (on?: boolean) {
      calls.push(`noDelay ${on}`);
      return setNoDelay.call(this, on);
    };
    try {
      await connected({ keepAlive: 30 }, { keepAlive: 0 }, async (a) => {
        assert.equal(calls.sort(), ['keepAlive true 30000', 'noDelay true', 'noDelay true']);
        calls.length = 0;
        const stream = a.stream();
        stream.setKeepAlive(true, 5000).setKeepAlive(true, 1e12).setKeepAlive().setNoDelay(false).setNoDelay();
        assert.equal(calls, [
          'keepAlive true 5000',
          'keepAlive true 32767000',
          'keepAlive false 0',
          'noDelay false',
          'noDelay true',
        ]);
        for (const delay of [-1, Number.NaN, '1' as unknown as number]) {
          assert.throws(
            () => stream.setKeepAlive(true, delay),
            (error: { code: string }) => error.code === 'ERR_ISTHMUS_INVALID_ARGUMENT',
          );
        }
      });
    } finally {
      Object.assign(Socket.prototype, { setKeepAlive, setNoDelay });
    }
  }),
);

test(
  'a socket without a descriptor: reported once, and the connection continues',
  timebox(10, () => {
    const lines: string[] = [];
    const core = createPrivateCore();
    const plugin = new TcpPlugin(() => core, {
      noDelay: true,
      ringSize: 4096,
      sendBuffer: 70_000,
      receiveBuffer: 0,
      keepAlive: 0,
      log: (line) => lines.push(line),
    });
    for (let i = 0; i < 3; i++) {
      const channel = { role: 'accept', address: undefined, step() {}, ok() {}, next() {} } as const;
      // A socket that was never connected has no handle.
      const link = plugin.accept(channel).open(new Socket(), Buffer.alloc(0));
      link.destroy();
      link.free();
    }
    assert.is(lines.length, 1);
    assert.match(lines[0] as string, 'sendBuffer and receiveBuffer are not set');
  }),
);

test(
  'the native functions check their arguments',
  timebox(10, () => {
    const { setSocketBuffers, socketBuffers, unansweredFor } = addon();
    const thrown = (body: () => unknown) => {
      try {
        body();
      } catch (error) {
        return error as NodeJS.ErrnoException;
      }
      throw new Error('it did not throw');
    };
    for (const [fd, send, receive] of [
      [-1, 0, 0],
      [2 ** 31, 0, 0],
      [0, -1, 0],
      [0, 1.5, 0],
      [0, 0, Number.NaN],
      [0, 2 ** 31, 0],
    ] as const) {
      assert.is(thrown(() => setSocketBuffers(fd, send, receive)).code, 'ERR_OUT_OF_RANGE');
    }
    assert.is(thrown(() => setSocketBuffers('0' as unknown as number, 0, 0)).code, 'ERR_INVALID_ARG_TYPE');
    const file = openSync('/dev/null', 'r');
    const error = thrown(() => setSocketBuffers(file, 1000, 0));
    assert.is(error.code, 'ENOTSOCK');
    assert.is(error.syscall, 'setsockopt');
    assert.is(thrown(() => socketBuffers(file)).code, 'ENOTSOCK');
    assert.is(thrown(() => unansweredFor(file)).code, 'ENOTSOCK');
    assert.is(thrown(() => unansweredFor(-1)).code, 'ERR_OUT_OF_RANGE');
    // With 0 for both, the kernel is not called.
    setSocketBuffers(file, 0, 0);
    closeSync(file);
    for (const call of [socketBuffers, unansweredFor]) assert.is(thrown(() => call(file)).code, 'EBADF');
  }),
);

test.run();

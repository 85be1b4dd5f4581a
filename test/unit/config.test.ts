/** Configuration: options over environment over defaults, and refused values. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { IsthmusError } from '../../host/base/errors.js';
import { type ConfigOptions, SETTINGS, type SettingName } from '../../host/config/config.js';
import { configure, explain } from '../../host/config/resolve.js';
import { GROUPS } from '../../host/config/setting.js';
import { Runtime } from '../../host/runtime/runtime.js';
import { timebox } from '../support/timebox.js';

const names = Object.keys(SETTINGS) as SettingName[];

/** A value other than the default, as an option and as text. */
function another(name: SettingName): { option: string | number | boolean; text: string } {
  const fallback: string | number | boolean = SETTINGS[name].default;
  if (typeof fallback === 'boolean') return { option: !fallback, text: fallback ? '0' : '1' };
  if (name === 'network') return { option: '10.0.0.0/8', text: '10.0.0.0/8' };
  if (name === 'broker') return { option: 'mqtt://u:p@h:7', text: 'mqtt://u:p@h:7' };
  if (name === 'wait') return { option: 'spin', text: 'spin' };
  if (typeof fallback === 'string') return { option: 'something', text: 'something' };
  if (name === 'shmSize') return { option: 0x100000, text: '1048576' };
  if (/ring/i.test(name)) return { option: 8192, text: '8192' };
  return { option: fallback === 7 ? 8 : 7, text: fallback === 7 ? '8' : '7' };
}

function errorOf(options: ConfigOptions, environment: NodeJS.ProcessEnv = {}): IsthmusError {
  try {
    configure(options, environment);
  } catch (error) {
    assert.instance(error, IsthmusError);
    assert.is((error as IsthmusError).code, 'ERR_ISTHMUS_CONFIG');
    return error as IsthmusError;
  }
  throw new Error(`${JSON.stringify(options)} ${JSON.stringify(environment)} was accepted`);
}

test(
  'option over environment over default, for each setting',
  timebox(5, () => {
    for (const name of names) {
      const { variable } = SETTINGS[name];
      const fallback = SETTINGS[name].default;
      const { option, text } = another(name);
      // As text that is read as the same value.
      const same = typeof fallback === 'boolean' ? String(Number(fallback)) : String(fallback);
      const row = (options: ConfigOptions, environment: NodeJS.ProcessEnv) => {
        const found = explain(options, environment).find((each) => each.name === name);
        assert.is(found?.variable, variable);
        assert.is(configure(options, environment)[name], found?.value);
        return [found?.value, found?.origin];
      };
      assert.equal(row({}, {}), [fallback, 'default'], name);
      assert.equal(row({ [name]: undefined }, {}), [fallback, 'default'], name);
      assert.equal(row({}, { [variable]: text }), [option, 'environment'], name);
      assert.equal(row({ [name]: option }, {}), [option, 'option'], name);
      assert.equal(row({ [name]: option }, { [variable]: same }), [option, 'option'], name);
      assert.equal(row({}, { [variable]: same }), [fallback, 'environment'], name);
      // With an option given, the environment is not read: a bad value there does not matter.
      assert.equal(row({ [name]: option }, { [variable]: 'invalid' }), [option, 'option'], name);
    }
  }),
);

test(
  'variables are named once, and every row is explained',
  timebox(5, () => {
    const rows = explain({}, {});
    assert.is(rows.length, names.length);
    assert.is(new Set(rows.map(({ variable }) => variable)).size, names.length);
    for (const { variable, group, meaning, takes } of rows) {
      assert.match(variable, /^PSP_[A-Z_]+$/);
      assert.ok(meaning.length > 5 && takes.length > 2, variable);
      assert.ok(group in GROUPS, variable);
    }
  }),
);

test(
  'the message about a bad value names its origin, the value and the accepted values',
  timebox(5, () => {
    for (const name of names) {
      const { variable, takes } = SETTINGS[name];
      const kind = typeof SETTINGS[name].default;
      const texts =
        kind === 'string' ? [] : ['', ' ', 'x', '-1', '1.5', '1e3', '0x10', '99999999999999999999', 'true', '1 2'];
      for (const value of texts) {
        const { message } = errorOf({}, { [variable]: value });
        for (const part of [variable, `'${value}'`, takes]) assert.ok(message.includes(part), `${message}: ${part}`);
      }
      const values: unknown[] = [null, {}, [], Symbol.iterator, Number.NaN, Number.POSITIVE_INFINITY, -1, 1.5];
      if (kind !== 'string') values.push('1', '');
      if (kind !== 'boolean') values.push(true);
      else values.push(0, 1);
      for (const value of values) {
        const { message } = errorOf({ [name]: value } as ConfigOptions);
        for (const part of [`option ${name}`, `'${String(value)}'`, takes]) {
          assert.ok(message.includes(part), `${message}: ${part}`);
        }
      }
    }
  }),
);

test(
  'the limits of a setting are accepted, values beyond them are refused',
  timebox(5, () => {
    const bounds: Partial<Record<SettingName, [good: number[], bad: number[]]>> = {
      loop: [
        [0, 1, 1000],
        [-1, 1001],
      ],
      tcp: [[0, 1000], [1001]],
      ringSize: [
        [0, 4096, 8192, 0x4000000],
        [1, 2048, 4095, 4097, 12_288, 0x8000000],
      ],
      tcpRingSize: [
        [0, 4096],
        [4095, 0x8000000],
      ],
      shmSize: [
        [0x100000, 0x40000000],
        [0, 4096, 0x80000, 0x100001, 0x80000000],
      ],
      backlog: [
        [1, 0x7fffffff],
        [0, 0x80000000],
      ],
      sendBuffer: [[0, 1, 0x3fffffff], [0x40000000]],
      receiveBuffer: [[0, 1, 0x3fffffff], [0x40000000]],
      handshakeTimeout: [
        [1, 3_600_000],
        [0, 3_600_001],
      ],
      maxMessageSize: [
        [0, 2 ** 32 - 1],
        [-1, 2 ** 32],
      ],
      debug: [[0, 10], [11]],
      rendezvous: [[0, 0xffffffff], [0x100000000]],
    };
    for (const [name, [good, bad]] of Object.entries(bounds) as [SettingName, [number[], number[]]][]) {
      const { variable } = SETTINGS[name];
      for (const value of good) {
        assert.is(configure({ [name]: value }, {})[name], value);
        assert.is(configure({}, { [variable]: String(value) })[name], value);
        assert.is(configure({}, { [variable]: ` ${value} ` })[name], value);
      }
      for (const value of bad) {
        errorOf({ [name]: value });
        errorOf({}, { [variable]: String(value) });
      }
    }
  }),
);

test(
  'PSP_RENDEZVOUS stands in for the thresholds of the plugins that are not set',
  timebox(5, () => {
    const thresholds = (options: ConfigOptions, environment: NodeJS.ProcessEnv) => {
      const { rendezvous, rendezvousShm, rendezvousIvshmem } = configure(options, environment);
      return [rendezvous, rendezvousShm, rendezvousIvshmem];
    };
    assert.equal(thresholds({}, {}), [0xffffffff, 1048576, 1048576]);
    assert.equal(thresholds({}, { PSP_RENDEZVOUS: '5000' }), [5000, 5000, 5000]);
    assert.equal(thresholds({ rendezvous: 1 }, { PSP_RENDEZVOUS: '5000' }), [1, 1, 1]);
    assert.equal(thresholds({}, { PSP_RENDEZVOUS: '5000', PSP_RENDEZVOUS_SHM: '7' }), [5000, 7, 5000]);
    assert.equal(thresholds({ rendezvousIvshmem: 9 }, { PSP_RENDEZVOUS: 'inf' }), [0xffffffff, 0xffffffff, 9]);
    const row = explain({}, { PSP_RENDEZVOUS: '5000' }).find(({ name }) => name === 'rendezvousShm');
    assert.is(row?.origin, 'environment');
    const { message } = errorOf({}, { PSP_RENDEZVOUS: 'infinite' });
    assert.match(message, /^PSP_RENDEZVOUS: 'infinite'/);
  }),
);

test(
  'invalid networks are refused',
  timebox(5, () => {
    for (const good of ['', ' ', '10.0.0.0', '10.0.0.0/8', '10.0.0.0/8, 192.168.1.0/24 127.0.0.1', '0.0.0.0/0']) {
      assert.is(configure({}, { PSP_NETWORK: good }).network, good);
    }
    for (const bad of [
      'eth0',
      '10.0.0',
      '10.0.0.256',
      '10.0.0.0/33',
      '10.0.0.0/',
      '10.0.0.0/8/8',
      '::1',
      '10.0.0.0/x',
    ]) {
      assert.match(errorOf({}, { PSP_NETWORK: bad }).message, /^PSP_NETWORK: '/);
      assert.match(errorOf({ network: bad }).message, /^option network: '/);
    }
  }),
);

test(
  'Runtime.create rejects a bad option or variable',
  timebox(10, async () => {
    const code = async (promise: Promise<unknown>) =>
      promise.then(
        () => 'made',
        (error: IsthmusError) => error.code,
      );
    assert.is(await code(Runtime.create({ retry: -1 })), 'ERR_ISTHMUS_CONFIG');
    assert.is(await code(Runtime.create({ regions: '', debugOut: '/nonexistent/log' })), 'ERR_ISTHMUS_CONFIG');
    process.env['PSP_TCP'] = 'yes';
    try {
      assert.is(await code(Runtime.create({ regions: '' })), 'ERR_ISTHMUS_CONFIG');
    } finally {
      delete process.env['PSP_TCP'];
    }
    process.env['PSP_LOOP'] = '0';
    try {
      const runtime = await Runtime.create({ regions: '', shm: 0, tcp: 5, debug: 0, control: false });
      const plugins = runtime.plugins().map(({ name, priority, unavailable }) => [name, priority, unavailable]);
      assert.equal(plugins[0]?.slice(0, 2), ['ivshmem', 80]);
      assert.equal(plugins[1], ['tcp', 5, undefined]);
      assert.equal(plugins[2], ['loop', 0, 'disabled']);
      await runtime.close();
    } finally {
      delete process.env['PSP_LOOP'];
    }
  }),
);

test.run();

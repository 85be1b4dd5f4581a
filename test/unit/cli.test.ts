/** Arguments of the command line in one process: test/integration/cli.test.ts starts processes. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { printed } from '../support/cli.js';

const COMMANDS = [
  'demo',
  'pp',
  'pipe',
  'server',
  'region',
  'device',
  'info',
  'doctor',
  'ps',
  'inspect',
  'debug',
  'suspend',
  'resume',
  'status',
  'migrate',
  'broker',
];

const SUBCOMMANDS = [
  ...['show', 'check', 'confirm-dead', 'fence'].map((name) => ['region', name]),
  ...['xml', 'attach', 'detach'].map((name) => ['device', name]),
];

test('help has a description and an example for every command', async () => {
  const all = (await printed(['--help'])).stdout;
  for (const command of COMMANDS) assert.match(all, new RegExp(`^  ${command} `, 'm'));
  for (const words of [...COMMANDS.map((command) => [command]), ...SUBCOMMANDS]) {
    const { code, stdout } = await printed([...words, '--help']);
    const command = words.join(' ');
    assert.is(code, 0);
    assert.match(stdout, /^Usage: .*\n\n[A-Z]/, command);
    assert.match(stdout, new RegExp(`^Example:\\n(?:.*\\n)* {2}[$#] .*isthmus ${command}`, 'm'), command);
  }
});

test('a wrong argument gets one line and exit code 2', async () => {
  for (const args of [
    ['bogus'],
    ['--bogus'],
    ['server'],
    ['server', '-s', 'x'],
    ['server', '-s', 'x', '-m', '3'],
    ['server', '-s', 'x', '-m', '0'],
    ['server', '-s', 'x', '-m', 'many'],
    ['server', '-s', 'x', '-m', '1', '-c', 'something'],
    ['server', '-s', 'a b', '-m', '1'],
    ['server', '-s', '', '-m', '1'],
    ['pp'],
    ['pp', 'nowhere'],
    ['pp', '127.0.0.1:99999'],
    ['pp', '127.0.0.1:1', '--loops', '0'],
    ['pp', '127.0.0.1:1', '--min-size', '9', '--max-size', '8'],
    ['pp', '127.0.0.1:1', '--once'],
    ['pp', '--listen', '0', '--json'],
    ['pp', '--listen', '70000'],
    ['pipe'],
    ['pipe', '127.0.0.1:1', '--listen', '0'],
    ['info', 'more'],
    ['ps', 'more'],
    ['inspect'],
    ['inspect', 'x', '--watch', '0'],
    ['inspect', 'x', '--watch', 'often'],
    ['debug', 'x'],
    ['debug', 'x', '11'],
    ['debug', 'x', 'loud'],
    ['region', 'bogus'],
    ['region', 'show'],
    ['region', 'show', 'a', 'b'],
    ['region', 'show', ''],
    ['migrate'],
    ['migrate', 'vm1'],
    ['migrate', 'vm1', '--to', 'qemu+ssh://b/system', '--qmp', '/x'],
    ['migrate', 'vm1', '--to', 'qemu+ssh://b/system', '--keep-source'],
    ['migrate', 'vm1', '--to', 'qemu+ssh://b/system', '--attach', 'ivshmem0'],
    ['migrate', 'vm1', '--to', 'qemu+ssh://b/system', '--attach', '/dev/shm/ivshmem0:8'],
    ['migrate', 'vm1', '--to', 'qemu+ssh://b/system', '--attach', 'ivshmem0:3'],
    ['migrate', '--qmp', '/x', '--to', 'qemu+ssh://b/system'],
    ['migrate', '--qmp', '/x', '--to-qmp', '/y', '--uri', 'unix:/z'],
    ['migrate', '--qmp', '/x', '--to-qmp', '/y', '--host', 'vm1'],
    ['migrate', '--qmp', '/x', '--to-qmp', '/y', '--host', 'vm1', '--uri', 'ftp:z'],
    ['migrate', '--qmp', '/x', '--to-qmp', '/y', '--host', 'a/b', '--uri', 'unix:/z'],
    ['migrate', '--qmp', '/x', '--to-qmp', '127.0.0.1:7', '--host', 'vm1', '--uri', 'unix:/z', '--attach', 'ivshmem0'],
    ['demo', '--bogus'],
  ]) {
    const { code, stdout, stderr } = await printed(args);
    assert.is(code, 2, `${args.join(' ')}: ${stderr}`);
    assert.is(stdout, '');
    assert.match(stderr, /^isthmus: [^\n]+\n$/, args.join(' '));
  }
});

test.run();

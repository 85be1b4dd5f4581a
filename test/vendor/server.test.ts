/** The host server as a service: its unit, its script, and that it tells systemd when the region is there. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test as register } from 'uvu';
import * as assert from 'uvu/assert';
import { Child, chosen, endChildren } from '../support/process.js';
import { newPath, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const test = chosen(register);
const root = process.env['ISTHMUS_ROOT'] ?? process.cwd();
const folder = join(root, 'vendor/ivshmem/server');
const UNIT = 'isthmus-server@.service';

function run(program: string, args: readonly string[]) {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd: root, encoding: 'utf8' });
  return { status, output: `${stdout}${stderr}`, missing: error !== undefined };
}

test(
  'systemd finds no fault in the unit',
  timebox(60, () => {
    const { status, output, missing } = run('systemd-analyze', ['verify', '--man=no', join(folder, UNIT)]);
    if (missing) return console.log('! no systemd-analyze here: the unit is NOT verified');
    // systemd-analyze also checks other units, those of this machine.
    assert.not.match(output, /isthmus-server@/, output);
    assert.is(status, 0, output);
  }),
);

test(
  'the server accepts the arguments of the unit',
  timebox(30, () => {
    const text = readFileSync(join(folder, UNIT), 'utf8');
    const values = Object.fromEntries(
      [...readFileSync(join(folder, 'ivshmem0.conf'), 'utf8').matchAll(/^(\w+)=(.*)$/gm)].map(([, name, value]) => [
        name,
        value,
      ]),
    );
    const line = /^ExecStart=\/usr\/bin\/env isthmus (.*)$/m.exec(text)?.[1] ?? '';
    const args = line.replaceAll('%i', 'ivshmem0').replace(/\$\{(\w+)\}/g, (_, name: string) => values[name] ?? '?');
    const { output } = run(process.execPath, [
      process.env['ISTHMUS_CLI'] ?? 'dist/cli.js',
      ...args.split(' '),
      '--help',
    ]);
    assert.match(output, /Usage: isthmus server/);
    for (const option of args.match(/ --?\w+/g) ?? []) assert.match(output, new RegExp(`${option}\\b`), option);
    assert.ok(Number.isInteger(Math.log2(Number(values['SIZE']))));
  }),
);

test(
  'the script starts the server of the checkout',
  timebox(30, () => {
    const { status, output } = run(join(folder, 'isthmus-server'), ['--help']);
    assert.is(status, 0, output);
    assert.match(output, /Usage: isthmus server/);
  }),
);

test(
  'systemd is notified when the region exists, and not before',
  timebox(60, async () => {
    if (run('systemd-notify', ['--version']).missing) {
      return console.log('! no systemd-notify here: the notification is NOT tested');
    }
    const path = newPath();
    const scratch = mkdtempSync(join(tmpdir(), 'isthmus-notify-'));
    const socket = join(scratch, 'notify');
    // Node.js has no Unix-domain datagram sockets.
    const code = `
import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind(${JSON.stringify(socket)}); print('listens', flush=True)
while True:
    said = s.recv(4096)
    if b'READY' in said or b'STOPPING' in said: print(said.decode().strip(), os.path.exists(${JSON.stringify(path)}), flush=True)
`;
    const listener = spawn('python3', ['-c', code], { stdio: ['ignore', 'pipe', 'inherit'] });
    let heard = '';
    listener.stdout.setEncoding('utf8').on('data', (text: string) => {
      heard += text;
    });
    const until = async (pattern: RegExp) => {
      while (!pattern.test(heard)) await new Promise((resolve) => setTimeout(resolve, 20));
    };
    try {
      await until(/listens/);
      const cli = process.env['ISTHMUS_CLI'] ?? 'dist/cli.js';
      const server = Child.run(cli, ['server', '-s', path, '-m', '1'], { NOTIFY_SOCKET: socket });
      await until(/READY=1 True/);
      await server.kill('SIGTERM');
      await until(/STOPPING=1/);
      assert.not(existsSync(path));
    } finally {
      listener.kill('SIGKILL');
      rmSync(scratch, { recursive: true, force: true });
    }
  }),
);

test.after.each(async () => {
  await endChildren();
  removeRegions();
});
test.run();

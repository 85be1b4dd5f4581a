/**
 * Arguments and output of `isthmus device`. The programs that stand in for virsh print messages of a real one (9.0);
 * test/integration/device.slow.test.ts drives a real virsh.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { printed } from '../support/cli.js';
import { MIB, namedRegions, newPath, newRegion, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

namedRegions();

const XML = `<shmem name='ivshmem0'>
  <model type='ivshmem-plain'/>
  <size unit='M'>512</size>
</shmem>
`;

const folders: string[] = [];
test.after(() => {
  removeRegions();
  for (const folder of folders) rmSync(folder, { recursive: true });
});

/** A program `virsh` that is found before any other; without a script there is none at all. @returns its folder */
async function withVirsh(script: string | undefined, body: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'isthmus-test-virsh-'));
  folders.push(folder);
  if (script !== undefined)
    writeFileSync(join(folder, 'virsh'), `#!/bin/sh\ncd ${folder}\n${script}\n`, { mode: 0o755 });
  const { PATH } = process.env;
  process.env['PATH'] = script === undefined ? folder : `${folder}:${PATH}`;
  try {
    await body(folder);
  } finally {
    process.env['PATH'] = PATH;
  }
}

test(
  'xml',
  timebox(5, async () => {
    assert.equal(await printed(['device', 'xml', '--name', 'ivshmem0', '--size', '512']), {
      code: 0,
      stdout: XML,
      stderr: '',
    });
    assert.is((await printed(['device', 'xml', '--size', '512'])).stdout, XML);
  }),
);

test(
  'a wrong argument gets one line and exit code 2',
  timebox(5, async () => {
    for (const args of [
      ['bogus'],
      ['xml'],
      ['xml', '--size', '3'],
      ['xml', '--size', '0'],
      ['xml', '--size', '1', '--name', ''],
      ['xml', '--size', '1', '--name', '..'],
      ['xml', '--size', '1', '--name', 'a/b'],
      ['xml', '--size', '1', '--name', "a'b"],
      ['attach'],
      ['attach', 'a', 'b'],
      ['attach', 'a', '--size', '5'],
      ['attach', 'a', '--wait', '5'],
      ['detach', 'a', '--wait', 'long'],
      ['detach', 'a', '--force', 'x'],
    ]) {
      const { code, stdout, stderr } = await printed(['device', ...args]);
      assert.is(code, 2, `${args.join(' ')}: ${stderr}`);
      assert.is(stdout, '');
      assert.match(stderr, /^isthmus: [^\n]+\n$/, args.join(' '));
    }
  }),
);

test(
  '--dry-run prints the command for a shell',
  timebox(10, async () => {
    const name = basename(newRegion(2 * MIB));
    const xml = XML.replace('ivshmem0', name).replace('512', '2');
    await withVirsh(undefined, async () => {
      const attach = await printed(['device', 'attach', 'vm 1', '--name', name, '--dry-run']);
      assert.is(attach.stdout, `virsh attach-device --domain 'vm 1' --file /dev/stdin <<'EOF'\n${xml}EOF\n`);
      const all = ['--live', '--config', '--connect', 'qemu:///system', '--size', '2', '--dry-run'];
      const detach = await printed(['device', 'detach', 'vm1', '--name', name, ...all]);
      assert.is(
        detach.stdout,
        `virsh --connect qemu:///system detach-device --domain vm1 --file /dev/stdin --live --config <<'EOF'\n${xml}EOF\n`,
      );
    });
    // A shell runs the printed command with the same arguments and input.
    await withVirsh('printf "%s|" "$@" > args; cat /dev/stdin > input', async (folder) => {
      const { stdout } = await printed(['device', 'attach', "it's", '--name', name, '--dry-run']);
      assert.is(spawnSync('sh', ['-c', stdout]).status, 0);
      assert.is(readFileSync(join(folder, 'args'), 'utf8'), "attach-device|--domain|it's|--file|/dev/stdin|");
      assert.is(readFileSync(join(folder, 'input'), 'utf8'), xml);
      const { code, stderr } = await printed(['device', 'attach', "it's", '--name', name]);
      assert.is(code, 0, stderr);
      assert.is(readFileSync(join(folder, 'args'), 'utf8'), "attach-device|--domain|it's|--file|/dev/stdin|");
      assert.is(readFileSync(join(folder, 'input'), 'utf8'), xml);
    });
  }),
);

test(
  'the size of an attached device',
  timebox(10, async () => {
    const odd = basename(newRegion(3 * MIB));
    const size = await printed(['device', 'attach', 'vm1', '--name', odd, '--dry-run']);
    assert.match(size.stderr, /^isthmus: the size of \/dev\/shm\/.* is not a power of two, at least 1 MiB\n/);
    const absent = basename(newPath());
    const forced = await printed(['device', 'attach', 'vm1', '--name', absent, '--dry-run', '--force']);
    assert.is(forced.code, 1);
    // The size of a region on another host is not visible.
    const far = ['--connect', 'qemu+ssh://far/system', '--size', '8', '--dry-run'];
    const { code, stdout } = await printed(['device', 'attach', 'vm1', '--name', absent, ...far]);
    assert.is(code, 0);
    assert.match(stdout, /<size unit='M'>8<\/size>/);
  }),
);

test(
  'no virsh, a virsh that fails, a virsh that is killed',
  timebox(20, async () => {
    const detach = ['device', 'detach', 'vm1'];
    await withVirsh(undefined, async () => {
      const { code, stderr } = await printed(detach);
      assert.is(code, 1);
      assert.match(stderr, /^isthmus: there is no virsh here.*\n {2}Install it \(apt-get install libvirt-clients/);
    });
    for (const [said, message, remedy] of [
      [
        "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/x': Permission denied",
        "failed to connect to the hypervisor: Failed to connect socket to '/x': Permission denied",
        /^Run the command as root, or join the group/,
      ],
      [
        "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/x': No such file or directory",
        "failed to connect to the hypervisor: Failed to connect socket to '/x': No such file or directory",
        /^Start libvirtd/,
      ],
      ["error: failed to get domain 'vm1'\n", "failed to get domain 'vm1'", /^'virsh list --all'/],
      ['', 'ended with 1', undefined],
    ] as const) {
      await withVirsh(`cat >&2 <<'EOF'\n${said}\nEOF\nexit 1`, async () => {
        const [line, action = ''] = (await printed(detach)).stderr.split('\n  ');
        assert.is(line?.trim(), `isthmus: virsh: ${message}`);
        if (remedy) assert.match(action, remedy);
      });
    }
    await withVirsh('kill -TERM $$', async () => {
      assert.is((await printed(detach)).stderr, 'isthmus: virsh: ended with SIGTERM\n');
    });
  }),
);

test(
  'the device is found in the XML of the domain, whatever else is there',
  timebox(20, async () => {
    const xml = `<domain><devices>
    <shmem name='other'>
      <model type='ivshmem-plain'/>
      <size unit='M'>4</size>
    </shmem>
    <shmem name='bare'/>
    <shmem name='ivshmem0' role='peer'>
      <model type='ivshmem-plain'/>
      <size unit='M'>512</size>
      <alias name='shmem0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
    </shmem>
    <shmem name='door'>
      <model type='ivshmem-doorbell'/>
      <server path='/x'/>
    </shmem>
  </devices></domain>`;
    const script = `case "$1" in
dumpxml) test -f gone || cat <<'EOF'
${xml}
EOF
;;
detach-device) cat /dev/stdin > input; : > gone ;;
esac`;
    await withVirsh(script, async (folder) => {
      const shown = await printed(['device', 'detach', 'vm1', '--dry-run']);
      assert.is(shown.stdout, `virsh detach-device --domain vm1 --file /dev/stdin <<'EOF'\n${XML}EOF\n`);
      for (const name of ['bare', 'door']) {
        const { code, stderr } = await printed(['device', 'detach', 'vm1', '--name', name]);
        assert.is(code, 1);
        assert.match(stderr, new RegExp(`${name} is a device of another kind`));
      }
      assert.match((await printed(['device', 'detach', 'vm1', '--name', 'none'])).stderr, /'vm1' has no device none\n/);
      const done = await printed(['device', 'detach', 'vm1']);
      assert.equal(done, { code: 0, stdout: 'isthmus: vm1 has released ivshmem0\n', stderr: '' });
      assert.is(readFileSync(join(folder, 'input'), 'utf8'), XML);
    });
  }),
);

test.run();

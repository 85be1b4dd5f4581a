/** Findings of `isthmus doctor`, on machines that a test simulates. */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { render } from '../../host/cli/commands/doctor.js';
import { type DoctorRoots, diagnose } from '../../host/cli/support/diagnosis.js';
import type { Finding } from '../../host/cli/support/findings.js';
import { createPosix } from '../../host/device/posix.js';
import { discoverUio } from '../../host/device/uio.js';
import { MappedRegion } from '../../host/region/mapped.js';
import { Tree } from '../support/devices.js';
import { MIB, newPath, newRegion, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

interface Machine {
  readonly processors?: number;
  readonly overcommit?: string;
  /** `Max address space` of the limits. */
  readonly addresses?: string;
}

class TestMachine {
  readonly tree = new Tree();
  readonly proc = newPath('proc');
  readonly rules = newPath('rules');

  constructor({ processors = 2, overcommit = '0', addresses = 'unlimited' }: Machine = {}) {
    mkdirSync(join(this.proc, 'self'), { recursive: true });
    mkdirSync(join(this.proc, 'sys/vm'), { recursive: true });
    const cpus = Array.from({ length: processors }, (_, i) => `processor\t: ${i}\nflags\t\t: fpu\n`);
    writeFileSync(join(this.proc, 'cpuinfo'), cpus.join('\n'));
    writeFileSync(join(this.proc, 'sys/vm/overcommit_memory'), `${overcommit}\n`);
    writeFileSync(join(this.proc, 'meminfo'), 'MemTotal: 9 kB\nCommitLimit:     2048 kB\nCommitted_AS:    1024 kB\n');
    writeFileSync(
      join(this.proc, 'self/limits'),
      `Limit                     Soft Limit           Hard Limit           Units\nMax address space         ${addresses}            ${addresses}            bytes\n`,
    );
    mkdirSync(join(this.rules, 'udev/rules.d'), { recursive: true });
  }

  get roots(): DoctorRoots {
    return { ...this.tree.roots, proc: this.proc, rules: [this.rules] };
  }

  addRule(): void {
    writeFileSync(join(this.rules, 'udev/rules.d/60-ivshmem.rules'), '');
  }

  /** A uio device at that address, which the kernel maps with that type. */
  add(name: string, address: string, type?: string): string {
    const path = this.tree.add(name, {});
    chmodSync(path, 0o660);
    writeFileSync(join(this.tree.folder(name), 'maps/map1/addr'), `${address}\n`);
    if (type !== undefined) {
      const folder = join(this.tree.roots.sysfs, 'kernel/debug/x86');
      mkdirSync(folder, { recursive: true });
      const line = (from: bigint, to: bigint, what: string) =>
        `PAT: [mem 0x${from.toString(16).padStart(16, '0')}-0x${to.toString(16).padStart(16, '0')}] ${what}\n`;
      const at = BigInt(address);
      writeFileSync(
        join(folder, 'pat_memtype_list'),
        `PAT memtype list:\n${line(0xbffe0000n, 0xbffe1000n, 'write-back')}${line(at, at + 0x400000n, type)}`,
      );
    }
    return path;
  }
}

/** Run doctor with these variables and none of the user's. */
async function doctor(machine: TestMachine, variables: Readonly<Record<string, string>> = {}): Promise<Finding[]> {
  const before = { ...process.env };
  Object.assign(process.env, { PSP_SHM: '0', PSP_IVSHMEM_REGIONS: '' }, variables);
  try {
    return await diagnose(machine.roots);
  } finally {
    for (const name of ['PSP_SHM', 'PSP_IVSHMEM_REGIONS', ...Object.keys(variables)]) {
      const value = before[name];
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
}

function the(findings: readonly Finding[], what: string | RegExp): Finding {
  const found = findings.filter((finding) =>
    typeof what === 'string' ? finding.what === what : what.test(finding.what),
  );
  assert.is(found.length, 1, `${what} in ${JSON.stringify(findings, null, 1)}`);
  return found[0] as Finding;
}

const verdicts = (findings: readonly Finding[], verdict: Finding['verdict']) =>
  findings.filter((finding) => finding.verdict === verdict).map(({ what }) => what);

test(
  'a machine without a device: nothing that is needed is missing',
  timebox(20, async () => {
    const findings = await doctor(new TestMachine());
    assert.equal(verdicts(findings, 'bad'), []);
    assert.equal(verdicts(findings, 'none'), ['device', 'broker']);
    assert.match(render(findings), /No requirement is missing\.\n$/);
    for (const { verdict, action } of findings) if (verdict === 'bad' || verdict === 'note') assert.ok(action);
  }),
);

test(
  'one processor, little address space, overcommit mode 2: each finding with an action',
  timebox(20, async () => {
    const findings = await doctor(new TestMachine({ processors: 1, overcommit: '2', addresses: '8589934592' }));
    assert.match(the(findings, 'processors').action ?? '', /-smp 2/);
    assert.match(the(findings, 'address space').finding, /8 GiB \(RLIMIT_AS\)/);
    assert.match(the(findings, 'overcommit').finding, /mode 2.*1 MiB are left/);
    assert.match(the(findings, 'overcommit').action ?? '', /overcommit_memory=0/);
  }),
);

test(
  'processors: those that the process may use, not those of the machine',
  timebox(20, async () => {
    const finding = async (files: Readonly<Record<string, string>>) => {
      const machine = new TestMachine({ processors: 4 });
      for (const [name, text] of Object.entries(files)) {
        const path = name.startsWith('proc/')
          ? join(machine.proc, name.slice(5))
          : join(machine.tree.roots.sysfs, name);
        mkdirSync(dirname(path), { recursive: true });
        writeFileSync(path, text);
      }
      return the(await doctor(machine), 'processors');
    };
    const allowed = (list: string) => ({ 'proc/self/status': `Name:\tnode\nCpus_allowed_list:\t${list}\n` });
    assert.is((await finding({})).finding, '4');
    assert.is((await finding(allowed('0-3'))).finding, '4');
    assert.is((await finding(allowed('0,2-3'))).finding, '3 of 4');
    assert.is((await finding(allowed('2'))).verdict, 'note');
    // The new hierarchy: the least of the group and those above it.
    const group = { 'proc/self/cgroup': '0::/a/b\n' };
    const half = { ...group, 'fs/cgroup/a/b/cpu.max': 'max 100000\n', 'fs/cgroup/a/cpu.max': '50000 100000\n' };
    assert.match((await finding(half)).finding, /^4, 0\.50 of their time/);
    assert.is((await finding({ ...group, 'fs/cgroup/a/b/cpu.max': 'max 100000\n' })).finding, '4');
    // The old one.
    const old = {
      'proc/self/cgroup': '3:cpu,cpuacct:/c\n2:memory:/d\n',
      'fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us': '150000\n',
      'fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us': '100000\n',
    };
    assert.match((await finding(old)).finding, /^4, 1\.50/);
    assert.is((await finding({ ...old, 'fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us': '-1\n' })).finding, '4');
  }),
);

test(
  'a device with its driver, mapped write-back',
  timebox(20, async () => {
    const machine = new TestMachine();
    machine.addRule();
    const path = machine.add('uio0', '0x100000000', 'write-back');
    const findings = await doctor(machine);
    assert.equal(verdicts(findings, 'bad'), []);
    assert.match(the(findings, `device ${path}`).finding, /4 MiB, driver loaded/);
    assert.is(the(findings, `permissions of ${path}`).finding, 'mode 0660, udev rule installed');
    assert.equal(the(findings, `mapping of ${path}`), {
      what: `mapping of ${path}`,
      verdict: 'good',
      finding: 'write-back',
    });
    assert.match(the(findings, `region ${path}`).finding, /blank: the first peer formats it/);
  }),
);

test(
  'a mapping that is not write-back, one that debugfs does not list, a node with access for all users',
  timebox(20, async () => {
    const slow = new TestMachine();
    const path = slow.add('uio0', '0xfe400000', 'uncached-minus');
    chmodSync(path, 0o666);
    let findings = await doctor(slow);
    assert.is(the(findings, /^mapping/).verdict, 'note');
    assert.match(the(findings, /^mapping/).finding, /uncached-minus: slow/);
    assert.match(the(findings, /^permissions/).finding, /no udev rule.*all users/);
    assert.match(the(findings, /^permissions/).action ?? '', /vendor\/ivshmem install-udev/);

    const unknown = new TestMachine();
    unknown.add('uio0', '0x100000000');
    findings = await doctor(unknown);
    assert.is(the(findings, /^mapping/).verdict, 'none');
    assert.match(the(findings, /^mapping/).action ?? '', /debugfs/);
  }),
);

test(
  'two devices, a foreign uio device, one without a driver',
  timebox(20, async () => {
    const machine = new TestMachine();
    machine.add('uio0', '0x100000000');
    machine.add('uio1', '0x140000000');
    machine.tree.add('uio2', { name: 'something else' });
    machine.tree.addPci('0000:00:07.0');
    const findings = await doctor(machine);
    assert.equal(verdicts(findings, 'bad'), []);
    assert.is(findings.filter(({ what }) => /^device \/.*uio[01]$/.test(what)).length, 2);
    assert.match(the(findings, 'device').finding, /another kind \('something else'\)/);
    const pci = the(findings, 'device 0000:00:07.0');
    assert.is(pci.verdict, 'note');
    assert.match(pci.finding, /no driver: used through resource2, slow/);
    assert.match(pci.action ?? '', /install-driver.*modprobe uio_ivshmem/);
  }),
);

test(
  'regions: healthy, with a peer, of a foreign kind, and a missing one',
  timebox(30, async () => {
    const machine = new TestMachine();
    const path = newPath();
    (await MappedRegion.open(createPosix(path, 4 * MIB))).detach();
    const foreign = newRegion(4 * MIB, Buffer.from('another format'));
    const findings = await doctor(machine, { PSP_IVSHMEM_REGIONS: `${path} ${foreign} /dev/shm/isthmus-not-there` });
    assert.match(the(findings, `region ${path}`).finding, /^healthy, .* free, 0 attached$/);
    const bad = findings.filter(({ verdict }) => verdict === 'bad');
    assert.is(bad.length, 2, JSON.stringify(findings));
    assert.match(bad[0]?.finding ?? '', /ERR_ISTHMUS_REGION_FOREIGN/);
    assert.match(bad[1]?.finding ?? '', /ERR_ISTHMUS_REGION_NOT_FOUND/);
    assert.match(render(findings), /Missing requirements: 2\.\n$/);
  }),
);

test(
  'a required broker that does not answer; an invalid setting',
  timebox(30, async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const { port } = server.address() as { port: number };
    await new Promise((resolve) => server.close(resolve));
    const url = `mqtt://user:secret@127.0.0.1:${port}`;
    let findings = await doctor(new TestMachine(), { PSP_SUSPEND_RESUME: '1', PSP_MQTT_BROKER: url });
    assert.is(the(findings, 'broker').verdict, 'bad');
    assert.match(the(findings, 'broker').finding, /ECONNREFUSED/);
    assert.not.match(JSON.stringify(findings), /secret/);
    findings = await doctor(new TestMachine(), { PSP_IVSHMEM: 'much' });
    assert.equal(
      findings.map(({ what, verdict }) => [what, verdict]),
      [['configuration', 'bad']],
    );
    assert.match(findings[0]?.finding ?? '', /PSP_IVSHMEM/);
  }),
);

test(
  'doctor changes nothing',
  timebox(20, async () => {
    const machine = new TestMachine();
    machine.add('uio0', '0x100000000');
    await doctor(machine);
    const [candidate] = discoverUio(machine.tree.roots);
    assert.ok(candidate?.backing);
    using region = await MappedRegion.open(candidate.backing);
    assert.equal(region.attachments(), []);
    assert.is(region.core.view.getUint32(region.core.layout.HEADER_VERSION, true), region.core.layout.LAYOUT_VERSION);
  }),
);

test.after.each(removeRegions);
test.run();

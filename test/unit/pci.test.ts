/** PCI devices without a driver: a tree as in sysfs, whose `resource2` are plain files. */
import fs, { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ErrorCode } from '../../host/base/errors.js';
import { render as renderInfo } from '../../host/cli/commands/info.js';
import { render as renderRegion } from '../../host/cli/commands/region-show.js';
import { examine } from '../../host/cli/support/region-report.js';
import { survey } from '../../host/cli/support/survey.js';
import type { Backing } from '../../host/device/backing.js';
import { discoverPci } from '../../host/device/pci.js';
import { discoverUio } from '../../host/device/uio.js';
import { ReadOnlyRegion } from '../../host/region/read-only-region.js';
import { Runtime } from '../../host/runtime/runtime.js';
import { Tree } from '../support/devices.js';
import { MIB, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const SLOT = '0000:00:05.0';
const SLOW = 'PCI resource2, slow: uncached';

const found = (tree: Tree) =>
  discoverPci(tree.roots).map(({ path, backing, refused }) => ({
    address: path.split('/').at(-2),
    size: backing?.size,
    code: refused?.code,
    message: refused?.message ?? '',
  }));

/** The only device of a tree, which can be opened. */
const only = (tree: Tree): Backing => {
  const [device, ...others] = discoverPci(tree.roots);
  assert.is(others.length, 0);
  if (!device?.backing) throw device?.refused ?? new Error('no device');
  return device.backing;
};

function refused(what: () => unknown, code: ErrorCode, message: RegExp): void {
  assert.throws(what, (error: { code: string; message: string }) => {
    assert.is(error.code, code);
    assert.match(error.message, message);
    return true;
  });
}

/** Run as a user without privileges: root may open everything. */
async function asNobody<T>(what: () => T | Promise<T>): Promise<T> {
  const root = process.geteuid?.() === 0;
  if (root) process.seteuid?.(65_534);
  try {
    return await what();
  } finally {
    if (root) process.seteuid?.(0);
  }
}

test(
  'no PCI, an empty bus, other devices, and invalid names',
  timebox(5, () => {
    assert.equal(discoverPci({ sysfs: '/nonexistent' }), []);
    const tree = new Tree();
    assert.equal(found(tree), []);
    tree.addPci('0000:00:01.0', { attributes: { vendor: '0x8086\n' } });
    tree.addPci('0000:00:02.0', { attributes: { device: '0x1000\n' } });
    tree.addPci('0000:00:03.0', { attributes: { vendor: undefined } });
    tree.addPci('0000:00:04', {});
    assert.equal(found(tree), []);
  }),
);

test(
  'devices are found in the order of their addresses, each is checked separately',
  timebox(5, () => {
    const tree = new Tree();
    const hex = (value: number) => `0x${value.toString(16).padStart(16, '0')}`;
    tree.addPci('0001:00:05.0', { size: 8 * MIB });
    tree.addPci('0000:00:05.0');
    tree.addPci('0000:00:06.0', { size: 3 * MIB });
    tree.addPci('0000:00:07.0', { size: 0x1000 });
    tree.addPci('0000:00:08.0', { bar2: `${hex(0)} ${hex(0)} ${hex(0)}` });
    tree.addPci('0000:00:09.0', { bar2: 'nonsense' });
    tree.addPci('0000:00:0a.0', { attributes: { resource: undefined } });
    // Ports instead of memory; no address; an address out of range.
    tree.addPci('0000:00:0b.0', { bar2: `${hex(0xc000)} ${hex(0xc0ff)} ${hex(0x40101)}` });
    tree.addPci('0000:00:0c.0', { start: 0 });
    tree.addPci('0000:00:0d.0', { bar2: `${hex(MIB)} ${hex(2 * MIB - 1)} ${hex(0x2014220c)}` });
    tree.addPci('0000:00:0e.0', { driver: 'vfio-pci' });
    const rows = found(tree);
    assert.equal(
      rows.map(({ address, code }) => [address, code]),
      [
        ['0000:00:05.0', undefined],
        ['0000:00:06.0', 'ERR_ISTHMUS_REGION_SIZE'],
        ['0000:00:07.0', 'ERR_ISTHMUS_REGION_TOO_SMALL'],
        ['0000:00:08.0', 'ERR_ISTHMUS_REGION_FOREIGN'],
        ['0000:00:09.0', 'ERR_ISTHMUS_REGION_FOREIGN'],
        ['0000:00:0a.0', 'ERR_ISTHMUS_SYSCALL'],
        ['0000:00:0b.0', 'ERR_ISTHMUS_REGION_FOREIGN'],
        ['0000:00:0c.0', 'ERR_ISTHMUS_REGION_DISABLED'],
        ['0000:00:0d.0', 'ERR_ISTHMUS_REGION_DISABLED'],
        ['0000:00:0e.0', 'ERR_ISTHMUS_REGION_FOREIGN'],
        ['0001:00:05.0', undefined],
      ],
    );
    assert.equal([rows[0]?.size, rows.at(-1)?.size], [4 * MIB, 8 * MIB]);
    assert.match(rows[1]?.message ?? '', /0000:00:06\.0\/resource2: 3145728 bytes/);
    assert.match(rows[9]?.message ?? '', /'vfio-pci'.*echo 0000:00:0e\.0 > .*\/drivers\/vfio-pci\/unbind/);
  }),
);

test(
  'a device with a uio device is reached only through it, even if it cannot be opened',
  timebox(10, async () => {
    const tree = new Tree([{}, { file: -1 }]);
    tree.addPci('0000:00:05.0', { driver: 'uio_ivshmem', uio: 'uio0' });
    tree.addPci('0000:00:06.0', { driver: 'uio_ivshmem', uio: 'uio1' });
    tree.addPci('0000:00:07.0');
    assert.equal(
      discoverUio(tree.roots).map(({ backing }) => backing?.name),
      ['uio0', 'uio1'],
    );
    assert.equal(
      found(tree).map(({ address }) => address),
      ['0000:00:07.0'],
    );
    const runtime = await Runtime.create(tree.options());
    assert.equal(
      runtime.regions().map(({ name, kind }) => [name, kind]),
      [
        ['uio0', 'uio'],
        ['0000:00:07.0', 'pci'],
      ],
    );
    assert.equal(
      runtime.refusedRegions().map(({ path, error }) => [path, error.code]),
      [[join(tree.roots.dev, 'uio1'), 'ERR_ISTHMUS_REGION_NOT_FOUND']],
    );
    await runtime.close();
  }),
);

test(
  'a device that disappears: during discovery, between discovery and opening, in part',
  timebox(10, async () => {
    const tree = new Tree();
    tree.addPci('0000:00:05.0');
    tree.addPci('0000:00:06.0');
    tree.addPci('0000:00:07.0');
    const [, second, third] = discoverPci(tree.roots);
    for (const address of ['0000:00:05.0', '0000:00:06.0']) rmSync(tree.real(address), { recursive: true });
    assert.equal(
      found(tree).map(({ address }) => address),
      ['0000:00:07.0'],
    );
    refused(() => second?.backing?.open(), 'ERR_ISTHMUS_REGION_NOT_FOUND', /0000:00:06\.0\/resource2: ENOENT/);
    rmSync(join(tree.real('0000:00:07.0'), 'config'));
    refused(() => third?.backing?.open(), 'ERR_ISTHMUS_SYSCALL', /0000:00:07\.0: ENOENT/);
    const runtime = await Runtime.create(tree.options());
    assert.equal(runtime.regions(), []);
    assert.equal(
      runtime.refusedRegions().map(({ error }) => error.code),
      ['ERR_ISTHMUS_SYSCALL'],
    );
    await runtime.close();
  }),
);

test(
  'a device that is shorter than its reported size',
  timebox(5, () => {
    const tree = new Tree();
    tree.addPci(SLOT, { file: 4 * MIB - 1 });
    refused(() => only(tree).open(), 'ERR_ISTHMUS_REGION_TOO_SMALL', /4194303 bytes, its BAR 2 has 4194304/);
  }),
);

test(
  'a device with restricted permissions',
  timebox(10, async () => {
    const tree = new Tree();
    // Mode 0600, as the kernel creates it.
    const path = tree.addPci(SLOT);
    if (process.geteuid?.() !== 0) chmodSync(path, 0);
    const lines: string[] = [];
    const log = (level: string, line: string) => lines.push(`${level} ${line}`);
    const runtime = await asNobody(() => Runtime.create(tree.options({ debug: 2, log })));
    assert.equal(runtime.regions(), []);
    assert.equal(
      runtime.refusedRegions().map((one) => [one.path, one.error.code, one.error.errno]),
      [[path, 'ERR_ISTHMUS_REGION_PERMISSIONS', 'EACCES']],
    );
    assert.match(lines.join('\n'), /^warning not used: may not open .*resource2: EACCES/);
    await runtime.close();
  }),
);

test(
  'an attribute that cannot be read',
  timebox(5, () => {
    const tree = new Tree();
    tree.addPci(SLOT, { attributes: { resource: undefined } });
    // Reading a folder fails for root too.
    mkdirSync(join(tree.real(SLOT), 'resource'));
    const [device] = found(tree);
    assert.is(device?.code, 'ERR_ISTHMUS_SYSCALL');
    assert.match(device?.message ?? '', /EISDIR/);
  }),
);

test(
  'disabled memory: without permission, without effect, and enabled',
  timebox(10, async () => {
    const tree = new Tree();
    const path = tree.addPci(SLOT, { command: 0x100 });
    const switchOf = join(tree.real(SLOT), 'enable');
    const backing = only(tree);
    const remedy = /switched off.*; as root: echo 1 > .*\/0000:00:05\.0\/enable$/;

    // A read-only check changes nothing.
    refused(() => ReadOnlyRegion.of(backing), 'ERR_ISTHMUS_REGION_DISABLED', remedy);
    assert.is(readFileSync(switchOf, 'latin1'), '0\n');

    chmodSync(path, 0o666);
    chmodSync(switchOf, 0o444);
    await asNobody(() => {
      refused(
        () => backing.open(),
        'ERR_ISTHMUS_REGION_DISABLED',
        /may not be switched on \(EACCES\); as root: echo 1/,
      );
    });
    chmodSync(switchOf, 0o600);
    refused(() => backing.open(), 'ERR_ISTHMUS_REGION_DISABLED', /and stays switched off; as root/);
    assert.is(readFileSync(switchOf, 'latin1'), '1\n');
    rmSync(switchOf);
    refused(() => backing.open(), 'ERR_ISTHMUS_REGION_DISABLED', /may not be switched on \(ENOENT\)/);
    assert.not.ok(existsSync(switchOf));

    // The reaction of the kernel to the write.
    writeFileSync(switchOf, '0\n');
    const { writeFileSync: write } = fs;
    fs.writeFileSync = ((file, data, options) => {
      write(file, data, options);
      if (file === join(path, '../enable')) write(join(tree.real(SLOT), 'config'), Buffer.from([0, 0, 0, 0, 2, 1]));
    }) as typeof write;
    syncBuiltinESMExports();
    try {
      const runtime = await Runtime.create(tree.options());
      assert.equal(
        runtime.regions().map(({ name }) => name),
        [SLOT],
      );
      await runtime.close();
    } finally {
      fs.writeFileSync = write;
      syncBuiltinESMExports();
    }
    assert.is(readFileSync(switchOf, 'latin1'), '1\n');
    ReadOnlyRegion.of(backing).close();
  }),
);

test(
  'memory that is enabled already is not changed',
  timebox(5, () => {
    const tree = new Tree();
    tree.addPci(SLOT);
    fs.closeSync(only(tree).open());
    assert.is(readFileSync(join(tree.real(SLOT), 'enable'), 'latin1'), '0\n');
  }),
);

test(
  'with kernel lockdown, the reason is reported',
  timebox(5, () => {
    const tree = new Tree();
    tree.addPci(SLOT);
    const folder = join(tree.roots.sysfs, 'kernel/security');
    mkdirSync(folder, { recursive: true });
    const lockdown = join(folder, 'lockdown');
    writeFileSync(lockdown, '[none] integrity confidentiality\n');
    assert.is(found(tree)[0]?.code, undefined);
    writeFileSync(lockdown, 'none [integrity] confidentiality\n');
    assert.is(found(tree)[0]?.code, 'ERR_ISTHMUS_REGION_PERMISSIONS');
    assert.match(found(tree)[0]?.message ?? '', /locked down \(Secure Boot\)/);
  }),
);

test(
  'messages between two runtimes over resource2, with a warning that it is slow; no warning if it is disabled',
  timebox(20, async () => {
    const tree = new Tree();
    const path = tree.addPci(SLOT);
    const lines: string[] = [];
    const log = (level: string, line: string) => lines.push(`${level} ${line}`);
    const server = await Runtime.create(tree.options({ debug: 2, log }));
    assert.equal(lines, [
      `warning ${path}: ${SLOW}; install the driver (vendor/ivshmem/driver) to have it at full speed`,
    ]);
    const client = await Runtime.create(tree.options());
    assert.equal(
      client.regions().map(({ name, kind, size, path: where }) => [name, kind, size, where]),
      [[SLOT, 'pci', 4 * MIB, path]],
    );
    assert.is(client.inspect().regions[0]?.kind, 'pci');
    const { port } = await server.listen({}, async (connection) => {
      for await (const message of connection) await connection.send(message.data);
    });
    const connection = await client.connect(`127.0.0.1:${port}`);
    assert.is(connection.plugin, 'ivshmem');
    assert.is(connection.why, undefined);
    for (const length of [0, 8, 4096, 1 << 20]) {
      await connection.send(Buffer.alloc(length, 7));
      const message = await connection.receive();
      assert.is(Buffer.compare(message?.data ?? Buffer.alloc(1), Buffer.alloc(length, 7)), 0);
    }

    const off = await Runtime.create(tree.options({ pci: false }));
    assert.equal([off.regions(), off.refusedRegions()], [[], []]);
    const without = await off.connect(`127.0.0.1:${port}`);
    assert.is(without.plugin, 'tcp');
    await Promise.all([connection.close(), without.close()]);
    await Promise.all([client.close(), server.close(), off.close()]);
  }),
);

test(
  'info and region show report how a device is reached',
  timebox(30, async () => {
    const tree = new Tree([{}]);
    tree.addPci('0000:00:04.0', { driver: 'uio_ivshmem', uio: 'uio0' });
    const path = tree.addPci(SLOT);
    tree.addPci('0000:00:06.0', { command: 0 });
    const runtime = await Runtime.create(tree.options({ name: 'listed' }));

    const info = survey(tree.roots);
    assert.equal(
      info.devices.map(({ kind, state, peers, refused: why }) => [kind, state, peers[0]?.name, why?.code]),
      [
        ['uio', 'formatted', 'listed', undefined],
        ['pci', 'formatted', 'listed', undefined],
        ['pci', 'refused', undefined, 'ERR_ISTHMUS_REGION_DISABLED'],
      ],
    );
    const text = renderInfo(info);
    assert.match(text, /\/uio0 +uio driver +4 MiB/);
    assert.match(text, new RegExp(`${SLOT}/resource2 +${SLOW} +4 MiB`));

    for (const name of [SLOT, path, `/sys/devices/pci0000:00/${SLOT}`]) {
      const report = await examine(name, tree.roots);
      assert.equal([report.kind, report.path, report.state, report.slots.length], ['pci', path, 'formatted', 1]);
      assert.is(report.slots[0]?.lives, 'alive');
      assert.ok(renderRegion(report).startsWith(`${path}: 4 MiB, ${SLOW}\n`));
    }
    // A device with a driver is reached through the driver, by whatever name it is given.
    const driven = await examine('0000:00:04.0', tree.roots);
    assert.equal([driven.kind, driven.path], ['uio', join(tree.roots.dev, 'uio0')]);
    assert.ok(renderRegion(driven).startsWith(`${driven.path}: 4 MiB, uio driver\n`));
    for (const [name, code] of [
      ['0000:00:06.0', 'ERR_ISTHMUS_REGION_DISABLED'],
      ['0000:00:1f.0', 'ERR_ISTHMUS_REGION_NOT_FOUND'],
    ] as const) {
      const error = await examine(name, tree.roots).catch((thrown: { code: string }) => thrown);
      assert.is((error as { code: string }).code, code);
    }
    await runtime.close();
  }),
);

test(
  'a process attached through the uio device has no proof of death for one attached through resource2',
  timebox(20, async () => {
    const tree = new Tree();
    const path = tree.addPci(SLOT);
    const other = new Tree();
    const twin = other.addPci(SLOT, { file: -1 });
    // The same bytes through another file, as the two paths give them: a slot that a process left without freeing it.
    const runtime = await Runtime.create(tree.options({ name: 'left' }));
    fs.copyFileSync(path, twin);
    await runtime.close();
    const later = await Runtime.create(other.options({ name: 'later' }));
    const report = await examine(SLOT, other.roots);
    assert.equal(
      report.slots.map(({ name, local, lives }) => [name, local, lives]),
      [
        ['left', false, 'unknown'],
        ['later', true, 'alive'],
      ],
    );
    await later.close();
  }),
);

test.after(removeRegions);
test.run();

/** Devices behind UIO: a tree as in sysfs, whose `/dev/uioN` are plain files. */
import { chmodSync, closeSync, mkdirSync, openSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Connection } from '../../host/api/connection.js';
import { discoverUio } from '../../host/device/uio.js';
import { addon } from '../../host/native/native.js';
import { Runtime } from '../../host/runtime/runtime.js';
import { Tree } from '../support/devices.js';
import { MIB, removeRegions } from '../support/regions.js';
import { timebox } from '../support/timebox.js';

const found = (tree: Tree) =>
  discoverUio(tree.roots).map(({ path, backing, refused }) => ({
    name: path.slice(tree.roots.dev.length + 1),
    size: backing?.size,
    code: refused?.code,
    message: refused?.message ?? '',
  }));

test(
  'no class, an empty class, and invalid names',
  timebox(5, () => {
    assert.equal(discoverUio({ sysfs: '/nonexistent' }), []);
    const tree = new Tree();
    assert.equal(found(tree), []);
    mkdirSync(tree.folder('uio'));
    mkdirSync(tree.folder('uio1x'));
    mkdirSync(tree.folder('other0'));
    assert.equal(found(tree), []);
  }),
);

test(
  'devices are found in the order of their numbers, each is checked separately',
  timebox(5, () => {
    const tree = new Tree([
      {},
      { size: `0x${(8 * MIB).toString(16)}` },
      { name: 'uio_pdrv_genirq' },
      { version: '0.0.2' },
      { size: `0x${(3 * MIB).toString(16)}` },
      { size: '0x1000' },
      { size: '4194304' },
      { size: '' },
      { size: undefined },
      { name: undefined },
      { version: undefined },
    ]);
    tree.add('uio11', {});
    const rows = found(tree);
    assert.equal(
      rows.map(({ name }) => name),
      Array.from({ length: 12 }, (_, i) => `uio${i}`),
    );
    assert.equal(
      rows.map(({ code }) => code),
      [
        undefined,
        undefined,
        'ERR_ISTHMUS_REGION_FOREIGN',
        'ERR_ISTHMUS_REGION_FOREIGN',
        'ERR_ISTHMUS_REGION_SIZE',
        'ERR_ISTHMUS_REGION_TOO_SMALL',
        'ERR_ISTHMUS_REGION_FOREIGN',
        'ERR_ISTHMUS_REGION_FOREIGN',
        'ERR_ISTHMUS_SYSCALL',
        'ERR_ISTHMUS_SYSCALL',
        'ERR_ISTHMUS_SYSCALL',
        undefined,
      ],
    );
    assert.equal([rows[0]?.size, rows[1]?.size], [4 * MIB, 8 * MIB]);
    assert.match(rows[2]?.message ?? '', /uio2: .*uio_pdrv_genirq/);
    assert.match(rows[3]?.message ?? '', /uio3: .*0\.0\.2/);
    assert.match(rows[4]?.message ?? '', /uio4: 3145728 bytes/);
  }),
);

test(
  'a device that disappears during discovery, or before it is opened',
  timebox(10, async () => {
    const tree = new Tree([{}, {}]);
    rmSync(join(tree.root, 'devices/uio0'), { recursive: true });
    assert.equal(
      found(tree).map(({ code }) => code),
      ['ERR_ISTHMUS_SYSCALL', undefined],
    );
    rmSync(join(tree.roots.dev, 'uio1'));
    const runtime = await Runtime.create(tree.options());
    assert.equal(runtime.regions(), []);
    assert.equal(
      runtime.refusedRegions().map(({ path, error }) => [path, error.code]),
      [
        [join(tree.roots.dev, 'uio0'), 'ERR_ISTHMUS_SYSCALL'],
        [join(tree.roots.dev, 'uio1'), 'ERR_ISTHMUS_REGION_NOT_FOUND'],
      ],
    );
    await runtime.close();
  }),
);

test(
  'a device is used, a foreign one beside it refused with its reason; a short one does no harm',
  timebox(10, async () => {
    const tree = new Tree([{ name: 'other' }, { file: addon().pageSize + 4 * MIB - 1 }, {}]);
    const head = Buffer.alloc(64, 0xcb);
    const foreign = tree.add('uio3', {});
    const fd = openSync(foreign, 'r+');
    // Map 1 begins at one page: the bytes before it are not examined.
    writeFileSync(fd, Buffer.concat([Buffer.alloc(addon().pageSize), head]));
    closeSync(fd);
    const runtime = await Runtime.create(tree.options());
    assert.equal(
      runtime.regions().map(({ name, kind, size, path }) => [name, kind, size, path]),
      [['uio2', 'uio', 4 * MIB, join(tree.roots.dev, 'uio2')]],
    );
    assert.equal(
      runtime.refusedRegions().map(({ error }) => error.code),
      ['ERR_ISTHMUS_REGION_FOREIGN', 'ERR_ISTHMUS_REGION_TOO_SMALL', 'ERR_ISTHMUS_REGION_FOREIGN'],
    );
    assert.match(runtime.refusedRegions()[2]?.error.message ?? '', /C pscom plugin/);
    await runtime.close();
  }),
);

test(
  'a device without permission to open it',
  timebox(10, async () => {
    const tree = new Tree([{}]);
    const path = join(tree.roots.dev, 'uio0');
    chmodSync(path, 0);
    const root = process.geteuid?.() === 0;
    // Root may open everything.
    if (root) process.seteuid?.(65_534);
    try {
      const runtime = await Runtime.create(tree.options());
      assert.equal(
        runtime.refusedRegions().map((refused) => [refused.path, refused.error.code, refused.error.errno]),
        [[path, 'ERR_ISTHMUS_REGION_PERMISSIONS', 'EACCES']],
      );
      await runtime.close();
    } finally {
      if (root) process.seteuid?.(0);
    }
  }),
);

test(
  'an attribute that cannot be read',
  timebox(5, () => {
    const tree = new Tree([{ name: undefined }, {}]);
    // Reading a folder fails for root too.
    mkdirSync(join(tree.root, 'devices/uio0/name'));
    const [first, second] = found(tree);
    assert.is(first?.code, 'ERR_ISTHMUS_SYSCALL');
    assert.match(first?.message ?? '', /EISDIR/);
    assert.is(second?.code, undefined);
  }),
);

test(
  'messages through a device, between two runtimes with two devices each',
  timebox(20, async () => {
    const tree = new Tree([{}, { name: 'other' }, {}]);
    const server = await Runtime.create(tree.options());
    const client = await Runtime.create(tree.options());
    assert.equal(
      server.regions().map(({ name }) => name),
      ['uio0', 'uio2'],
    );
    assert.equal(
      server.regions().map(({ uuid }) => uuid),
      client.regions().map(({ uuid }) => uuid),
    );
    assert.is.not(server.regions()[0]?.uuid, server.regions()[1]?.uuid);
    const accepted: Connection[] = [];
    const { port } = await server.listen({}, async (connection) => {
      accepted.push(connection);
      for await (const message of connection) await connection.send(message.data, { xheader: message.xheader });
    });
    const connection = await client.connect(`127.0.0.1:${port}`);
    assert.is(connection.plugin, 'ivshmem');
    assert.is(connection.why, undefined);
    for (const length of [0, 1, 8, 4096, 1 << 20]) {
      await connection.send(Buffer.alloc(length, 7), { xheader: Buffer.from('x') });
      const message = await connection.receive();
      assert.is(Buffer.compare(message?.data ?? Buffer.alloc(0), Buffer.alloc(length, 7)), 0);
    }
    await connection.close();
    while (accepted[0]?.state !== 'closed') await pause(1);
    await client.close();
    await server.close();
    assert.equal(readdirSync(tree.roots.dev).sort(), ['uio0', 'uio1', 'uio2']);
  }),
);

test.after(removeRegions);
test.run();

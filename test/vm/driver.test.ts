/**
 * The driver in a virtual machine: where it places the memory, how it maps it, and the effects on a process that uses
 * the device when the device is removed.
 */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { test as uvuTest } from 'uvu';
import * as assert from 'uvu/assert';
import { rejection } from '../support/outcomes.js';
import { chosen } from '../support/process.js';
import { timebox } from '../support/timebox.js';
import { endGuests, Guest, type GuestOptions, whileGuestsRun } from './guest.js';
import { initramfs } from './image.js';
import * as inside from './inside.js';
import { kernel } from './kernel.js';
import { missing } from './needs.js';
import { Segment } from './segment.js';

const why = missing();
if (why) console.log(`! no virtual machine here: ${why}`);
const test = chosen(why ? (uvuTest.skip as unknown as typeof uvuTest) : uvuTest);
const note = why ? ' (skipped: no virtual machine)' : '';

const SIZE = 4 << 20;
const GIB4 = 2 ** 32;
const PAGE = 4096;

const BIG = 64 << 20;

const segments = { cold: new Segment('cold', SIZE), hot: new Segment('hot', SIZE), big: new Segment('big', BIG) };
let guest: Guest;

function options(): GuestOptions {
  const { version, image } = kernel();
  return {
    kernel: image,
    initramfs: initramfs(kernel(version)),
    args: segments.cold.plugged('ivshmem0'),
  };
}

// ── State of a guest ─────────────────────────────────────────────────────────────────────────────────────────────────

const pciDevices = () => inside.pciDevices(guest);
const memoryOf = (device: string) => inside.memoryOf(guest, device);
const typeOf = (address: number) => inside.typeOf(guest, address);

const ADDRESS = 0x000f_ffff_ffff_f000n;

/**
 * The page table entry for this address of the process that runs on one of the processors, read as the processor reads
 * it: physical address, and `PCD` and `PWT` if they are set. With neither, the type is write-back.
 */
async function entryOf(address: bigint): Promise<{ physical: number; flags: string } | undefined> {
  const monitor = async (command: string, cpu: number) =>
    String(await guest.qmp('human-monitor-command', { 'command-line': command, 'cpu-index': cpu }));
  const end = performance.now() + 60_000;
  while (performance.now() < end) {
    for (const cpu of [0, 1]) {
      const registers = await monitor('info registers', cpu);
      const register = (name: string) => BigInt(`0x${new RegExp(`${name}=([0-9a-f]+)`).exec(registers)?.[1] ?? 0}`);
      let entry = register('CR3') | 1n;
      // Bit 12 of CR4: page tables of five levels.
      for (let level = (register('CR4') >> 12n) & 1n ? 4n : 3n; level >= 0n && entry & 1n; level--) {
        const index = (address >> (12n + 9n * level)) & 511n;
        const at = (entry & ADDRESS) + index * 8n;
        entry = BigInt((await monitor(`xp /1gx 0x${at.toString(16)}`, cpu)).split(': ')[1]?.trim() ?? 0);
      }
      if (!(entry & 1n)) continue;
      const flags = [entry & 16n ? 'PCD' : '', entry & 8n ? 'PWT' : ''].filter(Boolean).join(' ');
      return { physical: Number(entry & ADDRESS), flags };
    }
  }
  return undefined;
}

async function uioOf(device: string): Promise<string> {
  return `/dev/${await guest.until(`ls ${device}/uio`, (output) => /^uio\d+$/m.test(output))}`;
}

/** Starts `tool hold`. @returns the address of its mapping */
async function hold(path: string, offset: number, log = '/tmp/hold', more = ''): Promise<bigint> {
  await guest.shell(`tool hold ${path} ${offset} ${SIZE} ${more} >${log} 2>&1 &`);
  const output = await guest.until(`cat ${log}`, (text) => /holding|:/.test(text));
  const address = /^holding (0x[0-9a-f]+)$/.exec(output)?.[1];
  assert.ok(address, output);
  return BigInt(address);
}

/** The same, and waits until the host sees the writes. */
async function holdAndWrite(path: string, offset: number, segment: Segment): Promise<bigint> {
  segment.setWord(PAGE, 0n);
  const address = await hold(path, offset);
  const end = performance.now() + 60_000;
  while (segment.word(PAGE) === 0n && performance.now() < end) await pause(20);
  assert.is.not(segment.word(PAGE), 0n);
  return address;
}

/** Output of the holder from the moment that its device is removed. */
async function released(log = '/tmp/hold'): Promise<string[]> {
  const output = await guest.until(`cat ${log}`, (text) => /SIGBUS[\s\S]*SIGBUS|garbage/.test(text));
  await guest.until('pidof tool || echo none', (text) => text.includes('none'));
  return output.split('\n').slice(1);
}
const GONE = ['SIGBUS', 'read: EIO', 'mmap: EINVAL', 'closed', 'SIGBUS'];

async function endHolder(): Promise<void> {
  await guest.shell('kill -9 $(pidof tool)');
  await guest.until('pidof tool || echo none', (text) => text.includes('none'));
}

const healthy = async () => assert.equal(await inside.complaints(guest), []);

// ── One guest, from the bare device to its removal ───────────────────────────────────────────────────────────────────

let device = '';
let low = 0;

test(
  `without the driver: resource2 is the memory, and not write-back${note}`,
  timebox(240, async () => {
    guest = await Guest.start(options());
    const found = await pciDevices();
    assert.is(found.length, 1);
    device = found[0]!;
    const [from, to] = await memoryOf(device);
    assert.is(to - from + 1, SIZE);
    low = from;
    await guest.shell(`echo 1 >${device}/enable`);
    const address = await holdAndWrite(`${device}/resource2`, 0, segments.cold);
    const entry = await entryOf(address);
    console.log(`  BAR 2 at 0x${from.toString(16)}; resource2 is ${await typeOf(from)}, ${entry?.flags}`);
    assert.is(await typeOf(from), 'uncached-minus');
    assert.equal(entry, { physical: from, flags: 'PCD' });
    await endHolder();
    await guest.shell(`echo 0 >${device}/enable`);
  }),
);

test(
  `the driver moves BAR 2 above 4 GiB, and it is write-back${note}`,
  timebox(120, async () => {
    // A process has the old address mapped through sysfs: it loses the mapping, not another device's memory.
    await guest.shell(`echo 1 >${device}/enable`);
    await holdAndWrite(`${device}/resource2`, 0, segments.cold);
    await guest.shell('insmod /modules/uio.ko && insmod /modules/uio_ivshmem.ko');
    assert.is((await released())[0], 'SIGBUS');
    const path = await uioOf(device);
    const [from, to] = await memoryOf(device);
    console.log(`  BAR 2 from 0x${low.toString(16)} to 0x${from.toString(16)}`);
    assert.ok(low < GIB4 && from >= GIB4);
    assert.is(to - from + 1, SIZE);
    assert.match(await guest.shell('dmesg'), /uio_ivshmem .*BAR 2 moved from/);
    assert.not.match(await guest.shell('dmesg'), /cannot be moved/);

    const uio = `/sys/class/uio/${path.slice(5)}`;
    assert.is(await guest.shell(`cat ${uio}/name`), 'ivshmem');
    assert.is(await guest.shell(`cat ${uio}/version`), '0.0.1');
    assert.is(Number(await guest.shell(`cat ${uio}/maps/map1/size`)), SIZE);
    assert.is(Number(await guest.shell(`cat ${uio}/maps/map1/addr`)), from);
    // Map 0 is listed, so that the memory is map 1; it cannot be mapped.
    assert.is(Number(await guest.shell(`cat ${uio}/maps/map0/size`)), 256);
    assert.is(await guest.shell(`cat ${uio}/maps/map0/name`), 'registers');

    assert.is(await typeOf(from), 'write-back');
    const address = await holdAndWrite(path, PAGE, segments.cold);
    assert.equal(await entryOf(address), { physical: from, flags: '' });
    await endHolder();
    // The memory type belongs to the device, not to the mappings.
    assert.is(await typeOf(from), 'write-back');
    await healthy();
  }),
);

test(
  `the memory is that of the host${note}`,
  timebox(60, async () => {
    const path = await uioOf(device);
    const last = SIZE - 8;
    for (const at of [0, 8, PAGE, SIZE / 2, last]) {
      await guest.shell(`tool write ${path} ${PAGE} ${SIZE} ${at} 0x${(0x1000 + at).toString(16)}`);
      assert.is(segments.cold.word(at), BigInt(0x1000 + at));
      segments.cold.setWord(at, BigInt(at) + 7n);
      assert.is(await guest.shell(`tool read ${path} ${PAGE} ${SIZE} ${at}`), `0x${(at + 7).toString(16)}`);
    }
  }),
);

test(
  `mmap refuses invalid ranges and private mappings${note}`,
  timebox(120, async () => {
    const path = await uioOf(device);
    const attempt = async (offset: number, length: number, ...more: string[]) =>
      (await guest.run(`tool map ${path} ${offset} ${length} ${more.join(' ')}`)).output.trim();
    for (const length of [256, PAGE, 2 * PAGE, SIZE]) assert.is(await attempt(0, length), 'mmap: EINVAL');
    assert.is(await attempt(0, PAGE, 'ro'), 'mmap: EINVAL');
    assert.is(await attempt(PAGE, PAGE), 'mapped');
    assert.is(await attempt(PAGE, SIZE), 'mapped');
    assert.is(await attempt(PAGE, SIZE, 'ro'), 'mapped');
    assert.is(await attempt(PAGE, SIZE - PAGE), 'mapped');
    assert.is(await attempt(PAGE, SIZE - 1), 'mapped');
    assert.is(await attempt(PAGE, SIZE + 1), 'mmap: EINVAL');
    assert.is(await attempt(PAGE, SIZE + PAGE), 'mmap: EINVAL');
    assert.is(await attempt(PAGE, 2 ** 46), 'mmap: EINVAL');
    assert.is(await attempt(2 * PAGE, PAGE), 'mmap: EINVAL');
    assert.is(await attempt(5 * PAGE, PAGE), 'mmap: EINVAL');
    assert.match(await attempt(2 ** 52, PAGE), /^mmap: (EINVAL|EOVERFLOW)$/);
    assert.is(await attempt(PAGE, SIZE, 'private'), 'mmap: EINVAL');
    assert.is(await attempt(PAGE, SIZE, 'private', 'ro'), 'mmap: EINVAL');
    assert.is(await attempt(0, PAGE, 'private'), 'mmap: EINVAL');
    await healthy();
  }),
);

test(
  `a mapping can be moved over another, cut and inherited${note}`,
  timebox(60, async () => {
    const path = await uioOf(device);
    assert.is(await guest.shell(`tool move ${path} ${PAGE} ${SIZE}`), 'moved');
    assert.is(segments.cold.word(0), 0x6d6f766564n);
    assert.is(await guest.shell(`tool part ${path} ${PAGE} ${SIZE}`), 'shared');
    await healthy();
  }),
);

const plug = () => guest.plug(segments.hot, 'ivshmem1');
const unplug = () => guest.unplug('ivshmem1');

/** The hot-plugged device, once its driver is bound. */
async function plugged(): Promise<string> {
  await inside.driven(guest, 2);
  return (await pciDevices()).find((path) => path !== device)!;
}

test(
  `a debugger reads and writes the memory of a process, as far as the process may itself${note}`,
  timebox(60, async () => {
    const path = await uioOf(device);
    const address = await hold(path, PAGE, '/tmp/hold', 'ro');
    const pid = await guest.shell('pidof tool');
    const at = (offset: number) => `0x${(address + BigInt(offset)).toString(16)}`;
    segments.cold.setWord(SIZE - 8, 0x6465627567n);
    assert.is(await guest.shell(`tool peek /proc/${pid}/mem ${at(SIZE - 8)} 8`), '0x6465627567');
    segments.cold.setWord(PAGE - 8, 0x70616765n);
    assert.is(await guest.shell(`tool peek /proc/${pid}/mem ${at(PAGE - 8)} 8`), '0x70616765');
    // Half of the word lies behind the mapping.
    assert.is((await guest.run(`tool peek /proc/${pid}/mem ${at(SIZE - 4)} 8`)).output.trim(), 'pread: 0');
    // It has mapped it read-only.
    assert.is((await guest.run(`tool poke /proc/${pid}/mem ${at(64)} 8 1`)).output.trim(), 'pwrite: EIO');
    await endHolder();

    const writable = await holdAndWrite(path, PAGE, segments.cold);
    const word = `0x${(writable + 72n).toString(16)}`;
    await guest.shell(`tool poke /proc/$(pidof tool)/mem ${word} 8 0x706f6b65`);
    assert.is(segments.cold.word(72), 0x706f6b65n);
    await endHolder();
    await healthy();
  }),
);

test(
  `while the driver is bound, sysfs maps neither the registers nor the memory${note}`,
  timebox(60, async () => {
    for (const [bar, length] of [
      [0, PAGE],
      [2, SIZE],
    ]) {
      assert.match((await guest.run(`tool map ${device}/resource${bar} 0 ${length}`)).output, /^mmap: EINVAL/);
    }
  }),
);

/** Whether the kernel of the guest allows huge entries for device memory. */
const huge = /^CONFIG_ARCH_SUPPORTS_PMD_PFNMAP=y$/m.test(
  why ? '' : readFileSync(`/lib/modules/${kernel().version}/build/.config`, 'utf8'),
);

test(
  `a mapping of 64 MiB: huge entries where the kernel has them, and whole however it is cut, protected and moved${note}`,
  timebox(120, async () => {
    await guest.plug(segments.big, 'ivshmem2');
    await inside.driven(guest, 2);
    const big = (await pciDevices()).find((path) => path !== device)!;
    // Off in machines with little memory.
    await guest.shell('echo always >/sys/kernel/mm/transparent_hugepage/enabled');
    const output = await guest.shell(`tool many ${await uioOf(big)} ${PAGE} ${BIG}`);
    console.log(
      `  ${kernel().version}, ${huge ? 'huge' : 'small'} entries: ${output.replace(/\n/, ' KiB, ').replaceAll('\n', ', ')}`,
    );
    const tables = Number(/^tables (\d+)$/m.exec(output)?.[1]);
    // A table of 4 KiB for each 2 MiB, and those above them; or only those above them.
    if (huge) assert.ok(tables <= 16, output);
    else assert.ok(tables >= BIG / (2 << 20) / 4, output);
    assert.match(output, /^vmsplice: EFAULT$/m);
    assert.match(output, /^whole$/m);
    await guest.unplug('ivshmem2');
    await guest.until('ls -1 /sys/class/uio', (text) => text.trim().split('\n').length === 1);
    await healthy();
  }),
);

test(
  `hibernation is refused while a process has the device open, and not otherwise${note}`,
  timebox(300, async () => {
    // The kernel's own test of suspending devices: it goes as far as that, waits some seconds, and back.
    await guest.shell('echo devices >/sys/power/pm_test; echo 0 >/sys/module/suspend/parameters/pm_test_delay');
    await holdAndWrite(await uioOf(device), PAGE, segments.cold);
    const refused = await guest.run('echo disk >/sys/power/state');
    assert.is.not(refused.code, 0);
    assert.match(await guest.shell('dmesg | tail -n 30'), /uio_ivshmem .*no hibernation while uio0 is in use/);
    // The process goes on.
    segments.cold.setWord(PAGE, 0n);
    const end = performance.now() + 60_000;
    while (segments.cold.word(PAGE) === 0n && performance.now() < end) await pause(20);
    assert.is.not(segments.cold.word(PAGE), 0n);
    // To memory: the contents stay where they are.
    await guest.shell('echo mem >/sys/power/state', 120);
    await endHolder();
    await guest.shell('echo disk >/sys/power/state', 120);
    assert.is(await guest.shell(`tool map ${await uioOf(device)} ${PAGE} ${SIZE}`), 'mapped');
    assert.is(await typeOf((await memoryOf(device))[0]), 'write-back');
    await guest.shell('echo none >/sys/power/pm_test');
    await healthy();
  }),
);

test(
  `a hot-plugged device is write-back too, and has its own memory${note}`,
  timebox(120, async () => {
    await plug();
    const second = await plugged();
    const [from] = await memoryOf(second);
    console.log(`  BAR 2 at 0x${from.toString(16)}, ${await typeOf(from)}`);
    assert.ok(from >= GIB4);
    assert.is(await typeOf(from), 'write-back');
    await guest.shell(`tool write ${await uioOf(second)} ${PAGE} ${SIZE} 64 0x686f74`);
    assert.is(segments.hot.word(64), 0x686f74n);
    assert.is.not(segments.cold.word(64), 0x686f74n);
    // The registers of both may lie in one page; through neither can that page be mapped.
    for (const each of [device, second]) {
      const [bar0 = ''] = (await guest.shell(`sed -n 1p ${each}/resource`)).split(' ');
      console.log(`  registers at ${bar0}`);
      for (const more of ['', ' ro']) {
        const { output } = await guest.run(`tool map ${await uioOf(each)} 0 ${PAGE}${more}`);
        assert.is(output.trim(), 'mmap: EINVAL');
      }
    }
  }),
);

test(
  `unplugged while a process has it open and mapped: SIGBUS in that process, and nothing else; plugged in again it works${note}`,
  timebox(240, async () => {
    for (let round = 0; round < 3; round++) {
      const second = (await pciDevices()).find((path) => path !== device)!;
      const path = await uioOf(second);
      await holdAndWrite(path, PAGE, segments.hot);
      await hold(path, PAGE, '/tmp/other', 'ro');
      await unplug();
      for (const log of ['/tmp/hold', '/tmp/other']) {
        assert.equal(await released(log), GONE);
      }
      assert.equal(await pciDevices(), [device]);
      // The other device still works.
      assert.is(await guest.shell(`tool map ${await uioOf(device)} ${PAGE} ${SIZE}`), 'mapped');
      await plug();
      const again = await uioOf(await plugged());
      const word = 0x1234 + round;
      await guest.shell(`tool write ${again} ${PAGE} ${SIZE} 128 ${word}`);
      assert.is(segments.hot.word(128), BigInt(word));
    }
    await healthy();
  }),
);

test(
  `the driver is unbound while a process uses the device, and bound again${note}`,
  timebox(240, async () => {
    const slot = device.split('/').at(-1)!;
    const driver = '/sys/bus/pci/drivers/uio_ivshmem';
    const before = await memoryOf(device);
    for (let round = 0; round < 3; round++) {
      await holdAndWrite(await uioOf(device), PAGE, segments.cold);
      assert.is.not((await guest.run('rmmod uio_ivshmem')).code, 0, 'the module is in use');
      await guest.shell(`echo ${slot} >${driver}/unbind`);
      assert.equal(await released(), GONE);
      assert.is(await typeOf(before[0]), undefined);
      await guest.shell(`echo ${slot} >${driver}/bind`);
      assert.is(await guest.shell(`tool map ${await uioOf(device)} ${PAGE} ${SIZE}`), 'mapped');
      assert.equal(await memoryOf(device), before);
      assert.is(await typeOf(before[0]), 'write-back');
    }
    // Once more by removing it from the bus through sysfs.
    await holdAndWrite(await uioOf(device), PAGE, segments.cold);
    await guest.shell(`echo 1 >${device}/remove`);
    assert.equal(await released(), GONE);
    await guest.shell('echo 1 >/sys/bus/pci/rescan');
    assert.is(await guest.shell(`tool map ${await uioOf(device)} ${PAGE} ${SIZE}`), 'mapped');
    assert.is(await typeOf((await memoryOf(device))[0]), 'write-back');
    await healthy();
  }),
);

test(
  `plugged in and out many times, with and without a process that uses it${note}`,
  timebox(300, async () => {
    for (let round = 0; round < 20; round++) {
      if (round > 0) await plug();
      const path = await uioOf(await plugged());
      if (round % 2 === 0) await holdAndWrite(path, PAGE, segments.hot);
      await unplug();
      if (round % 2 === 0) assert.equal(await released(), GONE);
    }
    assert.equal(await pciDevices(), [device]);
    await healthy();
    await plug();
    await plugged();
  }),
);

test(
  `the memory is decoded, also of a device that was enabled without that${note}`,
  timebox(60, async () => {
    const slot = device.split('/').at(-1)!;
    const driver = '/sys/bus/pci/drivers/uio_ivshmem';
    await guest.shell(`echo ${slot} >${driver}/unbind; echo 1 >${device}/enable`);
    // The low byte of the command register.
    await guest.shell(`printf '\\0' | dd of=${device}/config bs=1 seek=4 conv=notrunc`);
    await guest.shell(`echo ${slot} >${driver}/bind`);
    await guest.shell(`tool write ${await uioOf(device)} ${PAGE} ${SIZE} 512 0x6465636f6465`);
    assert.is(segments.cold.word(512), 0x6465636f6465n);
    await healthy();
  }),
);

test(
  `the module is removed and loaded again${note}`,
  timebox(120, async () => {
    for (let round = 0; round < 5; round++) {
      await guest.shell('rmmod uio_ivshmem && insmod /modules/uio_ivshmem.ko');
      assert.is(await guest.shell(`tool map ${await uioOf(device)} ${PAGE} ${SIZE}`), 'mapped');
    }
    await healthy();
    await guest.end();
  }),
);

test(
  `without room above 4 GiB the driver warns, and works${note}`,
  timebox(240, async () => {
    const base = options();
    guest = await Guest.start({
      ...base,
      args: [...(base.args ?? []), '-global', 'i440FX-pcihost.pci-hole64-size=0'],
    });
    device = (await pciDevices())[0]!;
    await guest.shell('insmod /modules/uio.ko && insmod /modules/uio_ivshmem.ko');
    const [from, to] = await memoryOf(device);
    console.log(`  BAR 2 at 0x${from.toString(16)}, ${await typeOf(from)}`);
    assert.is(to - from + 1, SIZE);
    assert.ok(from < GIB4);
    assert.match(await guest.shell('dmesg'), /cannot be moved above 4 GiB/);
    // If the kernel finds room below, it may be in a gap of the firmware's MTRRs.
    assert.match((await typeOf(from)) ?? '', /^(uncached-minus|write-back)$/);
    const path = await uioOf(device);
    await guest.shell(`tool write ${path} ${PAGE} ${SIZE} 256 77`);
    assert.is(segments.cold.word(256), 77n);
    await healthy();
    await guest.end();
  }),
);

test(
  `a kernel that does not end mappings of resource2: their memory type wins, and the driver says so${note}`,
  timebox(240, async () => {
    // As a kernel without CONFIG_IO_STRICT_DEVMEM.
    guest = await Guest.start({ ...options(), parameters: 'iomem=relaxed' });
    device = (await pciDevices())[0]!;
    await guest.shell('insmod /modules/uio.ko && insmod /modules/uio_ivshmem.ko');
    const slot = device.split('/').at(-1)!;
    const driver = '/sys/bus/pci/drivers/uio_ivshmem';
    const [from] = await memoryOf(device);
    assert.ok(from >= GIB4);
    assert.is(await typeOf(from), 'write-back');
    assert.not.match(await guest.shell('dmesg'), /is not write-back/);
    await guest.shell(`echo ${slot} >${driver}/unbind; echo 1 >${device}/enable`);
    await holdAndWrite(`${device}/resource2`, 0, segments.cold);
    await guest.shell(`echo ${slot} >${driver}/bind`);
    assert.is(await typeOf(from), 'uncached-minus');
    assert.match(await guest.shell('dmesg -c'), /BAR 2 is not write-back/);
    assert.is(await guest.shell(`tool map ${await uioOf(device)} ${PAGE} ${SIZE}`), 'mapped');
    // What the message tells to do.
    await endHolder();
    await guest.shell(`echo ${slot} >${driver}/unbind; echo ${slot} >${driver}/bind`);
    assert.is(await typeOf(from), 'write-back');
    assert.not.match(await guest.shell('dmesg'), /is not write-back/);
    await healthy();
    await guest.end();
  }),
);

test(
  `a QEMU that ends: what waits for it fails at once, with the reason${note}`,
  timebox(240, async () => {
    guest = await Guest.start(options());
    const end = Promise.all([
      rejection(guest.run('sleep 3600', 3600)),
      rejection(guest.event('NEVER', undefined, { seconds: 3600 })),
      rejection(whileGuestsRun(() => new Promise(() => {}))),
    ]);
    await pause(100);
    process.kill(guest.pid, 'SIGSEGV');
    for (const { message } of await end) {
      assert.match(message, /the QEMU of 'guest' has ended by SIGSEGV[\s\S]*── console/);
    }
    // Later calls, too.
    assert.match((await rejection(guest.shell('true'))).message, /has ended by SIGSEGV/);
    await guest.end();
    rmSync(guest.folder, { recursive: true, force: true });
  }),
);

uvuTest.after(async () => {
  await endGuests();
  for (const segment of Object.values(segments)) if (existsSync(segment.path)) segment.remove();
});
uvuTest.run();

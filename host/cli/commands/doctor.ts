/** `isthmus doctor`: is all there that is needed, in a VM or on a host, and what is to be done if not? */
import { accessSync, constants, readdirSync, readFileSync, statfsSync, statSync } from 'node:fs';
import { hostname } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Command } from 'commander';
import { IsthmusError } from '../../base/errors.js';
import { maskBroker } from '../../config/broker-url.js';
import { type ConfigRow, explain } from '../../config/config.js';
import { Watcher } from '../../control/watcher.js';
import { Core } from '../../core/core.js';
import { attribute, type Backing } from '../../device/backing.js';
import { discoverPci } from '../../device/pci.js';
import { type Candidate, discoverPosix, SHM } from '../../device/posix.js';
import { discoverUio, type UioRoots } from '../../device/uio.js';
import { mapperMissing } from '../../native/native.js';
import { Onlooker } from '../../region/inspection.js';
import { shmPath, whyNotShm } from '../../region/shm-file.js';
import { actionFor, bytes, say } from '../support/output.js';

const MIB = 0x100000;
const GIB = 0x40000000;
/** What Docker gives to /dev/shm; less is hardly enough for two regions of the default size. */
const SMALL_SHM = 64 * MIB;
/** A window is reserved with guards around it, as V8 does for every WebAssembly memory. */
const RESERVED = 10 * GIB;
/** V8 itself, and two windows. */
const ENOUGH_ADDRESSES = 32 * GIB;
const DRIVER = 'uio_ivshmem';
/** Beside `dist/` in the package, and in the sources. */
const KIT = fileURLToPath(new URL('../vendor/ivshmem', import.meta.url));

/** `good`; `note`: works, but; `bad`: something needed is missing; `none`: not there, and need not be. */
type Verdict = 'good' | 'note' | 'bad' | 'none';

export interface Finding {
  readonly what: string;
  readonly verdict: Verdict;
  readonly finding: string;
  /** What to do about it. */
  readonly action?: string | undefined;
}

/** Other places than those of this machine, for tests. */
export interface DoctorRoots extends UioRoots {
  /** Default `/proc`. */
  readonly proc?: string;
  /** Where udev has its rules, default `/etc` and `/usr/lib`. */
  readonly rules?: readonly string[];
}

type Setting = (name: string) => ConfigRow['value'] | undefined;

const good = (what: string, finding: string): Finding => ({ what, verdict: 'good', finding });
const none = (what: string, finding: string, action?: string): Finding => ({ what, verdict: 'none', finding, action });
const note = (what: string, finding: string, action: string): Finding => ({ what, verdict: 'note', finding, action });
const bad = (what: string, finding: string, action: string): Finding => ({ what, verdict: 'bad', finding, action });

function failed(what: string, error: unknown): Finding {
  return error instanceof IsthmusError
    ? bad(what, `${error.message} (${error.code})`, actionFor(error.code))
    : bad(what, (error as Error).message, 'If it stays so, report it with the output of this command.');
}

function read(...path: string[]): string | undefined {
  try {
    return readFileSync(join(...path), 'latin1');
  } catch {
    return undefined;
  }
}

// ─── this machine ────────────────────────────────────────────────────────────────────────────────────────────────────

/** In Node.js the value of `os.availableParallelism()` does not say what /proc of a test says. */
function processors(proc: string): Finding {
  const count = read(proc, 'cpuinfo')?.match(/^processor\s*:/gm)?.length ?? 0;
  if (count !== 1) return good('processors', count === 0 ? 'unknown' : String(count));
  const action = 'Give a VM two (-smp 2): QEMU without KVM may emulate the atomics of a VM with one by plain accesses.';
  return note('processors', '1: whoever polls takes it from the one who is to answer', action);
}

function native(): Finding {
  const missing = mapperMissing();
  return missing ? failed('native part', missing) : good('native part', 'loaded');
}

/** Whether there is room for the addresses of a region, and if not, what takes it. */
function addresses(proc: string): Finding[] {
  const limit = /^Max address space +(\S+)/m.exec(read(proc, 'self/limits') ?? '')?.[1];
  const mode = read(proc, 'sys/vm/overcommit_memory')?.trim();
  const findings: Finding[] = [];
  if (limit !== undefined && limit !== 'unlimited' && Number(limit) < ENOUGH_ADDRESSES) {
    const finding = `limited to ${bytes(Number(limit))} (RLIMIT_AS); every region takes ${bytes(RESERVED)} of addresses`;
    findings.push(note('address space', finding, "'ulimit -v unlimited', or LimitAS=infinity in a unit file."));
  }
  if (mode === '2') {
    const left = commitLeft(proc);
    findings.push(
      note(
        'overcommit',
        `mode 2: the kernel promises no more than it has${left === undefined ? '' : `, ${bytes(left)} are left`}`,
        "Even the window of a small region may be refused: 'sysctl vm.overcommit_memory=0', or a higher vm.overcommit_ratio.",
      ),
    );
  }
  try {
    new Core(128 * MIB);
  } catch (error) {
    findings.push(bad('window', `none of 128 MiB: ${(error as Error).message}`, 'See RLIMIT_AS and overcommit above.'));
    return findings;
  }
  if (findings.length === 0) findings.push(good('address space', `unlimited, overcommit mode ${mode ?? 'unknown'}`));
  return findings;
}

function commitLeft(proc: string): number | undefined {
  const info = read(proc, 'meminfo') ?? '';
  const [limit, used] = ['CommitLimit', 'Committed_AS'].map((name) =>
    Number(new RegExp(`^${name}: +(\\d+) kB`, 'm').exec(info)?.[1]),
  );
  const left = ((limit as number) - (used as number)) * 1024;
  return Number.isNaN(left) ? undefined : Math.max(0, left);
}

function sharedMemory(setting: Setting): Finding[] {
  const what = SHM;
  let findings: Finding[];
  try {
    const { blocks, bavail, bsize } = statfsSync(SHM);
    const text = `${bytes(blocks * bsize)}, ${bytes(bavail * bsize)} free`;
    const action = "'mount -o remount,size=1G /dev/shm'; in a container 'docker run --shm-size=1g'.";
    findings = [blocks * bsize <= SMALL_SHM ? note(what, text, action) : good(what, text)];
  } catch (error) {
    return [bad(what, (error as Error).message, "'mount -t tmpfs tmpfs /dev/shm'.")];
  }
  if (setting('shm') === 0) return findings;
  const path = shmPath(String(setting('shmName')));
  const why = whyNotShm(path);
  return [...findings, why ? failed('region of shm', why) : good('region of shm', path)];
}

// ─── devices, as in a VM ─────────────────────────────────────────────────────────────────────────────────────────────

/** Device nodes of UIO, and what keeps us from them. */
function permissions(path: string, rules: readonly string[]): Finding {
  const what = `permissions of ${path}`;
  const mode = statSync(path).mode & 0o777;
  const ruled = rules.some((root) => {
    try {
      return readdirSync(join(root, 'udev/rules.d')).some((name) => name.includes('ivshmem'));
    } catch {
      return false;
    }
  });
  const rule = ruled ? 'udev rule installed' : 'no udev rule of ivshmem';
  const text = `mode ${mode.toString(8).padStart(4, '0')}, ${rule}`;
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
  } catch {
    const install = ruled
      ? "Add the user to the group of the device ('usermod -aG isthmus USER') and log in anew."
      : `'make -C ${KIT} install-udev', and add the user to group isthmus.`;
    return bad(what, `you may not open it; ${text}`, install);
  }
  if (mode & 0o006) {
    return note(what, `${text}: everybody on this machine may open it`, `'make -C ${KIT} install-udev': mode 0660.`);
  }
  return good(what, text);
}

/**
 * How the kernel maps the memory of a device, as debugfs says while it is mapped. Lines of pat_memtype_list (Linux 5.6 and
 * later): `PAT: [mem 0x0000000100000000-0x0000000104000000] write-back`.
 */
function mappingType({ name, path }: Backing, { sysfs = '/sys' }: UioRoots): Finding {
  const what = `mapping of ${path}`;
  const list = read(sysfs, 'kernel/debug/x86/pat_memtype_list');
  if (list === undefined) {
    const action = "As root, 'mount -t debugfs none /sys/kernel/debug', then again.";
    return none(what, 'unknown: debugfs cannot be read (or this is no x86)', action);
  }
  const address = BigInt(attribute(sysfs, 'class/uio', name, 'maps/map1/addr'));
  for (const [, from, to, type] of list.matchAll(/\[mem (0x[0-9a-f]+)-(0x[0-9a-f]+)\] (\S+)/gi)) {
    if (BigInt(from as string) > address || address >= BigInt(to as string)) continue;
    if (type === 'write-back') return good(what, 'write-back');
    const action = `Use the driver of ${KIT}, which moves the memory above 4 GiB; see 'dmesg | grep ivshmem'.`;
    return note(what, `${type}: slow, every access goes past the caches`, action);
  }
  return none(what, 'unknown: the kernel does not list it');
}

function device(candidate: Candidate, kind: 'uio' | 'pci', roots: DoctorRoots): Finding[] {
  const { path, backing, refused } = candidate;
  if (!backing) {
    const foreign = refused?.code === 'ERR_ISTHMUS_REGION_FOREIGN' && kind === 'uio';
    if (foreign) return [none('device', refused.message)];
    return [failed(`device ${path}`, refused ?? new IsthmusError('ERR_ISTHMUS_REGION_NOT_FOUND', path))];
  }
  const findings: Finding[] = [];
  if (kind === 'pci') {
    const driver =
      read(roots.sysfs ?? '/sys', 'module', DRIVER, 'uevent') === undefined ? 'no driver' : 'not its driver';
    findings.push(
      note(
        `device ${backing.name}`,
        `${bytes(backing.size)}, ${driver}: reached through resource2, slow (uncached)`,
        `'make -C ${KIT} install-driver', then 'modprobe ${DRIVER}'.`,
      ),
    );
  } else {
    findings.push(good(`device ${path}`, `${bytes(backing.size)}, driver loaded`));
    findings.push(permissions(path, roots.rules ?? ['/etc', '/usr/lib', '/lib', '/run']));
  }
  return [...findings, ...region(backing, kind === 'uio' ? () => mappingType(backing, roots) : undefined)];
}

// ─── regions ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** @param mapped looked at while it is mapped */
function region(backing: Backing, mapped?: () => Finding): Finding[] {
  const what = `region ${backing.path}`;
  try {
    using onlooker = Onlooker.of(backing);
    const findings = mapped ? [mapped()] : [];
    const { state, refused } = onlooker.overview();
    if (refused) return [...findings, failed(what, refused)];
    if (state !== 'formatted') return [...findings, good(what, `${state}: the first peer formats it`)];
    const { free, total, tables, frameSize } = onlooker.frames();
    const room = `${bytes(free * frameSize)} of ${bytes((total - tables) * frameSize)} free`;
    const peers = onlooker.peers();
    const dead = peers.filter((peer) => onlooker.lives(peer) === 'dead');
    const text = `healthy, ${room}, ${peers.length} attached`;
    findings.push(
      dead.length === 0
        ? good(what, text)
        : note(what, `${text}, ${dead.length} of them dead`, 'The next peer, or the server, takes back what they had.'),
    );
    return findings;
  } catch (error) {
    return [failed(what, error)];
  }
}

async function silent(backings: readonly Backing[]): Promise<Finding[]> {
  const findings = await Promise.all(
    backings.map(async (backing): Promise<Finding[]> => {
      try {
        using onlooker = Onlooker.of(backing);
        if (onlooker.overview().state !== 'formatted') return [];
        const ages = await onlooker.heartbeats();
        return onlooker
          .peers()
          .filter((peer) => !ages.has(peer.slot) && onlooker.lives(peer) !== 'dead')
          .map(({ slot, name, host, pid }) =>
            note(
              `peer ${slot} of ${backing.path}`,
              `${name} on ${host}, pid ${pid}: no heartbeat while we watched`,
              "Stopped, paused, or dead. If it is known to be dead: 'isthmus region confirm-dead'.",
            ),
          );
      } catch {
        return []; // Said above.
      }
    }),
  );
  return findings.flat();
}

// ─── the broker ──────────────────────────────────────────────────────────────────────────────────────────────────────

async function broker(url: string, on: boolean): Promise<Finding> {
  const what = 'broker';
  if (!on) return none(what, 'suspension over MQTT is off (PSP_SUSPEND_RESUME)');
  try {
    // Bounded: an attempt to connect is, and so is the gathering.
    const watcher = await Watcher.open({ broker: url, host: hostname(), log: () => {} });
    const online = [...watcher.statuses.values()].filter(({ state }) => state !== 'offline').length;
    await watcher.close();
    return good(what, `${maskBroker(url)}, ${online} processes of this host`);
  } catch (error) {
    return failed(what, error);
  }
}

/** Everything, in the order in which it is printed. */
export async function diagnose(roots: DoctorRoots = {}): Promise<Finding[]> {
  const { proc = '/proc' } = roots;
  let rows: readonly ConfigRow[];
  try {
    rows = explain();
  } catch (error) {
    return [failed('configuration', error)];
  }
  const setting: Setting = (name) => rows.find((row) => row.name === name)?.value;
  const uio = discoverUio(roots);
  const pci = setting('pci') ? discoverPci(roots) : [];
  const files = discoverPosix(String(setting('regions')));
  const ours = [...uio, ...pci].filter(({ refused }) => refused?.code !== 'ERR_ISTHMUS_REGION_FOREIGN');
  const absent = none(
    'device',
    'no ivshmem device: this is no VM, or it has none',
    "On the host: 'isthmus device attach DOMAIN', or '-device ivshmem-plain' of QEMU.",
  );
  const backings = [...uio, ...pci, ...files].flatMap(({ backing }) => (backing ? [backing] : []));
  return [
    good('Node.js', process.version),
    native(),
    processors(proc),
    ...addresses(proc),
    ...sharedMemory(setting),
    ...(ours.length === 0 ? [absent] : []),
    ...uio.flatMap((candidate) => device(candidate, 'uio', roots)),
    ...pci.flatMap((candidate) => device(candidate, 'pci', roots)),
    ...files.flatMap(({ path, backing, refused }) =>
      backing
        ? region(backing)
        : [failed(`region ${basename(path)}`, refused ?? new IsthmusError('ERR_ISTHMUS_REGION_NOT_FOUND', path))],
    ),
    ...(await silent(backings)),
    await broker(String(setting('broker')), Boolean(setting('suspendResume'))),
  ];
}

const MARKS = { good: 'ok  ', note: 'note', bad: 'BAD ', none: '-   ' } as const;

export function render(findings: readonly Finding[]): string {
  const lines = findings.map(
    ({ what, verdict, finding, action }) =>
      `${MARKS[verdict]}  ${what}: ${finding}\n${action === undefined ? '' : `      → ${action}\n`}`,
  );
  const count = findings.filter(({ verdict }) => verdict === 'bad').length;
  return `${lines.join('')}\n${count === 0 ? 'Nothing that is needed is missing.' : `Missing: ${count}.`}\n`;
}

export function addDoctor(program: Command, exit: (code: number) => void): void {
  program
    .command('doctor')
    .summary('what is missing, and what to do about it')
    .description(
      'Check what Isthmus needs, in a VM or on a host: the native part, addresses and memory, devices with their driver, ' +
        'permissions and mapping, regions and who is attached, the broker if one is to be used. One line each, and what ' +
        'to do about it. Attaches nothing. Exit code 1 when something needed is missing.',
    )
    .option('--json', 'print one JSON array')
    .addHelpText(
      'after',
      `
Example:
  $ isthmus doctor
  $ PSP_IVSHMEM_REGIONS=ivshmem0 PSP_SUSPEND_RESUME=1 isthmus doctor`,
    )
    .action(async ({ json }: { json?: true }) => {
      const findings = await diagnose();
      say(json ? `${JSON.stringify(findings, null, 2)}\n` : render(findings));
      if (findings.some(({ verdict }) => verdict === 'bad')) exit(1);
    });
}

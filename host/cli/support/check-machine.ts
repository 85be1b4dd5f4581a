/** What `isthmus doctor` checks of the machine: processors, the native part, addresses, /dev/shm, the broker. */
import { statfsSync } from 'node:fs';
import { hostname } from 'node:os';
import { maskBroker } from '../../config/broker-url.js';
import { Watcher } from '../../control/watcher.js';
import { Core } from '../../core/core.js';
import { SHM } from '../../device/posix.js';
import { addonMissing } from '../../native/native.js';
import { Doorbell } from '../../region/doorbell.js';
import { shmPlace, whyNotShm } from '../../region/shm-file.js';
import { bad, type Finding, failed, good, none, note, readSystemFile, type Setting } from './findings.js';
import { processorsOf } from './processors.js';
import { bytes, counted, GIB, MIB } from './units.js';

/** The default of Docker for /dev/shm; less hardly holds two regions of the default size. */
const SMALL_SHM_BYTES = 64 * MIB;
/** Addresses of one region: V8 reserves guards around the window, as for every WebAssembly memory. */
const RESERVED_BYTES = 10 * GIB;
/** Addresses for V8 itself and two regions. */
const MIN_ADDRESS_SPACE_BYTES = 32 * GIB;

/** From the files of the kernel, which a test can replace, not from `os.availableParallelism()`. */
export function checkProcessors(proc: string, sysfs = '/sys'): Finding {
  const { allowed, there, quota } = processorsOf(
    (path) => readSystemFile(proc, path),
    (path) => readSystemFile(sysfs, path),
  );
  const what = 'processors';
  if (there === 0) return good(what, 'unknown');
  const count = allowed < there ? `${allowed} of ${there}` : String(allowed);
  if (quota !== undefined && quota < allowed) {
    return note(
      what,
      `${count}, ${quota.toFixed(2)} of their time (control group)`,
      'A process that has used up its share stands still for the rest of 100 ms: messages wait that long. Raise cpu.max ' +
        '(docker run --cpus, resources.limits.cpu) if they must not.',
    );
  }
  if (allowed !== 1) return good(what, count);
  return note(
    what,
    `${count}: peers on it take turns, and each message waits for a change of processes`,
    'Give the processes two processors (docker run --cpuset-cpus, -smp 2 of a VM). QEMU without KVM may emulate atomic ' +
      'instructions by plain ones in a VM with one.',
  );
}

export function checkNative(): Finding {
  const missing = addonMissing();
  return missing ? failed('native part', missing) : good('native part', 'loaded');
}

/** Whether the process has enough addresses for a region, and what limits them. */
export function checkAddresses(proc: string): Finding[] {
  const limit = /^Max address space +(\S+)/m.exec(readSystemFile(proc, 'self/limits') ?? '')?.[1];
  const mode = readSystemFile(proc, 'sys/vm/overcommit_memory')?.trim();
  const findings: Finding[] = [];
  if (limit !== undefined && limit !== 'unlimited' && Number(limit) < MIN_ADDRESS_SPACE_BYTES) {
    const finding = `limited to ${bytes(Number(limit))} (RLIMIT_AS); each region takes ${bytes(RESERVED_BYTES)} of addresses`;
    findings.push(
      note(
        'address space',
        finding,
        "Use 'ulimit -v unlimited', LimitAS=infinity in a unit file, or NODE_OPTIONS=--disable-wasm-trap-handler.",
      ),
    );
  }
  if (mode === '2') {
    const left = commitLeft(proc);
    findings.push(
      note(
        'overcommit',
        `mode 2: the kernel commits no more memory than it has${left === undefined ? '' : `; ${bytes(left)} are left`}`,
        "The window of a region, even of a small one, may be refused. Use 'sysctl vm.overcommit_memory=0', or a higher " +
          'vm.overcommit_ratio.',
      ),
    );
  }
  try {
    new Core(128 * MIB);
  } catch (error) {
    const finding = `a window of 128 MiB is refused: ${(error as Error).message}`;
    findings.push(bad('window', finding, 'See RLIMIT_AS and overcommit above.'));
    return findings;
  }
  if (findings.length === 0) findings.push(good('address space', `unlimited, overcommit mode ${mode ?? 'unknown'}`));
  return findings;
}

function commitLeft(proc: string): number | undefined {
  const info = readSystemFile(proc, 'meminfo') ?? '';
  const [limit, used] = ['CommitLimit', 'Committed_AS'].map((name) =>
    Number(new RegExp(`^${name}: +(\\d+) kB`, 'm').exec(info)?.[1]),
  );
  const left = ((limit as number) - (used as number)) * 1024;
  return Number.isNaN(left) ? undefined : Math.max(0, left);
}

export function checkSharedMemory(setting: Setting): Finding[] {
  let findings: Finding[];
  try {
    const { blocks, bavail, bsize } = statfsSync(SHM);
    const text = `${bytes(blocks * bsize)}, ${bytes(bavail * bsize)} free`;
    const action = "Use 'mount -o remount,size=1G /dev/shm'; for a container 'docker run --shm-size=1g'.";
    findings = [blocks * bsize <= SMALL_SHM_BYTES ? note(SHM, text, action) : good(SHM, text)];
  } catch (error) {
    return [bad(SHM, (error as Error).message, "Use 'mount -t tmpfs tmpfs /dev/shm'.")];
  }
  findings.push(checkDoorbell());
  if (setting('shm') === 0) return findings;
  const what = 'region of shm';
  try {
    const { path, taken } = shmPlace(String(setting('shmName')));
    const why = whyNotShm(path);
    if (why) return [...findings, failed(what, why)];
    if (taken === undefined) return [...findings, good(what, path)];
    return [...findings, note(what, taken, 'Nothing is lost. Only root and its owner can remove what has the name.')];
  } catch (error) {
    return [...findings, failed(what, error)];
  }
}

/** Whether a process can make the FIFO by which its peers wake it. */
function checkDoorbell(): Finding {
  const what = 'doorbell';
  if (addonMissing()) return none(what, 'not tried: there is no native part');
  try {
    new Doorbell({ dev: 0n, ino: 0n }, 1, () => {}).close();
    return good(what, `a FIFO can be made in ${SHM}`);
  } catch (error) {
    const finding = `processes poll by a timer, since no FIFO can be made in ${SHM}: ${(error as Error).message}`;
    return note(what, finding, 'Allow mknod(2) of a FIFO in the seccomp profile, and writing to /dev/shm.');
  }
}

export async function checkBroker(setting: Setting): Promise<Finding> {
  const what = 'broker';
  if (!setting('suspendResume')) return none(what, 'not used: requests over MQTT are off (PSP_SUSPEND_RESUME)');
  const url = String(setting('broker'));
  try {
    // Bounded: both connecting and reading the statuses have limits.
    const watcher = await Watcher.open({ broker: url, host: hostname(), log: () => {} });
    const online = [...watcher.statuses.values()].filter(({ state }) => state !== 'offline').length;
    const seen = online > 0 || (await watcher.hearsItself());
    await watcher.close();
    const text = `${maskBroker(url)}, ${counted(online, 'process')} of this host`;
    if (seen) return good(what, text);
    return note(
      what,
      `${text}; a message of this client does not come back`,
      'The access list of the broker may hide the processes: docs/migration.md has the topics that are needed.',
    );
  } catch (error) {
    return failed(what, error);
  }
}

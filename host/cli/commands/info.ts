/** `isthmus info`: what is there, what is not used and why. Attaches nothing, and writes nothing into a region. */
import { statSync } from 'node:fs';
import type { Command } from 'commander';
import { type ErrorCode, IsthmusError } from '../../base/errors.js';
import { type ConfigRow, explain, GROUPS, masked } from '../../config/config.js';
import { type Backing, WAYS } from '../../device/backing.js';
import { discoverPci } from '../../device/pci.js';
import { type Candidate, discoverPosix } from '../../device/posix.js';
import { discoverUio, type UioRoots } from '../../device/uio.js';
import { mapperMissing } from '../../native/native.js';
import { ARCH } from '../../plugins/plugin.js';
import { Onlooker } from '../../region/inspection.js';
import { shmPath, whyNotShm } from '../../region/shm-file.js';
import { bytes, indent, renderTable, say } from '../support/output.js';

interface Peer {
  readonly slot: number;
  readonly name: string;
  readonly host: string;
  readonly pid: number;
}

/** A device or a file. */
interface Found {
  readonly path: string;
  readonly kind: Backing['kind'];
  readonly size: number | undefined;
  readonly state: 'formatted' | 'blank' | 'being formatted' | 'refused';
  readonly uuid: string | undefined;
  /** Who formatted it. */
  readonly host: string | undefined;
  readonly peers: readonly Peer[];
  readonly refused: { readonly code: ErrorCode; readonly message: string } | undefined;
}

interface PluginRow {
  readonly name: string;
  readonly archId: number;
  readonly priority: number;
  readonly unavailable: string | undefined;
  /** The region file of `shm`, whether it is there or not. */
  readonly path: string | undefined;
}

interface Info {
  readonly native: { readonly loaded: boolean; readonly reason: string | undefined };
  readonly devices: readonly Found[];
  readonly regions: readonly Found[];
  /** Undefined: nobody uses it now. */
  readonly shm: Found | undefined;
  readonly plugins: readonly PluginRow[];
  readonly configuration: readonly ConfigRow[];
}

/** What the first frames of a region say. */
function look(onlooker: Onlooker, mayFormat: boolean): Omit<Found, 'path' | 'kind' | 'size'> {
  const { state, uuid, host, refused: error } = onlooker.overview();
  const unformatted =
    state === 'blank' && !mayFormat
      ? new IsthmusError('ERR_ISTHMUS_REGION_CORRUPT', `${onlooker.path}: is not formatted, and was not named`)
      : undefined;
  const why = error ?? unformatted;
  const peers = state === 'formatted' ? onlooker.peers().filter((peer) => peer.state === 'attached') : [];
  return {
    state: why ? 'refused' : state,
    uuid,
    host,
    peers: peers.map(({ slot, name, host: where, pid }) => ({ slot, name, host: where, pid })),
    refused: why && { code: why.code, message: why.message },
  };
}

/** @param inspect what its bytes say */
function describe(
  kind: Found['kind'],
  path: string,
  size: number | undefined,
  inspect: () => ReturnType<typeof look>,
): Found {
  const base = { path, kind, size };
  try {
    return { ...base, ...inspect() };
  } catch (error) {
    const { code, message } =
      error instanceof IsthmusError
        ? error
        : new IsthmusError('ERR_ISTHMUS_SYSCALL', `${path}: ${(error as Error).message}`);
    return { ...base, state: 'refused', uuid: undefined, host: undefined, peers: [], refused: { code, message } };
  }
}

function describeCandidate(kind: Found['kind'], { path, backing, refused }: Candidate): Found {
  return describe(kind, path, backing?.size, () => {
    if (!backing) throw refused ?? new IsthmusError('ERR_ISTHMUS_REGION_NOT_FOUND', path);
    using onlooker = Onlooker.of(backing);
    return look(onlooker, backing.mayFormat);
  });
}

/** The region file of `shm`, if it is there: it comes and goes with those who use it. */
function describeShm(path: string): Found | undefined {
  const size = statSync(path, { throwIfNoEntry: false })?.size;
  if (size === undefined) return undefined;
  return describe('posix', path, size, () => {
    const why = whyNotShm(path);
    if (why) throw why;
    using onlooker = Onlooker.ofFile(path);
    return look(onlooker, true);
  });
}

/** @param roots other places than `/sys` and `/dev`, for tests */
export function collect(roots?: UioRoots): Info {
  const configuration = explain();
  const setting = (name: string) => configuration.find((row) => row.name === name)?.value;
  const missing = mapperMissing();
  const devices = [
    ...discoverUio(roots).map((candidate) => describeCandidate('uio', candidate)),
    ...(setting('pci') ? discoverPci(roots) : []).map((candidate) => describeCandidate('pci', candidate)),
  ];
  const regions = discoverPosix(String(setting('regions'))).map((candidate) => describeCandidate('posix', candidate));
  const shmFile = shmPath(String(setting('shmName')));
  const usable = [...devices, ...regions].filter(({ state }) => state !== 'refused');

  const unavailable = (name: string): string | undefined => {
    if (setting(name) === 0) return 'disabled';
    if (name !== 'ivshmem' && name !== 'shm') return undefined;
    if (missing) return missing.message;
    if (name === 'shm') return whyNotShm(shmFile)?.message;
    return usable.length > 0 ? undefined : 'no region';
  };
  const plugins = Object.entries(ARCH)
    .filter(([name]) => typeof setting(name) === 'number')
    .map(([name, archId]) => ({
      name,
      archId,
      priority: setting(name) as number,
      unavailable: unavailable(name),
      path: name === 'shm' ? shmFile : undefined,
    }))
    .sort((a, b) => b.priority - a.priority);
  return {
    native: { loaded: missing === undefined, reason: missing?.message },
    devices,
    regions,
    shm: describeShm(shmFile),
    plugins,
    configuration: masked(configuration),
  };
}

function renderFound(title: string, none: string, found: readonly Found[]): string {
  if (found.length === 0) return `${title}\n  ${none}\n`;
  const rows = found
    .filter(({ state }) => state !== 'refused')
    .map(({ path, kind, size, state, uuid, peers }) => [
      path,
      ...(kind === 'posix' ? [] : [WAYS[kind]]),
      bytes(size ?? 0),
      uuid ?? state,
      peers.length === 0 ? '-' : peers.map(({ name, pid }) => `${name}[${pid}]`).join(' '),
    ]);
  const devices = found.some(({ kind }) => kind !== 'posix');
  const columns = [
    { title: 'path' },
    ...(devices ? [{ title: 'reached by' }] : []),
    { title: 'size', right: true },
    { title: 'UUID' },
    { title: 'attached' },
  ];
  const usable = rows.length > 0 ? indent(renderTable(columns, rows)) : '';
  const refused = found
    .flatMap(({ refused: why }) => (why ? [`  not used: ${why.message} (${why.code})\n`] : []))
    .join('');
  return `${title}\n${usable}${refused}`;
}

function configurationRow({ variable, name, value, origin, meaning, takes }: ConfigRow): string[] {
  const text = value === '' ? "''" : value === true ? '1' : value === false ? '0' : String(value);
  return [variable, name, text, origin, `${meaning} (${takes})`];
}

export function render(info: Info): string {
  const plugins = renderTable(
    [{ title: 'plugin' }, { title: 'priority', right: true }, { title: 'arch id', right: true }, { title: '' }],
    info.plugins.map(({ name, priority, archId, unavailable, path }) => [
      name,
      String(priority),
      String(archId),
      unavailable === undefined ? `usable${path === undefined ? '' : `: ${path}`}` : `not usable: ${unavailable}`,
    ]),
  );
  const configuration = renderTable(
    [
      { title: 'variable' },
      { title: 'option' },
      { title: 'value' },
      { title: 'origin' },
      { title: 'meaning', width: 60 },
    ],
    info.configuration.flatMap((row, i, all) => [
      ...(row.group === all[i - 1]?.group ? [] : [[`${GROUPS[row.group]}:`, '', '', '', '']]),
      configurationRow(row),
    ]),
  );
  return [
    `Native part: ${info.native.loaded ? 'loaded' : info.native.reason}\n`,
    renderFound('Devices', 'none', info.devices),
    renderFound(
      'Regions (files)',
      "none ('isthmus server -s NAME -m MB -c migration-framework' makes one)",
      info.regions,
    ),
    renderFound('Region of shm', 'none (it comes with the first connection)', info.shm ? [info.shm] : []),
    `Plugins, best first\n${indent(plugins)}`,
    `Configuration\n${indent(configuration)}`,
  ].join('\n');
}

export function addInfo(program: Command): void {
  program
    .command('info')
    .summary('devices, regions, plugins and configuration')
    .description(
      'Print which devices and regions there are and why one is not used, the plugins with their priorities, and every ' +
        'setting with its value and origin. Attaches nothing.',
    )
    .option('--json', 'print one JSON object')
    .addHelpText(
      'after',
      `
Example:
  $ isthmus info
  $ PSP_IVSHMEM_REGIONS=demo isthmus info --json`,
    )
    .action(({ json }: { json?: true }) => {
      const info = collect();
      say(json ? `${JSON.stringify(info, null, 2)}\n` : render(info));
    });
}

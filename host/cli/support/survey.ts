/** The devices, regions, plugins and settings of this machine. Attaches nothing, and writes nothing into a region. */
import { statSync } from 'node:fs';
import { type ErrorCode, IsthmusError } from '../../base/errors.js';
import { type ConfigRow, explain, masked } from '../../config/resolve.js';
import type { Backing, Candidate } from '../../device/backing.js';
import { discoverPci } from '../../device/pci.js';
import { isOwnOrRoots } from '../../device/posix.js';
import { discoverPosix, unnamedRegions } from '../../device/posix-discovery.js';
import { discoverUio, type UioRoots } from '../../device/uio.js';
import { addonMissing } from '../../native/native.js';
import { ARCH } from '../../plugins/plugin.js';
import { ReadOnlyRegion } from '../../region/read-only-region.js';
import { type ShmPlace, shmPath, shmPlace, whyNotShm } from '../../region/shm-file.js';

interface Peer {
  readonly slot: number;
  readonly name: string;
  readonly host: string;
  readonly pid: number;
}

/** A device or a file that may hold a region. */
export interface Found {
  readonly path: string;
  readonly kind: Backing['kind'];
  readonly size: number | undefined;
  readonly state: 'formatted' | 'blank' | 'being formatted' | 'refused';
  readonly uuid: string | undefined;
  /** The host that formatted it. */
  readonly host: string | undefined;
  readonly peers: readonly Peer[];
  readonly refused: { readonly code: ErrorCode; readonly message: string } | undefined;
  /** The user that it belongs to, if that is neither root nor this one: it is used because it is named. */
  readonly foreignOwner: number | undefined;
  /** Another path of the same file: it is used through that one. */
  readonly sameAs: string | undefined;
}

export interface FoundPlugin {
  readonly name: string;
  readonly archId: number;
  readonly priority: number;
  readonly unavailable: string | undefined;
  /** The region file of `shm`, whether it exists or not. */
  readonly path: string | undefined;
}

export interface Survey {
  readonly native: { readonly loaded: boolean; readonly reason: string | undefined };
  readonly devices: readonly Found[];
  readonly regions: readonly Found[];
  /** Undefined: the file does not exist now. */
  readonly shm: Found | undefined;
  /** Why that file does not have its first name; undefined: it has. */
  readonly shmTaken: string | undefined;
  readonly plugins: readonly FoundPlugin[];
  readonly configuration: readonly ConfigRow[];
}

type Contents = Omit<Found, 'path' | 'kind' | 'size' | 'foreignOwner' | 'sameAs'>;

/** What the first frames of a region say. */
function read(view: ReadOnlyRegion, mayFormat: boolean): Contents {
  const { state, uuid, host, refused } = view.overview();
  const unformatted =
    state === 'blank' && !mayFormat
      ? new IsthmusError(
          'ERR_ISTHMUS_REGION_CORRUPT',
          `${view.path}: it is not formatted, and only a region that is named without a pattern is formatted`,
        )
      : undefined;
  const why = refused ?? unformatted;
  const peers = state === 'formatted' ? view.peers().filter((peer) => peer.state === 'attached') : [];
  return {
    state: why ? 'refused' : state,
    uuid,
    host,
    peers: peers.map(({ slot, name, host: where, pid }) => ({ slot, name, host: where, pid })),
    refused: why && { code: why.code, message: why.message },
  };
}

/** @param contents reads the region; what it throws is the reason why the region is not used */
function describe(
  kind: Found['kind'],
  path: string,
  size: number | undefined,
  contents: () => Contents,
  { foreignOwner, sameAs }: Partial<Pick<Found, 'foreignOwner' | 'sameAs'>> = {},
): Found {
  const base = { path, kind, size, foreignOwner, sameAs };
  try {
    return { ...base, ...contents() };
  } catch (error) {
    const { code, message } =
      error instanceof IsthmusError
        ? error
        : new IsthmusError('ERR_ISTHMUS_SYSCALL', `${path}: ${(error as Error).message}`);
    return { ...base, state: 'refused', uuid: undefined, host: undefined, peers: [], refused: { code, message } };
  }
}

function describeCandidate(kind: Found['kind'], { path, backing, refused, sameAs }: Candidate): Found {
  const owner = backing?.owner;
  const foreignOwner = owner === undefined || isOwnOrRoots({ uid: owner }) ? undefined : owner;
  const contents = (): Contents => {
    if (sameAs !== undefined) {
      return { state: 'formatted', uuid: undefined, host: undefined, peers: [], refused: undefined };
    }
    if (!backing) throw refused ?? new IsthmusError('ERR_ISTHMUS_REGION_NOT_FOUND', path);
    using view = ReadOnlyRegion.of(backing);
    return read(view, backing.mayFormat);
  };
  return describe(kind, path, backing?.size, contents, { foreignOwner, sameAs });
}

/** The region file of `shm`: the first process that uses it creates it, the last one removes it. */
function describeShm(path: string): Found | undefined {
  const size = statSync(path, { throwIfNoEntry: false })?.size;
  if (size === undefined) return undefined;
  return describe('posix', path, size, () => {
    const why = whyNotShm(path);
    if (why) throw why;
    using view = ReadOnlyRegion.ofFile(path);
    return read(view, true);
  });
}

/** Where the region of `shm` lies, or would lie. */
function placeOfShm(name: string): ShmPlace & { readonly refused?: IsthmusError } {
  try {
    return shmPlace(name);
  } catch (error) {
    return { path: shmPath(name), taken: undefined, refused: error as IsthmusError };
  }
}

/** @param roots other places than `/sys` and `/dev`, for tests */
export function survey(roots?: UioRoots): Survey {
  const configuration = explain();
  const setting = (name: string) => configuration.find((row) => row.name === name)?.value;
  const missing = addonMissing();
  const devices = [
    ...discoverUio(roots).map((candidate) => describeCandidate('uio', candidate)),
    ...(setting('pci') ? discoverPci(roots) : []).map((candidate) => describeCandidate('pci', candidate)),
  ];
  const named = discoverPosix(String(setting('regions')));
  const regions = [...named, ...unnamedRegions(named, true)].map((candidate) => describeCandidate('posix', candidate));
  const place = placeOfShm(String(setting('shmName')));
  const shmFile = place.path;
  const usable = [...devices, ...regions].filter(({ state }) => state !== 'refused');

  const unavailable = (name: string): string | undefined => {
    if (setting(name) === 0) return 'disabled';
    if (name !== 'ivshmem' && name !== 'shm') return undefined;
    if (missing) return missing.message;
    if (name === 'shm') return (place.refused ?? whyNotShm(shmFile))?.message;
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
    shmTaken: place.taken,
    plugins,
    configuration: masked(configuration),
  };
}

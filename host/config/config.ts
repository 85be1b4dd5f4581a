/**
 * Configuration: options over `PSP_*` variables over defaults, in one table.
 *
 * The names and meanings of the variables are pscom's where pscom has them (its `pscom_env.c`). `isthmus info` prints
 * this table, and docs/configuration.md is made from it (`npm run docs`).
 */

import { IsthmusError } from '../base/errors.js';
import { parseNetworks } from '../base/network.js';
import { BROKER_URL, maskBroker, readBroker } from './broker-url.js';
import { isControlId } from './control-id.js';

/** Where a value came from. */
export type Origin = 'option' | 'environment' | 'default';

/** What the settings are grouped by, in the order of the documentation. */
export const GROUPS = {
  plugins: 'Plugins',
  regions: 'Shared memory',
  tcp: 'TCP',
  connecting: 'Connecting',
  messages: 'Messages',
  migration: 'Migration',
  insight: 'Seeing inside',
} as const;
export type Group = keyof typeof GROUPS;

interface Setting<T> {
  readonly variable: string;
  readonly group: Group;
  readonly default: T;
  /** Another setting that stands in for the default of this one as soon as it is set. */
  readonly follows?: string;
  /** What it takes, for people. */
  readonly takes: string;
  readonly meaning: string;
  /** Undefined: cannot be read. */
  readonly read: (text: string) => T | undefined;
  readonly check: (value: unknown) => boolean;
  /** The value as it may be printed, where it holds a secret. */
  readonly shown?: (value: string) => string;
}

function integer(
  group: Group,
  variable: string,
  fallback: number,
  meaning: string,
  limits: { min?: number; max?: number; unit?: string } = {},
): Setting<number> {
  const { min = 0, max = Number.MAX_SAFE_INTEGER, unit } = limits;
  const check = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max;
  const range = max === Number.MAX_SAFE_INTEGER ? `an integer from ${min} on` : `an integer from ${min} to ${max}`;
  return {
    variable,
    group,
    default: fallback,
    takes: unit ? `${range} (${unit})` : range,
    meaning,
    read: (text) => (/^-?\d+$/.test(text.trim()) && check(Number(text)) ? Number(text) : undefined),
    check,
  };
}

function flag(group: Group, variable: string, fallback: boolean, meaning: string): Setting<boolean> {
  return {
    variable,
    group,
    default: fallback,
    takes: '0 or 1',
    meaning,
    read: (text) => (text.trim() === '1' ? true : text.trim() === '0' ? false : undefined),
    check: (value) => typeof value === 'boolean',
  };
}

function text(
  group: Group,
  variable: string,
  takes: string,
  meaning: string,
  { fallback = '', readable = () => true }: { fallback?: string; readable?: (value: string) => boolean } = {},
): Setting<string> {
  return {
    variable,
    group,
    default: fallback,
    takes,
    meaning,
    read: (value) => (readable(value) ? value : undefined),
    check: (value) => typeof value === 'string' && readable(value),
  };
}

/** `spin`: never sleep; `adaptive`: spin while it is worth it; `block`: sleep as soon as there is nothing. */
export type Wait = 'spin' | 'adaptive' | 'block';

const WAITS: readonly Wait[] = ['spin', 'adaptive', 'block'];

function choice<T extends string>(
  group: Group,
  variable: string,
  all: readonly T[],
  fallback: T,
  meaning: string,
): Setting<T> {
  const found = (value: string) => all.find((one) => one === value);
  return {
    variable,
    group,
    default: fallback,
    takes: all.join(', '),
    meaning,
    read: (value) => found(value.trim()),
    check: (value) => typeof value === 'string' && found(value) !== undefined,
  };
}

/** Bytes: a power of two, or 0 where that stands for something. */
function size(
  group: Group,
  variable: string,
  fallback: number,
  meaning: string,
  { min, max, zero }: { min: number; max: number; zero?: string },
): Setting<number> {
  const check = (value: unknown) => {
    const bytes = value as number;
    if (!Number.isSafeInteger(bytes)) return false;
    return (bytes === 0 && zero !== undefined) || (bytes >= min && bytes <= max && Number.isInteger(Math.log2(bytes)));
  };
  const range = `a power of two from ${min} to ${max} (bytes)`;
  return {
    group,
    variable,
    default: fallback,
    takes: zero === undefined ? range : `${range}, or 0: ${zero}`,
    meaning,
    read: (value) => (/^\d+$/.test(value.trim()) && check(Number(value)) ? Number(value) : undefined),
    check,
  };
}

const ringSize = (group: Group, variable: string, fallback: number, zero: string, meaning: string) =>
  size(group, variable, fallback, meaning, { min: 4096, max: 0x4000000, zero });

/** A part of a file's name. */
function namePart(group: Group, variable: string, takes: string, meaning: string): Setting<string> {
  const check = (value: unknown) => typeof value === 'string' && /^[\w.-]{0,200}$/.test(value);
  return { group, variable, default: '', takes, meaning, read: (value) => (check(value) ? value : undefined), check };
}

/** As pscom has it: the largest number means never. */
const NEVER = 0xffffffff;

function rendezvous(variable: string, fallback: number, meaning: string, follows?: string): Setting<number> {
  const setting = integer('messages', variable, fallback, meaning, { max: NEVER });
  return {
    ...setting,
    takes: `an integer from 0 to ${NEVER} (bytes), or inf: never, as ${NEVER}`,
    read: (value) => (value.trim() === 'inf' ? NEVER : setting.read(value)),
    ...(follows === undefined ? {} : { follows }),
  };
}

const priority = (name: string, variable: string, fallback: number) =>
  integer('plugins', variable, fallback, `priority of plugin ${name}: higher first, 0 disables it`, { max: 1000 });

export const SETTINGS = {
  loop: priority('loop', 'PSP_LOOP', 100),
  shm: priority('shm', 'PSP_SHM', 90),
  ivshmem: priority('ivshmem', 'PSP_IVSHMEM', 80),
  tcp: priority('tcp', 'PSP_TCP', 2),
  regions: text(
    'regions',
    'PSP_IVSHMEM_REGIONS',
    'names in /dev/shm or paths, blank-separated; * and ? match formatted regions; empty: none',
    'region files that stand for ivshmem devices',
    { fallback: '*' },
  ),
  pci: flag(
    'regions',
    'PSP_IVSHMEM_PCI',
    true,
    'whether ivshmem devices without a driver are used, through resource2 in sysfs: slow, uncached, for root only',
  ),
  shmSize: size(
    'regions',
    'PSP_SHM_SIZE',
    0x2000000,
    "size of the user's region of shm, for the process that creates it",
    { min: 0x100000, max: 0x40000000 },
  ),
  shmName: namePart(
    'regions',
    'PSP_SHM_NAME',
    'up to 200 letters, digits, dots, - and _; empty: the user id',
    'what follows isthmus-shm- in the name of that region; processes with different ones do not meet over shm',
  ),
  wait: choice(
    'regions',
    'PSP_WAIT',
    WAITS,
    'adaptive',
    'what to do while nothing comes: look again and again (spin), sleep at once (block), or spin for 2 ms and sleep then',
  ),
  guard: flag('regions', 'PSP_GUARD', true, "whether the end of a peer's guard socket is the end of the peer"),
  stallTimeout: integer(
    'regions',
    'PSP_STALL_TIMEOUT',
    3000,
    'how long a peer may show no sign of life before its connections are called stalled, and go on; 0: for ever. A sign ' +
      'comes twice a second',
    { max: 0x7fffffff, unit: 'ms' },
  ),
  peerTimeout: integer(
    'regions',
    'PSP_PEER_TIMEOUT',
    0,
    'how long a peer may show no sign of life before its connections end with ERR_ISTHMUS_PEER_TIMEOUT; 0: for ever. A ' +
      'paused virtual machine, or an event loop that is blocked, shows none either',
    { max: 0x7fffffff, unit: 'ms' },
  ),
  ringSize: ringSize(
    'regions',
    'PSP_RING_SIZE',
    0,
    'a 48th of what is free in the region, as a power of two from 16 KiB to 1 MiB',
    'capacity of the ring that a connection reads from',
  ),
  tcpRingSize: ringSize(
    'tcp',
    'PSP_TCP_RING_SIZE',
    65536,
    'the default',
    'capacity of the ring in private memory that a connection over tcp or loop reads from',
  ),
  noDelay: flag('tcp', 'PSP_TCP_NODELAY', true, 'TCP_NODELAY on the sockets of tcp'),
  sendBuffer: integer('tcp', 'PSP_SO_SNDBUF', 0, 'SO_SNDBUF of the sockets of tcp; 0: the kernel sizes it', {
    max: 0x3fffffff,
    unit: 'bytes',
  }),
  receiveBuffer: integer('tcp', 'PSP_SO_RCVBUF', 0, 'SO_RCVBUF of the sockets of tcp; 0: the kernel sizes it', {
    max: 0x3fffffff,
    unit: 'bytes',
  }),
  network: text(
    'connecting',
    'PSP_NETWORK',
    'IPv4 addresses, or networks as 10.0.0.0/8, separated by blanks or commas',
    'which of our addresses others are told: the first that lies in one of these networks; without a length, as wide as ' +
      'the netmask of the interface says',
    { readable: (value) => parseNetworks(value) !== undefined },
  ),
  retry: integer('connecting', 'PSP_RETRY', 10, 'how often a refused connect is tried again', { max: 1_000_000 }),
  backlog: integer(
    'connecting',
    'PSP_TCP_BACKLOG',
    262144,
    'backlog of a listening socket; the kernel has a limit of its own',
    { min: 1, max: 0x7fffffff },
  ),
  handshakeTimeout: integer('connecting', 'PSP_HANDSHAKE_TIMEOUT', 10_000, 'limit of one handshake', {
    min: 1,
    max: 3_600_000,
    unit: 'ms',
  }),
  closeTimeout: integer(
    'connecting',
    'PSP_CLOSE_TIMEOUT',
    5000,
    'how long the peer may take for its part in an orderly close; then the connection is cut. `close({ timeout })` goes first',
    { min: 1, max: 0x7fffffff, unit: 'ms' },
  ),
  suspendTimeout: integer(
    'migration',
    'PSP_SUSPEND_TIMEOUT',
    10_000,
    'how long all connections together may take to be suspended; then the runtime goes on as if never asked',
    { min: 1, max: 3_600_000, unit: 'ms' },
  ),
  resumeTimeout: integer(
    'migration',
    'PSP_RESUME_TIMEOUT',
    600_000,
    'how long a suspended connection waits for its peer; then it fails',
    { min: 1, max: 0x7fffffff, unit: 'ms' },
  ),
  unread: integer(
    'messages',
    'PSP_UNREAD_LIMIT',
    1 << 20,
    'unread messages of a connection that are taken out of its ring; then the sender waits',
    { unit: 'bytes' },
  ),
  unexpectedReceives: flag(
    'messages',
    'PSP_UNEXPECTED_RECEIVES',
    false,
    'read on however much is unread, so that no sender waits for the application; takes as much memory as comes',
  ),
  maxMessageSize: integer('messages', 'PSP_MAX_MESSAGE', 2 ** 30, 'largest message taken and sent, xheader included', {
    max: 2 ** 32 - 1,
    unit: 'bytes',
  }),
  rendezvous: rendezvous('PSP_RENDEZVOUS', NEVER, 'size from which a message over tcp goes by rendezvous'),
  rendezvousShm: rendezvous(
    'PSP_RENDEZVOUS_SHM',
    1 << 20,
    'the same for shm; but through the ring for a peer who is waiting to copy it out, and by rendezvous for one who looks ' +
      'in place and would get it in pieces',
    'rendezvous',
  ),
  rendezvousIvshmem: rendezvous('PSP_RENDEZVOUS_IVSHMEM', 1 << 20, 'the same for ivshmem', 'rendezvous'),
  suspendResume: flag(
    'migration',
    'PSP_SUSPEND_RESUME',
    false,
    'whether requests to suspend and to resume are taken over MQTT, and answered',
  ),
  broker: {
    ...text('migration', 'PSP_MQTT_BROKER', BROKER_URL, 'the MQTT broker that requests come over', {
      fallback: 'mqtt://localhost:1883',
      readable: (value) => readBroker(value) !== undefined,
    }),
    shown: maskBroker,
  },
  mqttKeepalive: integer(
    'migration',
    'PSP_MQTT_KEEPALIVE',
    15,
    'after how long without a word from us, and half as much again, the broker takes us for dead; longer where machines ' +
      'are slow or paused',
    { min: 1, max: 65_535, unit: 's' },
  ),
  controlId: text(
    'migration',
    'PSP_CONTROL_ID',
    'up to 64 letters, digits, dots, colons, - and _; empty: the pid',
    'what stands for the process in topics and answers, where pids of one host name collide',
    { readable: (value) => value === '' || isControlId(value) },
  ),
  postponeFeedback: flag(
    'migration',
    'PSP_POSTPONE_FEEDBACK',
    false,
    'whether COMPLETED is held back until the application calls completeMigration()',
  ),
  debug: integer(
    'insight',
    'PSP_DEBUG',
    2,
    'how much is logged: 0 nothing, 1 errors, 2 warnings, 3 what happens, 4 everything',
    { max: 10 },
  ),
  debugOut: text(
    'insight',
    'PSP_DEBUG_OUT',
    'a path, in which $$ is the pid and $NAME a variable of the environment; empty or -: standard error',
    'file that the log is appended to',
    { readable: (value) => !value.includes('\0') },
  ),
  control: flag(
    'insight',
    'PSP_CONTROL',
    true,
    "whether the runtime serves a control socket, for 'isthmus ps', 'inspect' and 'debug'",
  ),
} as const;

type Settings = typeof SETTINGS;
export type SettingName = keyof Settings;
type Value<S> = S extends Setting<infer T> ? T : never;

/** The values that apply. */
export type Config = { readonly [name in SettingName]: Value<Settings[name]> };
/** What an application may set; anything left out comes from the environment or the defaults. */
export type ConfigOptions = { readonly [name in SettingName]?: Value<Settings[name]> | undefined };

/** One row of `isthmus info`. */
export interface ConfigRow {
  readonly name: SettingName;
  readonly variable: string;
  readonly group: Group;
  readonly value: string | number | boolean;
  readonly origin: Origin;
  readonly takes: string;
  readonly meaning: string;
}

/**
 * Every setting with its value and where that comes from.
 * @throws ERR_ISTHMUS_CONFIG that names variable or option, the value, and what is taken
 */
export function explain(options: ConfigOptions = {}, environment: NodeJS.ProcessEnv = process.env): ConfigRow[] {
  return (Object.keys(SETTINGS) as SettingName[]).map((name) => {
    const { variable, group, takes, meaning } = SETTINGS[name];
    return { name, variable, group, ...settle(name, options, environment), takes, meaning };
  });
}

/** The same rows without passwords: for whatever is printed. */
export function masked(rows: readonly ConfigRow[]): ConfigRow[] {
  return rows.map((row) => {
    const { shown }: { readonly shown?: (value: string) => string } = SETTINGS[row.name];
    return shown ? { ...row, value: shown(String(row.value)) } : row;
  });
}

function settle(
  name: SettingName,
  options: ConfigOptions,
  environment: NodeJS.ProcessEnv,
): { value: string | number | boolean; origin: Origin } {
  const setting = SETTINGS[name] as Setting<string | number | boolean>;
  const { variable, takes, follows } = setting;
  const shown = (value: unknown) => (setting.shown ? setting.shown(String(value)) : String(value));
  const option = options[name];
  if (option !== undefined) {
    if (!setting.check(option)) {
      throw new IsthmusError('ERR_ISTHMUS_CONFIG', `option ${name}: '${shown(option)}' is not ${takes}`);
    }
    return { value: option, origin: 'option' };
  }
  const entry = environment[variable];
  if (entry !== undefined) {
    const value = setting.read(entry);
    if (value === undefined) {
      throw new IsthmusError('ERR_ISTHMUS_CONFIG', `${variable}: '${shown(entry)}' is not ${takes}`);
    }
    return { value, origin: 'environment' };
  }
  if (follows !== undefined) {
    const followed = settle(follows as SettingName, options, environment);
    if (followed.origin !== 'default') return followed;
  }
  return { value: setting.default, origin: 'default' };
}

/**
 * The priority of a plugin that is not a built-in one: `PSP_<NAME>` over its own.
 * @throws ERR_ISTHMUS_CONFIG; ERR_ISTHMUS_INVALID_ARGUMENT if that variable means something else
 */
export function pluginPriority(name: string, own: number, environment: NodeJS.ProcessEnv = process.env): number {
  const variable = `PSP_${name.toUpperCase()}`;
  if (Object.values(SETTINGS).some((setting) => setting.variable === variable)) {
    throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `plugin ${name}: ${variable} is another setting's variable`);
  }
  const { read, takes } = priority(name, variable, own);
  const entry = environment[variable];
  if (entry === undefined) return own;
  const value = read(entry);
  if (value === undefined) throw new IsthmusError('ERR_ISTHMUS_CONFIG', `${variable}: '${entry}' is not ${takes}`);
  return value;
}

/** @throws ERR_ISTHMUS_CONFIG */
export function configure(options: ConfigOptions = {}, environment: NodeJS.ProcessEnv = process.env): Config {
  return Object.fromEntries(explain(options, environment).map(({ name, value }) => [name, value])) as unknown as Config;
}

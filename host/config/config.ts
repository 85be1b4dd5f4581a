/**
 * The configuration, in one table. An option takes precedence over its `PSP_*` variable, a variable over the default.
 *
 * A variable that also exists in pscom (`pscom_env.c`) has the same name and meaning as there. `isthmus info` prints this
 * table, and docs/configuration.md is generated from it (`npm run docs`).
 */

import { IsthmusError } from '../base/errors.js';
import { parseNetworks } from '../base/network.js';
import { BROKER_URL, maskBroker, readBroker } from './broker-url.js';
import { isControlId } from './control-id.js';

/** The origin of a value. */
export type Origin = 'option' | 'environment' | 'default';

/** The groups of settings, in the order of the documentation. */
export const GROUPS = {
  plugins: 'Plugins',
  regions: 'Shared memory',
  tcp: 'TCP',
  connecting: 'Connecting',
  messages: 'Messages',
  migration: 'Migration',
  insight: 'Diagnostics',
} as const;
export type Group = keyof typeof GROUPS;

interface Setting<T> {
  readonly variable: string;
  readonly group: Group;
  readonly default: T;
  /** Another setting: its value, once it is set, replaces the default of this one. */
  readonly follows?: string;
  /** The values that the setting accepts, as text. */
  readonly takes: string;
  readonly meaning: string;
  /** @returns the value; undefined: the text is not valid */
  readonly read: (text: string) => T | undefined;
  readonly check: (value: unknown) => boolean;
  /** The value without its secret, for output. */
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
  const range = max === Number.MAX_SAFE_INTEGER ? `an integer of at least ${min}` : `an integer from ${min} to ${max}`;
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

/** `spin`: never sleep; `adaptive`: spin for a while after each message, then sleep; `block`: sleep as soon as there is no message. */
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

/** A size in bytes: a power of two, or 0 if `zero` says what 0 means. */
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

/** A part of a file name. */
function namePart(group: Group, variable: string, takes: string, meaning: string): Setting<string> {
  const check = (value: unknown) => typeof value === 'string' && /^[\w.-]{0,200}$/.test(value);
  return { group, variable, default: '', takes, meaning, read: (value) => (check(value) ? value : undefined), check };
}

/** As in pscom, the largest number means never. */
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
    'names in /dev/shm or paths, separated by blanks; * and ? match formatted regions; empty: none',
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
    'the part after isthmus-shm- in the name of that region; processes with different values do not connect over shm',
  ),
  wait: choice(
    'regions',
    'PSP_WAIT',
    WAITS,
    'adaptive',
    'what a runtime does while no message arrives: poll without sleeping (spin), sleep at once (block), or poll for 2 ms and then sleep (adaptive)',
  ),
  guard: flag('regions', 'PSP_GUARD', true, 'whether the end of the guard socket means that the peer has died'),
  stallTimeout: integer(
    'regions',
    'PSP_STALL_TIMEOUT',
    3000,
    'time without a heartbeat of the peer after which its connections are reported as stalled; they continue; 0: never. ' +
      'A live peer shows a heartbeat twice a second',
    { max: 0x7fffffff, unit: 'ms' },
  ),
  peerTimeout: integer(
    'regions',
    'PSP_PEER_TIMEOUT',
    0,
    'time without a heartbeat of the peer after which its connections end with ERR_ISTHMUS_PEER_TIMEOUT; 0: never. A ' +
      'paused virtual machine, or a blocked event loop, shows no heartbeat either',
    { max: 0x7fffffff, unit: 'ms' },
  ),
  ringSize: ringSize(
    'regions',
    'PSP_RING_SIZE',
    0,
    'a 48th of the free memory of the region, as a power of two from 16 KiB to 1 MiB',
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
    'address of this host that is sent to peers: the first that lies in one of these networks; a network without a ' +
      'length has the netmask of the interface',
    { readable: (value) => parseNetworks(value) !== undefined },
  ),
  retry: integer('connecting', 'PSP_RETRY', 10, 'number of times that a refused connect is retried', {
    max: 1_000_000,
  }),
  backlog: integer(
    'connecting',
    'PSP_TCP_BACKLOG',
    262144,
    'backlog of a listening socket; the kernel limits it as well',
    { min: 1, max: 0x7fffffff },
  ),
  handshakeTimeout: integer('connecting', 'PSP_HANDSHAKE_TIMEOUT', 10_000, 'time limit of one handshake', {
    min: 1,
    max: 3_600_000,
    unit: 'ms',
  }),
  closeTimeout: integer(
    'connecting',
    'PSP_CLOSE_TIMEOUT',
    5000,
    'time that the peer has for its part of an orderly close; after that the connection is cut. `close({ timeout })` takes precedence',
    { min: 1, max: 0x7fffffff, unit: 'ms' },
  ),
  suspendTimeout: integer(
    'migration',
    'PSP_SUSPEND_TIMEOUT',
    10_000,
    'time limit for the suspension of all connections; if it is exceeded, the runtime continues as before',
    { min: 1, max: 3_600_000, unit: 'ms' },
  ),
  resumeTimeout: integer(
    'migration',
    'PSP_RESUME_TIMEOUT',
    600_000,
    'time that a suspended connection waits for its peer before it fails',
    { min: 1, max: 0x7fffffff, unit: 'ms' },
  ),
  unread: integer(
    'messages',
    'PSP_UNREAD_LIMIT',
    1 << 20,
    'unread messages that the receiver takes out of the ring of a connection; beyond that the sender waits',
    { unit: 'bytes' },
  ),
  unexpectedReceives: flag(
    'messages',
    'PSP_UNEXPECTED_RECEIVES',
    false,
    'whether the runtime reads without that limit, so that no sender waits for the application; memory use is then unlimited',
  ),
  maxMessageSize: integer(
    'messages',
    'PSP_MAX_MESSAGE',
    2 ** 30,
    'largest message that is sent or accepted, xheader included',
    {
      max: 2 ** 32 - 1,
      unit: 'bytes',
    },
  ),
  rendezvous: rendezvous('PSP_RENDEZVOUS', NEVER, 'message size from which rendezvous is used over tcp'),
  rendezvousShm: rendezvous(
    'PSP_RENDEZVOUS_SHM',
    1 << 20,
    'the same for shm. Exceptions: a message for a peer that waits to copy it out goes through the ring; a smaller ' +
      'message for a peer that reads in place, and would get it in pieces, goes by rendezvous',
    'rendezvous',
  ),
  rendezvousIvshmem: rendezvous('PSP_RENDEZVOUS_IVSHMEM', 1 << 20, 'the same for ivshmem', 'rendezvous'),
  suspendResume: flag(
    'migration',
    'PSP_SUSPEND_RESUME',
    false,
    'whether the runtime accepts and answers requests to suspend and resume over MQTT',
  ),
  broker: {
    ...text('migration', 'PSP_MQTT_BROKER', BROKER_URL, 'the MQTT broker for these requests', {
      fallback: 'mqtt://localhost:1883',
      readable: (value) => readBroker(value) !== undefined,
    }),
    shown: maskBroker,
  },
  mqttKeepalive: integer(
    'migration',
    'PSP_MQTT_KEEPALIVE',
    15,
    'MQTT keep-alive: the broker considers this process dead after 1.5 times this time of silence; choose more where ' +
      'machines are slow or paused',
    { min: 1, max: 65_535, unit: 's' },
  ),
  controlId: text(
    'migration',
    'PSP_CONTROL_ID',
    'up to 64 letters, digits, dots, colons, - and _; empty: the pid',
    'id of the process in topics and answers, instead of the pid, where pids of one host name collide',
    { readable: (value) => value === '' || isControlId(value) },
  ),
  postponeFeedback: flag(
    'migration',
    'PSP_POSTPONE_FEEDBACK',
    false,
    'whether the answer COMPLETED waits until the application calls completeMigration()',
  ),
  debug: integer('insight', 'PSP_DEBUG', 2, 'log level: 0 nothing, 1 errors, 2 warnings, 3 events, 4 everything', {
    max: 10,
  }),
  debugOut: text(
    'insight',
    'PSP_DEBUG_OUT',
    'a path, in which $$ is the pid and $NAME a variable of the environment; empty or -: standard error',
    'file to which the log is appended',
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

/** The effective values. */
export type Config = { readonly [name in SettingName]: Value<Settings[name]> };
/** The options of an application; a missing one comes from the environment or the defaults. */
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
 * Every setting with its value and the origin of the value.
 * @throws ERR_ISTHMUS_CONFIG; the message names the variable or option, the value, and the accepted values
 */
export function explain(options: ConfigOptions = {}, environment: NodeJS.ProcessEnv = process.env): ConfigRow[] {
  return (Object.keys(SETTINGS) as SettingName[]).map((name) => {
    const { variable, group, takes, meaning } = SETTINGS[name];
    return { name, variable, group, ...settle(name, options, environment), takes, meaning };
  });
}

/** The rows without passwords, for output. */
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
 * The priority of a third-party plugin: `PSP_<NAME>` takes precedence over its own.
 * @throws ERR_ISTHMUS_CONFIG; ERR_ISTHMUS_INVALID_ARGUMENT if that variable belongs to another setting
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

/** What a setting consists of, and the kinds of settings: how each is read from text, checked, and described. */

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

export interface Setting<T> {
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

export function integer(
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

export function flag(group: Group, variable: string, fallback: boolean, meaning: string): Setting<boolean> {
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

export function text(
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

export function choice<T extends string>(
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
export function size(
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

/** The size of a ring, in bytes. */
export const ringSize = (group: Group, variable: string, fallback: number, zero: string, meaning: string) =>
  size(group, variable, fallback, meaning, { min: 4096, max: 0x4000000, zero });

/** A part of a file name. */
export function namePart(group: Group, variable: string, takes: string, meaning: string): Setting<string> {
  const check = (value: unknown) => typeof value === 'string' && /^[\w.-]{0,200}$/.test(value);
  return { group, variable, default: '', takes, meaning, read: (value) => (check(value) ? value : undefined), check };
}

/** As in pscom, the largest number means never. */
export const NEVER = 0xffffffff;

export function rendezvous(variable: string, fallback: number, meaning: string, follows?: string): Setting<number> {
  const setting = integer('messages', variable, fallback, meaning, { max: NEVER });
  return {
    ...setting,
    takes: `an integer from 0 to ${NEVER} (bytes), or inf: never, as ${NEVER}`,
    read: (value) => (value.trim() === 'inf' ? NEVER : setting.read(value)),
    ...(follows === undefined ? {} : { follows }),
  };
}

export const priority = (name: string, variable: string, fallback: number) =>
  integer('plugins', variable, fallback, `priority of plugin ${name}: higher first, 0 disables it`, { max: 1000 });

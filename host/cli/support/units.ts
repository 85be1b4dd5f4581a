/** Numbers as people read them. */

export const MIB = 0x100000;
export const GIB = 0x40000000;

function scaled(value: number, step: number, units: readonly string[]): string {
  let scale = 0;
  let rest = value;
  while (rest >= step && scale < units.length - 1) {
    rest /= step;
    scale++;
  }
  const digits = scale === 0 || rest >= 100 || Number.isInteger(rest) ? 0 : rest >= 10 ? 1 : 2;
  return `${rest.toFixed(digits)} ${units[scale]}`;
}

/** `64 KiB`: the size of memory or of a message. */
export const bytes = (count: number): string => scaled(count, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB']);

/** `1.25 GB/s`. */
export const rate = (perSecond: number): string => scaled(perSecond, 1000, ['B/s', 'kB/s', 'MB/s', 'GB/s', 'TB/s']);

/** `121 ns`, `34.2 µs`. */
export const duration = (nanoseconds: number): string => scaled(nanoseconds, 1000, ['ns', 'µs', 'ms', 's']);

/** `42 s`, `5 min`, `3 h`, `12 d`: the time since an event. */
export function elapsed(milliseconds: number): string {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** `1 frame`, `2 frames`, `2 processes`. */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : noun.endsWith('s') ? 'es' : 's'}`;
}

/** `127.0.0.1:7100`, `[::1]:7100`. */
export function hostAndPort({ host, port }: { readonly host: string; readonly port: number }): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length % 2 === 1) return sorted[middle] as number;
  return ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}

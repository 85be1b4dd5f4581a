/** Parsers of arguments and options, for commander. */
import { InvalidArgumentError } from 'commander';

/** An integer from `min` to `max`. */
export function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < min || value > max) {
      throw new InvalidArgumentError(`Expected an integer from ${min} to ${max}.`);
    }
    return value;
  };
}

/** A size in MiB: a power of two. */
export function mebibytes(text: string): number {
  const value = integer(1, 1 << 20)(text);
  if (!Number.isInteger(Math.log2(value))) throw new InvalidArgumentError('Expected a power of two: 1, 2, 4, 8, …');
  return value;
}

/** `HOST:PORT` or `[HOST]:PORT`. */
export function peerAddress(text: string): string {
  const port = Number(/^(?:\[[0-9a-f:.%]+\]|[^:[\]@]+):(\d{1,5})$/i.exec(text)?.[1] ?? 0);
  if (port < 1 || port > 65535) throw new InvalidArgumentError('Expected HOST:PORT, for example 127.0.0.1:7100.');
  return text;
}

function secondsFrom(min: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+(\.\d+)?$/.test(text) || value < min || value > 86_400) {
      throw new InvalidArgumentError(`Expected a time from ${min} to 86400 seconds.`);
    }
    return value;
  };
}

/** A time in seconds, at most a day. */
export const seconds = secondsFrom(0);

/** The time between two reads of a state, in seconds. */
export const interval = secondsFrom(0.1);

export const port = integer(0, 65535);

/** The name that a host has for itself, as it stands in a topic of MQTT. */
export function hostName(text: string): string {
  if (!/^[^\s/+#\0]{1,255}$/.test(text)) throw new InvalidArgumentError('Expected the name of a host.');
  return text;
}

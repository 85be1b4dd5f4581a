/** Addresses: the text that an application passes, and which addresses belong to this machine. */
import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { IsthmusError } from '../base/errors.js';
import { isOwn } from '../base/network.js';

/**
 * Where to connect to. `host:port` or `[host]:port`: connect at once. `host:port@name`: connect when the first message is
 * sent (on-demand; both sides listen, and each knows the other's address and name). Or the parts of either.
 */
export type Address = string | { readonly host: string; readonly port: number; readonly name?: string | undefined };

export interface ParsedAddress {
  readonly host: string;
  readonly port: number;
  /** Name of the peer's endpoint, for an on-demand connection. */
  readonly name: string | undefined;
}

/** Addresses that stand for all addresses of this machine. */
const ANY = new Set(['0.0.0.0', '::']);

/** @throws ERR_ISTHMUS_INVALID_ARGUMENT */
export function parseAddress(address: Address): ParsedAddress {
  const { host, port, name } = (typeof address === 'string' ? parts(address) : address) ?? {};
  const nameFits = name === undefined || (typeof name === 'string' && name !== '' && !name.includes('\0'));
  if (typeof host === 'string' && host !== '' && isPort(port) && nameFits) return { host, port, name };
  throw new IsthmusError(
    'ERR_ISTHMUS_INVALID_ARGUMENT',
    `'${typeof address === 'string' ? address : JSON.stringify(address)}' is not an address: host:port is required, for example 127.0.0.1:7100, or host:port@name`,
  );
}

function parts(text: string): { host: string; port: number; name: string | undefined } | undefined {
  const match = /^(?:\[([0-9a-f:.%]+)\]|([^:[\]@]+)):(\d{1,5})(?:@(.+))?$/i.exec(text);
  const host = match?.[1] ?? match?.[2];
  return host === undefined ? undefined : { host, port: Number(match?.[3]), name: match?.[4] };
}

function isPort(port: unknown): port is number {
  return Number.isInteger(port) && (port as number) >= 1 && (port as number) <= 65535;
}

/** IP addresses of a host; none if the host is unknown. */
export async function addressesOf(host: string): Promise<string[]> {
  if (isIP(host)) return [host];
  try {
    return (await lookup(host, { all: true })).map(({ address }) => address);
  } catch {
    return []; // The connect that follows reports it better.
  }
}

/** Whether a listener at the local address `listening` accepts connections to one of `ips`. */
export function accepts(listening: string, ips: readonly string[]): boolean {
  return ips.some((ip) => ip === listening || (ANY.has(listening) && isOwn(ip)));
}

/** Addresses: what an application writes, and which of them are this machine's. */
import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { IsthmusError } from '../base/errors.js';
import { isOwn, ownAddress } from '../base/network.js';

/**
 * Where to connect to: `host:port` or `[host]:port`, at once; `host:port@name`, when the first message is sent
 * (on-demand: both sides listen and know each other's address and name); or its parts.
 */
export type Address = string | { readonly host: string; readonly port: number; readonly name?: string | undefined };

export interface ParsedAddress {
  readonly host: string;
  readonly port: number;
  /** What the endpoint there calls itself, of an on-demand connection. */
  readonly name: string | undefined;
}

/** Addresses that stand for all of this machine's. */
const ANY = new Set(['0.0.0.0', '::']);

/** @throws ERR_ISTHMUS_INVALID_ARGUMENT */
export function parseAddress(address: Address): ParsedAddress {
  const { host, port, name } = (typeof address === 'string' ? parts(address) : address) ?? {};
  const nameFits = name === undefined || (typeof name === 'string' && name !== '' && !name.includes('\0'));
  if (typeof host === 'string' && host !== '' && isPort(port) && nameFits) return { host, port, name };
  throw new IsthmusError(
    'ERR_ISTHMUS_INVALID_ARGUMENT',
    `'${typeof address === 'string' ? address : JSON.stringify(address)}' is not an address: host:port is wanted, as 127.0.0.1:7100, or host:port@name`,
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

/** IPv4 address for CON_INFO: the one that is listened on, or one of those that others are to be told (`PSP_NETWORK`). */
export function announcedAddress(host: string | undefined, networks: string): string {
  return host !== undefined && isIP(host) === 4 && !ANY.has(host) ? host : ownAddress(networks);
}

/** IP addresses of a host; none if there is no such host. */
export async function addressesOf(host: string): Promise<string[]> {
  if (isIP(host)) return [host];
  try {
    return (await lookup(host, { all: true })).map(({ address }) => address);
  } catch {
    return []; // Whoever connects has a better error for it.
  }
}

/** Whether who listens on `listening` hears what is sent to one of `ips`. */
export function hears(listening: string, ips: readonly string[]): boolean {
  return ips.some((ip) => ip === listening || (ANY.has(listening) && isOwn(ip)));
}

/** The first 8 bytes of a name, as CON_INFO has it; not cut within a character. */
export function wireName(name: string): string {
  const bytes = new Uint8Array(8);
  const { written } = new TextEncoder().encodeInto(name, bytes);
  return new TextDecoder().decode(bytes.subarray(0, written));
}

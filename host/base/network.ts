/** The IPv4 addresses of this machine: the one that peers are told, and whether an address is local. */
import { isIPv4 } from 'node:net';
import { networkInterfaces } from 'node:os';

/** An entry of `PSP_NETWORK`. */
export interface Network {
  readonly address: number;
  /** Undefined: the netmask of the interface. */
  readonly mask: number | undefined;
}

const LOOPBACK = '127.0.0.1';

type Interfaces = ReturnType<typeof networkInterfaces>;
let known: Interfaces | undefined;

/**
 * The interfaces now. If they cannot be listed, for want of a descriptor or in a sandbox without netlink: as they were
 * listed last, or none. Connections need them no more than for a hint.
 */
function interfacesNow(): Interfaces {
  try {
    known = networkInterfaces();
  } catch {
    // The caller warns: see interfacesKnown().
  }
  return known ?? {};
}

/** Whether the addresses of this machine could be listed, now or before. */
export function interfacesKnown(): boolean {
  interfacesNow();
  return known !== undefined;
}

function numberOf(address: string): number {
  return address.split('.').reduce((number, byte) => ((number << 8) | Number(byte)) >>> 0, 0);
}

/** @returns undefined: the text is no list of networks */
export function parseNetworks(text: string): Network[] | undefined {
  const networks: Network[] = [];
  for (const item of text.split(/[\s,]+/)) {
    if (item === '') continue;
    const [address = '', length, ...more] = item.split('/');
    if (!isIPv4(address) || more.length > 0) return undefined;
    if (length !== undefined && (!/^\d{1,2}$/.test(length) || Number(length) > 32)) return undefined;
    // A shift by 32 shifts by nothing.
    const mask = length === undefined ? undefined : length === '0' ? 0 : (-1 << (32 - Number(length))) >>> 0;
    networks.push({ address: numberOf(address), mask });
  }
  return networks;
}

const textOf = (address: number): string => [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.');

/**
 * An address of this machine in one of the networks, the first network first. If no interfaces are known: the first entry
 * that is an address.
 */
export function addressIn(networks: readonly Network[], interfaces = interfacesNow()): string | undefined {
  const own = Object.values(interfaces)
    .flatMap((addresses) => addresses ?? [])
    .filter(({ family }) => family === 'IPv4');
  if (own.length === 0) {
    const named = networks.find(({ mask }) => mask === undefined || mask === 0xffffffff);
    return named && textOf(named.address);
  }
  for (const { address, mask } of networks) {
    const found = own.find((each) => {
      const bits = mask ?? numberOf(each.netmask);
      return (numberOf(each.address) & bits) === (address & bits);
    });
    if (found) return found.address;
  }
  return undefined;
}

/**
 * The IPv4 address for CON_INFO: one in `networks` (`PSP_NETWORK`), else that of the first interface that is not loopback,
 * else 127.0.0.1.
 */
export function ownAddress(networks: string, interfaces = interfacesNow()): string {
  const chosen = addressIn(parseNetworks(networks) ?? [], interfaces);
  if (chosen !== undefined) return chosen;
  for (const addresses of Object.values(interfaces)) {
    for (const { family, internal, address } of addresses ?? []) if (family === 'IPv4' && !internal) return address;
  }
  return LOOPBACK;
}

/** Whether an IP address, as a socket reports it, is loopback or belongs to an interface of this host. */
export function isOwn(address: string): boolean {
  // A socket that listens on :: sees IPv4 peers as ::ffff:10.0.0.2, and a link-local one with its interface (%eth0).
  const ip = address.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, '');
  if (ip.startsWith('127.') || ip === '::1') return true;
  return Object.values(interfacesNow()).some((addresses) => addresses?.some((own) => own.address === ip));
}

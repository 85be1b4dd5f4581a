/** Where the broker is, as people write it. */
import { IsthmusError } from '../base/errors.js';

/** A broker's address, taken apart. */
export interface BrokerAddress {
  readonly secure: boolean;
  readonly host: string;
  readonly port: number;
  readonly username: string | undefined;
  readonly password: string | undefined;
}

/** What such a URL looks like, for people. */
export const BROKER_URL = 'mqtt://[user:password@]host[:port], or mqtts:// for TLS';

/** @returns undefined if it cannot be read */
export function readBroker(text: string): BrokerAddress | undefined {
  try {
    const url = new URL(text);
    const { protocol, hostname, pathname, search, hash } = url;
    if ((protocol !== 'mqtt:' && protocol !== 'mqtts:') || hostname === '') return undefined;
    if ((pathname !== '' && pathname !== '/') || search || hash) return undefined;
    const secure = protocol === 'mqtts:';
    if (url.port === '0') return undefined;
    return {
      secure,
      host: hostname.replace(/^\[(.*)\]$/, '$1'),
      port: url.port === '' ? (secure ? 8883 : 1883) : Number(url.port),
      username: url.username === '' ? undefined : decodeURIComponent(url.username),
      password: url.password === '' ? undefined : decodeURIComponent(url.password),
    };
  } catch {
    return undefined;
  }
}

/** @throws ERR_ISTHMUS_INVALID_ARGUMENT */
export function brokerAddress(text: string): BrokerAddress {
  const address = readBroker(text);
  if (address) return address;
  throw new IsthmusError('ERR_ISTHMUS_INVALID_ARGUMENT', `'${maskBroker(text)}' is no broker: ${BROKER_URL} is wanted`);
}

/** The same without the password, also where the rest cannot be read: for whatever is printed. */
export function maskBroker(text: string): string {
  const scheme = /^[a-z]+:\/\//i.exec(text)?.[0] ?? '';
  return scheme + text.slice(scheme.length).replace(/^([^:@]*):.*@/s, '$1:***@');
}

/** The URL of an MQTT broker. */
import { IsthmusError } from '../base/errors.js';

/** The parts of a broker's URL. */
export interface BrokerAddress {
  readonly secure: boolean;
  readonly host: string;
  readonly port: number;
  readonly username: string | undefined;
  readonly password: string | undefined;
}

/** The format of such a URL, for people. */
export const BROKER_URL = 'mqtt://[user:password@]host[:port], or mqtts:// for TLS';

/** @returns undefined: the text is no such URL */
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

/** The text without the password, for output, even if the rest of it is not valid. */
export function maskBroker(text: string): string {
  const scheme = /^[a-z]+:\/\//i.exec(text)?.[0] ?? '';
  return scheme + text.slice(scheme.length).replace(/^([^:@]*):.*@/s, '$1:***@');
}

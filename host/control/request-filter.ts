/** Which deliveries of the broker are requests to this process. Every other one is logged and ignored. */
import type { Log } from '../base/log.js';
import { ANY_PROC } from '../config/control-id.js';
import type { Delivery } from './broker.js';
import { parseRequest, partsOfTopic, type Request } from './payload.js';

/** Deliveries to remember, so that a repeated one is recognised. */
const MAX_SEEN = 64;

/** A request to this process. */
export type Acceptable = Extract<Request, { readonly kind: 'suspend' | 'resume' | 'toggle' }>;

export class RequestFilter {
  readonly #id: string;
  readonly #log: Log;
  /** Deliveries that were passed on. */
  readonly #seen: string[] = [];

  /** @param id the control id of this process */
  constructor(id: string, log: Log) {
    this.#id = id;
    this.#log = log;
  }

  /** @returns undefined: ignored */
  request(topic: string, payload: Uint8Array, delivery: Delivery): Acceptable | undefined {
    const { id: to, part } = partsOfTopic(topic) ?? {};
    if (part !== 'request') return undefined;
    if (to !== ANY_PROC && to !== this.#id) return undefined;
    if (delivery.retain) {
      this.#log(
        'warning',
        `a retained request at ${topic} is ignored: its age is unknown. Remove it from the broker, with an empty retained message while no process runs`,
      );
      return undefined;
    }
    const request = parseRequest(payload, this.#id);
    if (request.kind === 'others') {
      this.#log('debug', `a request at ${topic} is for other processes`);
      return undefined;
    }
    if (request.kind === 'unknown') {
      this.#log('warning', `a request at ${topic} is ignored, not understood: ${request.why}`);
      return undefined;
    }
    if (this.#isRepeated(topic, delivery)) {
      this.#log('info', `a request at ${topic} is ignored: it was delivered before`);
      return undefined;
    }
    return request;
  }

  /** Whether the delivery was passed on before. It is remembered from here on. */
  #isRepeated(topic: string, { qos, messageId, dup, payload }: Delivery): boolean {
    if (qos === 0) return false;
    const key = `${messageId} ${topic} ${payload.toString('latin1')}`;
    if (dup && this.#seen.includes(key)) return true;
    this.#seen.push(key);
    if (this.#seen.length > MAX_SEEN) this.#seen.shift();
    return false;
  }
}

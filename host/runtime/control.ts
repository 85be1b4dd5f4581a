/** Control of a runtime from outside: its control socket, and requests over MQTT. */
import type { Log } from '../base/log.js';
import type { Config } from '../config/config.js';
import type { MqttOptions } from '../control/broker.js';
import { joinMqtt, type Membership } from '../control/mqtt.js';
import { type Controlled, requestsOf } from '../control/requests.js';
import { ControlSocket, newId } from '../control/socket.js';

export class Control {
  /** The id of the runtime: unique among the runtimes of this user. */
  readonly id: string;
  readonly #socket: ControlSocket | undefined;
  readonly #membership: Membership | undefined;

  /** @throws ERR_ISTHMUS_INVALID_ARGUMENT: not the URL of a broker */
  constructor(runtime: Controlled, name: string, config: Config, mqtt: MqttOptions | undefined, log: Log) {
    this.#socket = config.control ? ControlSocket.open(requestsOf(runtime), log) : undefined;
    this.id = this.#socket?.id ?? newId();
    if (!config.suspendResume) return;
    this.#membership = joinMqtt(runtime, {
      broker: config.broker,
      mqtt,
      keepalive: config.mqttKeepalive,
      controlId: config.controlId,
      postpone: config.postponeFeedback,
      id: this.id,
      name,
      connections: () => runtime.inspect().connections,
      log,
    });
  }

  /** The application has completed its own part of a migration. */
  complete(): void {
    this.#membership?.complete();
  }

  async close(): Promise<void> {
    this.#socket?.close();
    await this.#membership?.leave();
  }
}

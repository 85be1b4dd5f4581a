/** The options of each command that reaches processes through an MQTT broker. */
import { readFileSync } from 'node:fs';
import { type Command, InvalidArgumentError } from 'commander';
import type { Log } from '../../base/log.js';
import { BROKER_URL, readBroker } from '../../config/broker-url.js';
import { isControlId } from '../../config/control-id.js';
import { explain } from '../../config/resolve.js';
import type { MqttOptions } from '../../control/broker.js';
import { printError } from './output.js';

const MAX_PIDS = 1000;

export interface BrokerOptions {
  readonly pid?: readonly string[];
  readonly broker?: string;
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly unverified?: true;
}

function pids(text: string, before: readonly string[] = []): string[] {
  if (!isControlId(text)) throw new InvalidArgumentError('Expected a pid or a control id.');
  if (before.length >= MAX_PIDS) throw new InvalidArgumentError(`Expected at most ${MAX_PIDS} processes.`);
  return [...before, text];
}

function broker(text: string): string {
  if (!readBroker(text)) throw new InvalidArgumentError(`Expected ${BROKER_URL}.`);
  return text;
}

/** @param asks whether the command waits for answers of processes */
export function withBroker(command: Command, asks = true): Command {
  command
    .option('--pid <PID...>', 'only these processes, by pid or control id (default: all that accept requests)', pids)
    .option('--broker <URL>', 'the MQTT broker (default: PSP_MQTT_BROKER)', broker)
    .option('--ca <FILE>', 'certificates that the TLS certificate of the broker is verified against (PEM)')
    .option('--cert <FILE>', 'client certificate, for a broker that asks for one (PEM)')
    .option('--key <FILE>', 'private key of the client certificate (PEM)');
  if (!asks) return command;
  return command.option(
    '--unverified',
    'count answers without the nonce of the request: of a C pscom, an older version, or any client that may publish',
  );
}

export function brokerOf(options: BrokerOptions): { broker: string; mqtt: MqttOptions; unverified: boolean } {
  const configured = explain().find(({ name }) => name === 'broker')?.value;
  const read = (path: string | undefined) => (path === undefined ? undefined : readFileSync(path));
  const mqtt = { ca: read(options.ca), cert: read(options.cert), key: read(options.key) };
  return { broker: options.broker ?? String(configured), mqtt, unverified: options.unverified ?? false };
}

/** Prints what happens to the connection to the broker later; a failure to connect at first is an error. */
export const brokerLog: Log = (level, line) => {
  if (level === 'error' || level === 'warning') printError(`isthmus: ${line}\n`);
};

/** What a move would do, as commands to read: `isthmus migrate --dry-run`. */
import { maskBroker } from '../../config/broker-url.js';
import type { Device, Machine, NewDevice } from './machine.js';
import { shellLine } from './virsh.js';

export interface PlannedStep {
  readonly step: string;
  /** Commands, each with its newline. */
  readonly does: string;
}

export interface PlanOptions {
  readonly host: string;
  readonly pid?: readonly string[];
  readonly broker?: string;
  readonly attach: readonly NewDevice[];
}

/** @param devices the devices that the machine has now */
export function planOf(machine: Machine, devices: readonly Device[], options: PlanOptions): PlannedStep[] {
  const { host, pid, broker, attach } = options;
  const { commands } = machine;
  const steer = (kind: string) => {
    const only = pid ? ['--pid', ...pid] : [];
    const at = broker === undefined ? [] : ['--broker', maskBroker(broker)];
    return { step: kind, does: `${shellLine(['isthmus', kind, '--host', host, ...only, ...at])}\n` };
  };
  return [
    steer('suspend'),
    ...devices.map((device) => ({ step: 'detach', does: commands.detach(device) })),
    { step: 'migrate', does: commands.migrate() },
    ...attach.map((device) => ({ step: 'attach', does: commands.attach(device) })),
    steer('resume'),
    ...(machine.finishes ? [{ step: 'quit', does: commands.finish() }] : []),
  ];
}

/** `isthmus suspend`: before a migration. */
import type { Command } from 'commander';
import type { Exit } from '../support/help.js';
import { addSteering } from './steering.js';

export function addSuspend(program: Command, exit: Exit): void {
  addSteering(
    program,
    'suspend',
    exit,
    'suspend processes before a migration',
    'Ask processes over MQTT to release their ivshmem devices, and wait until they allow the migration. A suspended ' +
      'process goes on when it is resumed; no message is lost. Exit code 0 only if all of them allow the migration.',
  );
}

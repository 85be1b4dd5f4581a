/** `isthmus resume`: after a migration. */
import type { Command } from 'commander';
import type { Exit } from '../support/help.js';
import { addSteering } from './steering.js';

export function addResume(program: Command, exit: Exit): void {
  addSteering(
    program,
    'resume',
    exit,
    'resume processes after a migration',
    'Ask processes over MQTT to use the devices of this host and to restore their connections, and wait until they have. ' +
      'A process that is not suspended counts as resumed. Exit code 0 only if all of them are resumed.',
  );
}

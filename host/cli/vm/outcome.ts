/** What to say of a move that did not fully succeed, and what the operator can do. */
import { CliError } from '../support/errors.js';
import type { Machine, NewDevice } from './machine.js';
import type { Outcome } from './mover.js';

/** @returns undefined: everything succeeded */
export function failureOf(
  { where, failures }: Outcome,
  machine: Machine,
  { host, attach }: { readonly host: string; readonly attach: readonly NewDevice[] },
): CliError | undefined {
  const [first, ...more] = failures;
  if (!first) return undefined;
  const { name } = machine;
  const why = failures.map(({ message }) => message).join('; ');
  const resume = `isthmus resume --host ${host}`;
  if (where === undefined) {
    return new CliError(
      `it is not known where ${name} runs: ${why}`,
      `Look at both sides before you let it run at one of them; then use '${resume}'.`,
    );
  }
  if (where === 'source') {
    return more.length === 0
      ? new CliError(`${name} has not moved, and runs at the source as before: ${why}`, first.action)
      : new CliError(
          `${name} has not moved, and is not as it was before: ${why}`,
          `Attach the missing devices by hand ('isthmus device attach'), then use '${resume}'.`,
        );
  }
  if (!/^attach:/.test(first.message)) {
    return new CliError(
      `${name} runs at the destination, but a later step failed: ${why}`,
      `'${resume}' asks its processes again.`,
    );
  }
  const byHand = attach.map((device) => machine.attachByHand(device).trim().replaceAll('\n', ', then '));
  return new CliError(
    `${name} runs at the destination, but a later step failed: ${why}`,
    `Its processes use tcp without the device. Attach it by hand: ${byHand.join('; ')}; ` +
      `then use 'isthmus suspend' and '${resume}'.`,
  );
}

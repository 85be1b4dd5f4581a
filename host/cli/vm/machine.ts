/** A virtual machine that is moved: what `isthmus migrate` needs of it, whichever program runs it. */
import { CliError } from '../support/errors.js';

/** An ivshmem device of the machine. */
export interface Device {
  readonly name: string;
  /** In bytes. */
  readonly size: number;
}

/** A device that the machine gets at the destination. */
export interface NewDevice {
  readonly name: string;
  /** The file that is its memory, on the host of the destination. */
  readonly path: string;
  /** In MiB. */
  readonly megabytes: number;
}

export type Place = 'source' | 'destination';

export interface MigrateOptions {
  /** After this time the migration is cancelled, in seconds. */
  readonly limit: number;
  /** Cancels the migration. */
  readonly signal?: AbortSignal | undefined;
  /** Called with a text that says how far the migration is. */
  progress(text: string): void;
}

export interface Machine extends AsyncDisposable {
  readonly name: string;
  /** Changes nothing. @throws CliError unless the machine runs at the source and the destination can take it */
  inspect(): Promise<readonly Device[]>;
  /** The file that is the memory of a device of {@link inspect}; undefined: it is on another host. */
  memoryOf(device: Device): string | undefined;
  /** UUID of the machine at the source, if it is known. */
  readonly uuid: string | undefined;
  /**
   * Detach a device at the source, and wait until the guest has released it.
   * @param wait in seconds. Not interruptible: once the guest is asked, it can release the device at any time.
   * @throws CliError if the guest has not released the device within that time
   */
  detach(device: Device, wait: number): Promise<void>;
  /**
   * Attach a device again, at the source.
   * @returns false if the guest still has it: it was asked to release it, and has not done so even after some seconds
   */
  reattach(device: Device): Promise<boolean>;
  /** Attach a device at the destination. */
  attach(device: NewDevice): Promise<void>;
  /** {@link locate} says what it has led to, also if this throws. */
  migrate(options: MigrateOptions): Promise<void>;
  /**
   * Where the machine runs after a migration. A machine that the migration has stopped, and that runs nowhere, is made to
   * run again.
   * @throws CliError if that cannot be known
   */
  locate(): Promise<Place>;
  /** Whether {@link finish} does something. */
  readonly finishes: boolean;
  /** Remove what is not needed any more at the source. @returns what was done */
  finish(): Promise<string>;
  /** What the methods of these names would do, as commands to read. */
  readonly commands: {
    detach(device: Device): string;
    migrate(): string;
    attach(device: NewDevice): string;
    finish(): string;
  };
  /** How an operator attaches the device at the destination by hand. */
  attachByHand(device: NewDevice): string;
}

/** @param wait in seconds */
export function notReleased(guest: string, device: string, wait: number): CliError {
  return new CliError(
    `the guest '${guest}' has not released ${device} within ${wait} s`,
    "It was asked to, and may still do so. Does its operating system run, and has each process that uses the device left it ('isthmus suspend')?",
  );
}

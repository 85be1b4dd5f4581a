/** A virtual machine that is to move: what `isthmus migrate` does with it, whoever runs it. */

/** An ivshmem device that it has. */
export interface Device {
  readonly name: string;
  /** In bytes. */
  readonly size: number;
}

/** A device that it is to get at the destination. */
export interface Wanted {
  readonly name: string;
  /** Of the file that is its memory, over there. */
  readonly path: string;
  /** In MiB. */
  readonly megabytes: number;
}

export interface Limits {
  /** In seconds. */
  readonly wait: number;
  readonly signal?: AbortSignal | undefined;
}

export interface Machine extends AsyncDisposable {
  readonly name: string;
  /** Changes nothing. @throws unless it runs at the source and could come to the destination */
  look(): Promise<readonly Device[]>;
  /**
   * Pull a device out at the source, and wait until the guest has let go of it, in seconds. Not to be interrupted: the
   * guest has been asked then, and lets go whenever it can.
   */
  detach(device: Device, wait: number): Promise<void>;
  /** Plug it in again, at the source. @returns false if it is there: it was not let go of, even after a while */
  restore(device: Device): Promise<boolean>;
  /** Plug a device in at the destination. */
  attach(device: Wanted): Promise<void>;
  /** Stopped or late, it is cancelled. {@link whereabouts} says what has come of it. */
  migrate(limits: Limits & { told(text: string): void }): Promise<void>;
  /** After that: where it runs. If it was stopped for the migration and goes on nowhere else, it is made to run. */
  whereabouts(): Promise<'source' | 'destination'>;
  /** What is left at the source is not needed any more. @returns what was done */
  finish(): Promise<string | undefined>;
  /** What would be done, as lines for a person. */
  readonly shown: {
    detach(device: Device): string;
    migrate(): string;
    attach(device: Wanted): string;
    finish(): string | undefined;
  };
  /** How to plug it in by hand. */
  byHand(device: Wanted): string;
}

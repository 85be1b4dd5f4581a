import type { StreamPlugin } from 'isthmus';

/** Connections over Unix-domain sockets, between processes that see the same folders. */
export function unixPlugin(options?: {
  /** Default 50: below `ivshmem`, above `tcp`. `PSP_UNIX` takes precedence over it. */
  readonly priority?: number;
  /** The private folder with the socket is created in this folder; default `os.tmpdir()`. */
  readonly folder?: string;
}): StreamPlugin;

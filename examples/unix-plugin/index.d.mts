import type { StreamPlugin } from 'isthmus';

/** Connections over Unix-domain sockets, between processes that see the same folders. */
export function unixPlugin(options?: {
  /** Default 50: below `ivshmem`, above `tcp`. `PSP_UNIX` overrules it. */
  readonly priority?: number;
  /** Where the private folder with the socket is made; default `os.tmpdir()`. */
  readonly folder?: string;
}): StreamPlugin;

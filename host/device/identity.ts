/** Identities: of a kernel and a file on it, of a pid namespace. */
import { fstatSync, lstatSync, readFileSync, statSync } from 'node:fs';

/** A file on a kernel. Two attachments with the same identity see each other's locks. */
export interface Identity {
  /** UUID of this boot of the kernel, 16 bytes. */
  readonly boot: Uint8Array;
  readonly dev: bigint;
  readonly ino: bigint;
  /** 24-bit hash over all of it. */
  readonly hash: number;
}

let boot: Uint8Array | undefined;

/** UUID of this boot of the kernel, 16 bytes (proc(5)); zeros where there is none. */
export function bootId(): Uint8Array {
  if (!boot) {
    let text = '';
    try {
      text = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8');
    } catch {
      // Without /proc nothing can be proven about other processes.
    }
    boot = new Uint8Array(16);
    boot.set(Buffer.from(text.replaceAll('-', '').trim(), 'hex').subarray(0, 16));
  }
  return boot;
}

/** 24 bits over kernel and file; never 0, which stands for no kernel. */
export function identityHash({ boot, dev, ino }: Omit<Identity, 'hash'>): number {
  const bytes = Buffer.alloc(32);
  bytes.set(boot);
  bytes.writeBigUInt64LE(dev, 16);
  bytes.writeBigUInt64LE(ino, 24);
  // FNV-1a, folded.
  let hash = 0x811c9dc5;
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return ((hash >>> 24) ^ hash) & 0xffffff || 1;
}

export function identityOf(fd: number): Identity {
  const stat = fstatSync(fd, { bigint: true });
  const file = { boot: bootId(), dev: BigInt.asUintN(64, stat.dev), ino: BigInt.asUintN(64, stat.ino) };
  return { ...file, hash: identityHash(file) };
}

/** The file that the path leads to now. @throws the error of stat(2) */
export function fileAt(path: string): Pick<Identity, 'dev' | 'ino'> {
  const { dev, ino } = statSync(path, { bigint: true });
  return { dev: BigInt.asUintN(64, dev), ino: BigInt.asUintN(64, ino) };
}

/** Whether the path leads to this very file now, and not through a link. */
export function isAt(path: string, { dev, ino }: Pick<Identity, 'dev' | 'ino'>): boolean {
  try {
    const found = lstatSync(path, { bigint: true });
    return BigInt.asUintN(64, found.dev) === dev && BigInt.asUintN(64, found.ino) === ino;
  } catch {
    return false;
  }
}

/** Number of the pid namespace of this process, for people; 0: unknown. */
export function pidNamespace(): bigint {
  try {
    return statSync('/proc/self/ns/pid', { bigint: true }).ino;
  } catch {
    return 0n;
  }
}

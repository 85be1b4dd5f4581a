/** Paths. scripts/bench.mjs passes the path of the checkout. */
import { join } from 'node:path';

export const root = process.env.ISTHMUS_ROOT ?? process.cwd();

/** The sources of the benchmark, and the packages that only it needs. */
export const benchFolder = (): string => join(root, 'bench');

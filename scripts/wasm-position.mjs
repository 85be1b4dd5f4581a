/**
 * Where in `assembly/` an address of the debug core lies: `node scripts/wasm-position.mjs 0x1a73`.
 *
 * The stack of a trap has such addresses, as `wasm-function[9]:0x1a73`. The map belongs to the core that
 * `ISTHMUS_WASM=debug node scripts/setup.mjs` has built last.
 */
import { readFileSync } from 'node:fs';
import { SourceMap } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const path = join(dirname(fileURLToPath(import.meta.url)), '../build/wasm/core.debug.wasm.map');
const addresses = process.argv.slice(2);
if (addresses.length === 0 || addresses.some((text) => !/^0x[0-9a-f]+$/i.test(text))) {
  console.error('usage: node scripts/wasm-position.mjs 0xADDRESS…');
  process.exit(2);
}
// In the map of a Wasm module the line is always the first one, and the column the address.
const map = new SourceMap(JSON.parse(readFileSync(path, 'utf8')));
for (const address of addresses) {
  const { originalSource, originalLine, originalColumn } = map.findEntry(0, Number(address));
  const found =
    originalSource === undefined ? 'not in the map' : `${originalSource}:${originalLine + 1}:${originalColumn + 1}`;
  console.log(`${address}  ${found}`);
}

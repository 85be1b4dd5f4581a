/**
 * A build of the core that calls `crash.step` before and after every store to the window. It is made from the module in
 * the bundle, so that the order of its stores is the one that users have. The published package contains none of it.
 *
 * Binaryen writes the module as text, in which every instruction is a list with its operands. A store becomes a call of
 * a function of the same type, which contains the store.
 */
import binaryen from 'assemblyscript/binaryen';
import bytes from '#core.wasm';
import { constant } from '../support/core.js';

/** Instructions that write to memory, with their types besides the address. */
function typesOf(instruction: string): { readonly params: readonly string[]; readonly result: string } | undefined {
  if (/^memory\.(fill|copy|init)$/.test(instruction)) return { params: ['i32', 'i32'], result: '' };
  const [, type = '', rest = ''] = /^([if](?:32|64)|v128)\.(.+)$/.exec(instruction) ?? [];
  if (/^(atomic\.)?store(8|16|32|64)?(_lane)?$/.test(rest)) return { params: [type], result: '' };
  if (/^atomic\.rmw(8|16|32)?\.cmpxchg(_u)?$/.test(rest)) return { params: [type, type], result: type };
  if (/^atomic\.rmw(8|16|32)?\.[a-z]+(_u)?$/.test(rest)) return { params: [type], result: type };
  return undefined;
}

const LIST = /"(?:[^"\\]|\\.)*"|;;[^\n]*|\(([^\s()]+)((?:\s+(?:offset|align)=\d+)*)/g;

/** @returns the module, and the number of its stores */
export function instrument(): { readonly module: Uint8Array; readonly stores: number } {
  const module = binaryen.readBinary(bytes);
  const text = module.emitText();
  module.dispose();
  const functions = new Map<string, string>();
  let stores = 0;
  const replaced = text.replace(LIST, (whole: string, instruction?: string, immediates = '') => {
    const types = instruction === undefined ? undefined : typesOf(instruction);
    if (!types) return whole;
    stores++;
    const plain = immediates.trim().replace(/\s+/g, ' ');
    const name = `$step ${instruction} ${plain}`.trim().replace(/[^$\w.]+/g, '_');
    functions.set(name, wrapper(name, `${instruction} ${plain}`, Number(/offset=(\d+)/.exec(plain)?.[1] ?? 0), types));
    return `(call ${name}`;
  });
  const end = replaced.lastIndexOf(')');
  const imported = '(import "crash" "step" (func $crash_step))';
  const counting = `(func $crash_at (param i32)
    (if (i32.ge_u (local.get 0) (i32.const ${constant('WINDOW')})) (then (call $crash_step))))`;
  const whole = `${replaced.slice(0, end).replace('(import ', `${imported} (import `)} ${counting} ${[...functions.values()].join('\n')})`;
  const made = binaryen.parseText(whole);
  made.setFeatures(binaryen.Features.All);
  if (!made.validate()) throw new Error('the instrumented core is not valid');
  const result = made.emitBinary();
  made.dispose();
  return { module: result, stores };
}

type Types = NonNullable<ReturnType<typeof typesOf>>;

function wrapper(name: string, instruction: string, offset: number, { params, result }: Types): string {
  const at = `(call $crash_at (i32.add (local.get 0) (i32.const ${offset})))`;
  const operands = ['i32', ...params].map((_, i) => `(local.get ${i})`).join(' ');
  const store = `(${instruction} ${operands})`;
  const type = `(param i32 ${params.join(' ')})`;
  if (result === '') return `(func ${name} ${type} ${at} ${store} ${at})`;
  return `(func ${name} ${type} (result ${result}) (local ${result})
    ${at} (local.set ${params.length + 1} ${store}) ${at} (local.get ${params.length + 1}))`;
}

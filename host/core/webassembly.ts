/**
 * The parts of the WebAssembly JavaScript interface that are used here, typed.
 *
 * TypeScript knows them from the `dom` library alone; a package for Node that pulled that in would put `window` into the
 * global scope of its users' programs.
 */

export interface WasmMemory {
  readonly buffer: ArrayBuffer;
}

export interface WasmGlobal {
  readonly value: unknown;
}

export type WasmExports = Readonly<Record<string, unknown>>;

interface Interface {
  readonly Module: new (bytes: Uint8Array<ArrayBuffer>) => object;
  readonly Instance: new (module: object, imports: object) => { readonly exports: WasmExports };
  readonly Memory: new (limits: { initial: number; maximum?: number }) => WasmMemory;
  readonly Global: abstract new (...args: never[]) => WasmGlobal;
}

export const wasm = (globalThis as unknown as { readonly WebAssembly: Interface }).WebAssembly;

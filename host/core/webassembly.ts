/**
 * Types of the WebAssembly JavaScript interface, as far as the host uses it.
 *
 * TypeScript declares them in its `dom` library only, and the declarations of this package must not bring that in: it
 * puts `window` into the global scope of an application.
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

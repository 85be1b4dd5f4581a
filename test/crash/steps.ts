/**
 * The counter of steps, in the process that dies: from here on every core that this process makes is the instrumented one
 * (instrument.ts).
 */
import { readFileSync } from 'node:fs';

interface Interface {
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object, imports: object) => object;
}

export interface Steps {
  /** Begin to count from 0; die at the step of that number, counted from 1. 0: never. */
  arm(at: number): void;
  readonly count: number;
}

/** @param path of the instrumented module. Before the first core is made. */
export function countSteps(path: string): Steps {
  const wasm = (globalThis as unknown as { WebAssembly: Interface }).WebAssembly;
  const { Module, Instance } = wasm;
  let count = 0;
  let end = 0;
  const step = () => {
    // To oneself the signal comes before the call returns: no JavaScript runs any more.
    if (++count === end) process.kill(process.pid, 'SIGKILL');
  };
  wasm.Module = class extends Module {
    constructor() {
      super(readFileSync(path));
    }
  };
  wasm.Instance = class extends Instance {
    constructor(module: object, imports: object) {
      super(module, { ...imports, crash: { step } });
    }
  };
  return {
    arm(at) {
      count = 0;
      end = at;
    },
    get count() {
      return count;
    },
  };
}

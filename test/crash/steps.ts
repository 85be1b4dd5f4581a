/**
 * The counter of steps, in the process that dies: every core that it creates is the instrumented one (instrument.ts).
 */

interface Interface {
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object, imports: object) => object;
}

export interface Steps {
  /**
   * Begin to count from 0; at the step of that number, counted from 1, the process ends. 0: at none.
   * @param core only this core is counted: the value of `cores` when it had been created; without it, all cores
   */
  arm(at: number, core?: number): void;
  readonly count: number;
  /** How many cores have been created. */
  readonly cores: number;
}

/**
 * Call this before the first core is created.
 * @param instrumented the module
 * @param end called at the step, in the middle of an operation of the core
 */
export function countSteps(instrumented: Uint8Array, end: () => void): Steps {
  const wasm = (globalThis as unknown as { WebAssembly: Interface }).WebAssembly;
  const { Module, Instance } = wasm;
  let count = 0;
  let last = 0;
  let only: number | undefined;
  let cores = 0;
  wasm.Module = class extends Module {
    constructor() {
      super(instrumented);
    }
  };
  wasm.Instance = class extends Instance {
    constructor(module: object, imports: object) {
      const core = ++cores;
      const step = () => {
        if ((only === undefined || only === core) && ++count === last) end();
      };
      super(module, { ...imports, crash: { step } });
    }
  };
  return {
    arm(at, core) {
      count = 0;
      last = at;
      only = core;
    },
    get cores() {
      return cores;
    },
    get count() {
      return count;
    },
  };
}

/** A signal to the own process arrives before the call returns: no JavaScript runs any more. */
export function dieNow(): void {
  process.kill(process.pid, 'SIGKILL');
}

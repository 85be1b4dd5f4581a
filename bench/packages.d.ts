/** The used parts of the packages in bench/node_modules. They are installed only where the benchmark has run. */
declare module 'vega' {
  export function parse(specification: unknown): unknown;
  export class View {
    constructor(runtime: unknown, options: { renderer: 'none' });
    toSVG(): Promise<string>;
    finalize(): void;
  }
}

declare module 'vega-lite' {
  export function compile(specification: unknown): { readonly spec: unknown };
}

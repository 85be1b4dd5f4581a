/** The compiled core. The build puts its bytes into the bundle (`scripts/build.mjs`). */
declare module '#core.wasm' {
  const bytes: Uint8Array<ArrayBuffer>;
  export default bytes;
}

/** The other end of a connection, and the choice of the way to it. */

/** Who is at the other end, as its CON_INFO says. Nothing of it is authenticated. */
export interface Peer {
  /** IPv4 address that the peer claims, as `10.0.0.2`. */
  readonly node: string;
  readonly pid: number;
  /** Opaque identity of its end of the connection, kept for life. */
  readonly id: bigint;
  /** Up to 8 bytes, as the peer calls itself. */
  readonly name: string;
  /** Where the socket of the handshake really comes from; undefined on `loop`. */
  readonly address: { readonly host: string; readonly port: number } | undefined;
}

/** pscom's connection type mask: which plugins may be used, by name. `only`, else all; and `add`; but not `delete`. */
export interface PluginMask {
  readonly only?: readonly string[] | undefined;
  readonly add?: readonly string[] | undefined;
  readonly delete?: readonly string[] | undefined;
}

/** The two ends of a connection, and the plugins that may be used between them. */

/** One end of a connection, as its CON_INFO describes it. Nothing of it is authenticated. */
export interface ConInfo {
  /** IPv4 address that this end claims, for example `10.0.0.2`. */
  readonly node: string;
  readonly pid: number;
  /** Opaque u64: identity of this end, kept for the life of the connection. */
  readonly id: bigint;
  /** Name of the endpoint, up to 8 bytes of UTF-8, as it was received: it may hold any character. */
  readonly name: string;
}

/** The other end of a connection, as its CON_INFO describes it. Nothing of it is authenticated. */
export interface Peer extends ConInfo {
  /** Source address of the handshake's socket; undefined on `loop`. */
  readonly address: { readonly host: string; readonly port: number } | undefined;
}

/** Messages that a connection has carried, counted at one end. Both ends compare them when it comes up again. */
export interface MessageCounts {
  readonly sent: number;
  readonly received: number;
}

/** pscom's connection type mask: plugins that may be used, by name: `only` these, or all; plus `add`, minus `delete`. */
export interface PluginMask {
  readonly only?: readonly string[] | undefined;
  readonly add?: readonly string[] | undefined;
  readonly delete?: readonly string[] | undefined;
}

/** The public API of Isthmus, and nothing else. */
export type { Address } from './address.js';
export type { Closed, Connection, ConnectionStats, ReceiveInfo, Sendable } from './connection.js';
export type { MqttOptions } from './control/broker.js';
export type { MigrationState } from './control/migratable.js';
export type { DiagnosticEvents } from './diagnostics.js';
export {
  type ConnectionHandler,
  type ConnectOptions,
  Endpoint,
  type Listening,
  type ListenOptions,
} from './endpoint.js';
export { type ErrorCode, type ErrorDetails, IsthmusError } from './errors.js';
export type { BroadcastOptions, Group, GroupCallOptions, GroupOptions } from './group.js';
export type {
  ConnectionSnapshot,
  PeerSnapshot,
  PluginSnapshot,
  RegionSnapshot,
  RuntimeSnapshot,
  RuntimeStats,
} from './inspect.js';
export { Loan } from './loan.js';
export type { Level, Log } from './log.js';
export type { Envelope, Match } from './matching.js';
export { SharedMemory } from './memory.js';
export { BorrowedMessage, Message } from './message.js';
export type { Peer, PluginMask } from './plugins/plugin.js';
export {
  type StreamAttempt,
  type StreamChannel,
  type StreamPlugin,
  type StreamPluginDefinition,
  streamPlugin,
} from './plugins/third-party.js';
export { STEP } from './precon/frames.js';
export type {
  PostReceiveOptions,
  PostSendOptions,
  ProbeOptions,
  Received,
  ReceiveRequest,
  Request,
  SendRequest,
} from './request.js';
export type { ExposeOptions, Exposure, RmaOptions, RmaToken } from './rma.js';
export { type EndpointOptions, type RegionInfo, Runtime, type RuntimeOptions } from './runtime.js';
export type { ConnectionEvents } from './stalls.js';
export type { ConnectionStream, StreamOptions } from './stream.js';

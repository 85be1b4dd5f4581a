/** The public API of Isthmus, and nothing else. */

export type { Closed, Connection, ConnectionStats, ReceiveInfo, Sendable } from './api/connection.js';
export type { MigrationState } from './api/migratable.js';
export { type ErrorCode, type ErrorDetails, IsthmusError } from './base/errors.js';
export type { Level, Log } from './base/log.js';
export { BorrowedMessage, Message } from './base/message.js';
export type { Envelope, Match } from './channel/matching.js';
export type { ConnectionEvents } from './connection/liveness.js';
export type { ConnectionStream, StreamOptions } from './connection/stream.js';
export type { MqttOptions } from './control/broker.js';
export type { Address } from './endpoint/address.js';
export {
  type ConnectionHandler,
  type ConnectOptions,
  Endpoint,
  type Listening,
  type ListenOptions,
} from './endpoint/endpoint.js';
export { STEP } from './handshake/frames.js';
export { Loan } from './memory/loan.js';
export type { ExposeOptions, Exposure, RmaOptions, RmaToken } from './memory/rma.js';
export { SharedMemory } from './memory/shared-memory.js';
export type { BroadcastOptions, Group, GroupCallOptions, GroupOptions } from './messaging/group.js';
export type {
  PostReceiveOptions,
  PostSendOptions,
  ProbeOptions,
  Received,
  ReceiveRequest,
  Request,
  SendRequest,
} from './messaging/requests.js';
export type { Peer, PluginMask } from './plugins/plugin.js';
export {
  type StreamAttempt,
  type StreamChannel,
  type StreamPlugin,
  type StreamPluginDefinition,
  streamPlugin,
} from './plugins/third-party.js';
export type { DiagnosticEvents } from './runtime/diagnostics.js';
export type {
  ConnectionSnapshot,
  PeerSnapshot,
  PluginSnapshot,
  RegionSnapshot,
  RuntimeSnapshot,
  RuntimeStats,
} from './runtime/inspect.js';
export { type EndpointOptions, type RegionInfo, Runtime, type RuntimeOptions } from './runtime/runtime.js';

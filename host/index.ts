/** The public API of Isthmus, and nothing else. */

export type { Closed, Connection, ConnectionStats, ReceiveInfo, Sendable } from './api/connection.js';
export type { Envelope, Match } from './api/envelope.js';
export type { ConnectionEvents } from './api/events.js';
export { Loan } from './api/loan.js';
export type { MigrationState } from './api/migratable.js';
export type { Peer, PluginMask } from './api/peer.js';
export type { ExposeOptions, Exposure, RmaOptions, RmaToken } from './api/remote-memory.js';
export { SharedMemory } from './api/shared-memory.js';
export type {
  ConnectionSnapshot,
  PeerSnapshot,
  PluginSnapshot,
  RegionInfo,
  RegionSnapshot,
  RuntimeSnapshot,
  RuntimeStats,
} from './api/snapshots.js';
export type { ConnectionStream, StreamOptions } from './api/stream.js';
export { type ErrorCode, type ErrorDetails, IsthmusError } from './base/errors.js';
export type { Level, Log } from './base/log.js';
export { BorrowedMessage, Message } from './base/message.js';
export type { MqttOptions } from './control/broker.js';
export type { Address } from './endpoint/address.js';
export type { ConnectionHandler } from './endpoint/connections.js';
export { type ConnectOptions, Endpoint } from './endpoint/endpoint.js';
export type { Listening, ListenOptions } from './endpoint/listeners.js';
export type { BroadcastOptions, Group, GroupCallOptions, GroupOptions } from './messaging/group.js';
export type {
  PostReceiveOptions,
  PostSendOptions,
  ProbeOptions,
  Received,
  ReceiveRequest,
  Request,
  SendRequest,
} from './messaging/request.js';
export { STEP } from './plugins/plugin.js';
export {
  type StreamAttempt,
  type StreamChannel,
  type StreamPlugin,
  type StreamPluginDefinition,
  streamPlugin,
} from './plugins/stream-plugin.js';
export type { DiagnosticEvents } from './runtime/diagnostics.js';
export { type EndpointOptions, Runtime, type RuntimeOptions } from './runtime/runtime.js';

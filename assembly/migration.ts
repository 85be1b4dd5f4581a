/**
 * Suspending and resuming: the state machine of a connection, and that of a process.
 *
 * suspend.pml models both ends of a connection and all between them; process.pml models the control of a process.
 *
 * Pure functions: the host keeps the state, because it outlives every memory that a core works on. Every event is
 * defined in every state; an event without a meaning in a state changes nothing, and the host records it.
 *
 *   one side suspends                            both suspend at once
 *
 *   A  NONE ─SUSPEND─▶ SUSPENDING                A and B   SUSPENDING ─SENT─▶ SENT
 *   A  ─SENT─▶ SENT          ····REQ····▶                  ····REQ····▶ ◀····REQ····
 *   B  NONE ─REQ─▶ RECEIVED ─SENT─▶ SUSPENDED              SENT ─REQ─▶ SUSPENDED
 *   A  SENT ─ACK─▶ SUSPENDED ◀····ACK····                  (the peer's REQ is the answer: no ACK is sent)
 */

import {
  MIGRATION_ALLOWED,
  MIGRATION_EVENTS,
  MIGRATION_FINISHED,
  MIGRATION_INACTIVE,
  MIGRATION_PREPARING,
  MIGRATION_REQUESTED,
  MIGRATION_RESUMING,
  SUSPENSION_EVENTS,
  SUSPENSION_NONE,
  SUSPENSION_RECEIVED,
  SUSPENSION_RESUMING,
  SUSPENSION_SENT,
  SUSPENSION_SUSPENDED,
  SUSPENSION_SUSPENDING,
} from './layout';

/** No transition. */
const NO: u8 = 0xff;

// Row: state; column: SUSPEND, SENT, REQ, ACK, RESUME, UP.
const CONNECTION: StaticArray<u8> = [
  /* NONE       */ <u8>SUSPENSION_SUSPENDING,
  NO,
  <u8>SUSPENSION_RECEIVED,
  NO,
  NO,
  NO,
  /* SUSPENDING */ NO,
  <u8>SUSPENSION_SENT,
  // This side's REQ is not in the ring yet; it will be the answer.
  <u8>SUSPENSION_RECEIVED,
  NO,
  NO,
  NO,
  /* SENT       */ NO,
  NO,
  <u8>SUSPENSION_SUSPENDED,
  <u8>SUSPENSION_SUSPENDED,
  NO,
  NO,
  /* RECEIVED   */ NO,
  <u8>SUSPENSION_SUSPENDED,
  NO,
  NO,
  NO,
  NO,
  /* SUSPENDED  */ NO,
  NO,
  NO,
  NO,
  <u8>SUSPENSION_RESUMING,
  // The peer set up the link first.
  <u8>SUSPENSION_NONE,
  /* RESUMING   */ <u8>SUSPENSION_SUSPENDED,
  NO,
  NO,
  NO,
  NO,
  <u8>SUSPENSION_NONE,
];

// Row: state; column: REQUEST, PREPARE, ALLOW, FAIL, RESUME, ATTACHED, BACK.
const PROCESS: StaticArray<u8> = [
  /* INACTIVE  */ <u8>MIGRATION_REQUESTED,
  NO,
  NO,
  NO,
  NO,
  NO,
  NO,
  /* REQUESTED */ NO,
  <u8>MIGRATION_PREPARING,
  NO,
  <u8>MIGRATION_FINISHED,
  <u8>MIGRATION_FINISHED,
  NO,
  NO,
  /* PREPARING */ NO,
  NO,
  <u8>MIGRATION_ALLOWED,
  <u8>MIGRATION_FINISHED,
  <u8>MIGRATION_FINISHED,
  NO,
  NO,
  /* ALLOWED   */ NO,
  NO,
  NO,
  NO,
  <u8>MIGRATION_FINISHED,
  NO,
  NO,
  /* FINISHED  */ NO,
  NO,
  NO,
  NO,
  NO,
  <u8>MIGRATION_RESUMING,
  NO,
  /* RESUMING  */ NO,
  NO,
  NO,
  NO,
  NO,
  NO,
  <u8>MIGRATION_INACTIVE,
];

/** @returns the suspension state of a connection after the event; the same state if the event has no meaning there */
export function suspension(state: u32, event: u32): u32 {
  const next = unchecked(CONNECTION[state * SUSPENSION_EVENTS + event]);
  return next == NO ? state : <u32>next;
}

/** @returns the migration state of a process after the event; the same state if the event has no meaning there */
export function migration(state: u32, event: u32): u32 {
  const next = unchecked(PROCESS[state * MIGRATION_EVENTS + event]);
  return next == NO ? state : <u32>next;
}

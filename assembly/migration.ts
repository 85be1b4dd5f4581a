/**
 * Suspending and resuming a process, as in pscom: its state machine. (test/model/process.pml; the lifecycle of a connection is
 * the host's: host/link/lifecycle.ts.)
 *
 * Pure functions: the host keeps the state, because it outlives every memory that a core works on. Every event is
 * defined in every state; an event without a meaning in a state changes nothing, and the host records it.
 */

import {
  MIGRATION_ALLOWED,
  MIGRATION_EVENTS,
  MIGRATION_FINISHED,
  MIGRATION_INACTIVE,
  MIGRATION_PREPARING,
  MIGRATION_REQUESTED,
  MIGRATION_RESUMING,
} from './layout';

/** No transition. */
const NO: u8 = 0xff;

// Row: state; column: REQUEST, PREPARE, ALLOW, FAIL, RESUME, ATTACHED, BACK.
const TRANSITIONS: StaticArray<u8> = [
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

/** @returns the migration state of a process after the event; the same state if the event has no meaning there */
export function migration(state: u32, event: u32): u32 {
  const next = unchecked(TRANSITIONS[state * MIGRATION_EVENTS + event]);
  return next == NO ? state : <u32>next;
}

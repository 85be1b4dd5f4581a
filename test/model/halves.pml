/*
 * The two holders of a run (assembly/frames.ts): an owner takes an extent and a run in it, and offers the other half; a
 * peer adopts it, uses it and releases it; both may die, or the owner leave, at any instruction. RECLAIMERS detect dead
 * processes and reclaim what they held, any number at once, and late. Then a newcomer takes the extent, with the slot of
 * the owner and the next generation.
 *
 * Requirements: no process takes frames that a live process still uses, no tag of a live process is cleared by another,
 * and at the end the extent is free.
 */

#ifndef RECLAIMERS
#define RECLAIMERS 2
#endif

/* Processes, by slot and generation. The newcomer has the owner's slot. */
#define OWNER 1
#define PEER 2
#ifdef NO_GENERATION
#define NEWCOMER 1
#else
#define NEWCOMER 3
#endif

/* Tags. */
#define HELD(process)    (process)
#define OFFERED(process) (8 + (process))
#define HOLDER(tag)      ((tag) % 8)

#define READER 0
#define WRITER 1

byte extent;
byte half[2];
/* The peer table: which generations are alive. */
bit alive[4];
bit dead[4];
/* Observer's state: processes that read or write frames of the extent; number of processes that have finished. */
bit uses[4];
byte through;

inline compare_and_swap(word, old, new, ok) {
  d_step {
    if
    :: word == (old) -> word = new; ok = 1
    :: else -> ok = 0
    fi
  }
}

/* A process may die before any step. Others detect it later: its lock is released. */
#define STEP(me) if :: true :: atomic { DIES -> dead[me] = 1; uses[me] = 0; goto over } fi
#ifdef CRASH
#define DIES true
#else
#define DIES false
#endif

inline sweep(tag, ok) {
  tag = extent;
  if
  :: tag == 0 || alive[HOLDER(tag)]
  :: else ->
#ifdef HALVES_IGNORED
    compare_and_swap(extent, tag, 0, ok)
#else
    if
    :: half[READER] != 0
    :: else ->
      if
      :: half[WRITER] != 0
      :: else -> compare_and_swap(extent, tag, 0, ok)
      fi
    fi
#endif
  fi;
  tag = 0;
  ok = 0
}

inline clear_halves(process, tag, ok) {
  tag = half[READER];
  if
  :: HOLDER(tag) == process ->
#ifdef PLAIN_CLEAR
    half[READER] = 0
#else
    compare_and_swap(half[READER], tag, 0, ok)
#endif
  :: else
  fi;
  tag = half[WRITER];
  if
#ifdef BOTH_CLEARED
  :: HOLDER(tag) == process || (tag != 0 && !alive[process]) ->
#else
  :: HOLDER(tag) == process ->
#endif
#ifdef PLAIN_CLEAR
    half[WRITER] = 0
#else
    compare_and_swap(half[WRITER], tag, 0, ok)
#endif
  :: else
  fi;
  tag = 0;
  ok = 0
}

proctype Owner() {
  bit ok;
  byte tag;

take:
  compare_and_swap(extent, 0, HELD(OWNER), ok);
  assert(ok);
  uses[OWNER] = 1;
  STEP(OWNER);
  half[WRITER] = OFFERED(OWNER);
  STEP(OWNER);
  half[READER] = HELD(OWNER);
  STEP(OWNER);
  if
  :: goto leave
  :: true
  fi;

give_back:
  uses[OWNER] = 0;
  compare_and_swap(half[READER], HELD(OWNER), 0, ok);
  assert(ok);
  STEP(OWNER);
#ifndef OFFER_LEFT
  compare_and_swap(half[WRITER], OFFERED(OWNER), 0, ok);
#endif
  if
  :: ok || half[WRITER] == 0 -> goto free_run
  :: else
  fi;
  STEP(OWNER);
  if
  :: goto leave
  :: true
  fi;
collect:
  half[READER] == 0 && half[WRITER] == 0;
free_run:
  STEP(OWNER);
  compare_and_swap(extent, HELD(OWNER), 0, ok);
  assert(ok);

leave:
  uses[OWNER] = 0;
  STEP(OWNER);
  clear_halves(OWNER, tag, ok);
  STEP(OWNER);
  alive[OWNER] = 0;
  STEP(OWNER);
  sweep(tag, ok);
over:
  through++
}

proctype Peer() {
  bit ok;
  byte tag;

offered:
  if
  :: half[READER] == HELD(OWNER)
  :: goto over
  fi;
  if
  :: half[WRITER] == OFFERED(OWNER)
  :: half[WRITER] != OFFERED(OWNER) -> goto over
  fi;
  STEP(PEER);
adopt:
  atomic {
    compare_and_swap(half[WRITER], OFFERED(OWNER), HELD(PEER), ok);
    uses[PEER] = ok
  };
  if
  :: !ok -> goto over
  :: else
  fi;
  STEP(PEER);
let_go:
  uses[PEER] = 0;
  STEP(PEER);
  compare_and_swap(half[WRITER], HELD(PEER), 0, ok);
  assert(ok);
  STEP(PEER);
#ifndef LAST_DOES_NOT_SWEEP
  sweep(tag, ok);
#endif
over:
  atomic { ok = 0; tag = 0; through++ }
}

/* Detects dead processes, as often as there is something to reclaim. */
#define NAMES(process) (HOLDER(half[READER]) == process || HOLDER(half[WRITER]) == process)
#define ORPHANED       (extent != 0 && !alive[HOLDER(extent)] && half[READER] == 0 && half[WRITER] == 0)

proctype Reclaimer() {
  bit ok;
  byte tag;
end:
  do
  :: dead[OWNER] && (alive[OWNER] || NAMES(OWNER) || ORPHANED) ->
declare_dead:
    alive[OWNER] = 0;
    clear_halves(OWNER, tag, ok);
    sweep(tag, ok)
  :: dead[PEER] && (alive[PEER] || NAMES(PEER) || ORPHANED) ->
    alive[PEER] = 0;
    clear_halves(PEER, tag, ok);
    sweep(tag, ok)
  od
}

/* Takes the free extent, whatever the others do, with a run of its own. */
proctype Newcomer() {
  bit ok;
  !alive[OWNER];
  alive[NEWCOMER] = 1;
take_anew:
  do
  :: atomic { extent == 0 ->
      extent = HELD(NEWCOMER);
      assert(!uses[OWNER] && !uses[PEER]);
      break
    }
  od;
  half[WRITER] = OFFERED(NEWCOMER);
  half[READER] = HELD(NEWCOMER);
  compare_and_swap(half[READER], HELD(NEWCOMER), 0, ok);
  assert(ok);
  compare_and_swap(half[WRITER], OFFERED(NEWCOMER), 0, ok);
  assert(ok);
  compare_and_swap(extent, HELD(NEWCOMER), 0, ok);
  assert(ok);
  alive[NEWCOMER] = 0
}

init {
  byte i;
  atomic {
    alive[OWNER] = 1;
    alive[PEER] = 1;
    run Owner();
    run Peer();
    run Newcomer();
    do
    :: i < RECLAIMERS -> run Reclaimer(); i++
    :: else -> break
    od;
    i = 0
  };
  timeout;
  assert(extent == 0 && half[READER] == 0 && half[WRITER] == 0)
}

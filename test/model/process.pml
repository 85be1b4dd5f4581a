/*
 * Suspending and resuming a process: host/runtime/migration.ts, turn by turn of the event loop; host/control/steering.ts,
 * which receives requests from a broker and answers them; and an application that calls suspend() and resume() itself.
 *
 * The connections take any time to suspend (see suspend.pml), or never finish: then the deadline interrupts the suspension.
 * The broker may be away at any time: a request is lost then, an answer waits.
 *
 * What is to hold: when nothing moves any more, the process runs with its devices or is suspended without them, every call
 * has returned, a suspend() or resume() that returned well told the truth, and the last answer at the broker is about the
 * state that the process is in.
 */

#ifndef REQUESTS
#define REQUESTS 3
#endif
#ifndef CALLS
#define CALLS 0
#endif

/* MIGRATION_… */
#define INACTIVE 0
#define REQUESTED 1
#define PREPARING 2
#define ALLOWED 3
#define FINISHED 4
#define RESUMING 5

#define NOTHING 0
#define DONE 1
#define CUT 2

#define SUSPEND 1
#define RESUME 2
#define TOGGLE 3

/* Answers. */
#define SAYS_ALLOWED 1
#define SAYS_COMPLETED 2
#define SAYS_FAILED 3

/*
 * Continuations of a settled promise run before every event: processes of this priority. The others are events: requests,
 * calls of the application, timers, and events of devices and peers.
 */
#define MICROTASK 9

/* Suspensions are numbered; at most this many begin. */
#define RUNS (REQUESTS + CALLS + 1)

byte state = INACTIVE;
bit attached = 1;

/* Fields of Migration. `suspending` and `resuming`: number + 1 of a promise; `giver`: of the suspension that can be interrupted. */
byte suspending, resuming, giver;
bit away;
/* How the race of each suspension ended; whether its devices are released, or that was given up; its result. */
byte race[RUNS], outcome[RUNS];
bit prepared[RUNS], rejected[RUNS];
byte runs;
/* Resumptions: numbered as well. */
#define BACKS (2 * RUNS + 2)
bit back[BACKS];
byte backs;

/* Number of calls of each. */
byte suspends_called, resumes_called;

inline handle_fail() {
  if
  :: state == REQUESTED || state == PREPARING -> state = FINISHED
  :: else
  fi
}

inline begin_back() {
  backs++;
  resuming = backs
}

/* #back(), from takeDevices on. */
proctype Back(byte n) {
take_devices:
  atomic {
    skip;
    if
    :: away -> attached = 1
    :: else
    fi
  };
  atomic {
    away = 0;
    if
    :: state == FINISHED -> state = RESUMING
    :: else
    fi
  };
  atomic {
    if
    :: state == RESUMING -> state = INACTIVE
    :: else
    fi;
    back[n] = 1;
    if
    :: resuming == n + 1 -> resuming = 0
    :: else
    fi
  }
}

proctype Prepare(byte n) {
hold:
  skip;
  if
  :: atomic { race[n] == CUT -> rejected[n] = 1; goto over }
  :: atomic { race[n] == NOTHING ->
      if
      :: state == REQUESTED -> state = PREPARING
      :: else
      fi
    }
  fi;
let_go:
  skip;
  if
  :: atomic { race[n] == CUT -> rejected[n] = 1; goto over }
  :: atomic { race[n] == NOTHING -> away = 1 }
  fi;
leave_devices:
  atomic {
    attached = 0;
    prepared[n] = 1;
    if
    :: race[n] == NOTHING -> race[n] = DONE
    :: else
    fi
  };
over:
  skip
}

/* #suspend(), after Promise.race; the part before it is in call_suspend. */
proctype Suspension(byte n) {
  byte b;
  if
  :: atomic { race[n] == DONE ->
allow:
      skip;
      if
      :: giver == n + 1 -> giver = 0
      :: else
      fi;
      if
      :: state == PREPARING -> state = ALLOWED
      :: else
      fi;
      outcome[n] = DONE
    }
  :: atomic { race[n] == CUT ->
give_up:
      skip;
      if
      :: giver == n + 1 -> giver = 0
      :: else
      fi;
      if
      :: suspending == n + 1 -> suspending = 0
      :: else
      fi;
#ifdef GAP
      /* Nothing shows yet that it is resuming. */
      if
      :: away -> skip
      :: else -> goto straight
      fi
    };
    prepared[n] || rejected[n];
straight:
    atomic {
      handle_fail();
      begin_back();
      b = backs;
      run Back(b - 1)
    };
#else
      begin_back();
      b = backs
    };
    if
    :: away -> prepared[n] || rejected[n]
    :: else
    fi;
    atomic {
      handle_fail();
      run Back(b - 1)
    };
#endif
    back[b - 1];
    outcome[n] = CUT
  fi
}

/* A call waits for a suspension or a resumption; then it may call again. */
#define A_SUSPENSION 1
#define A_SUSPENSION_CUT 2
#define A_BACK 3

/* suspend(), its synchronous part. */
inline suspend(waits, n) {
  if
  :: resuming != 0 -> waits = A_BACK; n = resuming - 1
  :: resuming == 0 && suspending == 0 ->
    n = runs;
    runs++;
    suspending = n + 1;
    if
    :: state == INACTIVE -> state = REQUESTED
    :: else
    fi;
    giver = n + 1;
    run Prepare(n);
    run Suspension(n) priority MICROTASK;
    waits = A_SUSPENSION
  :: resuming == 0 && suspending != 0 -> waits = A_SUSPENSION; n = suspending - 1
  fi
}

/* Its remaining part. */
inline suspended(waits, n, good) {
  do
  :: atomic { waits == A_BACK && back[n] -> suspend(waits, n) }
  :: atomic { waits == A_SUSPENSION && outcome[n] != NOTHING -> good = (outcome[n] == DONE); break }
  od
}

inline handle_resume() {
  if
  :: state == REQUESTED || state == PREPARING || state == ALLOWED -> state = FINISHED
  :: else
  fi
}

/* resume(), its synchronous part. */
inline resume(waits, n) {
  if
  :: resuming != 0 -> waits = A_BACK; n = resuming - 1
  :: resuming == 0 && suspending == 0 -> waits = NOTHING; handle_resume()
  :: resuming == 0 && suspending != 0 && giver != 0 ->
    waits = A_SUSPENSION_CUT;
    n = suspending - 1;
    if
    :: race[giver - 1] == NOTHING -> race[giver - 1] = CUT
    :: else
    fi
  :: resuming == 0 && suspending != 0 && giver == 0 ->
    suspending = 0;
    handle_resume();
    begin_back();
    run Back(backs - 1);
    waits = A_BACK;
    n = resuming - 1
  fi
}

inline resumed(waits, n) {
  do
  :: atomic { waits == A_BACK && back[n] -> break }
  :: waits == NOTHING -> break
  :: atomic { waits == A_SUSPENSION_CUT && outcome[n] != NOTHING ->
      waits = NOTHING
    }
  od
}

/* ── the application ── */

proctype Caller(byte waits; byte n; bit suspends; byte since) {
  bit good;
  if
  :: suspends ->
    suspended(waits, n, good);
    assert(!good || state == ALLOWED || resumes_called > since)
  :: else ->
    resumed(waits, n);
    assert(state == INACTIVE || suspends_called > since)
  fi
}

inline app_suspends(waits, n, since) {
  suspends_called++;
  since = resumes_called;
  suspend(waits, n);
  run Caller(waits, n, 1, since) priority MICROTASK
}

inline app_resumes(waits, n, since) {
  resumes_called++;
  since = suspends_called;
  resume(waits, n);
  run Caller(waits, n, 0, since) priority MICROTASK
}

proctype Application() {
  byte calls = CALLS, waits, n, since;
end:
  do
  :: atomic { calls > 0 ->
      calls--;
      if
      :: app_suspends(waits, n, since)
      :: app_resumes(waits, n, since)
      fi;
      waits = 0;
      n = 0;
      since = 0
    }
  od
}

/* ── steering.ts ── */

byte operation;
bit begin_again;
byte said;
byte unsent;
bit broker = 1;

inline answer(what) {
#ifndef ANSWER_DROPPED
  unsent = what
#else
  if
  :: broker -> unsent = what
  :: else
  fi
#endif
}

inline begin_suspending(waits, n) {
  operation = SUSPEND;
  suspends_called++;
  suspend(waits, n);
  run Suspending(waits, n) priority MICROTASK
}

inline begin_resuming(waits, n) {
  operation = RESUME;
  resumes_called++;
  resume(waits, n);
  run Resuming(waits, n, 1) priority MICROTASK
}

inline ended(waits, n) {
  operation = NOTHING;
  if
  :: begin_again -> begin_again = 0; begin_suspending(waits, n)
  :: else
  fi
}

/* The part after the call: of #suspend(), and of #resume() and #back(). */
proctype Suspending(byte waits; byte n) {
  bit good;
  suspended(waits, n, good);
  atomic {
    if
    :: operation == SUSPEND -> operation = NOTHING
    :: else
    fi;
    if
    :: good -> answer(SAYS_ALLOWED)
    :: !good ->
      answer(SAYS_FAILED);
      if
      :: operation == NOTHING ->
        operation = RESUME;
        resumes_called++;
        resume(waits, n);
        run Resuming(waits, n, 0) priority MICROTASK
      :: else
      fi
    fi;
    waits = 0;
    n = 0
  }
}

proctype Resuming(byte waits; byte n; bit answers) {
  resumed(waits, n);
  atomic {
    if
    :: answers -> answer(SAYS_COMPLETED)
    :: else
    fi;
    ended(waits, n)
  }
}

/* The state of the process as steering.ts sees it. */
#define SEEN (operation == SUSPEND -> PREPARING : (operation == RESUME -> RESUMING : state))

inline request(kind, waits, n) {
  if
  :: SEEN == INACTIVE && kind != RESUME -> begin_suspending(waits, n)
  :: (SEEN == REQUESTED || SEEN == PREPARING) && kind == RESUME -> begin_resuming(waits, n)
  :: (SEEN == REQUESTED || SEEN == PREPARING) && kind == SUSPEND && operation == NOTHING ->
    begin_suspending(waits, n)
  :: SEEN == ALLOWED && kind == SUSPEND -> answer(SAYS_ALLOWED)
  :: SEEN == ALLOWED && kind != SUSPEND -> begin_resuming(waits, n)
  :: (SEEN == FINISHED || SEEN == RESUMING) && kind == SUSPEND ->
    if
    :: operation == NOTHING -> begin_suspending(waits, n)
    :: else -> begin_again = 1
    fi
  :: (SEEN == FINISHED || SEEN == RESUMING) && kind == RESUME && operation == NOTHING ->
    begin_resuming(waits, n)
  :: (SEEN == FINISHED || SEEN == RESUMING) && kind == RESUME && operation != NOTHING && begin_again ->
    begin_again = 0
  :: else
  fi
}

proctype Broker() {
  byte requests = REQUESTS, kind, losses = 1, waits, n;
end:
  do
  :: atomic { requests > 0 ->
      requests--;
      if
      :: kind = SUSPEND
      :: kind = RESUME
      :: kind = TOGGLE
      :: kind = NOTHING
      fi;
      /* A request that is sent while the broker is away is lost. */
      if
      :: broker && kind != NOTHING -> request(kind, waits, n)
      :: else
      fi;
      kind = NOTHING;
      waits = 0;
      n = 0
    }
  :: atomic { losses > 0 && broker -> losses--; broker = 0 }
  :: atomic { !broker -> broker = 1 }
  :: atomic { broker && unsent != NOTHING -> said = unsent; unsent = NOTHING }
  od
}

/* The deadline of the current suspension. */
proctype Deadline() {
  byte cuts = 2;
end:
  do
  :: atomic { cuts > 0 && giver != 0 && race[giver - 1] == NOTHING -> cuts--; race[giver - 1] = CUT }
  od
}

proctype Watch() {
  byte waits, n, since;
end:
  timeout;
  assert(state == INACTIVE || state == ALLOWED);
  assert(attached == (state == INACTIVE) && away == (state == ALLOWED));
  assert(suspending == (state == ALLOWED -> suspending : 0) && resuming == 0 && giver == 0);
  assert(operation == NOTHING && !begin_again && unsent == NOTHING && broker);
#if CALLS == 0
  assert(said == NOTHING || (said == SAYS_ALLOWED) == (state == ALLOWED));
#endif
  if
  :: state == ALLOWED ->
    /* The way out. */
    atomic { app_resumes(waits, n, since); waits = 0; n = 0 };
    timeout;
    assert(state == INACTIVE && attached)
  :: else
  fi
}

init {
  atomic {
    run Broker();
    run Deadline();
    run Application();
    run Watch()
  }
}

/*
 * Suspending and resuming one connection, both ends: host/link/lifecycle.ts (the table; each transition names its step
 * here), host/connection/shutdown.ts (the last words), host/connection/link-lifetime.ts (the effects of a transition),
 * host/channel/sender.ts and ring-reader.ts (the messages before the last words), host/endpoint/reconnector.ts (coming
 * back), host/runtime/migration.ts (a process holds its connections, suspends them, and resumes).
 *
 * End 0 has the lower name: it dials. End 1 asks it to (BACK_CONNECT). With SAME_NAMES both dial, and the call of the
 * smaller id, which is 0's, counts. Everything that a process does in one turn of its event loop is one step here; the
 * ring and the guard between the two are queues, and a message of either may be received at any time.
 *
 * A last word is the REQ or ACK of an end: its last message over a link. Messages have two records, the ring has room for
 * two. An application may leave messages unread (then the runtime stops reading, unless the peer requests a drain: HURRY),
 * or borrow them (then the ring has no room after them).
 *
 * An operator requests processes to suspend and to resume at any moment, and so interrupts suspensions (a deadline does the
 * same); one process may die. When nothing moves any more, all processes must be suspended or running (`settled`); then
 * the suspended ones are resumed: the way out. At the end both ends are up with every message delivered once, complete and
 * in order; or, after a death, the other end is closed with an error.
 */

#ifndef MESSAGES
#define MESSAGES 2
#endif
#ifndef SUSPENDS
#define SUSPENDS 2
#endif
#ifndef CUTS
#define CUTS 1
#endif

/*
 * Phases of a connection, by the names of the table. With `tentative` OPEN is `confirming`, SUSPENDED and RESUMING are
 * `reconfirming`. `draining` is no phase here: both ends have sent their last word, and let_go follows in the same step.
 */
#define OPEN 0
#define SUSPENDING 1
#define SHUTDOWN_SENT 2
#define SHUTDOWN_RECEIVED 3
#define SUSPENDED 4
#define RESUMING 5

/* States of a process: MIGRATION_INACTIVE and RESUMING, REQUESTED, PREPARING, ALLOWED. */
#define RUNNING 0
#define REQUESTED 1
#define PREPARING 2
#define ALLOWED 3

/* Records, and messages over a guard. SAY: the initiator confirms the link. HURRY: a request to drain. */
#define NOTHING 0
#define FIRST 1
#define LAST 2
#define REQ 3
#define ACK 4
#define SAY 5
#define HURRY 6
#define BYE 7
#define EOF 8

/*
 * An effort to come back: dialling; waiting for an answer to "dial me"; waiting for the link; of two of one name, refused
 * because the call of the other one counts.
 */
#define DIAL 1
#define ASK 2
#define AWAIT 3
#define OTHERS_CALL 4

/* The handshake of a dialler. */
#define CALLED 1
#define LEAVING 2
#define ANSWERED 3
#define AGREED 4
#define REFUSED 5

#define ROOM 2
chan ring[2] = [ROOM] of { byte, byte };
chan guard[2] = [5] of { byte };

byte process[2];
bit held[2], dead[2], closed[2], died;

bit linked[2], tentative[2], lid[2];
byte state[2];
bit asked[2], entry[2], hurried[2];
/* Whether messages may go into the ring of the link; the last word that waits; whether its port is known. */
bit out[2];
byte word[2];
bit port[2];
/* The next message to send; whether its first record is in the ring. */
byte next[2];
bit begun[2];
byte got[2], unread[2], spent[2];
bit partial[2];
byte effort[2];
byte call[2];
/* The link that the called end is leaving. */
bit leaves[2];
/* An effort that was interrupted by a suspension (`interrupted` in host/endpoint/reconnection.ts). */
bit again[2];
/* Applications receive all messages. */
bit taking;

byte suspends = SUSPENDS;
byte cuts = CUTS;

#define OTHER(p)     (1 - (p))
#define MET(p)       (linked[OTHER(p)] && lid[OTHER(p)] == lid[p] && !dead[OTHER(p)])
#define UNDER_WAY(p) (state[p] == SUSPENDING || state[p] == SHUTDOWN_SENT || state[p] == SHUTDOWN_RECEIVED)
#define AWAY(p)      (state[p] == SUSPENDED || state[p] == RESUMING)
#ifdef NO_HURRY
#define GREEDY(p)    (tentative[p] || UNDER_WAY(p))
#else
#define GREEDY(p)    (hurried[p] || tentative[p] || UNDER_WAY(p))
#endif
#define READS(p)     (unread[p] < 1 || GREEDY(p) || taking)
#ifdef LEAVES_ANY_LINK
#define HAS_LEFT(p)  (!linked[OTHER(p)])
#else
#define HAS_LEFT(p)  (!linked[OTHER(p)] || lid[OTHER(p)] != leaves[p])
#endif
#define HAS_ROOM(p)  (len(ring[OTHER(p)]) + spent[OTHER(p)] < ROOM)

/* Records written to an end that has released the link are lost. */
inline put(p, kind, n) {
  if
  :: MET(p) -> ring[OTHER(p)]!kind,n
  :: else
  fi
}

inline tell(p, what) {
  if
  :: MET(p) -> guard[OTHER(p)]!what
  :: else
  fi
}

/* ── the link ── */

inline unlink(p) {
  linked[p] = 0;
  tentative[p] = 0;
  out[p] = 0;
  word[p] = NOTHING;
  port[p] = 0;
  hurried[p] = 0;
  spent[p] = 0;
  do
  :: nempty(guard[p]) -> guard[p]?_
  :: empty(guard[p]) -> break
  od
}

inline bring_up(p) {
  if
  :: entry[p] && effort[p] == NOTHING && !held[p] && !closed[p] ->
    if
    :: state[p] == SUSPENDED -> state[p] = RESUMING
    :: else
    fi;
#ifdef SAME_NAMES
    effort[p] = DIAL;
#else
    effort[p] = (p == 0 -> DIAL : ASK);
#endif
    if
    :: effort[p] == DIAL -> call[p] = CALLED
    :: else
    fi
  :: else
  fi
}

/* Both ends have sent their last word. */
inline let_go(p) {
  /* No record follows the last word of the peer: it would be lost. */
  assert(empty(ring[p]) && !partial[p]);
  tell(p, BYE);
  unlink(p);
  entry[p] = 1;
#ifdef LATE_ACK_FORGOTTEN
  if
  :: asked[p] && process[p] == PREPARING -> bring_up(p)
  :: else
  fi
#else
  if
  :: asked[p] -> bring_up(p)
  :: else
  fi
#endif
}

/* An end with an error: only after a death. */
inline close_with_error(p) {
  assert(died);
  tell(p, EOF);
  unlink(p);
  do
  :: nempty(ring[p]) -> ring[p]?_,_
  :: empty(ring[p]) -> break
  od;
  closed[p] = 1;
  entry[p] = 0;
  effort[p] = NOTHING;
  if
  :: call[p] == AGREED && linked[OTHER(p)] && tentative[OTHER(p)] -> guard[OTHER(p)]!EOF
  :: else
  fi;
  call[p] = NOTHING;
  partial[p] = 0;
  again[p] = 0;
  state[p] = OPEN;
  asked[p] = 0
}

/* The peer is known to have the link as well. */
inline begin(p) {
  tentative[p] = 0;
  out[p] = 1;
  state[p] = OPEN;
  asked[p] = 0;
  effort[p] = NOTHING;
  again[p] = 0
}

inline revert(p) {
  if
  :: tentative[p] ->
    assert(empty(ring[p]));
    unlink(p);
    if
    :: asked[p] -> bring_up(p)
    :: else
    fi
  :: else
  fi
}

/* ── last words ── */

inline say(p, what) {
  word[p] = what;
  port[p] = 0
}

/* The last word of this end is sent. */
inline said(p) {
  word[p] = NOTHING;
  out[p] = 0;
  if
  :: state[p] == SUSPENDING ->
#ifdef NO_ACK_WAIT
    state[p] = SUSPENDED;
    let_go(p)
#else
    state[p] = SHUTDOWN_SENT
#endif
  :: state[p] == SHUTDOWN_RECEIVED -> state[p] = SUSPENDED; let_go(p)
  :: else -> assert(false)
  fi
}

inline heard(p, what) {
  if
  :: what == REQ && state[p] == OPEN ->
    state[p] = SHUTDOWN_RECEIVED;
    tell(p, HURRY);
    say(p, ACK)
  :: what == REQ && state[p] == SUSPENDING ->
    /* The REQ of this end, which is not in the ring yet, will be the answer. */
#ifdef ACK_IN_CLASH
    word[p] = ACK;
#endif
    state[p] = SHUTDOWN_RECEIVED
  :: what == REQ && state[p] == SHUTDOWN_SENT ->
#ifdef ACK_IN_CLASH
    put(p, ACK, 0);
#endif
    state[p] = SUSPENDED;
    let_go(p)
  :: what == ACK && state[p] == SHUTDOWN_SENT -> state[p] = SUSPENDED; let_go(p)
  /* C asserts on an unexpected acknowledgement. */
  :: else -> assert(false)
  fi
}

inline record(p, kind, n) {
  ring[p]?kind,n;
  if
  :: kind == FIRST -> assert(!partial[p] && n == got[p]); partial[p] = 1
  :: kind == LAST ->
    assert(partial[p] && n == got[p]);
    partial[p] = 0;
    got[p]++;
    if
    :: !taking -> unread[p] = 1
    :: else
    fi
  :: kind == SAY -> assert(tentative[p]); begin(p)
  :: kind == REQ || kind == ACK -> heard(p, kind)
  fi;
  kind = NOTHING;
  n = 0
}

inline drain(p, kind, n) {
  do
  :: linked[p] && nempty(ring[p]) -> record(p, kind, n)
  :: !linked[p] || empty(ring[p]) -> break
  od
}

inline start(p) {
  asked[p] = 1;
  state[p] = SUSPENDING;
  tell(p, HURRY);
  say(p, REQ)
}

/* ── a process ── */

inline hold(p) {
  held[p] = 1;
  if
  :: effort[p] != NOTHING ->
    if
    :: call[p] == AGREED -> guard[OTHER(p)]!EOF
    :: else
    fi;
    call[p] = NOTHING;
    effort[p] = NOTHING;
#ifndef EFFORT_FORGOTTEN
    again[p] = 1;
#endif
    if
    :: state[p] == RESUMING -> state[p] = SUSPENDED
    :: else
    fi
  :: else
  fi
}

inline release(p) {
  held[p] = 0;
  process[p] = RUNNING;
  if
  :: !linked[p] && (asked[p] || again[p]) -> again[p] = 0; bring_up(p)
  :: else
  fi
}

proctype End(byte p) {
  byte kind, n;

end:
  do
  :: dead[p] -> break

  /* Messages go from the queue into the ring, and the last word after the message in progress. */
  :: atomic { !dead[p] && out[p] && HAS_ROOM(p) && !begun[p] && next[p] < MESSAGES && (word[p] == NOTHING || !port[p]) ->
send:
      skip;
      put(p, FIRST, next[p]);
      begun[p] = 1
    }
  :: atomic { !dead[p] && out[p] && HAS_ROOM(p) && begun[p] ->
send_rest:
      skip;
      put(p, LAST, next[p]);
      begun[p] = 0;
      next[p]++
    }
  :: atomic { !dead[p] && linked[p] && word[p] != NOTHING && !port[p] ->
listen_port:
      port[p] = 1
    }
  :: atomic { !dead[p] && out[p] && word[p] != NOTHING && port[p] && !begun[p] && HAS_ROOM(p) ->
last_word:
      skip;
      put(p, word[p], 0);
      said(p)
    }
#ifndef NO_ASIDE
  /* Without room in the ring, the last word goes over the guard; an incomplete message is sent again over the next link. */
  :: atomic { !dead[p] && out[p] && word[p] != NOTHING && port[p] && (begun[p] || !HAS_ROOM(p)) ->
last_word_aside:
      begun[p] = 0;
      tell(p, word[p]);
      said(p)
    }
#endif

  :: atomic { !dead[p] && linked[p] && nempty(ring[p]) && READS(p) ->
receive:
      skip;
      if
      :: spent[p] > 0 -> spent[p]++
      :: spent[p] == 0 && !taking && !partial[p] -> spent[p] = 1
      :: spent[p] == 0
      fi;
      if
      :: spent[p] > ROOM -> spent[p] = ROOM
      :: else
      fi;
      record(p, kind, n)
    }

  /* Messages over the guard. */
  :: atomic { !dead[p] && linked[p] && nempty(guard[p]) ->
      guard[p]?kind;
      if
      :: kind == HURRY ->
hurry:
        hurried[p] = 1
      :: kind == REQ || kind == ACK ->
last_word_heard:
        n = kind;
        kind = NOTHING;
        byte what = n;
        n = 0;
        drain(p, kind, n);
#ifndef PARTIAL_KEPT
        partial[p] = 0;
#endif
        if
        :: linked[p] -> heard(p, what)
        :: else
        fi;
        what = NOTHING
      :: kind == BYE || kind == EOF ->
ended:
        kind = NOTHING;
#ifndef DRAIN_SKIPPED
        drain(p, kind, n);
#endif
        if
        :: linked[p] && tentative[p] -> revert(p)
        :: linked[p] && !tentative[p] -> close_with_error(p)
        :: !linked[p]
        fi
      fi;
      kind = NOTHING;
      n = 0
    }

  /* Coming back. */
  :: atomic { !dead[p] && effort[p] == DIAL && call[p] == CALLED && !held[OTHER(p)] && !dead[OTHER(p)] ->
asked_for:
      call[p] = (linked[OTHER(p)] && UNDER_WAY(OTHER(p)) -> LEAVING : ANSWERED);
      leaves[p] = lid[OTHER(p)];
      if
      :: call[p] == ANSWERED -> goto answer
      :: else
      fi
    }
  :: atomic { !dead[p] && call[p] == LEAVING && !dead[OTHER(p)] && HAS_LEFT(p) ->
answer:
      skip;
      if
      :: !entry[OTHER(p)] -> call[p] = REFUSED
      :: else ->
        revert(OTHER(p));
        if
        :: linked[OTHER(p)] -> call[p] = REFUSED
#ifdef SAME_NAMES
        :: !linked[OTHER(p)] && effort[OTHER(p)] != NOTHING && p == 1 -> call[p] = REFUSED
        :: !linked[OTHER(p)] && !(effort[OTHER(p)] != NOTHING && p == 1) -> call[p] = ANSWERED
#else
        :: !linked[OTHER(p)] -> call[p] = ANSWERED
#endif
        fi
      fi
    }
  :: atomic { !dead[p] && call[p] == ANSWERED && !dead[OTHER(p)] ->
agreed:
      skip;
      revert(OTHER(p));
      if
      :: linked[OTHER(p)] || closed[OTHER(p)] -> call[p] = REFUSED
      :: else ->
        linked[OTHER(p)] = 1;
        lid[OTHER(p)] = 1 - lid[OTHER(p)];
#ifdef NO_CONFIRM
        begin(OTHER(p));
#else
        tentative[OTHER(p)] = 1;
#endif
        call[p] = AGREED
      fi
    }
  :: atomic { !dead[p] && call[p] == AGREED && !dead[OTHER(p)] ->
up:
      call[p] = NOTHING;
      if
      :: linked[p] -> guard[OTHER(p)]!EOF
      :: else ->
        /* The two ends have exchanged their numbers of messages. */
        assert(got[p] == next[OTHER(p)] && got[OTHER(p)] == next[p]);
        linked[p] = 1;
        lid[p] = lid[OTHER(p)];
        begin(p);
#ifndef NO_CONFIRM
        put(p, SAY, 0)
#endif
      fi
    }
  :: atomic { !dead[p] && effort[p] == ASK && !held[OTHER(p)] && !dead[OTHER(p)] && entry[OTHER(p)] &&
      !(linked[OTHER(p)] && UNDER_WAY(OTHER(p))) ->
back_connect:
      effort[p] = AWAIT;
      if
      :: !linked[OTHER(p)] || tentative[OTHER(p)] -> bring_up(OTHER(p))
      :: else
      fi
    }
#ifdef SAME_NAMES
  :: atomic { !dead[p] && call[p] == REFUSED ->
refused:
      call[p] = NOTHING;
      if
      :: linked[p] || effort[p] != DIAL
      :: else -> effort[p] = OTHERS_CALL
      fi
    }
  /* The peer whose call was to count was suspended before it called. */
  :: atomic { !dead[p] && effort[p] == OTHERS_CALL && !linked[p] && effort[OTHER(p)] == NOTHING ->
others_call_is_late:
#ifdef REFUSED_FOR_GOOD
      close_with_error(p)
#else
      effort[p] = DIAL;
      call[p] = CALLED
#endif
    }
#endif
#ifdef STRANGER
  /* Another process of the same name listens at the address of the dead peer. */
  :: atomic { !dead[p] && effort[p] == DIAL && call[p] == CALLED && dead[OTHER(p)] ->
      skip;
#ifdef ID_NOT_CHECKED
      call[p] = NOTHING;
      linked[p] = 1;
      begin(p)
#else
      close_with_error(p)
#endif
    }
#endif
  /* The limit of a resume. With a live peer it is never reached. */
  :: atomic { !dead[p] && !closed[p] && !linked[p] && (dead[OTHER(p)] || closed[OTHER(p)]) ->
resume_timeout:
      skip;
      close_with_error(p)
    }

  /* The process. */
  :: atomic { !dead[p] && process[p] == REQUESTED && call[OTHER(p)] != LEAVING && call[OTHER(p)] != ANSWERED ->
prepare:
      process[p] = PREPARING
    }
  :: atomic { !dead[p] && process[p] == PREPARING && linked[p] && !tentative[p] && state[p] == OPEN ->
suspend:
      skip;
      start(p)
    }
  :: atomic { !dead[p] && process[p] == PREPARING && !linked[p] ->
allow:
      process[p] = ALLOWED
    }
  od;
  kind = 0;
  n = 0
}

inline dies(p) {
  dead[p] = 1;
  died = 1;
  tell(p, EOF);
  if
  :: call[p] == AGREED -> guard[OTHER(p)]!EOF
  :: else
  fi;
  call[p] = NOTHING;
  effort[p] = NOTHING;
  linked[p] = 0;
  entry[p] = 0;
  process[p] = RUNNING;
  if
  :: call[OTHER(p)] != NOTHING && !linked[OTHER(p)] -> call[OTHER(p)] = CALLED
  :: else
  fi
}

#define SETTLED(p) (dead[p] || process[p] == RUNNING || process[p] == ALLOWED)
#define GOOD(p)    (dead[p] || (died && closed[p]) || \
  (!died && linked[p] && !tentative[p] && state[p] == OPEN && got[p] == MESSAGES && next[p] == MESSAGES && !closed[p]))

proctype Operator() {
  byte p;
  do
  :: atomic { suspends > 0 ->
      suspends--;
      if
      :: p = 0
      :: p = 1
      :: p = 2
      fi;
      if
      :: p < 2 && !dead[p] && process[p] == RUNNING -> process[p] = REQUESTED; hold(p)
      :: else
      fi;
      p = 0
    }
  /* A deadline, or a request to resume in the middle of a suspension. */
  :: atomic { cuts > 0 && !dead[0] && (process[0] == REQUESTED || process[0] == PREPARING) -> cuts--; release(0) }
  :: atomic { cuts > 0 && !dead[1] && (process[1] == REQUESTED || process[1] == PREPARING) -> cuts--; release(1) }
  :: atomic { !dead[0] && process[0] == ALLOWED -> release(0) }
  :: atomic { !dead[1] && process[1] == ALLOWED -> release(1) }
#ifdef CRASH
  :: atomic { !died -> dies(0) }
  :: atomic { !died -> dies(1) }
#endif
  :: atomic { suspends == 0 && process[0] != ALLOWED && process[1] != ALLOWED -> break }
  od;
end:
  timeout;
settled:
  assert(SETTLED(0) && SETTLED(1));
  if
  :: atomic { process[0] == ALLOWED -> release(0) }
  :: atomic { process[1] == ALLOWED -> release(1) }
  :: else -> goto apart
  fi;
  goto end;
apart:
  /* Applications receive the waiting messages, and release borrowed ones. */
  atomic { taking = 1; unread[0] = 0; unread[1] = 0; spent[0] = 0; spent[1] = 0 };
  timeout;
  assert(GOOD(0) && GOOD(1))
}

init {
  atomic {
    linked[0] = 1;
    linked[1] = 1;
    out[0] = 1;
    out[1] = 1;
    run End(0);
    run End(1);
    run Operator()
  }
}

/*
 * Publish and consume: the ring (assembly/ring.ts), the ready bits and the sleeper (assembly/peers.ts), the doorbell.
 *
 * PRODUCERS processes write MESSAGES messages each, over a ring of WORDS words each, to one consumer, which polls, arms,
 * and sleeps. The words of the region are `mem`. A plain store goes to the store buffer of its processor first and becomes
 * visible to others at any later time; only stores to the same word stay in order (x86 would keep the order; C11 need not).
 * A sequentially consistent store, and a read-modify-write, waits until the buffer is empty; a load sees its own buffer.
 *
 * Requirements: the consumer gets every message, once, in order, with its own payload (assertions), and never sleeps
 * with a committed record and no producer about to ring (that would be an invalid end state: the fallback poll of 100 ms,
 * which would hide it, exists only after a crash).
 *
 * Each macro below removes one element of the protocol; model.test.ts shows that the protocol needs all of them.
 */

#ifndef PRODUCERS
#define PRODUCERS 2
#endif
#ifndef MESSAGES
#define MESSAGES 3
#endif
/* A power of two. From 8 on records have 1 or 2 words, header included, and there is padding; with 4 all have one. */
#ifndef WORDS
#define WORDS 4
#endif
/* How often the consumer itself waits for room in try_sleep: then its connection stays in the poll set, with a timer. */
#ifndef WANTS
#define WANTS 0
#endif

/* ── memory ── */

#define RING(r)    ((r) * (WORDS + 2))
#define AT(r, p)   (RING(r) + (p) % WORDS)
#define HEAD(r)    (RING(r) + WORDS)
#define ARMED(r)   (RING(r) + WORDS + 1)
/* Word of the ready bits that holds a connection's. SPLIT: each has its own. */
#ifdef SPLIT
#define WORD(r)    (r)
#else
#define WORD(r)    0
#endif
#define READY(w)   (PRODUCERS * (WORDS + 2) + (w))
#define SUMMARY    (PRODUCERS * (WORDS + 2) + PRODUCERS)
#define SLEEPING   (SUMMARY + 1)

byte mem[PRODUCERS * (WORDS + 2) + PRODUCERS + 2];

/* Store buffers: of producer r, and (the last) of the consumer. */
#define DEPTH 3
#define CONSUMER PRODUCERS
typedef Buffer { byte n; byte at[DEPTH]; byte value[DEPTH] };
Buffer buffer[PRODUCERS + 1];

/* A load: the newest in the own buffer, else the memory. */
#define LOAD(me, a) \
  ((buffer[me].n > 2 && buffer[me].at[2] == (a)) -> buffer[me].value[2] : \
   ((buffer[me].n > 1 && buffer[me].at[1] == (a)) -> buffer[me].value[1] : \
    ((buffer[me].n > 0 && buffer[me].at[0] == (a)) -> buffer[me].value[0] : mem[a])))

inline store_plain(me, a, v) {
  atomic {
    buffer[me].n < DEPTH ->
    buffer[me].at[buffer[me].n] = a;
    buffer[me].value[buffer[me].n] = v;
    buffer[me].n++
  }
}

inline store_seqcst(me, a, v) {
  atomic { buffer[me].n == 0 -> mem[a] = v }
}

inline or_seqcst(me, a, v) {
  atomic { buffer[me].n == 0 -> mem[a] = mem[a] | (v) }
}

inline exchange(me, a, v, old) {
  atomic { buffer[me].n == 0 -> old = mem[a]; mem[a] = v }
}

inline drain(me, i) {
  d_step {
    mem[buffer[me].at[i]] = buffer[me].value[i];
    if
    :: i < 1 && buffer[me].n > 1 -> buffer[me].at[0] = buffer[me].at[1]; buffer[me].value[0] = buffer[me].value[1]
    :: else
    fi;
    if
    :: i < 2 && buffer[me].n > 2 -> buffer[me].at[1] = buffer[me].at[2]; buffer[me].value[1] = buffer[me].value[2]
    :: else
    fi;
    buffer[me].n--;
    buffer[me].at[buffer[me].n] = 0;
    buffer[me].value[buffer[me].n] = 0
  }
}

/* Makes the stores of a processor visible, sooner or later. */
proctype Processor(byte me) {
end:
  do
  :: atomic { buffer[me].n > 0 -> drain(me, 0) }
  :: atomic { buffer[me].n > 1 && buffer[me].at[1] != buffer[me].at[0] -> drain(me, 1) }
  :: atomic { buffer[me].n > 2 && buffer[me].at[2] != buffer[me].at[0] && buffer[me].at[2] != buffer[me].at[1] ->
      drain(me, 2) }
  od
}

/* ── records ── */

/* A header: never 0, below PAYLOAD; it contains kind and position, as the real one does. */
#define ONE 0
#define TWO 1
#define PAD 2
#define HEADER(kind, p) (1 + (p) * 3 + (kind))
#define KIND(h)         (((h) - 1) % 3)
#define PLACE(h)        (((h) - 1) / 3)
#define PAYLOAD         100

/* The doorbell: a FIFO, of which only "has been rung" matters. */
bit bell;
/* Observer's state. */
byte committed[PRODUCERS];
bit through[PRODUCERS];
#ifdef CRASH
bit crashed;
#define OR_DIES :: atomic { r == 0 && !crashed -> crashed = 1; goto over }
#else
#define OR_DIES
#endif

/* Elements of the protocol: -D removes one. */
#ifdef PLAIN_PUBLISH
#define store_header store_plain
#else
#define store_header store_seqcst
#endif
#ifdef PLAIN_ARM
#define store_armed store_plain
#else
#define store_armed store_seqcst
#endif
#ifdef PLAIN_SLEEP
#define store_sleeping store_plain
#else
#define store_sleeping store_seqcst
#endif
#ifdef NO_ROOM_BEHIND
#define BEHIND 0
#else
#define BEHIND 1
#endif

/* One step of a producer, before which it may die. */
#define STEP if :: true OR_DIES fi

proctype Producer(byte r) {
  byte tail, head, pad, span, n, old;

  do
  :: n < MESSAGES ->
claim:
    if
    :: span = 1
#if WORDS >= 8
    :: span = 2
#endif
    fi;
    pad = (span > WORDS - tail % WORDS -> WORDS - tail % WORDS : 0);
    /* claim: with the last known head, else with the current one; else wait for room, with a timer (TX_WANTS_ROOM). */
    if
    :: tail + pad + span + BEHIND - head <= WORDS
    :: else ->
#ifdef ROOM_SLEEPS
      /* ... or for a doorbell that is never rung. */
      head = LOAD(r, HEAD(r));
      tail + pad + span + BEHIND - head <= WORDS
#else
      atomic { tail + pad + span + BEHIND - LOAD(r, HEAD(r)) <= WORDS -> head = LOAD(r, HEAD(r)) }
#endif
    fi;
payload:
    STEP;
    if
    :: span == 2 -> store_plain(r, AT(r, tail + pad + 1), PAYLOAD + n)
    :: else
    fi;
clear_next:
#ifndef NO_CLEAR
    STEP;
    store_plain(r, AT(r, tail + pad + span), 0);
#endif
publish:
    STEP;
#ifdef PAD_FIRST
    if
    :: pad > 0 -> store_header(r, AT(r, tail), HEADER(PAD, tail))
    :: else
    fi;
#endif
    atomic {
      store_header(r, AT(r, tail + pad), HEADER((span == 2 -> TWO : ONE), tail + pad));
      if
      :: pad == 0 -> committed[r]++
      :: else
      fi
    };
#ifndef PAD_FIRST
    if
    :: pad > 0 ->
      STEP;
      atomic { store_header(r, AT(r, tail), HEADER(PAD, tail)); committed[r]++ }
    :: else
    fi;
#else
    if
    :: pad > 0 -> committed[r]++
    :: else
    fi;
#endif
    tail = tail + pad + span;
    n++;
load_armed:
    STEP;
#ifdef NO_READY_BIT
    old = 0;
#else
    old = LOAD(r, ARMED(r));
#endif
    if
    :: old == 0
    :: else ->
#ifdef SLEEPING_FIRST
      old = LOAD(r, SLEEPING);
#endif
set_ready:
#ifdef SUMMARY_FIRST
      STEP;
      or_seqcst(r, SUMMARY, 1 << WORD(r));
#endif
      STEP;
      or_seqcst(r, READY(WORD(r)), 1 << r);
set_summary:
#ifndef SUMMARY_FIRST
      STEP;
      or_seqcst(r, SUMMARY, 1 << WORD(r));
#endif
load_sleeping:
      STEP;
#ifndef SLEEPING_FIRST
      old = LOAD(r, SLEEPING);
#endif
      if
      :: old != 0 ->
        STEP;
        exchange(r, SLEEPING, 0, old)
      :: else
      fi;
      if
      :: old != 0 ->
ring:
        STEP;
#ifndef NO_RING
        bell = 1
#endif
      :: else
      fi
    fi
  :: else -> break
  od;
over:
  atomic { through[r] = 1; tail = 0; head = 0; pad = 0; span = 0; old = 0 }
}

/* Whether everything that was committed has been consumed, and nothing more comes. */
#if PRODUCERS == 2
#define ALL_CONSUMED (through[0] && got[0] == committed[0] && through[1] && got[1] == committed[1])
#else
#define ALL_CONSUMED (through[0] && got[0] == committed[0])
#endif
#ifdef PLAIN_PUBLISH
#define NOT_YET_VISIBLE (buffer[0].n > 0 || buffer[PRODUCERS - 1].n > 0)
#else
#define NOT_YET_VISIBLE false
#endif

#define me CONSUMER
inline publish_head(r) {
  rx_head[r] = read[r];
  store_seqcst(me, HEAD(r), read[r])
}

proctype Consumer() {
  byte got[PRODUCERS], read[PRODUCERS], rx_head[PRODUCERS];
  bit polled[PRODUCERS], rx_armed[PRODUCERS];
  bit asleep, quiet, found;
  byte r, w, header, summary, bits;
  byte wants = WANTS;
  bit waits[PRODUCERS];

  atomic {
    r = 0;
    do
    :: r < PRODUCERS -> polled[r] = 1; r++
    :: else -> break
    od;
    r = 0
  };

poll:
  skip;
  if
  :: ALL_CONSUMED -> goto done
  :: else
  fi;
  /* poll() */
cancel_sleep:
  skip;
  if
  :: asleep -> asleep = 0; store_seqcst(me, SLEEPING, 0)
  :: else
  fi;
  summary = LOAD(me, SUMMARY);
  if
  :: summary != 0 ->
take_ready:
    skip;
#ifdef BITS_FIRST
    exchange(me, READY(0), 0, bits);
    exchange(me, SUMMARY, 0, summary);
#else
    exchange(me, SUMMARY, 0, summary);
#endif
    w = 0;
    do
    :: w < PRODUCERS && (summary & (1 << w)) != 0 ->
#ifndef BITS_FIRST
      exchange(me, READY(w), 0, bits);
#endif
      r = 0;
      do
      :: r < PRODUCERS && (bits & (1 << r)) != 0 ->
disarm:
        skip;
        if
        :: rx_armed[r] -> rx_armed[r] = 0; store_armed(me, ARMED(r), 0)
        :: else
        fi;
        polled[r] = 1;
        r++
      :: r < PRODUCERS && (bits & (1 << r)) == 0 -> r++
      :: r == PRODUCERS -> break
      od;
      bits = 0;
      w++
    :: w < PRODUCERS && (summary & (1 << w)) == 0 -> w++
    :: w == PRODUCERS -> break
    od;
    w = 0
  :: else
  fi;
  summary = 0;
  /* Read all records of the poll set. */
  found = 0;
  r = 0;
  do
  :: r < PRODUCERS && polled[r] ->
readable:
    header = LOAD(me, AT(r, read[r]));
    do
    :: header == 0 ->
      if
      :: read[r] != rx_head[r] ->
publish_head_when_empty:
        skip;
#ifndef HEAD_KEPT
        publish_head(r)
#endif
      :: else
      fi;
      break
    :: else ->
peek:
      found = 1;
      assert(header < PAYLOAD && PLACE(header) == read[r]);
      if
      :: KIND(header) == PAD ->
        read[r] = read[r] + WORDS - read[r] % WORDS;
        header = LOAD(me, AT(r, read[r]));
        assert(header != 0 && header < PAYLOAD && PLACE(header) == read[r] && KIND(header) != PAD)
      :: else
      fi;
      /* The consumer polls: it does not need the ready bit. */
      if
      :: rx_armed[r] -> rx_armed[r] = 0; store_armed(me, ARMED(r), 0)
      :: else
      fi;
      if
      :: KIND(header) == TWO -> assert(LOAD(me, AT(r, read[r] + 1)) == PAYLOAD + got[r])
      :: else
      fi;
release:
      got[r]++;
      read[r] = read[r] + 1 + KIND(header);
#ifndef HEAD_KEPT
      if
      :: (read[r] - rx_head[r]) * 8 > WORDS -> publish_head(r)
      :: else
      fi;
#endif
      header = LOAD(me, AT(r, read[r]))
    od;
    r++
  :: r < PRODUCERS && !polled[r] -> r++
  :: r == PRODUCERS -> break
  od;
  r = 0;
  if
  :: found -> found = 0; goto poll
  :: else
  fi;

try_sleep:
  quiet = 1;
  r = PRODUCERS;
  do
  :: r > 0 && polled[r - 1] ->
    r--;
arm:
    skip;
#ifndef HEAD_KEPT
    publish_head(r);
#endif
#ifdef ARM_AFTER_RECHECK
    header = LOAD(me, AT(r, read[r]));
    store_armed(me, ARMED(r), 1);
#else
    store_armed(me, ARMED(r), 1);
recheck_record:
#ifdef NO_RECHECK
    header = 0;
#else
    header = LOAD(me, AT(r, read[r]));
#endif
#endif
    if
    :: header != 0 -> quiet = 0; store_armed(me, ARMED(r), 0)
    :: else ->
      rx_armed[r] = 1;
      if
      :: polled[r] = 0
      :: wants > 0 -> wants--; waits[r] = 1
      fi
    fi;
    header = 0
  :: r > 0 && !polled[r - 1] -> r--
  :: r == 0 -> break
  od;
  if
  :: !quiet -> quiet = 0; goto poll
  :: else -> quiet = 0
  fi;
  if
  :: waits[0] || waits[PRODUCERS - 1] ->
quiet_until_timer:
    waits[0] = 0;
    waits[PRODUCERS - 1] = 0;
    goto poll
  :: else
  fi;

sleep:
  skip;
#ifdef SLEEP_AFTER_RECHECK
  summary = LOAD(me, SUMMARY);
  store_sleeping(me, SLEEPING, 1);
  asleep = 1;
#else
  store_sleeping(me, SLEEPING, 1);
  asleep = 1;
recheck_summary:
#ifdef NO_SUMMARY_RECHECK
  summary = 0;
#else
  summary = LOAD(me, SUMMARY);
#endif
#endif
  if
  :: summary != 0 -> summary = 0; asleep = 0; store_seqcst(me, SLEEPING, 0); goto poll
  :: else
  fi;

asleep_until_rung:
  skip;
  if
  :: atomic { bell -> bell = 0 }
  :: ALL_CONSUMED && !NOT_YET_VISIBLE -> goto done
#if defined(CRASH) && !defined(NO_FALLBACK_POLL)
  /* The fallback poll of host/polling/idle-strategy.ts: the producer that was to ring is dead. */
  :: atomic { crashed && !bell && !ALL_CONSUMED && timeout -> skip }
#endif
  fi;
  goto poll;

done:
  assert(ALL_CONSUMED)
}

init {
  byte i;
  atomic {
    do
    :: i < PRODUCERS -> run Producer(i); run Processor(i); i++
    :: else -> break
    od;
    run Processor(CONSUMER);
    run Consumer();
    i = 0
  }
}

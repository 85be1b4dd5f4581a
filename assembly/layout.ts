/**
 * Every offset and constant of the memory that the core works on, with drawings.
 *
 * Little-endian throughout. A word that another process reads or writes is naturally aligned. Words that one side
 * writes often lie LINE bytes from words that the other side writes: twice the cache line, because x86 fetches lines in
 * pairs.
 *
 * The host reads these constants from the module's exports and repeats none of them.
 */

//   ╒════════════════ the memory of an instance ═════════════════╕
//   │ statics of the module                          < PRIVATE   │ placed by asc; fits() checks the limit
//   ├────────────────────────────────────────────────────────────┤
//   │ PRIVATE   result of the last peek or claim                 │ read by the host
//   │ POLL_SET  indexes of the connections that poll() checks    │
//   │ TABLE     the connection table                             │ private: no peer can access it
//   │ OWNED     bitmap: frames of own extents                    │
//   │ USED      bitmap: own frames that are in a run             │
//   │ HEADS     bitmap: first frames of those runs               │
//   │ PENDING   bitmap: heads of runs given back while           │
//   │           their other half was still held                  │
//   ├────────────────────────────────────────────────────────────┤
//   │ WINDOW    the region                          <= 2 GiB     │ shared pages; private ones for loop and tcp
//   ╘════════════════════════════════════════════════════════════╛
export const PRIVATE: u32 = 0x010000;
export const POLL_SET: u32 = 0x011000;
export const TABLE: u32 = 0x020000;
export const OWNED: u32 = 0x120000;
export const USED: u32 = 0x130000;
export const HEADS: u32 = 0x140000;
export const PENDING: u32 = 0x150000;
export const BITMAP: u32 = 0x010000;
export const WINDOW: u32 = 0x160000;

/** The window ends at or below 2 GiB: Wasm passes addresses as i32, and each is to be positive. */
export const REGION_MAX: u32 = 0x80000000 - WINDOW;
export const REGION_MIN: u32 = 0x100000;

/** Distance between words that different sides write. */
export const LINE: u32 = 128;

//   ╒═══ result of peek and claim (private, u32 each) ═══╕
//   │  0 TYPE     net header: message type               │
//   │  4 XLENGTH  net header: bytes of the xheader       │
//   │  8 DLENGTH  net header: bytes of the data          │
//   │ 12 OFFSET   address of the bytes in this record    │
//   │ 16 LENGTH   their number                           │
//   │ 20 FLAGS    FIRST, LAST                            │
//   │ 24 FRAME    first frame of the adopted run         │
//   │ 28 BYTES    length of the message in it            │
//   ├────────────────────────────────────────────────────┤
//   │ 32 LOST     1: the window has lost its pages       │ written by the native part, read by the host
//   ╘════════════════════════════════════════════════════╛
export const RESULT_TYPE: u32 = PRIVATE;
export const RESULT_XLENGTH: u32 = PRIVATE + 4;
export const RESULT_DLENGTH: u32 = PRIVATE + 8;
export const RESULT_OFFSET: u32 = PRIVATE + 12;
export const RESULT_LENGTH: u32 = PRIVATE + 16;
export const RESULT_FLAGS: u32 = PRIVATE + 20;
export const RESULT_FRAME: u32 = PRIVATE + 24;
export const RESULT_BYTES: u32 = PRIVATE + 28;
/** On the cache line of the results, which the host reads for every message. */
export const LOST: u32 = PRIVATE + 32;
export const FLAG_FIRST: u32 = 1;
export const FLAG_LAST: u32 = 2;

// ─── the region ──────────────────────────────────────────────────────────────────────────────────────────────────────

//   ╒══════════════ region, from WINDOW on ══════════════╕
//   │ frame 0: header                                    │
//   │ peer table: SLOT_SIZE each                         │ from frame 1
//   │ extents: one u64 tag each                          │ from a frame boundary
//   │ frame map: two u64 tags for each frame             │ from a frame boundary
//   │ frames to allocate                                 │ from the next extent boundary
//   ╘════════════════════════════════════════════════════╛
//
// The numbers follow from the size alone (region.ts: geometry), so a header is only compared, never trusted.
export const FRAME: u32 = 4096;
export const FRAME_SHIFT: u32 = 12;

//   ╒═══════════ header ═══════════╕
//   │   0 u64 magic "ISTHMUS\0"    │ written last but one
//   │   8 u32 layout version       │ at this offset in every version
//   │  12 u32 state                │ CAS: BLANK → FORMATTING | kernel hash << 8 → READY
//   │  16 u64 size                 │ bytes
//   │  24 u32 bytes of a frame     │
//   │  28 u32 frames               │
//   │  32 u32 slots                │
//   │  36 u32 bytes of a slot      │
//   │  40 u32 offset of the slots  │
//   │  44 u32 offset of extents    │
//   │  48 u32 extents              │
//   │  52 u32 frames of an extent  │
//   │  56 u32 offset of frame map  │
//   │  60 u32 first free extent    │
//   │  64 u8[16] UUID              │
//   │  80 u8[64] host name         │ NUL-padded UTF-8: host of the formatter
//   ╘══════════════════════════════╛
export const MAGIC: u64 = 0x0053554d48545349; // "ISTHMUS\0"
export const LAYOUT_VERSION: u32 = 1;
export const HEADER_MAGIC: u32 = WINDOW;
export const HEADER_VERSION: u32 = WINDOW + 8;
export const HEADER_STATE: u32 = WINDOW + 12;
export const HEADER_SIZE: u32 = WINDOW + 16;
export const HEADER_FRAME: u32 = WINDOW + 24;
export const HEADER_FRAMES: u32 = WINDOW + 28;
export const HEADER_SLOTS: u32 = WINDOW + 32;
export const HEADER_SLOT: u32 = WINDOW + 36;
export const HEADER_SLOTS_AT: u32 = WINDOW + 40;
export const HEADER_EXTENTS_AT: u32 = WINDOW + 44;
export const HEADER_EXTENTS: u32 = WINDOW + 48;
export const HEADER_EXTENT: u32 = WINDOW + 52;
export const HEADER_MAP_AT: u32 = WINDOW + 56;
export const HEADER_FIRST: u32 = WINDOW + 60;
export const HEADER_UUID: u32 = WINDOW + 64;
export const HEADER_HOST: u32 = WINDOW + 80;
export const HEADER_HOST_LENGTH: u32 = 64;

export const REGION_BLANK: u32 = 0;
export const REGION_FORMATTING: u32 = 1;
export const REGION_READY: u32 = 2;

//   ╒═══════════════ slot ═══════════════╕
//   │    0 u64 word                      │ CAS; generation u32 │ kernel hash u24 │ state u8
//   │    8 u64 heartbeat                 │ counts up while the owner runs
//   │   16 u64 instance id               │ random
//   │   24 u64 dev of the backing        │ ┐
//   │   32 u64 ino of the backing        │ ├ same kernel, same file: the owner's lock can be tested
//   │   40 u8[16] boot id                │ ┘
//   │   56 u64 pid namespace             │ for display
//   │   64 u32 pid                       │ for display
//   │   68 u32 connections               │ for display
//   │   72 u8[56]                        │
//   ├────────────────────────────────────┤
//   │  128 u8[64] host name              │ NUL-padded UTF-8
//   │  192 u8[64] runtime name           │
//   ├────────────────────────────────────┤
//   │  256 u32 sleeping                  │ owner sets, the peer that rings clears
//   │  260 u8[124]                       │
//   ├────────────────────────────────────┤
//   │  384 u64 summary of the ready bits │ peers set, owner clears
//   │  392 u8[120]                       │
//   │  512 u64[64] ready bits            │ one for each connection of the owner
//   ╘════════════════════════════════════╛
export const SLOT_SIZE: u32 = 1024;
export const SLOTS_MAX: u32 = 256;
export const SLOT_WORD: u32 = 0;
export const SLOT_HEARTBEAT: u32 = 8;
export const SLOT_INSTANCE: u32 = 16;
export const SLOT_DEV: u32 = 24;
export const SLOT_INO: u32 = 32;
export const SLOT_BOOT: u32 = 40;
export const SLOT_PIDNS: u32 = 56;
export const SLOT_PID: u32 = 64;
export const SLOT_CONNECTIONS: u32 = 68;
export const SLOT_HOST: u32 = 128;
export const SLOT_NAME: u32 = 192;
export const SLOT_TEXT_LENGTH: u32 = 64;
export const SLOT_SLEEPING: u32 = 256;
export const SLOT_SUMMARY: u32 = 384;
export const SLOT_READY: u32 = 512;

export const SLOT_FREE: u32 = 0;
export const SLOT_CLAIMED: u32 = 1;
export const SLOT_ATTACHED: u32 = 2;
export const SLOT_DEAD: u32 = 3;
/**
 * Fenced: perhaps only paused. It may begin nothing; what it holds stays its own until it leaves or is declared dead.
 */
export const SLOT_FENCED: u32 = 4;

/**
 * Bytes of the backing file that are locked besides one for each slot: by the formatter, by the server, and while a
 * process creates, joins or removes the file of `shm`. A process that holds a lock below LOCK_LIFECYCLE uses the
 * region.
 */
export const LOCK_FORMAT: u32 = 1024;
export const LOCK_SERVER: u32 = 1025;
export const LOCK_LIFECYCLE: u32 = 1026;

//   ╒════ tag (u64), of an extent or of one half of a run ═════╕
//   │ generation u32 │ kind u2 │ slot u10 │ frames u20          │ 0: free
//   ╘══════════════════════════════════════════════════════════╛
export const KIND_HELD: u32 = 1;
export const KIND_OFFERED: u32 = 2;
/** Tag of the extents under header and tables. */
export const TAG_RESERVED: u64 = 0xffffffffffffffff;
/** In the frame map: the half of the reader of the run, and of its writer. */
export const HALF_CONSUMER: u32 = 0;
export const HALF_PRODUCER: u32 = 8;
export const HALVES: u32 = 16;

// ─── a ring ──────────────────────────────────────────────────────────────────────────────────────────────────────────

//   ╒═════════ ring: a run of 1 + capacity / FRAME frames ═════════╕
//   │    0 u64 nonce         │ consumer, once: of the handshake      │
//   │    8 u32 capacity      │ consumer, once: power of two          │
//   │   12 u32 ready index   │ consumer, once: its ready bit         │
//   │   16 u32 start         │ consumer, once: first position        │
//   ├────────────────────────┼───────────────────────────────────────┤
//   │  128 u32 tail          │ producer, at each commit; for display │
//   ├────────────────────────┼───────────────────────────────────────┤
//   │  256 u32 head          │ consumer: reusable up to here         │
//   ├────────────────────────┼───────────────────────────────────────┤
//   │  384 u32 armed         │ consumer: asks for its ready bit      │
//   │  388 u32 receive mode  │ consumer: RECEIVE_MODE_…              │
//   ├────────────────────────┼───────────────────────────────────────┤
//   │ 4096 records           │                                       │
//   ╘════════════════════════╧═══════════════════════════════════════╛
//
// Positions are u32 and wrap; capacity is a power of two, so a position is at offset position & (capacity - 1).
export const RING_NONCE: u32 = 0;
export const RING_CAPACITY: u32 = 8;
export const RING_READY: u32 = 12;
export const RING_START: u32 = 16;
export const RING_TAIL: u32 = 128;
export const RING_HEAD: u32 = 256;
export const RING_ARMED: u32 = 384;
export const RING_RECEIVE_MODE: u32 = 388;
/** The consumer copies messages out: pieces are as good as a whole. */
export const RECEIVE_MODE_COPY: u32 = 1;
/** The consumer reads messages in place: each should be in one piece. */
export const RECEIVE_MODE_IN_PLACE: u32 = 2;
export const RING_DATA: u32 = FRAME;
export const RING_MIN: u32 = 4096;
export const RING_MAX: u32 = 0x4000000;

//   ╒════════════════ record, 8-byte aligned ════════════════╕
//   │ u32 length of the payload │ u24 position / 8 │ u8 kind │ 0: not committed yet
//   │ payload                                               │
//   ╘═══════════════════════════════════════════════════════╛
//
// The word after the last record is always 0: the producer clears it before it publishes that record. So a consumer
// polls the record itself, and a message costs the transfer of one cache line; a tail word would cost a second.
export const RECORD_HEADER: u32 = 8;
export const RECORD_PAD: u32 = 1;
export const RECORD_FIRST: u32 = 2;
export const RECORD_MORE: u32 = 3;

//   ╒══════════ net header: first 8 bytes of a FIRST record ══════════╕
//   │ u16 message type │ u16 bytes of xheader │ u32 bytes of data     │ as on the wire (docs/protocol.md, "Phase 2: messages")
//   ╘═════════════════════════════════════════════════════════════════╛
export const NET_HEADER: u32 = 8;
export const MESSAGE_USER: u32 = 0;
export const MESSAGE_RMA_WRITE: u32 = 1;
export const MESSAGE_RMA_READ: u32 = 2;
export const MESSAGE_RMA_READ_ANSWER: u32 = 3;
export const MESSAGE_RENDEZVOUS_REQ: u32 = 4;
export const MESSAGE_RENDEZVOUS_FIN: u32 = 5;
export const MESSAGE_BCAST: u32 = 6;
export const MESSAGE_BARRIER: u32 = 7;
export const MESSAGE_EOF: u32 = 8;
export const MESSAGE_SHUTDOWN_REQ: u32 = 9;
export const MESSAGE_SHUTDOWN_ACK: u32 = 10;
export const MESSAGE_SUSPEND: u32 = 11;

// ─── a run of an application ─────────────────────────────────────────────────────────────────────────────────────────

//   ╒═══════ run: 1 + n frames; the first has the grants ═══════╕
//   │ 0 u64 token            │ 0: free; stored last             │
//   │ 8 u32 offset           │ of the granted range, from the   │
//   │                        │ end of the first frame           │
//   │ 12 u32 length          │ of the granted range             │
//   │ 16 u32 rights          │ GRANT_READ, GRANT_WRITE          │
//   ╘═══════════════════════════════════════════════════════════╛
export const GRANT_SIZE: u32 = 32;
export const GRANTS: u32 = FRAME / GRANT_SIZE;
export const GRANT_TOKEN: u32 = 0;
export const GRANT_OFFSET: u32 = 8;
export const GRANT_LENGTH: u32 = 12;
export const GRANT_RIGHTS: u32 = 16;
export const GRANT_READ: u32 = 1;
export const GRANT_WRITE: u32 = 2;

//   ╒══ data of a RENDEZVOUS_REQ with a reference, unaligned ═══╕
//   │  0 u64 id              │ for the FIN                      │
//   │  8 u64 token           │ equal to id: adopted, no FIN     │
//   │ 16 u32 length          │ of the message                   │
//   │ 20 u32 frame           │ first of the run                 │
//   │ 24 u32 place           │ of the grant                     │
//   ╘═══════════════════════════════════════════════════════════╛
export const REQUEST_TOKEN: u32 = 8;
export const REQUEST_LENGTH: u32 = 16;
export const REQUEST_FRAME: u32 = 20;
export const REQUEST_PLACE: u32 = 24;
export const REQUEST_SIZE: u32 = 28;

// ─── a connection ────────────────────────────────────────────────────────────────────────────────────────────────────

//   ╒═══════════════════ connection (private) ════════════════════╕
//   │   0 u32 state          │   4 u32 failure   │ 8 u32 ignored  │ connection.ts
//   │  12 u32 index in POLL_SET + 1, or 0                         │ peers.ts
//   ├── transmit: this side is the producer ──────────────────────┤
//   │  16 u32 ring           │  20 u32 mask (capacity - 1)        │
//   │  24 u32 tail           │  28 u32 cached head                │
//   │  32 u32 claimed: payload bytes of the open claim            │
//   │  36 u32 claimed: bytes of padding before it                 │
//   │  40 u64 body bytes of the current message not yet claimed   │
//   │  48 u32 slot of the peer │ 52 u32 ready index there         │
//   │  56 u32 claimed: kind of record                             │
//   │  60 u32 wants room: poll() reports it                       │
//   ├── receive: this side is the consumer ───────────────────────┤
//   │  64 u32 ring           │  68 u32 mask                       │
//   │  72 u32 read position  │  76 u32 published head             │
//   │  80 u32 span of the peeked record │ 84 u32 armed            │
//   │  88 u64 body bytes of the current message not yet peeked    │
//   │  96 u64 net header of the current message                   │
//   │ 104 u32 body bytes in the peeked record                     │
//   │ 108 u32 holds: while not 0, only the host publishes the head│
//   ├── stream decoder ───────────────────────────────────────────┤
//   │ 112 u8[8] net header as far as received                     │
//   │ 120 u32 bytes of it    │ 124 u32 in the body: 1             │
//   ├── counters ─────────────────────────────────────────────────┤
//   │ 128 u64 messages sent     │ 136 u64 body bytes sent         │
//   │ 144 u64 messages received │ 152 u64 body bytes received     │
//   │ 160 u64 claims refused (ring full)                          │
//   ├── frames ───────────────────────────────────────────────────┤
//   │ 168 u32 frame of the receive ring (own)                     │
//   │ 172 u32 frame of the transmit ring (the peer's)             │
//   │ 176 u32 slot of its owner          │ 180 u32 generation     │
//   │ 184 u32 bytes that the last refused claim needed            │
//   │ 188 u32 most bytes in a record of the current message       │
//   ╘═════════════════════════════════════════════════════════════╛
export const CONNECTIONS: u32 = 4096;
export const CONNECTION_SIZE: u32 = 256;
export const C_STATE: u32 = 0;
export const C_FAILURE: u32 = 4;
export const C_IGNORED: u32 = 8;
export const C_POLL_PLACE: u32 = 12;
export const TX_RING: u32 = 16;
export const TX_MASK: u32 = 20;
export const TX_TAIL: u32 = 24;
export const TX_HEAD: u32 = 28;
export const TX_CLAIMED: u32 = 32;
export const TX_PAD: u32 = 36;
export const TX_REST: u32 = 40;
export const TX_SLOT: u32 = 48;
export const TX_READY: u32 = 52;
export const TX_KIND: u32 = 56;
export const TX_WANTS_ROOM: u32 = 60;
export const RX_RING: u32 = 64;
export const RX_MASK: u32 = 68;
export const RX_READ: u32 = 72;
export const RX_HEAD: u32 = 76;
export const RX_SPAN: u32 = 80;
export const RX_ARMED: u32 = 84;
export const RX_REST: u32 = 88;
export const RX_NET: u32 = 96;
export const RX_BODY: u32 = 104;
export const RX_HOLDS: u32 = 108;
export const DECODE_HEADER: u32 = 112;
export const DECODE_HAVE: u32 = 120;
export const DECODE_BODY: u32 = 124;
export const COUNT_SENT: u32 = 128;
export const COUNT_SENT_BYTES: u32 = 136;
export const COUNT_RECEIVED: u32 = 144;
export const COUNT_RECEIVED_BYTES: u32 = 152;
export const COUNT_FULL: u32 = 160;
export const RX_FRAME: u32 = 168;
export const TX_FRAME: u32 = 172;
export const TX_OWNER: u32 = 176;
export const TX_OWNER_GENERATION: u32 = 180;
export const TX_NEED: u32 = 184;
export const TX_PIECE: u32 = 188;
/** Fewer released bytes than capacity >> this are not published at once, but when the ring is next found empty. */
export const PUBLISH_SHIFT: u32 = 3;
/** A record is at most (capacity >> this) + RECORD_EXTRA: a fragment and its padding always fit into an empty ring. */
export const RECORD_SHIFT: u32 = 2;
/** Room for headers and a short xheader, so that data of a power of two goes in one record. */
export const RECORD_EXTRA: u32 = 64;
/**
 * A message for a consumer that waits for it and copies it out goes in records of an eighth (body >> this), so that one
 * is copied out while the next is written. No such record is smaller than PIECE_MIN; a body of up to twice that goes in
 * one record.
 */
export const PIECE_SHIFT: u32 = 3;
export const PIECE_MIN: u32 = 8192;

export const STATE_FREE: u32 = 0;
export const STATE_OPENING: u32 = 1;
export const STATE_OPEN: u32 = 2;
/** This side sent EOF. */
export const STATE_CLOSING: u32 = 3;
/** The peer sent EOF. */
export const STATE_PEER_CLOSED: u32 = 4;
/** Both sides sent EOF. */
export const STATE_CLOSED: u32 = 5;
/** The peer violated the protocol, or is gone. */
export const STATE_BROKEN: u32 = 6;
export const STATES: u32 = 7;

export const EVENT_OPEN: u32 = 0;
export const EVENT_EOF_SENT: u32 = 1;
export const EVENT_EOF_RECEIVED: u32 = 2;
export const EVENT_FAIL: u32 = 3;
export const EVENTS: u32 = 4;

// States of a process in a migration, as in pscom.
export const MIGRATION_INACTIVE: u32 = 0;
export const MIGRATION_REQUESTED: u32 = 1;
/** Connections are being suspended. */
export const MIGRATION_PREPARING: u32 = 2;
/** The process holds nothing of a device. */
export const MIGRATION_ALLOWED: u32 = 3;
/** The process attaches to devices again. */
export const MIGRATION_FINISHED: u32 = 4;
/** Connections are being resumed. */
export const MIGRATION_RESUMING: u32 = 5;
export const MIGRATION_STATES: u32 = 6;

export const MIGRATION_EVENT_REQUEST: u32 = 0;
export const MIGRATION_EVENT_PREPARE: u32 = 1;
export const MIGRATION_EVENT_ALLOW: u32 = 2;
/** The deadline has passed, or a connection cannot be suspended. */
export const MIGRATION_EVENT_FAIL: u32 = 3;
export const MIGRATION_EVENT_RESUME: u32 = 4;
export const MIGRATION_EVENT_ATTACHED: u32 = 5;
export const MIGRATION_EVENT_BACK: u32 = 6;
export const MIGRATION_EVENTS: u32 = 7;

// Reasons why a connection is broken.
export const FAILURE_NONE: u32 = 0;
/** The head that the consumer published is not between the last known one and the tail. */
export const FAILURE_HEAD: u32 = 1;
/** A record header has an invalid length, kind or position. */
export const FAILURE_RECORD: u32 = 2;
/** A first record is too short for its net header, or fragments do not add up to the announced length. */
export const FAILURE_MESSAGE: u32 = 3;
/** The application or the guard reported the peer as gone. */
export const FAILURE_LOST: u32 = 4;

// Results of peek and claim besides an address.
export const NOTHING: u32 = 0;
export const BROKEN: u32 = 0xffffffff;

// Results of commit(): see framing.ts.
export const COMMIT_POLLED: u32 = 0;
export const COMMIT_READY_SET: u32 = 1;
export const COMMIT_ASLEEP: u32 = 2;

// Results of trySleep(): see peers.ts.
export const SLEEP_BUSY: u32 = 0;
export const SLEEP_QUIET: u32 = 1;
export const SLEEP_ASLEEP: u32 = 2;

// Results of decoded(): see framing.ts.
export const DECODED_RECORD: u32 = 1;
export const DECODED_EMPTY: u32 = 2;

// Results of inspect(): what the bytes in the window are.
export const INSPECT_READY: u32 = 0;
export const INSPECT_BLANK: u32 = 1;
export const INSPECT_FORMATTING: u32 = 2;
export const INSPECT_VERSION: u32 = 3;
export const INSPECT_FOREIGN: u32 = 4;
export const INSPECT_CORRUPT: u32 = 5;
export const INSPECT_SIZE: u32 = 6;

// Results of attachRing().
export const ATTACH_OK: u32 = 0;
/** In this memory, that slot and generation offers no such run. */
export const ATTACH_OFFER: u32 = 1;
/** The run is offered, but the nonce differs: this is a copy of the peer's region, not the same one. */
export const ATTACH_NONCE: u32 = 2;
/** Capacity or ready index is invalid. */
export const ATTACH_SHAPE: u32 = 3;

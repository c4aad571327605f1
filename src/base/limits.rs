//! Bounds that are not configuration: each with its unit and its reason.

/// CLIENT IDs begin somewhere in here, and end below 2^46: JavaScript keeps integers below 2^53, Lua prints no more
/// than 14 digits. There is room for 2^40 children behind the last of these.
pub const CHILD_ID_BASE: std::ops::Range<u64> = 1 << 40..(1 << 46) - (1 << 40);
/// Bytes read from one socket in one turn. One shared buffer of this size serves every read.
pub const READ_TURN: usize = 64 * 1024;
/// Connections accepted from one listener in one turn, so that a connect storm leaves room for traffic.
pub const ACCEPT_TURN: usize = 256;
/// Sockets taken from adopted children in one turn, for the same reason.
pub const HANDED_TURN: usize = 64;
/// Sockets taken with one read: whoever hands over more at once loses the rest. It sends them one by one.
pub const HANDED_READ: usize = 16;
/// Connections that may wait in the kernel for `accept`. 1,000 children may connect at once; the kernel
/// itself caps this at `net.core.somaxconn`.
pub const LISTEN_BACKLOG: i32 = 4096;
/// Replies nest at most this deep; deeper is treated as a desync. Above what a script can return: Lua's own
/// stack ends at 8000. Else any child could break the lane it shares.
pub const REPLY_DEPTH: usize = 8192;
/// Redis' `proto-max-bulk-len`: a longer argument is a protocol error, as in Redis.
pub const BULK_MAX: u64 = 512 * 1024 * 1024;
/// Bytes of a request beyond `child_input_max`, for its name, its keys and its framing.
pub const REQUEST_WORDS: usize = 64 * 1024;
/// A header or inline line without its end may not grow past this, as in Redis (`PROTO_INLINE_MAX_SIZE`).
pub const LINE_MAX: usize = 64 * 1024;
/// Unread replies above which a child's requests are no longer run: it must take answers first.
pub const CHILD_OUTPUT_PAUSE: usize = 1024 * 1024;
/// Bytes of requests read from such a child all the same. Clients write a whole pipeline before they read a
/// reply; with less room here than the pipeline has bytes, each side would wait for the other to read. Beyond, only a
/// child is read that takes no reply at all, up to `child_input_max` bytes.
pub const CHILD_READ_AHEAD: usize = 64 * 1024 * 1024;
/// A child that has taken no byte of its replies for so many milliseconds is taken to be in the middle of a write.
pub const READ_AHEAD_PATIENCE: u64 = 100;
/// Bytes of requests one child may run before the next child has its turn, so that a deep pipeline is woven into
/// the others' instead of standing in front of them.
pub const CHILD_TURN: i64 = 16 * 1024;
/// What the smallest request counts against its child's turn, in bytes: 32 of them are one.
pub const REQUEST_COST_MIN: i64 = 512;
/// The same for all children together, between two looks at the sockets: somebody who has just come must not wait for
/// all that was read before.
pub const RUN_TURN: i64 = 1024 * 1024;
/// Children in line that have their turn all the same, where those who have just been read have used that up.
pub const RUN_LEAST: usize = 32;
/// What looking a child up, or passing over one, counts against a turn: less than a tenth of a small request.
pub const LOOK_COST: usize = 32;
/// A request or a reply of so many bytes goes on a lane for such: what stands behind it would wait for longer than
/// behind a thousand small ones.
pub const BULK_MIN: usize = 256 * 1024;
/// Short replies in a row after which a command that was once answered at length is no longer expected to be. A
/// child that gets both by turns would else change lanes, and wait for what is in flight, every time.
pub const BULK_PATIENCE: u8 = 16;
/// A lane without a reply for so many milliseconds has the upstream asked whether a script keeps it busy.
pub const BUSY_PROBE: u64 = 250;
/// A command that has kept the upstream from everything else for so many milliseconds is expected to do so again.
pub const SLOW_MIN: u64 = 1000;
/// A canary without an answer is followed by another one after so many milliseconds.
pub const CANARY_PATIENCE: u32 = 1000;
/// Bytes a lane may owe its socket before the children that use it have to wait. A single larger request
/// still passes whole.
pub const LANE_WINDOW: usize = 4 * 1024 * 1024;
/// Upstream connections no lease may take, so that each kind of work can always go on: one for control and
/// one shared lane (transactions), one more (sessions), one more (blocking commands).
pub const PLACES_KEPT_FROM_TRANSACTIONS: usize = 2;
/// See [`PLACES_KEPT_FROM_TRANSACTIONS`].
pub const PLACES_KEPT_FROM_SESSIONS: usize = 3;
/// See [`PLACES_KEPT_FROM_TRANSACTIONS`].
pub const PLACES_KEPT_FROM_BLOCKING: usize = 4;
/// A busy shared lane gives up its connection to a waiting one only after holding it this long, in
/// milliseconds: connecting costs more than a request.
pub const LANE_HOLD_MIN: u64 = 20;
/// A connection given up is closed when the upstream has closed its side, or after this many milliseconds.
/// Until then it counts against `upstream_connections_max`, since the upstream counts it too.
pub const LEAVE_MAX: u64 = 1000;
/// First delay before an upstream is dialled again, in milliseconds; doubles up to `reconnect_backoff_max`.
pub const BACKOFF_FIRST: u64 = 10;
/// A blocking command whose child ends its sending side right behind it is given this many milliseconds to
/// be answered at once. No longer: an element popped for a child that has died is lost.
pub const BLOCKED_END_GRACE: u64 = 20;
/// A blocking command waits for a lease so many milliseconds longer than for an element: what is there already
/// is to be delivered however short its own timeout, and a connection is opened within this time.
pub const LEASE_GRACE: u64 = 40;
/// A leased connection nobody has borrowed for so many milliseconds is closed, but for `leases_warm`: long enough for
/// a worker that asks again and again, and no longer, since Redis counts it.
pub const LEASE_LINGER: u64 = 3_000;
/// A CLIENT UNBLOCK that overtook the command it was to end is asked again after this many milliseconds.
pub const UNBLOCK_RETRY: u64 = 5;
/// Period of the janitor, in milliseconds: while work is under way, and while nothing is.
pub const JANITOR_BUSY: u64 = 100;
/// See [`JANITOR_BUSY`].
pub const JANITOR_IDLE: u64 = 1000;
/// Heap bytes that must have come free before the program is told to give them back to the system: below
/// this it is not worth a walk over the heap.
pub const TRIM_MIN: usize = 128 * 1024;
/// The program is told so at most this often, in milliseconds: a load that swings would only fault its pages
/// in again.
pub const TRIM_INTERVAL: u64 = 1000;
/// Subscriptions of one child. Redis has no such bound; here each costs an entry beside those of all other
/// children, and leaving all of them is one turn's work.
pub const CHILD_TOPICS_MAX: usize = 256 * 1024;
/// A longer command name is unknown without asking: Redis has none, and the question is paid for by all.
pub const COMMAND_NAME_MAX: usize = 128;
/// Connections of a user of the upstream, and its password, are kept this many milliseconds after the last
/// child that was it: processes that live for one request each would cost the upstream a connection each.
pub const USER_LINGER: u64 = 5_000;
/// What the upstream has said about a user's rights holds for this many milliseconds: they may change at any
/// time, and nobody tells.
pub const RIGHTS_FRESH: u64 = 1_000;
/// A newcomer that says nothing is the upstream's default user if that needed no password at most this many
/// milliseconds ago: it may be given one at any time, and nobody tells.
pub const DEFAULT_FRESH: u64 = 100;
/// Passwords of one user of the upstream that are in use at once: each has connections of its own.
pub const USER_PASSWORDS_MAX: usize = 16;
/// Bytes of a name or a password. Redis reads no longer argument from a connection that has not said who it is, so no
/// connection upstream could be greeted with it.
pub const CREDENTIAL_MAX: usize = 16 * 1024;
/// Wrong passwords from one place that cost no time: people mistype, and secrets are rotated.
pub const GUESSES_FREE: u32 = 3;
/// How many are counted.
pub const GUESSES_COUNTED: u32 = 8;
/// What the next one costs then, in milliseconds; it doubles with each up to `GUESS_DELAY_MAX`.
pub const GUESS_DELAY: u64 = 100;
/// Long enough that trying finds no password that is one, short enough for somebody honest from the same place.
pub const GUESS_DELAY_MAX: u64 = 400;
/// One wrong password is forgiven every so many milliseconds.
pub const GUESS_FORGIVEN: u64 = 5_000;
/// Places of which wrong passwords are remembered; the most patient attacker is the last to be forgotten.
pub const GUESS_SOURCES_MAX: usize = 1024;
/// Right names and passwords remembered of one place, as hashes.
pub const GUESSES_RIGHT: usize = 32;
/// Who holds the leases is looked up at most this often, in milliseconds: many may be refused at once.
pub const HOLDERS_FRESH: u64 = 1_000;
/// The log tells of children refused at most this often, in milliseconds: it looks at all who are there.
pub const REFUSED_LOG_INTERVAL: u64 = 10_000;
/// Bytes written to one socket in one turn, so that whoever takes a huge reply does not hold the loop.
pub const WRITE_TURN: usize = 1024 * 1024;
/// Events taken from the poll in one turn; more wait in the kernel for the next.
pub const EVENTS_TURN: usize = 1024;
/// Pause after the system has refused an accept for want of descriptors or memory, in milliseconds, unless
/// a connection is closed before.
pub const ACCEPT_PAUSE: u64 = 100;
/// Reads from one child when a drain begins: more than a socket's buffer holds by default (6 MiB for TCP).
pub const DRAIN_READS: usize = 128;
/// The upstream's name is looked up at most this often, in milliseconds: many lanes may be dialled at once.
pub const RESOLVE_INTERVAL: u64 = 1000;
/// A look-up that has not ended after so many milliseconds is not waited for any more: whoever was at it may have stayed
/// behind in another process. Longer than the system's resolver takes to give up.
pub const RESOLVE_PATIENCE: u64 = 60_000;
/// A connection that was not read for so many milliseconds is quiet, and looked at once more if its last read may have
/// left something behind.
pub const QUIET_AFTER: u64 = 100;
/// Reads that ask whether something came with the bytes, after one of which that was so: more may come soon.
pub const ASKING_READS: u32 = 32;
/// Log lines that one place in the code writes within `LOG_INTERVAL`; the others are counted, and summed up in one
/// line. Most of them can be caused by a child, as fast as it likes.
pub const LOG_LINES: u32 = 10;
/// See [`LOG_LINES`]; milliseconds.
pub const LOG_INTERVAL: u64 = 10_000;
/// Log lines that one thread keeps until its step is done; those beyond are counted.
pub const LOG_QUEUE: usize = 1000;
/// Bytes of one log line; what it quotes may be much longer.
pub const LOG_LINE_MAX: usize = 2048;

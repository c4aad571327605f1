//! Bounds that are not configuration: each with its unit and its reason.

/// CLIENT IDs begin somewhere in here, and end below 2^46: JavaScript keeps integers below 2^53, Lua prints no more
/// than 14 digits. There is room for 2^40 children behind the last of these.
pub const CHILD_ID_BASE: std::ops::Range<u64> = 1 << 40..(1 << 46) - (1 << 40);
/// No CLIENT ID is as high: see above.
pub const CHILD_ID_MAX: u64 = 1 << 46;
/// Places in lines that another process may still give out, while those given out here are higher.
pub const TICKETS_APART: u64 = 1 << 40;
/// Children that are looked at in one turn for those that can go to another process.
pub const MOVES_LOOKS: usize = 256;
/// Children that go to another process at a time: their images make one step. The system takes 253 descriptors a message.
pub const MOVES_BATCH: usize = 64;
/// Bytes that they have between them, but for one that has more alone.
pub const MOVES_BYTES: usize = 1024 * 1024;
/// For how long a broker that ends gives children to a store, and waits for some to come to rest, ms: less than the spare time
/// that the service manager is asked for.
pub const STORE_MAX: u64 = 3000;
/// Bytes read from one socket in one turn. One shared buffer of this size serves every read.
pub const READ_TURN: usize = 64 * 1024;
/// Reads of one lane in one turn, if each finds as much as it takes.
pub const LANE_READS: usize = 32;
/// Connections accepted from one listener in one turn, so that a connect storm leaves room for traffic.
pub const ACCEPT_TURN: usize = 256;
/// Sockets taken from adopted children in one turn, for the same reason.
pub const HANDED_TURN: usize = 64;
/// Sockets taken with one read: a child that hands over more at once loses the rest, so it sends them one by one.
pub const HANDED_READ: usize = 16;
/// Connections that may wait in the kernel for `accept`: 1,000 children may connect at the same time. The kernel
/// itself caps this at `net.core.somaxconn`.
pub const LISTEN_BACKLOG: i32 = 4096;
/// Replies nest at most this deep; deeper nesting is treated as a desync. This is above what a script can return, since
/// Lua's own stack ends at 8000: otherwise any child could break the lane it shares.
pub const REPLY_DEPTH: usize = 8192;
/// Redis' `proto-max-bulk-len`: a longer argument is a protocol error, as in Redis.
pub const BULK_MAX: u64 = 512 * 1024 * 1024;
/// Bytes of a request beyond `child_input_max`, for its name, its keys and its framing.
pub const REQUEST_WORDS: usize = 64 * 1024;
/// A header or inline line without its end may not grow past this, as in Redis (`PROTO_INLINE_MAX_SIZE`).
pub const LINE_MAX: usize = 64 * 1024;
/// A frame of this many bytes is handed on in its own memory rather than copied: whatever holds it shares it.
pub const FRAGMENT_MIN: usize = 16 * 1024;
/// A request of which fewer bytes than these are known has room without asking: the first part of any.
pub const INTAKE_FREE: usize = 8 * 1024;
/// A request that has come in part and no further for this many milliseconds, while others wait for room, is given up.
pub const INTAKE_PATIENCE: u64 = 5_000;
/// Eighths of `memory_max` from which on a lane is not read whose long reply is not taken. It is read again below one less.
pub const STANDING_SHORT: usize = 6;
/// Bytes that a child may leave unread all the same: so that it always has something to take.
pub const STANDING_UNREAD: usize = BULK_MIN;
/// Requests behind the reply that are looked at: where there are more, somebody's short one is among them.
pub const STANDING_BEHIND: usize = 64;
/// So many lanes for what is short may be slow at once, each with another in its place.
pub const SLOW_LANES: usize = 4;
/// Bytes of one reply after which its lane is slow, if it is one for what is short: at a hundred megabytes a second, 40 ms.
pub const SLOW_REPLY: usize = 4 * 1024 * 1024;
/// Milliseconds in which whoever has a lane stand still must take `STANDING_TAKES_MIN` bytes.
pub const STANDING_PATIENCE: u64 = 5_000;
/// See [`STANDING_PATIENCE`].
pub const STANDING_TAKES_MIN: u64 = 64 * 1024;
/// Requests on one lane of children that have just come: how long the replies to them may be nobody knows. The others wait.
/// So many for each millisecond that the upstream is away: fewer would leave it idle.
pub const LANE_NEWCOMERS: usize = if cfg!(test) { 12 } else { 16 };
/// Unread replies, bytes, above which a child's requests no longer run: it must read replies first.
pub const CHILD_OUTPUT_PAUSE: usize = 1024 * 1024;
/// Bytes of requests still read from such a child. Clients write a whole pipeline before they read a reply; if the pipeline
/// were longer than this, each side would wait for the other to read. Beyond it, only a child that reads no reply at all
/// is read, up to `child_input_max` bytes.
pub const CHILD_READ_AHEAD: usize = 64 * 1024 * 1024;
/// A child that has read no byte of its replies for this many milliseconds is assumed to be still writing.
pub const READ_AHEAD_PATIENCE: u64 = 100;
/// Bytes of requests one child may run before the next child has its turn, so that a deep pipeline is interleaved with
/// the others' instead of running before them.
pub const CHILD_TURN: i64 = 16 * 1024;
/// Bytes that the smallest request counts against its child's turn: 32 of them are one turn.
pub const REQUEST_COST_MIN: i64 = 512;
/// The same for all children together, between two polls of the sockets: a new child must not wait for all of it.
pub const RUN_TURN: i64 = 1024 * 1024;
/// Bytes of pushes given to children in one turn, each counted with what it costs to find a child and to write to it: 1,000
/// listeners or so, so that a message to many thousands leaves room for others.
pub const PUSH_TURN: i64 = 512 * 1024;
/// Names of an UNSUBSCRIBE of nothing that are confirmed in one turn of a child.
pub const LEAVE_STEP: usize = 512;
/// Waiting children that have their turn even if the children read last have used that up.
pub const RUN_LEAST: usize = 32;
/// Children told in one step of what an event means for them: that their lane is lost, or their user. The simulation takes
/// far less for too much, as of the next three, so that it cuts everything it plays.
pub const NOTICES_STEP: usize = if cfg!(test) { 3 } else { 256 };
/// Requests of one lane that are found to be overdue in one step.
pub const OVERDUE_STEP: usize = if cfg!(test) { 2 } else { 1024 };
/// Replies of one lane that are taken in one step; they may be as short as five bytes, and each another child's, which has
/// not been looked at for long.
pub const REPLIES_STEP: usize = if cfg!(test) { 2 } else { 256 };
/// The same on a lane for subscriptions: a message is for many children, and with a fence a child goes on.
pub const PUSHES_STEP: usize = if cfg!(test) { 2 } else { 64 };
/// Names of one request about subscriptions that are looked at in one step.
pub const TOPICS_STEP: usize = if cfg!(test) { 2 } else { 512 };
/// Timers that fire in one step: thousands of children may have begun to wait at the same time.
pub const TIMERS_STEP: usize = if cfg!(test) { 2 } else { 128 };
/// What one piece of a work over all children may cost, in bytes of requests: as much as a child's turn.
pub const SWEEP_TURN: i64 = if cfg!(test) { REQUEST_COST_MIN } else { CHILD_TURN };
/// Bytes that looking a child up, or passing over one, counts against a turn: less than a tenth of a small request.
pub const LOOK_COST: usize = 32;
/// The same of visiting one of very many topics, which asks the upstream or changes three tables.
pub const TOPIC_COST: usize = 128;
/// A request or a reply of this many bytes uses a separate lane: those behind it would wait too long.
pub const BULK_MIN: usize = 256 * 1024;
/// Short replies in a row after which a command with an earlier long reply is no longer expected to be long. Otherwise a
/// child with alternating replies would change lanes, and wait for the requests in flight, every time.
pub const BULK_PATIENCE: u16 = 16;
/// Commands of a pool that are known to have had such replies when children sent them that had just come: the first requests
/// of the next are judged by that.
pub const HEAVY_KNOWN: usize = 4;
/// For so many milliseconds.
pub const HEAVY_MEMORY: u64 = 60_000;
/// Bytes of replies that the requests of one child on a lane may be expected to have: while these pass, nothing behind them
/// does.
pub const CHILD_WINDOW: u32 = 1024 * 1024;
/// Requests on a shared lane above which each child has at most `LANE_SHARE` of them: who has only one waits for all of them.
/// So many for each millisecond that the upstream is away, too.
pub const LANE_DEEP: usize = if cfg!(test) { 48 } else { 1024 };
/// See [`LANE_DEEP`]. Twice what a turn runs: when half of them are answered, a turn follows.
pub const LANE_SHARE: u32 = if cfg!(test) { 4 } else { 64 };
/// Requests in flight of a child of which no reply is known.
pub const WINDOW_FIRST: u32 = 4;
/// Requests in flight beyond which nothing is counted: as many of the smallest replies fill `CHILD_WINDOW`.
pub const WINDOW_LAST: u32 = 64 * 1024;
/// Children that are suspected when a lane is lost: each has a connection more for its next request.
pub const SUSPECTS_MAX: usize = 4;
/// Short replies in a row after which a command that has cost a lane of its own is taken for any other again.
pub const APART_PATIENCE: u16 = 1024;
/// A lane without a reply for this many milliseconds makes the broker ask the upstream whether a script is running.
pub const BUSY_PROBE: u64 = 250;
/// A command that has blocked the upstream for this many milliseconds is expected to do so again.
pub const SLOW_MIN: u64 = 1000;
/// The same where requests of others stood behind it on its lane. A machine that is busy keeps the broker itself waiting
/// for less.
pub const SLOW_BEFORE_OTHERS: u64 = 250;
/// A canary without an answer is followed by another one after this many milliseconds.
pub const CANARY_PATIENCE: u32 = 1000;
/// Lanes for transactions in one pool. Each carries one at a time, so that many transactions a round trip to the upstream
/// pass together; with more of them the broker itself is what they wait for.
pub const BLOCK_LANES_MAX: usize = 16;
/// Unsent bytes of a lane above which its children have to wait. A single larger request is still accepted whole.
pub const LANE_WINDOW: usize = 4 * 1024 * 1024;
/// The same while more than half of `memory_max` is in use: each of many pools may have a lane that does not get on.
pub const LANE_WINDOW_SHORT: usize = 64 * 1024;
/// Upstream connections no lease may take, so that each kind of work can always go on: one for control and
/// one shared lane (transactions), one more (sessions), one more (blocking commands).
pub const PLACES_KEPT_FROM_TRANSACTIONS: usize = 2;
/// See [`PLACES_KEPT_FROM_TRANSACTIONS`].
pub const PLACES_KEPT_FROM_SESSIONS: usize = 3;
/// See [`PLACES_KEPT_FROM_TRANSACTIONS`].
pub const PLACES_KEPT_FROM_BLOCKING: usize = 4;
/// A busy shared lane gives up its connection to a waiting one only after using it this long, in
/// milliseconds: connecting costs more than a request.
pub const LANE_HOLD_MIN: u64 = 20;
/// A yielded connection is closed when the upstream has closed its side, or after this many milliseconds.
/// Until then it counts against `upstream_connections_max`, since the upstream counts it too.
pub const LEAVE_MAX: u64 = 1000;
/// First delay before the next attempt to connect, in milliseconds; doubles up to `reconnect_backoff_max`.
pub const BACKOFF_FIRST: u64 = 10;
/// Sentinels of one master that are known at a time.
pub const SENTINELS_MAX: usize = 16;
/// Bytes of one reply of a sentinel: what it says of as many others has a tenth.
pub const SENTINEL_REPLY: usize = 256 * 1024;
/// Characters that are kept of what a sentinel says: a refusal, a host name.
pub const SENTINEL_WORDS: usize = 256;
/// Each sentinel is asked for the master every so many milliseconds, some a little later than others: one that was cut off
/// tells no events.
pub const SENTINEL_POLL: u64 = 10_000;
/// See [`SENTINEL_POLL`].
pub const SENTINEL_POLL_STEP: u64 = 150;
/// The same while it is in doubt who the master is, and for how long that is after the last sign of it.
pub const SENTINEL_DOUBT_POLL: u64 = 1_000;
/// See [`SENTINEL_DOUBT_POLL`].
pub const SENTINEL_DOUBT: u64 = 5_000;
/// However many signs there are, a sentinel is asked again after so many milliseconds at the earliest.
pub const SENTINEL_ASK_MIN: u64 = 20;
/// A sentinel that says nothing for so long is connected to afresh.
pub const SENTINEL_PATIENCE: u64 = 3_000;
/// The longest pause before a sentinel is connected to again.
pub const SENTINEL_BACKOFF_MAX: u64 = 2_000;
/// Replicas of one master that are read from.
pub const REPLICAS_MAX: usize = 16;
/// A replica that could not be reached, or answered that it cannot answer, is not read from for so many milliseconds.
pub const REPLICA_REST: u64 = 10_000;
/// For so many milliseconds after the reply to a write a child reads from the master what else it would read from a replica.
pub const OWN_WRITES: u64 = 1_000;
/// A sentinel that is not in the URL, cannot be reached and was named by no other for so long since is forgotten.
pub const SENTINEL_FORGET: u64 = 60_000;
/// Where a master has become a replica and its name may lead to another server, that is looked for for so many milliseconds
/// before the replica is served: less than `queue_timeout`, and enough for a name server to answer.
pub const DEMOTED_PATIENCE: u64 = 500;
/// Milliseconds between two looks at a role that is not as it should be: a name server need not be asked more often.
pub const ROLE_RECHECK: u64 = 1000;
/// Connections that have refused a write as a replica does, remembered until the server has told its role.
pub const REFUSED_BY_MAX: usize = 64;
/// A child whose request was lost is closed so many milliseconds behind that request at the earliest: a connect to a unix
/// socket always succeeds, and a client that is closed at once may ask again at once.
pub const LOSS_CLOSE_MIN: u64 = 100;
/// Children that have lost requests together are closed within so many milliseconds: they come back one after the other.
pub const LOSS_CLOSE_SPREAD: u64 = 250;
/// The longest pause, in milliseconds, between two attempts to connect to an upstream that sends connections away for a
/// reason that does not pass by itself.
pub const BAR_PAUSE_MAX: u64 = 5_000;
/// Milliseconds for which such a reason is remembered: if it comes up again, it is no news, and the pause is as long.
pub const BAR_MEMORY: u64 = 60_000;
/// A blocking command whose child shuts down its sending side right behind it has this many milliseconds to
/// be answered. Not longer: an element popped for a child that has died is lost.
pub const BLOCKED_END_GRACE: u64 = 20;
/// A blocking command waits for a lease this many milliseconds longer than for an element: an existing element
/// must be delivered however short the command's own timeout, and a connection is opened within this time.
pub const LEASE_GRACE: u64 = 40;
/// While a pause waits for what is in flight, blocked commands are looked at again after this many milliseconds: one may have been
/// written behind the CLIENT UNBLOCK that was to end it.
pub const PAUSE_LOOK: u64 = 10;
/// A server that is to be moved to has so many times `connect_timeout` to connect and to say that it serves.
pub const MOVE_CONNECTS: u64 = 2;
/// So many pauses of late are remembered; the time of earlier ones counts for whoever still waits since then.
pub const PAUSES_KEPT: usize = 64;
/// A timer of somebody who waits during a pause is set anew for so many milliseconds later.
pub const PAUSED_TIMER: u64 = 100;
/// An unused leased connection is closed after this many milliseconds, except `leases_warm` of them: long enough for
/// a worker that sends one request after the other, and no longer, since Redis counts it.
pub const LEASE_LINGER: u64 = 3_000;
/// A group in which the time of some was over is not asked again for so many milliseconds whether anything is there:
/// whoever's time is over meanwhile is told together.
pub const LOOK_PAUSE: u64 = 10;
/// An element that has come within so many milliseconds lay there already, or others come as fast.
pub const ELEMENT_AT_ONCE: u64 = 5;
/// So many such elements in a row make a look for more of them worthwhile.
pub const LOOK_AFTER: u32 = 8;
/// The most that are waited for after looks that found nothing, or one that was refused.
pub const LOOK_AFTER_MAX: u32 = 512;
/// For how many elements the first look is; each for some more than the one before it has found.
pub const LOOK_FIRST: usize = 4;
/// A look is for so many elements at most: what it takes is lost with its lane.
pub const LOOK_MAX: usize = 256;
/// Bytes that one look may be expected to bring.
pub const LOOK_BYTES: usize = 256 * 1024;
/// A CLIENT UNBLOCK that overtook the command it was to end is repeated after this many milliseconds.
pub const UNBLOCK_RETRY: u64 = 5;
/// Period of the janitor, in milliseconds: while requests are in progress, and while none are.
pub const JANITOR_BUSY: u64 = 100;
/// See [`JANITOR_BUSY`].
pub const JANITOR_IDLE: u64 = 1000;
/// Heap bytes that must have become free before the program is told to trim the heap: below
/// this a walk over the heap is not worthwhile.
pub const TRIM_MIN: usize = 128 * 1024;
/// The least time between two, in milliseconds: an alternating load would only fault its pages in again.
pub const TRIM_INTERVAL: u64 = 1000;
/// Subscriptions of one child. Redis has no such bound; here each costs an entry in a table shared by all
/// children, and leaving all of them is the work of one turn.
pub const CHILD_TOPICS_MAX: usize = 256 * 1024;
/// Steps of looking for children that listen to what one request names: a byte of a pattern compared is one, a name looked
/// up a few. It takes about a millisecond. Where that is not enough, the upstream's number stands for the rest.
pub const COUNT_STEPS_MAX: usize = 1 << 20;
/// A longer command name is unknown without asking: Redis has none, and the question would delay all children.
pub const COMMAND_NAME_MAX: usize = 128;
/// Connections of an upstream user, and its password, are kept this many milliseconds after its last
/// child: otherwise processes that live for one request would cost the upstream a connection each.
pub const USER_LINGER: u64 = 5_000;
/// The upstream's answer about a user's permissions holds so many milliseconds: they change without notice.
pub const RIGHTS_FRESH: u64 = 1_000;
/// A new child is the upstream's default user if that needed no password at most this many
/// milliseconds ago: it may get one at any time, without notice.
pub const DEFAULT_FRESH: u64 = 100;
/// Passwords of one upstream user in use at the same time: each has its own connections.
pub const USER_PASSWORDS_MAX: usize = 16;
/// Bytes of a name or a password. Redis accepts no longer argument from an unauthenticated connection, so no upstream
/// connection could be authenticated with it.
pub const CREDENTIAL_MAX: usize = 16 * 1024;
/// Wrong passwords from one place that cause no delay: people mistype, and secrets are rotated.
pub const GUESSES_FREE: u32 = 3;
/// How many wrong passwords are counted.
pub const GUESSES_COUNTED: u32 = 8;
/// The delay of the next attempt then, in milliseconds; it doubles with each up to `GUESS_DELAY_MAX`.
pub const GUESS_DELAY: u64 = 100;
/// Long enough that guessing finds no real password, short enough for legitimate users of the same place.
pub const GUESS_DELAY_MAX: u64 = 400;
/// The count of wrong passwords drops by one every this many milliseconds.
pub const GUESS_FORGIVEN: u64 = 5_000;
/// Places whose wrong passwords are stored; the one with the highest count is the last to be dropped.
pub const GUESS_SOURCES_MAX: usize = 1024;
/// Correct names and passwords stored per place, as hashes.
pub const GUESSES_RIGHT: usize = 32;
/// The holders of leases are looked up at most this often, in milliseconds: many requests may be refused at once.
pub const HOLDERS_FRESH: u64 = 1_000;
/// Refused children are logged at most this often, in milliseconds: it looks at all connected children.
pub const REFUSED_LOG_INTERVAL: u64 = 10_000;
/// Bytes written to one socket in one turn, so that a child with a huge reply does not occupy the loop.
pub const WRITE_TURN: usize = 256 * 1024;
/// Events taken from the poll in one turn; more wait in the kernel for the next.
pub const EVENTS_TURN: usize = 1024;
/// Milliseconds since its beginning after which a turn reads no further lane, so that children have their part of the time.
pub const TURN_LANES: u64 = 2;
/// The same for every other socket. What is left of each kind of work stands in
/// line for the next turn; so nobody waits longer for it than the last of these, and the one step under way.
pub const TURN_READS: u64 = 4;
/// The same for accepting connections.
pub const TURN_ACCEPTS: u64 = 6;
/// The same for what the core has put off.
pub const TURN_RUNS: u64 = 8;
/// The same for connections to open or close, and for writes.
pub const TURN_WRITES: u64 = 12;
/// Pause after an accept failed without descriptors or memory, in milliseconds, unless a connection closes before.
pub const ACCEPT_PAUSE: u64 = 100;
/// Reads from one child when a drain begins: more than a socket's buffer holds by default (6 MiB for TCP).
pub const DRAIN_READS: usize = 128;
/// A name is looked up at most this often, in milliseconds: many connections may be made, or lost, at the same time.
pub const RESOLVE_INTERVAL: u64 = 1000;
/// Milliseconds that a name server may take at first, and twice as long each time it is asked again, unless
/// /etc/resolv.conf says: the next server's answer is to come while requests wait, `queue_timeout`.
pub const RESOLVE_TRY: u64 = 500;
/// How often it is asked, unless /etc/resolv.conf says.
pub const RESOLVE_ATTEMPTS: usize = 3;
/// Messages that answer nothing from one name server, after which it is as good as silent.
pub const RESOLVE_STRAYS: usize = 16;
/// Names that one loop or client keeps in mind.
pub const NAMES_MAX: usize = 64;
/// Addresses of one name that are tried; more would not be reached within `queue_timeout`.
pub const ADDRESSES_MAX: usize = 32;
/// Milliseconds for which an answer is believed, whatever it says: a name that is not doubted is asked for again then.
pub const ANSWER_KEPT_MAX: u64 = 3_600_000;
/// Milliseconds without a read after which a connection is read once more, if bytes may have been left behind.
pub const QUIET_AFTER: u64 = 100;
/// Processes without children that are remembered, so that one that connects for each request is not looked up each time.
pub const PROCESSES_UNUSED: usize = if cfg!(test) { 8 } else { 1024 };
/// Milliseconds for which they are remembered.
pub const PROCESS_KEPT: u64 = 60_000;
/// Milliseconds after which a pid that nobody had here may be another process: the kernel gives a pid again only after all
/// others.
pub const PID_REUSE_MIN: u64 = 1_000;
/// Processes that wait to be looked up; the oldest beyond these stay without a name.
pub const PROCESSES_WANTED: usize = if cfg!(test) { 4 } else { 16 * 1024 };
/// Executables that have metrics of their own; the others are summed up.
pub const EXECUTABLES_MAX: usize = 100;
/// Processes that are looked up in one turn: each costs some reads of /proc, about 50 microseconds.
pub const LOOK_UPS_TURN: usize = 4;
/// Kernel handles of processes that are kept until these have been looked up; what comes beyond is looked up without.
pub const PROCESS_HANDLES: usize = 64;
/// Milliseconds between two looks at whether the processes are still there.
pub const PROCESSES_CHECKED: u64 = 1_000;
/// How many of them are looked at more closely each time, by a read of /proc: one that nobody has waited for is there and
/// has ended, and its pid may be another's by now.
pub const PROCESSES_READ: usize = 100;
/// How many of them are looked at in one turn, with one system call each, or a read.
pub const PROCESSES_CHECKED_TURN: usize = 16;
/// Requests of a lane whose first bytes are kept for the slow log, and how many bytes. Where more are on it, none are kept:
/// in a deep pipeline what is slow is the pipeline.
pub const PREFIXES_KEPT: usize = 64;
/// See [`PREFIXES_KEPT`].
pub const PREFIX_LEN: usize = 96;
/// Bytes that each row of a console's table counts when the rows are listed, before any of them is made.
pub const KEY_COST: usize = 8;
/// Bytes that one row of a console's table or of CLIENT LIST counts against its child's turn, of which such a child has one
/// in each turn of the driver. So others wait for eight rows at a time, 20 microseconds, however many rows there are.
pub const ROW_COST: usize = 2048;
/// In a turn in which much has been run, this part of as much may be spent on rows besides: a busy broker's turns are long.
pub const ROWS_SHARE: i64 = 16;
/// Suspected leaks that are kept in detail at a time; further ones are named in the log and counted.
pub const LEAKS_KEPT: usize = 1024;
/// So many of them are kept for processes and users.
pub const LEAKS_OF_MANY: usize = 128;
/// Those that are over and are still shown.
pub const LEAKS_PAST: usize = 128;
/// In so many windows in a row a process has to grow before it is suspected; with one before them they are `leak_threshold`.
pub const GROWTH_WINDOWS: usize = 3;
/// So many unused connections of a process that grows are no coincidence.
pub const GROWTH_UNUSED_MIN: u32 = 3;
/// Children of `admin_listen` beyond `children_max`: whoever has to look into a full broker gets in.
pub const ADMIN_CHILDREN: usize = 16;
/// Milliseconds for which it is not asked again who writes on a busy connection: asking takes a few percent of a
/// processor's time for a request (`transport::conn`).
pub const WRITER_FRESH: u64 = 100;
/// Further reads that ask for ancillary data after one that had some: more may follow soon.
pub const ASKING_READS: u32 = 32;
/// Log lines that one place in the code writes about one child within `LOG_INTERVAL`, and about nobody in particular; the
/// others are counted and summed up in one line. Children can cause most of them at any rate.
pub const LOG_LINES: u32 = 10;
/// The same about all children of one process or network address: whoever connects anew for each request is another child
/// each time.
pub const LOG_LINES_SOURCE: u32 = 30;
/// The same about everybody. Beyond it a process or address of which the place has said nothing still has one line.
pub const LOG_LINES_PLACE: u32 = 100;
/// Processes and addresses that a place in the code tells apart within `LOG_INTERVAL`; further ones share one budget. With
/// `LOG_LINES_PLACE` it bounds what the place writes: as many lines a second as a person can still skim.
pub const LOG_SOURCES_MAX: usize = 64;
/// Children, processes and addresses that are counted in a summary; of more it says so.
pub const LOG_PEERS_COUNTED: usize = 1000;
/// See [`LOG_LINES`]; milliseconds.
pub const LOG_INTERVAL: u64 = 10_000;
/// Log lines that one thread keeps until its step is done; further ones are counted.
pub const LOG_QUEUE: usize = 1000;
/// Bytes of one log line; text that it quotes may be much longer.
pub const LOG_LINE_MAX: usize = 2048;
/// HTTP connections at the same time, of those who read metrics; a further one is told so and closed.
pub const HTTP_CONNECTIONS: usize = 16;
/// Bytes of the head of an HTTP request: what browsers and scrapers send is a tenth of it.
pub const HTTP_HEAD_MAX: usize = 8 * 1024;
/// Fields of such a head.
pub const HTTP_FIELDS_MAX: usize = 64;
/// Milliseconds that the head of a request may take from its first byte on, that a connection may be idle before it, and
/// that an answer may take to be read. Who is slower has the connection closed.
pub const HTTP_PATIENCE: u64 = 5_000;
/// Milliseconds that an HTTP connection which is to be closed is read on, so that its client has the answer before the end.
pub const HTTP_LINGER: u64 = 1_000;
/// Bytes of metrics that are written in one step, before the next family.
pub const HTTP_SLICE: usize = if cfg!(test) { 512 } else { 16 * 1024 };
/// `/readyz` is told what the upstream has answered at most this many milliseconds before: many may ask at the same time.
pub const READY_FRESH: u64 = 100;
/// An upstream that leaves a PING unanswered for this many milliseconds is not ready: with `READY_FRESH` a second.
pub const READY_PATIENCE: u64 = 900;
/// Milliseconds between two marks by which the rates of a process are found out; its totals are up to a second old.
pub const RATE_WINDOW: u64 = 4_000;
/// Milliseconds that a rate must be about at least.
pub const RATE_MIN: u64 = 1_500;
/// Milliseconds after which a mark says nothing of late any more: nobody has looked for longer.
pub const RATE_STALE: u64 = 15_000;
/// Rows of each table of the status page: more is for the console.
pub const STATUS_ROWS: usize = if cfg!(test) { 3 } else { 50 };
/// Processes that are looked at in one step to find those of the status page.
pub const STATUS_LOOKS: usize = if cfg!(test) { 4 } else { 256 };
/// Rows of the status page that are made in one step. A row of a process looks at every lease and whoever waits for one.
pub const STATUS_ROWS_STEP: usize = if cfg!(test) { 1 } else { 4 };
/// Holders of leases, and suspected leaks, that the status page names under what is wrong; of others it says how many.
pub const STATUS_NAMED: usize = 3;
/// For so many milliseconds it is told that connections of a user were refused.
pub const REFUSAL_TOLD: u64 = 60_000;
/// Milliseconds between two samples of the totals by which it is known what has failed within the last minute.
pub const MINUTE_STEP: u64 = 5_000;
/// Milliseconds for which a shared connection may be silent while a request waits on it, before that is said.
pub const STALL_TOLD: u64 = 1_000;
/// Milliseconds between two samples of what the status page draws.
pub const HISTORY_STEP: u64 = 5_000;
/// How many samples are kept: 15 minutes, and one before the first.
pub const HISTORY_SAMPLES: usize = 181;
/// TLS handshakes of children that may be under way at the same time. Each has some kilobytes; who has been at it for
/// `HANDSHAKE_FAIR` gives way to a newcomer beyond them, and until somebody has newcomers wait in the kernel.
pub const HANDSHAKES_MAX: usize = 1024;
/// Milliseconds for which a TLS handshake of a child is not given up for the sake of others: twice what as many as there may
/// be take of a processor.
pub const HANDSHAKE_FAIR: u64 = 2_000;
/// Milliseconds that a TLS handshake of a child may take: some round trips of the slowest network.
pub const HANDSHAKE_PATIENCE: u64 = 5_000;
/// Milliseconds that the last sealed bytes of a child that has ended may wait for the socket: what stands before them in the
/// kernel goes over a slow network first.
pub const PART_MAX: u64 = 10_000;
/// Children that may wait so at the same time; one more, and the oldest waits no longer.
pub const PARTINGS_MAX: usize = 256;
/// TLS handshakes that get on by a step in one turn. A step may be a signature, which takes up to a millisecond; those who
/// are connected have the turn before.
pub const HANDSHAKES_TURN: usize = 8;
/// Bytes read in one step of a handshake: more than any message of those that are common.
pub const HANDSHAKE_READ: usize = 8 * 1024;
/// Bytes of one message of a handshake and what came with it: TLS has none longer than 64 KiB.
pub const HANDSHAKE_MAX: usize = 80 * 1024;
/// Bytes that are sealed at once: two records. What the socket does not take of them is kept for the connection.
pub const SEAL_MAX: usize = 32 * 1024;
/// Bytes of a TLS connection's buffer that are kept while it is not in use.
pub const TLS_KEPT: usize = 4 * 1024;
/// Reads of one TLS connection, one after the other, that bring no plaintext: part of a long record, or a message of TLS
/// itself.
pub const TLS_READS: usize = 8;

/*
 * broker: one Redis connection pool per host, shared by every process on it.
 *
 * broker_client_t sends requests: to a broker, to Redis itself, or to a loop in the same process. broker_loop_t is the
 * broker, embedded in a program. broker_config_t (settings), broker_transaction_t (commands for one MULTI ... EXEC)
 * and broker_reply_t (values) are plain memory. What stands here holds for every function; its own comment says what
 * is particular to it.
 *
 * Names
 *   All is broker_<object>_<verb>(). The objects are config, transaction, loop, client and reply; only five functions
 *   have none: broker_strerror, _err_name, _version, _log_set and _fork_count. A verb means the same on every object:
 *   _new and _free, _error (the last failure in words), _fd and _timeout (for an event loop of the program's), _post,
 *   _set_data and _data, _follow_fork. Codes are BROKER_E...; BROKER_REPLY_, BROKER_RUN_ and BROKER_LOG_ say what for;
 *   BROKER_CHANNEL, _PATTERN and _SHARD are what may be subscribed to.
 *
 * Arguments
 *   In this order: the object; what (argc, argv and argvlen, or a transaction, or a kind, name and len); timeout_ms;
 *   where the result goes (out, req, or buf and len); the callback and its data. A constructor's out comes first, or it
 *   returns what it makes.
 *   The words of a command are argc, argv and argvlen; with a NULL argvlen each ends at its NUL, else it may hold any
 *   bytes. In C, BROKER_ARGV("GET", key) stands for all three. What is passed in is copied.
 *   A timeout_ms is milliseconds: BROKER_FOREVER (-1) is for as long as it takes, 0 passes at once (a request, which
 *   needs time, refuses it), less than -1 is BROKER_EINVAL.
 *   A buf of len bytes is filled as by snprintf(): cut, with a NUL, and the length it would have is returned.
 *
 * Results
 *   An int is 0 or more, or a code; all codes are -201 or less, so that -1 is none. Every function on a handle may
 *   return BROKER_EINVAL (it is NULL), BROKER_ESTATE (it is freed), BROKER_EFORKED (it is another process's),
 *   BROKER_EREENTRANT (it is at work: further up in this thread, or in another one) and BROKER_EPANIC (a fault of the
 *   library was caught; it can only be freed), whether or not its own list of codes says so. With BROKER_ESYS, and
 *   only then, errno says why, or is 0. No function blocks unless it says so, ends the process, installs a signal
 *   handler or raises SIGPIPE. Each _free takes NULL, and a second one is BROKER_ESTATE.
 *
 * Callbacks
 *   If a function that takes a callback returns a code, the callback is never called. If it returns 0, there is
 *   exactly one last call, never from inside that function: in broker_loop_run() or broker_client_process(), in a
 *   _call that waits, or in the _free that ends the handle. One step runs the callbacks that were due when it began;
 *   what these cause comes in the next. What a callback gets is borrowed until it returns; broker_reply_dup() keeps a
 *   reply. It may use, cancel and free, but not run, process or call. It must return: no exception, longjmp() or
 *   pthread_exit().
 *
 * Threads
 *   A handle is used by one thread at a time. "[any thread]" marks exceptions: _post, _set_data, _data, and _stop and
 *   _wakeup, which are async-signal-safe too. The library starts no thread, but for one that looks a name up again
 *   when a connection was lost; it takes no signal and ends with the answer. Cancellation (pthread_cancel) waits
 *   until a call ends, but for the calls that wait for something: these are cancellation points, and leave the handle
 *   usable.
 *
 * Forks
 *   In a forked process fork() has closed all descriptors of the library (after a raw clone(), the first call does).
 *   Handles are the parent's then: BROKER_EFORKED, without a system call; _free only frees. broker_client_after_fork()
 *   makes a client anew; a handle that follows (_follow_fork) is the child's from then on. Plain memory stays usable.
 *
 * Memory comes from the malloc() of the process. There are no allocator hooks, since Rust's allocator is chosen when the
 * library is linked; one that is preloaded (LD_PRELOAD) is used.
 *
 * Generated from src/ffi by build.rs; do not edit. License: MIT OR Apache-2.0.
 */


#ifndef BROKER_H
#define BROKER_H

#include <stddef.h>
#include <stdint.h>

/* The version of this header; broker_version() is that of the library. */
#define BROKER_VERSION_MAJOR 0
#define BROKER_VERSION_MINOR 1
#define BROKER_VERSION_PATCH 0
#define BROKER_VERSION_STRING "0.1.0"
/* 0xMMmmpp00: one number per version, in order. */
#define BROKER_VERSION_HEX \
    ((BROKER_VERSION_MAJOR << 24) | (BROKER_VERSION_MINOR << 16) | (BROKER_VERSION_PATCH << 8))

#ifndef __cplusplus
/* The words of a command where a function takes argc, argv and argvlen: BROKER_ARGV("SET", "key", value). Each is
 * a string that ends at its NUL. C only; C++ has broker.hpp. */
#define BROKER_ARGV(...) \
    (sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *)), (const char *const[]){__VA_ARGS__}, NULL
#endif


/**
 * Success.
 */
#define BROKER_OK 0

/**
 * An argument is unusable: a NULL, an empty command, a malformed endpoint.
 */
#define BROKER_EINVAL (-201)

/**
 * The handle is closed, the request is done already, or the loop no longer serves.
 */
#define BROKER_ESTATE (-202)

/**
 * Too much is queued; wait for replies, then try again. Nothing was queued.
 */
#define BROKER_EAGAIN (-203)

/**
 * Not while the handle is at work: from its callbacks, from a log callback, or from a second thread.
 */
#define BROKER_EREENTRANT (-204)

/**
 * The request's own timeout passed, or the broker's `request_timeout`. If it had been sent, it may have
 * been executed.
 */
#define BROKER_ETIMEDOUT (-205)

/**
 * Canceled by broker_client_cancel() or by the end of its handle. If it had been sent, it may have been
 * executed.
 */
#define BROKER_ECANCELED (-206)

/**
 * No connection: the request was never sent, so it was not executed and is safe to repeat.
 */
#define BROKER_ECONN (-207)

/**
 * The connection broke after the request, or a part of it, was sent: it was executed once or not at all.
 */
#define BROKER_ELOST (-208)

/**
 * The peer does not speak the protocol.
 */
#define BROKER_EPROTO (-209)

/**
 * The peer refused the user, the password, the database or the name.
 */
#define BROKER_EAUTH (-210)

/**
 * A limit of the broker's was reached (the error BROKERLIMIT): not executed, safe to repeat later.
 */
#define BROKER_ELIMIT (-211)

/**
 * The handle belongs to the process that this one was forked from, or to one that it has followed. Free it, or
 * call broker_client_after_fork().
 */
#define BROKER_EFORKED (-212)

/**
 * A configuration key or value is not acceptable; the words say which and what is allowed.
 */
#define BROKER_ECONFIG (-213)

/**
 * This command cannot go this way; broker_client_error() says which function is meant for it.
 */
#define BROKER_EUNSUPPORTED (-214)

/**
 * The system refused: no descriptors, no permission, no such file. With this code, and only then, errno says
 * why; 0 where nothing is known.
 */
#define BROKER_ESYS (-215)

/**
 * A bug in the library was caught. The handle is poisoned: all it still takes is to be freed.
 */
#define BROKER_EPANIC (-216)

/**
 * A timeout that never passes.
 */
#define BROKER_FOREVER (-1)

/**
 * Nothing.
 */
#define BROKER_LOG_OFF 0

/**
 * What needs somebody's attention.
 */
#define BROKER_LOG_ERROR 1

/**
 * What is not as it should be, and is dealt with.
 */
#define BROKER_LOG_WARN 2

/**
 * What an operator wants to read afterwards.
 */
#define BROKER_LOG_INFO 3

/**
 * What a developer wants to read.
 */
#define BROKER_LOG_DEBUG 4

/**
 * Everything.
 */
#define BROKER_LOG_TRACE 5

/**
 * Null, of any kind.
 */
#define BROKER_REPLY_NIL 0

/**
 * A status such as "OK".
 */
#define BROKER_REPLY_STATUS 1

/**
 * An error; its text begins with a code word.
 */
#define BROKER_REPLY_ERROR 2

/**
 * A 64-bit integer.
 */
#define BROKER_REPLY_INTEGER 3

/**
 * A floating point number (RESP3).
 */
#define BROKER_REPLY_DOUBLE 4

/**
 * True or false (RESP3).
 */
#define BROKER_REPLY_BOOL 5

/**
 * A string of any bytes.
 */
#define BROKER_REPLY_STRING 6

/**
 * A string with a format (RESP3); the format is left out.
 */
#define BROKER_REPLY_VERBATIM 7

/**
 * An integer of any size, as text (RESP3).
 */
#define BROKER_REPLY_BIGNUM 8

/**
 * Values in order.
 */
#define BROKER_REPLY_ARRAY 9

/**
 * Keys and values in turns (RESP3).
 */
#define BROKER_REPLY_MAP 10

/**
 * Values in no order (RESP3).
 */
#define BROKER_REPLY_SET 11

/**
 * What nobody asked for: a message, an invalidation (RESP3).
 */
#define BROKER_REPLY_PUSH 12

/**
 * Until broker_loop_stop(), or until nothing is left to do.
 */
#define BROKER_RUN_DEFAULT 0

/**
 * One turn; waits for an event.
 */
#define BROKER_RUN_ONCE 1

/**
 * One turn; never waits.
 */
#define BROKER_RUN_NOWAIT 2

/**
 * A channel by its name, as SUBSCRIBE.
 */
#define BROKER_CHANNEL 0

/**
 * All channels that match a pattern, as PSUBSCRIBE.
 */
#define BROKER_PATTERN 1

/**
 * A shard channel by its name, as SSUBSCRIBE.
 */
#define BROKER_SHARD 2

/**
 * A client: of a broker, of Redis itself (broker_client_new()), of a loop in the same process
 * (broker_loop_client()), or one connection of another client for the caller alone, a session
 * (broker_client_session()).
 *
 * One thread at a time; what is marked [any thread] alone may be called from any. Its callbacks run in that
 * thread, inside broker_client_process(), _call() and _free(), and nowhere else. It connects by itself, and
 * again after a loss.
 *
 * In a forked process every function returns BROKER_EFORKED, and no descriptor of the client is open any more,
 * until broker_client_after_fork() makes it anew. broker_client_follow_fork() makes an exception.
 *
 * Methods: broker_client_new, _session, _free, _after_fork, _follow_fork, _error, _connected; _submit,
 * _submit_transaction, _call, _call_transaction, _subscribe, _cancel; _fd, _timeout, _process, _wakeup, _post;
 * _on_push, _on_state; _set_data, _data.
 */
typedef struct broker_client_t broker_client_t;

/**
 * Settings for loops and clients, by name. One may serve many of both: broker_loop_new() takes the keys of the
 * broker from it and broker_client_new() the keys that begin with "client_". Copied by both, so it may be
 * changed or freed at once. Plain memory: also usable after a fork, by one thread at a time.
 *
 * Methods: broker_config_new, _free, _set, _get, _load, _error.
 */
typedef struct broker_config_t broker_config_t;

/**
 * The broker itself, embedded: it owns the connections to Redis and serves the processes that connect. One
 * thread at a time; what is marked [any thread] alone may be called from any. It starts no thread, but for one
 * that looks the upstream's name up again when a connection to it has failed or was lost, takes no signal and
 * ends with that. It installs no signal handler, touches no resource limit and never raises SIGPIPE; the
 * descriptors it opens are close-on-exec.
 *
 * In a forked process every function returns BROKER_EFORKED, and no descriptor of the loop is open any more: a
 * fork handler has closed them. broker_loop_free() only frees there. broker_loop_follow_fork() makes an
 * exception.
 *
 * Methods: broker_loop_new, _free, _follow_fork; _run, _stop, _post, _fd, _timeout; _drain, _reload, _error,
 * _endpoint, _adopt, _stat, _stat_name, _set_data, _data; _client.
 */
typedef struct broker_loop_t broker_loop_t;

/**
 * One value of a reply; immutable. The one that a callback gets is borrowed: it and everything reached through
 * it end when the callback returns, unless broker_reply_dup() has kept it. Kept ones, and those of the call
 * functions, are freed with broker_reply_free(), by any thread. Plain memory: usable after a fork.
 *
 * Methods: broker_reply_type, _integer, _double, _string, _len, _at, _raw, _dup, _free.
 */
typedef struct broker_reply_t broker_reply_t;

/**
 * Commands to be executed as one MULTI ... EXEC. Filled with broker_transaction_add(), then given to a submit or
 * call function any number of times; they copy it. Plain memory: usable after a fork, by one thread at a time.
 *
 * Methods: broker_transaction_new, _free, _add.
 */
typedef struct broker_transaction_t broker_transaction_t;

/**
 * Gets a log line: `msg` has `len` bytes, no line end, and a NUL behind it; it ends with the call. `handle` is
 * the broker_loop_t or broker_client_t at work, to be compared and nothing else; NULL where none is. Runs in
 * whatever thread has caused the line, once its step is done: nothing is held then that a fork() waits for, but
 * calls on that handle return BROKER_EREENTRANT. Must not fork, throw, longjmp or end the thread.
 */
typedef void (*broker_log_cb)(int level, const char *msg, size_t len, const void *handle, void *data);

/**
 * Gets what was posted to a loop, exactly once: `status` 0 from inside broker_loop_run(), BROKER_ECANCELED from
 * inside broker_loop_free(). May do what a broker_reply_cb may.
 */
typedef void (*broker_loop_cb)(broker_loop_t *loop, int status, void *data);

/**
 * Names a request or a subscription while it is under way; 0 names none. Never used again, so one that is over is
 * harmless.
 */
typedef uint64_t broker_req_t;

/**
 * Gets the outcome of a request, exactly once if and only if it was submitted with BROKER_OK, and never from
 * inside the submitting function. `status` 0: `reply` is the reply, borrowed until the callback returns (an error
 * of Redis' is a reply of type ERROR). Below 0: a code, and `reply` is NULL. Outcomes come in the order in which
 * requests were submitted, except timeouts, cancellations and blocking commands.
 *
 * May use the client and free it (which then happens when the callback has returned); may not process or call:
 * BROKER_EREENTRANT. Nor may it free a loop that is running it. Must not throw, longjmp or end its thread
 * (pthread_exit); a pthread_cancel() waits until the function around it waits.
 */
typedef void (*broker_reply_cb)(broker_client_t *client,
                                int status,
                                const broker_reply_t *reply,
                                void *data);

/**
 * Gets what was posted to a client, exactly once: `status` 0 from inside its processing, BROKER_ECANCELED from
 * inside broker_client_free() or that of its loop. May do what a broker_reply_cb may.
 */
typedef void (*broker_client_cb)(broker_client_t *client, int status, void *data);

/**
 * Gets what broker_client_on_push() asks for: a push that belongs to no subscription, borrowed until the callback
 * returns. As broker_reply_cb otherwise.
 */
typedef void (*broker_push_cb)(broker_client_t *client, const broker_reply_t *push, void *data);

/**
 * Told when the client's connection is there (`connected` 1, `reason` 0) and when it is gone or could not be made
 * (0 and a code); then it is tried again by itself. As broker_reply_cb otherwise.
 */
typedef void (*broker_state_cb)(broker_client_t *client, int connected, int reason, void *data);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * A sentence for a code. Static; never NULL, for an unknown code neither. [any thread, in callbacks,
 * after a fork]
 */
const char *broker_strerror(int code);

/**
 * The name of a code, such as "BROKER_EAGAIN". Static; never NULL, for an unknown code neither. [any
 * thread, in callbacks, after a fork]
 */
const char *broker_err_name(int code);

/**
 * The version of the library that is linked at run time, as BROKER_VERSION_HEX is of the header: 0xMMmmpp00.
 * [any thread, in callbacks, after a fork]
 */
unsigned int broker_version(void);

/**
 * How many forks lie between the first process and this one: whoever keeps it notices a copy. No system call.
 * [any thread, in callbacks, after a fork; async-signal-safe]
 */
unsigned int broker_fork_count(void);

/**
 * Sets where the library's log goes, for the whole process; without it, and with a NULL `cb`, nowhere. Lines
 * less important than `level` (BROKER_LOG_*) are left out. Of each kind of line ten come in ten seconds; how
 * many more there were is one line after them, with the next line or call. Best called before there are threads
 * and handles; a line under way in another thread may still reach the old function.
 *
 * BROKER_EINVAL for an unknown level; BROKER_ESTATE if the program has a logger of Rust's `log` crate already.
 */
int broker_log_set(int level,
                   broker_log_cb cb,
                   void *data);

/**
 * A configuration of defaults. Free it with broker_config_free(). NULL only after an internal error.
 */
broker_config_t *broker_config_new(void);

/**
 * Frees it. NULL is BROKER_OK; a second time is BROKER_ESTATE.
 */
int broker_config_free(broker_config_t *config);

/**
 * Sets one key; a NULL value is its default. Keys and values are those of docs/config.md, as in
 * broker.toml: times are milliseconds or text such as "5s", sizes bytes or text such as "64MiB". On failure
 * nothing has changed, and broker_config_error() says what is allowed.
 *
 * BROKER_EINVAL for a NULL handle or key; BROKER_ECONFIG for an unknown key or an unacceptable value.
 */
int broker_config_set(broker_config_t *config,
                      const char *key,
                      const char *value);

/**
 * Copies the value of a key into `buf`, cut to `len` bytes with a NUL at the end, as snprintf() does; returns
 * the length it has without the NUL, or a negative code. Passwords are masked. `buf` may be NULL if `len` is 0.
 *
 * BROKER_EINVAL for a NULL handle or key; BROKER_ECONFIG for an unknown key.
 */
int broker_config_get(const broker_config_t *config,
                      const char *key,
                      char *buf,
                      size_t len);

/**
 * Reads a broker.toml, keys that begin with "client_" included; keys it does not name keep their values.
 * Blocking file I/O, for as long as a FIFO or a dead mount likes; a fork elsewhere does not wait for that. On
 * failure nothing has changed.
 *
 * BROKER_EINVAL for a NULL; BROKER_ESYS if the file cannot be read; BROKER_ECONFIG for its content, with the
 * line in broker_config_error(), and for more than 1 MiB.
 */
int broker_config_load(broker_config_t *config,
                       const char *path);

/**
 * The last failure of this configuration in words; "" before the first. Valid until the next call with it.
 * NULL for a NULL handle.
 */
const char *broker_config_error(const broker_config_t *config);

/**
 * One of BROKER_REPLY_*; BROKER_EINVAL for NULL.
 */
int broker_reply_type(const broker_reply_t *reply);

/**
 * The number of an INTEGER, 1 or 0 for a BOOL; 0 for anything else and for NULL.
 */
int64_t broker_reply_integer(const broker_reply_t *reply);

/**
 * The number of a DOUBLE (infinities and NaN too) or an INTEGER; 0 for anything else and for NULL.
 */
double broker_reply_double(const broker_reply_t *reply);

/**
 * The bytes of a STATUS, ERROR, STRING, VERBATIM, or of a DOUBLE or BIGNUM as the server wrote it; NULL for
 * anything else and for NULL. A NUL follows that is not counted; there may be others inside. `len` may be NULL.
 * Lives as long as the reply.
 */
const char *broker_reply_string(const broker_reply_t *reply,
                                size_t *len);

/**
 * How many elements an ARRAY, MAP, SET or PUSH has; keys and values of a map each count. 0 for anything else
 * and for NULL.
 */
size_t broker_reply_len(const broker_reply_t *reply);

/**
 * Element `i`, which lives as long as the reply and is not freed by itself. NULL beyond the last and for NULL.
 */
const broker_reply_t *broker_reply_at(const broker_reply_t *reply,
                                      size_t i);

/**
 * The value as RESP, byte for byte as it came (RESP3 attributes left out): what redisReaderFeed() of hiredis
 * takes. Lives as long as the reply. NULL for NULL; `len` may be NULL.
 */
const char *broker_reply_raw(const broker_reply_t *reply,
                             size_t *len);

/**
 * Keeps a reply beyond its callback, without a copy; of a part of one, the whole reply is kept. Free what it
 * returns, as often as it was returned. NULL for NULL.
 */
broker_reply_t *broker_reply_dup(const broker_reply_t *reply);

/**
 * Frees what broker_reply_dup() or a call function has handed out, once for each time. NULL is BROKER_OK. [any
 * thread]
 *
 * BROKER_ESTATE a second time, which is noticed until some hundred other replies have been freed; BROKER_EINVAL
 * for what a callback got and for a part of a reply, which are not freed.
 */
int broker_reply_free(broker_reply_t *reply);

/**
 * An empty transaction. Free it with broker_transaction_free(). NULL only after an internal error.
 */
broker_transaction_t *broker_transaction_new(void);

/**
 * Frees it. NULL is BROKER_OK; a second time is BROKER_ESTATE. What was submitted goes on.
 */
int broker_transaction_free(broker_transaction_t *transaction);

/**
 * Adds a command; argv as in broker_client_submit(), copied.
 *
 * BROKER_EINVAL for a NULL or an empty command; BROKER_EUNSUPPORTED for one that may not stand in a transaction
 * (MULTI, EXEC, DISCARD, WATCH, subscriptions, session commands); BROKER_EAGAIN beyond 64 MiB.
 */
int broker_transaction_add(broker_transaction_t *transaction,
                           size_t argc,
                           const char *const *argv,
                           const size_t *argvlen);

/**
 * Makes a broker and binds its listeners; Redis is not dialled before the first broker_loop_run(). With a NULL
 * `config` there is no upstream, which is BROKER_ECONFIG: the key "upstream" is required, "listen" is not. Blocks
 * while names are resolved and files read. On failure *out is NULL and `errbuf` has the words, cut to `errlen`
 * bytes (NULL and 0 if they are not wanted).
 *
 * BROKER_EINVAL for a NULL `out`; BROKER_ECONFIG, BROKER_ESYS. [not while another call is in progress with
 * `config`]
 */
int broker_loop_new(broker_loop_t **out,
                    const broker_config_t *config,
                    char *errbuf,
                    size_t errlen);

/**
 * Runs the loop: BROKER_RUN_DEFAULT until broker_loop_stop() or until nothing is left to do, BROKER_RUN_ONCE for
 * one turn that waits for an event, BROKER_RUN_NOWAIT for one that does not. Callbacks run in here.
 *
 * Returns 1 while there is work to come, 0 when there will be none (drained). BROKER_EINVAL for NULL or an
 * unknown mode; BROKER_EREENTRANT from a callback; BROKER_ESTATE when closed; BROKER_EFORKED; BROKER_ESYS if the
 * poll itself fails (no failing connection causes that). A thread may be cancelled in here while it waits.
 */
int broker_loop_run(broker_loop_t *loop,
                    int mode);

/**
 * Makes broker_loop_run() return soon: the present call with BROKER_RUN_DEFAULT, or the next one after a turn.
 * [any thread; async-signal-safe, one send(2)]
 *
 * BROKER_EINVAL for NULL; BROKER_ESTATE when closed; BROKER_EFORKED.
 */
int broker_loop_stop(broker_loop_t *loop);

/**
 * Has `cb` run once in the thread that runs the loop, from inside broker_loop_run(), and wakes that; if the loop
 * is freed first, it runs in broker_loop_free() with BROKER_ECANCELED. In the order in which they were posted.
 * When it returns an error, `cb` is never called. [any thread]
 *
 * BROKER_EINVAL for NULL; BROKER_EAGAIN when 65,536 wait to be run, and while a fork() moves the handle;
 * BROKER_ESTATE when closed; BROKER_EFORKED.
 */
int broker_loop_post(broker_loop_t *loop,
                     broker_loop_cb cb,
                     void *data);

/**
 * The descriptor to watch for readable in another loop (epoll, poll, libuv): the same for the life of the loop.
 * When it is readable, or broker_loop_timeout() has passed, call broker_loop_run(loop, BROKER_RUN_NOWAIT). Watch
 * it level-triggered; never read or close it.
 *
 * A negative code for a bad handle.
 */
int broker_loop_fd(const broker_loop_t *loop);

/**
 * How long another loop may sleep before the next broker_loop_run(), in milliseconds: 0 while work is deferred,
 * whatever the descriptor says; -1 until the descriptor is readable. Ask after each broker_loop_run(); what is
 * submitted or changed outside of it makes the descriptor readable.
 *
 * A negative code other than -1 for a bad handle.
 */
int broker_loop_timeout(const broker_loop_t *loop);

/**
 * Ends the service in good order: closes the listeners, answers what has been received complete, then closes each
 * child. Blocked commands and transactions that watch keys have `timeout_ms`, the others as long as they
 * take. broker_loop_run() returns 0 when all have gone. A second call can only shorten it.
 *
 * BROKER_EINVAL for a `timeout_ms` below -1; BROKER_ESTATE when closed; BROKER_EFORKED.
 */
int broker_loop_drain(broker_loop_t *loop,
                      int timeout_ms);

/**
 * Closes every connection and listener at once and frees the handle. Requests of its clients that are pending get
 * BROKER_ECANCELED first, before it returns; the clients answer BROKER_ESTATE then and are still to be freed. In a
 * forked process it only frees.
 *
 * NULL is BROKER_OK; BROKER_EREENTRANT from a callback of the loop's or its clients', and nothing is closed;
 * BROKER_ESTATE a second time.
 */
int broker_loop_free(broker_loop_t *loop);

/**
 * Takes new settings while it runs, every key of docs/config.md; on any failure nothing has changed. Blocks while
 * names are resolved and files read; a fork elsewhere does not wait for that.
 *
 * BROKER_ECONFIG, BROKER_ESYS with the words in broker_loop_error(); BROKER_EINVAL for NULL; BROKER_ESTATE when
 * closed or draining; BROKER_EFORKED.
 */
int broker_loop_reload(broker_loop_t *loop,
                       const broker_config_t *config);

/**
 * The last failure of this loop in words; "" before the first. Valid until the next call with it. NULL for a bad
 * handle.
 */
const char *broker_loop_error(const broker_loop_t *loop);

/**
 * Copies the URL of listener `i`, with the port that the system chose, into `buf` as snprintf() does; returns its
 * length. It is what broker_client_new() takes.
 *
 * BROKER_EINVAL for NULL or beyond the last listener; BROKER_ESTATE, BROKER_EFORKED.
 */
int broker_loop_endpoint(const broker_loop_t *loop,
                         size_t i,
                         char *buf,
                         size_t len);

/**
 * Makes a child of a connected stream socket: one end of a socketpair(), or one that the program accepted itself.
 * With the other end as "fd://N", a forked worker needs no path on disk. On success the loop owns `fd` and closes
 * it; on failure it is the caller's still.
 *
 * BROKER_EINVAL if it is no connected stream socket, or the loop has it already; BROKER_ELIMIT above
 * "children_max"; BROKER_ESYS; BROKER_ESTATE when closed or draining; BROKER_EFORKED.
 */
int broker_loop_adopt(broker_loop_t *loop,
                      int fd);

/**
 * While `on` is not 0, a fork() in the thread that uses the loop moves it to the child, with its descriptors,
 * its children and its clients; in the parent it is BROKER_EFORKED then. For daemon() and double forks: on,
 * fork, off. A fork() while another thread is at work on the loop does not move it.
 *
 * BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for NULL.
 */
int broker_loop_follow_fork(broker_loop_t *loop,
                            int on);

/**
 * Makes a client of the loop's own, for the program's own requests: it needs no socket and is driven by
 * broker_loop_run(), in which its callbacks run. Everything of a client works on it (transactions, sessions,
 * blocking commands, subscriptions) but what would drive it: broker_client_fd(), _timeout() and _process()
 * return BROKER_EUNSUPPORTED, and broker_client_call() runs the loop while it waits. To be freed with
 * broker_client_free(), before or after the loop; after it, all it returns is BROKER_ESTATE.
 *
 * BROKER_EINVAL for NULL; BROKER_ESTATE when closed or draining; BROKER_EFORKED.
 */
int broker_loop_client(broker_client_t **out,
                       broker_loop_t *loop);

/**
 * Keeps a pointer of the program's with the loop; NULL at first. [any thread]
 *
 * BROKER_EINVAL for a NULL loop; BROKER_ESTATE when closed; BROKER_EFORKED.
 */
int broker_loop_set_data(broker_loop_t *loop, void *data);

/**
 * What broker_loop_set_data() has kept; NULL for a bad handle. [any thread, in callbacks, after a fork]
 */
void *broker_loop_data(const broker_loop_t *loop);

/**
 * Reads one number about the loop by its name: see docs/c-api.md, or broker_loop_stat_name().
 *
 * BROKER_EINVAL for NULL or an unknown name; BROKER_ESTATE, BROKER_EFORKED.
 */
int broker_loop_stat(const broker_loop_t *loop, const char *name, uint64_t *value);

/**
 * The name of number `i`, from 0; NULL beyond the last. Static. [any thread, in callbacks, after a fork]
 */
const char *broker_loop_stat_name(size_t i);

/**
 * Makes a client of `endpoint` and begins to connect; requests may be submitted at once and wait for the
 * connection up to "queue_timeout".
 *
 * - "unix:///run/broker/broker.sock", "tcp://host:port": a broker's socket (or Redis' own: it speaks the same).
 * - "fd://3": a connected socket, such as the other end of what broker_loop_adopt() took. The client owns and
 *   closes it. It cannot be connected again once lost.
 * - "redis://[user[:password]@]host[:port][/db]": straight to Redis.
 * - NULL: what the environment variable BROKER_ENDPOINT says.
 *
 * `config` gives the user, password, database, name and protocol (the "client_..." keys of docs/c-api.md), which
 * are set again on every connection; NULL means the defaults. A host name is looked up in here, blocking, and
 * after a failed or lost connection again, by a thread that takes no signal and ends with that. On failure *out
 * is NULL and `errbuf` has the words, cut to `errlen` bytes (NULL and 0 if they are not wanted).
 *
 * BROKER_EINVAL for a NULL `out`, a malformed endpoint, or NULL without BROKER_ENDPOINT; BROKER_ECONFIG for
 * settings that do not fit together; BROKER_ESYS without descriptors, or for a name that cannot be looked up.
 */
int broker_client_new(broker_client_t **out,
                      const char *endpoint,
                      const broker_config_t *config,
                      char *errbuf,
                      size_t errlen);

/**
 * Opens a session of a client: a connection of its own within it, for what depends on one, WATCH ... EXEC above
 * all. It is a client in a mode of its own: it takes what the other's shared connection may not (WATCH, UNWATCH,
 * MULTI, EXEC, DISCARD, SELECT, AUTH; a blocking command, behind which the next one waits), but neither
 * subscriptions, on_push and on_state nor what ends a connection's use for requests. Whatever state a command
 * leaves on it stays until the session is freed, which closes the connection; if that is lost, everything after
 * returns BROKER_ECONN, so that no state is ever lost in silence. What drives the client drives its sessions
 * too, and their _fd, _timeout, _process, _wakeup and _post are those of the client. Free it before or after its
 * client.
 *
 * BROKER_EINVAL for NULL; BROKER_EAGAIN above "client_connections_max"; BROKER_ECONN for a client that cannot open
 * connections any more; BROKER_EUNSUPPORTED for a session of a session; BROKER_ESTATE, BROKER_EFORKED.
 */
int broker_client_session(broker_client_t **out,
                          broker_client_t *client);

/**
 * Closes the client. Pending requests and subscriptions get BROKER_ECANCELED before it returns (those of a
 * session in the next processing); called from a callback, all of this happens when the outermost callback has
 * returned. Its sessions end with it, and are still to be freed. In a forked process it only frees; no callback
 * runs.
 *
 * NULL is BROKER_OK; BROKER_ESTATE a second time.
 */
int broker_client_free(broker_client_t *client);

/**
 * In a forked process: makes the client anew and connects; endpoint, configuration, on_push and on_state are as
 * they were, pending requests and subscriptions of the parent are unknown to it. Inherited sessions are dead:
 * free them.
 *
 * BROKER_ESTATE in the process that made the client, and when it is freed; BROKER_ECONN for "fd://", which
 * cannot be connected again; BROKER_EUNSUPPORTED for a session and for a client of a loop; BROKER_ESYS;
 * BROKER_EREENTRANT from a log callback; BROKER_EINVAL for NULL.
 */
int broker_client_after_fork(broker_client_t *client);

/**
 * While `on` is not 0, a fork() in the thread that uses the client moves it to the child, with its descriptors,
 * requests, subscriptions and sessions; in the parent it is BROKER_EFORKED then. For daemon() and double forks:
 * on, fork, off. A fork() while another thread is at work on the client does not move it.
 *
 * BROKER_EUNSUPPORTED for a session and for a client of a loop, which move with what they belong to;
 * BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for NULL.
 */
int broker_client_follow_fork(broker_client_t *client,
                              int on);

/**
 * The last failure of this client in words: why a call was refused, or why the connection was lost or could not
 * be made. "" before the first. Valid until the next call with the client. NULL for a bad handle, but in a
 * forked process the words of a broker_client_after_fork() that has failed.
 */
const char *broker_client_error(const broker_client_t *client);

/**
 * 1 while the client's connection is there, 0 while it is not; a code for a bad handle.
 */
int broker_client_connected(const broker_client_t *client);

/**
 * Sends a request; its outcome comes to `cb`. `argv` has `argc` words, copied, the command's name first; with a
 * NULL `argvlen` each ends at its NUL, else word i has argvlen[i] bytes of any value. With BROKER_FOREVER it
 * waits for as long as it takes. `req` may be NULL, and else gets the name of the request. It is sent from the
 * client's processing, with whatever else was submitted by then. When it returns an error, `cb` is never called.
 *
 * All requests share one connection and are answered in order, but blocking commands (BLPOP, XREAD BLOCK, ...):
 * each has a connection of its own for as long as it waits, and giving it up closes that.
 *
 * BROKER_EINVAL for NULL, no word, a `timeout_ms` of 0 or below -1; BROKER_EAGAIN above "client_requests_max" or
 * "client_bytes_max"; BROKER_ESTATE, BROKER_EFORKED; BROKER_EUNSUPPORTED for commands that would change the
 * shared connection under the feet of others: MULTI, EXEC, DISCARD (broker_client_submit_transaction() is for
 * them), WATCH, UNWATCH (a session), SUBSCRIBE and its family (broker_client_subscribe()), SELECT, AUTH, HELLO,
 * RESET, CLIENT SETNAME (the client_... keys), CLIENT REPLY, CLIENT CACHING, QUIT, MONITOR, SYNC, PSYNC,
 * REPLCONF, SCRIPT DEBUG, ASKING, READONLY, READWRITE. CLIENT TRACKING, NO-EVICT, NO-TOUCH and SETINFO are sent,
 * and once accepted set again on every new connection.
 */
int broker_client_submit(broker_client_t *client,
                         size_t argc,
                         const char *const *argv,
                         const size_t *argvlen,
                         int timeout_ms,
                         broker_req_t *req,
                         broker_reply_cb cb,
                         void *data);

/**
 * Sends a transaction: all its commands are executed, one behind the other with nothing between, or none is. One
 * outcome: the reply of EXEC, an array with the reply of each command. If Redis refused a command (and so
 * executed none), it is that command's error. On a session on which a watched key has changed, none of it is
 * executed and the reply is NIL: read again and try anew. Everything else as in broker_client_submit().
 *
 * BROKER_EINVAL for NULL or a transaction without commands; else as broker_client_submit().
 */
int broker_client_submit_transaction(broker_client_t *client,
                                     const broker_transaction_t *transaction,
                                     int timeout_ms,
                                     broker_req_t *req,
                                     broker_reply_cb cb,
                                     void *data);

/**
 * Gives a request or a subscription up: its callback gets BROKER_ECANCELED, its last call, from the next
 * processing. Of a request that was sent, the command may be executed all the same (a blocking command stops
 * waiting: its connection is closed); one that was not sent is not.
 *
 * BROKER_ESTATE if it is over already (its last callback has run or is about to); BROKER_EFORKED.
 */
int broker_client_cancel(broker_client_t *client,
                         broker_req_t req);

/**
 * Sends a request and waits for its outcome, `timeout_ms` at most. BROKER_OK: *out has the reply, to be freed
 * with broker_reply_free(); else it is NULL (`out` may be NULL). Callbacks of other requests run meanwhile.
 * Arguments and codes as in broker_client_submit(), and those of an outcome: BROKER_ECONN, BROKER_ELOST,
 * BROKER_ETIMEDOUT, BROKER_ELIMIT, BROKER_EAUTH, BROKER_EPROTO. On a client of a loop it runs the loop.
 *
 * BROKER_EREENTRANT from a callback; BROKER_ECANCELED if a callback frees the client.
 */
int broker_client_call(broker_client_t *client,
                       size_t argc,
                       const char *const *argv,
                       const size_t *argvlen,
                       int timeout_ms,
                       broker_reply_t **out);

/**
 * Sends a transaction and waits for its outcome: broker_client_submit_transaction() and broker_client_call() in
 * one.
 */
int broker_client_call_transaction(broker_client_t *client,
                                   const broker_transaction_t *transaction,
                                   int timeout_ms,
                                   broker_reply_t **out);

/**
 * The descriptor to watch for readable in any loop: the same through reconnects, for the life of the client.
 * When it is readable, or broker_client_timeout() has passed, call broker_client_process(). Watch it
 * level-triggered; never read or close it. It changes in broker_client_after_fork().
 *
 * A negative code for a bad handle.
 */
int broker_client_fd(const broker_client_t *client);

/**
 * How long a loop may sleep before the next broker_client_process(), in milliseconds: 0 while something is
 * deferred, whatever the descriptor says; -1 until it is readable. Ask again after each processing.
 *
 * A negative code other than -1 for a bad handle.
 */
int broker_client_timeout(const broker_client_t *client);

/**
 * One step: reads, runs the callbacks that are due, writes. With a `timeout_ms` of 0 it never waits; else it
 * waits that long for something to happen, or with BROKER_FOREVER for as long as it takes, and may return
 * earlier with 0. Returns how many callbacks ran; what these cause is due in the next step.
 *
 * BROKER_EINVAL below -1; BROKER_EREENTRANT from a callback; BROKER_ESTATE when freed, by one of these callbacks
 * too; BROKER_EUNSUPPORTED for a client of a loop; BROKER_EFORKED; BROKER_ESYS if the poll itself fails.
 */
int broker_client_process(broker_client_t *client,
                          int timeout_ms);

/**
 * Makes the descriptor readable and ends a wait: how a signal handler tells the client's own thread to look at a
 * flag of the program's; other threads may use broker_client_post(). [any thread; async-signal-safe]
 *
 * BROKER_EINVAL for NULL; BROKER_ESTATE when freed; BROKER_EFORKED.
 */
int broker_client_wakeup(broker_client_t *client);

/**
 * Has `cb` run once in the client's own thread, from inside its processing, and wakes that; if the client is
 * freed first, it runs in broker_client_free() with BROKER_ECANCELED (of a session, in the next processing of
 * its client). In the order in which they were posted. When it returns an error, `cb` is never called. [any
 * thread]
 *
 * BROKER_EINVAL for NULL; BROKER_EAGAIN when 65,536 wait to be run, and while a fork() moves the handle;
 * BROKER_ESTATE when freed; BROKER_EFORKED.
 */
int broker_client_post(broker_client_t *client,
                       broker_client_cb cb,
                       void *data);

/**
 * Keeps a pointer of the program's with the client; NULL at first. [any thread]
 *
 * BROKER_EINVAL for a NULL client; BROKER_ESTATE when freed; BROKER_EFORKED.
 */
int broker_client_set_data(broker_client_t *client, void *data);

/**
 * What broker_client_set_data() has kept; NULL for a bad handle. [any thread, in callbacks, after a fork]
 */
void *broker_client_data(const broker_client_t *client);

/**
 * Sets who gets pushes that belong to no subscription, such as invalidations after CLIENT TRACKING; NULL for
 * nobody.
 *
 * BROKER_EUNSUPPORTED for a session; BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for a NULL client.
 */
int broker_client_on_push(broker_client_t *client,
                          broker_push_cb cb,
                          void *data);

/**
 * Sets who is told of the connection's state; NULL for nobody. Told at once in the next processing if the client
 * is connected already.
 *
 * BROKER_EUNSUPPORTED for a session; BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for a NULL client.
 */
int broker_client_on_state(broker_client_t *client,
                           broker_state_cb cb,
                           void *data);

/**
 * Subscribes; `kind` is BROKER_CHANNEL, BROKER_PATTERN or BROKER_SHARD. `cb` gets, with `status` 0, every push
 * about that name, an array as Redis sends it: first ["subscribe", name, count], then a ["message", channel,
 * payload] (or ["pmessage", pattern, channel, payload], ["smessage", ...]) for each message. A second
 * "subscribe" means that the connection was lost and is there again: messages between may have been missed. A
 * reply of type ERROR (refused by Redis), or a `status` below 0, is the last call: BROKER_ECANCELED after
 * broker_client_cancel(). Several subscriptions of one name are one to Redis, and each gets every message. They
 * have a connection of their own, opened with the first and closed with the last. `req` may be NULL, and else
 * gets the name of the subscription. When it returns an error, `cb` is never called.
 *
 * BROKER_EINVAL for NULL, an unknown kind; BROKER_EUNSUPPORTED for a session; BROKER_EAGAIN, BROKER_ESTATE,
 * BROKER_EFORKED.
 */
int broker_client_subscribe(broker_client_t *client,
                            int kind,
                            const char *name,
                            size_t len,
                            broker_req_t *req,
                            broker_reply_cb cb,
                            void *data);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* BROKER_H */

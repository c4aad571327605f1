/*
 * broker: one Redis connection pool per host, shared by every process on it.
 *
 * broker_client_t sends requests: to a broker, to Redis itself, or to a loop in the same process. broker_loop_t is the
 * broker, embedded in a program. broker_config_t (settings), broker_transaction_t (commands for one MULTI ... EXEC)
 * and broker_reply_t (values) are plain memory. The rules below hold for every function; the comment of a function adds
 * what is particular to it.
 *
 * Names
 *   Functions are named broker_<object>_<verb>(). The objects are config, transaction, loop, client and reply; five
 *   functions have no object: broker_strerror, _err_name, _version, _log_set and _fork_count. A verb has the same meaning
 *   for every object: _new and _free, _error (the text of the last failure), _fd and _timeout (for the program's event
 *   loop), _post, _set_data and _data, _follow_fork. Codes are BROKER_E...; BROKER_REPLY_* are types of replies,
 *   BROKER_RUN_* modes of broker_loop_run(), BROKER_LOG_* log levels; BROKER_CHANNEL, _PATTERN and _SHARD are kinds of
 *   subscriptions.
 *
 * Arguments
 *   Arguments have this order: the object; the input (argc, argv and argvlen, or a transaction, or a kind, name and len);
 *   timeout_ms; the result (out, req, or buf and len); the callback and its data. A constructor has out first, or returns
 *   the new object.
 *   The words of a command are argc, argv and argvlen. With a NULL argvlen each word ends at its NUL, otherwise it may
 *   contain any bytes. In C, BROKER_ARGV("GET", key) expands to all three. Input is copied.
 *   A timeout_ms is in milliseconds. BROKER_FOREVER (-1) is no limit; 0 does not wait (and is refused for a request);
 *   less than -1 is BROKER_EINVAL.
 *   A buf of len bytes is filled like snprintf(): truncated if necessary, with a NUL; the full length is returned.
 *
 * Results
 *   An int result is 0 or more, or a code. All codes are -201 or less, so -1 is never a code. On failure the object or
 *   reply returned through out is NULL. Every function with a handle may return BROKER_EINVAL (the handle is NULL),
 *   BROKER_ESTATE (it was freed), BROKER_EFORKED (it belongs to another process), BROKER_EREENTRANT (it is in use further
 *   up in this thread, or by another thread) and BROKER_EPANIC (the library caught a bug of its own; the handle can only
 *   be freed), even if its own list of codes does not name them. With BROKER_ESYS, and only then, errno has the reason, or
 *   is 0. A function blocks only if its comment says so. No function ends the process, installs a signal handler or raises
 *   SIGPIPE. Each _free accepts NULL; freeing a second time is BROKER_ESTATE.
 *
 * Callbacks
 *   If a function that takes a callback returns a code, the callback never runs. If it returns 0, there is exactly one
 *   last call, never inside that function, but inside broker_loop_run(), broker_client_process(), a _call that waits, or
 *   the _free of the handle. One step runs the callbacks that were due when it began; those they cause run in the next.
 *   The arguments of a callback are borrowed until it returns; broker_reply_dup() keeps a reply. A callback may submit,
 *   cancel and free, but must not run, process or call on the same handle. It must return: no exception, longjmp() or pthread_exit().
 *
 * Threads
 *   One thread at a time may use a handle. Functions marked [any thread] are the exceptions: _post, _set_data, _data, and
 *   _stop and _wakeup, which are also async-signal-safe. The library starts no thread. Cancellation (pthread_cancel) is
 *   deferred until a call returns, except in calls that wait: these are cancellation points, and leave the handle usable.
 *
 * Forks
 *   In a forked process fork() has closed every descriptor of the library (after a raw clone(), the first call closes
 *   them). Handles belong to the parent: every function returns BROKER_EFORKED, without a system call; _free only frees
 *   memory. broker_client_after_fork() creates a client anew. A handle that follows the fork (_follow_fork) belongs to the
 *   child from then on. Plain memory stays usable.
 *
 * Memory is allocated with the malloc() of the process. There are no allocator hooks, because Rust's allocator is chosen
 * when the library is linked; a preloaded malloc() (LD_PRELOAD) is used.
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
/* The arguments argc, argv and argvlen for the words of a command: BROKER_ARGV("SET", "key", value). Each word is a
 * string that ends at its NUL. C only; C++ has broker.hpp. */
#define BROKER_ARGV(...) \
    (sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *)), (const char *const[]){__VA_ARGS__}, NULL
#endif


/**
 * Success.
 */
#define BROKER_OK 0

/**
 * An invalid argument: a NULL, an empty command, a malformed endpoint.
 */
#define BROKER_EINVAL (-201)

/**
 * The handle is closed, the request is already complete, or the loop no longer serves.
 */
#define BROKER_ESTATE (-202)

/**
 * Too much is queued. Nothing was queued by this call; wait for replies and try again.
 */
#define BROKER_EAGAIN (-203)

/**
 * The handle is in use: by a function further up in this thread, or by another thread.
 */
#define BROKER_EREENTRANT (-204)

/**
 * The request's own timeout passed, or the broker's `request_timeout`. If the request had been sent, it may have
 * been executed.
 */
#define BROKER_ETIMEDOUT (-205)

/**
 * Canceled by broker_client_cancel(), or its handle was freed. If the request had been sent, it may have been
 * executed.
 */
#define BROKER_ECANCELED (-206)

/**
 * No connection: the request was not sent, so it was not executed and is safe to repeat.
 */
#define BROKER_ECONN (-207)

/**
 * The connection broke after the request, or a part of it, was sent: it was executed once or not at all.
 */
#define BROKER_ELOST (-208)

/**
 * The peer sent bytes that are not RESP.
 */
#define BROKER_EPROTO (-209)

/**
 * The peer refused the user, the password, the database or the name.
 */
#define BROKER_EAUTH (-210)

/**
 * A limit of the broker was reached (its error BROKERLIMIT): not executed, safe to repeat later.
 */
#define BROKER_ELIMIT (-211)

/**
 * The handle belongs to the process this one was forked from, or has followed a fork into another one. Free it, or
 * call broker_client_after_fork().
 */
#define BROKER_EFORKED (-212)

/**
 * A configuration key or value is invalid; the object's last error names it and what is allowed.
 */
#define BROKER_ECONFIG (-213)

/**
 * This function does not accept this command; broker_client_error() names the function that does.
 */
#define BROKER_EUNSUPPORTED (-214)

/**
 * A system call failed: no descriptors, no permission, no such file. With this code, and only then, errno has the
 * reason; 0 if there is none.
 */
#define BROKER_ESYS (-215)

/**
 * The library caught a bug of its own. The handle can only be freed.
 */
#define BROKER_EPANIC (-216)

/**
 * The timeout that never passes.
 */
#define BROKER_FOREVER (-1)

/**
 * No lines.
 */
#define BROKER_LOG_OFF 0

/**
 * Failures that need attention.
 */
#define BROKER_LOG_ERROR 1

/**
 * Problems the library has handled.
 */
#define BROKER_LOG_WARN 2

/**
 * Events of interest to an operator.
 */
#define BROKER_LOG_INFO 3

/**
 * Details of interest to a developer.
 */
#define BROKER_LOG_DEBUG 4

/**
 * All lines.
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
 * An error; its text begins with its code, such as "WRONGTYPE".
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
 * A string with a format (RESP3); the format is omitted.
 */
#define BROKER_REPLY_VERBATIM 7

/**
 * An integer of any size, as text (RESP3).
 */
#define BROKER_REPLY_BIGNUM 8

/**
 * An ordered list of values.
 */
#define BROKER_REPLY_ARRAY 9

/**
 * Keys and values, alternating (RESP3).
 */
#define BROKER_REPLY_MAP 10

/**
 * An unordered list of values (RESP3).
 */
#define BROKER_REPLY_SET 11

/**
 * A value that is not the reply to a request: a message, an invalidation (RESP3).
 */
#define BROKER_REPLY_PUSH 12

/**
 * Runs until broker_loop_stop(), or until the loop has drained.
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
 * A channel by name, as in SUBSCRIBE.
 */
#define BROKER_CHANNEL 0

/**
 * All channels that match a pattern, as in PSUBSCRIBE.
 */
#define BROKER_PATTERN 1

/**
 * A shard channel by name, as in SSUBSCRIBE.
 */
#define BROKER_SHARD 2

/**
 * A client: of a broker, of Redis itself (broker_client_new()), or of a loop in the same process
 * (broker_loop_client()); or a session, one connection of another client for the caller alone
 * (broker_client_session()).
 *
 * For one thread at a time; only functions marked [any thread] may be called from any. Its callbacks run in that
 * thread, inside broker_client_process(), _call() and _free(), and nowhere else. It connects automatically, and
 * reconnects after a loss.
 *
 * In a forked process a fork handler has closed every descriptor of the client, and every function returns
 * BROKER_EFORKED until broker_client_after_fork() creates it anew. broker_client_follow_fork() is the exception.
 *
 * Methods: broker_client_new, _session, _free, _after_fork, _follow_fork, _error, _connected; _submit,
 * _submit_transaction, _call, _call_transaction, _subscribe, _cancel; _fd, _timeout, _process, _wakeup, _post;
 * _on_push, _on_state; _set_data, _data.
 */
typedef struct broker_client_t broker_client_t;

/**
 * Settings for loops and clients, by name. One configuration can serve any number of both: broker_loop_new() reads the
 * keys of the broker from it, broker_client_new() the keys that begin with "client_". Both copy it, so it may be
 * changed or freed afterwards. Plain memory, for one thread at a time; usable after a fork.
 *
 * Methods: broker_config_new, _free, _set, _get, _load, _error.
 */
typedef struct broker_config_t broker_config_t;

/**
 * The broker, embedded in a program: it owns the connections to Redis and serves the processes that connect. For one
 * thread at a time; only functions marked [any thread] may be called from any. The library starts no thread; the loop
 * looks the upstream's host name up by itself, in /etc/hosts and by DNS, and never waits for a name server. It installs
 * no signal handler, changes no resource limit and never raises SIGPIPE. Its descriptors are close-on-exec.
 *
 * In a forked process a fork handler has closed every descriptor of the loop, and every function returns
 * BROKER_EFORKED. broker_loop_free() only frees memory there. broker_loop_follow_fork() is the exception.
 *
 * Methods: broker_loop_new, _free, _follow_fork; _run, _stop, _post, _fd, _timeout; _drain, _reload, _error,
 * _endpoint, _adopt, _stat, _stat_name, _set_data, _data; _client.
 */
typedef struct broker_loop_t broker_loop_t;

/**
 * One value of a reply; immutable. A callback borrows it: the reply and everything reached through it are valid until the
 * callback returns, unless broker_reply_dup() has kept it. The caller frees kept replies and those of the call
 * functions with broker_reply_free(), in any thread. Plain memory: usable after a fork.
 *
 * Methods: broker_reply_type, _integer, _double, _string, _len, _at, _raw, _dup, _free.
 */
typedef struct broker_reply_t broker_reply_t;

/**
 * Commands to be executed as one MULTI ... EXEC. broker_transaction_add() adds them; a submit or call function copies them,
 * any number of times. Plain memory, for one thread at a time; usable after a fork.
 *
 * Methods: broker_transaction_new, _free, _add.
 */
typedef struct broker_transaction_t broker_transaction_t;

/**
 * Receives one log line. `msg` has `len` bytes and no line end, is followed by a NUL, and is valid until the callback
 * returns. `handle` is the broker_loop_t or broker_client_t in use, or NULL; use it only for comparison. The callback
 * runs in the thread that caused the line, at the end of its step. No lock is held then that a fork() would wait for, but
 * calls on that handle return BROKER_EREENTRANT. It must not fork, throw, longjmp or end the thread.
 */
typedef void (*broker_log_cb)(int level, const char *msg, size_t len, const void *handle, void *data);

/**
 * Runs exactly once for each broker_loop_post(): with `status` 0 inside broker_loop_run(), with BROKER_ECANCELED inside
 * broker_loop_free(). May do what a broker_reply_cb may do.
 */
typedef void (*broker_loop_cb)(broker_loop_t *loop, int status, void *data);

/**
 * Identifies a pending request or a subscription; 0 identifies none. Numbers are never reused, so one that has ended is
 * harmless.
 */
typedef uint64_t broker_req_t;

/**
 * Receives the outcome of a request. Runs exactly once if the request was submitted with BROKER_OK, else never; never
 * inside the submitting function. With `status` 0, `reply` is the reply, borrowed until the callback returns (an error
 * from Redis is a reply of type ERROR). With a `status` below 0, a code, `reply` is NULL. Outcomes arrive in the order
 * of submission, except timeouts, cancellations and blocking commands.
 *
 * May use the client and free it (it is then closed when the callback has returned). Must not process or call:
 * BROKER_EREENTRANT. Must not free a loop that is running it. Must not throw, longjmp or end its thread (pthread_exit);
 * a pthread_cancel() takes effect when the function around the callback waits.
 */
typedef void (*broker_reply_cb)(broker_client_t *client,
                                int status,
                                const broker_reply_t *reply,
                                void *data);

/**
 * Runs exactly once for each broker_client_post(): with `status` 0 while the client is processed, with
 * BROKER_ECANCELED inside broker_client_free() or the free of its loop. May do what a broker_reply_cb may do.
 */
typedef void (*broker_client_cb)(broker_client_t *client, int status, void *data);

/**
 * Receives a push that belongs to no subscription, borrowed until the callback returns; see broker_client_on_push().
 * Otherwise as broker_reply_cb.
 */
typedef void (*broker_push_cb)(broker_client_t *client, const broker_reply_t *push, void *data);

/**
 * Runs when the client has connected (`connected` 1, `reason` 0), and when its connection was lost or could not be made
 * (0 and a code); the client then retries by itself. Otherwise as broker_reply_cb.
 */
typedef void (*broker_state_cb)(broker_client_t *client, int connected, int reason, void *data);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The text of a code. Static; never NULL, not even for an unknown code. [any thread, in callbacks,
 * after a fork]
 */
const char *broker_strerror(int code);

/**
 * The name of a code, such as "BROKER_EAGAIN". Static; never NULL, not even for an unknown code. [any
 * thread, in callbacks, after a fork]
 */
const char *broker_err_name(int code);

/**
 * The version of the library linked at run time: 0xMMmmpp00, like BROKER_VERSION_HEX of the header. [any thread, in
 * callbacks, after a fork]
 */
unsigned int broker_version(void);

/**
 * The number of forks between the first process and this one: a changed value means that this process is a copy.
 * Makes no system call. [any thread, in callbacks, after a fork; async-signal-safe]
 */
unsigned int broker_fork_count(void);

/**
 * Sets the log callback of the whole process. Without one, and with a NULL `cb`, nothing is logged. Lines less
 * important than `level` (BROKER_LOG_*) are dropped. Each kind of line is logged at most ten times in ten seconds about
 * one child, and at most 30 times about all children of one process or address; one line with the number of suppressed
 * ones follows, with the next line or call. Set it before the program has threads and handles: another thread may still
 * be passing a line to the previous callback.
 *
 * BROKER_EINVAL for an unknown level; BROKER_ESTATE if the program already has a logger of Rust's `log` crate.
 */
int broker_log_set(int level,
                   broker_log_cb cb,
                   void *data);

/**
 * Creates a configuration with the defaults. Free it with broker_config_free(). NULL only after an internal error.
 */
broker_config_t *broker_config_new(void);

/**
 * Frees the configuration. NULL is BROKER_OK; BROKER_ESTATE the second time.
 */
int broker_config_free(broker_config_t *config);

/**
 * Sets one key; a NULL value restores its default. Keys and values are those of docs/config.md, as in
 * broker.toml: times are milliseconds or text such as "5s", sizes bytes or text such as "64MiB". On failure
 * nothing has changed, and broker_config_error() says what is allowed.
 *
 * BROKER_EINVAL for a NULL handle or key; BROKER_ECONFIG for an unknown key or an unacceptable value.
 */
int broker_config_set(broker_config_t *config,
                      const char *key,
                      const char *value);

/**
 * Copies the value of a key into `buf` of `len` bytes like snprintf(): truncated if necessary, with a NUL. Returns its
 * full length without the NUL, or a negative code. Passwords are masked. `buf` may be NULL if `len` is 0.
 *
 * BROKER_EINVAL for a NULL handle or key; BROKER_ECONFIG for an unknown key.
 */
int broker_config_get(const broker_config_t *config,
                      const char *key,
                      char *buf,
                      size_t len);

/**
 * Reads a broker.toml, including keys that begin with "client_"; keys it does not name keep their values. Blocks for
 * file I/O, without a limit for a FIFO or an unreachable mount; a fork in another thread does not wait for it. On
 * failure nothing has changed.
 *
 * BROKER_EINVAL for a NULL; BROKER_ESYS if the file cannot be read; BROKER_ECONFIG for invalid content, with the
 * line number in broker_config_error(), and for more than 1 MiB.
 */
int broker_config_load(broker_config_t *config,
                       const char *path);

/**
 * The text of this configuration's last failure; "" before the first. Valid until the next call with it. NULL for a NULL
 * handle.
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
 * The number of a DOUBLE (also infinity and NaN) or an INTEGER; 0 for anything else and for NULL.
 */
double broker_reply_double(const broker_reply_t *reply);

/**
 * The bytes of a STATUS, ERROR, STRING or VERBATIM, and of a DOUBLE or BIGNUM as the server sent it. NULL for any other
 * type and for NULL, so check it before printing. The bytes are followed by a NUL that is not counted, and may contain
 * others. `len` may be NULL. Valid as long as the reply.
 */
const char *broker_reply_string(const broker_reply_t *reply,
                                size_t *len);

/**
 * The number of elements of an ARRAY, MAP, SET or PUSH; each key and each value of a map counts as one. 0 for any other
 * type and for NULL.
 */
size_t broker_reply_len(const broker_reply_t *reply);

/**
 * Element `i`, valid as long as the reply and not freed by itself. NULL beyond the last and for NULL.
 */
const broker_reply_t *broker_reply_at(const broker_reply_t *reply,
                                      size_t i);

/**
 * The value as RESP, byte for byte as received, without RESP3 attributes: the input of hiredis' redisReaderFeed().
 * Valid as long as the reply. NULL for NULL; `len` may be NULL.
 */
const char *broker_reply_raw(const broker_reply_t *reply,
                             size_t *len);

/**
 * Keeps a reply beyond its callback, without a copy; for a part, the whole reply is kept. Free the result once for each
 * call. NULL for NULL.
 */
broker_reply_t *broker_reply_dup(const broker_reply_t *reply);

/**
 * Frees the result of broker_reply_dup() or of a call function, once for each time it was returned. NULL is BROKER_OK.
 * [any thread]
 *
 * BROKER_ESTATE the second time, as long as fewer than some hundred other replies have been freed since; BROKER_EINVAL
 * for the reply of a callback and for a part of a reply, which are not freed.
 */
int broker_reply_free(broker_reply_t *reply);

/**
 * Creates an empty transaction. Free it with broker_transaction_free(). NULL only after an internal error.
 */
broker_transaction_t *broker_transaction_new(void);

/**
 * Frees the transaction. NULL is BROKER_OK; BROKER_ESTATE the second time. Submitted copies are not affected.
 */
int broker_transaction_free(broker_transaction_t *transaction);

/**
 * Adds a command. The words are as in broker_client_submit(), and are copied.
 *
 * BROKER_EINVAL for a NULL or an empty command; BROKER_EUNSUPPORTED for one that is not allowed in a transaction
 * (MULTI, EXEC, DISCARD, WATCH, subscriptions, session commands); BROKER_EAGAIN beyond 64 MiB.
 */
int broker_transaction_add(broker_transaction_t *transaction,
                           size_t argc,
                           const char *const *argv,
                           const size_t *argvlen);

/**
 * Creates a broker and binds its listeners. It connects to Redis at the first broker_loop_run(). The key "upstream" is
 * required, so a NULL `config` is BROKER_ECONFIG; "listen" is optional. Blocks while files are read and names in "listen"
 * resolved; the upstream's name is looked up while the loop runs, and one that is unknown is like an upstream that is
 * down. On failure *out is NULL and `errbuf` has the reason, truncated to `errlen` bytes (pass NULL and 0 to omit it).
 *
 * BROKER_EINVAL for a NULL `out`; BROKER_ECONFIG, BROKER_ESYS. [not while another call with `config` is in progress]
 */
int broker_loop_new(broker_loop_t **out,
                    const broker_config_t *config,
                    char *errbuf,
                    size_t errlen);

/**
 * Runs the loop: with BROKER_RUN_DEFAULT until broker_loop_stop() or until it has drained, with BROKER_RUN_ONCE for
 * one turn that waits for an event, with BROKER_RUN_NOWAIT for one turn that does not wait. Callbacks run in here.
 *
 * Returns 1 while the loop has work to come, 0 when it has drained. BROKER_EINVAL for NULL or an unknown mode;
 * BROKER_EREENTRANT from a callback; BROKER_ESTATE when closed; BROKER_EFORKED; BROKER_ESYS if the poll itself fails
 * (a failing connection does not cause that). Cancellation point: the thread may be cancelled in here while it waits.
 */
int broker_loop_run(broker_loop_t *loop,
                    int mode);

/**
 * Makes broker_loop_run() return soon: the current call with BROKER_RUN_DEFAULT, or the next one after one turn.
 * [any thread; async-signal-safe, one send(2)]
 *
 * BROKER_EINVAL for NULL; BROKER_ESTATE when closed; BROKER_EFORKED.
 */
int broker_loop_stop(broker_loop_t *loop);

/**
 * Queues `cb` and wakes the thread that runs the loop. `cb` runs once, inside broker_loop_run(), in the order of the
 * posts. If the loop is freed first, it runs inside broker_loop_free() with BROKER_ECANCELED. When this function returns
 * an error, `cb` never runs. [any thread]
 *
 * BROKER_EINVAL for NULL; BROKER_EAGAIN when 65,536 functions are queued, and while a fork() moves the handle;
 * BROKER_ESTATE when closed; BROKER_EFORKED.
 */
int broker_loop_post(broker_loop_t *loop,
                     broker_loop_cb cb,
                     void *data);

/**
 * The descriptor to watch for readability in another loop (epoll, poll, libuv): the same for the life of the loop.
 * When it is readable, or broker_loop_timeout() has passed, call broker_loop_run(loop, BROKER_RUN_NOWAIT). Watch
 * it level-triggered; never read or close it.
 *
 * A negative code for an invalid handle.
 */
int broker_loop_fd(const broker_loop_t *loop);

/**
 * How long another loop may sleep before the next broker_loop_run(), in milliseconds: 0 while work is deferred, even if
 * the descriptor is not readable; -1 until the descriptor is readable. Ask after each broker_loop_run(); requests
 * submitted and changes made outside of it make the descriptor readable.
 *
 * A negative code other than -1 for an invalid handle.
 */
int broker_loop_timeout(const broker_loop_t *loop);

/**
 * Ends the service gracefully: closes the listeners, answers the complete requests received so far, then closes each
 * child. Blocked commands and open transactions have `timeout_ms` milliseconds; other requests are answered
 * however long they take. broker_loop_run() returns 0 when all children are closed. A second call can only shorten the
 * time.
 *
 * BROKER_EINVAL for a `timeout_ms` below -1; BROKER_ESTATE when closed; BROKER_EFORKED.
 */
int broker_loop_drain(broker_loop_t *loop,
                      int timeout_ms);

/**
 * Closes every connection and listener at once and frees the handle. Pending requests of its clients get
 * BROKER_ECANCELED before this function returns; afterwards the clients return BROKER_ESTATE and must still be freed. In
 * a forked process it only frees memory.
 *
 * NULL is BROKER_OK; BROKER_EREENTRANT from a callback of the loop or of its clients, and nothing is closed;
 * BROKER_ESTATE the second time.
 */
int broker_loop_free(broker_loop_t *loop);

/**
 * Applies new settings to a running loop, every key of docs/config.md; on failure nothing has changed. What the console had
 * changed (BROKER SET) is what `config` says again. Blocks while files are read and names in "listen" resolved; a fork in
 * another thread does not wait for it.
 *
 * BROKER_ECONFIG, BROKER_ESYS with the reason in broker_loop_error(); BROKER_EINVAL for NULL; BROKER_ESTATE when
 * closed or draining; BROKER_EFORKED.
 */
int broker_loop_reload(broker_loop_t *loop,
                       const broker_config_t *config);

/**
 * The text of this loop's last failure; "" before the first. Valid until the next call with it. NULL for an invalid
 * handle.
 */
const char *broker_loop_error(const broker_loop_t *loop);

/**
 * Copies the URL of listener `i`, with the port the system chose, into `buf` like snprintf(); returns its full
 * length. broker_client_new() accepts this URL.
 *
 * BROKER_EINVAL for NULL or beyond the last listener; BROKER_ESTATE, BROKER_EFORKED.
 */
int broker_loop_endpoint(const broker_loop_t *loop,
                         size_t i,
                         char *buf,
                         size_t len);

/**
 * Makes a connected stream socket a child: one end of a socketpair(), or a socket that the program accepted itself.
 * With the other end as "fd://N", a forked worker needs no path on disk. On success the loop owns `fd` and closes
 * it; on failure the caller still owns it.
 *
 * BROKER_EINVAL if it is not a connected stream socket, or the loop already has it; BROKER_ELIMIT above
 * "children_max"; BROKER_ESYS; BROKER_ESTATE when closed or draining; BROKER_EFORKED.
 */
int broker_loop_adopt(broker_loop_t *loop,
                      int fd);

/**
 * While `on` is not 0, a fork() in the thread that uses the loop moves it to the child process, with its descriptors,
 * its children and its clients; in the parent it then returns BROKER_EFORKED. For daemon() and double forks: turn it on,
 * fork, turn it off. A fork() while another thread uses the loop does not move it.
 *
 * BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for NULL.
 */
int broker_loop_follow_fork(broker_loop_t *loop,
                            int on);

/**
 * Creates a client of the loop, for the program's own requests. It needs no socket; broker_loop_run() drives it and runs
 * its callbacks. It supports everything a client does (transactions, sessions, blocking commands, subscriptions) except
 * the functions that drive one: broker_client_fd(), _timeout() and _process() return BROKER_EUNSUPPORTED, and
 * broker_client_call() runs the loop while it waits. Free it with broker_client_free(), before or after the loop; once
 * the loop is freed, its functions return BROKER_ESTATE. On failure *out is NULL.
 *
 * BROKER_EINVAL for NULL; BROKER_ESTATE when closed or draining; BROKER_EFORKED.
 */
int broker_loop_client(broker_client_t **out,
                       broker_loop_t *loop);

/**
 * Stores a pointer for the program with the loop; initially NULL. [any thread]
 *
 * BROKER_EINVAL for a NULL loop; BROKER_ESTATE when closed; BROKER_EFORKED.
 */
int broker_loop_set_data(broker_loop_t *loop, void *data);

/**
 * The pointer stored by broker_loop_set_data(); NULL for an invalid handle. [any thread, in callbacks, after a fork]
 */
void *broker_loop_data(const broker_loop_t *loop);

/**
 * Reads one statistic of the loop by name: see docs/c-api.md, or broker_loop_stat_name().
 *
 * BROKER_EINVAL for NULL or an unknown name; BROKER_ESTATE, BROKER_EFORKED.
 */
int broker_loop_stat(const broker_loop_t *loop, const char *name, uint64_t *value);

/**
 * The name of statistic `i`, from 0; NULL beyond the last. Static. [any thread, in callbacks, after a fork]
 */
const char *broker_loop_stat_name(size_t i);

/**
 * Creates a client of `endpoint` and begins to connect. Requests may be submitted at once; they wait for the connection
 * up to "client_queue_timeout".
 *
 * - "unix:///run/broker/broker.sock", "tcp://host:port": a broker's socket (or that of Redis: the protocol is the same).
 * - "fd://3": a connected socket, such as the other end of one passed to broker_loop_adopt(). The client owns and
 *   closes it. It cannot be connected again once lost.
 * - "tls://host:port": a broker's listener with TLS.
 * - "redis://[user[:password]@]host[:port][/db]": Redis itself; "rediss://..." with TLS.
 * - NULL: the value of the environment variable BROKER_ENDPOINT.
 *
 * `config` has the user, password, database, name and protocol (the "client_..." keys of docs/c-api.md), which
 * are set on every new connection, and whom to trust where TLS is used (the "client_tls_..." keys, whose files are read in
 * here); NULL means the defaults. A host name is looked up while the client runs, in /etc/hosts and by DNS, without
 * blocking; one that is unknown is like a server that is down. On failure *out is NULL and `errbuf` has the reason,
 * truncated to `errlen` bytes (pass NULL and 0 to omit it).
 *
 * BROKER_EINVAL for a NULL `out`, a malformed endpoint, or NULL without BROKER_ENDPOINT; BROKER_ECONFIG for
 * settings that contradict each other or name files of TLS that cannot be used; BROKER_ESYS without descriptors.
 */
int broker_client_new(broker_client_t **out,
                      const char *endpoint,
                      const broker_config_t *config,
                      char *errbuf,
                      size_t errlen);

/**
 * Opens a session of a client: one connection for commands that depend on connection state, such as WATCH ... EXEC. A
 * session accepts commands that the client's shared connection does not (WATCH, UNWATCH, MULTI, EXEC, DISCARD, SELECT,
 * AUTH; and a blocking command, behind which the next one waits). It does not support subscriptions, on_push and
 * on_state, nor commands after which a connection takes no more requests. State that a command leaves on the connection
 * stays until the session is freed, which closes the connection. If the connection is lost, all later requests return
 * BROKER_ECONN, so that lost state is never unnoticed. Driving the client drives its sessions too: their _fd, _timeout,
 * _process, _wakeup and _post are those of the client. Free the session before or after its client. On failure *out is
 * NULL.
 *
 * BROKER_EINVAL for NULL; BROKER_EAGAIN above "client_connections_max"; BROKER_ECONN for a client that cannot open
 * further connections; BROKER_EUNSUPPORTED for a session of a session; BROKER_ESTATE, BROKER_EFORKED.
 */
int broker_client_session(broker_client_t **out,
                          broker_client_t *client);

/**
 * Closes and frees the client. Pending requests and subscriptions get BROKER_ECANCELED before this function returns
 * (those of a session in the next processing). Called from a callback, all of this happens when the outermost callback
 * has returned. Its sessions end with it and must still be freed. In a forked process it only frees memory, and no
 * callback runs.
 *
 * NULL is BROKER_OK; BROKER_ESTATE the second time.
 */
int broker_client_free(broker_client_t *client);

/**
 * In a forked process: creates the client anew and connects it, with the same endpoint, configuration, on_push and
 * on_state. Pending requests and subscriptions of the parent are not carried over. Inherited sessions stay unusable:
 * free them.
 *
 * BROKER_ESTATE in the process that created the client, and when it is freed; BROKER_ECONN for "fd://", which
 * cannot be connected again; BROKER_EUNSUPPORTED for a session and for a client of a loop; BROKER_ESYS;
 * BROKER_EREENTRANT from a log callback; BROKER_EINVAL for NULL.
 */
int broker_client_after_fork(broker_client_t *client);

/**
 * While `on` is not 0, a fork() in the thread that uses the client moves it to the child process, with its descriptors,
 * requests, subscriptions and sessions; in the parent it then returns BROKER_EFORKED. For daemon() and double forks:
 * turn it on, fork, turn it off. A fork() while another thread uses the client does not move it.
 *
 * BROKER_EUNSUPPORTED for a session and for a client of a loop, which move with their client or loop;
 * BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for NULL.
 */
int broker_client_follow_fork(broker_client_t *client,
                              int on);

/**
 * The text of this client's last failure: why a call was refused, or why the connection was lost or could not
 * be made. "" before the first. Valid until the next call with the client. NULL for an invalid handle, except in a
 * forked process after a failed broker_client_after_fork(), whose reason it returns.
 */
const char *broker_client_error(const broker_client_t *client);

/**
 * 1 while the client is connected, else 0; a code for an invalid handle.
 */
int broker_client_connected(const broker_client_t *client);

/**
 * Submits a request; `cb` receives its outcome. `argv` has `argc` words, the command's name first; they are copied. With
 * a NULL `argvlen` each word ends at its NUL, else word i has argvlen[i] bytes of any value. `timeout_ms` is the time
 * limit in milliseconds, or BROKER_FOREVER for none. `req` may be NULL, else it gets the number of the request. The next
 * processing of the client sends it, together with all others submitted by then. When this function returns an error,
 * `cb` never runs.
 *
 * All requests share one connection and are answered in order, except blocking commands (BLPOP, XREAD BLOCK, ...):
 * each has its own connection while it waits, and canceling it closes that connection.
 *
 * BROKER_EINVAL for NULL, no words, a `timeout_ms` of 0 or below -1; BROKER_EAGAIN above "client_requests_max" or
 * "client_bytes_max"; BROKER_ESTATE, BROKER_EFORKED; BROKER_EUNSUPPORTED for commands that would change the
 * shared connection: MULTI, EXEC, DISCARD (use broker_client_submit_transaction()), WATCH, UNWATCH (use a session),
 * SUBSCRIBE and its family (use broker_client_subscribe()), SELECT, AUTH, HELLO, RESET, CLIENT SETNAME (use the
 * client_... keys), CLIENT REPLY, CLIENT CACHING, QUIT, MONITOR, SYNC, PSYNC, REPLCONF, SCRIPT DEBUG, ASKING, READONLY,
 * READWRITE. CLIENT TRACKING, NO-EVICT, NO-TOUCH and SETINFO are sent, and once accepted set again on every new
 * connection.
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
 * Submits a transaction: either all its commands are executed, with no other command between them, or none is. It has
 * one outcome: the reply of EXEC, an array with the reply of each command. If Redis refused a command (and therefore
 * executed none), the reply is that command's error. On a session with a watched key that has changed, no command is
 * executed and the reply is NIL: read again and retry. Otherwise as broker_client_submit().
 *
 * BROKER_EINVAL for NULL or a transaction without commands; otherwise as broker_client_submit().
 */
int broker_client_submit_transaction(broker_client_t *client,
                                     const broker_transaction_t *transaction,
                                     int timeout_ms,
                                     broker_req_t *req,
                                     broker_reply_cb cb,
                                     void *data);

/**
 * Cancels a request or a subscription: its callback gets BROKER_ECANCELED, its last call, in the next processing. A
 * request that was sent may still be executed (a blocking command stops waiting, since its connection is closed); one
 * that was not sent is not.
 *
 * BROKER_ESTATE if it has ended already (its last callback has run or is about to run); BROKER_EFORKED.
 */
int broker_client_cancel(broker_client_t *client,
                         broker_req_t req);

/**
 * Submits a request and waits for its outcome, `timeout_ms` milliseconds at most. With BROKER_OK, *out is the reply, to
 * be freed with broker_reply_free(); otherwise it is NULL (`out` may be NULL). Callbacks of other requests run meanwhile.
 * Arguments and codes are those of broker_client_submit(), and the codes of an outcome: BROKER_ECONN, BROKER_ELOST,
 * BROKER_ETIMEDOUT, BROKER_ELIMIT, BROKER_EAUTH, BROKER_EPROTO. On a client of a loop it runs the loop. Cancellation
 * point.
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
 * Submits a transaction and waits for its outcome: broker_client_submit_transaction() and broker_client_call() in
 * one.
 */
int broker_client_call_transaction(broker_client_t *client,
                                   const broker_transaction_t *transaction,
                                   int timeout_ms,
                                   broker_reply_t **out);

/**
 * The descriptor to watch for readability in any loop: the same through reconnects, for the life of the client.
 * When it is readable, or broker_client_timeout() has passed, call broker_client_process(). Watch it
 * level-triggered; never read or close it. broker_client_after_fork() changes it.
 *
 * A negative code for an invalid handle.
 */
int broker_client_fd(const broker_client_t *client);

/**
 * How long a loop may sleep before the next broker_client_process(), in milliseconds: 0 while work is deferred, even if
 * the descriptor is not readable; -1 until it is readable. Ask again after each processing.
 *
 * A negative code other than -1 for an invalid handle.
 */
int broker_client_timeout(const broker_client_t *client);

/**
 * One step: reads, runs the callbacks that are due, writes. With a `timeout_ms` of 0 it never waits. Otherwise it waits
 * for an event, at most that many milliseconds or without a limit with BROKER_FOREVER; it may return earlier with 0.
 * Returns how many callbacks ran; those they cause are due in the next step. Cancellation point if it waits.
 *
 * BROKER_EINVAL below -1; BROKER_EREENTRANT from a callback; BROKER_ESTATE when freed, also by one of these callbacks;
 * BROKER_EUNSUPPORTED for a client of a loop; BROKER_EFORKED; BROKER_ESYS if the poll itself fails.
 */
int broker_client_process(broker_client_t *client,
                          int timeout_ms);

/**
 * Makes the descriptor readable and ends a wait, so that the client's own thread looks at a flag that a signal handler
 * has set; other threads may use broker_client_post(). [any thread; async-signal-safe]
 *
 * BROKER_EINVAL for NULL; BROKER_ESTATE when freed; BROKER_EFORKED.
 */
int broker_client_wakeup(broker_client_t *client);

/**
 * Queues `cb` and wakes the client's own thread. `cb` runs once, while the client is processed, in the order of the
 * posts. If the client is freed first, it runs inside broker_client_free() with BROKER_ECANCELED (for a session, in the
 * next processing of its client). When this function returns an error, `cb` never runs. [any thread]
 *
 * BROKER_EINVAL for NULL; BROKER_EAGAIN when 65,536 functions are queued, and while a fork() moves the handle;
 * BROKER_ESTATE when freed; BROKER_EFORKED.
 */
int broker_client_post(broker_client_t *client,
                       broker_client_cb cb,
                       void *data);

/**
 * Stores a pointer for the program with the client; initially NULL. [any thread]
 *
 * BROKER_EINVAL for a NULL client; BROKER_ESTATE when freed; BROKER_EFORKED.
 */
int broker_client_set_data(broker_client_t *client, void *data);

/**
 * The pointer stored by broker_client_set_data(); NULL for an invalid handle. [any thread, in callbacks, after a fork]
 */
void *broker_client_data(const broker_client_t *client);

/**
 * Sets the callback for pushes that belong to no subscription, such as invalidations after CLIENT TRACKING; NULL for
 * none.
 *
 * BROKER_EUNSUPPORTED for a session; BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for a NULL client.
 */
int broker_client_on_push(broker_client_t *client,
                          broker_push_cb cb,
                          void *data);

/**
 * Sets the callback for changes of the connection's state; NULL for none. If the client is already connected, it runs in
 * the next processing.
 *
 * BROKER_EUNSUPPORTED for a session; BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for a NULL client.
 */
int broker_client_on_state(broker_client_t *client,
                           broker_state_cb cb,
                           void *data);

/**
 * Subscribes to one name; `kind` is BROKER_CHANNEL, BROKER_PATTERN or BROKER_SHARD. `name` has `len` bytes. `cb` gets
 * every push for the name, with `status` 0, an array as Redis sends it: first ["subscribe", name, count], then a
 * ["message", channel, payload] (or ["pmessage", pattern, channel, payload], ["smessage", ...]) for each message. A
 * second "subscribe" means that the connection was lost and established again: messages may have been missed. A reply of
 * type ERROR (refused by Redis) or a `status` below 0 is the last call: BROKER_ECANCELED after broker_client_cancel().
 * Several subscriptions to one name are one to Redis, and each gets every message. All subscriptions of a client share
 * one connection, opened with the first and closed with the last. `req` may be NULL, else it gets the number of the
 * subscription. When this function returns an error, `cb` never runs.
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

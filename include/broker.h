/*
 * broker: one Redis connection pool per host, shared by every process on it.
 *
 * Three roles, one header. broker_loop_t is the broker, embedded in a program of its own or in yours;
 * broker_client_t is a process's side of it; each is driven by its own functions or, through one
 * descriptor and a timeout, by any other event loop.
 *
 * Conventions
 *   Handles are opaque and come from a _new function; the matching _free or _close takes NULL and notices
 *   a second call. A handle is used by one thread at a time; "[any thread]" marks exceptions.
 *   Functions return 0 or more, or a negative BROKER_E... code; they never block unless they say so, never
 *   end the process, and let no exception or panic out.
 *   What you pass in is copied before the function returns. What a callback gets is borrowed until the
 *   callback returns.
 *   When a function that takes a callback returns an error, the callback is never called. When it returns
 *   0, the callback comes exactly once (a subscription's: until its last), and never from inside that
 *   function.
 *   A NULL handle is BROKER_EINVAL, a closed one BROKER_ESTATE, one of the parent process BROKER_EFORKED,
 *   one on which an internal error was caught BROKER_EPANIC: every function returns these, and the lists
 *   of codes below do not repeat all of them.
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


/**
 * Success.
 */
#define BROKER_OK 0

/**
 * An argument is unusable: a NULL, an empty command, a malformed endpoint.
 */
#define BROKER_EINVAL -1

/**
 * The handle is closed, the request is done already, or the loop no longer serves.
 */
#define BROKER_ESTATE -2

/**
 * Not from inside one of the handle's callbacks.
 */
#define BROKER_EBUSY -3

/**
 * Too much is queued; wait for replies, then try again. Nothing was queued.
 */
#define BROKER_EAGAIN -4

/**
 * The request's own timeout passed, or the broker's `request_timeout`. If it had been sent, it may have
 * been executed.
 */
#define BROKER_ETIMEDOUT -5

/**
 * Canceled by broker_cancel(), broker_client_cancel(), or by the end of its handle. If it had been sent, it
 * may have been executed.
 */
#define BROKER_ECANCELED -6

/**
 * No connection: the request was never sent, so it was not executed and is safe to repeat.
 */
#define BROKER_ECONN -7

/**
 * The connection broke after the request, or a part of it, was sent: it was executed once or not at all.
 */
#define BROKER_ELOST -8

/**
 * The peer does not speak the protocol.
 */
#define BROKER_EPROTO -9

/**
 * The peer refused the user, the password, the database or the name.
 */
#define BROKER_EAUTH -10

/**
 * A limit of the broker's was reached (the error BROKERLIMIT): not executed, safe to repeat later.
 */
#define BROKER_ELIMIT -11

/**
 * Not while the handle is at work: from its callbacks, from a log callback, or from a second thread.
 */
#define BROKER_EREENTRANT -12

/**
 * The handle belongs to the process that this one was forked from. Call the after_fork function, or only
 * free it.
 */
#define BROKER_EFORKED -13

/**
 * A configuration key or value is not acceptable; the words say which and what is allowed.
 */
#define BROKER_ECONFIG -14

/**
 * This command cannot go this way; broker_client_error() says which function is meant for it.
 */
#define BROKER_EUNSUPPORTED -15

/**
 * The system refused: no descriptors, no permission, no such file.
 */
#define BROKER_ESYS -16

/**
 * A bug in the library was caught. The handle is poisoned: all it still takes is to be freed.
 */
#define BROKER_EPANIC -99

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
 * Until broker_stop(), or until nothing is left to do.
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
 * A client of a broker, or of Redis itself. One thread at a time; broker_client_wakeup() alone may be called from
 * any. Its callbacks run in that thread, inside broker_client_process(), _wait(), _call() and _free(), and nowhere
 * else. It connects by itself, and again after a loss.
 *
 * A forked process must not use an inherited client: every function returns BROKER_EFORKED there without touching
 * a descriptor, until broker_client_after_fork().
 *
 * Methods: broker_client_new, _free, _after_fork, _error, _connected; _submit, _transaction, _cancel, _flush;
 * _call, _call_transaction; _fd, _timeout, _process, _wait, _wakeup; _on_push, _on_state; _subscribe,
 * _unsubscribe.
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
 * thread at a time; broker_stop() alone may be called from any. It starts no thread, installs no signal handler,
 * touches no resource limit and never raises SIGPIPE; the descriptors it opens are close-on-exec.
 *
 * A forked process must not use an inherited loop: every function returns BROKER_EFORKED there without touching
 * a descriptor, until broker_loop_after_fork().
 *
 * Methods: broker_loop_new, _close, _drain, _reload, _error, _endpoint, _adopt_fd, _after_fork, _stat,
 * _stat_name; broker_run, broker_stop, broker_backend_fd, broker_backend_timeout; broker_submit,
 * broker_submit_transaction, broker_cancel.
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
 * A connection of its own within a client, for what depends on one: WATCH ... EXEC above all. Whatever state a command
 * leaves on it stays until the session is freed, which closes the connection; if the connection is lost, everything
 * after returns BROKER_ECONN, so that no state is ever lost in silence. Same thread and same processing as its client,
 * whose callbacks get the outcomes.
 *
 * Methods: broker_session_new, _free, _submit, _transaction, _call, _call_transaction.
 */
typedef struct broker_session_t broker_session_t;

/**
 * Commands to be executed as one MULTI ... EXEC. Filled with broker_transaction_add(), then given to a submit or
 * call function any number of times; they copy it. Plain memory: usable after a fork, by one thread at a time.
 *
 * Methods: broker_transaction_new, _free, _add, _clear, _len.
 */
typedef struct broker_transaction_t broker_transaction_t;

/**
 * Gets a log line: `msg` has `len` bytes, no line end, and a NUL behind it; it ends with the call. Runs in
 * whatever thread is inside the library, while a handle is at work: calls on that handle return
 * BROKER_EREENTRANT. Must not fork, throw or longjmp.
 */
typedef void (*broker_log_cb)(int level, const char *msg, size_t len, void *data);

/**
 * Names a request while it is under way; 0 names none. Never used again, so one that is over is harmless.
 */
typedef uint64_t broker_req_t;

/**
 * Gets the outcome of one of the loop's own requests, exactly once, from inside broker_run() or
 * broker_loop_close(). `status` 0: `reply` is the reply, borrowed until the callback returns (an error of Redis'
 * is a reply of type ERROR). Below 0: a code, and `reply` is NULL. May submit, cancel and drain; broker_run()
 * returns BROKER_EREENTRANT in it and broker_loop_close() BROKER_EBUSY. Must not throw or longjmp.
 */
typedef void (*broker_loop_reply_cb)(broker_loop_t *loop,
                                     int status,
                                     const broker_reply_t *reply,
                                     void *data);

/**
 * Gets the outcome of a request, exactly once if and only if it was submitted with BROKER_OK, and never from
 * inside the submitting function. `status` 0: `reply` is the reply, borrowed until the callback returns (an error
 * of Redis' is a reply of type ERROR). Below 0: a code, and `reply` is NULL. Outcomes come in the order in which
 * requests were submitted, except timeouts, cancellations and blocking commands.
 *
 * May use the client and free it (which then happens when the callback has returned); may not process, wait or
 * call: BROKER_EREENTRANT. Must not throw or longjmp.
 */
typedef void (*broker_reply_cb)(broker_client_t *client,
                                int status,
                                const broker_reply_t *reply,
                                void *data);

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

/**
 * Names a subscription; 0 names none. Never used again.
 */
typedef uint64_t broker_sub_t;

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
 * The same as text, "0.1.0". Static. [any thread, in callbacks, after a fork]
 */
const char *broker_version_string(void);

/**
 * Sets where the library's log goes, for the whole process; without it, and with a NULL `cb`, nowhere. Lines less
 * important than `level` (BROKER_LOG_*) are left out. Of each kind of line ten come in ten seconds; how many more
 * there were is one line after them, with the next line or call. Best called before there are threads and handles; a line under way in another
 * thread may still reach the old function.
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
 * Reads a broker.toml; keys it does not name keep their values. Blocking file I/O. On failure nothing has
 * changed.
 *
 * BROKER_EINVAL for a NULL; BROKER_ESYS if the file cannot be read; BROKER_ECONFIG for its content, with the
 * line in broker_config_error().
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
 * returns. NULL for NULL.
 */
broker_reply_t *broker_reply_dup(const broker_reply_t *reply);

/**
 * Frees what broker_reply_dup() or a call function has handed out, once; never what a callback got. NULL is
 * allowed. [any thread]
 */
void broker_reply_free(broker_reply_t *reply);

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
 * Takes all commands out, so that it can be filled anew.
 */
int broker_transaction_clear(broker_transaction_t *transaction);

/**
 * How many commands it holds; a negative code for a bad handle.
 */
int broker_transaction_len(const broker_transaction_t *transaction);

/**
 * Makes a broker and binds its listeners; Redis is not dialled before the first broker_run(). With a NULL
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
 * Runs the loop: BROKER_RUN_DEFAULT until broker_stop() or until nothing is left to do, BROKER_RUN_ONCE for one
 * turn that waits for an event, BROKER_RUN_NOWAIT for one that does not. Callbacks run in here.
 *
 * Returns 1 while there is work to come, 0 when there will be none (drained). BROKER_EINVAL for NULL or an
 * unknown mode; BROKER_EREENTRANT from a callback; BROKER_ESTATE when closed; BROKER_EFORKED; BROKER_ESYS if the
 * poll itself fails (no failing connection causes that).
 */
int broker_run(broker_loop_t *loop,
               int mode);

/**
 * Makes broker_run() return soon: the present call with BROKER_RUN_DEFAULT, or the next one after a turn.
 * [any thread; async-signal-safe, one send(2)]
 *
 * BROKER_EINVAL for NULL; BROKER_ESTATE when closed; BROKER_EFORKED.
 */
int broker_stop(broker_loop_t *loop);

/**
 * The descriptor to watch for readable in another loop (epoll, poll, libuv): the same for the life of the loop.
 * When it is readable, or broker_backend_timeout() has passed, call broker_run(loop, BROKER_RUN_NOWAIT). Watch it
 * level-triggered; never read or close it.
 *
 * A negative code for a bad handle.
 */
int broker_backend_fd(const broker_loop_t *loop);

/**
 * How long another loop may sleep before the next broker_run(), in milliseconds: 0 while work is deferred,
 * whatever the descriptor says; -1 until the descriptor is readable. Ask after each broker_run(); what is submitted or
 * changed outside of it makes the descriptor readable.
 *
 * A code below -1 for a bad handle; BROKER_EINVAL, which is -1, for NULL.
 */
int broker_backend_timeout(const broker_loop_t *loop);

/**
 * Ends the service in good order: closes the listeners, answers what has been received complete, then closes each
 * child. Blocked commands and transactions that watch keys have `timeout_ms` (-1: the key "drain_timeout").
 * broker_run() returns 0 when all have gone.
 *
 * BROKER_ESTATE when closed; BROKER_EFORKED.
 */
int broker_loop_drain(broker_loop_t *loop,
                      int timeout_ms);

/**
 * Closes every connection and listener at once and frees the handle. Requests of its own that are pending get
 * BROKER_ECANCELED first, before it returns. In a forked process it only frees.
 *
 * NULL is BROKER_OK; BROKER_EBUSY from a callback, and nothing is closed; BROKER_ESTATE a second time.
 */
int broker_loop_close(broker_loop_t *loop);

/**
 * Takes new settings while it runs, every key of docs/config.md; on any failure nothing has changed. Blocks while
 * names are resolved and files read.
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
 * BROKER_EINVAL if it is no connected stream socket; BROKER_ELIMIT above "children_max"; BROKER_ESTATE when closed
 * or draining; BROKER_EFORKED.
 */
int broker_loop_adopt_fd(broker_loop_t *loop,
                         int fd);

/**
 * In a forked process: closes every inherited descriptor of the loop, without a word to the parent's connections.
 * The handle is then only good for broker_loop_close(); all else returns BROKER_ESTATE. Call it first thing after
 * fork(), or the parent's connections outlive the parent.
 *
 * BROKER_ESTATE in the process that made the loop, and when closed; BROKER_EINVAL for NULL.
 */
int broker_loop_after_fork(broker_loop_t *loop);

/**
 * Sends a request of the program's own; its outcome comes to `cb` from inside broker_run(), never from in here.
 * `argv` has `argc` words, copied, the command's name first; with a NULL `argvlen` each ends at its NUL.
 * `timeout_ms` 0: it waits for as long as it takes. `req` may be NULL, and else gets the name of the request.
 * Blocking commands run beside the others. When it returns an error, `cb` is never called.
 *
 * BROKER_EINVAL for NULL; BROKER_EUNSUPPORTED for commands that would change the connection (see
 * broker_client_submit()); BROKER_EAGAIN when too much is queued; BROKER_ESTATE when closed or draining;
 * BROKER_EFORKED.
 */
int broker_submit(broker_loop_t *loop,
                  size_t argc,
                  const char *const *argv,
                  const size_t *argvlen,
                  uint32_t timeout_ms,
                  broker_req_t *req,
                  broker_loop_reply_cb cb,
                  void *data);

/**
 * Sends a transaction of the program's own: all its commands are executed, one behind the other with nothing
 * between, or none is. The reply is that of EXEC, as in broker_client_transaction(), and everything else as in
 * broker_submit().
 */
int broker_submit_transaction(broker_loop_t *loop,
                              const broker_transaction_t *transaction,
                              uint32_t timeout_ms,
                              broker_req_t *req,
                              broker_loop_reply_cb cb,
                              void *data);

/**
 * Gives a request up: its callback gets BROKER_ECANCELED from the next broker_run(). What was sent may be executed
 * all the same; what was not is not.
 *
 * BROKER_ESTATE if its outcome is known already (the callback has run or is about to); BROKER_EFORKED.
 */
int broker_cancel(broker_loop_t *loop,
                  broker_req_t req);

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
 * Makes a client of `endpoint` and begins to connect; requests may be submitted at once and wait for the connection
 * up to "queue_timeout".
 *
 * - "unix:///run/broker/broker.sock", "tcp://host:port": a broker's socket (or Redis' own: it speaks the same).
 * - "fd://3": a connected socket, such as the other end of what broker_loop_adopt_fd() took. The client owns and
 *   closes it. It cannot be connected again once lost.
 * - "redis://[user[:password]@]host[:port][/db]": straight to Redis.
 * - NULL: what the environment variable BROKER_ENDPOINT says.
 *
 * `config` gives the user, password, database, name and protocol (the "client_..." keys of docs/c-api.md), which are
 * set again on every connection; NULL means the defaults. A host name is looked up in here, blocking. On failure
 * *out is NULL and `errbuf` has the words, cut to `errlen` bytes (NULL and 0 if they are not wanted).
 *
 * BROKER_EINVAL for a NULL `out`, a malformed endpoint, or NULL without BROKER_ENDPOINT; BROKER_ECONFIG for settings
 * that do not fit together; BROKER_ESYS without descriptors, or for a name that cannot be looked up.
 */
int broker_client_new(broker_client_t **out,
                      const char *endpoint,
                      const broker_config_t *config,
                      char *errbuf,
                      size_t errlen);

/**
 * Closes the client. Pending requests and subscriptions get BROKER_ECANCELED before it returns; called from a
 * callback, all of this happens when the outermost callback has returned. Its sessions end with it. In a forked
 * process it only closes the inherited descriptors; no callback runs.
 *
 * NULL is BROKER_OK; BROKER_ESTATE a second time.
 */
int broker_client_free(broker_client_t *client);

/**
 * In a forked process: closes the inherited descriptors without a word to the parent's connections, forgets pending
 * requests and subscriptions without calling back, and connects anew; endpoint, configuration, on_push and on_state
 * stay. Inherited sessions are dead: free them.
 *
 * BROKER_ESTATE in the process that made the client, and when it is freed; BROKER_ECONN for "fd://", which cannot
 * be connected again; BROKER_ESYS; BROKER_EREENTRANT from a log callback; BROKER_EINVAL for NULL.
 */
int broker_client_after_fork(broker_client_t *client);

/**
 * The last failure of this client in words: why a call was refused, or why the connection was lost or could not be
 * made. "" before the first. Valid until the next call with the client. NULL for a bad handle.
 */
const char *broker_client_error(const broker_client_t *client);

/**
 * 1 while the client's connection is there, 0 while it is not; a code for a bad handle.
 */
int broker_client_connected(const broker_client_t *client);

/**
 * Sends a request; its outcome comes to `cb`. `argv` has `argc` words, copied, the command's name first; with a NULL
 * `argvlen` each ends at its NUL, else word i has argvlen[i] bytes of any value. `timeout_ms` 0: it waits for as long
 * as it takes. `req` may be NULL, and else gets the name of the request. It is sent from the loop, with whatever else
 * was submitted by then; see broker_client_flush(). When it returns an error, `cb` is never called.
 *
 * All requests share one connection and are answered in order, but blocking commands (BLPOP, XREAD BLOCK, ...): each
 * has a connection of its own for as long as it waits, and giving it up closes that.
 *
 * BROKER_EINVAL for NULL or no word; BROKER_EAGAIN above "client_requests_max" or "client_bytes_max"; BROKER_ESTATE,
 * BROKER_EFORKED; BROKER_EUNSUPPORTED for commands that would change the shared connection under the feet of
 * others: MULTI, EXEC, DISCARD (broker_client_transaction() is for them), WATCH, UNWATCH (a session), SUBSCRIBE and its
 * family (broker_client_subscribe()), SELECT, AUTH, HELLO, RESET, CLIENT SETNAME (the client_... keys), CLIENT REPLY,
 * CLIENT CACHING, QUIT, MONITOR, SYNC, PSYNC, REPLCONF, SCRIPT DEBUG, ASKING, READONLY, READWRITE. CLIENT TRACKING,
 * NO-EVICT, NO-TOUCH and SETINFO are sent, and once accepted set again on every new connection.
 */
int broker_client_submit(broker_client_t *client,
                         size_t argc,
                         const char *const *argv,
                         const size_t *argvlen,
                         uint32_t timeout_ms,
                         broker_req_t *req,
                         broker_reply_cb cb,
                         void *data);

/**
 * Sends a transaction: all its commands are executed, one behind the other with nothing between, or none is. One
 * outcome: the reply of EXEC, an array with the reply of each command. If Redis refused a command (and so executed
 * none), it is that command's error. Everything else as in broker_client_submit(). To make it depend on values read
 * before, use a session.
 *
 * BROKER_EINVAL for NULL or a transaction without commands; else as broker_client_submit().
 */
int broker_client_transaction(broker_client_t *client,
                              const broker_transaction_t *transaction,
                              uint32_t timeout_ms,
                              broker_req_t *req,
                              broker_reply_cb cb,
                              void *data);

/**
 * Gives a request up: its callback gets BROKER_ECANCELED from the next processing. What was sent may be executed all
 * the same (a blocking command stops waiting: its connection is closed); what was not sent is not.
 *
 * BROKER_ESTATE if its outcome is known already (the callback has run or is about to); BROKER_EFORKED.
 */
int broker_client_cancel(broker_client_t *client,
                         broker_req_t req);

/**
 * Writes what was submitted, as far as the socket takes it, without waiting for the loop. Never needed: submitting
 * makes the descriptor readable, and broker_client_process() writes.
 *
 * BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for NULL.
 */
int broker_client_flush(broker_client_t *client);

/**
 * Sends a request and waits for its outcome, `timeout_ms` at most (0: for as long as it takes). BROKER_OK: *out has the
 * reply, to be freed with broker_reply_free(); else it is NULL (`out` may be NULL). Callbacks of other requests run
 * meanwhile. Arguments and codes as in broker_client_submit(), and those of an outcome: BROKER_ECONN, BROKER_ELOST,
 * BROKER_ETIMEDOUT, BROKER_ELIMIT, BROKER_EAUTH, BROKER_EPROTO.
 *
 * BROKER_EREENTRANT from a callback; BROKER_ECANCELED if a callback frees the client.
 */
int broker_client_call(broker_client_t *client,
                       size_t argc,
                       const char *const *argv,
                       const size_t *argvlen,
                       uint32_t timeout_ms,
                       broker_reply_t **out);

/**
 * Sends a transaction and waits for its outcome: broker_client_transaction() and broker_client_call() in one.
 */
int broker_client_call_transaction(broker_client_t *client,
                                   const broker_transaction_t *transaction,
                                   uint32_t timeout_ms,
                                   broker_reply_t **out);

/**
 * The descriptor to watch for readable in any loop: the same through reconnects, for the life of the client. When it is
 * readable, or broker_client_timeout() has passed, call broker_client_process(). Watch it level-triggered; never read
 * or close it. It changes in broker_client_after_fork().
 *
 * A negative code for a bad handle.
 */
int broker_client_fd(const broker_client_t *client);

/**
 * How long a loop may sleep before the next broker_client_process(), in milliseconds: 0 while something is deferred,
 * whatever the descriptor says; -1 until it is readable. Ask again after each processing.
 *
 * A code below -1 for a bad handle; BROKER_EINVAL, which is -1, for NULL.
 */
int broker_client_timeout(const broker_client_t *client);

/**
 * One step that never waits: reads, runs the callbacks that are due, writes. Returns how many callbacks ran.
 *
 * BROKER_EREENTRANT from a callback; BROKER_ESTATE when freed, by one of these callbacks too; BROKER_EFORKED;
 * BROKER_ESYS if the poll itself fails.
 */
int broker_client_process(broker_client_t *client);

/**
 * For programs without a loop: as broker_client_process(), but waits up to `timeout_ms` for something to happen (-1: for
 * as long as it takes). May return earlier with 0.
 */
int broker_client_wait(broker_client_t *client,
                       int timeout_ms);

/**
 * Makes the descriptor readable and ends a wait: how another thread tells the client's own to look at a queue of the
 * program's. [any thread; async-signal-safe, one write(2)]
 *
 * BROKER_EINVAL for NULL; BROKER_ESTATE when freed; BROKER_EFORKED.
 */
int broker_client_wakeup(broker_client_t *client);

/**
 * Sets who gets pushes that belong to no subscription, such as invalidations after CLIENT TRACKING; NULL for nobody.
 *
 * BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for a NULL client.
 */
int broker_client_on_push(broker_client_t *client,
                          broker_push_cb cb,
                          void *data);

/**
 * Sets who is told of the connection's state; NULL for nobody. Told at once in the next processing if the client is
 * connected already.
 *
 * BROKER_ESTATE, BROKER_EFORKED; BROKER_EINVAL for a NULL client.
 */
int broker_client_on_state(broker_client_t *client,
                           broker_state_cb cb,
                           void *data);

/**
 * Subscribes; `kind` is BROKER_CHANNEL, BROKER_PATTERN or BROKER_SHARD. `cb` gets, with `status` 0, every push about that
 * name, an array as Redis sends it: first ["subscribe", name, count], then a ["message", channel, payload] (or
 * ["pmessage", pattern, channel, payload], ["smessage", ...]) for each message. A second "subscribe" means that the
 * connection was lost and is there again: messages between may have been missed. A reply of type ERROR (refused by
 * Redis), or a `status` below 0, is the last call. Several subscriptions of one name are one to Redis, and each gets
 * every message. They have a connection of their own, opened with the first and closed with the last. `sub` may be NULL.
 * When it returns an error, `cb` is never called.
 *
 * BROKER_EINVAL for NULL, an unknown kind; BROKER_EAGAIN, BROKER_ESTATE, BROKER_EFORKED.
 */
int broker_client_subscribe(broker_client_t *client,
                            int kind,
                            const char *name,
                            size_t len,
                            broker_reply_cb cb,
                            void *data,
                            broker_sub_t *sub);

/**
 * Ends a subscription; its callback is not called again.
 *
 * BROKER_ESTATE if it is over already; BROKER_EFORKED.
 */
int broker_client_unsubscribe(broker_client_t *client, broker_sub_t sub);

/**
 * Opens a session. Free it before or after its client.
 *
 * BROKER_EINVAL for NULL; BROKER_EAGAIN above "client_connections_max"; BROKER_ECONN for a client that cannot open
 * connections any more; BROKER_ESTATE, BROKER_EFORKED.
 */
int broker_session_new(broker_session_t **out,
                       broker_client_t *client);

/**
 * Closes the session's connection; pending requests get BROKER_ECANCELED in the client's next processing. Allowed in
 * callbacks and in forked processes.
 *
 * NULL is BROKER_OK; BROKER_ESTATE a second time.
 */
int broker_session_free(broker_session_t *session);

/**
 * Sends a command on the session; as broker_client_submit(), but also WATCH, UNWATCH, MULTI, EXEC, DISCARD, SELECT, AUTH
 * and blocking commands, behind which the next one waits.
 *
 * BROKER_ECONN once the connection is lost; BROKER_EUNSUPPORTED for subscriptions, CLIENT REPLY, HELLO, RESET, QUIT,
 * MONITOR, SYNC, PSYNC and REPLCONF.
 */
int broker_session_submit(broker_session_t *session,
                          size_t argc,
                          const char *const *argv,
                          const size_t *argvlen,
                          uint32_t timeout_ms,
                          broker_req_t *req,
                          broker_reply_cb cb,
                          void *data);

/**
 * Sends a transaction on the session; as broker_client_transaction(). If a key watched on this session has changed, none
 * of it is executed and the reply is NIL: read again and try anew.
 */
int broker_session_transaction(broker_session_t *session,
                               const broker_transaction_t *transaction,
                               uint32_t timeout_ms,
                               broker_req_t *req,
                               broker_reply_cb cb,
                               void *data);

/**
 * Sends a command on the session and waits for its outcome; as broker_client_call().
 */
int broker_session_call(broker_session_t *session,
                        size_t argc,
                        const char *const *argv,
                        const size_t *argvlen,
                        uint32_t timeout_ms,
                        broker_reply_t **out);

/**
 * Sends a transaction on the session and waits for its outcome: broker_session_transaction() and broker_session_call() in
 * one.
 */
int broker_session_call_transaction(broker_session_t *session,
                                    const broker_transaction_t *transaction,
                                    uint32_t timeout_ms,
                                    broker_reply_t **out);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* BROKER_H */

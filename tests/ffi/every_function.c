/*
 * Every function of the header in every situation that must be caught: NULL, closed, from inside a callback, in a
 * forked process, after an internal error, while another thread waits on the handle, in a thread that is to be cancelled. The table says which code is documented; `list` prints its names, which
 * the driver compares with the header.
 */
#include "client.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>

/* What a function on a pointer returns, as a number. */
enum { NOTHING = -1000, SOMETHING = 1000 };
/* Expectations that are no code: any result that is no error; not asked in this situation. */
enum { OKAY = 2000, SKIP };

/* One of each handle. */
struct set {
    broker_config_t *config;
    broker_transaction_t *transaction;
    broker_loop_t *loop;
    broker_client_t *client;
    broker_client_t *session;
    /* A client of the loop's, and a session of that. */
    broker_client_t *own;
    broker_client_t *own_session;
    broker_reply_t *reply;
};

struct row {
    const char *name;
    long (*call)(const struct set *set);
    /* In a callback: of the loop for the loop's functions, of the client for all others. */
    long null, closed, callback, forked, poisoned;
};

static void no_reply(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)client, (void)status, (void)reply, (void)data;
}

static void no_loop_post(broker_loop_t *loop, int status, void *data)
{
    (void)loop, (void)status, (void)data;
}

static void no_client_post(broker_client_t *client, int status, void *data)
{
    (void)client, (void)status, (void)data;
}

static void no_push(broker_client_t *client, const broker_reply_t *push, void *data)
{
    (void)client, (void)push, (void)data;
}

static void no_state(broker_client_t *client, int connected, int reason, void *data)
{
    (void)client, (void)connected, (void)reason, (void)data;
}

static long pointer(const void *pointer)
{
    return pointer ? SOMETHING : NOTHING;
}

/* What a _new function has made is of no use here. */
static long made_config(broker_config_t *config)
{
    broker_config_free(config);
    return pointer(config);
}

static long made_transaction(broker_transaction_t *transaction)
{
    broker_transaction_free(transaction);
    return pointer(transaction);
}

#define CALL(function, expression)                     \
    static long function##_row(const struct set *set)  \
    {                                                  \
        (void)set;                                     \
        return (long)(expression);                     \
    }

CALL(strerror, pointer(broker_strerror(BROKER_EINVAL)))
CALL(err_name, pointer(broker_err_name(12345)))
CALL(version, broker_version())
CALL(fork_count, broker_fork_count())
CALL(log_set, broker_log_set(BROKER_LOG_OFF, NULL, NULL))
CALL(config_new, made_config(broker_config_new()))
CALL(config_free, broker_config_free(set->config))
CALL(config_set, broker_config_set(set->config, "lanes", "2"))
CALL(config_get, broker_config_get(set->config, "lanes", NULL, 0))
CALL(config_load, broker_config_load(set->config, "/nonexistent/broker.toml"))
CALL(config_error, pointer(broker_config_error(set->config)))
CALL(reply_type, broker_reply_type(set->reply))
CALL(reply_integer, broker_reply_integer(set->reply))
CALL(reply_double, broker_reply_double(set->reply))
CALL(reply_string, pointer(broker_reply_string(set->reply, NULL)))
CALL(reply_len, broker_reply_len(set->reply))
CALL(reply_at, pointer(broker_reply_at(set->reply, 0)))
CALL(reply_raw, pointer(broker_reply_raw(set->reply, NULL)))
CALL(transaction_new, made_transaction(broker_transaction_new()))
CALL(transaction_free, broker_transaction_free(set->transaction))
CALL(transaction_add, broker_transaction_add(set->transaction, ARGV("INCR", "k"), NULL))
CALL(loop_run, broker_loop_run(set->loop, BROKER_RUN_NOWAIT))
CALL(loop_stop, broker_loop_stop(set->loop))
CALL(loop_fd, broker_loop_fd(set->loop))
CALL(loop_drain, broker_loop_drain(set->loop, 0))
CALL(loop_free, broker_loop_free(set->loop))
CALL(loop_reload, broker_loop_reload(set->loop, set->config))
CALL(loop_error, pointer(broker_loop_error(set->loop)))
CALL(loop_endpoint, broker_loop_endpoint(set->loop, 0, NULL, 0))
CALL(loop_follow_fork, broker_loop_follow_fork(set->loop, 0))
CALL(loop_post, broker_loop_post(set->loop, no_loop_post, NULL))
CALL(loop_set_data, broker_loop_set_data(set->loop, set->config))
CALL(loop_data, pointer(broker_loop_data(set->loop)))
CALL(loop_stat_name, pointer(broker_loop_stat_name(0)))
CALL(client_free, broker_client_free(set->client))
CALL(client_follow_fork, broker_client_follow_fork(set->client, 0))
CALL(client_after_fork, broker_client_after_fork(set->client))
CALL(client_error, pointer(broker_client_error(set->client)))
CALL(client_connected, broker_client_connected(set->client))
CALL(client_submit, broker_client_submit(set->client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, no_reply, NULL))
CALL(client_submit_transaction, broker_client_submit_transaction(set->client, set->transaction, BROKER_FOREVER, NULL, no_reply, NULL))
CALL(client_cancel, broker_client_cancel(set->client, 0))
CALL(client_call, broker_client_call(set->client, ARGV("PING"), NULL, BROKER_FOREVER, NULL))
CALL(client_call_transaction, broker_client_call_transaction(set->client, set->transaction, BROKER_FOREVER, NULL))
CALL(client_fd, broker_client_fd(set->client))
CALL(client_process, broker_client_process(set->client, 0))
CALL(client_wakeup, broker_client_wakeup(set->client))
CALL(client_post, broker_client_post(set->client, no_client_post, NULL))
CALL(client_set_data, broker_client_set_data(set->client, set->config))
CALL(client_data, pointer(broker_client_data(set->client)))
CALL(client_on_push, broker_client_on_push(set->client, no_push, NULL))
CALL(client_on_state, broker_client_on_state(set->client, no_state, NULL))
CALL(client_subscribe, broker_client_subscribe(set->client, BROKER_CHANNEL, "c", 1, NULL, no_reply, NULL))

CALL(loop_timeout, broker_loop_timeout(set->loop))
CALL(client_timeout, broker_client_timeout(set->client))

static long reply_dup_row(const struct set *set)
{
    broker_reply_t *kept = broker_reply_dup(set->reply);
    broker_reply_free(kept);
    return pointer(kept);
}

static long reply_free_row(const struct set *set)
{
    return broker_reply_free(broker_reply_dup(set->reply));
}

static long loop_new_row(const struct set *set)
{
    broker_loop_t *loop = (broker_loop_t *)&loop;
    char words[200] = "";
    int code = broker_loop_new(&loop, set->config, words, sizeof words);
    CHECK((code == BROKER_OK) == (loop != NULL));
    CHECK_OK(broker_loop_free(loop));
    return code;
}

static long loop_adopt_row(const struct set *set)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    int code = broker_loop_adopt(set->loop, ends[0]);
    /* Closing is a point of cancellation, and none of the library's. */
    int state;
    CHECK_INT(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state), 0);
    /* On failure it is still the caller's. */
    if (code != BROKER_OK)
        CHECK(close(ends[0]) == 0);
    close(ends[1]);
    CHECK_INT(pthread_setcancelstate(state, NULL), 0);
    return code;
}

static long loop_client_row(const struct set *set)
{
    broker_client_t *client = (broker_client_t *)&client;
    int code = broker_loop_client(&client, set->loop);
    CHECK((code == BROKER_OK) == (client != NULL));
    CHECK_OK(broker_client_free(client));
    return code;
}

static long loop_stat_row(const struct set *set)
{
    uint64_t value = 0;
    return broker_loop_stat(set->loop, broker_loop_stat_name(0), &value);
}

/* A closed configuration is what can be wrong with making a client. */
static long client_new_row(const struct set *set)
{
    broker_client_t *client = (broker_client_t *)&client;
    char words[200] = "";
    int code = broker_client_new(&client, "unix:///nonexistent/b.sock", set->config, words, sizeof words);
    CHECK((code == BROKER_OK) == (client != NULL));
    CHECK_OK(broker_client_free(client));
    return code;
}

static long client_session_row(const struct set *set)
{
    broker_client_t *session = (broker_client_t *)&session;
    int code = broker_client_session(&session, set->client);
    CHECK((code == BROKER_OK) == (session != NULL));
    CHECK_OK(broker_client_free(session));
    return code;
}

#define ROW(name, null, closed, callback, forked, poisoned) \
    {"broker_" #name, name##_row, null, closed, callback, forked, poisoned}

/* Names as in the header. What ends a handle stands behind all that use it. */
static const struct row rows[] = {
    /*                        NULL           closed         in a callback      forked         poisoned */
    ROW(strerror,             SOMETHING,     SOMETHING,     SOMETHING,         SOMETHING,     SOMETHING),
    ROW(err_name,             SOMETHING,     SOMETHING,     SOMETHING,         SOMETHING,     SOMETHING),
    ROW(version,              OKAY,          OKAY,          OKAY,              OKAY,          OKAY),
    ROW(fork_count,           OKAY,          OKAY,          OKAY,              OKAY,          OKAY),
    ROW(log_set,              OKAY,          OKAY,          OKAY,              OKAY,          OKAY),
    ROW(loop_stat_name,       SOMETHING,     SOMETHING,     SOMETHING,         SOMETHING,     SOMETHING),

    ROW(config_new,           SOMETHING,     SOMETHING,     SOMETHING,         SOMETHING,     SOMETHING),
    ROW(config_set,           BROKER_EINVAL, BROKER_ESTATE, OKAY,              OKAY,          OKAY),
    ROW(config_get,           BROKER_EINVAL, BROKER_ESTATE, OKAY,              OKAY,          OKAY),
    ROW(config_load,          BROKER_EINVAL, BROKER_ESTATE, BROKER_ESYS,       BROKER_ESYS,   BROKER_ESYS),
    ROW(config_error,         NOTHING,       NOTHING,       SOMETHING,         SOMETHING,     SOMETHING),

    ROW(reply_type,           BROKER_EINVAL, SKIP,          OKAY,              OKAY,          OKAY),
    ROW(reply_integer,        0,             SKIP,          0,                 0,             0),
    ROW(reply_double,         0,             SKIP,          0,                 0,             0),
    ROW(reply_string,         NOTHING,       SKIP,          SOMETHING,         SOMETHING,     SOMETHING),
    ROW(reply_len,            0,             SKIP,          0,                 0,             0),
    ROW(reply_at,             NOTHING,       SKIP,          NOTHING,           NOTHING,       NOTHING),
    ROW(reply_raw,            NOTHING,       SKIP,          SOMETHING,         SOMETHING,     SOMETHING),
    ROW(reply_dup,            NOTHING,       SKIP,          SOMETHING,         SOMETHING,     SOMETHING),
    ROW(reply_free,           0,             SKIP,          0,                 0,             0),

    ROW(transaction_new,      SOMETHING,     SOMETHING,     SOMETHING,         SOMETHING,     SOMETHING),
    ROW(transaction_add,      BROKER_EINVAL, BROKER_ESTATE, OKAY,              OKAY,          OKAY),

    /* Without a configuration there is no upstream. */
    ROW(loop_new,             BROKER_ECONFIG, BROKER_ESTATE, OKAY,             OKAY,          OKAY),
    ROW(loop_run,             BROKER_EINVAL, BROKER_ESTATE, BROKER_EREENTRANT, BROKER_EFORKED, BROKER_EPANIC),
    ROW(loop_stop,            BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(loop_fd,           BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(loop_timeout,      BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(loop_reload,          BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(loop_error,           NOTHING,       NOTHING,       SOMETHING,         NOTHING,       NOTHING),
    ROW(loop_endpoint,        BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(loop_adopt,        BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(loop_post,            BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(loop_set_data,        BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(loop_data,            NOTHING,       NOTHING,       SOMETHING,         SOMETHING,     SOMETHING),
    ROW(loop_client,          BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(loop_stat,            BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(loop_follow_fork,     BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(loop_drain,           BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),

    ROW(client_new,           OKAY,          BROKER_ESTATE, OKAY,              OKAY,          OKAY),
    ROW(client_error,         NOTHING,       NOTHING,       SOMETHING,         NOTHING,       NOTHING),
    ROW(client_connected,     BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_submit,        BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_submit_transaction, BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    /* Request 0 is none, and over in any case. */
    ROW(client_cancel,        BROKER_EINVAL, BROKER_ESTATE, BROKER_ESTATE,     BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_call,          BROKER_EINVAL, BROKER_ESTATE, BROKER_EREENTRANT, BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_call_transaction, BROKER_EINVAL, BROKER_ESTATE, BROKER_EREENTRANT, BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_fd,            BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_timeout,       BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_process,       BROKER_EINVAL, BROKER_ESTATE, BROKER_EREENTRANT, BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_wakeup,        BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_post,          BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_set_data,      BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_data,          NOTHING,       NOTHING,       SOMETHING,         SOMETHING,     SOMETHING),
    ROW(client_on_push,       BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_on_state,      BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_subscribe,     BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),

    ROW(client_session,       BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_follow_fork,   BROKER_EINVAL, BROKER_ESTATE, OKAY,              BROKER_EFORKED, BROKER_EPANIC),
    ROW(client_after_fork,    BROKER_EINVAL, BROKER_ESTATE, BROKER_ESTATE,     SKIP,          BROKER_EPANIC),

    /* A loop is not closed in its callbacks; a client is, when the callback has returned. */
    ROW(client_free,          OKAY,          BROKER_ESTATE, OKAY,              OKAY,          OKAY),
    ROW(loop_free,           OKAY,          BROKER_ESTATE, BROKER_EREENTRANT,      OKAY,          OKAY),
    ROW(transaction_free,     OKAY,          BROKER_ESTATE, OKAY,              OKAY,          OKAY),
    ROW(config_free,          OKAY,          BROKER_ESTATE, OKAY,              OKAY,          OKAY),
};

enum { ROWS = sizeof rows / sizeof rows[0] };

/* What else a client may be, and what is not for it then. */
struct kind {
    const char *name;
    const char *unsupported[10];
};

static const struct kind of_session = {
    "a session",
    {"broker_client_session", "broker_client_subscribe", "broker_client_on_push", "broker_client_on_state",
     "broker_client_follow_fork"},
};
static const struct kind of_loop = {
    "a client of a loop",
    {"broker_client_fd", "broker_client_timeout", "broker_client_process", "broker_client_follow_fork"},
};
static const struct kind of_loops_session = {
    "a session of a client of a loop",
    {"broker_client_session", "broker_client_subscribe", "broker_client_on_push", "broker_client_on_state",
     "broker_client_fd", "broker_client_timeout", "broker_client_process", "broker_client_follow_fork"},
};

static long for_kind(const struct row *row, const struct kind *kind, long expected)
{
    for (int i = 0; kind->unsupported[i] != NULL; i++)
        if (strcmp(row->name, kind->unsupported[i]) == 0)
            return BROKER_EUNSUPPORTED;
    return expected;
}

static int is_of(const struct row *row, const char *kind)
{
    return strncmp(row->name, kind, strlen(kind)) == 0;
}

/* A function of a loop: its prefix is also that of all others. */
static int is_loops(const struct row *row)
{
    static const char *const others[] = {"broker_client_", "broker_config_", "broker_reply_",
                                         "broker_transaction_", "broker_strerror", "broker_err_name", "broker_version",
                                         "broker_log_set", "broker_fork_count", "broker_loop_new", "broker_loop_stat_name"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (is_of(row, others[i]))
            return 0;
    return 1;
}

static void check_row(const struct row *row, const struct set *set, long expected, const char *situation)
{
    if (expected == SKIP)
        return;
    long actual = row->call(set);
    if (expected == OKAY ? actual < BROKER_FOREVER : actual != expected)
        FAIL("%s, %s: %ld %s, not %ld %s", row->name, situation, actual, code_name(actual), expected,
             code_name(expected));
}

static void fill(struct set *set, const char *socket_name)
{
    char upstream[PATH_SIZE], path[PATH_SIZE], listen_url[PATH_SIZE + 8], words[200] = "";
    snprintf(upstream, sizeof upstream, "unix://%s", setting("BROKER_TEST_REDIS"));
    private_path(path, socket_name);
    snprintf(listen_url, sizeof listen_url, "unix://%s", path);
    set->config = configure("upstream", upstream, "listen", listen_url, (char *)NULL);
    if (broker_loop_new(&set->loop, set->config, words, sizeof words) != BROKER_OK)
        FAIL("%s", words);
    /* The path is taken now; a second loop of this configuration listens nowhere. */
    CHECK_INT(broker_config_set(set->config, "listen", NULL), BROKER_OK);
    set->transaction = broker_transaction_new();
    CHECK_INT(broker_transaction_add(set->transaction, ARGV("INCR", "k"), NULL), BROKER_OK);
    set->client = open_redis();
    CHECK_INT(broker_client_session(&set->session, set->client), BROKER_OK);
    CHECK_INT(broker_client_call(set->client, ARGV("PING"), NULL, BROKER_FOREVER, &set->reply), BROKER_OK);
    CHECK_INT(broker_client_call(set->session, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_OK);
    CHECK_INT(broker_loop_client(&set->own, set->loop), BROKER_OK);
    CHECK_INT(broker_client_session(&set->own_session, set->own), BROKER_OK);
    CHECK_INT(broker_client_call(set->own, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_OK);
    CHECK_INT(broker_client_call(set->own_session, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_OK);
    CHECK_INT(broker_loop_set_data(set->loop, set->config), BROKER_OK);
    broker_client_t *const clients[] = {set->client, set->session, set->own, set->own_session};
    for (int i = 0; i < 4; i++)
        CHECK_INT(broker_client_set_data(clients[i], set->config), BROKER_OK);
}

/* The functions of clients, on a client of that kind. */
static void check_kind(const struct set *set, broker_client_t *client, const struct kind *kind, long what)
{
    struct set other = *set;
    other.client = client;
    for (int i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        if (!is_of(row, "broker_client_") || is_of(row, "broker_client_new") || is_of(row, "broker_client_free"))
            continue;
        long expected = what == OKAY ? for_kind(row, kind, row->callback) : what == SKIP ? row->forked : row->closed;
        check_row(row, &other, expected, kind->name);
    }
}

static void empty(struct set *set)
{
    broker_reply_free(set->reply);
    CHECK_OK(broker_client_free(set->session));
    CHECK_OK(broker_client_free(set->client));
    CHECK_OK(broker_client_free(set->own_session));
    CHECK_OK(broker_loop_free(set->loop));
    CHECK_OK(broker_client_free(set->own));
    CHECK_OK(broker_transaction_free(set->transaction));
    CHECK_OK(broker_config_free(set->config));
}

static void with_null(void)
{
    struct set nothing = {0};
    for (int i = 0; i < ROWS; i++)
        check_row(&rows[i], &nothing, rows[i].null, "with NULL");
}

static void when_closed(void)
{
    struct set set = {0};
    fill(&set, "closed.sock");
    empty(&set);
    set.reply = NULL;
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < ROWS; i++)
            check_row(&rows[i], &set, rows[i].closed, "closed");
    check_kind(&set, set.session, &of_session, 0);
    check_kind(&set, set.own, &of_loop, 0);
    check_kind(&set, set.own_session, &of_loops_session, 0);
}

struct inside {
    struct set *set;
    int ran;
};

static void inside_client(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    struct inside *inside = data;
    (void)reply;
    CHECK_INT(status, BROKER_OK);
    CHECK(client == inside->set->client);
    inside->ran++;
    check_kind(inside->set, inside->set->session, &of_session, OKAY);
    for (int i = 0; i < ROWS; i++)
        if (!is_loops(&rows[i]))
            check_row(&rows[i], inside->set, rows[i].callback, "in a callback");
    /* Freed, though it ends only after this callback: as good as closed. */
    for (int i = 0; i < ROWS; i++)
        if (is_of(&rows[i], "broker_client_") && !is_of(&rows[i], "broker_client_new"))
            check_row(&rows[i], inside->set, rows[i].closed, "freed in this callback");
}

static void inside_loop(broker_client_t *own, int status, const broker_reply_t *reply, void *data)
{
    struct inside *inside = data;
    (void)reply;
    CHECK_INT(status, BROKER_OK);
    CHECK(own == inside->set->own);
    inside->ran++;
    check_kind(inside->set, inside->set->own, &of_loop, OKAY);
    check_kind(inside->set, inside->set->own_session, &of_loops_session, OKAY);
    for (int i = 0; i < ROWS; i++)
        if (is_loops(&rows[i]))
            check_row(&rows[i], inside->set, rows[i].callback, "in a callback of the loop");
}

static void in_callbacks(void)
{
    struct set set = {0};
    struct inside inside = {&set, 0};
    char upstream[PATH_SIZE];
    fill(&set, "callbacks.sock");
    CHECK_INT(broker_client_submit(set.own, ARGV("PING"), NULL, BROKER_FOREVER, NULL, inside_loop, &inside), BROKER_OK);
    /* Reloading takes what does not change: the listeners as they were. */
    private_path(upstream, "callbacks.sock");
    char listen_url[PATH_SIZE + 8];
    snprintf(listen_url, sizeof listen_url, "unix://%s", upstream);
    CHECK_INT(broker_config_set(set.config, "listen", listen_url), BROKER_OK);
    while (inside.ran == 0)
        CHECK_OK(broker_loop_run(set.loop, BROKER_RUN_ONCE));
    CHECK_INT(broker_config_set(set.config, "listen", NULL), BROKER_OK);
    while (broker_loop_run(set.loop, BROKER_RUN_ONCE) > 0)
        ;
    CHECK_INT(broker_client_submit(set.client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, inside_client, &inside), BROKER_OK);
    int code;
    while ((code = broker_client_process(set.client, -1)) >= 0)
        CHECK_INT(inside.ran, 1);
    CHECK_INT(code, BROKER_ESTATE);
    CHECK_INT(inside.ran, 2);
    broker_reply_free(set.reply);
    CHECK_INT(broker_client_free(set.own_session), BROKER_OK);
    CHECK_INT(broker_loop_free(set.loop), BROKER_OK);
    CHECK_INT(broker_client_free(set.own), BROKER_OK);
    CHECK_INT(broker_client_free(set.session), BROKER_OK);
}

/* What the kernel says about this process' descriptors: positions, the count of an eventfd, what an epoll watches. */
static void describe_descriptors(char *buf, size_t size)
{
    size_t len = 0;
    for (int fd = 3; fd < 64; fd++) {
        char path[64], target[200];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t count = readlink(path, target, sizeof target - 1);
        if (count < 0)
            continue;
        target[count] = '\0';
        len += (size_t)snprintf(buf + len, size - len, "%d %s\n", fd, target);
        snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
        int info = open(path, O_RDONLY | O_CLOEXEC);
        CHECK(info >= 0);
        count = read(info, buf + len, size - len - 1);
        CHECK(count >= 0);
        len += (size_t)count;
        close(info);
    }
    buf[len] = '\0';
}

static void in_the_child(struct set *set)
{
    static char before[65536], after[65536];
    describe_descriptors(before, sizeof before);
    for (int i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        if (!is_loops(row) && !is_of(row, "broker_client_"))
            continue;
        if (strstr(row->name, "_free") || strstr(row->name, "_close") || is_of(row, "broker_client_new"))
            continue;
        check_row(row, set, row->forked, "forked");
    }
    check_kind(set, set->session, &of_session, SKIP);
    check_kind(set, set->own, &of_loop, SKIP);
    check_kind(set, set->own_session, &of_loops_session, SKIP);
    describe_descriptors(after, sizeof after);
    CHECK_TEXT(after, before);
    for (int i = 0; i < ROWS; i++)
        check_row(&rows[i], set, rows[i].forked, "forked");
    broker_reply_free(set->reply);
    end_child();
}

static void when_forked(void)
{
    struct set set = {0};
    struct redis redis = redis_connect();
    struct outcome outcome = {0};
    fill(&set, "forked.sock");
    long long id = call_integer(set.client, ARGV("CLIENT", "ID"));
    CHECK_INT(broker_client_submit(set.client, ARGV("INCR", "forked"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    long long commands = redis_info(&redis, "stats", "total_commands_processed");
    long long bytes = redis_info(&redis, "stats", "total_net_input_bytes");
    long long own = (long long)strlen("INFO stats\r\n");
    pid_t pid = fork_or_fail();
    if (pid == 0)
        in_the_child(&set);
    wait_child(pid);
    /* Redis has heard these questions and nothing from the child. */
    CHECK_INT(redis_info(&redis, "stats", "total_commands_processed"), commands + 2);
    CHECK_INT(redis_info(&redis, "stats", "total_net_input_bytes"), bytes + 2 * own);
    EXPECT_OUTCOME(set.client, &outcome, ":1");
    CHECK_INT(call_integer(set.client, ARGV("CLIENT", "ID")), id);
    CHECK_INT(broker_client_call(set.session, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_OK);
    redis_close(&redis);
    empty(&set);
}

/* ---- other threads ---- */

static void *wait_on_client(void *client)
{
    int code;
    /* Whoever asks meanwhile may be in its way. */
    while ((code = broker_client_process(client, BROKER_FOREVER)) == BROKER_EREENTRANT)
        ;
    CHECK_OK(code);
    return NULL;
}

static void *wait_on_loop(void *loop)
{
    int code;
    while ((code = broker_loop_run(loop, BROKER_RUN_DEFAULT)) == BROKER_EREENTRANT)
        ;
    CHECK_OK(code);
    return NULL;
}

/* What any thread may do at any time. */
static int is_for_any_thread(const struct row *row)
{
    static const char *const names[] = {"_wakeup", "_stop", "_post", "_set_data", "_data", "_follow_fork"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strstr(row->name, names[i]))
            return 1;
    return 0;
}

/* Whether it makes a handle or is of no handle. */
static int is_of_no_handle(const struct row *row)
{
    return is_of(row, "broker_client_new") || is_of(row, "broker_loop_new") || is_of(row, "broker_loop_stat_name");
}

/* Refused, and not waited for, while another thread is inside. */
static void check_beside(const struct row *row, const struct set *set)
{
    if (is_of_no_handle(row) || is_for_any_thread(row))
        return;
    long expected = row->forked == NOTHING ? NOTHING : strstr(row->name, "after_fork") ? BROKER_ESTATE : BROKER_EREENTRANT;
    check_row(row, set, expected, "while another thread waits");
}

static void beside_a_thread(void)
{
    struct set set = {0};
    pthread_t waiter;
    fill(&set, "beside.sock");
    CHECK_INT(pthread_create(&waiter, NULL, wait_on_client, set.client), 0);
    wait_in_use(set.client);
    for (int i = 0; i < ROWS; i++)
        if (is_of(&rows[i], "broker_client_"))
            check_beside(&rows[i], &set);
    CHECK_INT(broker_client_wakeup(set.client), BROKER_OK);
    CHECK_INT(pthread_join(waiter, NULL), 0);
    CHECK_INT(pthread_create(&waiter, NULL, wait_on_loop, set.loop), 0);
    /* As in wait_in_use(). */
    for (int refused = 0; refused < 200; sched_yield())
        refused = broker_loop_fd(set.loop) == BROKER_EREENTRANT ? refused + 1 : 0;
    for (int i = 0; i < ROWS; i++)
        if (is_loops(&rows[i]))
            check_beside(&rows[i], &set);
    CHECK_INT(broker_loop_stop(set.loop), BROKER_OK);
    CHECK_INT(pthread_join(waiter, NULL), 0);
    for (int i = 0; i < ROWS; i++)
        if (is_for_any_thread(&rows[i]))
            check_row(&rows[i], &set, rows[i].callback, "afterwards");
    CHECK_INT(broker_client_call(set.client, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_OK);
    empty(&set);
}

struct doomed {
    const struct row *row;
    const struct set *set;
    int returned;
};

/* Asked to end before it calls: that is for later, unless the function waits. */
static void *call_doomed(void *data)
{
    struct doomed *doomed = data;
    CHECK_INT(pthread_cancel(pthread_self()), 0);
    long expected = doomed->row->callback == BROKER_EREENTRANT ? OKAY : doomed->row->callback;
    check_row(doomed->row, doomed->set, expected, "in a thread that is to be cancelled");
    doomed->returned = 1;
    pthread_testcancel();
    FAIL("%s has swallowed the cancellation", doomed->row->name);
}

static int waits(const struct row *row)
{
    return strstr(row->name, "_call") != NULL;
}

static void in_doomed_threads(void)
{
    struct set set = {0};
    fill(&set, "doomed.sock");
    CHECK_INT(broker_config_set(set.config, "listen", NULL), BROKER_OK);
    for (int i = 0; i < ROWS; i++) {
        struct doomed doomed = {&rows[i], &set, 0};
        pthread_t thread;
        void *result;
        /* Of a loop with other settings now, or ending what is still needed. */
        if (strstr(rows[i].name, "_free") || strstr(rows[i].name, "_drain") || strstr(rows[i].name, "_reload"))
            continue;
        CHECK_INT(pthread_create(&thread, NULL, call_doomed, &doomed), 0);
        CHECK_INT(pthread_join(thread, &result), 0);
        CHECK(result == PTHREAD_CANCELED);
        if (!doomed.returned && !waits(&rows[i]))
            FAIL("%s has acted on the cancellation", rows[i].name);
        CHECK_INT(broker_client_call(set.client, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_OK);
        CHECK_OK(broker_loop_run(set.loop, BROKER_RUN_NOWAIT));
    }
    empty(&set);
}

typedef int (*sabotage_client)(broker_client_t *client);
typedef int (*sabotage_loop)(broker_loop_t *loop);

/* A function that only a library made for tests has; ISO C has no conversion from what dlsym() returns. */
static void find(const char *name, void *function)
{
    void *symbol = dlsym(RTLD_DEFAULT, name);
    CHECK(symbol != NULL);
    memcpy(function, &symbol, sizeof symbol);
}

static void after_a_panic(void)
{
    struct set set = {0};
    struct outcome outcome = {0};
    sabotage_client panic_client;
    sabotage_loop panic_loop;
    find("broker_sabotage_panic_client", &panic_client);
    find("broker_sabotage_panic_loop", &panic_loop);
    fill(&set, "panic.sock");
    int before = count_descriptors();
    CHECK_INT(broker_client_submit(set.client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    CHECK_INT(panic_client(set.client), BROKER_EPANIC);
    CHECK_INT(panic_loop(set.loop), BROKER_EPANIC);
    for (int i = 0; i < ROWS; i++)
        check_row(&rows[i], &set, rows[i].poisoned, "after an internal error");
    broker_reply_free(set.reply);
    CHECK_INT(outcome.calls, 0);
    CHECK_OK(broker_client_free(set.session));
    CHECK_OK(broker_client_free(set.own_session));
    CHECK_OK(broker_client_free(set.own));
    /* Even so, no descriptor is left. */
    CHECK(count_descriptors() < before);
}

int main(int argc, char **argv)
{
    const char *situation = argc > 1 ? argv[1] : "";
    begin();
    if (strcmp(situation, "list") == 0)
        for (int i = 0; i < ROWS; i++)
            puts(rows[i].name);
    else if (strcmp(situation, "null") == 0)
        with_null();
    else if (strcmp(situation, "closed") == 0)
        when_closed();
    else if (strcmp(situation, "callback") == 0)
        in_callbacks();
    else if (strcmp(situation, "forked") == 0)
        when_forked();
    else if (strcmp(situation, "threads") == 0)
        beside_a_thread();
    else if (strcmp(situation, "cancel") == 0)
        in_doomed_threads();
    else if (strcmp(situation, "panic") == 0)
        after_a_panic();
    else
        FAIL("which situation?");
    return 0;
}

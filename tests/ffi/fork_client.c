/*
 * A client and fork(), in every state the client can be in. The parent loses nothing and keeps its connection; the
 * child is told EFORKED until broker_client_after_fork(), and then has a connection of its own.
 */
#include "client.h"

#include <sys/resource.h>
#include <sys/syscall.h>

enum { MANY = 300 };

static broker_client_t *client;

/* What every child must be able to do, whatever its parent was at. */
static void live_in_the_child(const char *key)
{
    CHECK_INT(broker_client_process(client, 0), BROKER_EFORKED);
    CHECK_INT(broker_client_call(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_EFORKED);
    CHECK_INT(broker_client_wakeup(client), BROKER_EFORKED);
    CHECK_INT(broker_client_after_fork(client), BROKER_OK);
    CHECK_INT(broker_client_after_fork(client), BROKER_ESTATE);
    EXPECT(client, ":1", "INCR", key);
    EXPECT(client, ":2", "INCR", key);
    EXPECT(client, ":1", "DEL", key);
}

static void live_and_end(const char *key)
{
    live_in_the_child(key);
    close_client(client);
    end_child();
}

static const char *key_of_child(int i)
{
    static char key[64];
    snprintf(key, sizeof key, "child:%d:%d", (int)getpid(), i);
    return key;
}

static void idle(void)
{
    long long id = call_integer(client, ARGV("CLIENT", "ID"));
    int descriptors = count_descriptors();
    for (int i = 0; i < 3; i++) {
        pid_t pid = fork_or_fail();
        if (pid == 0) {
            CHECK(broker_client_error(client) == NULL);
            live_in_the_child(key_of_child(i));
            CHECK(call_integer(client, ARGV("CLIENT", "ID")) != id);
            CHECK_INT(count_descriptors(), descriptors);
            close_client(client);
            end_child();
        }
        wait_child(pid);
        CHECK_INT(call_integer(client, ARGV("CLIENT", "ID")), id);
    }
}

/* Children that never touch the client, that only free it, that only make one of their own. */
static void careless_children(void)
{
    long long id = call_integer(client, ARGV("CLIENT", "ID"));
    pid_t silent = fork_or_fail();
    if (silent == 0)
        _exit(0);
    wait_child(silent);
    pid_t freeing = fork_or_fail();
    if (freeing == 0) {
        CHECK_INT(broker_client_free(client), BROKER_OK);
        CHECK_INT(broker_client_free(client), BROKER_ESTATE);
        CHECK_INT(broker_client_after_fork(client), BROKER_ESTATE);
        end_child();
    }
    wait_child(freeing);
    pid_t fresh = fork_or_fail();
    if (fresh == 0) {
        broker_client_t *inherited = client;
        client = open_redis();
        EXPECT(client, "+PONG", "PING");
        close_client(client);
        close_client(inherited);
        end_child();
    }
    wait_child(fresh);
    CHECK_INT(call_integer(client, ARGV("CLIENT", "ID")), id);
}

/* A fork of a fork of a fork, and one whose middle process never used the client. */
static void descendants(int depth)
{
    if (depth == 0)
        return;
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        if (depth != 2)
            live_in_the_child(key_of_child(depth));
        descendants(depth - 1);
        close_client(client);
        end_child();
    }
    wait_child(pid);
    if (depth != 1)
        EXPECT(client, "+PONG", "PING");
}

/* Asked of the process that made it, it says no and does nothing: above all, the client can still be woken. */
static void mistaken(void)
{
    CHECK_INT(broker_client_after_fork(client), BROKER_ESTATE);
    while (broker_client_process(client, 0) > 0 || bytes_to_read(broker_client_fd(client)))
        ;
    CHECK_INT(broker_client_wakeup(client), BROKER_OK);
    CHECK(bytes_to_read(broker_client_fd(client)));
    CHECK_OK(broker_client_process(client, -1));
}

/* A child that cannot have descriptors of its own must not get at its parent's. */
static void short_of_descriptors(void)
{
    struct rlimit none = {3, 0}, before;
    long long id = call_integer(client, ARGV("CLIENT", "ID"));
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        CHECK_INT(getrlimit(RLIMIT_NOFILE, &before), 0);
        none.rlim_max = before.rlim_max;
        CHECK_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
        CHECK_INT(broker_client_after_fork(client), BROKER_ESYS);
        CHECK(strstr(broker_client_error(client), "Too many open files") != NULL);
        CHECK_INT(broker_client_call(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_EFORKED);
        CHECK_INT(broker_client_wakeup(client), BROKER_EFORKED);
        CHECK_INT(setrlimit(RLIMIT_NOFILE, &before), 0);
        live_and_end(key_of_child(0));
    }
    wait_child(pid);
    CHECK_INT(call_integer(client, ARGV("CLIENT", "ID")), id);
}

static void grandchildren(void)
{
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        live_in_the_child(key_of_child(0));
        pid_t second = fork_or_fail();
        if (second == 0) {
            pid_t third = fork_or_fail();
            if (third == 0)
                live_and_end(key_of_child(3));
            wait_child(third);
            live_and_end(key_of_child(2));
        }
        wait_child(second);
        EXPECT(client, "+PONG", "PING");
        close_client(client);
        end_child();
    }
    wait_child(pid);
    EXPECT(client, "+PONG", "PING");
    descendants(1);
}

struct row_of_replies {
    int got;
    int fork_at;
    int way;
};

static void next_number(broker_client_t *same, int status, const broker_reply_t *reply, void *data)
{
    struct row_of_replies *row = data;
    CHECK(same == client);
    CHECK_INT(status, BROKER_OK);
    CHECK_INT(broker_reply_integer(reply), ++row->got);
}

static void submit_many(broker_reply_cb cb, struct row_of_replies *row)
{
    for (int i = 0; i < MANY; i++)
        CHECK_INT(broker_client_submit(client, ARGV("INCR", "parent"), NULL, BROKER_FOREVER, NULL, cb, row), BROKER_OK);
}

/* Written and unanswered, and submitted but not yet written, while children come and go. */
static void in_flight(void)
{
    struct row_of_replies row = {0};
    EXPECT(client, ":0", "DEL", "parent");
    submit_many(next_number, &row);
    CHECK_OK(broker_client_process(client, 0));
    submit_many(next_number, &row);
    pid_t pids[4];
    for (int i = 0; i < 4; i++) {
        pids[i] = fork_or_fail();
        if (pids[i] == 0)
            live_and_end(key_of_child(i));
        /* The parent goes on at another point each time. */
        wait_count(client, &row.got, (i + 1) * MANY / 4);
    }
    for (int i = 0; i < 4; i++)
        wait_child(pids[i]);
    wait_count(client, &row.got, 2 * MANY);
    EXPECT(client, "600", "GET", "parent");
    EXPECT(client, ":1", "DEL", "parent");
}

enum { ADOPT, FREE, IGNORE, WAYS };

/* What a child that has been forked in a callback does inside it; it returns from it afterwards. */
static void child_inside(int way)
{
    CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, NULL), BROKER_EFORKED);
    switch (way) {
    case ADOPT:
        CHECK_INT(broker_client_after_fork(client), BROKER_OK);
        CHECK_INT(broker_client_call(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_EREENTRANT);
        break;
    case FREE:
        CHECK_INT(broker_client_free(client), BROKER_OK);
        CHECK_INT(broker_client_free(client), BROKER_ESTATE);
        CHECK_INT(broker_client_after_fork(client), BROKER_ESTATE);
        break;
    default:
        break;
    }
}

static pid_t forked_inside;
static int in_forked_child;

static void forking(broker_client_t *same, int status, const broker_reply_t *reply, void *data)
{
    struct row_of_replies *row = data;
    /* The parent's replies are the parent's: in a child, nothing more comes. */
    CHECK(!in_forked_child);
    next_number(same, status, reply, data);
    if (row->got != row->fork_at)
        return;
    forked_inside = fork_or_fail();
    if (forked_inside == 0) {
        in_forked_child = 1;
        child_inside(row->way);
    }
}

static void child_after_callback(int way, int code)
{
    struct outcome outcome = {0};
    switch (way) {
    case ADOPT:
        CHECK_OK(code);
        CHECK_INT(broker_client_submit(client, ARGV("ECHO", "mine"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
        EXPECT_OUTCOME(client, &outcome, "mine");
        close_client(client);
        break;
    case FREE:
        CHECK_INT(code, BROKER_ESTATE);
        CHECK_INT(broker_client_free(client), BROKER_ESTATE);
        CHECK_INT(broker_client_after_fork(client), BROKER_ESTATE);
        break;
    default:
        CHECK_INT(code, BROKER_EFORKED);
        live_in_the_child(key_of_child(way));
        close_client(client);
    }
    end_child();
}

static void in_callback(void)
{
    long long id = call_integer(client, ARGV("CLIENT", "ID"));
    for (int way = 0; way < WAYS; way++) {
        struct row_of_replies row = {0, MANY / 2, way};
        EXPECT(client, ":0", "DEL", "parent");
        submit_many(forking, &row);
        while (row.got < MANY) {
            int code = broker_client_process(client, -1);
            if (in_forked_child)
                child_after_callback(way, code);
            CHECK_OK(code);
            /* What a careless child has broken shows here and not later. */
            if (forked_inside != 0)
                wait_child(forked_inside);
            forked_inside = 0;
        }
        EXPECT(client, ":1", "DEL", "parent");
    }
    CHECK_INT(call_integer(client, ARGV("CLIENT", "ID")), id);
}

struct feed {
    int confirmed, messages, over;
};

static void message(broker_client_t *same, int status, const broker_reply_t *push, void *data)
{
    struct feed *feed = data;
    char text[128], expected[64];
    (void)same;
    CHECK(!in_forked_child);
    if (status == BROKER_ECANCELED) {
        feed->over++;
        return;
    }
    CHECK_INT(status, BROKER_OK);
    if (strstr(render(push, text, sizeof text), "[subscribe ")) {
        feed->confirmed++;
        return;
    }
    snprintf(expected, sizeof expected, "message news %d]", feed->messages++);
    CHECK(strstr(text, expected) != NULL);
}

static void publish(struct redis *redis, int number)
{
    CHECK_TEXT(redis_ask(redis, "PUBLISH news %d", number), ":1");
}

static void subscribed(void)
{
    struct feed feed = {0};
    struct redis redis = redis_connect();
    broker_req_t sub = 0;
    CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, "news", 4, &sub, message, &feed), BROKER_OK);
    wait_count(client, &feed.confirmed, 1);
    publish(&redis, 0);
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        in_forked_child = 1;
        live_in_the_child(key_of_child(0));
        CHECK_INT(broker_client_cancel(client, sub), BROKER_ESTATE);
        struct outcome own = {0};
        CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, "own", 3, NULL, keep, &own), BROKER_OK);
        wait_outcome(client, &own);
        CHECK(strstr(own.text, "[subscribe own :1]") != NULL);
        close_client(client);
        CHECK_INT(own.status, BROKER_ECANCELED);
        end_child();
    }
    wait_child(pid);
    publish(&redis, 1);
    wait_count(client, &feed.messages, 2);
    CHECK_INT(feed.confirmed, 1);
    CHECK_INT(broker_client_cancel(client, sub), BROKER_OK);
    wait_count(client, &feed.over, 1);
    redis_close(&redis);
}

/* A session between WATCH and EXEC, with a transaction of the shared connection and a pop under way. */
static void session(void)
{
    broker_client_t *watching = NULL;
    struct outcome popped = {0}, executed = {0};
    struct redis redis = redis_connect();
    broker_transaction_t *block = broker_transaction_new();
    CHECK_INT(broker_transaction_add(block, ARGV("INCR", "watched"), NULL), BROKER_OK);
    CHECK_INT(broker_client_session(&watching, client), BROKER_OK);
    CHECK_INT(broker_client_call(watching, ARGV("WATCH", "watched"), NULL, BROKER_FOREVER, NULL), BROKER_OK);
    CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "list", "0"), NULL, BROKER_FOREVER, NULL, keep, &popped), BROKER_OK);
    while (redis_info(&redis, "clients", "blocked_clients") == 0)
        CHECK_OK(broker_client_process(client, 5));
    CHECK_INT(broker_client_submit_transaction(client, block, BROKER_FOREVER, NULL, keep, &executed), BROKER_OK);
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        CHECK_INT(broker_client_call(watching, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_EFORKED);
        live_in_the_child(key_of_child(0));
        CHECK_INT(broker_client_call(watching, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_EFORKED);
        CHECK_INT(broker_client_free(watching), BROKER_OK);
        /* What is plain memory still serves. */
        broker_reply_t *reply = NULL;
        CHECK_INT(broker_client_call_transaction(client, block, BROKER_FOREVER, &reply), BROKER_OK);
        CHECK_INT(broker_reply_len(reply), 1);
        broker_reply_free(reply);
        CHECK_INT(broker_transaction_free(block), BROKER_OK);
        close_client(client);
        CHECK_INT(popped.calls + executed.calls, 0);
        end_child();
    }
    wait_child(pid);
    EXPECT_OUTCOME(client, &executed, "[:2]");
    /* The child's pop is not there to take the parent's element. */
    CHECK_TEXT(redis_ask(&redis, "RPUSH list element"), ":1");
    EXPECT_OUTCOME(client, &popped, "[list element]");
    struct outcome conflict = {0};
    CHECK_INT(broker_client_submit_transaction(watching, block, BROKER_FOREVER, NULL, keep, &conflict), BROKER_OK);
    EXPECT_OUTCOME(client, &conflict, "_");
    CHECK_INT(broker_client_free(watching), BROKER_OK);
    CHECK_INT(broker_transaction_free(block), BROKER_OK);
    EXPECT(client, ":1", "DEL", "watched");
    redis_close(&redis);
}

/* fork() without its handlers: only the page that the kernel wipes can tell. */
static void raw_forks(void)
{
    struct row_of_replies row = {0};
    EXPECT(client, ":0", "DEL", "parent");
    submit_many(next_number, &row);
    for (int way = 0; way < 2; way++) {
        pid_t pid = way == 0 ? _Fork() : (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        CHECK(pid >= 0);
        if (pid == 0) {
            begin();
            live_in_the_child(key_of_child(way));
            close_client(client);
            /* Not exit(): its handlers need a fork() that they know of. */
            _exit(0);
        }
        wait_child(pid);
    }
    wait_count(client, &row.got, MANY);
    EXPECT(client, ":1", "DEL", "parent");
}

/* Children live on when their parent is killed; of its connections nothing is left. */
static void outliving(void)
{
    enum { CHILDREN = 3 };
    struct redis redis = redis_connect();
    struct gate ready, over;
    gate_make(&ready);
    gate_make(&over);
    close_client(client);
    redis_wait_clients(&redis, NULL, 0);
    pid_t parent = fork_or_fail();
    if (parent == 0) {
        client = open_redis();
        EXPECT(client, "+PONG", "PING");
        struct outcome ignored = {0};
        CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, "c", 1, NULL, keep, &ignored), BROKER_OK);
        wait_outcome(client, &ignored);
        for (int i = 0; i < CHILDREN; i++) {
            if (fork_or_fail() != 0)
                continue;
            live_in_the_child(key_of_child(i));
            gate_open(&ready);
            gate_wait(&over);
            EXPECT(client, "+PONG", "PING");
            close_client(client);
            gate_open(&ready);
            _exit(0);
        }
        pause();
    }
    for (int i = 0; i < CHILDREN; i++)
        gate_wait(&ready);
    CHECK_INT(redis_clients(&redis), CHILDREN + 2);
    kill_child(parent);
    redis_wait_clients(&redis, NULL, CHILDREN);
    for (int i = 0; i < CHILDREN; i++)
        gate_open(&over);
    for (int i = 0; i < CHILDREN; i++)
        gate_wait(&ready);
    redis_wait_clients(&redis, NULL, 0);
    gate_close(&ready);
    gate_close(&over);
    redis_close(&redis);
    client = open_redis();
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
        {"idle", idle},
        {"careless", careless_children},
        {"mistaken", mistaken},
        {"short_of_descriptors", short_of_descriptors},
        {"grandchildren", grandchildren},
        {"in_flight", in_flight},
        {"in_callback", in_callback},
        {"subscribed", subscribed},
        {"session", session},
        {"raw", raw_forks},
        {"outliving", outliving},
    };
    begin();
    client = open_redis();
    EXPECT(client, "+PONG", "PING");
    RUN_PARTS(parts);
    close_client(client);
    return 0;
}

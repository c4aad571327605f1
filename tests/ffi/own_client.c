/*
 * A loop's own clients: everything of a client without a socket, driven by the loop. WATCH on sessions, blocking
 * commands, subscriptions, calls that run the loop; freed in callbacks, before the loop and after it.
 */
#include "loop.h"

#include <pthread.h>
#include <sched.h>

static broker_loop_t *loop;
static broker_client_t *mine;

static void begin_loop(void)
{
    loop = open_loop(NULL, NULL);
    mine = own(loop);
}

static void calls_run_the_loop(void)
{
    begin_loop();
    EXPECT(mine, "+PONG", "PING");
    EXPECT(mine, ":0", "DEL", "k");
    CHECK_INT(broker_client_connected(mine), 1);
    /* Somebody else's request is served by the turns that this call takes. */
    broker_client_t *child = open_fd(adopt_pair(loop));
    struct outcome outcome = {0};
    CHECK_INT(broker_client_submit(child, ARGV("SET", "k", "v"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    CHECK_OK(broker_client_process(child, 0));
    while (outcome.calls == 0) {
        EXPECT(mine, "+PONG", "PING");
        CHECK_OK(broker_client_process(child, 0));
    }
    EXPECT(mine, "v", "GET", "k");
    /* A wait of its own, in the loop as anywhere. */
    CHECK_INT(broker_client_call(mine, ARGV("BLPOP", "none", "0"), NULL, 30, NULL), BROKER_ETIMEDOUT);
    CHECK_INT(broker_client_call(mine, ARGV("PING"), NULL, 0, NULL), BROKER_EINVAL);
    CHECK_INT(broker_client_call(mine, ARGV("PING"), NULL, -2, NULL), BROKER_EINVAL);
    EXPECT(mine, ":1", "DEL", "k");
    close_client(child);
    close_loop(loop);
}

static void watching(void)
{
    begin_loop();
    broker_client_t *session, *other, *none;
    broker_transaction_t *block = broker_transaction_new();
    broker_reply_t *reply = NULL;
    CHECK_INT(broker_transaction_add(block, ARGV("INCR", "watched"), NULL), BROKER_OK);
    CHECK_INT(broker_client_session(&session, mine), BROKER_OK);
    CHECK_INT(broker_client_session(&none, session), BROKER_EUNSUPPORTED);
    CHECK(none == NULL);
    CHECK_INT(broker_loop_client(&other, loop), BROKER_OK);
    EXPECT(session, "+OK", "WATCH", "watched");
    EXPECT(other, ":1", "INCR", "watched");
    CHECK_INT(broker_client_call_transaction(session, block, BROKER_FOREVER, &reply), BROKER_OK);
    CHECK_INT(broker_reply_type(reply), BROKER_REPLY_NIL);
    broker_reply_free(reply);
    EXPECT(session, "+OK", "WATCH", "watched");
    CHECK_INT(broker_client_call_transaction(session, block, BROKER_FOREVER, &reply), BROKER_OK);
    CHECK_INT(broker_reply_integer(broker_reply_at(reply, 0)), 2);
    broker_reply_free(reply);
    EXPECT(mine, ":1", "DEL", "watched");
    CHECK_INT(broker_client_free(session), BROKER_OK);
    CHECK_INT(broker_client_free(other), BROKER_OK);
    CHECK_INT(broker_transaction_free(block), BROKER_OK);
    close_loop(loop);
}

struct feed {
    int confirmed, messages, over;
};

static void heard(broker_client_t *client, int status, const broker_reply_t *push, void *data)
{
    struct feed *feed = data;
    CHECK(client == mine && !feed->over);
    if (status < 0) {
        CHECK_INT(status, BROKER_ECANCELED);
        feed->over = 1;
        return;
    }
    const char *kind = broker_reply_string(broker_reply_at(push, 0), NULL);
    if (strcmp(kind, "subscribe") == 0)
        feed->confirmed++;
    else
        feed->messages++;
}

static void subscribing_and_popping(void)
{
    begin_loop();
    struct feed feed = {0};
    struct outcome popped = {0};
    broker_req_t sub;
    CHECK_INT(broker_client_subscribe(mine, BROKER_CHANNEL, "own", 3, &sub, heard, &feed), BROKER_OK);
    while (feed.confirmed == 0)
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_ONCE));
    CHECK_INT(broker_client_submit(mine, ARGV("BLPOP", "own:list", "0"), NULL, BROKER_FOREVER, NULL, keep, &popped), BROKER_OK);
    EXPECT(mine, ":1", "PUBLISH", "own", "x");
    EXPECT(mine, ":1", "RPUSH", "own:list", "e");
    EXPECT_OWN(loop, &popped, "[own:list e]");
    while (feed.messages == 0)
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_ONCE));
    CHECK_INT(broker_client_cancel(mine, sub), BROKER_OK);
    CHECK_INT(broker_client_cancel(mine, sub), BROKER_ESTATE);
    CHECK_INT(feed.over, 0);
    CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    CHECK_INT(feed.over, 1);
    close_loop(loop);
}

static void free_it(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    int *calls = data;
    (void)reply;
    CHECK_INT(status, BROKER_OK);
    ++*calls;
    CHECK_INT(broker_client_free(client), BROKER_OK);
    CHECK_INT(broker_client_free(client), BROKER_ESTATE);
    CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, NULL), BROKER_ESTATE);
    CHECK_INT(broker_loop_free(loop), BROKER_EREENTRANT);
}

/* What is pending on a client that ends is canceled, whoever ends first; other clients of the loop go on. */
static void ends(void)
{
    begin_loop();
    broker_client_t *first, *second, *session;
    struct outcome of_first = {0}, of_second = {0}, of_session = {0}, behind = {0};
    int freed = 0;
    CHECK_INT(broker_loop_client(&first, loop), BROKER_OK);
    CHECK_INT(broker_loop_client(&second, loop), BROKER_OK);
    CHECK_INT(broker_client_session(&session, second), BROKER_OK);
    CHECK_INT(broker_client_submit(first, ARGV("BLPOP", "none", "0"), NULL, BROKER_FOREVER, NULL, keep, &of_first), BROKER_OK);
    EXPECT(mine, "+PONG", "PING");
    CHECK_INT(broker_client_free(first), BROKER_OK);
    CHECK_INT(of_first.status, BROKER_ECANCELED);
    CHECK_INT(broker_client_submit(second, ARGV("PING"), NULL, BROKER_FOREVER, NULL, free_it, &freed), BROKER_OK);
    CHECK_INT(broker_client_submit(second, ARGV("BLPOP", "none", "0"), NULL, BROKER_FOREVER, NULL, keep, &of_second), BROKER_OK);
    CHECK_INT(broker_client_submit(session, ARGV("BLPOP", "none", "0"), NULL, BROKER_FOREVER, NULL, keep, &of_session), BROKER_OK);
    while (freed == 0)
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_ONCE));
    CHECK_INT(of_second.status, BROKER_ECANCELED);
    CHECK_INT(of_session.status, BROKER_ECANCELED);
    CHECK_INT(of_second.calls + of_session.calls, 2);
    CHECK_INT(broker_client_submit(session, ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &behind), BROKER_ESTATE);
    CHECK_INT(broker_client_free(session), BROKER_OK);
    EXPECT(mine, "+PONG", "PING");
    CHECK_INT(broker_client_submit(mine, ARGV("BLPOP", "none", "0"), NULL, BROKER_FOREVER, NULL, keep, &behind), BROKER_OK);
    CHECK_INT(broker_loop_free(loop), BROKER_OK);
    CHECK_INT(behind.status, BROKER_ECANCELED);
    CHECK_INT(broker_client_connected(mine), BROKER_ESTATE);
    CHECK_INT(broker_client_free(mine), BROKER_OK);
}

/* A session whose client has ended, and whose client's memory may be another's, ends nobody else's. */
static void freed_late(void)
{
    enum { FREES = 1100 };
    broker_client_t *first = open_redis(), *second, *session;
    CHECK_INT(broker_client_session(&session, first), BROKER_OK);
    close_client(first);
    /* Until the memory of the first is used again. */
    for (int i = 0; i < FREES; i++) {
        second = open_redis();
        if (second == first)
            break;
        close_client(second);
    }
    if (second == first) {
        broker_client_t *other;
        CHECK_INT(broker_client_session(&other, second), BROKER_OK);
        EXPECT(other, "+OK", "WATCH", "k");
        CHECK_INT(broker_client_call(session, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_ESTATE);
        CHECK_INT(broker_client_free(session), BROKER_OK);
        EXPECT(other, "+PONG", "PING");
        CHECK_INT(broker_client_free(other), BROKER_OK);
        close_client(second);
    } else {
        FAIL("the memory of a client is not used again after %d others", FREES);
    }
}

static void *run(void *unused)
{
    (void)unused;
    CHECK_OK(broker_loop_run(loop, BROKER_RUN_DEFAULT));
    return NULL;
}

/* A call that only this thread could answer is refused, and not sent; one that another thread answers is not. */
static void calling_oneself(void)
{
    static const char *const tcp[] = {"listen", "tcp://127.0.0.1:0", NULL};
    char endpoint[PATH_SIZE + 8];
    for (int kind = 0; kind < 3; kind++) {
        loop = kind == 1 ? open_loop(NULL, tcp) : open_loop(kind == 0 ? "self.sock" : NULL, NULL);
        if (kind < 2)
            CHECK_OK(broker_loop_endpoint(loop, 0, endpoint, sizeof endpoint));
        broker_client_t *client = kind == 2 ? open_fd(adopt_pair(loop)) : open_client(endpoint, NULL);
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
        CHECK_INT(broker_client_call(client, ARGV("INCR", "self"), NULL, BROKER_FOREVER, NULL), BROKER_EREENTRANT);
        CHECK(strstr(broker_client_error(client), "a client of that loop") != NULL);
        struct outcome outcome = {0};
        CHECK_INT(broker_client_submit(client, ARGV("INCR", "self"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
        while (outcome.calls == 0) {
            CHECK_OK(broker_client_process(client, 0));
            CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
        }
        CHECK_TEXT(outcome.text, ":1");
        EXPECT(own(loop), ":1", "DEL", "self");
        pthread_t runner;
        CHECK_INT(pthread_create(&runner, NULL, run, NULL), 0);
        int code;
        while ((code = broker_client_call(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL)) == BROKER_EREENTRANT)
            sched_yield();
        CHECK_INT(code, BROKER_OK);
        /* Nor does any call disturb the thread that runs the loop. */
        for (int i = 0; i < 500; i++)
            EXPECT(client, "+PONG", "PING");
        CHECK_INT(broker_loop_stop(loop), BROKER_OK);
        CHECK_INT(pthread_join(runner, NULL), 0);
        close_client(client);
        close_loop(loop);
    }
}

int main(void)
{
    begin();
    int at_first = count_descriptors();
    calls_run_the_loop();
    watching();
    subscribing_and_popping();
    ends();
    calling_oneself();
    freed_late();
    CHECK_INT(count_descriptors(), at_first);
    return 0;
}

/*
 * Every request ends exactly once, whatever happens to the connection: cut in flight, cut before anything was sent,
 * never made, a byte at a time, garbage in it; with timeouts and cancellations before and after sending.
 */
#include "proxy.h"

enum { MANY = 200 };

static struct redis redis;
static broker_client_t *client;

/* Processes until Redis itself says that `key` has this value: what was sent has been executed. */
static void wait_executed(const char *key, const char *value)
{
    while (strcmp(redis_ask(&redis, "GET %s", key), value) != 0)
        CHECK_OK(broker_client_process(client, 5));
}

static void submit_many(const char *key, struct outcome *outcomes, int count)
{
    for (int i = 0; i < count; i++)
        CHECK_INT(broker_client_submit(client, ARGV("INCR", key), NULL, BROKER_FOREVER, NULL, keep, &outcomes[i]), BROKER_OK);
}

static void all_once(struct outcome *outcomes, int count, int code)
{
    for (int i = 0; i < count; i++)
        EXPECT_CODE(client, &outcomes[i], code);
}

/* Sent and executed, the reply lost: ELOST for each, and nothing is sent twice. */
static void cut_in_flight(void)
{
    static struct outcome outcomes[MANY];
    memset(outcomes, 0, sizeof outcomes);
    EXPECT(client, "+OK", "SET", "k", "0");
    proxy_hold(1);
    submit_many("k", outcomes, MANY);
    wait_executed("k", "200");
    CHECK(proxy_cut() > 0);
    all_once(outcomes, MANY, BROKER_ELOST);
    CHECK(strlen(broker_client_error(client)) > 0);
    proxy_hold(0);
    EXPECT(client, "200", "GET", "k");
}

/* While there is no connection, requests wait for one: executed once when it comes in time, else ECONN. */
static void without_a_connection(void)
{
    struct outcome early[10] = {{0}}, late[10] = {{0}};
    EXPECT(client, "+OK", "SET", "k", "0");
    proxy_refuse(1);
    CHECK(proxy_cut() > 0);
    while (broker_client_connected(client) == 1)
        CHECK_OK(broker_client_process(client, -1));
    submit_many("k", early, 10);
    all_once(early, 10, BROKER_ECONN);
    CHECK_TEXT(redis_ask(&redis, "GET k"), "0");
    submit_many("k", late, 10);
    proxy_refuse(0);
    for (int i = 0; i < 10; i++) {
        char expected[16];
        snprintf(expected, sizeof expected, ":%d", i + 1);
        EXPECT_OUTCOME(client, &late[i], expected);
    }
}

static void timeouts(void)
{
    struct outcome timed[20] = {{0}}, patient[20] = {{0}};
    EXPECT(client, "+OK", "SET", "k", "0");
    proxy_hold(1);
    for (int i = 0; i < 20; i++) {
        CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, 500, NULL, keep, &timed[i]), BROKER_OK);
        CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL, keep, &patient[i]), BROKER_OK);
    }
    /* All are sent before the first of them times out. */
    wait_executed("k", "40");
    all_once(timed, 20, BROKER_ETIMEDOUT);
    CHECK_INT(broker_client_call(client, ARGV("INCR", "k"), NULL, 200, NULL), BROKER_ETIMEDOUT);
    for (int i = 0; i < 20; i++)
        CHECK_INT(patient[i].calls, 0);
    wait_executed("k", "41");
    proxy_hold(0);
    /* The late replies of the others go nowhere: each of these has its own. */
    for (int i = 0; i < 20; i++) {
        char expected[16];
        snprintf(expected, sizeof expected, ":%d", 2 * i + 2);
        EXPECT_OUTCOME(client, &patient[i], expected);
    }
    EXPECT(client, "41", "GET", "k");
    for (int i = 0; i < 20; i++)
        CHECK_INT(timed[i].calls, 1);
}

static void cancellations(void)
{
    struct outcome unsent = {0}, sent = {0}, kept = {0}, done = {0};
    broker_req_t first = 0, second = 0, third = 0;
    EXPECT(client, "+OK", "SET", "k", "0");
    CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, &first, keep, &unsent), BROKER_OK);
    CHECK(first != 0);
    CHECK_INT(broker_client_cancel(client, first), BROKER_OK);
    CHECK_INT(broker_client_cancel(client, first), BROKER_ESTATE);
    CHECK_INT(unsent.calls, 0);
    CHECK(broker_client_timeout(client) == 0 || bytes_to_read(broker_client_fd(client)));
    EXPECT_CODE(client, &unsent, BROKER_ECANCELED);
    EXPECT(client, "0", "GET", "k");
    proxy_hold(1);
    CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, &second, keep, &sent), BROKER_OK);
    CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL, keep, &kept), BROKER_OK);
    wait_executed("k", "2");
    CHECK_INT(broker_client_cancel(client, second), BROKER_OK);
    EXPECT_CODE(client, &sent, BROKER_ECANCELED);
    proxy_hold(0);
    EXPECT_OUTCOME(client, &kept, ":2");
    CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, &third, keep, &done), BROKER_OK);
    EXPECT_OUTCOME(client, &done, ":3");
    CHECK_INT(broker_client_cancel(client, third), BROKER_ESTATE);
    CHECK_INT(broker_client_cancel(client, UINT64_MAX), BROKER_ESTATE);
    CHECK_INT(unsent.calls + sent.calls + kept.calls + done.calls, 4);
}

/* Replies that arrive in single bytes are the replies they are. */
static void single_bytes(void)
{
    struct outcome outcomes[20] = {{0}};
    EXPECT(client, "+OK", "SET", "k", "0");
    EXPECT(client, ":1", "DEL", "k");
    proxy_trickle(1);
    submit_many("k", outcomes, 20);
    for (int i = 0; i < 20; i++) {
        char expected[16];
        snprintf(expected, sizeof expected, ":%d", i + 1);
        EXPECT_OUTCOME(client, &outcomes[i], expected);
    }
    EXPECT(client, "[:21 +OK 21]", "EVAL", "return {redis.call('INCR','k'), redis.status_reply('OK'), redis.call('GET','k')}",
           "0");
    proxy_trickle(0);
}

/* What is no RESP ends the connection, never the process; the requests on it are over, the next are served. */
static void garbage(void)
{
    static const char *const pieces[] = {"\r\n", "?what\r\n", ":12x\r\n", "$-7\r\n", "*1000000000\r\n", "$99999999999999999999\r\n",
                                         "%-1\r\n", "+unasked\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n"};
    int losses = 0;
    CHECK_INT(broker_client_on_state(client, count_loss, &losses), BROKER_OK);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        struct outcome outcome = {0};
        EXPECT(client, "+OK", "SET", "k", "0");
        proxy_hold(1);
        CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
        wait_executed("k", "1");
        proxy_inject(pieces[i]);
        if (strcmp(pieces[i], "+unasked\r\n") == 0) {
            /* As good as a reply: to the request, and then there is one too many. */
            EXPECT_OUTCOME(client, &outcome, "+unasked");
        } else if (strcmp(pieces[i], "*1000000000\r\n") == 0) {
            /* Might be the beginning of one. */
            proxy_cut();
            EXPECT_CODE(client, &outcome, BROKER_ELOST);
        } else {
            wait_outcome(client, &outcome);
            CHECK_INT(outcome.calls, 1);
            if (outcome.status != BROKER_EPROTO)
                FAIL("%s: %d %s", pieces[i], outcome.status, outcome.text);
        }
        proxy_hold(0);
        wait_count(client, &losses, (int)i + 1);
        EXPECT(client, "1", "GET", "k");
    }
    CHECK_INT(broker_client_on_state(client, NULL, NULL), BROKER_OK);
}

/* Freed with everything under way: each request ends before the free returns. Comes last. */
static void freed(void)
{
    static struct outcome outcomes[MANY];
    struct outcome popped = {0}, listening = {0}, in_session = {0}, unsent = {0};
    broker_client_t *session = NULL;
    memset(outcomes, 0, sizeof outcomes);
    EXPECT(client, "+OK", "SET", "k", "0");
    CHECK_INT(broker_client_session(&session, client), BROKER_OK);
    CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, "c", 1, NULL, keep, &listening), BROKER_OK);
    wait_outcome(client, &listening);
    proxy_hold(1);
    submit_many("k", outcomes, MANY);
    CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "l", "0"), NULL, BROKER_FOREVER, NULL, keep, &popped), BROKER_OK);
    CHECK_INT(broker_client_submit(session, ARGV("INCR", "s"), NULL, BROKER_FOREVER, NULL, keep, &in_session), BROKER_OK);
    wait_executed("k", "200");
    CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL, keep, &unsent), BROKER_OK);
    close_client(client);
    for (int i = 0; i < MANY; i++) {
        CHECK_INT(outcomes[i].calls, 1);
        CHECK_INT(outcomes[i].status, BROKER_ECANCELED);
    }
    CHECK_INT(popped.calls, 1);
    CHECK_INT(in_session.calls, 1);
    CHECK_INT(unsent.calls, 1);
    CHECK_INT(listening.calls, 2);
    CHECK_INT(listening.status, BROKER_ECANCELED);
    CHECK_INT(broker_client_call(session, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_ESTATE);
    CHECK_INT(broker_client_free(session), BROKER_OK);
    proxy_hold(0);
    CHECK_TEXT(redis_ask(&redis, "GET k"), "200");
    client = NULL;
}

/* A connection that has been closed while nobody used it loses no request: its end was here before. */
static void closed_while_idle(void)
{
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "redis://127.0.0.1:%s", setting("BROKER_TEST_REDIS_PORT"));
    broker_client_t *idle = open_client(endpoint, NULL);
    for (int way = 0; way < 3; way++) {
        struct outcome outcome = {0};
        EXPECT(idle, "+OK", "SET", "k", "0");
        while (broker_client_process(idle, 0) > 0 || bytes_to_read(broker_client_fd(idle)))
            ;
        CHECK(atoi(redis_ask(&redis, "CLIENT KILL TYPE normal SKIPME yes") + 1) > 0);
        while (!bytes_to_read(broker_client_fd(idle)))
            pause_a_little();
        if (way == 0)
            EXPECT(idle, ":1", "INCR", "k");
        CHECK_INT(broker_client_submit(idle, ARGV("ECHO", "x"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
        if (way == 1)
            CHECK_OK(broker_client_process(idle, 0));
        EXPECT_OUTCOME(idle, &outcome, "x");
    }
    close_client(idle);
}

/* Whoever only watches the descriptor learns of a request that was submitted outside of any callback. */
static void submitting_wakes(void)
{
    for (int i = 0; i < 3; i++) {
        struct outcome outcome = {0};
        while (broker_client_process(client, 0) > 0 || bytes_to_read(broker_client_fd(client)))
            ;
        /* A call that was refused keeps nobody from being woken. */
        if (i == 1)
            CHECK_INT(broker_client_call(client, ARGV("MULTI"), NULL, BROKER_FOREVER, NULL), BROKER_EUNSUPPORTED);
        CHECK_INT(broker_client_submit(client, ARGV("ECHO", "x"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
        CHECK(bytes_to_read(broker_client_fd(client)));
        EXPECT_OUTCOME(client, &outcome, "x");
    }
}

struct states {
    int ups, downs, reason;
};

static void on_state(broker_client_t *same, int connected, int reason, void *data)
{
    struct states *states = data;
    CHECK(same == client);
    CHECK((connected == 1) == (reason == BROKER_OK));
    if (connected)
        states->ups++;
    else
        states->downs++, states->reason = reason;
}

static void states(void)
{
    struct states states = {0};
    CHECK_INT(broker_client_on_state(client, on_state, &states), BROKER_OK);
    wait_count(client, &states.ups, 1);
    CHECK_INT(states.downs, 0);
    for (int i = 1; i <= 5; i++) {
        int descriptor = broker_client_fd(client);
        proxy_cut();
        wait_count(client, &states.ups, i + 1);
        CHECK_INT(states.downs, i);
        CHECK(states.reason == BROKER_ELOST || states.reason == BROKER_ECONN);
        CHECK_INT(broker_client_fd(client), descriptor);
    }
    /* One who asks late is told at once. */
    struct states late = {0};
    CHECK_INT(broker_client_on_state(client, on_state, &late), BROKER_OK);
    CHECK_OK(broker_client_process(client, 0));
    CHECK_INT(late.ups, 1);
    CHECK_INT(broker_client_on_state(client, NULL, NULL), BROKER_OK);
    CHECK_INT(states.ups, 6);
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
        {"cut_in_flight", cut_in_flight}, {"without_a_connection", without_a_connection},
        {"timeouts", timeouts},           {"cancellations", cancellations},
        {"single_bytes", single_bytes},   {"garbage", garbage},
        {"states", states},               {"closed_while_idle", closed_while_idle},
        {"submitting_wakes", submitting_wakes}, {"freed", freed},
    };
    begin();
    proxy_start();
    redis = redis_connect();
    client = open_client(proxy.endpoint, configure("client_queue_timeout", "500ms", (char *)NULL));
    RUN_PARTS(parts);
    close_client(client);
    redis_wait_clients(&redis, NULL, 0);
    redis_close(&redis);
    proxy_end();
    return 0;
}

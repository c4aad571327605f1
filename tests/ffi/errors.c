/*
 * A broker's own errors as codes: BROKERDOWN is ECONN, BROKERLOST ELOST, BROKERTIMEOUT ETIMEDOUT, BROKERLIMIT ELIMIT;
 * what Redis says stays a reply. And a broker that is killed and comes back.
 */
#include "proxy.h"

static struct redis redis;

static void stays_a_reply(broker_client_t *client)
{
    EXPECT(client, ":1", "LPUSH", "list", "x");
    EXPECT(client, "-WRONGTYPE Operation against a key holding the wrong kind of value", "INCR", "list");
    EXPECT(client, "-ERR unknown command 'NOSUCH', with args beginning with: ", "NOSUCH");
    EXPECT(client, "-BROKERISH is not ours", "EVAL", "return redis.error_reply('BROKERISH is not ours')", "0");
    EXPECT(client, ":1", "DEL", "list");
}

static void down(void)
{
    static const char *const settings[] = {"queue_timeout=200ms", NULL};
    struct server server = serve_at("down.sock", "unix:///nonexistent/redis.sock", settings);
    broker_client_t *client = open_client(server.endpoint, configure("client_queue_timeout", "500ms", (char *)NULL));
    struct outcome outcomes[20] = {{0}};
    for (int i = 0; i < 20; i++)
        CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL, keep, &outcomes[i]), BROKER_OK);
    for (int i = 0; i < 20; i++)
        EXPECT_CODE(client, &outcomes[i], BROKER_ECONN);
    CHECK_INT(broker_client_call(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL), BROKER_ECONN);
    CHECK(strlen(broker_client_error(client)) > 0);
    close_client(client);
    server_kill(&server);
}

/* Redis' connection breaks behind the broker, with everything executed and nothing answered. */
static void lost(void)
{
    char upstream[PATH_SIZE + 8];
    broker_transaction_t *block = broker_transaction_new();
    struct outcome outcomes[20] = {{0}}, executed = {0}, popped = {0};
    snprintf(upstream, sizeof upstream, "unix://%s", proxy.path);
    struct server server = serve_at("lost.sock", upstream, NULL);
    broker_client_t *client = open_client(server.endpoint, NULL);
    CHECK_INT(broker_transaction_add(block, ARGV("INCR", "t"), NULL), BROKER_OK);
    stays_a_reply(client);
    EXPECT(client, "+OK", "SET", "k", "0");
    CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "none", "0"), NULL, BROKER_FOREVER, NULL, keep, &popped), BROKER_OK);
    while (redis_info(&redis, "clients", "blocked_clients") == 0)
        CHECK_OK(broker_client_process(client, 5));
    proxy_hold(1);
    CHECK_INT(broker_client_submit_transaction(client, block, BROKER_FOREVER, NULL, keep, &executed), BROKER_OK);
    for (int i = 0; i < 20; i++)
        CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL, keep, &outcomes[i]), BROKER_OK);
    while (strcmp(redis_ask(&redis, "GET k"), "20") != 0)
        CHECK_OK(broker_client_process(client, 5));
    CHECK(proxy_cut() > 0);
    for (int i = 0; i < 20; i++)
        EXPECT_CODE(client, &outcomes[i], BROKER_ELOST);
    EXPECT_CODE(client, &executed, BROKER_ELOST);
    EXPECT_CODE(client, &popped, BROKER_ELOST);
    proxy_hold(0);
    EXPECT(client, "20", "GET", "k");
    close_client(client);
    CHECK_INT(broker_transaction_free(block), BROKER_OK);
    server_kill(&server);
}

static void timed_out(void)
{
    static const char *const settings[] = {"request_timeout=100ms", NULL};
    char upstream[PATH_SIZE + 8];
    struct outcome outcomes[10] = {{0}};
    snprintf(upstream, sizeof upstream, "unix://%s", proxy.path);
    struct server server = serve_at("timed.sock", upstream, settings);
    broker_client_t *client = open_client(server.endpoint, NULL);
    EXPECT(client, "+OK", "SET", "k", "0");
    proxy_hold(1);
    for (int i = 0; i < 10; i++)
        CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL, keep, &outcomes[i]), BROKER_OK);
    for (int i = 0; i < 10; i++)
        EXPECT_CODE(client, &outcomes[i], BROKER_ETIMEDOUT);
    CHECK_INT(broker_client_call(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL), BROKER_ETIMEDOUT);
    proxy_hold(0);
    EXPECT(client, "11", "GET", "k");
    close_client(client);
    server_kill(&server);
}

static void limited(void)
{
    static const char *const settings[] = {"leases_blocking_max=1", "lease_wait_timeout=100ms", NULL};
    struct outcome first = {0}, second = {0};
    struct server server = serve(settings);
    broker_client_t *client = open_client(server.endpoint, NULL);
    CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "l", "0"), NULL, BROKER_FOREVER, NULL, keep, &first), BROKER_OK);
    while (redis_info(&redis, "clients", "blocked_clients") == 0)
        CHECK_OK(broker_client_process(client, 5));
    CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "l", "0"), NULL, BROKER_FOREVER, NULL, keep, &second), BROKER_OK);
    EXPECT_CODE(client, &second, BROKER_ELIMIT);
    EXPECT(client, ":1", "RPUSH", "l", "x");
    EXPECT_OUTCOME(client, &first, "[l x]");
    close_client(client);
    server_kill(&server);
}

/* Killed with requests under way and started again: outcomes once each, and the same handle goes on. */
static void killed(void)
{
    struct server server = serve(NULL);
    broker_client_t *client = open_client(server.endpoint, NULL);
    for (int round = 0; round < 3; round++) {
        struct outcome outcomes[50] = {{0}}, popped = {0}, afterwards = {0};
        int lost = 0;
        EXPECT(client, "+OK", "SET", "k", "0");
        CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "none", "0"), NULL, BROKER_FOREVER, NULL, keep, &popped), BROKER_OK);
        while (redis_info(&redis, "clients", "blocked_clients") == 0)
            CHECK_OK(broker_client_process(client, 5));
        for (int i = 0; i < 50; i++)
            CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL, keep, &outcomes[i]), BROKER_OK);
        if (round > 0)
            CHECK_INT(broker_client_process(client, 0) >= 0, 1);
        server_kill(&server);
        EXPECT_CODE(client, &popped, BROKER_ELOST);
        CHECK_INT(broker_client_submit(client, ARGV("ECHO", "after"), NULL, BROKER_FOREVER, NULL, keep, &afterwards), BROKER_OK);
        server = serve(NULL);
        EXPECT_OUTCOME(client, &afterwards, "after");
        for (int i = 0; i < 50; i++) {
            CHECK_INT(outcomes[i].calls, 1);
            CHECK(outcomes[i].status == BROKER_OK || outcomes[i].status == BROKER_ELOST);
            lost += outcomes[i].status == BROKER_ELOST;
        }
        /* Executed once or not at all, and those that have a reply for certain. */
        long long executed = atoll(redis_ask(&redis, "GET k"));
        CHECK(50 - lost <= executed && executed <= 50);
    }
    close_client(client);
    server_kill(&server);
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
        {"down", down}, {"lost", lost}, {"timed_out", timed_out}, {"limited", limited}, {"killed", killed},
    };
    begin();
    proxy_start();
    redis = redis_connect();
    RUN_PARTS(parts);
    redis_wait_clients(&redis, NULL, 0);
    redis_close(&redis);
    proxy_end();
    return 0;
}

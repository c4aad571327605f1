/*
 * A broker's own errors as codes: BROKERDOWN is ECONN, BROKERLOST ELOST, BROKERTIMEOUT ETIMEDOUT, BROKERLIMIT ELIMIT;
 * what Redis says stays a reply. And a broker that is killed and comes back.
 */
#include "loop.h"
#include "proxy.h"

#include <sys/resource.h>

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
    /* Of one with short replies the broker sends many requests at a time. */
    for (int i = 0; i < 40; i++)
        EXPECT(client, "0", "GET", "k");
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
    CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "m", "0"), NULL, BROKER_FOREVER, NULL, keep, &second), BROKER_OK);
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

/* ---- with BROKER_ESYS, errno says why ---- */

#define EXPECT_ESYS(call, number) \
    (errno = EDOM, CHECK_INT(call, BROKER_ESYS), CHECK_INT(errno, number))

static void unreadable(void)
{
    broker_config_t *config = broker_config_new();
    EXPECT_ESYS(broker_config_load(config, "/nonexistent/broker.toml"), ENOENT);
    EXPECT_ESYS(broker_config_load(config, "/proc"), EISDIR);
    CHECK_INT(broker_config_load(config, "/dev/zero"), BROKER_ECONFIG);
    CHECK(strstr(broker_config_error(config), "longer than 1 MiB") != NULL);
    CHECK_INT(broker_config_free(config), BROKER_OK);
}

static int new_loop_at(const char *listen_url)
{
    broker_loop_t *loop = NULL;
    broker_config_t *config = configure("upstream", "unix:///nonexistent", "listen", listen_url, (char *)NULL);
    int code = broker_loop_new(&loop, config, NULL, 0), number = errno;
    CHECK((code == BROKER_OK) == (loop != NULL));
    CHECK_INT(broker_config_free(config), BROKER_OK);
    CHECK_INT(broker_loop_free(loop), BROKER_OK);
    errno = number;
    return code;
}

static void taken(void)
{
    char url[PATH_SIZE + 8];
    broker_loop_t *loop = NULL;
    broker_config_t *config = configure("upstream", "unix:///nonexistent", "listen", "tcp://127.0.0.1:0", (char *)NULL);
    CHECK_INT(broker_loop_new(&loop, config, NULL, 0), BROKER_OK);
    CHECK_OK(broker_loop_endpoint(loop, 0, url, sizeof url));
    EXPECT_ESYS(new_loop_at(url), EADDRINUSE);
    /* A reload that fails says so, too, and changes nothing. */
    CHECK_INT(broker_config_set(config, "listen", "unix:///nonexistent/a.sock"), BROKER_OK);
    EXPECT_ESYS(broker_loop_reload(loop, config), 0);
    snprintf(url, sizeof url, "unix://%s", proxy.path);
    CHECK_INT(broker_config_set(config, "listen", url), BROKER_OK);
    EXPECT_ESYS(broker_loop_reload(loop, config), EADDRINUSE);
    EXPECT_ESYS(new_loop_at(url), EADDRINUSE);
    CHECK_INT(broker_config_free(config), BROKER_OK);
    CHECK_INT(broker_loop_free(loop), BROKER_OK);
}

static int new_client(void)
{
    broker_client_t *client = NULL;
    int code = broker_client_new(&client, proxy.endpoint, NULL, NULL, 0), number = errno;
    CHECK((code == BROKER_OK) == (client != NULL));
    CHECK_INT(broker_client_free(client), BROKER_OK);
    errno = number;
    return code;
}

/* How many descriptors there may be, from the lowest number on. */
static void allow_descriptors(rlim_t count)
{
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = count < limit.rlim_max ? count : limit.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static void no_descriptors(void)
{
    struct rlimit before;
    CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
    broker_client_t *client = open_client(proxy.endpoint, NULL);
    /* Answered, the proxy has what it needs: it is a thread of this process. */
    EXPECT(client, "+PONG", "PING");
    allow_descriptors(0);
    EXPECT_ESYS(new_client(), EMFILE);
    EXPECT_ESYS(new_loop_at("tcp://127.0.0.1:0"), EMFILE);
    allow_descriptors(before.rlim_cur);
    CHECK_INT(new_client(), BROKER_OK);

    pid_t pid = fork_or_fail();
    if (pid == 0) {
        CHECK(broker_client_error(client) == NULL);
        allow_descriptors(0);
        for (int i = 0; i < 2; i++) {
            EXPECT_ESYS(broker_client_after_fork(client), EMFILE);
            CHECK(strstr(broker_client_error(client), "Too many open files") != NULL);
        }
        CHECK_INT(broker_client_connected(client), BROKER_EFORKED);
        allow_descriptors(before.rlim_cur);
        CHECK_INT(broker_client_after_fork(client), BROKER_OK);
        EXPECT(client, "+PONG", "PING");
        close_client(client);
        end_child_of_threads();
    }
    wait_child(pid);
    close_client(client);
}

static void adopted(void)
{
    static const char *const settings[] = {"children_max", "2", NULL};
    broker_loop_t *loop = open_loop(NULL, settings);
    int first[2], second[2], third[2], file = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, first) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, second) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, third) == 0);
    CHECK_INT(broker_loop_adopt(loop, first[0]), BROKER_OK);
    CHECK_INT(broker_loop_adopt(loop, first[0]), BROKER_EINVAL);
    CHECK(strstr(broker_loop_error(loop), "already adopted") != NULL);
    CHECK_INT(broker_loop_adopt(loop, file), BROKER_EINVAL);
    CHECK_INT(broker_loop_adopt(loop, second[0]), BROKER_OK);
    CHECK_INT(broker_loop_adopt(loop, third[0]), BROKER_ELIMIT);
    CHECK(strstr(broker_loop_error(loop), "children_max") != NULL);
    /* Refused ones are the caller's still, and the child is as it was. */
    close(third[0]);
    close(file);
    broker_client_t *client = open_fd(first[1]);
    struct outcome outcome = {0};
    CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    while (outcome.calls == 0) {
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
        CHECK_OK(broker_client_process(client, 0));
    }
    CHECK_TEXT(outcome.text, "+PONG");
    close_client(client);
    close_loop(loop);
    close(second[1]);
    close(third[1]);
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
        {"down", down}, {"lost", lost}, {"timed_out", timed_out}, {"limited", limited}, {"killed", killed},
        {"unreadable", unreadable}, {"taken", taken}, {"no_descriptors", no_descriptors}, {"adopted", adopted},
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

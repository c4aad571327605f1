/*
 * What handles cost, as docs/costs.md says it. `memory` prints a line for each kind of thing: its name, how many
 * descriptors one of them has and how many bytes of heap. `calls`, `pipeline` and `own` make requests between two marks
 * on standard error, so that whoever traces system calls can count them.
 */
#include "check.h"

#include <malloc.h>

#define MANY 200
#define REQUESTS 1000
#define DEPTH 100
#define PATIENCE_MS 60000

static size_t heap_before;
static int fds_before;

static size_t heap(void)
{
    struct mallinfo2 info = mallinfo2();

    return info.uordblks + info.hblkhd;
}

static int open_fds(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int count = 0;

    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

static void look(void)
{
    heap_before = heap();
    fds_before = open_fds();
}

static void report(const char *what, int count)
{
    double fds = (double)(open_fds() - fds_before) / count;
    double bytes = ((double)heap() - (double)heap_before) / count;

    printf("%s|%.2f|%.0f\n", what, fds, bytes);
}

static void answered(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)client, (void)reply;
    CHECK(status == BROKER_OK || status == BROKER_ECANCELED); /* the last call of a subscription whose client ends */
    ++*(int *)data;
}

static void until(broker_client_t *client, const int *number, int wanted)
{
    while (*number < wanted)
        CHECK(broker_client_process(client, BROKER_FOREVER) >= 0);
}

static broker_client_t *client_of(const char *endpoint)
{
    broker_config_t *config = broker_config_new();
    broker_client_t *client;

    broker_config_set(config, "client_connections_max", "1000");
    broker_config_set(config, "client_connect_timeout", "60s");
    broker_config_set(config, "client_queue_timeout", "60s");
    CHECK_INT(broker_client_new(&client, endpoint, config, NULL, 0), BROKER_OK);
    broker_config_free(config);
    return client;
}

static void ping(broker_client_t *client)
{
    CHECK_INT(broker_client_call(client, BROKER_ARGV("PING"), PATIENCE_MS, NULL), BROKER_OK);
}

static broker_loop_t *loop_of(const char *redis)
{
    broker_config_t *config = broker_config_new();
    broker_loop_t *loop;

    broker_config_set(config, "connect_timeout", "60s");
    broker_config_set(config, "queue_timeout", "60s");
    CHECK_INT(broker_config_set(config, "upstream", redis), BROKER_OK);
    CHECK_INT(broker_loop_new(&loop, config, NULL, 0), BROKER_OK);
    broker_config_free(config);
    return loop;
}

static void clients(const char *endpoint)
{
    broker_client_t *first = client_of(endpoint), *some[MANY];
    int i, got = 0;

    ping(first); /* what is made once for the process */
    look();
    for (i = 0; i < MANY; i++)
        ping(some[i] = client_of(endpoint));
    report("a client", MANY);
    for (i = 0; i < MANY; i++)
        broker_client_free(some[i]);
    look();
    for (i = 0; i < MANY; i++) {
        CHECK_INT(broker_client_session(&some[i], first), BROKER_OK);
        ping(some[i]);
    }
    report("a session", MANY);
    look();
    for (i = 0; i < MANY; i++)
        CHECK_INT(broker_client_submit(first, BROKER_ARGV("BLPOP", "costs:none", "0"), BROKER_FOREVER, NULL, answered, &got),
                  BROKER_OK);
    ping(first);
    report("a blocking command that waits", MANY);
}

static void subscriptions(const char *endpoint)
{
    broker_client_t *client = client_of(endpoint);
    char name[32];
    int i, got = 0;

    ping(client);
    look();
    CHECK_OK(broker_client_subscribe(client, BROKER_CHANNEL, "first", 5, NULL, answered, &got));
    until(client, &got, 1);
    report("the first subscription of a client", 1);
    look();
    for (i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "costs:%d", i);
        CHECK_OK(broker_client_subscribe(client, BROKER_CHANNEL, name, strlen(name), NULL, answered, &got));
    }
    until(client, &got, 1 + MANY);
    report("each further subscription", MANY);
    look();
    for (i = 0; i < MANY * DEPTH; i++)
        CHECK_OK(broker_client_submit(client, BROKER_ARGV("GET", "k"), PATIENCE_MS, NULL, answered, &got));
    report("a request in progress", MANY * DEPTH);
    until(client, &got, 1 + MANY + MANY * DEPTH);
    broker_client_free(client);
}

static void loops(const char *redis)
{
    broker_loop_t *first = loop_of(redis), *some[MANY / 10];
    broker_client_t *client, *more;
    int i, pair[2];

    CHECK_INT(broker_loop_client(&client, first), BROKER_OK);
    ping(client);
    look();
    for (i = 0; i < MANY / 10; i++) {
        some[i] = loop_of(redis);
        CHECK_INT(broker_loop_client(&more, some[i]), BROKER_OK);
        ping(more);
    }
    report("a loop, with its connections to Redis and a client", MANY / 10);
    look();
    for (i = 0; i < MANY; i++) {
        CHECK_INT(broker_loop_client(&more, first), BROKER_OK);
        ping(more);
    }
    report("each further client of a loop", MANY);
    look();
    for (i = 0; i < MANY; i++) {
        CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        CHECK_INT(broker_loop_adopt(first, pair[0]), BROKER_OK);
        CHECK_INT(write(pair[1], "PING\r\n", 6), 6);
        ping(client);
    }
    /* The other end is somebody else's. */
    fds_before += MANY;
    report("a child of a loop", MANY);
}

static void mark(const char *what)
{
    CHECK(write(2, what, strlen(what)) > 0);
}

static void calls(broker_client_t *client)
{
    int i;

    ping(client);
    mark("begin");
    for (i = 0; i < REQUESTS; i++)
        ping(client);
    mark("end");
}

static void pipeline(broker_client_t *client)
{
    int i, got = 0;

    ping(client);
    mark("begin");
    while (got < REQUESTS) {
        for (i = 0; i < DEPTH; i++)
            CHECK_OK(broker_client_submit(client, BROKER_ARGV("PING"), PATIENCE_MS, NULL, answered, &got));
        until(client, &got, got + DEPTH - got % DEPTH);
    }
    mark("end");
}

int main(int argc, char **argv)
{
    const char *what = argc == 2 ? argv[1] : "", *endpoint = getenv("BROKER_TEST_ENDPOINT");
    broker_client_t *client;
    char redis[PATH_MAX];

    begin();
    snprintf(redis, sizeof redis, "unix://%s", getenv("BROKER_TEST_REDIS"));
    if (strcmp(what, "memory") == 0) {
        clients(endpoint);
        subscriptions(endpoint);
        loops(redis);
    } else if (strcmp(what, "calls") == 0) {
        calls(client_of(endpoint));
    } else if (strcmp(what, "pipeline") == 0) {
        pipeline(client_of(endpoint));
    } else {
        CHECK_INT(broker_loop_client(&client, loop_of(redis)), BROKER_OK);
        calls(client);
    }
    return 0;
}

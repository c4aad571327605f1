/*
 * A parent that embeds the broker's loop and forks workers: over socketpairs and over its listener, from inside a
 * callback, with requests of its own under way; killed, it leaves no connection to Redis behind although its workers
 * live.
 */
#include "loop.h"

enum { WORKERS = 4, REQUESTS = 500 };

static broker_loop_t *loop;
/* Descriptors of a process that has nothing of the library. */
static int at_first;

/* The inherited loop is only good to be closed. */
static void leave_the_loop(void)
{
    uint64_t value = 0;
    CHECK_INT(broker_loop_run(loop, BROKER_RUN_ONCE), BROKER_EFORKED);
    CHECK_INT(broker_loop_stat(loop, broker_loop_stat_name(0), &value), BROKER_EFORKED);
    CHECK_INT(broker_loop_run(loop, BROKER_RUN_ONCE), BROKER_EFORKED);
    CHECK_INT(broker_loop_stop(loop), BROKER_EFORKED);
    CHECK_INT(broker_loop_fd(loop), BROKER_EFORKED);
    CHECK_INT(broker_loop_timeout(loop), BROKER_EFORKED);
    broker_client_t *none;
    CHECK_INT(broker_loop_client(&none, loop), BROKER_EFORKED);
}

static void count_up(broker_client_t *client, const char *key, int requests)
{
    char expected[32];
    for (int i = 1; i <= requests; i++) {
        snprintf(expected, sizeof expected, ":%d", i);
        EXPECT(client, expected, "INCR", key);
    }
}

static void worker(int fd, int number, int requests)
{
    char key[32];
    leave_the_loop();
    close_loop(loop);
    broker_client_t *client = open_fd(fd);
    snprintf(key, sizeof key, "worker:%d", number);
    count_up(client, key, requests);
    EXPECT(client, ":1", "DEL", key);
    close_client(client);
    /* Descriptors of the loop, of the client: all gone. */
    CHECK_INT(count_descriptors(), at_first);
    end_child();
}

/* Runs the loop until the workers have ended well. */
static void serve_workers(int workers)
{
    while (workers > 0) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        CHECK(pid >= 0);
        if (pid > 0) {
            CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
            workers--;
            continue;
        }
        struct pollfd one = {broker_loop_fd(loop), POLLIN, 0};
        int timeout = broker_loop_timeout(loop);
        poll(&one, 1, timeout < 0 || timeout > 20 ? 20 : timeout);
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    }
}

static void over_pairs(void)
{
    loop = open_loop(NULL, NULL);
    for (int i = 0; i < WORKERS; i++) {
        int fd = adopt_pair(loop);
        pid_t pid = fork_or_fail();
        if (pid == 0)
            worker(fd, i, REQUESTS);
        close(fd);
        /* Some fork from a loop that has connections already. */
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    }
    serve_workers(WORKERS);
    close_loop(loop);
    CHECK_INT(count_descriptors(), at_first);
}

static int forked_inside;

static void forking(broker_client_t *same, int status, const broker_reply_t *reply, void *data)
{
    int *calls = data;
    CHECK(same == own(loop) && forked_inside == 0);
    CHECK_INT(status, BROKER_OK);
    CHECK_INT(broker_reply_integer(reply), ++*calls);
    if (*calls % 10 != 5)
        return;
    pid_t pid = fork_or_fail();
    if (pid != 0) {
        wait_child(pid);
        return;
    }
    forked_inside = *calls;
    CHECK_INT(broker_loop_run(loop, BROKER_RUN_ONCE), BROKER_EFORKED);
    if (*calls == 15)
        CHECK_INT(broker_loop_free(loop), BROKER_EREENTRANT);
}

/* A child that is forked in a callback of the loop: the callback returns in it, and nothing more is called. */
static void in_callback(void)
{
    int calls = 0;
    loop = open_loop(NULL, NULL);
    for (int i = 0; i < 30; i++)
        CHECK_INT(broker_client_submit(own(loop), ARGV("INCR", "own"), NULL, BROKER_FOREVER, NULL, forking, &calls), BROKER_OK);
    while (calls < 30) {
        int code = broker_loop_run(loop, BROKER_RUN_ONCE);
        if (forked_inside == 0) {
            CHECK_OK(code);
            continue;
        }
        CHECK_INT(code, BROKER_EFORKED);
        CHECK_INT(broker_loop_free(loop), BROKER_OK);
        CHECK_INT(count_descriptors(), at_first);
        end_child();
    }
    struct outcome deleted = {0};
    CHECK_INT(broker_client_submit(own(loop), ARGV("DEL", "own"), NULL, BROKER_FOREVER, NULL, keep, &deleted), BROKER_OK);
    EXPECT_OWN(loop, &deleted, ":1");
    close_loop(loop);
}

/* Requests of the parent's own and a pop are under way while workers are forked and killed. */
static void in_flight(void)
{
    struct outcome outcomes[100] = {{0}}, popped = {0}, pushed = {0};
    loop = open_loop(NULL, NULL);
    CHECK_INT(broker_client_submit(own(loop), ARGV("BLPOP", "list", "0"), NULL, BROKER_FOREVER, NULL, keep, &popped), BROKER_OK);
    for (int i = 0; i < 100; i++) {
        CHECK_INT(broker_client_submit(own(loop), ARGV("ECHO", "own"), NULL, BROKER_FOREVER, NULL, keep, &outcomes[i]), BROKER_OK);
        if (i % 25 != 10)
            continue;
        int fd = adopt_pair(loop);
        pid_t pid = fork_or_fail();
        if (pid == 0)
            worker(fd, i, 10);
        close(fd);
        if (i == 60)
            kill_child(pid);
        else
            serve_workers(1);
    }
    for (int i = 0; i < 100; i++)
        EXPECT_OWN(loop, &outcomes[i], "own");
    CHECK_INT(popped.calls, 0);
    CHECK_INT(broker_client_submit(own(loop), ARGV("RPUSH", "list", "x"), NULL, BROKER_FOREVER, NULL, keep, &pushed), BROKER_OK);
    EXPECT_OWN(loop, &popped, "[list x]");
    EXPECT_OWN(loop, &pushed, ":1");
    close_loop(loop);
}

/* The parent's connections end with the parent, its workers notwithstanding: they get an error, no reply of others. */
static void killed(void)
{
    struct redis redis = redis_connect();
    struct gate ready, over;
    char endpoint[PATH_SIZE + 8], path[PATH_SIZE];
    private_path(path, "killed.sock");
    snprintf(endpoint, sizeof endpoint, "unix://%s", path);
    gate_make(&ready);
    gate_make(&over);
    redis_wait_clients(&redis, NULL, 0);
    pid_t parent = fork_or_fail();
    if (parent == 0) {
        loop = open_loop("killed.sock", NULL);
        for (int i = 0; i < WORKERS; i++) {
            int fd = i % 2 == 0 ? adopt_pair(loop) : -1;
            if (fork_or_fail() != 0) {
                if (fd >= 0)
                    close(fd);
                continue;
            }
            broker_client_t *client = fd >= 0 ? open_fd(fd) : open_client(endpoint, NULL);
            EXPECT(client, "+PONG", "PING");
            struct outcome popped = {0};
            CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "none", "0"), NULL, BROKER_FOREVER, NULL, keep, &popped), BROKER_OK);
            gate_open(&ready);
            wait_outcome(client, &popped);
            CHECK(popped.status == BROKER_ELOST || popped.status == BROKER_ECONN);
            gate_open(&ready);
            gate_wait(&over);
            close_client(client);
            _exit(0);
        }
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_DEFAULT));
        _exit(1);
    }
    for (int i = 0; i < WORKERS; i++)
        gate_wait(&ready);
    while (redis_info(&redis, "clients", "blocked_clients") < WORKERS)
        pause_a_little();
    kill_child(parent);
    /* All workers have heard of it and live. */
    for (int i = 0; i < WORKERS; i++)
        gate_wait(&ready);
    redis_wait_clients(&redis, NULL, 0);
    for (int i = 0; i < WORKERS; i++)
        gate_open(&over);
    gate_close(&ready);
    gate_close(&over);
    redis_close(&redis);
    unlink(path);
}

/* A descriptor that is adopted a second time, which is refused, is closed in a copy all the same. */
static void adopted_twice(void)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    loop = open_loop(NULL, NULL);
    CHECK_INT(broker_loop_adopt(loop, ends[0]), BROKER_OK);
    CHECK(broker_loop_adopt(loop, ends[0]) < 0);
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        CHECK_INT(fcntl(ends[0], F_GETFD), -1);
        close(ends[1]);
        close_loop(loop);
        end_child();
    }
    wait_child(pid);
    close_loop(loop);
    close(ends[1]);
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
        {"over_pairs", over_pairs}, {"in_callback", in_callback}, {"in_flight", in_flight}, {"killed", killed},
        {"adopted_twice", adopted_twice}};
    begin();
    at_first = count_descriptors();
    RUN_PARTS(parts);
    return 0;
}

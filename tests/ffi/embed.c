/*
 * The broker's loop inside this program: what it leaves alone, how it is run, stopped, drained and reloaded, requests
 * of its own, numbers, adopted sockets, and beside other work in a foreign loop.
 */
#include "loop.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/resource.h>

static struct redis redis;

/* ---- what the library leaves alone ---- */

/* What the kernel says of this process: threads, signals blocked, ignored and caught, umask; and its limits. */
static void describe_process(char *buf, size_t size)
{
    static const char *const fields[] = {"Threads:", "SigBlk:", "SigIgn:", "SigCgt:", "Umask:"};
    char line[256];
    size_t len = 0;
    FILE *status = fopen("/proc/self/status", "re");
    CHECK(status != NULL);
    while (fgets(line, sizeof line, status) != NULL)
        for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
            if (strncmp(line, fields[i], strlen(fields[i])) == 0)
                len += (size_t)snprintf(buf + len, size - len, "%s", line);
    fclose(status);
    for (int i = 0; i < RLIM_NLIMITS; i++) {
        struct rlimit limit;
        CHECK(getrlimit((__rlimit_resource_t)i, &limit) == 0);
        len += (size_t)snprintf(buf + len, size - len, "%d: %" PRIu64 " %" PRIu64 "\n", i, (uint64_t)limit.rlim_cur,
                                (uint64_t)limit.rlim_max);
    }
    CHECK(len + 1 < size);
}

/* Nothing that belongs to the program is touched, while handles live and after; not even by a broken connection. */
static void leaves_the_program_alone(void)
{
    char before[2048], during[2048], after[2048];
    describe_process(before, sizeof before);
    int descriptors = count_descriptors(), were_open[256];
    for (int fd = 3; fd < 256; fd++)
        were_open[fd] = fcntl(fd, F_GETFD) >= 0;
    broker_loop_t *loop = open_loop("alone.sock", NULL);
    struct outcome outcome = {0};
    broker_client_t *client = open_fd(adopt_pair(loop));
    CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    while (outcome.calls == 0) {
        CHECK_OK(broker_client_process(client, 0));
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    }
    describe_process(during, sizeof during);
    CHECK_TEXT(during, before);
    /* Every descriptor is close-on-exec. */
    for (int fd = 3; fd < 256; fd++)
        CHECK(were_open[fd] || fcntl(fd, F_GETFD) < 0 || (fcntl(fd, F_GETFD) & FD_CLOEXEC));
    /* The other side goes away with something on its way: no SIGPIPE. */
    close_loop(loop);
    CHECK_INT(broker_client_call(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL) < 0, 1);
    close_client(client);
    describe_process(after, sizeof after);
    CHECK_TEXT(after, before);
    CHECK_INT(count_descriptors(), descriptors);
}

/* ---- running and stopping ---- */

static broker_loop_t *stopped_loop;

static void stop_in_handler(int number)
{
    (void)number;
    errno = 12345;
    if (broker_loop_stop(stopped_loop) != BROKER_OK || errno != 12345)
        _exit(3);
}

static void *stop_in_thread(void *data)
{
    CHECK_INT(broker_loop_stop(data), BROKER_OK);
    return NULL;
}

static void stopping(void)
{
    broker_loop_t *loop = open_loop(NULL, NULL);
    pthread_t thread;
    stopped_loop = loop;
    /* Before it runs: the next run is one turn. */
    CHECK_INT(broker_loop_stop(loop), BROKER_OK);
    CHECK_INT(broker_loop_run(loop, BROKER_RUN_DEFAULT), 1);
    /* From a signal handler, while it waits. */
    struct sigaction action = {0}, before;
    action.sa_handler = stop_in_handler;
    CHECK(sigaction(SIGUSR1, &action, &before) == 0);
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        for (int i = 0; i < 5; i++) {
            pause_a_little();
            kill(getppid(), SIGUSR1);
        }
        _exit(0);
    }
    CHECK_INT(broker_loop_run(loop, BROKER_RUN_DEFAULT), 1);
    wait_child(pid);
    CHECK(sigaction(SIGUSR1, &before, NULL) == 0);
    CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    /* From a thread, many times. */
    for (int i = 0; i < 200; i++) {
        CHECK_INT(pthread_create(&thread, NULL, stop_in_thread, loop), 0);
        CHECK_INT(broker_loop_run(loop, BROKER_RUN_DEFAULT), 1);
        CHECK_INT(pthread_join(thread, NULL), 0);
    }
    CHECK_INT(broker_loop_run(loop, 3), BROKER_EINVAL);
    CHECK_INT(broker_loop_run(loop, -1), BROKER_EINVAL);
    close_loop(loop);
}

/* ---- requests of its own ---- */

static void own_requests(void)
{
    broker_loop_t *loop = open_loop(NULL, NULL);
    struct outcome outcomes[300] = {{0}}, executed = {0}, failed = {0}, never = {0};
    broker_transaction_t *block = broker_transaction_new();
    CHECK_TEXT(redis_ask(&redis, "DEL own"), ":0");
    for (int i = 0; i < 300; i++)
        CHECK_INT(broker_client_submit(own(loop), ARGV("INCR", "own"), NULL, BROKER_FOREVER, NULL, keep, &outcomes[i]), BROKER_OK);
    for (int i = 0; i < 300; i++) {
        char expected[16];
        snprintf(expected, sizeof expected, ":%d", i + 1);
        EXPECT_OWN(loop, &outcomes[i], expected);
    }
    CHECK_INT(broker_client_submit_transaction(own(loop), block, BROKER_FOREVER, NULL, keep, &never), BROKER_EINVAL);
    CHECK_INT(broker_transaction_add(block, ARGV("INCR", "own"), NULL), BROKER_OK);
    CHECK_INT(broker_transaction_add(block, ARGV("GET", "own"), NULL), BROKER_OK);
    CHECK_INT(broker_client_submit_transaction(own(loop), block, BROKER_FOREVER, NULL, keep, &executed), BROKER_OK);
    CHECK_INT(broker_transaction_free(block), BROKER_OK);
    EXPECT_OWN(loop, &executed, "[:301 301]");
    CHECK_INT(broker_client_submit(own(loop), ARGV("LPUSH", "own", "x"), NULL, BROKER_FOREVER, NULL, keep, &failed), BROKER_OK);
    EXPECT_OWN(loop, &failed, "-WRONGTYPE Operation against a key holding the wrong kind of value");
    CHECK_INT(broker_client_submit(own(loop), ARGV("MULTI"), NULL, BROKER_FOREVER, NULL, keep, &never), BROKER_EUNSUPPORTED);
    CHECK(strlen(broker_client_error(own(loop))) > 0);
    CHECK_INT(broker_client_submit(own(loop), ARGV("SUBSCRIBE", "c"), NULL, BROKER_FOREVER, NULL, keep, &never), BROKER_EUNSUPPORTED);
    CHECK_INT(broker_client_submit(own(loop), ARGV("PING"), NULL, BROKER_FOREVER, NULL, NULL, NULL), BROKER_EINVAL);
    CHECK_INT(broker_client_submit(own(loop), 0, NULL, NULL, BROKER_FOREVER, NULL, keep, &never), BROKER_EINVAL);
    CHECK_TEXT(redis_ask(&redis, "DEL own"), ":1");
    CHECK_INT(never.calls, 0);
    close_loop(loop);
}

static void canceled(void)
{
    broker_loop_t *loop = open_loop(NULL, NULL);
    struct outcome unsent = {0}, popped = {0}, timed = {0}, late = {0}, pending = {0};
    broker_req_t req = 0;
    CHECK_INT(broker_client_submit(own(loop), ARGV("INCR", "own"), NULL, BROKER_FOREVER, &req, keep, &unsent), BROKER_OK);
    CHECK_INT(broker_client_cancel(own(loop), req), BROKER_OK);
    CHECK_INT(broker_client_cancel(own(loop), req), BROKER_ESTATE);
    EXPECT_OWN_CODE(loop, &unsent, BROKER_ECANCELED);
    CHECK_TEXT(redis_ask(&redis, "GET own"), "(nil)");
    CHECK_INT(broker_client_submit(own(loop), ARGV("BLPOP", "list", "0"), NULL, BROKER_FOREVER, &req, keep, &popped), BROKER_OK);
    CHECK_INT(broker_client_submit(own(loop), ARGV("BLPOP", "list", "0"), NULL, 30, NULL, keep, &timed), BROKER_OK);
    EXPECT_OWN_CODE(loop, &timed, BROKER_ETIMEDOUT);
    while (redis_info(&redis, "clients", "blocked_clients") != 1)
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    CHECK_INT(broker_client_cancel(own(loop), req), BROKER_OK);
    EXPECT_OWN_CODE(loop, &popped, BROKER_ECANCELED);
    while (redis_info(&redis, "clients", "blocked_clients") > 0)
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    CHECK_TEXT(redis_ask(&redis, "RPUSH list x"), ":1");
    CHECK_INT(broker_client_submit(own(loop), ARGV("LPOP", "list"), NULL, BROKER_FOREVER, NULL, keep, &late), BROKER_OK);
    EXPECT_OWN(loop, &late, "x");
    /* What is pending when it is closed ends before that returns. */
    CHECK_INT(broker_client_submit(own(loop), ARGV("BLPOP", "list", "0"), NULL, BROKER_FOREVER, NULL, keep, &pending), BROKER_OK);
    CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    close_loop(loop);
    CHECK_INT(pending.calls, 1);
    CHECK_INT(pending.status, BROKER_ECANCELED);
}

/* A Redis that takes its time to be there loses none of the loop's own requests within queue_timeout. */
static void slow_upstream(void)
{
    broker_loop_t *loop = open_loop(NULL, NULL);
    struct outcome outcome = {0};
    pid_t pid = (pid_t)redis_info(&redis, "server", "process_id");
    CHECK(kill(pid, SIGSTOP) == 0);
    CHECK_INT(broker_client_submit(own(loop), ARGV("ECHO", "late"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    /* Longer than a client of default settings would wait. */
    for (long long start = now_ms(); now_ms() < start + 1300;) {
        wait_readable(broker_loop_fd(loop), 20);
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    }
    CHECK_INT(outcome.calls, 0);
    CHECK(kill(pid, SIGCONT) == 0);
    EXPECT_OWN(loop, &outcome, "late");
    close_loop(loop);
}

struct chain {
    broker_loop_t *loop;
    int left, ran;
};

static void next_in_chain(broker_client_t *own, int status, const broker_reply_t *reply, void *data)
{
    struct chain *chain = data;
    CHECK_INT(status, BROKER_OK);
    CHECK(reply != NULL);
    chain->ran++;
    CHECK_INT(broker_loop_run(chain->loop, BROKER_RUN_NOWAIT), BROKER_EREENTRANT);
    CHECK_INT(broker_loop_free(chain->loop), BROKER_EREENTRANT);
    if (chain->left-- > 0)
        CHECK_INT(broker_client_submit(own, ARGV("PING"), NULL, BROKER_FOREVER, NULL, next_in_chain, chain), BROKER_OK);
}

/* In a foreign epoll: the descriptor and the timeout are all there is, and suffice. */
static void in_a_foreign_loop(void)
{
    broker_loop_t *loop = open_loop(NULL, NULL);
    broker_client_t *client = open_fd(adopt_pair(loop));
    struct chain chain = {loop, 500, 0};
    struct outcome outcomes[200] = {{0}};
    int poll_fd = epoll_create1(EPOLL_CLOEXEC), done = 0;
    struct epoll_event of_loop = {EPOLLIN, {.u32 = 1}}, of_client = {EPOLLIN, {.u32 = 2}}, events[4];
    CHECK(epoll_ctl(poll_fd, EPOLL_CTL_ADD, broker_loop_fd(loop), &of_loop) == 0);
    CHECK(epoll_ctl(poll_fd, EPOLL_CTL_ADD, broker_client_fd(client), &of_client) == 0);
    CHECK_INT(broker_client_submit(own(loop), ARGV("PING"), NULL, BROKER_FOREVER, NULL, next_in_chain, &chain), BROKER_OK);
    for (int i = 0; i < 200; i++)
        CHECK_INT(broker_client_submit(client, ARGV("ECHO", "x"), NULL, BROKER_FOREVER, NULL, keep, &outcomes[i]), BROKER_OK);
    while (!done) {
        int first = broker_loop_timeout(loop), second = broker_client_timeout(client);
        int timeout = first < 0 ? second : second < 0 || first < second ? first : second;
        int count = epoll_wait(poll_fd, events, 4, timeout);
        CHECK(count >= 0);
        for (int i = 0; i < count || count == 0; i++) {
            if (count == 0 || events[i].data.u32 == 1)
                CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
            if (count == 0 || events[i].data.u32 == 2)
                CHECK_OK(broker_client_process(client, 0));
            if (count == 0)
                break;
        }
        done = chain.ran == 501;
        for (int i = 0; i < 200; i++)
            done = done && outcomes[i].calls == 1;
    }
    close(poll_fd);
    close_client(client);
    close_loop(loop);
}

/* ---- draining, reloading ---- */

static void draining(void)
{
    broker_loop_t *loop = open_loop("drain.sock", NULL);
    struct outcome mine = {0}, of_client = {0}, refused = {0};
    broker_client_t *client = open_fd(adopt_pair(loop));
    char endpoint[PATH_SIZE + 8];
    int fd, code;
    CHECK(broker_loop_endpoint(loop, 0, endpoint, sizeof endpoint) > 7);
    CHECK_INT(broker_loop_endpoint(loop, 1, endpoint, sizeof endpoint), BROKER_EINVAL);
    CHECK(access(endpoint + 7, F_OK) == 0);
    CHECK_INT(broker_client_submit(client, ARGV("ECHO", "child"), NULL, BROKER_FOREVER, NULL, keep, &of_client), BROKER_OK);
    while (of_client.calls == 0) {
        CHECK_OK(broker_client_process(client, 0));
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    }
    CHECK_INT(broker_client_submit(own(loop), ARGV("ECHO", "own"), NULL, BROKER_FOREVER, NULL, keep, &mine), BROKER_OK);
    CHECK_INT(broker_loop_drain(loop, 1000), BROKER_OK);
    CHECK_INT(broker_client_submit(own(loop), ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &refused), BROKER_ESTATE);
    broker_config_t *config = configure("upstream", "redis://127.0.0.1:1", (char *)NULL);
    CHECK_INT(broker_loop_reload(loop, config), BROKER_ESTATE);
    CHECK_INT(broker_config_free(config), BROKER_OK);
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    CHECK_INT(broker_loop_adopt(loop, ends[0]), BROKER_ESTATE);
    close(ends[0]);
    close(ends[1]);
    while ((code = broker_loop_run(loop, BROKER_RUN_ONCE)) > 0)
        CHECK_OK(broker_client_process(client, 0));
    CHECK_INT(code, 0);
    CHECK_INT(mine.calls, 1);
    CHECK_TEXT(mine.text, "own");
    CHECK_INT(refused.calls, 0);
    CHECK(access(endpoint + 7, F_OK) != 0);
    fd = broker_loop_fd(loop);
    CHECK(fd >= 0);
    CHECK_INT(broker_loop_run(loop, BROKER_RUN_DEFAULT), 0);
    close_loop(loop);
    close_client(client);
}

/* A loop that is through with draining leaves nobody without an outcome. */
static void drained_under_way(void)
{
    broker_loop_t *loop = open_loop(NULL, NULL);
    struct outcome popped = {0}, ping = {0};
    CHECK_INT(broker_client_submit(own(loop), ARGV("BLPOP", "list", "0"), NULL, BROKER_FOREVER, NULL, keep, &popped), BROKER_OK);
    while (redis_info(&redis, "clients", "blocked_clients") == 0)
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    CHECK_INT(broker_client_submit(own(loop), ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &ping), BROKER_OK);
    CHECK_INT(broker_loop_drain(loop, 50), BROKER_OK);
    CHECK_INT(broker_loop_run(loop, BROKER_RUN_DEFAULT), 0);
    CHECK_INT(ping.calls, 1);
    CHECK_TEXT(ping.text, "+PONG");
    CHECK_INT(popped.calls, 1);
    CHECK_INT(popped.status, BROKER_ELOST);
    close_loop(loop);
    /* Nor does one whose Redis never came. */
    static const char *const settings[] = {"upstream", "unix:///nonexistent/redis.sock", "queue_timeout", "50ms", NULL};
    struct outcome lost = {0};
    loop = open_loop(NULL, settings);
    CHECK_INT(broker_client_submit(own(loop), ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &lost), BROKER_OK);
    CHECK_INT(broker_loop_drain(loop, 50), BROKER_OK);
    CHECK_INT(broker_loop_run(loop, BROKER_RUN_DEFAULT), 0);
    CHECK_INT(lost.calls, 1);
    CHECK(lost.status == BROKER_ECONN || lost.status == BROKER_OK);
    close_loop(loop);
}

static void reloading(void)
{
    char upstream[PATH_SIZE + 8], path[PATH_SIZE], listen_url[PATH_SIZE + 8], other[2 * PATH_SIZE + 32];
    broker_loop_t *loop = open_loop("reload.sock", NULL);
    struct outcome outcome = {0};
    snprintf(upstream, sizeof upstream, "unix://%s", setting("BROKER_TEST_REDIS"));
    private_path(path, "reload.sock");
    snprintf(listen_url, sizeof listen_url, "unix://%s", path);
    broker_config_t *config = configure("upstream", upstream, "listen", listen_url, "child_in_flight_max", "7", (char *)NULL);
    broker_client_t *client = open_client(listen_url, NULL);
    CHECK_INT(broker_loop_reload(loop, config), BROKER_OK);
    CHECK_INT(broker_client_submit(client, ARGV("ECHO", "x"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    while (outcome.calls == 0) {
        CHECK_OK(broker_client_process(client, 0));
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    }
    /* A second listener comes, then goes; connections stay. */
    snprintf(other, sizeof other, "%s,unix://%s.other", listen_url, path);
    int code = broker_config_set(config, "listen", other);
    if (code == BROKER_OK) {
        CHECK_INT(broker_loop_reload(loop, config), BROKER_OK);
        char endpoint[PATH_SIZE + 16];
        CHECK_OK(broker_loop_endpoint(loop, 1, endpoint, sizeof endpoint));
        CHECK(access(endpoint + 7, F_OK) == 0);
        CHECK_INT(broker_config_set(config, "listen", listen_url), BROKER_OK);
        CHECK_INT(broker_loop_reload(loop, config), BROKER_OK);
        CHECK(access(endpoint + 7, F_OK) != 0);
    }
    CHECK_INT(broker_config_set(config, "upstream", NULL), BROKER_OK);
    CHECK_INT(broker_loop_reload(loop, config), BROKER_ECONFIG);
    CHECK(strlen(broker_loop_error(loop)) > 0);
    CHECK_INT(broker_loop_reload(loop, NULL), BROKER_EINVAL);
    CHECK_INT(broker_config_free(config), BROKER_OK);
    CHECK_INT(broker_loop_reload(loop, config), BROKER_ESTATE);
    struct outcome still = {0};
    CHECK_INT(broker_client_submit(client, ARGV("ECHO", "y"), NULL, BROKER_FOREVER, NULL, keep, &still), BROKER_OK);
    while (still.calls == 0) {
        CHECK_OK(broker_client_process(client, 0));
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    }
    CHECK_TEXT(still.text, "y");
    close_client(client);
    close_loop(loop);
}

/* ---- numbers and adopted sockets ---- */

static void numbers(void)
{
    broker_loop_t *loop = open_loop(NULL, NULL);
    struct outcome outcome = {0};
    uint64_t value = 1;
    size_t count = 0;
    const char *name;
    while ((name = broker_loop_stat_name(count)) != NULL) {
        CHECK(strlen(name) > 0);
        stat_of(loop, name);
        for (size_t i = 0; i < count; i++)
            CHECK(strcmp(broker_loop_stat_name(i), name) != 0);
        count++;
    }
    CHECK(count > 0);
    CHECK(broker_loop_stat_name(SIZE_MAX) == NULL);
    CHECK_INT(broker_loop_stat(loop, "no_such_number", &value), BROKER_EINVAL);
    CHECK_INT(broker_loop_stat(loop, "\xff", &value), BROKER_EINVAL);
    CHECK_INT(broker_loop_stat(loop, broker_loop_stat_name(0), NULL), BROKER_EINVAL);
    CHECK_INT(broker_loop_stat(loop, NULL, &value), BROKER_EINVAL);
    CHECK_INT(value, 1);
    CHECK_INT(broker_client_submit(own(loop), ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    EXPECT_OWN(loop, &outcome, "+PONG");
    close_loop(loop);
}

static void adopted(void)
{
    static const char *const few[] = {"children_max", "2", NULL};
    broker_loop_t *loop = open_loop(NULL, few);
    int ends[2], pipe_ends[2], first, second;
    CHECK_INT(broker_loop_adopt(loop, -1), BROKER_EINVAL);
    CHECK_INT(broker_loop_adopt(loop, 999), BROKER_EINVAL);
    CHECK(pipe(pipe_ends) == 0);
    CHECK_INT(broker_loop_adopt(loop, pipe_ends[0]), BROKER_EINVAL);
    CHECK(close(pipe_ends[0]) == 0 && close(pipe_ends[1]) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0);
    CHECK_INT(broker_loop_adopt(loop, ends[0]), BROKER_EINVAL);
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
    int unconnected = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_INT(broker_loop_adopt(loop, unconnected), BROKER_EINVAL);
    CHECK(close(unconnected) == 0);
    first = adopt_pair(loop);
    second = adopt_pair(loop);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    CHECK_INT(broker_loop_adopt(loop, ends[0]), BROKER_ELIMIT);
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
    /* Raw bytes in, raw bytes out: it is a child as any. */
    CHECK_INT(write(first, "PING\r\n", 6), 6);
    while (!bytes_to_read(first))
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_ONCE));
    char reply[16];
    CHECK_INT(read(first, reply, sizeof reply), 7);
    CHECK(memcmp(reply, "+PONG\r\n", 7) == 0);
    /* One that is left makes room. */
    close(second);
    int third = -1;
    while (third < 0) {
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
        if (broker_loop_adopt(loop, ends[0]) == BROKER_OK)
            third = ends[1];
        else
            close(ends[0]), close(ends[1]);
    }
    close(third);
    close_loop(loop);
    /* Closed by its owner: the other side is told. */
    CHECK_INT(read(first, reply, sizeof reply), 0);
    close(first);
}

/* Two loops and many clients of both in one process: nothing of one reaches the other. */
static void two_loops(void)
{
    broker_loop_t *loops[2] = {open_loop(NULL, NULL), open_loop(NULL, NULL)};
    broker_client_t *clients[8];
    struct outcome outcomes[8][50];
    int left = 8 * 50;
    memset(outcomes, 0, sizeof outcomes);
    for (int i = 0; i < 8; i++) {
        clients[i] = open_fd(adopt_pair(loops[i % 2]));
        for (int j = 0; j < 50; j++) {
            char word[32];
            snprintf(word, sizeof word, "%d-%d", i, j);
            CHECK_INT(broker_client_submit(clients[i], ARGV("ECHO", word), NULL, BROKER_FOREVER, NULL, keep, &outcomes[i][j]), BROKER_OK);
        }
    }
    while (left > 0) {
        CHECK_OK(broker_loop_run(loops[0], BROKER_RUN_NOWAIT));
        CHECK_OK(broker_loop_run(loops[1], BROKER_RUN_NOWAIT));
        left = 0;
        for (int i = 0; i < 8; i++) {
            CHECK_OK(broker_client_process(clients[i], 0));
            for (int j = 0; j < 50; j++)
                left += outcomes[i][j].calls == 0;
        }
    }
    for (int i = 0; i < 8; i++) {
        for (int j = 0; j < 50; j++) {
            char word[32];
            snprintf(word, sizeof word, "%d-%d", i, j);
            CHECK_TEXT(outcomes[i][j].text, word);
        }
        close_client(clients[i]);
    }
    close_loop(loops[1]);
    close_loop(loops[0]);
}

/* What cannot be: each says which key and why, and nothing is left. */
static void refused_settings(void)
{
    static const char *const settings[][2] = {{"listen", "unix:///nonexistent/directory/b.sock"},
                                              {"listen", "unix:///"},
                                              {"upstream_password_file", "/nonexistent/password"}};
    int descriptors = count_descriptors();
    char upstream[PATH_SIZE + 8];
    snprintf(upstream, sizeof upstream, "unix://%s", setting("BROKER_TEST_REDIS"));
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        broker_loop_t *loop = (broker_loop_t *)&loop;
        char words[256] = "";
        broker_config_t *config = configure("upstream", upstream, (char *)NULL);
        int code = broker_config_set(config, settings[i][0], settings[i][1]);
        if (code == BROKER_OK) {
            code = broker_loop_new(&loop, config, words, sizeof words);
            CHECK(loop == NULL && words[0] != '\0');
        }
        CHECK(code == BROKER_ECONFIG || code == BROKER_ESYS);
        CHECK_INT(broker_config_free(config), BROKER_OK);
    }
    CHECK_INT(count_descriptors(), descriptors);
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
        {"leaves_the_program_alone", leaves_the_program_alone},
        {"stopping", stopping},
        {"own_requests", own_requests},
        {"canceled", canceled},
        {"slow_upstream", slow_upstream},
        {"in_a_foreign_loop", in_a_foreign_loop},
        {"draining", draining},
        {"drained_under_way", drained_under_way},
        {"reloading", reloading},
        {"numbers", numbers},
        {"adopted", adopted},
        {"two_loops", two_loops},
        {"refused_settings", refused_settings},
    };
    begin();
    redis = redis_connect();
    RUN_PARTS(parts);
    redis_wait_clients(&redis, NULL, 0);
    redis_close(&redis);
    return 0;
}

/*
 * A pre-forked server: the parent embeds the broker and manages all connections, the children send requests.
 * Each worker has one end of a socketpair and the broker the other, so no path on disk is needed. A worker that
 * dies is replaced, and the new one continues where it was.
 *
 *     prefork REDIS_URL [REQUESTS [KILL_EVERY_MS]]
 *
 * 8 workers send REQUESTS (default 100000), and check every reply with a text that is used only once. Every
 * KILL_EVERY_MS (default 1000) one of them is killed. Exits with 0 only if every reply was right and
 * Redis never counted more connections than the broker's cap; no other program should use this Redis.
 */
#define _GNU_SOURCE

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <broker.h>

#define WORKERS 8
#define CAP 8
/* How long a reply may take, even the first one on a busy machine; milliseconds. */
#define PATIENCE 15000
/* How often the parent checks Redis and its workers; milliseconds. */
#define LOOK_EVERY 20

#define TEXT(number) TEXT_OF(number)
#define TEXT_OF(number) #number
/* In shared memory that outlives a worker; written only by its worker. */
struct progress {
    volatile unsigned long requests, mismatches;
};

static broker_config_t *config; /* for the broker and, with the keys that begin with "client_", for the workers */
static broker_loop_t *loop;
static broker_client_t *own_requests; /* for the parent's requests, over the same connections */
static struct progress *progress;
static pid_t workers[WORKERS]; /* 0: has finished */
static unsigned long total = 100000, restarts, failures;
static long long connections_max;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "prefork: %s: %s\n", what, why);
    exit(1);
}

/* Sends one request and checks its reply: `wanted`, or nil if that is NULL. */
static void ask(broker_client_t *client, struct progress *own, size_t argc, const char *const *argv,
                const size_t *argvlen, const char *wanted)
{
    broker_reply_t *reply = NULL;
    int code = broker_client_call(client, argc, argv, argvlen, PATIENCE, &reply);
    const char *got = broker_reply_string(reply, NULL);

    if (code != BROKER_OK)
        fail("worker", broker_strerror(code));
    if (wanted == NULL ? broker_reply_type(reply) != BROKER_REPLY_NIL : !got || strcmp(got, wanted) != 0)
        own->mismatches++;
    own->requests++;
    broker_reply_free(reply);
}

/* A worker: an ordinary client, at the end of a socketpair instead of a path. */
static void work(int fd, struct progress *own, unsigned long part)
{
    char endpoint[32], key[64], before[128], value[128], error[256];
    broker_client_t *client;
    unsigned long n;

    snprintf(endpoint, sizeof endpoint, "fd://%d", fd);
    if (broker_client_new(&client, endpoint, config, error, sizeof error) != BROKER_OK)
        fail(endpoint, error);
    snprintf(key, sizeof key, "prefork:%ld", (long)getpid());
    for (n = 0; own->requests < part; n++) {
        snprintf(value, sizeof value, "%s:%lu", key, n);
        ask(client, own, BROKER_ARGV("SET", key, value, "EX", "60", "GET"), n > 0 ? before : NULL);
        if (own->requests < part)
            ask(client, own, BROKER_ARGV("GET", key), value);
        memcpy(before, value, sizeof value);
    }
    broker_client_free(client);
    exit(0);
}

static void start(int i)
{
    unsigned long part = total / WORKERS + ((unsigned long)i < total % WORKERS);
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        fail("worker", "no socketpair");
    workers[i] = fork();
    if (workers[i] == 0) {
        /* fork() itself has closed the loop's descriptors here. Freeing the handles only frees memory. */
        broker_client_free(own_requests);
        broker_loop_free(loop);
        close(ends[0]);
        work(ends[1], &progress[i], part);
    }
    close(ends[1]);
    if (workers[i] < 0 || broker_loop_adopt(loop, ends[0]) != BROKER_OK)
        fail("worker", "cannot be started");
}

/* Replaces workers that were killed. One that exited with an error has printed it: another would fail too. */
static int running(void)
{
    int i, status, count = 0;

    for (i = 0; i < WORKERS; i++) {
        if (workers[i] != 0 && waitpid(workers[i], &status, WNOHANG) == workers[i]) {
            workers[i] = 0;
            failures += WIFEXITED(status) && WEXITSTATUS(status) != 0;
            restarts += WIFSIGNALED(status);
            if (WIFSIGNALED(status))
                start(i);
        }
        count += workers[i] != 0;
    }
    return count;
}

/* The connections Redis itself counts; the parent's requests use the broker's connections too. */
static void on_info(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    const char *text = broker_reply_string(reply, NULL);
    const char *line = text != NULL ? strstr(text, "connected_clients:") : NULL;
    long long count = line != NULL ? atoll(strchr(line, ':') + 1) : 0;

    (void)client, (void)data;
    failures += status != BROKER_OK || count == 0;
    connections_max = count > connections_max ? count : connections_max;
}

static void kill_one(void)
{
    static int next;
    int i;

    for (i = 0; i < WORKERS && workers[next % WORKERS] == 0; i++)
        next++;
    if (workers[next % WORKERS] != 0)
        kill(workers[next++ % WORKERS], SIGKILL);
}

static void set(const char *key, const char *value)
{
    if (broker_config_set(config, key, value) != BROKER_OK)
        fail("configuration", broker_config_error(config));
}

static long now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* Any loop works: the broker is one descriptor, one timeout and one call. */
static void supervise(long kill_every)
{
    struct pollfd broker = {.fd = broker_loop_fd(loop), .events = POLLIN};
    long look = now(), strike = now() + kill_every;

    while (running() > 0) {
        int sleep = broker_loop_timeout(loop);

        poll(&broker, 1, sleep < 0 || sleep > LOOK_EVERY ? LOOK_EVERY : sleep);
        if (broker_loop_run(loop, BROKER_RUN_NOWAIT) < 0)
            fail("broker", broker_loop_error(loop));
        if (now() >= look) {
            look = now() + LOOK_EVERY;
            if (broker_client_submit(own_requests, BROKER_ARGV("INFO", "clients"), PATIENCE, NULL, on_info, NULL) != 0)
                fail("INFO", broker_client_error(own_requests));
        }
        if (now() >= strike) {
            strike = now() + kill_every;
            kill_one();
        }
    }
}

int main(int argc, char **argv)
{
    unsigned long requests = 0, mismatches = 0;
    char error[256];
    int i;

    if (argc < 2 || argc > 4)
        fail("usage", "prefork REDIS_URL [REQUESTS [KILL_EVERY_MS]]");
    config = broker_config_new();
    set("upstream", argv[1]);
    set("upstream_connections_max", TEXT(CAP));
    set("client_connect_timeout", TEXT(PATIENCE));
    set("client_queue_timeout", TEXT(PATIENCE));
    if (broker_loop_new(&loop, config, error, sizeof error) != BROKER_OK)
        fail(argv[1], error);
    if (broker_loop_client(&own_requests, loop) != BROKER_OK)
        fail("client", broker_loop_error(loop));
    progress = mmap(NULL, WORKERS * sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                    -1, 0);
    if (progress == MAP_FAILED)
        fail("mmap", "no memory");
    total = argc > 2 ? strtoul(argv[2], NULL, 10) : total;
    for (i = 0; i < WORKERS; i++)
        start(i);
    supervise(argc > 3 ? atol(argv[3]) : 1000);

    broker_loop_drain(loop, PATIENCE);
    while (broker_loop_run(loop, BROKER_RUN_ONCE) > 0)
        continue;
    broker_client_free(own_requests);
    broker_loop_free(loop);
    broker_config_free(config);
    for (i = 0; i < WORKERS; i++) {
        requests += progress[i].requests;
        mismatches += progress[i].mismatches;
    }
    printf("workers=%d requests=%lu restarts=%lu mismatches=%lu connections=%lld cap=%d\n", WORKERS, requests,
           restarts, mismatches, connections_max, CAP);
    return mismatches == 0 && failures == 0 && requests == total && connections_max <= CAP ? 0 : 1;
}

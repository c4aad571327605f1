/*
 * How long fork() takes while another thread is inside the library: for each kind of call, forks beside a thread that
 * makes it without end, interleaved with forks beside a thread that only burns as much time. Prints medians and p99.9 in
 * microseconds, and how much more the 99.9th percentile is.
 *
 *     cc -O2 -Iinclude benches/fork_latency.c -o fork_latency -Ltarget/release -lbroker -lpthread
 *     REDIS_URL=redis://127.0.0.1:6379 ./fork_latency 10000 [KIND ...]
 *
 * Redis itself is what the clients talk to; a private one, since the keys "fork:..." are written.
 */
#define _GNU_SOURCE
#include <broker.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *url;
static volatile int over, inside;
static broker_client_t *client, *own;
static broker_loop_t *loop;
static broker_config_t *config;
static char fifo[64];

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e6 + time.tv_nsec / 1e3;
}

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    _exit(1);
}

static void ignore(broker_client_t *same, int status, const broker_reply_t *reply, void *data)
{
    (void)same, (void)status, (void)reply, (void)data;
}

static void ignore_post(broker_client_t *same, int status, void *data)
{
    (void)same, (void)status, (void)data;
}

static void call(const char *name, const char *key, const char *value)
{
    const char *argv[] = {name, key, value};
    broker_client_call(client, value ? 3 : key ? 2 : 1, argv, NULL, 1000, NULL);
}

/* ---- what the other thread does, again and again ---- */

static void nothing(void)
{
    for (volatile int i = 0; i < 20000; i++)
        ;
}

static void calls(void) { call("PING", NULL, NULL); }

static void large_replies(void)
{
    static const char *const argv[] = {"LRANGE", "fork:list", "0", "-1"};
    broker_client_call(client, 4, argv, NULL, 10000, NULL);
}

static void large_requests(void)
{
    static char value[16 << 20];
    static const char *const argv[] = {"SET", "fork:value", value};
    static const size_t lengths[] = {3, 10, sizeof value};
    broker_client_call(client, 3, argv, lengths, 10000, NULL);
}

static void submits(void)
{
    static const char *const argv[] = {"PING"};
    for (int i = 0; i < 50; i++)
        broker_client_submit(client, 1, argv, NULL, 1000, NULL, ignore, NULL);
    broker_client_process(client, 1);
}

static void waits(void) { broker_client_process(client, 5); }

static void blocks(void)
{
    static const char *const argv[] = {"BLPOP", "fork:none", "0"};
    broker_client_call(client, 3, argv, NULL, 20, NULL);
}

static void transactions(void)
{
    static const char *const argv[] = {"INCR", "fork:count"};
    broker_transaction_t *block = broker_transaction_new();
    broker_transaction_add(block, 2, argv, NULL);
    broker_client_call_transaction(client, block, 1000, NULL);
    broker_transaction_free(block);
}

static void sessions(void)
{
    static const char *const argv[] = {"PING"};
    broker_client_t *session;
    if (broker_client_session(&session, client) == BROKER_OK) {
        broker_client_call(session, 1, argv, NULL, 1000, NULL);
        broker_client_free(session);
    }
}

static void subscriptions(void)
{
    broker_req_t sub;
    if (broker_client_subscribe(client, BROKER_CHANNEL, "fork", 4, &sub, ignore, NULL) == BROKER_OK) {
        broker_client_process(client, 1);
        broker_client_cancel(client, sub);
    }
    broker_client_process(client, 0);
}

static void clients(void)
{
    broker_client_t *made;
    if (broker_client_new(&made, url, NULL, NULL, 0) == BROKER_OK)
        broker_client_free(made);
}

static void posts(void)
{
    for (int i = 0; i < 50; i++)
        broker_client_post(client, ignore_post, NULL);
    broker_client_process(client, 0);
}

static void runs(void) { broker_loop_run(loop, BROKER_RUN_NOWAIT); }

static void own_calls(void)
{
    static const char *const argv[] = {"PING"};
    broker_client_call(own, 1, argv, NULL, 1000, NULL);
}

static void reloads(void)
{
    broker_loop_reload(loop, config);
    broker_loop_run(loop, BROKER_RUN_NOWAIT);
}

static void loops(void)
{
    broker_loop_t *made;
    if (broker_loop_new(&made, config, NULL, 0) == BROKER_OK)
        broker_loop_free(made);
}

/* A file that does not come: it stays in there for as long as this runs. */
static void loads(void)
{
    broker_config_t *waiting = broker_config_new();
    broker_config_load(waiting, fifo);
    broker_config_free(waiting);
}

static void configs(void)
{
    broker_config_t *made = broker_config_new();
    broker_config_set(made, "lanes", "2");
    broker_config_get(made, "lanes", NULL, 0);
    broker_config_free(made);
}

static void slow_line(int level, const char *msg, size_t len, const void *handle, void *data)
{
    (void)level, (void)msg, (void)len, (void)handle, (void)data;
    struct timespec time = {0, 50 * 1000 * 1000};
    nanosleep(&time, NULL);
}

/* A log callback that takes its time: a client of nowhere logs, and says so to it. */
static void logs(void)
{
    broker_client_t *made;
    broker_log_set(BROKER_LOG_TRACE, slow_line, NULL);
    runs();
    if (broker_client_new(&made, "unix:///nonexistent/socket", NULL, NULL, 0) == BROKER_OK) {
        broker_client_process(made, 1);
        broker_client_free(made);
    }
}

static const struct kind {
    const char *name;
    void (*run)(void);
} kinds[] = {
    {"call", calls},         {"large_reply", large_replies}, {"large_request", large_requests}, {"submit", submits},
    {"wait", waits},         {"block", blocks},              {"transaction", transactions},     {"session", sessions},
    {"subscribe", subscriptions}, {"client", clients},       {"post", posts},                   {"run", runs},
    {"own_call", own_calls}, {"reload", reloads},            {"loop", loops},                   {"load", loads},
    {"config", configs},     {"log", logs},
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

static void (*volatile doing)(void);

static void *work(void *unused)
{
    (void)unused;
    while (!over) {
        inside = 1;
        doing();
    }
    return NULL;
}

static int by_size(const void *a, const void *b)
{
    double first = *(const double *)a, second = *(const double *)b;
    return first < second ? -1 : first > second;
}

/* Forks and waits for the copy, which ends at once. */
static double one_fork(void)
{
    double begun = now();
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    double took = now() - begun;
    if (pid < 0 || waitpid(pid, NULL, 0) != pid)
        fail("fork");
    return took;
}

/* A batch of forks beside one kind of work. */
static void measure(void (*run)(void), double *took, int forks)
{
    pthread_t thread;
    doing = run;
    over = inside = 0;
    if (pthread_create(&thread, NULL, work, NULL) != 0)
        fail("thread");
    while (!inside)
        ;
    for (int i = 0; i < forks; i++)
        took[i] = one_fork();
    over = 1;
    if (run == loads) {
        int fd = open(fifo, O_WRONLY | O_CLOEXEC);
        close(fd);
    }
    pthread_join(thread, NULL);
    broker_log_set(BROKER_LOG_OFF, NULL, NULL);
}

static void compare(const struct kind *kind, int forks)
{
    enum { BATCH = 100 };
    double *with = calloc((size_t)forks, sizeof *with), *without = calloc((size_t)forks, sizeof *without);
    for (int i = 0; i + BATCH <= forks; i += BATCH) {
        measure(nothing, without + i, BATCH);
        measure(kind->run, with + i, BATCH);
    }
    qsort(with, (size_t)forks, sizeof *with, by_size);
    qsort(without, (size_t)forks, sizeof *without, by_size);
    int high = (int)(forks * 0.999);
    printf("%-14s without: median %6.0f p99.9 %7.0f   with: median %6.0f p99.9 %7.0f max %7.0f   more at p99.9: %7.0f us\n",
           kind->name, without[forks / 2], without[high], with[forks / 2], with[high], with[forks - 1],
           with[high] - without[high]);
    fflush(stdout);
    free(with);
    free(without);
}

static void prepare(void)
{
    char words[256] = "";
    url = getenv("REDIS_URL");
    if (url == NULL)
        fail("REDIS_URL is not set");
    snprintf(fifo, sizeof fifo, "/tmp/fork-latency-%d", (int)getpid());
    if (mkfifo(fifo, 0600) != 0)
        fail("mkfifo");
    config = broker_config_new();
    if (broker_config_set(config, "upstream", url) < 0 || broker_client_new(&client, url, NULL, words, sizeof words) < 0
        || broker_loop_new(&loop, config, words, sizeof words) < 0 || broker_loop_client(&own, loop) < 0)
        fail(words);
    static const char *fill[] = {"EVAL", "redis.call('DEL', KEYS[1]) for i = 1, 500000 do redis.call('RPUSH', KEYS[1], i) end", "1", "fork:list"};
    if (broker_client_call(client, 4, fill, NULL, 60000, NULL) < 0)
        fail(broker_client_error(client));
}

int main(int argc, char **argv)
{
    int forks = argc > 1 ? atoi(argv[1]) : 10000;
    prepare();
    for (int i = 0; i < KINDS; i++) {
        int wanted = argc <= 2;
        for (int j = 2; j < argc; j++)
            wanted |= strcmp(argv[j], kinds[i].name) == 0;
        if (wanted)
            compare(&kinds[i], forks);
    }
    unlink(fifo);
    return 0;
}

/*
 * Worker processes of a program that uses the library: their threads have handles of their own; the parent's descriptors
 * are closed in them although they never heard of the library; fork() waits for nothing, whatever other threads are at.
 */
#include "loop.h"

#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define CLONE_NEWPID 0x20000000
extern int unshare(int flags);

static broker_client_t *client;
static broker_loop_t *loop;

/* ---- threads of a worker ---- */

enum { THREADS = 4 };

static pthread_barrier_t barrier;

/* The first that this process does with the library, in several threads at once. */
static void *make_and_use(void *data)
{
    broker_client_t *own = NULL;
    int raw = *(int *)data;
    pthread_barrier_wait(&barrier);
    CHECK_INT(broker_client_new(&own, "unix:///nonexistent/x", NULL, NULL, 0), BROKER_OK);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(broker_client_connected(own), 0);
        CHECK_INT(broker_client_connected(client), BROKER_EFORKED);
        sched_yield();
    }
    CHECK(broker_fork_count() == 1);
    CHECK_INT(broker_client_free(own), BROKER_OK);
    (void)raw;
    return NULL;
}

static void worker_with_threads(int raw)
{
    pthread_t threads[THREADS];
    CHECK_INT(pthread_barrier_init(&barrier, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_create(&threads[i], NULL, make_and_use, &raw), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_join(threads[i], NULL), 0);
    _exit(0);
}

/* After fork() a handler has noticed; after a bare clone() the first of the threads does, and the others wait for it. */
static void threads_with_own_handles(void)
{
    client = open_redis();
    EXPECT(client, "+PONG", "PING");
    for (int i = 0; i < 100; i++) {
        int raw = i % 2;
        pid_t pid = raw ? _Fork() : fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            begin();
            worker_with_threads(raw);
        }
        wait_child(pid);
    }
    CHECK(broker_fork_count() == 0);
    EXPECT(client, "+PONG", "PING");
    close_client(client);
}

/* ---- descriptors ---- */

static void nothing_inherited(int at_first, int raw)
{
    if (raw)
        CHECK_INT(broker_client_process(client, 0), BROKER_EFORKED);
    CHECK_INT(count_descriptors(), at_first);
    if (!raw)
        CHECK_INT(broker_loop_free(loop), BROKER_OK);
    _exit(0);
}

/* Of every kind there is: listeners with their files, children of all kinds, upstream connections, a client's. */
static void closed_in_the_copy(void)
{
    char listen_url[PATH_SIZE + 32], path[PATH_SIZE];
    int at_first = count_descriptors();
    private_path(path, "workers.sock");
    snprintf(listen_url, sizeof listen_url, "unix://%s,tcp://127.0.0.1:0", path);
    const char *const settings[] = {"listen", listen_url, NULL};
    loop = open_loop(NULL, settings);
    client = open_redis();
    EXPECT(client, "+PONG", "PING");
    struct outcome popped = {0}, told = {0};
    CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "none", "0"), NULL, BROKER_FOREVER, NULL, keep, &popped), BROKER_OK);
    CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, "c", 1, NULL, keep, &told), BROKER_OK);
    wait_outcome(client, &told);
    int given = adopt_pair(loop), connected = connect_unix(path);
    struct outcome mine = {0};
    CHECK_INT(broker_client_submit(own(loop), ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &mine), BROKER_OK);
    EXPECT_OWN(loop, &mine, "+PONG");
    CHECK_INT(fcntl(given, F_SETFD, 0), 0);
    for (int raw = 0; raw < 2; raw++) {
        pid_t pid = raw ? _Fork() : fork_or_fail();
        CHECK(pid >= 0);
        if (pid == 0)
            /* The two that are the program's own. */
            nothing_inherited(at_first + 2, raw);
        wait_child(pid);
    }
    EXPECT(client, "+PONG", "PING");
    close(given);
    close(connected);
    close_client(client);
    CHECK_INT(access(path, F_OK), 0);
    close_loop(loop);
    CHECK(access(path, F_OK) != 0);
    CHECK_INT(count_descriptors(), at_first);
}

/* A killed parent's connections are gone though a process lives on that knows nothing of them. */
static void orphans(void)
{
    struct redis redis = redis_connect();
    struct gate ready, over;
    gate_make(&ready);
    gate_make(&over);
    redis_wait_clients(&redis, NULL, 0);
    pid_t parent = fork_or_fail();
    if (parent == 0) {
        client = open_redis();
        EXPECT(client, "+PONG", "PING");
        if (fork_or_fail() == 0) {
            gate_open(&ready);
            gate_wait(&over);
            _exit(0);
        }
        for (;;)
            broker_client_process(client, -1);
    }
    gate_wait(&ready);
    redis_wait_clients(&redis, NULL, 1);
    kill_child(parent);
    redis_wait_clients(&redis, NULL, 0);
    gate_open(&over);
    gate_close(&ready);
    gate_close(&over);
    redis_close(&redis);
}

/* ---- namespaces ---- */

/* The first process of a namespace, and its worker, the first of another: both have the number 1. */
static void first_of_a_namespace(void)
{
    char path[PATH_SIZE];
    begin();
    CHECK_INT(getpid(), 1);
    private_path(path, "namespace.sock");
    loop = open_loop("namespace.sock", NULL);
    if (unshare(CLONE_NEWPID) != 0)
        _exit(0);
    pid_t worker = fork_or_fail();
    if (worker == 0) {
        CHECK_INT(getpid(), 1);
        CHECK_INT(broker_loop_run(loop, BROKER_RUN_NOWAIT), BROKER_EFORKED);
        CHECK_INT(broker_loop_free(loop), BROKER_OK);
        _exit(0);
    }
    wait_child(worker);
    int connected = connect_unix(path);
    CHECK(connected >= 0);
    close(connected);
    close_loop(loop);
    _exit(0);
}

static void namespaces(void)
{
    pid_t outer = fork_or_fail();
    if (outer == 0) {
        if (unshare(CLONE_NEWPID) != 0) {
            puts("no right to have a namespace: skipped");
            _exit(0);
        }
        pid_t first = fork_or_fail();
        if (first == 0)
            first_of_a_namespace();
        wait_child(first);
        _exit(0);
    }
    wait_child(outer);
}

/* ---- what a fork does not wait for ---- */

/* Far more than a fork takes, far less than what the others wait for. */
enum { SOON_MS = 2000 };

static void fork_comes_back(void)
{
    for (int i = 0; i < 5; i++) {
        long long start = now_ms();
        pid_t pid = fork_or_fail();
        if (pid == 0)
            end_child_of_threads();
        CHECK(now_ms() - start < SOON_MS);
        wait_child(pid);
    }
}

static char fifo[PATH_SIZE];
static volatile int inside;

static void *load(void *config)
{
    /* What it reads is no configuration, once it comes. */
    CHECK_INT(broker_config_load(config, fifo), BROKER_ECONFIG);
    return NULL;
}

/* A file that does not come: the thread that reads it holds up neither a fork nor the configuration. */
static void beside_a_file(void)
{
    pthread_t thread;
    broker_config_t *config = broker_config_new();
    private_path(fifo, "fifo");
    CHECK_INT(mkfifo(fifo, 0600), 0);
    CHECK_INT(pthread_create(&thread, NULL, load, config), 0);
    /* Opened for writing only when the other end is opened for reading. */
    int end;
    while ((end = open(fifo, O_WRONLY | O_NONBLOCK | O_CLOEXEC)) < 0)
        sched_yield();
    CHECK_INT(broker_config_set(config, "lanes", "3"), BROKER_OK);
    fork_comes_back();
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        broker_config_t *own = broker_config_new();
        CHECK_INT(broker_config_set(own, "lanes", "2"), BROKER_OK);
        CHECK_INT(broker_config_free(own), BROKER_OK);
        CHECK_INT(broker_config_set(config, "lanes", "2"), BROKER_OK);
        CHECK_INT(broker_config_free(config), BROKER_OK);
        CHECK_INT(broker_config_free(config), BROKER_ESTATE);
        end_child_of_threads();
    }
    wait_child(pid);
    CHECK(write(end, "nonsense\n", 9) == 9);
    close(end);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(broker_config_set(config, "lanes", "2"), BROKER_OK);
    CHECK_INT(broker_config_free(config), BROKER_OK);
    unlink(fifo);
}

/* A logger as careful ones are: its lock is held over a fork. Registered behind the library's handlers, it is asked
   before them. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile int preparing, hold_lines;
static int lines;

static void prepare(void)
{
    CHECK_INT(pthread_mutex_lock(&lock), 0);
    preparing = 1;
}

static void parent_or_child(void)
{
    CHECK_INT(pthread_mutex_unlock(&lock), 0);
}

static void log_line(int level, const char *msg, size_t len, const void *handle, void *data)
{
    (void)level, (void)msg, (void)len, (void)data;
    CHECK(handle == NULL || handle == loop);
    if (hold_lines && handle != NULL) {
        inside = 1;
        while (!preparing)
            sched_yield();
        hold_lines = 0;
    }
    CHECK_INT(pthread_mutex_lock(&lock), 0);
    lines++;
    CHECK_INT(pthread_mutex_unlock(&lock), 0);
}

static void *run(void *unused)
{
    (void)unused;
    CHECK_OK(broker_loop_run(loop, BROKER_RUN_DEFAULT));
    return NULL;
}

static void beside_a_logger(void)
{
    pthread_t thread;
    CHECK_INT(broker_log_set(BROKER_LOG_TRACE, log_line, NULL), BROKER_OK);
    loop = open_loop(NULL, NULL);
    CHECK_INT(pthread_atfork(prepare, parent_or_child, parent_or_child), 0);
    inside = 0;
    hold_lines = 1;
    CHECK_INT(pthread_create(&thread, NULL, run, NULL), 0);
    while (!inside)
        sched_yield();
    fork_comes_back();
    CHECK_INT(broker_loop_stop(loop), BROKER_OK);
    CHECK_INT(pthread_join(thread, NULL), 0);
    close_loop(loop);
    CHECK_INT(broker_log_set(BROKER_LOG_OFF, NULL, NULL), BROKER_OK);
    CHECK(lines > 0);
}

/* A copy that is noticed late keeps what it has itself opened under the library's numbers. */
static void noticed_late(void)
{
    enum { OWN = 16 };
    int own[OWN];
    client = open_redis();
    EXPECT(client, "+PONG", "PING");
    pid_t pid = _Fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        for (int fd = 3; fd < 64; fd++)
            close(fd);
        for (int i = 0; i < OWN; i++) {
            own[i] = open("/dev/null", i % 2 ? O_RDWR | O_CLOEXEC : O_RDWR);
            CHECK(own[i] >= 0 && own[i] < 64);
        }
        int pipes[2];
        CHECK(pipe(pipes) == 0);
        close_client(client);
        for (int i = 0; i < OWN; i++)
            CHECK_INT(close(own[i]), 0);
        CHECK(close(pipes[0]) == 0 && close(pipes[1]) == 0);
        end_child_of_threads();
    }
    wait_child(pid);
    EXPECT(client, "+PONG", "PING");
    close_client(client);
}

static volatile int over;

static void *calls(void *unused)
{
    (void)unused;
    while (!over)
        EXPECT(client, "+PONG", "PING");
    return NULL;
}

static void beside_calls(void)
{
    pthread_t thread;
    if (ALLOCATOR_FORKS_LOCKED)
        return;
    client = open_redis();
    over = 0;
    CHECK_INT(pthread_create(&thread, NULL, calls, NULL), 0);
    for (int i = 0; i < 20; i++)
        fork_comes_back();
    over = 1;
    CHECK_INT(pthread_join(thread, NULL), 0);
    close_client(client);
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
        {"threads_with_own_handles", threads_with_own_handles},
        {"closed_in_the_copy", closed_in_the_copy},
        {"orphans", orphans},
        {"namespaces", namespaces},
        {"beside_a_file", beside_a_file},
        {"noticed_late", noticed_late},
        {"beside_calls", beside_calls},
        {"beside_a_logger", beside_a_logger}};
    begin();
    RUN_PARTS(parts);
    return 0;
}

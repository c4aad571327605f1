/*
 * Names that lead elsewhere after a failover, and look-ups that do not end: the program's own getaddrinfo() stands in
 * for the system's. A client and a loop get to the new address; nobody but a thread of the library's waits for the
 * answer; while a name works there is no such thread.
 */
#include "loop.h"
#include "proxy.h"

#include <dlfcn.h>
#include <netdb.h>
#include <sys/stat.h>

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* The name is at 127.0.0.1, where the proxy is; answers wait. */
    int moved, held;
    int asked, answered;
    /* Whose look-ups would hold the program up. */
    pthread_t main;
} names = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static int threads_before;
static char endpoint[64], upstream[64];

static void check_signals_are_blocked(void)
{
    sigset_t set;
    CHECK_INT(pthread_sigmask(SIG_BLOCK, NULL, &set), 0);
    for (int signal = 1; signal < 32; signal++)
        CHECK(signal == SIGKILL || signal == SIGSTOP || sigismember(&set, signal));
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    if (node == NULL || strcmp(node, "moves.test") != 0)
        return real(node, service, hints, result);
    pthread_mutex_lock(&names.lock);
    if (names.asked++ > 0 && !pthread_equal(pthread_self(), names.main))
        check_signals_are_blocked();
    pthread_cond_broadcast(&names.changed);
    CHECK(!names.held || !pthread_equal(pthread_self(), names.main));
    while (names.held)
        pthread_cond_wait(&names.changed, &names.lock);
    const char *address = names.moved ? "127.0.0.1" : "127.0.0.2";
    names.answered++;
    pthread_mutex_unlock(&names.lock);
    return real(address, service, hints, result);
}

static void set(int *what, int value)
{
    pthread_mutex_lock(&names.lock);
    *what = value;
    pthread_cond_broadcast(&names.changed);
    pthread_mutex_unlock(&names.lock);
}

static int get(const int *what)
{
    pthread_mutex_lock(&names.lock);
    int value = *what;
    pthread_mutex_unlock(&names.lock);
    return value;
}

/* At the beginning, and in a forked copy, which has none of the threads. */
static void start_over(int moved, int held)
{
    static const pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static const pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
    names.lock = lock;
    names.changed = changed;
    names.moved = moved;
    names.held = held;
    names.asked = names.answered = 0;
    names.main = pthread_self();
}

static int count_threads(void)
{
    DIR *directory = opendir("/proc/self/task");
    int count = 0;
    CHECK(directory != NULL);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

static void wait_threads(int count)
{
    while (count_threads() != count)
        pause_a_little();
}

static broker_loop_t *open_named_loop(void)
{
    const char *const settings[] = {"upstream", upstream, NULL};
    return open_loop(NULL, settings);
}

static void client_follows(void)
{
    start_over(0, 0);
    broker_client_t *client = open_client(endpoint, NULL);
    CHECK_INT(names.asked, 1);
    set(&names.moved, 1);
    EXPECT(client, "+PONG", "PING");
    CHECK(get(&names.asked) >= 2);
    wait_threads(threads_before);
    close_client(client);
}

static void loop_follows(void)
{
    struct outcome outcome = {0};
    start_over(0, 0);
    broker_loop_t *loop = open_named_loop();
    CHECK_INT(names.asked, 1);
    set(&names.moved, 1);
    CHECK_INT(broker_client_submit(own(loop), ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    EXPECT_OWN(loop, &outcome, "+PONG");
    CHECK(get(&names.asked) >= 2);
    wait_threads(threads_before);
    close_loop(loop);
}

/* A connection that is lost has the name looked up again, even if the old address still answers. */
static void lost(void)
{
    start_over(1, 0);
    broker_client_t *client = open_client(endpoint, NULL);
    EXPECT(client, "+PONG", "PING");
    CHECK_INT(get(&names.asked), 1);
    CHECK(proxy_cut() > 0);
    while (broker_client_connected(client))
        CHECK_OK(broker_client_process(client, 5));
    EXPECT(client, "+PONG", "PING");
    /* The thread that asks may come later than the reply. */
    while (get(&names.asked) < 2)
        CHECK_OK(broker_client_process(client, 5));
    CHECK_INT(get(&names.asked), 2);
    wait_threads(threads_before);
    close_client(client);
}

/* However many connections there are, no thread is needed while the name leads somewhere. */
static void works(void)
{
    struct outcome outcome = {0};
    start_over(1, 0);
    broker_client_t *client = open_client(endpoint, NULL);
    broker_loop_t *loop = open_named_loop();
    for (int i = 0; i < 5; i++) {
        EXPECT(client, "_", "BLPOP", "names:none", "0.01");
        EXPECT(client, "+PONG", "PING");
    }
    CHECK_INT(broker_client_submit(own(loop), ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    EXPECT_OWN(loop, &outcome, "+PONG");
    CHECK_INT(get(&names.asked), 2);
    CHECK_INT(count_threads(), threads_before);
    close_loop(loop);
    close_client(client);
}

/* Steps until a thread has asked for the name, and waits for its answer. */
static void step_until_asked(broker_client_t *client, int asked)
{
    while (get(&names.asked) < asked)
        CHECK_OK(broker_client_process(client, 2));
}

static void hung_in_client(void)
{
    start_over(0, 0);
    broker_client_t *client = open_client(endpoint, NULL);
    set(&names.held, 1);
    set(&names.moved, 1);
    step_until_asked(client, 2);
    CHECK_INT(broker_client_call(client, ARGV("PING"), NULL, 30, NULL), BROKER_ETIMEDOUT);
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        /* The answer will not come here: it is asked for anew. */
        start_over(1, 0);
        CHECK_INT(broker_client_after_fork(client), BROKER_OK);
        EXPECT(client, "+PONG", "PING");
        CHECK(get(&names.asked) > 0);
        wait_threads(1);
        close_client(client);
        end_child_of_threads();
    }
    wait_child(pid);
    set(&names.held, 0);
    EXPECT(client, "+PONG", "PING");
    wait_threads(threads_before);
    close_client(client);
}

/* A handle may be freed while its thread is at work: that touches nothing of it. */
static void hung_and_freed(void)
{
    struct outcome outcome = {0};
    start_over(0, 0);
    broker_client_t *client = open_client(endpoint, NULL);
    set(&names.held, 1);
    step_until_asked(client, 2);
    close_client(client);
    set(&names.held, 0);
    broker_loop_t *loop = open_named_loop();
    set(&names.held, 1);
    int asked = get(&names.asked) + 1;
    CHECK_INT(broker_client_submit(own(loop), ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    while (get(&names.asked) < asked)
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    close_loop(loop);
    CHECK_INT(outcome.status, BROKER_ECANCELED);
    set(&names.held, 0);
    wait_threads(threads_before);
    CHECK_INT(names.answered, names.asked);
}

/* The client moves to a forked process while its thread waits for an answer here, which then writes to none of the
 * numbers that are the program's own by now. */
static void moved_meanwhile(void)
{
    enum { FILES = 16 };
    int files[FILES];
    char path[PATH_SIZE];
    struct stat stat;
    private_path(path, "names.own");
    start_over(0, 0);
    broker_client_t *client = open_client(endpoint, NULL);
    set(&names.held, 1);
    step_until_asked(client, 2);
    CHECK_INT(broker_client_follow_fork(client, 1), BROKER_OK);
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        start_over(1, 0);
        EXPECT(client, "+PONG", "PING");
        CHECK(get(&names.asked) > 0);
        wait_threads(1);
        close_client(client);
        end_child_of_threads();
    }
    for (int i = 0; i < FILES; i++) {
        files[i] = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
        CHECK(files[i] >= 0);
    }
    set(&names.held, 0);
    wait_threads(threads_before);
    for (int i = 0; i < FILES; i++) {
        CHECK_INT(fstat(files[i], &stat), 0);
        CHECK_INT(stat.st_size, 0);
        close(files[i]);
    }
    unlink(path);
    wait_child(pid);
    CHECK_INT(broker_client_free(client), BROKER_OK);
}

static broker_loop_t *reloaded;

static void *reload(void *unused)
{
    (void)unused;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    broker_config_t *config = configure("upstream", upstream, (char *)NULL);
    CHECK_INT(broker_loop_reload(reloaded, config), BROKER_OK);
    CHECK_INT(broker_config_free(config), BROKER_OK);
    return NULL;
}

static void fork_once(void)
{
    pid_t pid = fork_or_fail();
    if (pid == 0)
        end_child_of_threads();
    wait_child(pid);
}

/* While a reload waits for a name, a fork does not wait for the reload. */
static void reload_that_waits(void)
{
    struct outcome outcome = {0};
    pthread_t thread;
    start_over(1, 1);
    reloaded = open_loop(NULL, NULL);
    CHECK_INT(pthread_create(&thread, NULL, reload, NULL), 0);
    while (get(&names.asked) == 0)
        pause_a_little();
    fork_once();
    CHECK_INT(get(&names.answered), 0);
    set(&names.held, 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(broker_client_submit(own(reloaded), ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    EXPECT_OWN(reloaded, &outcome, "+PONG");
    CHECK_INT(get(&names.asked), 1);
    close_loop(reloaded);
}

static char fifo[PATH_SIZE];

static void *load(void *data)
{
    CHECK_INT(broker_config_load(data, fifo), BROKER_OK);
    return NULL;
}

/* Nor for a file that does not come. */
static void load_that_waits(void)
{
    static const char text[] = "lanes = 3\nclient_db = 4\n";
    broker_config_t *config = broker_config_new();
    pthread_t thread;
    char value[16];
    int fd;
    private_path(fifo, "config.fifo");
    CHECK(mkfifo(fifo, 0600) == 0);
    CHECK_INT(pthread_create(&thread, NULL, load, config), 0);
    /* Only once there is a reader. */
    while ((fd = open(fifo, O_WRONLY | O_NONBLOCK | O_CLOEXEC)) < 0)
        pause_a_little();
    fork_once();
    CHECK_INT(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(broker_config_get(config, "lanes", value, sizeof value), 1);
    CHECK_TEXT(value, "3");
    CHECK_INT(broker_config_get(config, "client_db", value, sizeof value), 1);
    CHECK_TEXT(value, "4");
    CHECK_INT(broker_config_free(config), BROKER_OK);
    unlink(fifo);
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
        {"client_follows", client_follows},
        {"loop_follows", loop_follows},
        {"lost", lost},
        {"works", works},
        {"hung_in_client", hung_in_client},
        {"hung_and_freed", hung_and_freed},
        {"moved_meanwhile", moved_meanwhile},
        {"reload_that_waits", reload_that_waits},
        {"load_that_waits", load_that_waits},
    };
    begin();
    int port = proxy_start_tcp();
    snprintf(endpoint, sizeof endpoint, "tcp://moves.test:%d", port);
    snprintf(upstream, sizeof upstream, "redis://moves.test:%d", port);
    threads_before = count_threads();
    RUN_PARTS(parts);
    proxy_end();
    return 0;
}

/*
 * Threads that end or interfere: cancelled in every function that waits, waking a handle while another thread ends it. No
 * function ends the process, the handle stays usable, and nobody else's descriptor is written to.
 */
#include "loop.h"

#include <pthread.h>
#include <sys/stat.h>

static broker_client_t *client;
static broker_client_t *session;
static broker_loop_t *loop;
static broker_transaction_t *block;

/* ---- cancellation ---- */

struct waiting {
    const char *name;
    void (*wait)(void);
    /* What a cleanup handler does, in the thread that is being cancelled. */
    void (*clean_up)(void);
};

static void in_wait(void)
{
    for (;;)
        CHECK_OK(broker_client_process(client, -1));
}

static void in_call(void)
{
    broker_client_call(client, ARGV("BLPOP", "cancel:none", "0"), NULL, BROKER_FOREVER, NULL);
}

static void in_call_transaction(void)
{
    for (;;)
        CHECK_INT(broker_client_call_transaction(client, block, BROKER_FOREVER, NULL), BROKER_OK);
}

static void in_session_call(void)
{
    broker_client_call(session, ARGV("BLPOP", "cancel:none", "0"), NULL, BROKER_FOREVER, NULL);
}

static void in_session_call_transaction(void)
{
    for (;;)
        CHECK_INT(broker_client_call_transaction(session, block, BROKER_FOREVER, NULL), BROKER_OK);
}

static void in_run(void)
{
    CHECK_OK(broker_loop_run(loop, BROKER_RUN_DEFAULT));
}

static void in_run_once(void)
{
    for (;;)
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_ONCE));
}

static void use_client(void)
{
    EXPECT(client, "+PONG", "PING");
}

static void use_loop(void)
{
    CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
}

static const struct waiting functions[] = {
    {"wait", in_wait, use_client},
    {"call", in_call, use_client},
    {"call_transaction", in_call_transaction, use_client},
    {"session_call", in_session_call, use_client},
    {"session_call_transaction", in_session_call_transaction, use_client},
    {"run", in_run, use_loop},
    {"run once", in_run_once, use_loop},
};

static volatile int thread_began;
static int cleaned;

static void clean_up(void *data)
{
    ((const struct waiting *)data)->clean_up();
    cleaned++;
}

static void *wait_to_be_cancelled(void *data)
{
    const struct waiting *function = data;
    pthread_cleanup_push(clean_up, data);
    thread_began = 1;
    function->wait();
    /* Reached only by what is cancelled here instead. */
    for (;;)
        pause();
    pthread_cleanup_pop(0);
    return NULL;
}

static void cancel_in(const struct waiting *function, int after_ms)
{
    pthread_t thread;
    void *result = NULL;
    thread_began = cleaned = 0;
    CHECK_INT(pthread_create(&thread, NULL, wait_to_be_cancelled, (void *)function), 0);
    while (!thread_began)
        sched_yield();
    /* Not a wait for anything: the moment of the cancellation is what is tried. */
    poll(NULL, 0, after_ms);
    CHECK_INT(pthread_cancel(thread), 0);
    CHECK_INT(pthread_join(thread, &result), 0);
    CHECK(result == PTHREAD_CANCELED);
    CHECK_INT(cleaned, 1);
}

/* Cancelled at once and a little later: before the wait, in it, and in the midst of work, which ends first. */
static void cancelled(void)
{
    client = open_redis();
    loop = open_loop(NULL, NULL);
    block = broker_transaction_new();
    CHECK_INT(broker_transaction_add(block, ARGV("INCR", "cancel:k"), NULL), BROKER_OK);
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        for (int round = 0; round < 4; round++) {
            /* One that was cancelled in the middle of its call has a call under way. */
            CHECK_INT(broker_client_session(&session, client), BROKER_OK);
            cancel_in(&functions[i], round * 10);
            struct outcome outcome = {0};
            CHECK_INT(broker_client_submit(client, ARGV("ECHO", "after"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
            EXPECT_OUTCOME(client, &outcome, "after");
            EXPECT(client, "again", "ECHO", "again");
            CHECK_INT(broker_client_free(session), BROKER_OK);
            CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
        }
    /* The pops of cancelled calls were not answered; what comes for them is dropped. */
    struct redis redis = redis_connect();
    CHECK(redis_ask(&redis, "RPUSH cancel:none a b c d")[0] == ':');
    EXPECT(client, "+PONG", "PING");
    redis_close(&redis);
    CHECK_INT(broker_transaction_free(block), BROKER_OK);
    close_loop(loop);
    close_client(client);
}

static void *hold_back(void *data)
{
    (void)data;
    int former;
    CHECK_INT(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &former), 0);
    thread_began = 1;
    CHECK_OK(broker_client_process(client, 50));
    CHECK_INT(pthread_setcancelstate(former, &former), 0);
    CHECK_INT(former, PTHREAD_CANCEL_DISABLE);
    return NULL;
}

/* Whoever has chosen not to be cancelled is not. */
static void not_cancelled(void)
{
    pthread_t thread;
    void *result = (void *)1;
    client = open_redis();
    EXPECT(client, "+PONG", "PING");
    thread_began = 0;
    CHECK_INT(pthread_create(&thread, NULL, hold_back, NULL), 0);
    while (!thread_began)
        sched_yield();
    CHECK_INT(pthread_cancel(thread), 0);
    CHECK_INT(pthread_join(thread, &result), 0);
    CHECK(result == NULL);
    close_client(client);
}

/* While a thread waits, others are told so; the next may once it is gone, however it went. */
static void *wait_forever(void *data)
{
    (void)data;
    thread_began = 1;
    for (;;) {
        /* Whoever asks meanwhile may be in its way. */
        int code = broker_client_process(client, -1);
        CHECK(code >= 0 || code == BROKER_EREENTRANT);
    }
    return NULL;
}

static void others_meanwhile(void)
{
    pthread_t thread;
    client = open_redis();
    EXPECT(client, "+PONG", "PING");
    thread_began = 0;
    CHECK_INT(pthread_create(&thread, NULL, wait_forever, NULL), 0);
    wait_in_use(client);
    CHECK_INT(broker_client_free(client), BROKER_EREENTRANT);
    CHECK_INT(broker_client_wakeup(client), BROKER_OK);
    CHECK_INT(pthread_cancel(thread), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(broker_client_connected(client), 1);
    close_client(client);
}

static broker_client_t *other;

static void wait_on_another(void)
{
    EXPECT(other, "+PONG", "PING");
}

/* A cleanup may wait on another handle: the one whose wait was cancelled is free after the thread all the same. */
static void cleaned_up_elsewhere(void)
{
    static const struct waiting function = {"wait", in_wait, wait_on_another};
    client = open_redis();
    other = open_redis();
    EXPECT(client, "+PONG", "PING");
    cancel_in(&function, 20);
    EXPECT(client, "+PONG", "PING");
    close_client(other);
    close_client(client);
}

/* fork() is no place where a thread is cancelled, with the library neither. */
static void *fork_while_pending(void *data)
{
    int former, status = -1;
    CHECK_INT(pthread_cancel(pthread_self()), 0);
    pid_t pid = fork();
    if (pid == 0)
        _exit(7);
    CHECK_INT(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &former), 0);
    CHECK_INT(former, PTHREAD_CANCEL_ENABLE);
    CHECK_INT(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status));
    CHECK_INT(WEXITSTATUS(status), 7);
    return data;
}

static void pending_in_a_fork(void)
{
    for (int follows = 0; follows < 2; follows++) {
        pthread_t thread;
        void *result = NULL;
        client = open_redis();
        EXPECT(client, "+PONG", "PING");
        CHECK_INT(broker_client_follow_fork(client, follows), BROKER_OK);
        CHECK_INT(pthread_create(&thread, NULL, fork_while_pending, &cleaned), 0);
        CHECK_INT(pthread_join(thread, &result), 0);
        CHECK(result == &cleaned);
        CHECK_INT(broker_client_free(client), BROKER_OK);
    }
}

/* ---- waking beside the end ---- */

static broker_client_t *volatile ringing_client;
static broker_loop_t *volatile ringing_loop;
static volatile int over;

static void *ring(void *data)
{
    (void)data;
    while (!over) {
        broker_client_t *of = ringing_client;
        broker_loop_t *stopped = ringing_loop;
        int code = of ? broker_client_wakeup(of) : BROKER_OK;
        CHECK(code == BROKER_OK || code == BROKER_ESTATE);
        code = stopped ? broker_loop_stop(stopped) : BROKER_OK;
        CHECK(code == BROKER_OK || code == BROKER_ESTATE);
    }
    return NULL;
}

/* Opened at once behind the end of a handle, with its numbers; nothing may appear in them. */
static void files_stay_empty(const char *path)
{
    enum { FILES = 12 };
    int files[FILES];
    struct stat stat;
    for (int i = 0; i < FILES; i++) {
        files[i] = open(path, O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0600);
        CHECK(files[i] >= 0);
    }
    sched_yield();
    for (int i = 0; i < FILES; i++) {
        CHECK_INT(fstat(files[i], &stat), 0);
        CHECK_INT(stat.st_size, 0);
        close(files[i]);
    }
}

static void wakened(void)
{
    pthread_t threads[2];
    char path[PATH_SIZE];
    private_path(path, "wakened");
    over = 0;
    for (int i = 0; i < 2; i++)
        CHECK_INT(pthread_create(&threads[i], NULL, ring, NULL), 0);
    long long until = now_ms() + 1500;
    while (now_ms() < until) {
        client = open_client("unix:///nonexistent/x", NULL);
        ringing_client = client;
        sched_yield();
        close_client(client);
        files_stay_empty(path);
        loop = open_loop(NULL, NULL);
        ringing_loop = loop;
        sched_yield();
        close_loop(loop);
        files_stay_empty(path);
    }
    over = 1;
    for (int i = 0; i < 2; i++)
        CHECK_INT(pthread_join(threads[i], NULL), 0);
    unlink(path);
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
#ifndef __SANITIZE_ADDRESS__
        /* The sanitizer of GCC 12 loses track of the stack of a thread that is cancelled. */
        {"cancelled", cancelled},
        {"others_meanwhile", others_meanwhile},
        {"cleaned_up_elsewhere", cleaned_up_elsewhere},
#endif
        {"not_cancelled", not_cancelled},
        {"pending_in_a_fork", pending_in_a_fork},
        {"wakened", wakened}};
#ifdef __SANITIZE_ADDRESS__
    (void)cancelled, (void)others_meanwhile, (void)cleaned_up_elsewhere;
#endif
    begin();
    RUN_PARTS(parts);
    return 0;
}

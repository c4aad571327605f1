/*
 * Handles that follow a fork, as daemon() and double forks need it: the child has them with all that is open and under way;
 * in the parent they are gone, and with them every copy of their descriptors.
 */
#include "loop.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>

static broker_client_t *client;
static broker_loop_t *loop;

/* In a process that a handle has left. */
static void loop_is_gone(void)
{
    CHECK_INT(broker_loop_run(loop, BROKER_RUN_NOWAIT), BROKER_EFORKED);
    CHECK_INT(broker_loop_stop(loop), BROKER_EFORKED);
    CHECK_INT(broker_loop_follow_fork(loop, 1), BROKER_EFORKED);
    CHECK_INT(broker_loop_free(loop), BROKER_OK);
    CHECK_INT(broker_loop_free(loop), BROKER_ESTATE);
}

static void client_is_gone(void)
{
    CHECK_INT(broker_client_process(client, 0), BROKER_EFORKED);
    CHECK_INT(broker_client_wakeup(client), BROKER_EFORKED);
    CHECK_INT(broker_client_after_fork(client), BROKER_EFORKED);
    CHECK_INT(broker_client_free(client), BROKER_OK);
    CHECK_INT(broker_client_free(client), BROKER_ESTATE);
}

/* What daemon() does, but for the files: the caller goes on in the child of this process. */
static void move_to_a_child(void (*gone)(void), int at_first)
{
    pid_t pid = fork_or_fail();
    if (pid == 0)
        return;
    gone();
    CHECK_INT(count_descriptors(), at_first);
    wait_child(pid);
    _exit(0);
}

/* A loop with a listener, a child and a request under way moves twice; its child sees one connection all along. */
static void a_loop_through_a_double_fork(void)
{
    char path[PATH_SIZE];
    struct outcome popped = {0};
    struct redis redis = redis_connect();
    private_path(path, "follow.sock");
    int at_first = count_descriptors();
    int ends[2], result[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0 && pipe2(result, O_CLOEXEC) == 0);
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        close(ends[1]);
        close(result[0]);
        int left = count_descriptors() - 1;
        loop = open_loop("follow.sock", NULL);
        CHECK_INT(broker_loop_adopt(loop, ends[0]), BROKER_OK);
        CHECK_INT(broker_client_submit(own(loop), ARGV("BLPOP", "follow:list", "0"), NULL, BROKER_FOREVER, NULL, keep, &popped), BROKER_OK);
        while (redis_info(&redis, "clients", "blocked_clients") == 0)
            CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
        CHECK_INT(broker_loop_follow_fork(loop, 1), BROKER_OK);
        move_to_a_child(loop_is_gone, left);
        move_to_a_child(loop_is_gone, left);
        CHECK_INT(broker_loop_follow_fork(loop, 0), BROKER_OK);
        /* Not this time. */
        pid_t worker = fork_or_fail();
        if (worker == 0) {
            loop_is_gone();
            CHECK_INT(count_descriptors(), left);
            _exit(0);
        }
        wait_child(worker);
        EXPECT_OWN(loop, &popped, "[follow:list x]");
        CHECK_INT(popped.calls, 1);
        CHECK_INT(write(result[1], "x", 1), 1);
        while (stat_of(loop, "children") > 1)
            CHECK_OK(broker_loop_run(loop, BROKER_RUN_ONCE));
        CHECK_INT(access(path, F_OK), 0);
        close_loop(loop);
        CHECK_INT(access(path, F_OK), -1);
        _exit(0);
    }
    close(ends[0]);
    close(result[1]);
    client = open_fd(ends[1]);
    EXPECT(client, "+PONG", "PING");
    EXPECT(client, ":1", "RPUSH", "follow:list", "x");
    char byte;
    CHECK_INT(read(result[0], &byte, 1), 1);
    EXPECT(client, "+PONG", "PING");
    broker_client_t *late = open_client(NULL, NULL);
    EXPECT(late, "+PONG", "PING");
    close_client(late);
    close_client(client);
    wait_child(pid);
    close(result[0]);
    CHECK_INT(count_descriptors(), at_first);
    redis_close(&redis);
}

static void message(broker_client_t *same, int status, const broker_reply_t *push, void *data)
{
    (void)same;
    CHECK((status == BROKER_OK) == (push != NULL));
    CHECK(status == BROKER_OK || status == BROKER_ECANCELED);
    ++*(int *)data;
}

/* A client moves with its requests, its subscription and its session, which watches a key. */
static void a_client_with_all_it_has(void)
{
    int at_first = count_descriptors();
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        int pushes = 0;
        struct outcome outcomes[50] = {{0}};
        broker_client_t *session = NULL;
        broker_transaction_t *block = broker_transaction_new();
        client = open_redis();
        long long id = call_integer(client, ARGV("CLIENT", "ID"));
        CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, "follow", 6, NULL, message, &pushes), BROKER_OK);
        wait_count(client, &pushes, 1);
        CHECK_INT(broker_client_session(&session, client), BROKER_OK);
        CHECK_INT(broker_client_call(session, ARGV("WATCH", "follow:w"), NULL, BROKER_FOREVER, NULL), BROKER_OK);
        for (int i = 0; i < 50; i++)
            CHECK_INT(broker_client_submit(client, ARGV("ECHO", "mine"), NULL, BROKER_FOREVER, NULL, keep, &outcomes[i]), BROKER_OK);
        CHECK_INT(broker_client_follow_fork(client, 1), BROKER_OK);
        pid_t child = fork_or_fail();
        if (child != 0) {
            CHECK_INT(broker_client_call(session, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_EFORKED);
            CHECK_INT(broker_client_free(session), BROKER_OK);
            client_is_gone();
            CHECK_INT(count_descriptors(), at_first);
            wait_child(child);
            for (int i = 0; i < 50; i++)
                CHECK_INT(outcomes[i].calls, 0);
            CHECK_INT(broker_transaction_free(block), BROKER_OK);
            end_child();
        }
        for (int i = 0; i < 50; i++)
            EXPECT_OUTCOME(client, &outcomes[i], "mine");
        CHECK_INT(call_integer(client, ARGV("CLIENT", "ID")), id);
        EXPECT(client, ":1", "PUBLISH", "follow", "x");
        wait_count(client, &pushes, 2);
        EXPECT(client, "+OK", "SET", "follow:w", "changed");
        CHECK_INT(broker_transaction_add(block, ARGV("PING"), NULL), BROKER_OK);
        broker_reply_t *reply = NULL;
        CHECK_INT(broker_client_call_transaction(session, block, BROKER_FOREVER, &reply), BROKER_OK);
        CHECK_INT(broker_reply_type(reply), BROKER_REPLY_NIL);
        broker_reply_free(reply);
        CHECK_INT(broker_client_wakeup(client), BROKER_OK);
        CHECK_INT(broker_client_free(session), BROKER_OK);
        CHECK_INT(broker_transaction_free(block), BROKER_OK);
        close_client(client);
        CHECK_INT(count_descriptors(), at_first);
        end_child();
    }
    wait_child(pid);
}

struct row {
    int got, moved;
};

static void fork_inside(broker_client_t *same, int status, const broker_reply_t *reply, void *data)
{
    struct row *row = data;
    (void)reply;
    CHECK(same == client);
    CHECK_INT(status, BROKER_OK);
    if (++row->got != 10)
        return;
    pid_t pid = fork_or_fail();
    if (pid == 0)
        return;
    row->moved = 1;
    CHECK_INT(broker_client_connected(client), BROKER_EFORKED);
    wait_child(pid);
}

/* From inside a callback: the rest of the outcomes comes in the child. */
static void in_a_callback(void)
{
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        struct row row = {0, 0};
        int code = BROKER_OK;
        client = open_redis();
        for (int i = 0; i < 20; i++)
            CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, fork_inside, &row), BROKER_OK);
        CHECK_INT(broker_client_follow_fork(client, 1), BROKER_OK);
        while (row.got < 20 && code >= 0)
            code = broker_client_process(client, -1);
        if (row.moved) {
            CHECK_INT(code, BROKER_EFORKED);
            CHECK_INT(row.got, 10);
            client_is_gone();
        } else {
            CHECK_INT(row.got, 20);
            EXPECT(client, "+PONG", "PING");
            close_client(client);
        }
        end_child();
    }
    wait_child(pid);
}

static void *wait_on(void *unused)
{
    (void)unused;
    int code;
    /* Whoever asks meanwhile may be in its way. */
    while ((code = broker_client_process(client, -1)) == 0 || code == BROKER_EREENTRANT)
        ;
    CHECK_INT(code, 1);
    return NULL;
}

/* At work in another thread, it stays where that thread is. */
static void at_work_elsewhere(void)
{
    pthread_t thread;
    struct redis redis = redis_connect();
    struct outcome popped = {0};
    client = open_redis();
    CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "follow:list", "0"), NULL, BROKER_FOREVER, NULL, keep, &popped), BROKER_OK);
    while (redis_info(&redis, "clients", "blocked_clients") == 0)
        CHECK_OK(broker_client_process(client, 0));
    CHECK_INT(broker_client_follow_fork(client, 1), BROKER_OK);
    CHECK_INT(pthread_create(&thread, NULL, wait_on, NULL), 0);
    wait_in_use(client);
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        CHECK_INT(broker_client_process(client, 0), BROKER_EFORKED);
        CHECK_INT(broker_client_after_fork(client), BROKER_OK);
        EXPECT(client, "+PONG", "PING");
        close_client(client);
        end_child_of_threads();
    }
    wait_child(pid);
    CHECK_TEXT(redis_ask(&redis, "RPUSH follow:list x"), ":1");
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(popped.calls, 1);
    EXPECT(client, "+PONG", "PING");
    close_client(client);
    redis_close(&redis);
}

enum { IN_A_STEP = 500 };
static int driven_code, driving_over;
/* Callbacks of the present step that have run. */
static volatile int in_step;

static void count_in_step(broker_client_t *same, int status, void *data)
{
    (void)same, (void)status, (void)data;
    in_step++;
}

/* Steps of many callbacks each, without a wait. */
static void *drive(void *unused)
{
    (void)unused;
    do {
        in_step = 0;
        int code = BROKER_OK;
        for (int i = 0; i < IN_A_STEP && code == BROKER_OK; i++)
            code = broker_client_post(client, count_in_step, NULL);
        driven_code = broker_client_process(client, 0);
    } while (driven_code >= 0 && !__atomic_load_n(&driving_over, __ATOMIC_RELAXED));
    return NULL;
}

/* Between two callbacks of one step, too, another thread is at work on it. What moves between two steps is whole. */
static void between_callbacks(void)
{
    if (ALLOCATOR_FORKS_LOCKED)
        return;
    for (int round = 0; round < 60; round++) {
        pthread_t thread;
        client = open_redis();
        EXPECT(client, "+PONG", "PING");
        CHECK_INT(broker_client_follow_fork(client, 1), BROKER_OK);
        driving_over = in_step = 0;
        CHECK_INT(pthread_create(&thread, NULL, drive, NULL), 0);
        while (in_step == 0)
            sched_yield();
        pid_t pid = fork_or_fail();
        if (pid == 0) {
            int begun = in_step;
            int code = broker_client_process(client, 0);
            if (begun > 0 && begun < IN_A_STEP)
                CHECK_INT(code, BROKER_EFORKED);
            if (code == BROKER_EFORKED)
                CHECK_INT(broker_client_after_fork(client), BROKER_OK);
            EXPECT(client, "+PONG", "PING");
            close_client(client);
            end_child_of_threads();
        }
        __atomic_store_n(&driving_over, 1, __ATOMIC_RELAXED);
        CHECK_INT(pthread_join(thread, NULL), 0);
        /* Claimed by the fork, or gone, when the next step began. */
        if (driven_code < 0 && driven_code != BROKER_EREENTRANT)
            CHECK_INT(driven_code, BROKER_EFORKED);
        wait_child(pid);
        CHECK_INT(broker_client_free(client), BROKER_OK);
    }
}

enum { POSTS_MAX = 100000 };
/* How often each post ran, in whichever process. */
static unsigned char *ran;

static void count_run(broker_client_t *same, int status, void *data)
{
    (void)same;
    CHECK_INT(status, BROKER_OK);
    __atomic_add_fetch((unsigned char *)data, 1, __ATOMIC_RELAXED);
}

static int posted;

/* Until the client is gone: how many it took. */
static void *post(void *unused)
{
    (void)unused;
    int code = BROKER_OK;
    while (posted < POSTS_MAX && code != BROKER_EFORKED) {
        code = broker_client_post(client, count_run, ran + posted);
        CHECK(code == BROKER_OK || code == BROKER_EAGAIN || code == BROKER_EFORKED);
        if (code == BROKER_OK)
            __atomic_add_fetch(&posted, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* What other threads' posts were accepted runs once, here before or in the child afterwards. */
static void posted_meanwhile(void)
{
    if (ALLOCATOR_FORKS_LOCKED)
        return;
    for (int round = 0; round < 10; round++) {
        pthread_t thread;
        ran = mmap(NULL, POSTS_MAX, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CHECK(ran != MAP_FAILED);
        posted = 0;
        client = open_redis();
        CHECK_INT(broker_client_follow_fork(client, 1), BROKER_OK);
        CHECK_INT(pthread_create(&thread, NULL, post, NULL), 0);
        while (__atomic_load_n(&posted, __ATOMIC_RELAXED) < 100)
            CHECK_OK(broker_client_process(client, 0));
        pid_t pid = fork_or_fail();
        if (pid == 0) {
            CHECK_OK(broker_client_process(client, 0));
            EXPECT(client, "+PONG", "PING");
            close_client(client);
            end_child_of_threads();
        }
        CHECK_INT(pthread_join(thread, NULL), 0);
        wait_child(pid);
        for (int i = 0; i < posted; i++)
            CHECK_INT(ran[i], 1);
        CHECK_INT(broker_client_free(client), BROKER_OK);
        munmap(ran, POSTS_MAX);
    }
}

static int leaves_errno;

/* What a library of the program's does before a fork, after everybody else. */
static void leave_errno(void)
{
    if (leaves_errno)
        errno = EAGAIN;
}

/* What others leave in errno is no sign of a fork that failed: one process has the client, not both. */
static void errno_of_another_handler(void)
{
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        /* Another child, which does not end. */
        pid_t other = fork_or_fail();
        if (other == 0)
            for (;;)
                pause();
        leaves_errno = 1;
        for (int round = 0; round < 20; round++) {
            client = open_redis();
            EXPECT(client, "+PONG", "PING");
            CHECK_INT(broker_client_follow_fork(client, 1), BROKER_OK);
            errno = ENOENT;
            pid_t child = fork_or_fail();
            if (child == 0) {
                EXPECT(client, "child", "ECHO", "child");
                close_client(client);
                end_child();
            }
            CHECK_INT(errno, ENOENT);
            client_is_gone();
            wait_child(child);
        }
        kill_child(other);
        end_child();
    }
    wait_child(pid);
}

/* From here on, this process cannot fork. */
static void forbid_forks(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    CHECK_INT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_INT(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

/* A fork that fails moves nothing. */
static void no_child(void)
{
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        client = open_redis();
        EXPECT(client, "+PONG", "PING");
        CHECK_INT(broker_client_follow_fork(client, 1), BROKER_OK);
        forbid_forks();
        errno = 0;
        CHECK_INT(fork(), -1);
        CHECK_INT(errno, EAGAIN);
        EXPECT(client, "+PONG", "PING");
        CHECK_INT(broker_client_wakeup(client), BROKER_OK);
        close_client(client);
        /* A leak checker would need a thread of its own. */
        end_child_of_threads();
    }
    wait_child(pid);
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
        {"a_loop_through_a_double_fork", a_loop_through_a_double_fork},
        {"a_client_with_all_it_has", a_client_with_all_it_has},
        {"in_a_callback", in_a_callback},
        {"at_work_elsewhere", at_work_elsewhere},
        {"between_callbacks", between_callbacks},
        {"posted_meanwhile", posted_meanwhile},
        {"errno_of_another_handler", errno_of_another_handler},
        {"no_child", no_child}};
    char path[PATH_SIZE], endpoint[PATH_SIZE + 8];
    private_path(path, "follow.sock");
    snprintf(endpoint, sizeof endpoint, "unix://%s", path);
    /* Registered before the library's, it runs after it. */
    CHECK_INT(pthread_atfork(leave_errno, NULL, NULL), 0);
    CHECK_INT(setenv("BROKER_ENDPOINT", endpoint, 1), 0);
    begin();
    RUN_PARTS(parts);
    return 0;
}

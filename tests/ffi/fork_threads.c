/*
 * One thread works while another forks, again and again: no fork may catch a handle half-way through a change. Every
 * reply of the parent is right and in order; every child gets a working client from the handle it inherits.
 */
#include "client.h"

#include <pthread.h>
#include <sched.h>

static broker_client_t *client;
static broker_loop_t *loop;
static volatile int over;

/* Both ways a client is driven: calls that wait, and a loop of its own with much in flight. */
static long worked;

static void next_number(broker_client_t *same, int status, const broker_reply_t *reply, void *data)
{
    long *got = data;
    (void)same;
    CHECK_INT(status, BROKER_OK);
    CHECK_INT(broker_reply_integer(reply), ++*got);
}

static void *work(void *unused)
{
    long got = 0, sent = 0;
    (void)unused;
    while (!over) {
        for (int i = 0; i < 50; i++, sent++)
            CHECK_INT(broker_client_submit(client, ARGV("INCR", "worker"), NULL, BROKER_FOREVER, NULL, next_number, &got), BROKER_OK);
        EXPECT(client, "same", "ECHO", "same");
        CHECK_INT(got, sent);
        worked++;
    }
    return NULL;
}

static void child_of_client(int i)
{
    char key[64];
    int code = broker_client_call(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL);
    CHECK_INT(code, BROKER_EFORKED);
    CHECK_INT(broker_client_after_fork(client), BROKER_OK);
    snprintf(key, sizeof key, "child:%d:%d", (int)getpid(), i);
    EXPECT(client, ":1", "INCR", key);
    EXPECT(client, ":1", "DEL", key);
    close_client(client);
    end_child_of_threads();
}

static void forks_beside_a_client(int forks)
{
    pthread_t worker;
    client = open_redis();
    EXPECT(client, ":0", "DEL", "worker");
    over = 0;
    CHECK_INT(pthread_create(&worker, NULL, work, NULL), 0);
    for (int i = 0; i < forks; i++) {
        pid_t pid = fork_or_fail();
        if (pid == 0)
            child_of_client(i);
        wait_child(pid);
    }
    over = 1;
    CHECK_INT(pthread_join(worker, NULL), 0);
    CHECK(worked > 0);
    close_client(client);
}

static void *run(void *unused)
{
    (void)unused;
    CHECK_OK(broker_loop_run(loop, BROKER_RUN_DEFAULT));
    return NULL;
}

static void child_of_loop(void)
{
    CHECK_INT(broker_loop_run(loop, BROKER_RUN_NOWAIT), BROKER_EFORKED);
    CHECK_INT(broker_loop_stop(loop), BROKER_EFORKED);
    CHECK_INT(broker_loop_run(loop, BROKER_RUN_NOWAIT), BROKER_EFORKED);
    CHECK_INT(broker_loop_free(loop), BROKER_OK);
    end_child_of_threads();
}

/* The loop's thread serves a client of this process under load while the main thread forks. */
static void forks_beside_a_loop(int forks)
{
    pthread_t runner, worker;
    char upstream[PATH_SIZE], path[PATH_SIZE], listen_url[PATH_SIZE + 8], words[200] = "";
    snprintf(upstream, sizeof upstream, "unix://%s", setting("BROKER_TEST_REDIS"));
    private_path(path, "threads.sock");
    snprintf(listen_url, sizeof listen_url, "unix://%s", path);
    broker_config_t *config = configure("upstream", upstream, "listen", listen_url, (char *)NULL);
    if (broker_loop_new(&loop, config, words, sizeof words) != BROKER_OK)
        FAIL("%s", words);
    CHECK_INT(broker_config_free(config), BROKER_OK);
    CHECK_INT(pthread_create(&runner, NULL, run, NULL), 0);
    client = open_client(listen_url, NULL);
    EXPECT(client, ":1", "DEL", "worker");
    over = 0;
    CHECK_INT(pthread_create(&worker, NULL, work, NULL), 0);
    for (int i = 0; i < forks; i++) {
        pid_t pid = fork_or_fail();
        if (pid == 0) {
            if (i % 2 == 0)
                child_of_loop();
            child_of_client(i);
        }
        wait_child(pid);
    }
    over = 1;
    CHECK_INT(pthread_join(worker, NULL), 0);
    close_client(client);
    CHECK_INT(broker_loop_stop(loop), BROKER_OK);
    CHECK_INT(pthread_join(runner, NULL), 0);
    CHECK_INT(broker_loop_free(loop), BROKER_OK);
}

/* A second thread inside the handle is told so, or waits for nothing: never two at once. */
static void *intrude(void *unused)
{
    (void)unused;
    while (!over) {
        int code = broker_client_process(client, 0);
        CHECK(code >= 0 || code == BROKER_EREENTRANT);
        sched_yield();
    }
    return NULL;
}

static void a_second_thread(void)
{
    pthread_t intruder;
    client = open_redis();
    EXPECT(client, "+PONG", "PING");
    over = 0;
    CHECK_INT(pthread_create(&intruder, NULL, intrude, NULL), 0);
    for (int i = 0; i < 2000; i++) {
        int code = broker_client_process(client, 0);
        CHECK(code == BROKER_OK || code == BROKER_EREENTRANT);
        CHECK_INT(broker_client_wakeup(client), BROKER_OK);
    }
    over = 1;
    CHECK_INT(pthread_join(intruder, NULL), 0);
    EXPECT(client, "+PONG", "PING");
    close_client(client);
}

int main(int argc, char **argv)
{
    int forks = argc > 1 ? atoi(argv[1]) : 60;
    begin();
    forks_beside_a_client(forks);
    forks_beside_a_loop(forks);
    a_second_thread();
    return 0;
}

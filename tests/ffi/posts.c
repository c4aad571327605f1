/*
 * What any thread may post: run once each, in order, in the handle's own thread; told BROKER_ECANCELED where the handle
 * ends first; refused beyond a limit. Of clients, sessions, loops and loops' clients.
 */
#include "loop.h"

#include <pthread.h>
#include <sched.h>

enum { THREADS = 4, POSTS = 500, LIMIT = 65536 };

static pthread_t owner;

struct count {
    int ran, canceled;
    void *handle;
};

/* Each thread's posts come in its order. */
struct item {
    struct count *count;
    int thread, number;
};

static struct item items[THREADS][POSTS];
static int last[THREADS];

static void note(struct item *item, const void *handle, int status)
{
    CHECK(pthread_equal(pthread_self(), owner));
    CHECK(handle == item->count->handle);
    CHECK_INT(status, BROKER_OK);
    CHECK_INT(item->number, last[item->thread]++);
    item->count->ran++;
}

static void of_client(broker_client_t *client, int status, void *data)
{
    note(data, client, status);
}

static void of_loop(broker_loop_t *loop, int status, void *data)
{
    note(data, loop, status);
}

static int to_loop;

static void *post(void *data)
{
    struct item *row = data;
    for (int i = 0; i < POSTS; i++) {
        void *handle = row[i].count->handle;
        CHECK_INT(to_loop ? broker_loop_post(handle, of_loop, &row[i]) : broker_client_post(handle, of_client, &row[i]), BROKER_OK);
    }
    return NULL;
}

/* All threads post to `handle`, while `step` drives it. */
static void from_threads(void *handle, void (*step)(void *driven), void *driven)
{
    pthread_t threads[THREADS];
    struct count count = {0, 0, handle};
    owner = pthread_self();
    memset(last, 0, sizeof last);
    for (int i = 0; i < THREADS; i++) {
        for (int j = 0; j < POSTS; j++)
            items[i][j] = (struct item){&count, i, j};
        CHECK_INT(pthread_create(&threads[i], NULL, post, items[i]), 0);
    }
    /* Each post wakes whoever waits. */
    while (count.ran < THREADS * POSTS)
        step(driven);
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_join(threads[i], NULL), 0);
}

static void step_client(void *client)
{
    CHECK_OK(broker_client_process(client, BROKER_FOREVER));
}

static void step_loop(void *loop)
{
    CHECK_OK(broker_loop_run(loop, BROKER_RUN_ONCE));
}

static void count_one(broker_client_t *client, int status, void *data)
{
    struct count *count = data;
    CHECK(client == count->handle);
    CHECK(status == BROKER_OK || status == BROKER_ECANCELED);
    status == BROKER_OK ? count->ran++ : count->canceled++;
}

static void free_client(broker_client_t *client, int status, void *data)
{
    count_one(client, status, data);
    CHECK_INT(broker_client_free(client), BROKER_OK);
    CHECK_INT(broker_client_post(client, count_one, data), BROKER_ESTATE);
}

static void again(broker_client_t *client, int status, void *data)
{
    struct count *count = data;
    count_one(client, status, data);
    if (count->ran < 10)
        CHECK_INT(broker_client_post(client, again, data), BROKER_OK);
}

static void of_ends(void)
{
    struct count count = {0};
    broker_client_t *client = open_redis();
    count.handle = client;
    CHECK_INT(broker_client_post(client, NULL, NULL), BROKER_EINVAL);
    /* What is posted while posts run comes in the next step. */
    CHECK_INT(broker_client_post(client, again, &count), BROKER_OK);
    CHECK_INT(broker_client_timeout(client), 0);
    for (int i = 1; i <= 10; i++) {
        CHECK_OK(broker_client_process(client, 0));
        CHECK_INT(count.ran, i);
    }
    count.ran = 0;
    CHECK_INT(broker_client_post(client, count_one, &count), BROKER_OK);
    CHECK_INT(broker_client_post(client, free_client, &count), BROKER_OK);
    CHECK_INT(broker_client_post(client, count_one, &count), BROKER_OK);
    CHECK_INT(broker_client_process(client, 0), BROKER_ESTATE);
    CHECK_INT(count.ran, 2);
    CHECK_INT(count.canceled, 1);
    /* A session that is freed first is told so by the client whose it is. */
    client = open_redis();
    broker_client_t *session;
    CHECK_INT(broker_client_session(&session, client), BROKER_OK);
    count = (struct count){0, 0, session};
    CHECK_INT(broker_client_post(session, count_one, &count), BROKER_OK);
    CHECK_INT(broker_client_free(session), BROKER_OK);
    CHECK_INT(broker_client_post(session, count_one, &count), BROKER_ESTATE);
    CHECK_OK(broker_client_process(client, 0));
    CHECK_INT(count.canceled, 1);
    CHECK_INT(count.ran, 0);
    close_client(client);
    client = open_redis();
    count = (struct count){0, 0, client};
    for (int i = 0; i < LIMIT; i++)
        CHECK_INT(broker_client_post(client, count_one, &count), BROKER_OK);
    CHECK_INT(broker_client_post(client, count_one, &count), BROKER_EAGAIN);
    close_client(client);
    CHECK_INT(count.canceled, LIMIT);
    broker_loop_t *loop = open_loop(NULL, NULL);
    count = (struct count){0, 0, own(loop)};
    CHECK_INT(broker_client_post(own(loop), count_one, &count), BROKER_OK);
    client = own(loop);
    CHECK_INT(broker_loop_free(loop), BROKER_OK);
    CHECK_INT(count.canceled, 1);
    CHECK_INT(broker_client_post(client, count_one, &count), BROKER_ESTATE);
    CHECK_INT(broker_client_wakeup(client), BROKER_ESTATE);
    close_client(client);
}

int main(void)
{
    begin();
    broker_client_t *client = open_redis(), *session;
    CHECK_INT(broker_client_session(&session, client), BROKER_OK);
    from_threads(client, step_client, client);
    from_threads(session, step_client, client);
    from_threads(session, step_client, session);
    broker_loop_t *loop = open_loop(NULL, NULL);
    from_threads(own(loop), step_loop, loop);
    to_loop = 1;
    from_threads(loop, step_loop, loop);
    close_loop(loop);
    CHECK_INT(broker_client_free(session), BROKER_OK);
    close_client(client);
    of_ends();
    return 0;
}

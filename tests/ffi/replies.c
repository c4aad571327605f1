/*
 * Replies that are kept and freed: each as often as it was handed out, and once too often, which is noticed. Parts, and
 * what callbacks got, are not freed. From many threads, too.
 */
#include "client.h"

#include <pthread.h>

static broker_client_t *client;

static broker_reply_t *list_of_three(void)
{
    broker_reply_t *reply = NULL;
    CHECK_INT(broker_client_call(client, ARGV("EVAL", "return {'one', {'two'}, 3}", "0"), NULL, BROKER_FOREVER, &reply), BROKER_OK);
    return reply;
}

/* What a reply that is over says: the same as NULL. */
static void check_over(broker_reply_t *reply)
{
    size_t len = 9;
    CHECK_INT(broker_reply_free(reply), BROKER_ESTATE);
    CHECK_INT(broker_reply_type(reply), BROKER_EINVAL);
    CHECK_INT(broker_reply_len(reply), 0);
    CHECK_INT(broker_reply_integer(reply), 0);
    CHECK(broker_reply_double(reply) == 0);
    CHECK(broker_reply_at(reply, 0) == NULL);
    CHECK(broker_reply_string(reply, &len) == NULL);
    CHECK_INT(len, 0);
    CHECK(broker_reply_raw(reply, &len) == NULL);
    CHECK(broker_reply_dup(reply) == NULL);
    CHECK_INT(broker_reply_free(reply), BROKER_ESTATE);
}

static void freed_twice(void)
{
    broker_reply_t *reply = list_of_three();
    CHECK_INT(broker_reply_free(NULL), BROKER_OK);
    CHECK_INT(broker_reply_free(reply), BROKER_OK);
    check_over(reply);
    /* And soon after. */
    for (int i = 0; i < 100; i++)
        CHECK_INT(broker_reply_free(list_of_three()), BROKER_OK);
    check_over(reply);
    /* Memory of freed ones is used again in the end. */
    for (int i = 0; i < 1000; i++)
        CHECK_INT(broker_reply_free(list_of_three()), BROKER_OK);
}

static void kept_and_freed(void)
{
    broker_reply_t *reply = list_of_three();
    for (int i = 0; i < 5; i++)
        CHECK(broker_reply_dup(reply) != NULL);
    for (int i = 0; i < 5; i++) {
        CHECK_INT(broker_reply_free(reply), BROKER_OK);
        CHECK_INT(broker_reply_len(reply), 3);
    }
    CHECK_INT(broker_reply_free(reply), BROKER_OK);
    check_over(reply);
}

static void parts(void)
{
    broker_reply_t *reply = list_of_three();
    const broker_reply_t *pair = broker_reply_at(reply, 1);
    CHECK_INT(broker_reply_free((broker_reply_t *)pair), BROKER_EINVAL);
    CHECK_INT(broker_reply_free((broker_reply_t *)broker_reply_at(pair, 0)), BROKER_EINVAL);
    broker_reply_t *first = broker_reply_dup(pair), *again = broker_reply_dup(first);
    broker_reply_t *second = broker_reply_dup(broker_reply_at(first, 0));
    CHECK_INT(broker_reply_free(reply), BROKER_OK);
    CHECK_INT(broker_reply_free(reply), BROKER_ESTATE);
    CHECK_TEXT(broker_reply_string(broker_reply_at(first, 0), NULL), "two");
    CHECK_INT(broker_reply_free(first), BROKER_OK);
    CHECK_TEXT(broker_reply_string(broker_reply_at(again, 0), NULL), "two");
    CHECK_INT(broker_reply_free(again), BROKER_OK);
    check_over(again);
    CHECK_TEXT(broker_reply_string(second, NULL), "two");
    CHECK_INT(broker_reply_free(second), BROKER_OK);
    check_over(second);
    check_over(reply);
}

static broker_reply_t *kept, *borrowed;

static void keep_one(broker_client_t *same, int status, const broker_reply_t *reply, void *data)
{
    (void)same;
    CHECK_INT(status, BROKER_OK);
    borrowed = (broker_reply_t *)reply;
    /* Not the callback's to free, unless it has kept it. */
    CHECK_INT(broker_reply_free(borrowed), BROKER_EINVAL);
    kept = broker_reply_dup(reply);
    CHECK_INT(broker_reply_free(kept), BROKER_OK);
    CHECK_INT(broker_reply_free(kept), BROKER_ESTATE);
    CHECK_TEXT(broker_reply_string(reply, NULL), "text");
    kept = broker_reply_dup(reply);
    *(int *)data = 1;
}

static void in_callbacks(void)
{
    int done = 0;
    CHECK_INT(broker_client_submit(client, ARGV("ECHO", "text"), NULL, BROKER_FOREVER, NULL, keep_one, &done), BROKER_OK);
    while (!done)
        CHECK_OK(broker_client_process(client, 1000));
    CHECK_TEXT(broker_reply_string(kept, NULL), "text");
    CHECK_INT(broker_reply_free(kept), BROKER_OK);
    check_over(kept);
    check_over(borrowed);
}

enum { THREADS = 4, ROUNDS = 2000 };

static broker_reply_t *shared;
static pthread_barrier_t barrier;
static int ends;

static void *keep_and_free(void *data)
{
    (void)data;
    for (int i = 0; i < ROUNDS; i++) {
        broker_reply_t *own = broker_reply_dup(shared), *part = broker_reply_dup(broker_reply_at(shared, 1));
        CHECK_TEXT(broker_reply_string(broker_reply_at(part, 0), NULL), "two");
        CHECK_INT(broker_reply_free(own), BROKER_OK);
        CHECK_INT(broker_reply_free(part), BROKER_OK);
    }
    /* All at once, and one is right. */
    pthread_barrier_wait(&barrier);
    int code = broker_reply_free(shared);
    CHECK(code == BROKER_OK || code == BROKER_ESTATE);
    __atomic_fetch_add(&ends, code == BROKER_OK, __ATOMIC_RELAXED);
    return NULL;
}

static void from_many_threads(void)
{
    pthread_t threads[THREADS];
    shared = list_of_three();
    ends = 0;
    CHECK_INT(pthread_barrier_init(&barrier, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_create(&threads[i], NULL, keep_and_free, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_join(threads[i], NULL), 0);
    CHECK_INT(ends, 1);
    pthread_barrier_destroy(&barrier);
    check_over(shared);
}

int main(int argc, char **argv)
{
    static const struct part parts_of_it[] = {
        {"freed_twice", freed_twice},
        {"kept_and_freed", kept_and_freed},
        {"parts", parts},
        {"in_callbacks", in_callbacks},
        {"from_many_threads", from_many_threads},
    };
    begin();
    client = open_redis();
    RUN_PARTS(parts_of_it);
    close_client(client);
    return 0;
}

/*
 * The same program as hiredis_child.c on libbroker: the same work and the same checks, with broker_client_t.
 *
 *     libbroker_child SOCKET SECONDS CHILD_ID
 *
 * Works for SECONDS, then prints its counts as the last line. Exits with 0 if every reply was the right one.
 * CHILD_ID keeps the keys of several such programs apart.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <broker.h>

/* A reply that takes longer is lost, in milliseconds. Longer than a request may wait for a lane. */
#define PATIENCE 15000
/* Requests submitted together before the first reply. */
#define PIPELINE 16
/* Connections of the client: one for all requests, and one on which its blocking pops wait in turn. */
#define CONNECTIONS 2
/* Wrong replies described on standard error; the rest is only counted. */
#define WRONG_SHOWN 3

struct child {
    broker_client_t *client;
    char key[64];
    char counter[64];
    char list[64];
    long long count; /* the expected value of the counter in Redis */
    int pending;     /* submitted requests without an outcome */
    int broken;      /* the first code instead of a reply */
    unsigned long requests;
    unsigned long checked;
    unsigned long mismatches;
};

/* Counts an outcome with a reply; stores the code of one without. */
static int counted(struct child *child, int code)
{
    if (code == BROKER_OK)
        child->requests++;
    else if (child->broken == BROKER_OK)
        child->broken = code;
    return code == BROKER_OK;
}

/* NULL: there is no reply, and the work ends. */
static broker_reply_t *ask(struct child *child, size_t argc, const char *const *argv, const size_t *argvlen)
{
    broker_reply_t *reply = NULL;

    counted(child, broker_client_call(child->client, argc, argv, argvlen, PATIENCE, &reply));
    return reply;
}

static void check(struct child *child, int right, const char *what, const broker_reply_t *reply)
{
    const char *text = broker_reply_string(reply, NULL);

    child->checked++;
    if (right)
        return;
    child->mismatches++;
    if (child->mismatches <= WRONG_SHOWN)
        fprintf(stderr, "libbroker_child: %s: wrong reply: type %d, number %lld, text \"%s\"\n", what,
                broker_reply_type(reply), (long long)broker_reply_integer(reply), text != NULL ? text : "");
}

static int is_text(const broker_reply_t *reply, int type, const char *text)
{
    size_t len;
    const char *string = broker_reply_string(reply, &len);

    return broker_reply_type(reply) == type && len == strlen(text) && memcmp(string, text, len) == 0;
}

static int is_number(const broker_reply_t *reply, long long number)
{
    return broker_reply_type(reply) == BROKER_REPLY_INTEGER && broker_reply_integer(reply) == number;
}

/* An array of two. */
static int is_pair(const broker_reply_t *reply)
{
    return broker_reply_type(reply) == BROKER_REPLY_ARRAY && broker_reply_len(reply) == 2;
}

/* Checks a reply of the given type and text and frees it. Returns 0 if there was none. */
static int expect_text(struct child *child, const char *what, broker_reply_t *reply, int type,
                       const char *text)
{
    if (reply == NULL)
        return 0;
    check(child, is_text(reply, type, text), what, reply);
    broker_reply_free(reply);
    return 1;
}

/* One request, one reply; the text is new each time, so that another request's reply would be detected. */
static int plain(struct child *child, const char *nonce)
{
    broker_reply_t *set = ask(child, BROKER_ARGV("SET", child->key, nonce));

    return expect_text(child, "SET", set, BROKER_REPLY_STATUS, "OK") &&
           expect_text(child, "GET", ask(child, BROKER_ARGV("GET", child->key)), BROKER_REPLY_STRING, nonce) &&
           expect_text(child, "ECHO", ask(child, BROKER_ARGV("ECHO", nonce)), BROKER_REPLY_STRING, nonce);
}

static void on_increased(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    struct child *child = data;

    (void)client;
    child->pending--;
    if (!counted(child, status))
        return;
    child->count++;
    check(child, is_number(reply, child->count), "INCR", reply);
}

/* Many requests before the first reply; the callbacks must run in the order of the requests. */
static int pipelined(struct child *child)
{
    int i, code;

    for (i = 0; i < PIPELINE; i++) {
        code = broker_client_submit(child->client, BROKER_ARGV("INCR", child->counter), PATIENCE, NULL,
                                    on_increased, child);
        if (code != BROKER_OK)
            return counted(child, code);
        child->pending++;
    }
    while (child->pending > 0)
        if ((code = broker_client_process(child->client, BROKER_FOREVER)) < 0)
            return counted(child, code);
    return child->broken == BROKER_OK;
}

/* One submit and one reply, though Redis executes two commands. */
static int transaction(struct child *child, const char *nonce)
{
    broker_transaction_t *both = broker_transaction_new();
    broker_reply_t *reply = NULL;
    char next[80];
    int right;

    snprintf(next, sizeof next, "x%s", nonce);
    broker_transaction_add(both, BROKER_ARGV("INCR", child->counter));
    broker_transaction_add(both, BROKER_ARGV("GETSET", child->key, next));
    counted(child, broker_client_call_transaction(child->client, both, PATIENCE, &reply));
    broker_transaction_free(both);
    if (reply == NULL)
        return 0;
    child->count++;
    right = is_pair(reply) && is_number(broker_reply_at(reply, 0), child->count) &&
            is_text(broker_reply_at(reply, 1), BROKER_REPLY_STRING, nonce);
    check(child, right, "EXEC", reply);
    broker_reply_free(reply);
    return 1;
}

static int blocking_pop(struct child *child, const char *nonce)
{
    broker_reply_t *reply = ask(child, BROKER_ARGV("RPUSH", child->list, nonce));
    int right;

    if (reply == NULL)
        return 0;
    check(child, is_number(reply, 1), "RPUSH", reply);
    broker_reply_free(reply);
    reply = ask(child, BROKER_ARGV("BLPOP", child->list, "5"));
    if (reply == NULL)
        return 0;
    right = is_pair(reply) && is_text(broker_reply_at(reply, 0), BROKER_REPLY_STRING, child->list) &&
            is_text(broker_reply_at(reply, 1), BROKER_REPLY_STRING, nonce);
    check(child, right, "BLPOP", reply);
    broker_reply_free(reply);
    return 1;
}

/* Removes keys of an earlier run, so the reply can be any number: it is not checked. */
static int forget(struct child *child)
{
    broker_reply_t *reply = ask(child, BROKER_ARGV("DEL", child->key, child->counter, child->list));

    broker_reply_free(reply);
    return reply != NULL;
}

static time_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec;
}

/* Returns 0 when a request got no reply. */
static int work(struct child *child, long seconds, long id)
{
    time_t end = now() + (time_t)seconds;
    unsigned long round = 0;
    char nonce[64];

    if (!forget(child))
        return 0;
    do {
        snprintf(nonce, sizeof nonce, "%ld:%lu", id, round++);
        if (!plain(child, nonce) || !pipelined(child) || !transaction(child, nonce) ||
            !blocking_pop(child, nonce))
            return 0;
    } while (now() < end);
    return forget(child);
}

/* A number from the command line, or -1. */
static long number(const char *text)
{
    char *rest;
    long value;

    errno = 0;
    value = strtol(text, &rest, 10);
    return errno == 0 && rest != text && *rest == '\0' && value <= INT_MAX ? value : -1;
}

int main(int argc, char **argv)
{
    struct child child = {0};
    long seconds = argc == 4 ? number(argv[2]) : -1;
    long id = argc == 4 ? number(argv[3]) : -1;
    char endpoint[PATH_MAX], error[256];
    int done;

    if (seconds < 0 || id < 0) {
        fprintf(stderr, "usage: libbroker_child SOCKET SECONDS CHILD_ID\n");
        return 2;
    }
    snprintf(child.key, sizeof child.key, "libbroker_child:%ld:key", id);
    snprintf(child.counter, sizeof child.counter, "libbroker_child:%ld:counter", id);
    snprintf(child.list, sizeof child.list, "libbroker_child:%ld:list", id);

    snprintf(endpoint, sizeof endpoint, "unix://%s", argv[1]);
    if (broker_client_new(&child.client, endpoint, NULL, error, sizeof error) != BROKER_OK) {
        fprintf(stderr, "libbroker_child: %s: %s\n", argv[1], error);
        return 1;
    }
    done = work(&child, seconds, id);
    if (!done)
        fprintf(stderr, "libbroker_child: no reply: %s: %s\n", broker_err_name(child.broken),
                broker_client_error(child.client));
    printf("requests=%lu checked=%lu mismatches=%lu connections=%d\n", child.requests, child.checked,
           child.mismatches, CONNECTIONS);
    broker_client_free(child.client);
    return done && child.mismatches == 0 ? 0 : 1;
}

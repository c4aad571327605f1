/*
 * An ordinary hiredis program that checks every reply. The only part of it that concerns the broker is the path of the
 * socket: with Redis' own unix socket it does the same.
 *
 *     hiredis_child SOCKET SECONDS CHILD_ID
 *
 * Works for SECONDS, then prints its counts as the last line. Exits with 0 if every reply was the right one.
 * CHILD_ID keeps the keys of several such programs apart.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include <hiredis/hiredis.h>

/* A reply that takes longer is lost, in seconds. Longer than a request may wait for a lane. */
#define REPLY_TIMEOUT 15
/* Requests written together before the first reply is read. */
#define PIPELINE 16
/* Wrong replies described on standard error; the rest is only counted. */
#define WRONG_SHOWN 3

struct child {
    redisContext *redis;
    char key[64];
    char counter[64];
    char list[64];
    long long count; /* the expected value of the counter in Redis */
    unsigned long requests;
    unsigned long checked;
    unsigned long mismatches;
};

/* Counts a request whose reply has been read. NULL means that the connection is unusable. */
static redisReply *counted(struct child *child, redisReply *reply)
{
    if (reply != NULL)
        child->requests++;
    return reply;
}

static redisReply *ask(struct child *child, const char *format, ...)
{
    va_list args;
    redisReply *reply;

    va_start(args, format);
    reply = redisvCommand(child->redis, format, args);
    va_end(args);
    return counted(child, reply);
}

static void check(struct child *child, int right, const char *what, const redisReply *reply)
{
    child->checked++;
    if (right)
        return;
    child->mismatches++;
    if (child->mismatches <= WRONG_SHOWN)
        fprintf(stderr, "hiredis_child: %s: wrong reply: type %d, number %lld, text \"%s\"\n", what,
                reply->type, reply->integer, reply->str != NULL ? reply->str : "");
}

static int is_text(const redisReply *reply, int type, const char *text)
{
    return reply->type == type && reply->len == strlen(text) && memcmp(reply->str, text, reply->len) == 0;
}

static int is_number(const redisReply *reply, long long number)
{
    return reply->type == REDIS_REPLY_INTEGER && reply->integer == number;
}

/* Checks a reply of the given type and text and frees it. Returns 0 if there was none. */
static int expect_text(struct child *child, const char *what, redisReply *reply, int type, const char *text)
{
    if (reply == NULL)
        return 0;
    check(child, is_text(reply, type, text), what, reply);
    freeReplyObject(reply);
    return 1;
}

static int expect_number(struct child *child, const char *what, redisReply *reply, long long number)
{
    if (reply == NULL)
        return 0;
    check(child, is_number(reply, number), what, reply);
    freeReplyObject(reply);
    return 1;
}

/* One request, one reply; the text is new each time, so that another request's reply would be detected. */
static int plain(struct child *child, const char *nonce)
{
    return expect_text(child, "SET", ask(child, "SET %s %s", child->key, nonce), REDIS_REPLY_STATUS, "OK") &&
           expect_text(child, "GET", ask(child, "GET %s", child->key), REDIS_REPLY_STRING, nonce) &&
           expect_text(child, "ECHO", ask(child, "ECHO %s", nonce), REDIS_REPLY_STRING, nonce);
}

/* Many requests before the first reply; the replies must come in the order of the requests. */
static int pipelined(struct child *child)
{
    int i;

    for (i = 0; i < PIPELINE; i++)
        if (redisAppendCommand(child->redis, "INCR %s", child->counter) != REDIS_OK)
            return 0;
    for (i = 0; i < PIPELINE; i++) {
        void *reply = NULL;

        if (redisGetReply(child->redis, &reply) != REDIS_OK)
            return 0;
        child->count++;
        if (!expect_number(child, "INCR", counted(child, reply), child->count))
            return 0;
    }
    return 1;
}

static int transaction(struct child *child, const char *nonce)
{
    redisReply *reply;
    int right;

    if (!expect_text(child, "MULTI", ask(child, "MULTI"), REDIS_REPLY_STATUS, "OK"))
        return 0;
    reply = ask(child, "INCR %s", child->counter);
    if (!expect_text(child, "INCR in MULTI", reply, REDIS_REPLY_STATUS, "QUEUED"))
        return 0;
    reply = ask(child, "GETSET %s x%s", child->key, nonce);
    if (!expect_text(child, "GETSET in MULTI", reply, REDIS_REPLY_STATUS, "QUEUED"))
        return 0;
    reply = ask(child, "EXEC");
    if (reply == NULL)
        return 0;
    child->count++;
    right = reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
            is_number(reply->element[0], child->count) &&
            is_text(reply->element[1], REDIS_REPLY_STRING, nonce);
    check(child, right, "EXEC", reply);
    freeReplyObject(reply);
    return 1;
}

static int blocking_pop(struct child *child, const char *nonce)
{
    redisReply *reply;
    int right;

    if (!expect_number(child, "RPUSH", ask(child, "RPUSH %s %s", child->list, nonce), 1))
        return 0;
    reply = ask(child, "BLPOP %s 5", child->list);
    if (reply == NULL)
        return 0;
    right = reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
            is_text(reply->element[0], REDIS_REPLY_STRING, child->list) &&
            is_text(reply->element[1], REDIS_REPLY_STRING, nonce);
    check(child, right, "BLPOP", reply);
    freeReplyObject(reply);
    return 1;
}

/* Removes keys of an earlier run, so the reply can be any number: it is not checked. */
static int forget(struct child *child)
{
    redisReply *reply = ask(child, "DEL %s %s %s", child->key, child->counter, child->list);

    if (reply == NULL)
        return 0;
    freeReplyObject(reply);
    return 1;
}

static time_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec;
}

/* Returns 0 when the connection failed. */
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
    struct timeval patience = {REPLY_TIMEOUT, 0};
    struct child child = {0};
    long seconds = argc == 4 ? number(argv[2]) : -1;
    long id = argc == 4 ? number(argv[3]) : -1;
    int done;

    if (seconds < 0 || id < 0) {
        fprintf(stderr, "usage: hiredis_child SOCKET SECONDS CHILD_ID\n");
        return 2;
    }
    snprintf(child.key, sizeof child.key, "hiredis_child:%ld:key", id);
    snprintf(child.counter, sizeof child.counter, "hiredis_child:%ld:counter", id);
    snprintf(child.list, sizeof child.list, "hiredis_child:%ld:list", id);

    /* A closed connection must be an error of hiredis, not the end of this process. */
    signal(SIGPIPE, SIG_IGN);

    /* The only line to change: before, it was redisConnect("127.0.0.1", 6379). */
    child.redis = redisConnectUnixWithTimeout(argv[1], patience);
    if (child.redis == NULL || child.redis->err != 0) {
        fprintf(stderr, "hiredis_child: %s: %s\n", argv[1],
                child.redis != NULL ? child.redis->errstr : "no memory");
        redisFree(child.redis);
        return 1;
    }
    redisSetTimeout(child.redis, patience);
    done = work(&child, seconds, id);
    if (!done)
        fprintf(stderr, "hiredis_child: the connection failed: %s\n", child.redis->errstr);
    printf("requests=%lu checked=%lu mismatches=%lu connections=1\n", child.requests, child.checked,
           child.mismatches);
    redisFree(child.redis);
    return done && child.mismatches == 0 ? 0 : 1;
}

/*
 * Publish and subscribe, with callbacks. Subscriptions have their own connection inside the client, so
 * the same client can still send requests.
 *
 *     pubsub [ENDPOINT]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <broker.h>

#define MESSAGES 3

static int subscribed;
static int published;
static int received;
static int ended;
static int failed;

static void check(int code, const char *what)
{
    if (code >= 0)
        return;
    fprintf(stderr, "pubsub: %s: %s\n", what, broker_strerror(code));
    exit(1);
}

static int is(const broker_reply_t *reply, const char *text)
{
    const char *string = broker_reply_string(reply, NULL);

    return string != NULL && strcmp(string, text) == 0;
}

/*
 * Gets every push for one name, an array as Redis sends it: ["subscribe", name, count] first, then
 * ["message", channel, payload] or ["pmessage", pattern, channel, payload].
 */
static void on_push(broker_client_t *client, int status, const broker_reply_t *push, void *data)
{
    const char *who = data;
    size_t last = broker_reply_len(push) - 1;

    (void)client;
    if (status == BROKER_ECANCELED) {
        ended++; /* the last call, after broker_client_cancel() */
    } else if (status != BROKER_OK || broker_reply_type(push) == BROKER_REPLY_ERROR) {
        /* The last call. A lost connection does not end it: the client connects and subscribes again. */
        fprintf(stderr, "pubsub: %s is over: %s\n", who,
                status != BROKER_OK ? broker_strerror(status) : broker_reply_string(push, NULL));
        failed = 1;
    } else if (is(broker_reply_at(push, 0), "subscribe") || is(broker_reply_at(push, 0), "psubscribe")) {
        /* A second one would mean that the client has reconnected and messages may have been missed. */
        subscribed++;
    } else {
        received++;
        printf("%s: \"%s\" on %s\n", who, broker_reply_string(broker_reply_at(push, last), NULL),
               broker_reply_string(broker_reply_at(push, last - 1), NULL));
    }
}

/* The reply to PUBLISH is the number of connections that got the message. */
static void on_published(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)client;
    (void)reply;
    (void)data;
    published++;
    failed |= status != BROKER_OK;
}

/* Any number of subscriptions, also to the same name, each with its own callback and data. */
static broker_req_t subscribe(broker_client_t *client, int kind, const char *name, const char *who)
{
    broker_req_t sub;

    check(broker_client_subscribe(client, kind, name, strlen(name), &sub, on_push, (void *)who), "subscribe");
    return sub;
}

static void publish(broker_client_t *client, const char *channel, const char *text)
{
    check(broker_client_submit(client, BROKER_ARGV("PUBLISH", channel, text), BROKER_FOREVER, NULL, on_published,
                               NULL),
          "PUBLISH");
}

/* For programs without a loop; with one, see async_epoll.c and libuv.c. */
static void wait_for(broker_client_t *client, const int *number, int wanted)
{
    while (*number < wanted && !failed)
        check(broker_client_process(client, BROKER_FOREVER), "process");
}

int main(int argc, char **argv)
{
    const char *text[MESSAGES] = {"first", "second", "third"};
    broker_req_t channel, pattern;
    broker_client_t *client;
    char error[256];
    int i;

    if (broker_client_new(&client, argc > 1 ? argv[1] : NULL, NULL, error, sizeof error) != BROKER_OK) {
        fprintf(stderr, "pubsub: %s\n", error);
        return 1;
    }
    channel = subscribe(client, BROKER_CHANNEL, "news.local", "channel");
    pattern = subscribe(client, BROKER_PATTERN, "news.*", "pattern");

    /* A message published before Redis has confirmed a subscription does not reach it. */
    wait_for(client, &subscribed, 2);
    for (i = 0; i < MESSAGES; i++)
        publish(client, "news.local", text[i]);
    wait_for(client, &received, 2 * MESSAGES);

    /* From here on its callback gets no more messages: only its last call. */
    check(broker_client_cancel(client, channel), "cancel");
    publish(client, "news.local", "fourth");
    wait_for(client, &received, 2 * MESSAGES + 1);
    /* Two connections: a message may arrive before the reply to its PUBLISH. */
    wait_for(client, &published, MESSAGES + 1);
    check(broker_client_cancel(client, pattern), "cancel");
    wait_for(client, &ended, 2);
    printf("%d messages\n", received);
    broker_client_free(client);
    return failed;
}

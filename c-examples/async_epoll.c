/*
 * Asynchronous requests from a program with its own epoll loop. The client adds one descriptor, one
 * timeout and one call to the loop; it starts no thread.
 *
 *     async_epoll [ENDPOINT]
 *
 * The program's own work here is a timer: each tick sends a burst of requests without waiting for a reply.
 * <broker/adapters/epoll.h> can also watch the descriptor; this example shows what such an adapter does.
 */
#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <broker.h>

#define TICKS 5
#define TICK_NS 20000000L
/* Requests of one tick. */
#define BURST 100
#define KEY "async_epoll:count"

/* Shared by the callbacks of one tick; the last of them frees it. */
struct burst {
    int tick;
    int answered;
    int right;
};

/* The program ends when nothing is pending. */
static int pending;
static int failed;
/* How often the counter has been increased: the next reply must be this plus one. */
static long long count;
/* A request that waits until it is canceled. */
static broker_req_t pop;

static void check(int code, const char *what)
{
    if (code >= 0)
        return;
    fprintf(stderr, "async_epoll: %s: %s\n", what, broker_strerror(code));
    exit(1);
}

static void on_state(broker_client_t *client, int connected, int reason, void *data)
{
    (void)client;
    (void)data;
    if (connected)
        printf("connected\n");
    else /* no reason to end: the client connects again by itself */
        printf("not connected: %s\n", broker_strerror(reason));
}

/* The words are copied, so they may be freed when this returns. No timeout: the request has no time limit. */
static void submit(broker_client_t *client, size_t argc, const char *const *argv, const size_t *argvlen,
                   broker_req_t *req, broker_reply_cb cb, void *data)
{
    /* On an error the callback never runs; on success it runs once, and never inside this call. */
    check(broker_client_submit(client, argc, argv, argvlen, BROKER_FOREVER, req, cb, data), argv[0]);
    pending++;
}

static void on_deleted(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)client;
    (void)data;
    pending--;
    failed |= status != BROKER_OK || broker_reply_integer(reply) != 1;
}

static void on_pop(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)client;
    (void)reply; /* NULL, since there is no reply */
    (void)data;
    pending--;
    printf("BLPOP: %s\n", broker_err_name(status));
    failed |= status != BROKER_ECANCELED;
}

/* Runs for each request of a burst, in order; the reply is valid until this returns. */
static void on_count(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    struct burst *burst = data;

    pending--;
    count++;
    if (status == BROKER_OK && broker_reply_integer(reply) == count)
        burst->right++;
    if (++burst->answered < BURST)
        return;
    printf("tick %d: %d of %d replies right\n", burst->tick, burst->right, BURST);
    failed |= burst->right < BURST;
    if (burst->tick == TICKS) { /* callbacks may submit and cancel */
        check(broker_client_cancel(client, pop), "cancel");
        submit(client, BROKER_ARGV("DEL", KEY), NULL, on_deleted, NULL);
    }
    free(burst);
}

static void tick(broker_client_t *client, int number)
{
    struct burst *burst = calloc(1, sizeof *burst);
    int i;

    if (burst == NULL)
        exit(1);
    burst->tick = number;
    /* Nothing is sent yet: broker_client_process() sends a burst in one write. */
    for (i = 0; i < BURST; i++)
        submit(client, BROKER_ARGV("INCR", KEY), NULL, on_count, burst);
}

static void watch(int epoll, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        perror("async_epoll: epoll_ctl");
        exit(1);
    }
}

int main(int argc, char **argv)
{
    struct itimerspec every = {{0, TICK_NS}, {0, TICK_NS}};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    broker_client_t *client;
    char error[256];
    int ticks = 0;

    if (broker_client_new(&client, argc > 1 ? argv[1] : NULL, NULL, error, sizeof error) != BROKER_OK) {
        fprintf(stderr, "async_epoll: %s\n", error);
        return 1;
    }
    check(broker_client_on_state(client, on_state, NULL), "on_state");
    timerfd_settime(timer, 0, &every, NULL);
    watch(epoll, timer);
    watch(epoll, broker_client_fd(client)); /* the same through all reconnects */

    /* A blocking command waits on its own connection, so no other request waits behind it. */
    submit(client, BROKER_ARGV("BLPOP", "async_epoll:none", "0"), &pop, on_pop, NULL);

    while (ticks < TICKS || pending > 0) {
        struct epoll_event events[8];
        /* The client says how long the loop may sleep: -1 means until an event. */
        int ready = epoll_wait(epoll, events, 8, broker_client_timeout(client));
        int i;

        for (i = 0; i < ready; i++) {
            unsigned long long expired;

            if (events[i].data.fd == timer && read(timer, &expired, sizeof expired) > 0 && ticks < TICKS)
                tick(client, ++ticks);
        }
        /* Cheap if there is nothing to do, so the program need not check whether its descriptor was ready. */
        check(broker_client_process(client, 0), "process");
    }
    broker_client_free(client);
    close(timer);
    close(epoll);
    return failed;
}

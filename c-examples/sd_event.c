/*
 * A client in an sd-event loop, through <broker/adapters/sd_event.h>: messages of a channel arrive as events, together
 * with those of a timer, which sends them.
 *
 *     sd_event [ENDPOINT]
 */
#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <systemd/sd-event.h>

#include <broker.h>
#include <broker/adapters/sd_event.h>
#include <broker/format.h>

#define MESSAGES 3
#define TICK_USEC 1000
#define CHANNEL "sd_event:news"

/* Shared by the callbacks of this program, through their `data`. */
struct program {
    sd_event *event;
    broker_client_t *client;
    int sent;
    int received;
};

static void check(int code, const char *what)
{
    if (code >= 0)
        return;
    fprintf(stderr, "sd_event: %s: %s\n", what, broker_strerror(code));
    exit(1);
}

static void check_system(int code, const char *what)
{
    if (code >= 0)
        return;
    fprintf(stderr, "sd_event: %s: %s\n", what, strerror(-code));
    exit(1);
}

static void on_sent(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)client;
    (void)reply;
    (void)data;
    /* The last message may come before the reply to it, and with it the end. */
    if (status != BROKER_ECANCELED)
        check(status, "PUBLISH");
}

/* Sends one message, and runs again until all are sent. */
static int on_tick(sd_event_source *source, uint64_t usec, void *data)
{
    struct program *program = data;

    check(broker_client_submitf(program->client, 5000, NULL, on_sent, NULL, "PUBLISH %s %d", CHANNEL, ++program->sent),
          "submit");
    if (program->sent == MESSAGES)
        return 0;
    sd_event_source_set_time(source, usec + TICK_USEC);
    return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

/* Runs inside sd_event_loop(): first when the subscription is active, then for each message. */
static void on_news(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    struct program *program = data;
    const char *kind = broker_reply_string(broker_reply_at(reply, 0), NULL);

    (void)client;
    if (status == BROKER_ECANCELED)
        return; /* the last call */
    check(status, "SUBSCRIBE");
    if (kind != NULL && strcmp(kind, "subscribe") == 0) {
        check_system(sd_event_add_time(program->event, NULL, CLOCK_MONOTONIC, 0, 1, on_tick, program), "timer");
        return;
    }
    printf("message %s\n", broker_reply_string(broker_reply_at(reply, 2), NULL));
    if (++program->received == MESSAGES)
        sd_event_exit(program->event, 0);
}

int main(int argc, char **argv)
{
    struct program program = {0};
    broker_sd_event_t *adapter;
    char text[256];

    if (broker_client_new(&program.client, argc > 1 ? argv[1] : NULL, NULL, text, sizeof text) != BROKER_OK) {
        fprintf(stderr, "sd_event: %s\n", text);
        return 1;
    }
    check_system(sd_event_new(&program.event), "loop");
    check(broker_sd_event_attach_client(&adapter, program.event, program.client, NULL, NULL), "attach");
    check(broker_client_subscribe(program.client, BROKER_CHANNEL, CHANNEL, strlen(CHANNEL), NULL, on_news, &program),
          "subscribe");
    check_system(sd_event_loop(program.event), "run");

    broker_sd_event_detach(adapter);
    broker_client_free(program.client);
    sd_event_unref(program.event);
    return 0;
}

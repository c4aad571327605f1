/*
 * A client of the library that asks without end and checks each reply: its counter counts, by calls and in
 * transactions, and what it echoes comes back. It ends with its standard input.
 *
 *     steered ENDPOINT NAME
 */
#include "client.h"

#include <poll.h>

static int input_has_ended(void)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};
    return poll(&input, 1, 0) > 0;
}

static broker_reply_t *ask(broker_client_t *client, size_t argc, const char *const *argv)
{
    broker_reply_t *reply = NULL;
    int code = broker_client_call(client, argc, argv, NULL, 60000, &reply);
    if (code != BROKER_OK) {
        fprintf(stderr, "%s: %s: %s\n", argv[0], broker_err_name(code), broker_client_error(client));
        exit(1);
    }
    return reply;
}

static void count(broker_client_t *client, const char *name, long long expected)
{
    const char *argv[] = {"INCR", name};
    broker_reply_t *reply = ask(client, 2, argv);
    if (broker_reply_integer(reply) != expected) {
        char buf[256];
        fprintf(stderr, "INCR %s: %s, and not %lld\n", name, render(reply, buf, sizeof buf), expected);
        exit(1);
    }
    broker_reply_free(reply);
}

static void echo(broker_client_t *client, const char *name, long long round)
{
    char text[128];
    snprintf(text, sizeof text, "%s:%lld", name, round);
    const char *argv[] = {"ECHO", text};
    broker_reply_t *reply = ask(client, 2, argv);
    CHECK(strcmp(broker_reply_string(reply, NULL), text) == 0);
    broker_reply_free(reply);
}

int main(int argc, char **argv)
{
    CHECK(argc == 3);
    broker_client_t *client = open_client(argv[1], configure((char *)NULL));
    printf("ready\n");
    fflush(stdout);
    long long round = 0;
    while (!input_has_ended()) {
        round++;
        count(client, argv[2], round);
        echo(client, argv[2], round);
    }
    printf("%lld\n", round);
    broker_client_free(client);
    return 0;
}

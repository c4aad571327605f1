/* The example of sd_event.h: a client whose first outcome stops the loop. */
#include <broker.h>
#include <broker/adapters/sd_event.h>
#include <stdio.h>

static sd_event *event;
static int failed = 1;

static void on_reply(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)client, (void)reply, (void)data;
    failed = status != BROKER_OK;
    if (failed)
        fprintf(stderr, "%s\n", broker_strerror(status));
    sd_event_exit(event, 0);
}

int main(void)
{
    broker_client_t *client;

    sd_event_default(&event);
    if (broker_client_new(&client, NULL, NULL, NULL, 0) != BROKER_OK)
        return 1;
    broker_client_submit(client, BROKER_ARGV("PING"), 1000, NULL, on_reply, NULL);
    SNIPPET
    broker_client_free(client);
    sd_event_unref(event);
    return failed;
}

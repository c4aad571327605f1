/* The example of glib.h: a client whose first outcome stops the loop. */
#include <broker.h>
#include <broker/adapters/glib.h>
#include <stdio.h>

static GMainLoop *loop;
static int failed = 1;

static void on_reply(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)client, (void)reply, (void)data;
    failed = status != BROKER_OK;
    if (failed)
        fprintf(stderr, "%s\n", broker_strerror(status));
    g_main_loop_quit(loop);
}

int main(void)
{
    broker_client_t *client;

    loop = g_main_loop_new(NULL, FALSE);
    if (broker_client_new(&client, NULL, NULL, NULL, 0) != BROKER_OK)
        return 1;
    broker_client_submit(client, BROKER_ARGV("PING"), 1000, NULL, on_reply, NULL);
    SNIPPET
    broker_client_free(client);
    g_main_loop_unref(loop);
    return failed;
}

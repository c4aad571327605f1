/*
 * A client in a GLib main loop, through <broker/adapters/glib.h>: it increments a counter, one request after the other,
 * together with a timeout of the program's own. The requests are written as formats, with <broker/format.h>.
 *
 *     glib [ENDPOINT]
 */
#include <stdio.h>
#include <stdlib.h>

#include <glib.h>

#include <broker.h>
#include <broker/adapters/glib.h>
#include <broker/format.h>

#define GOAL 1000
#define TICK_MS 1

/* Shared by the callbacks of this program, through their `data`. */
struct program {
    GMainLoop *loop;
    broker_client_t *client;
    int ticks;
    int64_t count;
};

static void check(int code, const char *what)
{
    if (code >= 0)
        return;
    fprintf(stderr, "glib: %s: %s\n", what, broker_strerror(code));
    exit(1);
}

static gboolean on_tick(gpointer data)
{
    struct program *program = data;

    program->ticks++;
    return G_SOURCE_CONTINUE;
}

/* The adapter has stopped: the handle was freed, or cannot be used any more. */
static void on_end(int status, void *data)
{
    (void)data;
    check(status, "the client ended");
}

static void raise_counter(struct program *program);

/* Runs inside g_main_loop_run(). */
static void on_reply(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    struct program *program = data;

    (void)client;
    check(status, "INCRBY");
    program->count = broker_reply_integer(reply);
    if (program->count < GOAL)
        raise_counter(program);
    else
        g_main_loop_quit(program->loop);
}

static void raise_counter(struct program *program)
{
    check(broker_client_submitf(program->client, 5000, NULL, on_reply, program, "INCRBY glib:%s %d", "counter", 1),
          "submit");
}

int main(int argc, char **argv)
{
    struct program program = {0};
    broker_glib_t *adapter;
    char text[256];
    guint timeout;

    if (broker_client_new(&program.client, argc > 1 ? argv[1] : NULL, NULL, text, sizeof text) != BROKER_OK) {
        fprintf(stderr, "glib: %s\n", text);
        return 1;
    }
    check(broker_client_callf(program.client, 5000, NULL, "DEL glib:%s", "counter"), "DEL");
    program.loop = g_main_loop_new(NULL, FALSE);
    timeout = g_timeout_add(TICK_MS, on_tick, &program);
    check(broker_glib_attach_client(&adapter, NULL, program.client, on_end, NULL), "attach");
    raise_counter(&program);
    g_main_loop_run(program.loop);

    broker_glib_detach(adapter);
    broker_client_free(program.client);
    g_source_remove(timeout);
    g_main_loop_unref(program.loop);
    printf("counted to %d\n", (int)program.count);
    printf("the timeout came %s\n", program.ticks > 0 ? "meanwhile" : "never");
    return 0;
}

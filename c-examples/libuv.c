/*
 * A client in a libuv loop, through <broker/adapters/uv.h>: ten thousand requests in flight together with a timer of
 * the program's own, in one thread.
 *
 *     libuv [ENDPOINT]
 */
#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uv.h>

#include <broker.h>
#include <broker/adapters/uv.h>

#define REQUESTS 10000
#define TICK_MS 1

/* Shared by the callbacks of this program, through their `data`. */
struct program {
    broker_uv_t *adapter;
    uv_timer_t timer;
    int ticks;
    int answered;
    int right;
};

static void check(int code, const char *what)
{
    if (code >= 0)
        return;
    fprintf(stderr, "libuv: %s: %s\n", what, broker_strerror(code));
    exit(1);
}

static void on_tick(uv_timer_t *timer)
{
    struct program *program = timer->data;

    program->ticks++;
}

/* Runs inside uv_run(). Replies arrive in the order of the requests: number n gets the text n. */
static void on_echo(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    struct program *program = data;
    const char *got = broker_reply_string(reply, NULL);
    char wanted[16];

    (void)client;
    snprintf(wanted, sizeof wanted, "%d", program->answered++);
    if (status == BROKER_OK && got != NULL && strcmp(got, wanted) == 0)
        program->right++;
    if (program->answered < REQUESTS)
        return;
    /* The work is done. Nothing is left to watch, so uv_run() returns. */
    broker_uv_detach(program->adapter);
    uv_close((uv_handle_t *)&program->timer, NULL);
}

int main(int argc, char **argv)
{
    uv_loop_t *loop = uv_default_loop();
    struct program program = {0};
    broker_client_t *client;
    char text[256];
    int i;

    if (broker_client_new(&client, argc > 1 ? argv[1] : NULL, NULL, text, sizeof text) != BROKER_OK) {
        fprintf(stderr, "libuv: %s\n", text);
        return 1;
    }
    check(broker_uv_attach_client(&program.adapter, loop, client, NULL, NULL), "attach");
    uv_timer_init(loop, &program.timer);
    program.timer.data = &program;
    uv_timer_start(&program.timer, on_tick, TICK_MS, TICK_MS);

    /* All of them at once: they wait for the connection, and are then sent in few writes. */
    for (i = 0; i < REQUESTS; i++) {
        snprintf(text, sizeof text, "%d", i);
        check(broker_client_submit(client, BROKER_ARGV("ECHO", text), BROKER_FOREVER, NULL, on_echo, &program),
              "ECHO");
    }
    uv_run(loop, UV_RUN_DEFAULT);
    broker_client_free(client);
    uv_loop_close(loop);
    printf("%d of %d replies right\n", program.right, REQUESTS);
    printf("the timer ticked %s\n", program.ticks > 0 ? "meanwhile" : "never");
    return program.right == REQUESTS ? 0 : 1;
}

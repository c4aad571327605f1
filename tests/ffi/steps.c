/*
 * A step ends: what callbacks cause is delivered in the next one. Requests that cancel themselves, subscriptions that
 * subscribe, a state that is asked for when it is told; on a client and on a loop's own.
 */
#include "loop.h"

static int calls;

static void submit_and_cancel(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    broker_req_t req;
    (void)reply, (void)data;
    calls++;
    if (calls >= 100 || (status != BROKER_ECANCELED && status != BROKER_OK))
        return;
    CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, BROKER_FOREVER, &req, submit_and_cancel, NULL), BROKER_OK);
    CHECK_INT(broker_client_cancel(client, req), BROKER_OK);
}

static void ask_again(broker_client_t *client, int connected, int reason, void *data)
{
    (void)reason, (void)data;
    CHECK_INT(connected, 1);
    calls++;
    CHECK_INT(broker_client_on_state(client, ask_again, NULL), BROKER_OK);
}

static int over;

static void subscribe_again(broker_client_t *client, int status, const broker_reply_t *push, void *data)
{
    (void)push, (void)data;
    if (status < 0) {
        over++;
        return;
    }
    calls++;
    if (calls < 100)
        CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, "steps", 5, NULL, subscribe_again, NULL), BROKER_OK);
}

/* One more in each step, and the next step is due at once. */
static void on_client(void)
{
    broker_client_t *client = open_redis();
    EXPECT(client, "+PONG", "PING");
    submit_and_cancel(client, BROKER_OK, NULL, NULL);
    for (int i = 1; i < 100; i++) {
        CHECK_INT(calls, i);
        CHECK_INT(broker_client_timeout(client), 0);
        CHECK_INT(broker_client_process(client, 0), 1);
    }
    calls = 0;
    CHECK_INT(broker_client_on_state(client, ask_again, NULL), BROKER_OK);
    for (int i = 1; i < 100; i++) {
        CHECK_INT(broker_client_process(client, 0), 1);
        CHECK_INT(calls, i);
    }
    CHECK_INT(broker_client_on_state(client, NULL, NULL), BROKER_OK);
    calls = 0;
    CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, "steps", 5, NULL, subscribe_again, NULL), BROKER_OK);
    while (calls < 100) {
        int before = calls;
        CHECK_OK(broker_client_process(client, BROKER_FOREVER));
        CHECK(calls - before <= 1);
    }
    close_client(client);
    CHECK_INT(over, 100);
}

static void on_a_loops_client(void)
{
    broker_loop_t *loop = open_loop(NULL, NULL);
    calls = 0;
    submit_and_cancel(own(loop), BROKER_OK, NULL, NULL);
    for (int i = 1; i < 100; i++) {
        CHECK_INT(calls, i);
        CHECK_INT(broker_loop_timeout(loop), 0);
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    }
    CHECK_INT(calls, 100);
    close_loop(loop);
}

int main(void)
{
    begin();
    on_client();
    on_a_loops_client();
    return 0;
}

/*
 * A fork inside one of the last callbacks, which come when a client or a loop is freed: the copy has none of the others,
 * and whatever it opens then stays open when it returns from there.
 */
#include "loop.h"

enum { PENDING = 5, FILES = 16 };

static int ran, copied, files[FILES];

static void fork_in_it(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)client, (void)reply, (void)data;
    CHECK_INT(status, BROKER_ECANCELED);
    if (++ran != 1)
        return;
    pid_t pid = fork_or_fail();
    if (pid != 0) {
        wait_child(pid);
        return;
    }
    copied = 1;
    /* The numbers that the parent's connections have. */
    for (int i = 0; i < FILES; i++) {
        files[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        CHECK(files[i] >= 0);
    }
}

static void after_the_free(void)
{
    CHECK_INT(ran, copied ? 1 : PENDING);
    for (int i = 0; copied && i < FILES; i++)
        CHECK(fcntl(files[i], F_GETFD) >= 0);
    if (copied)
        end_child();
    ran = 0;
}

static void free_in_it(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)reply, (void)data;
    CHECK_INT(status, BROKER_OK);
    CHECK_INT(broker_client_free(client), BROKER_OK);
}

static void pend(broker_client_t *client)
{
    for (int i = 0; i < PENDING; i++)
        CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "none", "0"), NULL, BROKER_FOREVER, NULL, fork_in_it, NULL), BROKER_OK);
}

int main(void)
{
    begin();
    broker_client_t *client = open_redis();
    pend(client);
    CHECK_OK(broker_client_process(client, 0));
    close_client(client);
    after_the_free();

    client = open_redis();
    CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, free_in_it, NULL), BROKER_OK);
    pend(client);
    while (ran == 0) {
        int code = broker_client_process(client, BROKER_FOREVER);
        CHECK(code >= 0 || code == BROKER_ESTATE);
    }
    after_the_free();

    broker_loop_t *loop = open_loop("last.sock", NULL);
    client = own(loop);
    pend(client);
    CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    CHECK_INT(broker_loop_free(loop), BROKER_OK);
    after_the_free();
    close_client(client);

    loop = open_loop(NULL, NULL);
    pend(own(loop));
    CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    close_client(own(loop));
    after_the_free();
    CHECK_INT(broker_loop_free(loop), BROKER_OK);
    return 0;
}

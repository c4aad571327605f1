/* The example of epoll.h: a client whose first outcome stops the loop. */
#include <broker.h>
#include <broker/adapters/epoll.h>
#include <stdio.h>

static int done;

static void serve(struct epoll_event *event)
{
    (void)event;
}

static int failed = 1;

static void on_reply(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)client, (void)reply, (void)data;
    failed = status != BROKER_OK;
    if (failed)
        fprintf(stderr, "%s\n", broker_strerror(status));
    done = 1;
}

int main(void)
{
    broker_client_t *client;
    struct epoll_event events[64];
    int epfd = epoll_create1(EPOLL_CLOEXEC);

    if (broker_client_new(&client, NULL, NULL, NULL, 0) != BROKER_OK)
        return 1;
    broker_client_submit(client, BROKER_ARGV("PING"), 1000, NULL, on_reply, NULL);
    SNIPPET
    broker_client_free(client);
    close(epfd);
    return failed;
}

/* Two clients in one epoll set. */
#include <broker.h>
#include <broker/adapters/epoll.h>
#include <stdio.h>

static int answered;

static void on_reply(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)client, (void)reply, (void)data;
    answered++;
    if (status != BROKER_OK)
        fprintf(stderr, "%s\n", broker_strerror(status));
}

int main(void)
{
    int each, epfd = epoll_create1(EPOLL_CLOEXEC);
    broker_client_t *clients[2];
    broker_epoll_t *adapters[2];
    epoll_data_t data;

    for (each = 0; each < 2; each++) {
        data.u64 = (uint64_t)each;
        if (broker_client_new(&clients[each], NULL, NULL, NULL, 0) != BROKER_OK ||
            broker_epoll_attach_client(&adapters[each], epfd, data, clients[each], NULL, NULL) != BROKER_OK)
            return 1;
        broker_client_submit(clients[each], BROKER_ARGV("PING"), 5000, NULL, on_reply, NULL);
    }
    SNIPPET
    for (each = 0; each < 2; each++) {
        broker_epoll_detach(adapters[each]);
        broker_client_free(clients[each]);
    }
    close(epfd);
    return 0;
}

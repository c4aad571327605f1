/* Statements of a program that has a client; `count` is a callback that counts outcomes in an int. */
#include <broker.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void count(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)client, (void)reply;
    ++*(int *)data;
    if (status != BROKER_OK)
        fprintf(stderr, "%s\n", broker_strerror(status));
}

int main(void)
{
    broker_client_t *client;
    char error[256];

    (void)count;
    if (broker_client_new(&client, NULL, NULL, error, sizeof error) != BROKER_OK)
        return fprintf(stderr, "%s\n", error), 1;
    SNIPPET
    return broker_client_free(client) != BROKER_OK;
}

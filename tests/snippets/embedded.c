/* Statements that embed the broker. */
#include <broker.h>
#include <stdio.h>

static void count(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    (void)client, (void)reply;
    if (status != BROKER_OK)
        fprintf(stderr, "%s\n", broker_strerror(status));
    ++*(int *)data;
}

int main(void)
{
    broker_config_t *config = broker_config_new();
    broker_loop_t *loop;
    broker_client_t *client;
    char error[256];
    int answered = 0, code;

    SNIPPET
    broker_config_free(config);
    return code < 0;
}

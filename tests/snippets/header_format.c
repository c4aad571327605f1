/* The example of format.h; ends with 0 if there was a reply. */
#include <broker.h>
#include <broker/format.h>
#include <stdio.h>

int main(void)
{
    const char *value = "a value with spaces";
    int number = 42, type;
    broker_reply_t *reply;
    broker_client_t *client;

    if (broker_client_new(&client, NULL, NULL, NULL, 0) != BROKER_OK)
        return 1;
    SNIPPET
    type = broker_reply_type(reply);
    broker_reply_free(reply);
    broker_client_free(client);
    return type != BROKER_REPLY_STATUS;
}

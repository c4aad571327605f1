/* Statements of a program that has a client and a transaction to be filled. */
#include <broker.h>
#include <stdio.h>

int main(void)
{
    broker_transaction_t *transaction = broker_transaction_new();
    broker_reply_t *reply = NULL;
    broker_client_t *client;
    int type;

    broker_transaction_add(transaction, BROKER_ARGV("DECR", "stock"));
    if (broker_client_new(&client, NULL, NULL, NULL, 0) != BROKER_OK)
        return 1;
    SNIPPET
    type = broker_reply_type(reply);
    broker_reply_free(reply);
    broker_client_free(client);
    broker_transaction_free(transaction);
    return type != BROKER_REPLY_ARRAY;
}

/* A thread that is canceled while it waits in the library. */
#include <broker.h>
#include <pthread.h>
#include <stdio.h>

static void *wait_for_ever(void *client)
{
    while (broker_client_process(client, BROKER_FOREVER) >= 0)
        continue;
    return NULL;
}

int main(void)
{
    broker_client_t *client;
    pthread_t thread;
    void *result;
    int code;

    if (broker_client_new(&client, NULL, NULL, NULL, 0) != BROKER_OK)
        return 1;
    SNIPPET
    broker_client_free(client);
    return code != BROKER_OK || result != PTHREAD_CANCELED;
}

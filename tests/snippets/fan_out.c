/* Many requests at once, with a deadline for all of them. */
#define _POSIX_C_SOURCE 200809L
#include <broker.h>
#include <stdio.h>
#include <time.h>

struct whole {
    int asked, answered;
};

static void on_part(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    struct whole *whole = data;

    (void)client, (void)reply;
    whole->answered++;
    if (status != BROKER_OK)
        fprintf(stderr, "%s\n", broker_strerror(status));
}

static long long now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

int main(void)
{
    long long deadline = now_ms() + 60000;
    broker_req_t requests[100] = {0};
    struct whole whole = {0, 0};
    broker_client_t *client;
    const char *keys[100];
    char text[100][16];
    int i;

    for (i = 0; i < 100; i++) {
        snprintf(text[i], sizeof text[i], "part:%d", i);
        keys[i] = text[i];
    }
    if (broker_client_new(&client, NULL, NULL, NULL, 0) != BROKER_OK)
        return 1;
    SNIPPET
    broker_client_free(client);
    return whole.asked != 100 || whole.answered != 100;
}

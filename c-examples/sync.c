/*
 * Synchronous calls: one request, one reply, as with any blocking client. Replies have types; failures are
 * codes.
 *
 *     sync [ENDPOINT]
 *
 * ENDPOINT is a broker's socket such as unix:///run/broker/broker.sock, or redis://127.0.0.1:6379 for Redis
 * itself; the default is the environment variable BROKER_ENDPOINT.
 */
#include <stdio.h>
#include <stdlib.h>

#include <broker.h>

/* How long a reply may take, in milliseconds. */
#define PATIENCE 5000

/*
 * The reply to a command; the caller frees it. Without a reply this program ends. BROKER_ARGV expands to the three
 * arguments for the words.
 */
static broker_reply_t *call(broker_client_t *client, size_t argc, const char *const *argv,
                            const size_t *argvlen)
{
    broker_reply_t *reply;
    int code = broker_client_call(client, argc, argv, argvlen, PATIENCE, &reply);

    if (code != BROKER_OK) {
        fprintf(stderr, "sync: %s: %s: %s\n", argv[0], broker_err_name(code), broker_client_error(client));
        exit(1);
    }
    return reply;
}

static void print(const broker_reply_t *reply)
{
    size_t i;

    switch (broker_reply_type(reply)) {
    case BROKER_REPLY_NIL:
        printf(" nil");
        break;
    case BROKER_REPLY_INTEGER:
        printf(" integer %lld", (long long)broker_reply_integer(reply));
        break;
    case BROKER_REPLY_DOUBLE:
        printf(" double %g", broker_reply_double(reply));
        break;
    case BROKER_REPLY_ERROR: /* an error from Redis about this command: the client is still usable */
        printf(" error %s", broker_reply_string(reply, NULL));
        break;
    case BROKER_REPLY_ARRAY:
    case BROKER_REPLY_SET:
    case BROKER_REPLY_MAP: /* keys and values, alternating */
        printf(" %zu elements:", broker_reply_len(reply));
        for (i = 0; i < broker_reply_len(reply); i++)
            print(broker_reply_at(reply, i)); /* part of the reply: not freed by itself */
        break;
    default: /* all other types have bytes, followed by a NUL */
        printf(" %s", broker_reply_string(reply, NULL));
    }
}

static void show(broker_client_t *client, size_t argc, const char *const *argv, const size_t *argvlen)
{
    broker_reply_t *reply = call(client, argc, argv, argvlen);

    printf("%s:", argv[0]);
    print(reply);
    printf("\n");
    broker_reply_free(reply);
}

/* Values are bytes: with their lengths given, a NUL does not end them. */
static void binary(broker_client_t *client)
{
    static const char value[] = {'a', '\0', 'b', '\r', '\n'};
    const char *set[] = {"SET", "sync:bytes", value};
    size_t lengths[] = {3, 10, sizeof value};
    broker_reply_t *reply;
    size_t len;
    int code = broker_client_call(client, 3, set, lengths, PATIENCE, NULL);

    if (code != BROKER_OK) {
        fprintf(stderr, "sync: SET: %s\n", broker_strerror(code));
        exit(1);
    }
    reply = call(client, BROKER_ARGV("GET", "sync:bytes"));
    broker_reply_string(reply, &len);
    printf("bytes: %zu of %zu\n", len, sizeof value);
    broker_reply_free(reply);
}

/* A call without a reply returns the reason, which says whether it is safe to repeat. */
static void failures(broker_client_t *client)
{
    broker_reply_t *reply;
    int code;

    /* Nothing is pushed to this list. The call times out after 50 ms, and the client is usable at once. */
    code = broker_client_call(client, BROKER_ARGV("BLPOP", "sync:nothing", "0"), 50, &reply);
    printf("BLPOP: %s\n", broker_err_name(code));

    /* All requests of a client share a connection, so no request may change it for the others. */
    code = broker_client_call(client, BROKER_ARGV("SELECT", "1"), PATIENCE, &reply);
    printf("SELECT: %s\n", broker_err_name(code));
}

int main(int argc, char **argv)
{
    broker_client_t *client;
    char error[256];

    /* Connects in the background: requests wait for the connection, and for the next one if it is lost. */
    if (broker_client_new(&client, argc > 1 ? argv[1] : NULL, NULL, error, sizeof error) != BROKER_OK) {
        fprintf(stderr, "sync: %s\n", error);
        return 1;
    }
    show(client, BROKER_ARGV("PING"));
    show(client, BROKER_ARGV("SET", "sync:greeting", "hello"));
    show(client, BROKER_ARGV("GET", "sync:greeting"));
    show(client, BROKER_ARGV("GET", "sync:nothing"));
    show(client, BROKER_ARGV("INCRBY", "sync:count", "42"));
    show(client, BROKER_ARGV("ZADD", "sync:scores", "1.5", "Ada"));
    show(client, BROKER_ARGV("ZSCORE", "sync:scores", "Ada"));
    show(client, BROKER_ARGV("HSET", "sync:hash", "name", "Ada", "born", "1815"));
    show(client, BROKER_ARGV("HGETALL", "sync:hash"));
    show(client, BROKER_ARGV("LPUSH", "sync:greeting", "x"));
    binary(client);
    failures(client);
    show(client, BROKER_ARGV("DEL", "sync:greeting", "sync:count", "sync:scores", "sync:hash", "sync:bytes"));
    broker_client_free(client);
    return 0;
}

/*
 * Two kinds of transactions: an atomic one, whose commands are all executed with no other command between them, and an
 * optimistic one, which is executed only if the values it was computed from have not changed.
 *
 *     transaction [ENDPOINT]
 */
#include <stdio.h>
#include <stdlib.h>

#include <broker.h>

#define PATIENCE 5000

static void check(int code, const char *what)
{
    if (code >= 0)
        return;
    fprintf(stderr, "transaction: %s: %s\n", what, broker_strerror(code));
    exit(1);
}

static void set(broker_client_t *client, const char *key, const char *value)
{
    check(broker_client_call(client, BROKER_ARGV("SET", key, value), PATIENCE, NULL), "SET");
}

static void show(broker_client_t *client, const char *key)
{
    broker_reply_t *reply;
    const char *value;

    check(broker_client_call(client, BROKER_ARGV("GET", key), PATIENCE, &reply), "GET");
    value = broker_reply_string(reply, NULL);
    printf("%s: %s\n", key, value != NULL ? value : "nothing");
    broker_reply_free(reply);
}

/*
 * Moves an amount from one account to another. The whole transaction is one request, so parts of a program that share a
 * client cannot interleave their commands.
 */
static void transfer(broker_client_t *client, const char *from, const char *to, const char *amount)
{
    broker_transaction_t *transaction = broker_transaction_new();
    broker_reply_t *reply;

    check(broker_transaction_add(transaction, BROKER_ARGV("DECRBY", from, amount)), "add");
    check(broker_transaction_add(transaction, BROKER_ARGV("INCRBY", to, amount)), "add");
    check(broker_client_call_transaction(client, transaction, PATIENCE, &reply), "transaction");
    /* One reply for each command. */
    printf("transfer: %lld and %lld\n", (long long)broker_reply_integer(broker_reply_at(reply, 0)),
           (long long)broker_reply_integer(broker_reply_at(reply, 1)));
    broker_reply_free(reply);
    broker_transaction_free(transaction);
}

/* A command that Redis refuses to queue: none of the others is executed either. */
static void refused(broker_client_t *client)
{
    broker_transaction_t *transaction = broker_transaction_new();
    broker_reply_t *reply;

    check(broker_transaction_add(transaction, BROKER_ARGV("SET", "account:a", "0")), "add");
    check(broker_transaction_add(transaction, BROKER_ARGV("GET", "too", "many", "words")), "add");
    check(broker_client_call_transaction(client, transaction, PATIENCE, &reply), "transaction");
    printf("refused: %s\n", broker_reply_string(reply, NULL));
    broker_reply_free(reply);
    broker_transaction_free(transaction);
}

/* One attempt to double a balance: 1 on success, 0 if the key was changed meanwhile. */
static int attempt(broker_client_t *client, broker_client_t *session, int number)
{
    broker_transaction_t *transaction = broker_transaction_new();
    broker_reply_t *reply;
    char value[32];
    int done;

    /* Watched keys belong to a connection. A session is one, so that no other EXEC ends the watch. */
    check(broker_client_call(session, BROKER_ARGV("WATCH", "account:a"), PATIENCE, NULL), "WATCH");
    check(broker_client_call(session, BROKER_ARGV("GET", "account:a"), PATIENCE, &reply), "GET");
    snprintf(value, sizeof value, "%d", 2 * atoi(broker_reply_string(reply, NULL)));
    broker_reply_free(reply);

    if (number == 1) /* another client changes the key meanwhile */
        set(client, "account:a", "100");

    check(broker_transaction_add(transaction, BROKER_ARGV("SET", "account:a", value)), "add");
    check(broker_client_call_transaction(session, transaction, PATIENCE, &reply), "transaction");
    done = broker_reply_type(reply) != BROKER_REPLY_NIL;
    broker_reply_free(reply);
    broker_transaction_free(transaction);
    printf("attempt %d: %s\n", number, done ? "done" : "a watched key has changed");
    return done;
}

static void twice(broker_client_t *client)
{
    broker_client_t *session;
    int number = 1;

    check(broker_client_session(&session, client), "session");
    while (!attempt(client, session, number))
        number++;
    broker_client_free(session);
}

int main(int argc, char **argv)
{
    broker_client_t *client;
    char error[256];

    if (broker_client_new(&client, argc > 1 ? argv[1] : NULL, NULL, error, sizeof error) != BROKER_OK) {
        fprintf(stderr, "transaction: %s\n", error);
        return 1;
    }
    set(client, "account:a", "50");
    set(client, "account:b", "0");
    transfer(client, "account:a", "account:b", "20");
    refused(client);
    show(client, "account:a");
    twice(client);
    show(client, "account:a");
    check(broker_client_call(client, BROKER_ARGV("DEL", "account:a", "account:b"), PATIENCE, NULL), "DEL");
    broker_client_free(client);
    return 0;
}

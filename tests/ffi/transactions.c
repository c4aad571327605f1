/*
 * Transactions in one call cannot interleave, however many components share the client; WATCH ... EXEC on sessions
 * of their own; blocking commands, whose giving up loses no element. Over Redis itself and over a broker.
 */
#include "client.h"

static broker_transaction_t *block_of(size_t count, const char *const *const *commands, const size_t *words)
{
    broker_transaction_t *block = broker_transaction_new();
    for (size_t i = 0; i < count; i++)
        CHECK_INT(broker_transaction_add(block, words[i], commands[i], NULL), BROKER_OK);
    return block;
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__})

static void basics(broker_client_t *client)
{
    const char *const *const commands[] = {WORDS("SET", "a", "1"), WORDS("INCR", "a"), WORDS("GET", "a")};
    const size_t words[] = {3, 2, 2};
    broker_transaction_t *block = block_of(3, commands, words);
    struct outcome outcome = {0};
    CHECK_INT(broker_client_submit_transaction(client, block, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    /* It is copied: may be changed and freed at once. */
    CHECK_INT(broker_transaction_add(block, ARGV("SET", "a", "3"), NULL), BROKER_OK);
    CHECK_INT(broker_transaction_free(block), BROKER_OK);
    EXPECT_OUTCOME(client, &outcome, "[+OK :2 2]");
}

/* Refused at queueing: none is executed. Failing at its turn: the others are, as Redis does. */
static void failures(broker_client_t *client)
{
    const char *const *const bad[] = {WORDS("SET", "a", "9"), WORDS("GET"), WORDS("SET", "a", "8")};
    const char *const *const wrong[] = {WORDS("SET", "a", "x"), WORDS("INCR", "a"), WORDS("SET", "a", "7")};
    const size_t bad_words[] = {3, 1, 3}, wrong_words[] = {3, 2, 3};
    broker_reply_t *reply = NULL;
    char text[256];
    broker_transaction_t *block = block_of(3, bad, bad_words);
    CHECK_INT(broker_client_call_transaction(client, block, BROKER_FOREVER, &reply), BROKER_OK);
    CHECK(strstr(render(reply, text, sizeof text), "-ERR wrong number of arguments") == text);
    broker_reply_free(reply);
    CHECK_INT(broker_transaction_free(block), BROKER_OK);
    EXPECT(client, "2", "GET", "a");
    block = block_of(3, wrong, wrong_words);
    CHECK_INT(broker_client_call_transaction(client, block, BROKER_FOREVER, &reply), BROKER_OK);
    CHECK_TEXT(render(reply, text, sizeof text), "[+OK -ERR value is not an integer or out of range +OK]");
    broker_reply_free(reply);
    CHECK_INT(broker_transaction_free(block), BROKER_OK);
    EXPECT(client, "7", "GET", "a");
}

static void refused_commands(broker_client_t *client)
{
    static const char *const names[] = {"MULTI", "EXEC", "DISCARD", "WATCH", "SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "HELLO",
                                        "multi", "SELECT", "AUTH", "RESET", "QUIT", "MONITOR", "UNSUBSCRIBE"};
    broker_transaction_t *block = broker_transaction_new();
    struct outcome never = {0};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        CHECK_INT(broker_transaction_add(block, ARGV(names[i], "0"), NULL), BROKER_EUNSUPPORTED);
        CHECK_INT(broker_client_submit(client, ARGV(names[i], "0"), NULL, BROKER_FOREVER, NULL, keep, &never), BROKER_EUNSUPPORTED);
        CHECK(strlen(broker_client_error(client)) > 0);
        CHECK_INT(broker_client_call(client, ARGV(names[i], "0"), NULL, BROKER_FOREVER, NULL), BROKER_EUNSUPPORTED);
    }
    static const char *const client_words[] = {"SETNAME", "REPLY", "CACHING", "setname"};
    for (size_t i = 0; i < sizeof client_words / sizeof client_words[0]; i++)
        CHECK_INT(broker_client_call(client, ARGV("CLIENT", client_words[i], "ON"), NULL, BROKER_FOREVER, NULL), BROKER_EUNSUPPORTED);
    /* Nothing of them is in it. */
    CHECK_INT(broker_client_submit_transaction(client, block, BROKER_FOREVER, NULL, keep, &never), BROKER_EINVAL);
    CHECK_INT(broker_transaction_free(block), BROKER_OK);
    EXPECT(client, "+PONG", "PING");
    CHECK_INT(never.calls, 0);
}

/* Two components share the client; each moves a pair of numbers and checks that nobody was between. */
struct component {
    broker_transaction_t *block;
    int left;
    long long sum;
};

static void moved(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    struct component *component = data;
    CHECK_INT(status, BROKER_OK);
    CHECK_INT(broker_reply_len(reply), 4);
    long long one = broker_reply_integer(broker_reply_at(reply, 0)), other = broker_reply_integer(broker_reply_at(reply, 3));
    /* The counter all share was raised four times in a row by this block. */
    CHECK_INT(other, one + 3);
    component->sum++;
    if (component->left-- > 0)
        CHECK_INT(broker_client_submit_transaction(client, component->block, BROKER_FOREVER, NULL, moved, component), BROKER_OK);
}

static void interleaved(broker_client_t *client)
{
    const char *const *const commands[] = {WORDS("INCR", "n"), WORDS("INCR", "n"), WORDS("INCR", "n"), WORDS("INCR", "n")};
    const size_t words[] = {2, 2, 2, 2};
    struct component components[8];
    struct outcome single[100] = {{0}};
    EXPECT(client, "+OK", "SET", "n", "0");
    for (int i = 0; i < 8; i++) {
        components[i] = (struct component){block_of(4, commands, words), 49, 0};
        CHECK_INT(broker_client_submit_transaction(client, components[i].block, BROKER_FOREVER, NULL, moved, &components[i]), BROKER_OK);
    }
    for (int i = 0; i < 100; i++) {
        CHECK_INT(broker_client_submit(client, ARGV("INCR", "n"), NULL, BROKER_FOREVER, NULL, keep, &single[i]), BROKER_OK);
        CHECK_OK(broker_client_process(client, 0));
    }
    for (int i = 0; i < 8; i++) {
        while (components[i].sum < 50)
            CHECK_OK(broker_client_process(client, -1));
        CHECK_INT(broker_transaction_free(components[i].block), BROKER_OK);
    }
    for (int i = 0; i < 100; i++)
        wait_outcome(client, &single[i]);
    EXPECT(client, "1700", "GET", "n");
}

static broker_client_t *open_session(broker_client_t *client)
{
    broker_client_t *session = NULL;
    CHECK_INT(broker_client_session(&session, client), BROKER_OK);
    return session;
}

static const char *session_call(broker_client_t *session, size_t argc, const char *const *argv)
{
    static char text[256];
    broker_reply_t *reply = NULL;
    CHECK_INT(broker_client_call(session, argc, argv, NULL, BROKER_FOREVER, &reply), BROKER_OK);
    render(reply, text, sizeof text);
    broker_reply_free(reply);
    return text;
}

static const char *session_execute(broker_client_t *session, const broker_transaction_t *block)
{
    static char text[256];
    broker_reply_t *reply = NULL;
    CHECK_INT(broker_client_call_transaction(session, block, BROKER_FOREVER, &reply), BROKER_OK);
    render(reply, text, sizeof text);
    broker_reply_free(reply);
    return text;
}

static void watching(broker_client_t *client)
{
    const char *const *const commands[] = {WORDS("SET", "w", "new")};
    const size_t words[] = {3};
    broker_transaction_t *block = block_of(1, commands, words);
    broker_client_t *session = open_session(client), *other = open_session(client);
    EXPECT(client, "+OK", "SET", "w", "old");
    CHECK_TEXT(session_call(session, ARGV("WATCH", "w")), "+OK");
    CHECK_TEXT(session_call(other, ARGV("WATCH", "w")), "+OK");
    CHECK_TEXT(session_call(session, ARGV("GET", "w")), "old");
    CHECK_TEXT(session_execute(session, block), "[+OK]");
    /* The other's key has changed: nothing is executed. */
    CHECK_TEXT(session_execute(other, block), "_");
    CHECK_TEXT(session_execute(other, block), "[+OK]");
    /* By hand as well. */
    CHECK_TEXT(session_call(other, ARGV("WATCH", "w")), "+OK");
    EXPECT(client, "+OK", "SET", "w", "x");
    CHECK_TEXT(session_call(other, ARGV("MULTI")), "+OK");
    CHECK_TEXT(session_call(other, ARGV("SET", "w", "y")), "+QUEUED");
    CHECK_TEXT(session_call(other, ARGV("EXEC")), "_");
    CHECK_TEXT(session_call(other, ARGV("MULTI")), "+OK");
    CHECK_TEXT(session_call(other, ARGV("SET", "w", "y")), "+QUEUED");
    CHECK_TEXT(session_call(other, ARGV("DISCARD")), "+OK");
    EXPECT(client, "x", "GET", "w");
    CHECK_INT(broker_client_free(session), BROKER_OK);
    CHECK_INT(broker_client_free(other), BROKER_OK);
    CHECK_INT(broker_transaction_free(block), BROKER_OK);
}

/* SELECT in one session is no other's business. */
static void state_of_its_own(broker_client_t *client)
{
    broker_client_t *session = open_session(client);
    CHECK_TEXT(session_call(session, ARGV("SELECT", "5")), "+OK");
    CHECK_TEXT(session_call(session, ARGV("SET", "here", "five")), "+OK");
    EXPECT(client, "_", "GET", "here");
    broker_client_t *fresh = open_session(client);
    CHECK_TEXT(session_call(fresh, ARGV("GET", "here")), "_");
    CHECK_TEXT(session_call(session, ARGV("DEL", "here")), ":1");
    CHECK_INT(broker_client_call(session, ARGV("SUBSCRIBE", "c"), NULL, BROKER_FOREVER, NULL), BROKER_EUNSUPPORTED);
    CHECK_INT(broker_client_free(session), BROKER_OK);
    CHECK_INT(broker_client_free(fresh), BROKER_OK);
}

/* A lost session says so for ever, and what it had in flight ends once. */
static void lost_sessions(broker_client_t *client, struct redis *redis)
{
    broker_client_t *session = open_session(client);
    struct outcome outcome = {0}, after = {0};
    CHECK_TEXT(session_call(session, ARGV("WATCH", "w")), "+OK");
    CHECK_INT(broker_client_submit(session, ARGV("BLPOP", "nothing", "0"), NULL, BROKER_FOREVER, NULL, keep, &outcome), BROKER_OK);
    while (redis_clients_with(redis, "cmd=blpop") == 0)
        CHECK_OK(broker_client_process(client, 5));
    CHECK_INT(broker_client_submit(session, ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &after), BROKER_OK);
    const char *list = strdup(redis_ask(redis, "CLIENT LIST"));
    for (const char *line = list; line != NULL; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        const char *pop = strstr(line, "cmd=blpop"), *end = strchr(line, '\n');
        if (pop != NULL && (end == NULL || pop < end))
            CHECK_TEXT(redis_ask(redis, "CLIENT KILL ID %d", atoi(line + 3)), ":1");
    }
    free((void *)list);
    wait_outcome(client, &outcome);
    wait_outcome(client, &after);
    CHECK_INT(outcome.calls, 1);
    CHECK(outcome.status == BROKER_ELOST);
    CHECK(after.status == BROKER_ELOST || after.status == BROKER_ECONN);
    for (int i = 0; i < 2; i++) {
        CHECK_INT(broker_client_call(session, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_ECONN);
        CHECK_INT(broker_client_submit(session, ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &after), BROKER_ECONN);
    }
    CHECK_INT(after.calls, 1);
    CHECK_INT(broker_client_free(session), BROKER_OK);
    EXPECT(client, "+PONG", "PING");
}

/* Giving up a pop that waits in Redis closes its connection: what is pushed afterwards stays. */
static void given_up(broker_client_t *client, struct redis *redis)
{
    for (int i = 0; i < 10; i++) {
        struct outcome canceled = {0}, timed = {0};
        broker_req_t req = 0;
        CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "list", "0"), NULL, BROKER_FOREVER, &req, keep, &canceled), BROKER_OK);
        CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "list", "0"), NULL, 200, NULL, keep, &timed), BROKER_OK);
        long long blocked = 0;
        while (blocked < 2 && timed.calls == 0) {
            CHECK_OK(broker_client_process(client, 5));
            blocked = redis_info(redis, "clients", "blocked_clients");
        }
        CHECK_INT(broker_client_cancel(client, req), BROKER_OK);
        EXPECT_CODE(client, &canceled, BROKER_ECANCELED);
        EXPECT_CODE(client, &timed, BROKER_ETIMEDOUT);
        /* On a very slow machine one is still on its way to Redis, and may pop what is pushed from now on. */
        if (blocked < 2)
            return;
        while (redis_info(redis, "clients", "blocked_clients") > 0)
            CHECK_OK(broker_client_process(client, 5));
        CHECK_TEXT(redis_ask(redis, "RPUSH list element"), ":1");
        EXPECT(client, "[list element]", "BLPOP", "list", "0");
    }
}

/* Pops beside each other and beside the rest: none holds the others up. */
static void blocking(broker_client_t *client)
{
    struct outcome pops[10] = {{0}}, ping = {0};
    for (int i = 0; i < 10; i++) {
        char list[32];
        snprintf(list, sizeof list, "list:%d", i);
        CHECK_INT(broker_client_submit(client, ARGV("BLPOP", list, "0"), NULL, BROKER_FOREVER, NULL, keep, &pops[i]), BROKER_OK);
    }
    CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &ping), BROKER_OK);
    EXPECT_OUTCOME(client, &ping, "+PONG");
    for (int i = 9; i >= 0; i--) {
        char list[32], expected[48];
        snprintf(list, sizeof list, "list:%d", i);
        snprintf(expected, sizeof expected, "[list:%d e]", i);
        CHECK_INT(pops[i].calls, 0);
        EXPECT(client, ":1", "RPUSH", list, "e");
        EXPECT_OUTCOME(client, &pops[i], expected);
    }
}

/* Above client_connections_max, an error and nothing else; one freed, there is room. */
static void many_sessions(const char *endpoint)
{
    broker_config_t *config = configure("client_connections_max", "4", (char *)NULL);
    broker_client_t *client = open_client(endpoint, config);
    broker_client_t *sessions[8] = {NULL};
    int opened = 0;
    EXPECT(client, "+PONG", "PING");
    while (broker_client_session(&sessions[opened], client) == BROKER_OK)
        CHECK(opened++ < 4);
    CHECK(opened >= 3);
    CHECK_INT(broker_client_session(&sessions[7], client), BROKER_EAGAIN);
    CHECK(sessions[7] == NULL);
    CHECK_INT(broker_client_free(sessions[0]), BROKER_OK);
    CHECK_INT(broker_client_session(&sessions[0], client), BROKER_OK);
    CHECK_TEXT(session_call(sessions[0], ARGV("PING")), "+PONG");
    for (int i = 0; i < opened; i++)
        CHECK_INT(broker_client_free(sessions[i]), BROKER_OK);
    close_client(client);
}

static void all(const char *endpoint, struct redis *redis)
{
    broker_client_t *client = open_client(endpoint, NULL);
    basics(client);
    failures(client);
    refused_commands(client);
    interleaved(client);
    watching(client);
    state_of_its_own(client);
    given_up(client, redis);
    blocking(client);
    close_client(client);
    many_sessions(endpoint);
}

int main(void)
{
    char endpoint[PATH_SIZE + 8];
    struct redis redis = redis_connect();
    begin();
    snprintf(endpoint, sizeof endpoint, "unix://%s", setting("BROKER_TEST_REDIS"));
    all(endpoint, &redis);
    broker_client_t *client = open_client(endpoint, NULL);
    lost_sessions(client, &redis);
    close_client(client);
    redis_wait_clients(&redis, NULL, 0);
    CHECK_TEXT(redis_ask(&redis, "FLUSHALL"), "+OK");
    struct server server = serve(NULL);
    all(server.endpoint, &redis);
    server_kill(&server);
    redis_close(&redis);
    return 0;
}

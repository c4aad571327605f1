/*
 * One program over every endpoint and both protocols: redis://, Redis' unix socket, a broker's unix socket and TCP
 * port, BROKER_ENDPOINT. Equal replies, but for what the protocols themselves tell apart. What the client_... keys say
 * holds on every connection. Malformed endpoints.
 */
#include "client.h"

static struct redis redis;

/* Replies of every type there is. */
static void types(broker_client_t *client, int protocol)
{
    int three = protocol == 3;
    EXPECT(client, "+OK", "SET", "s", "text");
    EXPECT(client, "text", "GET", "s");
    EXPECT(client, "_", "GET", "none");
    EXPECT(client, ":4", "STRLEN", "s");
    EXPECT(client, ":2", "RPUSH", "l", "a", "b");
    EXPECT(client, "[a b]", "LRANGE", "l", "0", "-1");
    EXPECT(client, "[]", "LRANGE", "none", "0", "-1");
    EXPECT(client, ":1", "HSET", "h", "f", "v");
    EXPECT(client, three ? "{f v}" : "[f v]", "HGETALL", "h");
    EXPECT(client, ":1", "SADD", "set", "m");
    EXPECT(client, three ? "~[m]" : "[m]", "SMEMBERS", "set");
    EXPECT(client, ":1", "ZADD", "z", "1.5", "m");
    EXPECT(client, three ? ",1.5" : "1.5", "ZSCORE", "z", "m");
    EXPECT(client, three ? ",inf" : "inf", "ZINCRBY", "z", "+inf", "m");
    EXPECT(client, "[text _ :1 +fine]", "EVAL", "return {redis.call('GET','s'), false, 1, redis.status_reply('fine')}", "0");
    EXPECT(client, three ? "[#t #f]" : "[:1 :0]", "EVAL", "redis.setresp(3); return {true, false}", "0");
    EXPECT(client, "-ERR value is not an integer or out of range", "INCRBY", "s", "x");
    EXPECT(client, ":5", "DEL", "s", "l", "h", "set", "z");
}

static void accessors(broker_client_t *client)
{
    broker_reply_t *reply = NULL;
    size_t len = 99;
    CHECK_INT(broker_client_call(client, ARGV("EVAL", "return {1, {'a', {'b'}}, -9223372036854775808}", "0"), NULL, BROKER_FOREVER, &reply),
              BROKER_OK);
    const broker_reply_t *inner = broker_reply_at(reply, 1), *deep = broker_reply_at(broker_reply_at(inner, 1), 0);
    CHECK_INT(broker_reply_integer(broker_reply_at(reply, 2)), INT64_MIN);
    CHECK(broker_reply_double(broker_reply_at(reply, 0)) == 1.0);
    CHECK(broker_reply_at(reply, 3) == NULL && broker_reply_at(reply, SIZE_MAX) == NULL && broker_reply_at(deep, 0) == NULL);
    CHECK(broker_reply_string(reply, &len) == NULL && len == 0);
    /* Of a part kept, the whole is kept. */
    broker_reply_t *kept = broker_reply_dup(deep), *twice = broker_reply_dup(kept);
    broker_reply_free(reply);
    CHECK_TEXT(broker_reply_string(kept, &len), "b");
    const char *raw = broker_reply_raw(kept, &len);
    CHECK(len == 7 && memcmp(raw, "$1\r\nb\r\n", 7) == 0);
    broker_reply_free(kept);
    CHECK_TEXT(broker_reply_string(twice, NULL), "b");
    broker_reply_free(twice);
}

/* Database, name and protocol are there on each connection, and again after a loss. */
static void configured(const char *endpoint, int direct)
{
    broker_client_t *client =
        open_client(endpoint, configure("client_db", "3", "client_name", "me", "client_protocol", "2", (char *)NULL));
    int losses = 0;
    CHECK_INT(broker_client_on_state(client, count_loss, &losses), BROKER_OK);
    for (int round = 0; round < 2; round++) {
        broker_client_t *session = NULL;
        struct outcome named = {0};
        EXPECT(client, "me", "CLIENT", "GETNAME");
        EXPECT(client, "+OK", "SET", "here", "3");
        EXPECT(client, "[f v]", "EVAL", "redis.call('DEL','h'); redis.call('HSET','h','f','v'); return redis.call('HGETALL','h')", "0");
        CHECK_INT(broker_client_session(&session, client), BROKER_OK);
        CHECK_INT(broker_client_submit(session, ARGV("GET", "here"), NULL, BROKER_FOREVER, NULL, keep, &named), BROKER_OK);
        EXPECT_OUTCOME(client, &named, "3");
        CHECK_INT(broker_client_free(session), BROKER_OK);
        EXPECT(client, "_", "BLPOP", "none", "0.001");
        EXPECT(client, ":2", "DEL", "here", "h");
        CHECK(atoi(redis_ask(&redis, "CLIENT KILL TYPE normal SKIPME yes") + 1) > 0);
        if (direct)
            wait_count(client, &losses, round + 1);
    }
    close_client(client);
}

static void equal(const char *endpoint, int direct)
{
    static const char *const protocols[] = {"2", "3"};
    for (int i = 0; i < 2; i++) {
        broker_client_t *client = open_client(endpoint, configure("client_protocol", protocols[i], (char *)NULL));
        types(client, i + 2);
        accessors(client);
        close_client(client);
    }
    configured(endpoint, direct);
}

static void every_endpoint(void)
{
    char tcp[64], listening[64];
    static const char *const settings[] = {NULL};
    struct server server = serve(settings);
    const char *port = setting("BROKER_TEST_REDIS_PORT");
    snprintf(tcp, sizeof tcp, "redis://127.0.0.1:%s", port);
    equal(tcp, 1);
    snprintf(tcp, sizeof tcp, "redis://localhost:%s/3", port);
    broker_client_t *client = open_client(tcp, NULL);
    EXPECT(client, "+OK", "SET", "in", "three");
    CHECK_TEXT(redis_ask(&redis, "GET in"), "(nil)");
    EXPECT(client, ":1", "DEL", "in");
    close_client(client);
    snprintf(listening, sizeof listening, "tcp://127.0.0.1:%s", port);
    equal(listening, 1);
    char path[PATH_SIZE + 8];
    snprintf(path, sizeof path, "unix://%s", setting("BROKER_TEST_REDIS"));
    equal(path, 1);
    equal(server.endpoint, 0);
    server_kill(&server);
}

static void environment(void)
{
    char path[PATH_SIZE + 8], words[200] = "";
    broker_client_t *client = (broker_client_t *)&client;
    unsetenv("BROKER_ENDPOINT");
    CHECK_INT(broker_client_new(&client, NULL, NULL, words, sizeof words), BROKER_EINVAL);
    CHECK(client == NULL && strstr(words, "BROKER_ENDPOINT") != NULL);
    snprintf(path, sizeof path, "unix://%s", setting("BROKER_TEST_REDIS"));
    setenv("BROKER_ENDPOINT", path, 1);
    client = open_client(NULL, NULL);
    EXPECT(client, "+PONG", "PING");
    close_client(client);
    setenv("BROKER_ENDPOINT", "nonsense", 1);
    CHECK_INT(broker_client_new(&client, NULL, NULL, words, sizeof words), BROKER_EINVAL);
    unsetenv("BROKER_ENDPOINT");
}

static void malformed(void)
{
    static const char *const endpoints[] = {"",         "x",      "http://h:1",      "unix://",  "tcp://h",
                                            "fd://",    "fd://x", "fd://-1",         "fd://999", "fd://0x3",       "redis://",
                                            "redis://h:x", "redis://h:70000", "redis://h:1/x", "rediss://h:x", "tls://h", "tls://h:1?cert=/c", "tcp://:1", "\xff\xfe"};
    for (size_t i = 0; i < sizeof endpoints / sizeof endpoints[0]; i++) {
        broker_client_t *client = (broker_client_t *)&client;
        char words[200] = "", cut[8] = "1234567", none[1] = {'x'};
        int descriptors = count_descriptors();
        int code = broker_client_new(&client, endpoints[i], NULL, words, sizeof words);
        if (code != BROKER_EINVAL || client != NULL || words[0] == 0)
            FAIL("\"%s\": %d %s", endpoints[i], code, words);
        CHECK_INT(broker_client_new(&client, endpoints[i], NULL, cut, sizeof cut), BROKER_EINVAL);
        CHECK_INT(strlen(cut), 7);
        CHECK(strncmp(cut, words, 7) == 0);
        CHECK_INT(broker_client_new(&client, endpoints[i], NULL, none, 1), BROKER_EINVAL);
        CHECK(none[0] == '\0');
        CHECK_INT(broker_client_new(&client, endpoints[i], NULL, NULL, 0), BROKER_EINVAL);
        CHECK_INT(broker_client_new(&client, endpoints[i], NULL, NULL, 10), BROKER_EINVAL);
        CHECK_INT(count_descriptors(), descriptors);
    }
}

/* A client that left out the user would be somebody else. */
static void user_without_password(void)
{
    broker_client_t *client = NULL;
    broker_config_t *config = broker_config_new();
    char words[200] = "";
    int ends[2];
    CHECK_INT(broker_client_new(&client, "redis://somebody@127.0.0.1:1", NULL, words, sizeof words), BROKER_ECONFIG);
    CHECK(strstr(words, "without a password") != NULL);
    CHECK_INT(broker_config_set(config, "client_username", "somebody"), BROKER_OK);
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    snprintf(words, sizeof words, "fd://%d", ends[0]);
    CHECK_INT(broker_client_new(&client, words, config, NULL, 0), BROKER_ECONFIG);
    CHECK(client == NULL);
    CHECK_INT(close(ends[0]), 0);
    CHECK_INT(close(ends[1]), 0);
    CHECK_INT(broker_config_free(config), BROKER_OK);
}

/* Who may not in is told EAUTH, each request once; and a server that speaks nothing of the kind is EPROTO. */
static void turned_away(void)
{
    struct outcome outcomes[3] = {{0}};
    broker_client_t *client;
    char path[PATH_SIZE + 8];
    snprintf(path, sizeof path, "unix://%s", setting("BROKER_TEST_REDIS"));
    client = open_client(path, configure("client_username", "nobody", "client_password", "wrong", (char *)NULL));
    for (int i = 0; i < 3; i++)
        CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &outcomes[i]), BROKER_OK);
    for (int i = 0; i < 3; i++)
        EXPECT_CODE(client, &outcomes[i], BROKER_EAUTH);
    CHECK(strstr(broker_client_error(client), "WRONGPASS") != NULL);
    CHECK_INT(broker_client_call(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_EAUTH);
    close_client(client);
    client = open_client(path, configure("client_db", "999", (char *)NULL));
    CHECK_INT(broker_client_call(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_EAUTH);
    close_client(client);
    broker_config_t *config = configure("client_username", "me", (char *)NULL);
    CHECK_INT(broker_client_new(&client, path, config, NULL, 0), BROKER_ECONFIG);
    CHECK_INT(broker_config_free(config), BROKER_OK);
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
        {"every_endpoint", every_endpoint},
        {"environment", environment},
        {"malformed", malformed},
        {"user_without_password", user_without_password},
        {"turned_away", turned_away},
    };
    begin();
    redis = redis_connect();
    RUN_PARTS(parts);
    redis_wait_clients(&redis, NULL, 0);
    redis_close(&redis);
    return 0;
}

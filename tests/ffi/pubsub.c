/*
 * Subscriptions: confirmed, in order, several of one name, patterns and shard channels, ended inside their own
 * callback, restored after a loss, refused. Pushes that belong to none. Through a proxy that can cut.
 */
#include "proxy.h"

static struct redis redis;
static broker_client_t *client;

enum { NOTES = 64 };

/* What a subscription was told, in words. */
struct feed {
    int count, confirmed, status;
    /* Given up; its last call has come. */
    int left, over;
    char notes[NOTES][96];
    /* Ends itself at this message; 0 for never. */
    int leave_at;
    broker_req_t sub;
};

static void note(broker_client_t *same, int status, const broker_reply_t *push, void *data)
{
    struct feed *feed = data;
    char text[96] = "";
    CHECK(same == client && feed->count < NOTES && !feed->over);
    if (status == BROKER_ECANCELED && feed->left) {
        feed->over = 1;
        return;
    }
    /* Given up, it gets nothing but its last call. */
    CHECK(!feed->left);
    feed->status = status;
    if (push != NULL)
        render(push, text, sizeof text);
    if (strncmp(text, ">[subscribe", 11) == 0 || strncmp(text, ">[psubscribe", 12) == 0
        || strncmp(text, ">[ssubscribe", 12) == 0) {
        feed->confirmed++;
        return;
    }
    snprintf(feed->notes[feed->count++], sizeof text, "%s", text);
    if (feed->count == feed->leave_at) {
        feed->left = 1;
        CHECK_INT(broker_client_cancel(client, feed->sub), BROKER_OK);
    }
}

static void subscribe(int kind, const char *name, struct feed *feed)
{
    memset(feed, 0, sizeof *feed);
    CHECK_INT(broker_client_subscribe(client, kind, name, strlen(name), &feed->sub, note, feed), BROKER_OK);
    CHECK(feed->sub != 0);
    wait_count(client, &feed->confirmed, 1);
}

static void give_up(struct feed *feed)
{
    feed->left = 1;
    CHECK_INT(broker_client_cancel(client, feed->sub), BROKER_OK);
    CHECK_INT(broker_client_cancel(client, feed->sub), BROKER_ESTATE);
    CHECK_INT(feed->over, 0);
}

static void leave(struct feed *feed)
{
    give_up(feed);
    wait_count(client, &feed->over, 1);
}

static void kinds(void)
{
    struct feed channel, pattern, shard;
    subscribe(BROKER_CHANNEL, "news", &channel);
    subscribe(BROKER_PATTERN, "n*", &pattern);
    subscribe(BROKER_SHARD, "part", &shard);
    CHECK_TEXT(redis_ask(&redis, "PUBLISH news one"), ":2");
    CHECK_TEXT(redis_ask(&redis, "SPUBLISH part two"), ":1");
    CHECK_TEXT(redis_ask(&redis, "PUBLISH nil three"), ":1");
    wait_count(client, &channel.count, 1);
    wait_count(client, &pattern.count, 2);
    wait_count(client, &shard.count, 1);
    CHECK_TEXT(channel.notes[0], ">[message news one]");
    CHECK_TEXT(pattern.notes[0], ">[pmessage n* news one]");
    CHECK_TEXT(pattern.notes[1], ">[pmessage n* nil three]");
    CHECK_TEXT(shard.notes[0], ">[smessage part two]");
    leave(&channel);
    leave(&pattern);
    leave(&shard);
    /* With the last of them goes the connection. */
    CHECK_OK(broker_client_process(client, 0));
    redis_wait_clients(&redis, NULL, 1);
}

/* Two of one name are one to Redis; each gets every message, and the first to go takes nothing from the other. */
static void shared_name(void)
{
    struct feed first, second, late;
    subscribe(BROKER_CHANNEL, "news", &first);
    subscribe(BROKER_CHANNEL, "news", &second);
    CHECK_TEXT(redis_ask(&redis, "PUBLISH news one"), ":1");
    wait_count(client, &first.count, 1);
    wait_count(client, &second.count, 1);
    leave(&first);
    subscribe(BROKER_CHANNEL, "news", &late);
    CHECK_TEXT(redis_ask(&redis, "PUBLISH news two"), ":1");
    wait_count(client, &second.count, 2);
    wait_count(client, &late.count, 1);
    CHECK_INT(first.count, 1);
    CHECK_TEXT(second.notes[1], ">[message news two]");
    CHECK_TEXT(late.notes[0], ">[message news two]");
    leave(&second);
    leave(&late);
}

/* A hundred messages are there already when the third ends it: the rest is not told. */
static void left_in_its_callback(void)
{
    struct feed feed, other;
    subscribe(BROKER_CHANNEL, "news", &feed);
    subscribe(BROKER_CHANNEL, "other", &other);
    feed.leave_at = 3;
    for (int i = 0; i < 40; i++)
        CHECK_TEXT(redis_ask(&redis, "PUBLISH news %d", i), ":1");
    CHECK_TEXT(redis_ask(&redis, "PUBLISH other end"), ":1");
    wait_count(client, &other.count, 1);
    CHECK_INT(feed.count, 3);
    CHECK_TEXT(feed.notes[2], ">[message news 2]");
    CHECK_INT(broker_client_cancel(client, feed.sub), BROKER_ESTATE);
    leave(&other);
}

/* All are asked for again after a loss; a second confirmation says that something may have been missed. */
static void restored(void)
{
    struct feed channel, pattern;
    subscribe(BROKER_CHANNEL, "news", &channel);
    subscribe(BROKER_PATTERN, "p*", &pattern);
    for (int round = 2; round < 5; round++) {
        CHECK(proxy_cut() > 0);
        wait_count(client, &channel.confirmed, round);
        wait_count(client, &pattern.confirmed, round);
        CHECK_TEXT(redis_ask(&redis, "PUBLISH news %d", round), ":1");
        CHECK_TEXT(redis_ask(&redis, "PUBLISH px %d", round), ":1");
        wait_count(client, &channel.count, round - 1);
        wait_count(client, &pattern.count, round - 1);
    }
    CHECK_TEXT(channel.notes[2], ">[message news 4]");
    leave(&channel);
    leave(&pattern);
}

/* Joined and left without waiting, before there is a connection, while it is away. */
static void in_a_hurry(void)
{
    struct feed feeds[8], last;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 8; i++) {
            memset(&feeds[i], 0, sizeof feeds[i]);
            CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, "same", 4, &feeds[i].sub, note, &feeds[i]), BROKER_OK);
            if (i % 2 == 1)
                give_up(&feeds[i - 1]);
            if (i == 4 && round == 1)
                CHECK_OK(broker_client_process(client, 0));
            if (i == 5 && round == 2)
                proxy_cut();
        }
        wait_count(client, &feeds[7].confirmed, 1);
        CHECK_TEXT(redis_ask(&redis, "PUBLISH same x"), ":1");
        for (int i = 1; i < 8; i += 2)
            wait_count(client, &feeds[i].count, 1);
        for (int i = 1; i < 8; i += 2)
            leave(&feeds[i]);
        for (int i = 0; i < 8; i++) {
            CHECK_INT(feeds[i].count, i % 2);
            CHECK_INT(feeds[i].over, 1);
        }
    }
    subscribe(BROKER_CHANNEL, "same", &last);
    leave(&last);
}

/* Names of any bytes; messages of any bytes. */
static void binary(void)
{
    struct feed feed = {0};
    static const char name[] = {'a', '\0', '\r', '\n', (char)0xff};
    const char *const publish[] = {"PUBLISH", name, name};
    const size_t lens[] = {7, sizeof name, sizeof name};
    broker_reply_t *reply = NULL;
    CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, name, sizeof name, &feed.sub, note, &feed), BROKER_OK);
    wait_count(client, &feed.confirmed, 1);
    CHECK_INT(broker_client_call(client, 3, publish, lens, BROKER_FOREVER, &reply), BROKER_OK);
    CHECK_INT(broker_reply_integer(reply), 1);
    broker_reply_free(reply);
    wait_count(client, &feed.count, 1);
    leave(&feed);
    CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, NULL, 3, NULL, note, &feed), BROKER_EINVAL);
    CHECK_INT(broker_client_subscribe(client, 3, "x", 1, NULL, note, &feed), BROKER_EINVAL);
    CHECK_INT(broker_client_subscribe(client, -1, "x", 1, NULL, note, &feed), BROKER_EINVAL);
    CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, "x", 1, NULL, NULL, NULL), BROKER_EINVAL);
}

static int invalidations;

static void invalidated(broker_client_t *same, const broker_reply_t *push, void *data)
{
    char text[96];
    CHECK(same == client && data == &invalidations);
    CHECK_TEXT(render(push, text, sizeof text), ">[invalidate [tracked]]");
    invalidations++;
}

/* CLIENT TRACKING is set again after a loss, and its pushes go to on_push. */
static void tracking(void)
{
    int losses = 0;
    CHECK_INT(broker_client_on_push(client, invalidated, &invalidations), BROKER_OK);
    CHECK_INT(broker_client_on_state(client, count_loss, &losses), BROKER_OK);
    EXPECT(client, "+OK", "CLIENT", "TRACKING", "ON");
    for (int round = 1; round < 4; round++) {
        EXPECT(client, "_", "GET", "tracked");
        CHECK_TEXT(redis_ask(&redis, "SET tracked x"), "+OK");
        wait_count(client, &invalidations, round);
        CHECK_TEXT(redis_ask(&redis, "DEL tracked"), ":1");
        proxy_cut();
        wait_count(client, &losses, round);
    }
    CHECK_INT(broker_client_on_state(client, NULL, NULL), BROKER_OK);
    CHECK_INT(broker_client_on_push(client, NULL, NULL), BROKER_OK);
    EXPECT(client, "_", "GET", "tracked");
    CHECK_TEXT(redis_ask(&redis, "SET tracked x"), "+OK");
    EXPECT(client, "x", "GET", "tracked");
    CHECK_INT(invalidations, 3);
    EXPECT(client, "+OK", "CLIENT", "TRACKING", "OFF");
    EXPECT(client, ":1", "DEL", "tracked");
}

/* Refused by Redis: the error is the last word. */
static void refused(void)
{
    struct outcome outcome = {0};
    CHECK_TEXT(redis_ask(&redis, "ACL SETUSER few on >secret +@all ~* resetchannels &allowed"), "+OK");
    broker_client_t *few = open_client(
        proxy.endpoint, configure("client_username", "few", "client_password", "secret", (char *)NULL));
    EXPECT(few, "few", "ACL", "WHOAMI");
    CHECK_INT(broker_client_subscribe(few, BROKER_CHANNEL, "denied", 6, NULL, keep, &outcome), BROKER_OK);
    wait_outcome(few, &outcome);
    CHECK_INT(outcome.status, BROKER_OK);
    CHECK(strncmp(outcome.text, "-NOPERM", 7) == 0);
    struct outcome fine = {0};
    CHECK_INT(broker_client_subscribe(few, BROKER_CHANNEL, "allowed", 7, NULL, keep, &fine), BROKER_OK);
    EXPECT_OUTCOME(few, &fine, ">[subscribe allowed :1]");
    close_client(few);
    CHECK_INT(outcome.calls, 1);
    CHECK_TEXT(redis_ask(&redis, "ACL DELUSER few"), ":1");
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
        {"kinds", kinds},           {"shared_name", shared_name}, {"left_in_its_callback", left_in_its_callback},
        {"restored", restored},     {"in_a_hurry", in_a_hurry},   {"binary", binary},
        {"tracking", tracking},     {"refused", refused},
    };
    begin();
    proxy_start();
    redis = redis_connect();
    client = open_client(proxy.endpoint, NULL);
    EXPECT(client, "+PONG", "PING");
    RUN_PARTS(parts);
    close_client(client);
    redis_wait_clients(&redis, NULL, 0);
    redis_close(&redis);
    proxy_end();
    return 0;
}

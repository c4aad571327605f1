/*
 * fd:// clients: a socketpair to an embedded loop, with blocking commands, sessions and subscriptions although there is
 * but one socket; the loop in this process and in another; Redis' own socket handed in; the end of it all.
 */
#include "loop.h"

static struct redis redis;

/* A process that runs the loop of an adopted socket until it is killed; the client's end is returned. */
static int serve_in_child(pid_t *pid)
{
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    *pid = fork_or_fail();
    if (*pid == 0) {
        close(ends[1]);
        broker_loop_t *loop = open_loop(NULL, NULL);
        CHECK_INT(broker_loop_adopt(loop, ends[0]), BROKER_OK);
        broker_loop_run(loop, BROKER_RUN_DEFAULT);
        _exit(1);
    }
    close(ends[0]);
    return ends[1];
}

/* All that needs a connection of its own, at once, over the one socket. */
static void everything(broker_client_t *client)
{
    struct outcome pops[10] = {{0}}, told = {0}, many[100] = {{0}};
    broker_client_t *sessions[3];
    broker_req_t sub = 0;
    for (int i = 0; i < 100; i++)
        CHECK_INT(broker_client_submit(client, ARGV("INCR", "k"), NULL, BROKER_FOREVER, NULL, keep, &many[i]), BROKER_OK);
    for (int i = 0; i < 10; i++) {
        char list[32];
        snprintf(list, sizeof list, "list:%d", i);
        CHECK_INT(broker_client_submit(client, ARGV("BLPOP", list, "0"), NULL, BROKER_FOREVER, NULL, keep, &pops[i]), BROKER_OK);
    }
    CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, "c", 1, &sub, keep, &told), BROKER_OK);
    for (int i = 0; i < 3; i++) {
        broker_reply_t *reply = NULL;
        CHECK_INT(broker_client_session(&sessions[i], client), BROKER_OK);
        CHECK_INT(broker_client_call(sessions[i], ARGV("WATCH", "w"), NULL, BROKER_FOREVER, &reply), BROKER_OK);
        broker_reply_free(reply);
    }
    for (int i = 0; i < 100; i++) {
        char expected[16];
        snprintf(expected, sizeof expected, ":%d", i + 1);
        EXPECT_OUTCOME(client, &many[i], expected);
    }
    EXPECT_OUTCOME(client, &told, ">[subscribe c :1]");
    EXPECT(client, ":1", "PUBLISH", "c", "x");
    while (told.calls < 2)
        CHECK_OK(broker_client_process(client, -1));
    CHECK_TEXT(told.text, ">[message c x]");
    CHECK_INT(broker_client_cancel(client, sub), BROKER_OK);
    for (int i = 9; i >= 0; i--) {
        char list[32], expected[48];
        snprintf(list, sizeof list, "list:%d", i);
        snprintf(expected, sizeof expected, "[list:%d e]", i);
        CHECK_INT(pops[i].calls, 0);
        EXPECT(client, ":1", "RPUSH", list, "e");
        EXPECT_OUTCOME(client, &pops[i], expected);
    }
    EXPECT(client, "+OK", "SET", "w", "changed");
    for (int i = 0; i < 3; i++) {
        broker_reply_t *reply = NULL;
        broker_transaction_t *block = broker_transaction_new();
        CHECK_INT(broker_transaction_add(block, ARGV("INCR", "w"), NULL), BROKER_OK);
        CHECK_INT(broker_client_call_transaction(sessions[i], block, BROKER_FOREVER, &reply), BROKER_OK);
        CHECK_INT(broker_reply_type(reply), BROKER_REPLY_NIL);
        broker_reply_free(reply);
        CHECK_INT(broker_transaction_free(block), BROKER_OK);
        CHECK_INT(broker_client_free(sessions[i]), BROKER_OK);
    }
    EXPECT(client, ":2", "DEL", "w", "k");
}

static void one_socket(void)
{
    pid_t pid;
    int fd = serve_in_child(&pid);
    broker_client_t *client = open_fd(fd);
    for (int round = 0; round < 3; round++)
        everything(client);
    close_client(client);
    /* The client has closed it. */
    CHECK(fcntl(fd, F_GETFD) < 0 && errno == EBADF);
    kill_child(pid);
}

/* Lost, it stays lost: what was sent is ELOST, everything after ECONN, and sessions and pops as well. */
static void lost_for_good(void)
{
    pid_t pid;
    int losses = 0, descriptors = count_descriptors();
    broker_client_t *client = open_fd(serve_in_child(&pid));
    broker_client_t *session = NULL, *none = NULL;
    struct outcome popped = {0}, told = {0}, never = {0}, unsent[5] = {{0}};
    CHECK_INT(broker_client_on_state(client, count_loss, &losses), BROKER_OK);
    CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "none", "0"), NULL, BROKER_FOREVER, NULL, keep, &popped), BROKER_OK);
    CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, "c", 1, NULL, keep, &told), BROKER_OK);
    CHECK_INT(broker_client_session(&session, client), BROKER_OK);
    CHECK_INT(broker_client_call(session, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_OK);
    wait_outcome(client, &told);
    kill_child(pid);
    for (int i = 0; i < 5; i++)
        CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &unsent[i]), BROKER_OK);
    for (int i = 0; i < 5; i++)
        EXPECT_CODE(client, &unsent[i], BROKER_ECONN);
    wait_outcome(client, &popped);
    CHECK(popped.status == BROKER_ELOST || popped.status == BROKER_ECONN);
    while (told.calls < 2)
        CHECK_OK(broker_client_process(client, -1));
    CHECK(told.status < 0);
    wait_count(client, &losses, 1);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, &never), BROKER_ECONN);
        CHECK_INT(broker_client_call(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_ECONN);
        CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "l", "0"), NULL, BROKER_FOREVER, NULL, keep, &never), BROKER_ECONN);
        CHECK_INT(broker_client_subscribe(client, BROKER_CHANNEL, "c", 1, NULL, keep, &never), BROKER_ECONN);
        CHECK_INT(broker_client_session(&none, client), BROKER_ECONN);
        CHECK_INT(broker_client_call(session, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_ECONN);
        CHECK_INT(broker_client_connected(client), 0);
        CHECK_OK(broker_client_process(client, 0));
    }
    CHECK_INT(broker_client_free(session), BROKER_OK);
    close_client(client);
    CHECK_INT(never.calls, 0);
    CHECK_INT(losses, 1);
    CHECK_INT(told.calls, 2);
    CHECK_INT(count_descriptors(), descriptors);
}

/* Redis' own socket, connected by the program: all but what needs a second connection. */
static void a_socket_of_redis(void)
{
    broker_client_t *client = open_fd(connect_unix(setting("BROKER_TEST_REDIS")));
    struct outcome outcomes[50] = {{0}};
    EXPECT(client, "+PONG", "PING");
    for (int i = 0; i < 50; i++)
        CHECK_INT(broker_client_submit(client, ARGV("ECHO", "x"), NULL, BROKER_FOREVER, NULL, keep, &outcomes[i]), BROKER_OK);
    for (int i = 0; i < 50; i++)
        EXPECT_OUTCOME(client, &outcomes[i], "x");
    close_client(client);
}

/* In a forked process an fd:// client cannot connect again, and its parent's goes on. */
static void forked(void)
{
    pid_t server, pid;
    broker_client_t *client = open_fd(serve_in_child(&server));
    struct outcome popped = {0};
    EXPECT(client, "+PONG", "PING");
    CHECK_INT(broker_client_submit(client, ARGV("BLPOP", "list", "0"), NULL, BROKER_FOREVER, NULL, keep, &popped), BROKER_OK);
    while (redis_info(&redis, "clients", "blocked_clients") == 0)
        CHECK_OK(broker_client_process(client, 5));
    pid = fork_or_fail();
    if (pid == 0) {
        CHECK_INT(broker_client_after_fork(client), BROKER_ECONN);
        CHECK_INT(broker_client_call(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_ECONN);
        CHECK_INT(broker_client_after_fork(client), BROKER_ESTATE);
        close_client(client);
        CHECK_INT(popped.calls, 0);
        end_child();
    }
    wait_child(pid);
    EXPECT(client, ":1", "RPUSH", "list", "x");
    EXPECT_OUTCOME(client, &popped, "[list x]");
    close_client(client);
    kill_child(server);
}

/* Whatever number is not a connected stream socket is refused and stays the caller's. */
static void unfit(void)
{
    int pipe_ends[2], null = open("/dev/null", O_RDWR | O_CLOEXEC), datagram[2];
    int unconnected = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(pipe2(pipe_ends, O_CLOEXEC) == 0 && socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, datagram) == 0);
    int numbers[] = {pipe_ends[0], null, datagram[0], unconnected};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        broker_client_t *client = NULL;
        char endpoint[32], words[200] = "";
        snprintf(endpoint, sizeof endpoint, "fd://%d", numbers[i]);
        CHECK_INT(broker_client_new(&client, endpoint, NULL, words, sizeof words), BROKER_EINVAL);
        CHECK(client == NULL && words[0] != '\0');
        CHECK_INT(close(numbers[i]), 0);
    }
    close(pipe_ends[1]);
    close(datagram[1]);
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
        {"one_socket", one_socket}, {"lost_for_good", lost_for_good}, {"a_socket_of_redis", a_socket_of_redis},
        {"forked", forked},         {"unfit", unfit},
    };
    begin();
    redis = redis_connect();
    RUN_PARTS(parts);
    redis_wait_clients(&redis, NULL, 0);
    redis_close(&redis);
    return 0;
}

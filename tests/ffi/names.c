/*
 * Names that lead elsewhere after a failover, and look-ups that do not end: a name server in a thread of the test, which
 * is asked for every name that the test's own /etc/hosts does not have. A client and a loop get to the new address; nobody
 * waits for the answer, and the library has no thread for it.
 */
#include "loop.h"
#include "proxy.h"

#include "etc.h"

#include <sys/mman.h>
#include <sys/stat.h>

enum { QUESTION_MAX = 512, KEPT = 64, HEAD = 12, TYPE_A = 1 };

/* In memory that forked copies share: the server is there for all of them. */
struct names {
    /* The name is at 127.0.0.1, where the proxy is, else at 127.0.0.2; answers wait. */
    int moved, held;
    /* Questions for addresses of version 4: one for each look-up. */
    int asked;
};

static struct names *names;
static pthread_t server_thread;
static int server, over, threads_before;
static char endpoint[64], upstream[64];

static void set(int *what, int value)
{
    __atomic_store_n(what, value, __ATOMIC_SEQ_CST);
}

static int get(const int *what)
{
    return __atomic_load_n(what, __ATOMIC_SEQ_CST);
}

struct question {
    unsigned char bytes[QUESTION_MAX];
    size_t len;
    struct sockaddr_in from;
};

/* The type is before the class, which ends it. */
static int asks_for_a(const struct question *question)
{
    return question->len > HEAD + 4 && question->bytes[question->len - 3] == TYPE_A;
}

static void answer(const struct question *question)
{
    unsigned char bytes[QUESTION_MAX + 16];
    /* The name asked for, its type and class, a minute, four bytes. */
    unsigned char address[] = {0xc0, HEAD, 0, TYPE_A, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, get(&names->moved) ? 1 : 2};
    size_t len = question->len;
    memcpy(bytes, question->bytes, len);
    bytes[2] = 0x81;
    bytes[3] = 0x80;
    if (asks_for_a(question)) {
        bytes[7] = 1;
        memcpy(bytes + len, address, sizeof address);
        len += sizeof address;
    }
    /* Whoever has asked may have gone. */
    (void)!sendto(server, bytes, len, 0, (const struct sockaddr *)&question->from, sizeof question->from);
}

static void *serve_names(void *unused)
{
    static struct question kept[KEPT];
    int count = 0;
    (void)unused;
    while (!get(&over)) {
        struct question *next = &kept[count];
        socklen_t len = sizeof next->from;
        ssize_t got = recvfrom(server, next->bytes, QUESTION_MAX, 0, (struct sockaddr *)&next->from, &len);
        if (got >= HEAD) {
            next->len = (size_t)got;
            if (asks_for_a(next))
                __atomic_add_fetch(&names->asked, 1, __ATOMIC_SEQ_CST);
            CHECK(++count < KEPT);
        }
        /* A look now and then whether a test has let them go. */
        while (count > 0 && !get(&names->held))
            answer(&kept[--count]);
    }
    return NULL;
}

static void start_names(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval moment = {.tv_usec = 2000};
    socklen_t len = sizeof address;
    char path[PATH_SIZE];
    names = mmap(NULL, sizeof *names, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(names != MAP_FAILED);
    server = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CHECK(bind(server, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(getsockname(server, (struct sockaddr *)&address, &len) == 0);
    CHECK(setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &moment, sizeof moment) == 0);
    setenv("BROKER_TEST_ETC", setting("BROKER_TEST_DIRECTORY"), 1);
    struct {
        const char *name, *text;
    } files[] = {{"hosts", "127.0.0.1 localhost\n"}, {"resolv.conf", "nameserver 127.0.0.1\noptions timeout:30\n"}};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        private_path(path, files[i].name);
        FILE *file = fopen(path, "we");
        CHECK(file != NULL && fputs(files[i].text, file) >= 0 && fclose(file) == 0);
    }
    private_path(path, "port");
    FILE *file = fopen(path, "we");
    CHECK(file != NULL && fprintf(file, "%d", ntohs(address.sin_port)) > 0 && fclose(file) == 0);
    CHECK_INT(pthread_create(&server_thread, NULL, serve_names, NULL), 0);
}

static void end_names(void)
{
    set(&over, 1);
    CHECK_INT(pthread_join(server_thread, NULL), 0);
    close(server);
    munmap(names, sizeof *names);
}

static void start_over(int moved, int held)
{
    set(&names->moved, moved);
    set(&names->held, held);
    set(&names->asked, 0);
}

static int count_threads(void)
{
    DIR *directory = opendir("/proc/self/task");
    int count = 0;
    CHECK(directory != NULL);
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

static broker_loop_t *open_named_loop(void)
{
    const char *const settings[] = {"upstream", upstream, NULL};
    return open_loop(NULL, settings);
}

static void submit_ping(broker_loop_t *loop, struct outcome *outcome)
{
    CHECK_INT(broker_client_submit(own(loop), ARGV("PING"), NULL, BROKER_FOREVER, NULL, keep, outcome), BROKER_OK);
}

/* Steps until the name has been asked for so often. */
static void step_until_asked(broker_client_t *client, int asked)
{
    while (get(&names->asked) < asked)
        CHECK_OK(broker_client_process(client, 2));
}

static void client_follows(void)
{
    start_over(0, 0);
    broker_client_t *client = open_client(endpoint, NULL);
    step_until_asked(client, 1);
    set(&names->moved, 1);
    EXPECT(client, "+PONG", "PING");
    CHECK(get(&names->asked) >= 2);
    CHECK_INT(count_threads(), threads_before);
    close_client(client);
}

static void loop_follows(void)
{
    struct outcome outcome = {0};
    start_over(0, 0);
    broker_loop_t *loop = open_named_loop();
    submit_ping(loop, &outcome);
    while (get(&names->asked) < 1)
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    set(&names->moved, 1);
    EXPECT_OWN(loop, &outcome, "+PONG");
    CHECK(get(&names->asked) >= 2);
    CHECK_INT(count_threads(), threads_before);
    close_loop(loop);
}

/* A connection that is lost has the name looked up again, even if the old address still answers. */
static void lost(void)
{
    start_over(1, 0);
    broker_client_t *client = open_client(endpoint, NULL);
    EXPECT(client, "+PONG", "PING");
    CHECK_INT(get(&names->asked), 1);
    CHECK(proxy_cut() > 0);
    while (broker_client_connected(client))
        CHECK_OK(broker_client_process(client, 5));
    EXPECT(client, "+PONG", "PING");
    /* Not within a second of the first time. */
    step_until_asked(client, 2);
    EXPECT(client, "+PONG", "PING");
    CHECK_INT(get(&names->asked), 2);
    close_client(client);
}

/* However many connections there are, one look-up is enough while the name leads somewhere. */
static void works(void)
{
    struct outcome outcome = {0};
    start_over(1, 0);
    broker_client_t *client = open_client(endpoint, NULL);
    broker_loop_t *loop = open_named_loop();
    for (int i = 0; i < 5; i++) {
        EXPECT(client, "_", "BLPOP", "names:none", "0.01");
        EXPECT(client, "+PONG", "PING");
    }
    submit_ping(loop, &outcome);
    EXPECT_OWN(loop, &outcome, "+PONG");
    CHECK_INT(get(&names->asked), 2);
    CHECK_INT(count_threads(), threads_before);
    close_loop(loop);
    close_client(client);
}

/* A handle is made all the same, and says in the end why it is of no use. */
static void hung_from_the_beginning(void)
{
    start_over(1, 1);
    broker_client_t *client = open_client(endpoint, NULL);
    CHECK_INT(broker_client_call(client, ARGV("PING"), NULL, 30, NULL), BROKER_ETIMEDOUT);
    set(&names->held, 0);
    EXPECT(client, "+PONG", "PING");
    CHECK_INT(get(&names->asked), 1);
    close_client(client);
    start_over(1, 1);
    client = open_client(endpoint, configure("client_connect_timeout", "2000", "client_queue_timeout", "5000", NULL));
    CHECK_INT(broker_client_call(client, ARGV("PING"), NULL, BROKER_FOREVER, NULL), BROKER_ECONN);
    CHECK(strstr(broker_client_error(client), "cannot look up moves.test: no answer from 127.0.0.1") != NULL);
    CHECK_INT(get(&names->asked), 1);
    close_client(client);
}

static void hung_in_client(void)
{
    start_over(0, 0);
    broker_client_t *client = open_client(endpoint, NULL);
    step_until_asked(client, 1);
    set(&names->held, 1);
    set(&names->moved, 1);
    step_until_asked(client, get(&names->asked) + 1);
    CHECK_INT(broker_client_call(client, ARGV("PING"), NULL, 30, NULL), BROKER_ETIMEDOUT);
    int asked = get(&names->asked);
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        /* It asks with a socket of its own. */
        CHECK_INT(broker_client_after_fork(client), BROKER_OK);
        step_until_asked(client, asked + 1);
        set(&names->held, 0);
        EXPECT(client, "+PONG", "PING");
        close_client(client);
        end_child_of_threads();
    }
    wait_child(pid);
    EXPECT(client, "+PONG", "PING");
    close_client(client);
}

/* A handle may be freed while its name is being looked up. */
static void hung_and_freed(void)
{
    struct outcome outcome = {0};
    start_over(0, 1);
    broker_client_t *client = open_client(endpoint, NULL);
    step_until_asked(client, 1);
    close_client(client);
    broker_loop_t *loop = open_named_loop();
    submit_ping(loop, &outcome);
    while (get(&names->asked) < 2)
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    close_loop(loop);
    CHECK_INT(outcome.status, BROKER_ECANCELED);
    set(&names->held, 0);
}

/* The client moves to a forked process while its name is being looked up: the answer comes there. Here nothing touches
 * the numbers of its descriptors, which are the program's own by now. */
static void moved_meanwhile(void)
{
    enum { FILES = 16 };
    int files[FILES];
    char path[PATH_SIZE];
    struct stat stat;
    private_path(path, "names.own");
    start_over(1, 1);
    broker_client_t *client = open_client(endpoint, NULL);
    step_until_asked(client, 1);
    CHECK_INT(broker_client_follow_fork(client, 1), BROKER_OK);
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        set(&names->held, 0);
        EXPECT(client, "+PONG", "PING");
        CHECK_INT(get(&names->asked), 1);
        close_client(client);
        end_child_of_threads();
    }
    for (int i = 0; i < FILES; i++) {
        files[i] = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
        CHECK(files[i] >= 0);
    }
    wait_child(pid);
    for (int i = 0; i < FILES; i++) {
        CHECK_INT(fstat(files[i], &stat), 0);
        CHECK_INT(stat.st_size, 0);
        close(files[i]);
    }
    unlink(path);
    CHECK_INT(broker_client_free(client), BROKER_OK);
}

/* A reload waits for no name. */
static void reload_meanwhile(void)
{
    struct outcome outcome = {0};
    start_over(1, 1);
    broker_loop_t *loop = open_loop(NULL, NULL);
    broker_config_t *config = configure("upstream", upstream, (char *)NULL);
    CHECK_INT(broker_loop_reload(loop, config), BROKER_OK);
    CHECK_INT(broker_config_free(config), BROKER_OK);
    submit_ping(loop, &outcome);
    while (get(&names->asked) < 1)
        CHECK_OK(broker_loop_run(loop, BROKER_RUN_NOWAIT));
    CHECK_INT(outcome.calls, 0);
    set(&names->held, 0);
    EXPECT_OWN(loop, &outcome, "+PONG");
    CHECK_INT(get(&names->asked), 1);
    close_loop(loop);
}

static void fork_once(void)
{
    pid_t pid = fork_or_fail();
    if (pid == 0)
        end_child_of_threads();
    wait_child(pid);
}

static char fifo[PATH_SIZE];

static void *load(void *data)
{
    CHECK_INT(broker_config_load(data, fifo), BROKER_OK);
    return NULL;
}

/* While a file does not come, a fork does not wait for the load. */
static void load_that_waits(void)
{
    static const char text[] = "lanes = 3\nclient_db = 4\n";
    broker_config_t *config = broker_config_new();
    pthread_t thread;
    char value[16];
    int fd;
    private_path(fifo, "config.fifo");
    CHECK(mkfifo(fifo, 0600) == 0);
    CHECK_INT(pthread_create(&thread, NULL, load, config), 0);
    /* Only once there is a reader. */
    while ((fd = open(fifo, O_WRONLY | O_NONBLOCK | O_CLOEXEC)) < 0)
        pause_a_little();
    fork_once();
    CHECK_INT(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(broker_config_get(config, "lanes", value, sizeof value), 1);
    CHECK_TEXT(value, "3");
    CHECK_INT(broker_config_get(config, "client_db", value, sizeof value), 1);
    CHECK_TEXT(value, "4");
    CHECK_INT(broker_config_free(config), BROKER_OK);
    unlink(fifo);
}

int main(int argc, char **argv)
{
    static const struct part parts[] = {
        {"client_follows", client_follows},
        {"loop_follows", loop_follows},
        {"lost", lost},
        {"works", works},
        {"hung_from_the_beginning", hung_from_the_beginning},
        {"hung_in_client", hung_in_client},
        {"hung_and_freed", hung_and_freed},
        {"moved_meanwhile", moved_meanwhile},
        {"reload_meanwhile", reload_meanwhile},
        {"load_that_waits", load_that_waits},
    };
    begin();
    start_names();
    int port = proxy_start_tcp();
    snprintf(endpoint, sizeof endpoint, "tcp://moves.test:%d", port);
    snprintf(upstream, sizeof upstream, "redis://moves.test:%d", port);
    threads_before = count_threads();
    RUN_PARTS(parts);
    proxy_end();
    end_names();
    return 0;
}

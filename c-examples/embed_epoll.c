/*
 * The broker inside a program with its own epoll loop: here a small web server that counts its visits in
 * Redis. It serves its web clients, serves the broker's children and sends its own requests, all in one thread
 * and one loop.
 *
 *     embed_epoll REDIS_URL [LISTEN_URL]
 *
 * Prints the URL of the web server, and with LISTEN_URL, such as unix:///tmp/b.sock, that of the broker. SIGINT
 * or SIGTERM end it after all received requests are answered.
 */
#define _GNU_SOURCE

#include <arpa/inet.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <broker.h>

#define EVENTS 64
/* A visitor waits this long for Redis, in milliseconds. */
#define PATIENCE 5000

static int epoll;
/* Visits answered. */
static int visits;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void watch(int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        fail("epoll_ctl");
}

/* The answer is far smaller than a socket's buffer, so it is sent at once, or the visitor has gone. */
static void answer(int visitor, const char *status, const char *text)
{
    char page[256];
    int len = snprintf(page, sizeof page, "HTTP/1.0 %s\r\nContent-Length: %zu\r\n\r\n%s", status,
                       strlen(text), text);

    if (send(visitor, page, (size_t)len, MSG_NOSIGNAL) == len)
        visits++;
    close(visitor);
}

/* Runs inside broker_loop_run(), once for each request. `data` is the visitor it belongs to. */
static void on_count(broker_client_t *client, int status, const broker_reply_t *reply, void *data)
{
    int visitor = (int)(intptr_t)data;
    char text[128];

    (void)client;
    if (status != BROKER_OK) {
        answer(visitor, "503 Service Unavailable", broker_strerror(status));
    } else if (broker_reply_type(reply) != BROKER_REPLY_INTEGER) {
        answer(visitor, "500 Internal Server Error", "the counter is no number\n");
    } else {
        snprintf(text, sizeof text, "visit %lld\n", (long long)broker_reply_integer(reply));
        answer(visitor, "200 OK", text);
    }
}

/* A visitor has sent something. Whatever it requests, it gets the number of its visit. */
static void on_request(broker_client_t *client, int visitor)
{
    char request[4096];
    int code;

    epoll_ctl(epoll, EPOLL_CTL_DEL, visitor, NULL); /* until it is answered, nothing more is read */
    if (recv(visitor, request, sizeof request, 0) <= 0) {
        close(visitor);
        return;
    }
    /* It uses the broker's own connections to Redis, together with the requests of its children. */
    code = broker_client_submit(client, BROKER_ARGV("INCR", "embed_epoll:visits"), PATIENCE, NULL, on_count,
                                (void *)(intptr_t)visitor);
    if (code != BROKER_OK) /* then the callback does not run */
        answer(visitor, "503 Service Unavailable", broker_strerror(code));
}

static int web_server(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (bind(server, (struct sockaddr *)&address, len) != 0 || listen(server, SOMAXCONN) != 0 ||
        getsockname(server, (struct sockaddr *)&address, &len) != 0)
        fail("web server");
    printf("web http://127.0.0.1:%d/\n", ntohs(address.sin_port));
    return server;
}

static broker_loop_t *embedded(const char *redis, const char *listen)
{
    broker_config_t *config = broker_config_new();
    broker_loop_t *loop;
    char text[256];

    if (broker_config_set(config, "upstream", redis) != BROKER_OK ||
        broker_config_set(config, "listen", listen) != BROKER_OK) { /* NULL: no listener */
        fprintf(stderr, "embed_epoll: %s\n", broker_config_error(config));
        exit(2);
    }
    if (broker_loop_new(&loop, config, text, sizeof text) != BROKER_OK) {
        fprintf(stderr, "embed_epoll: %s\n", text);
        exit(1);
    }
    broker_config_free(config); /* the loop has its copy */
    if (broker_loop_endpoint(loop, 0, text, sizeof text) > 0)
        printf("broker %s\n", text);
    return loop;
}

int main(int argc, char **argv)
{
    broker_client_t *client; /* for this program's own requests */
    broker_loop_t *loop;
    sigset_t stops;
    int server, signals, alive = 1, stopping = 0;

    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: embed_epoll REDIS_URL [LISTEN_URL]\n");
        return 2;
    }
    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    sigprocmask(SIG_BLOCK, &stops, NULL);
    signals = signalfd(-1, &stops, SFD_CLOEXEC);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    loop = embedded(argv[1], argc == 3 ? argv[2] : NULL);
    if (broker_loop_client(&client, loop) != BROKER_OK) {
        fprintf(stderr, "embed_epoll: %s\n", broker_loop_error(loop));
        return 1;
    }
    server = web_server();
    fflush(stdout);

    watch(signals);
    watch(server);
    watch(broker_loop_fd(loop)); /* one descriptor, for any number of the broker's connections */
    while (alive > 0) {
        struct epoll_event events[EVENTS];
        /* How long the broker lets the loop sleep: 0 while it has deferred work, -1 without a timer. */
        int ready = epoll_wait(epoll, events, EVENTS, broker_loop_timeout(loop));
        int i;

        for (i = 0; i < ready; i++) {
            int fd = events[i].data.fd, visitor;

            if (fd == server && (visitor = accept4(server, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                watch(visitor);
            } else if (fd == signals && !stopping) {
                stopping = 1;
                close(server); /* also removes it from the epoll set */
                broker_loop_drain(loop, PATIENCE);
            } else if (fd != server && fd != signals && fd != broker_loop_fd(loop)) {
                on_request(client, fd);
            }
        }
        /* A turn that does not wait. It runs the callbacks; 0 means that the drain is complete. */
        alive = broker_loop_run(loop, BROKER_RUN_NOWAIT);
        if (alive < 0) {
            fprintf(stderr, "embed_epoll: %s\n", broker_strerror(alive));
            return 1;
        }
    }
    broker_client_free(client);
    broker_loop_free(loop);
    close(signals);
    close(epoll);
    printf("%d visits answered\n", visits);
    return 0;
}

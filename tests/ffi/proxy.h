/*
 * A proxy before Redis, in a thread of the test: holds replies back, lets them trickle, cuts connections, puts bytes
 * of its own in. What real servers show only by accident. One proxy to a program.
 */
#ifndef PROXY_H
#define PROXY_H

#include "client.h"

#include <netinet/in.h>
#include <pthread.h>

enum { LINKS = 64 };

struct proxy {
    pthread_t thread;
    pthread_mutex_t lock;
    int listener, wake[2];
    char path[PATH_SIZE], endpoint[PATH_SIZE + 8];
    /* Under the lock: connections as pairs of near (the client's) and far (Redis'), -1 for none. */
    int near[LINKS], far[LINKS];
    /* Replies wait; replies go out a byte at a time; new connections are refused. */
    int held, trickles, refuses, over;
};

static struct proxy proxy;

static void proxy_drop(int i)
{
    close(proxy.near[i]);
    close(proxy.far[i]);
    proxy.near[i] = proxy.far[i] = -1;
}

static void proxy_accept(void)
{
    int near = accept4(proxy.listener, NULL, NULL, SOCK_CLOEXEC);
    if (near < 0)
        return;
    int far = proxy.refuses ? -1 : connect_unix(setting("BROKER_TEST_REDIS"));
    for (int i = 0; i < LINKS && far >= 0; i++)
        if (proxy.near[i] < 0) {
            proxy.near[i] = near;
            proxy.far[i] = far;
            return;
        }
    close(near);
}

static int write_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t count = send(fd, bytes, len, MSG_NOSIGNAL);
        if (count <= 0)
            return 0;
        bytes += count;
        len -= (size_t)count;
    }
    return 1;
}

/* One direction of one connection; whether it goes on. */
static int proxy_move(int from, int to, int trickles)
{
    static char buf[65536];
    ssize_t count = recv(from, buf, trickles ? 1 : sizeof buf, MSG_DONTWAIT);
    if (count < 0)
        return errno == EAGAIN;
    return count > 0 && write_all(to, buf, (size_t)count);
}

/* Whether a socket takes what proxy_move() reads at once. */
static int has_room(int fd)
{
    struct pollfd one = {fd, POLLOUT, 0};
    return fd < 0 || poll(&one, 1, 0) == 1;
}

static void *proxy_run(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&proxy.lock);
    while (!proxy.over) {
        struct pollfd fds[2 + 2 * LINKS];
        fds[0] = (struct pollfd){proxy.listener, POLLIN, 0};
        fds[1] = (struct pollfd){proxy.wake[0], POLLIN, 0};
        for (int i = 0; i < LINKS; i++) {
            /* Nothing is read that could not be passed on: a client that does not read holds up nobody else. */
            int room = has_room(proxy.near[i]);
            fds[2 + 2 * i] = (struct pollfd){proxy.near[i], (short)(POLLIN | (room ? 0 : POLLOUT)), 0};
            fds[3 + 2 * i] = (struct pollfd){proxy.held || !room ? -1 : proxy.far[i], POLLIN, 0};
        }
        pthread_mutex_unlock(&proxy.lock);
        poll(fds, 2 + 2 * LINKS, -1);
        pthread_mutex_lock(&proxy.lock);
        char bytes[64];
        if (fds[1].revents && read(proxy.wake[0], bytes, sizeof bytes) <= 0)
            break;
        for (int i = 0; i < LINKS; i++) {
            int near = fds[2 + 2 * i].fd;
            if (near < 0 || near != proxy.near[i])
                continue;
            if ((fds[2 + 2 * i].revents & ~POLLOUT) && !proxy_move(near, proxy.far[i], 0))
                proxy_drop(i);
            else if (fds[3 + 2 * i].revents && !proxy.held && !proxy_move(proxy.far[i], near, proxy.trickles))
                proxy_drop(i);
        }
        if (fds[0].revents)
            proxy_accept();
    }
    pthread_mutex_unlock(&proxy.lock);
    return NULL;
}

static void proxy_begin(void)
{
    CHECK(listen(proxy.listener, 64) == 0);
    CHECK(pipe2(proxy.wake, O_CLOEXEC) == 0);
    for (int i = 0; i < LINKS; i++)
        proxy.near[i] = proxy.far[i] = -1;
    CHECK_INT(pthread_mutex_init(&proxy.lock, NULL), 0);
    CHECK_INT(pthread_create(&proxy.thread, NULL, proxy_run, NULL), 0);
}

/* At a port of 127.0.0.1, which nothing has at 127.0.0.2. */
static MAYBE_UNUSED int proxy_start_tcp(void)
{
    struct sockaddr_in address = {0};
    socklen_t len = sizeof address;
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    proxy.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(proxy.listener, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(getsockname(proxy.listener, (struct sockaddr *)&address, &len) == 0);
    proxy_begin();
    return ntohs(address.sin_port);
}

static MAYBE_UNUSED void proxy_start(void)
{
    struct sockaddr_un address = {0};
    private_path(proxy.path, "proxy.sock");
    snprintf(proxy.endpoint, sizeof proxy.endpoint, "unix://%s", proxy.path);
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, proxy.path, strlen(proxy.path));
    proxy.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(proxy.listener, (struct sockaddr *)&address, sizeof address) == 0);
    proxy_begin();
}

static void proxy_set(int *what, int value)
{
    pthread_mutex_lock(&proxy.lock);
    *what = value;
    pthread_mutex_unlock(&proxy.lock);
    CHECK(write(proxy.wake[1], "x", 1) == 1);
}

static MAYBE_UNUSED void proxy_hold(int held)
{
    proxy_set(&proxy.held, held);
}

static MAYBE_UNUSED void proxy_trickle(int trickles)
{
    proxy_set(&proxy.trickles, trickles);
}

static MAYBE_UNUSED void proxy_refuse(int refuses)
{
    proxy_set(&proxy.refuses, refuses);
}

/* Closes every connection as a crash does; how many there were. */
static MAYBE_UNUSED int proxy_cut(void)
{
    int count = 0;
    pthread_mutex_lock(&proxy.lock);
    for (int i = 0; i < LINKS; i++)
        if (proxy.near[i] >= 0) {
            proxy_drop(i);
            count++;
        }
    pthread_mutex_unlock(&proxy.lock);
    CHECK(write(proxy.wake[1], "x", 1) == 1);
    return count;
}

/* Puts bytes into every stream of replies. */
static MAYBE_UNUSED void proxy_inject(const char *bytes)
{
    pthread_mutex_lock(&proxy.lock);
    for (int i = 0; i < LINKS; i++)
        if (proxy.near[i] >= 0)
            CHECK(write_all(proxy.near[i], bytes, strlen(bytes)));
    pthread_mutex_unlock(&proxy.lock);
}

static MAYBE_UNUSED void proxy_end(void)
{
    proxy_set(&proxy.over, 1);
    CHECK_INT(pthread_join(proxy.thread, NULL), 0);
    proxy_cut();
    close(proxy.listener);
    close(proxy.wake[0]);
    close(proxy.wake[1]);
    if (proxy.path[0] != '\0')
        unlink(proxy.path);
    pthread_mutex_destroy(&proxy.lock);
}

#endif

/*
 * epoll.h: a broker_client_t or broker_loop_t in a program's own epoll loop. Owns its place in the epoll set, never
 * the client or the loop. Linux only.
 *
 *     broker_epoll_t adapter;
 *     epoll_data_t mine;
 *     mine.ptr = &adapter;
 *     broker_epoll_attach_client(&adapter, epfd, client, mine);
 *     for (;;) {
 *         int ready = 0;
 *         int n = epoll_wait(epfd, events, 64, broker_epoll_timeout(&adapter, -1));
 *         for (int i = 0; i < n; i++) {
 *             if (events[i].data.ptr == &adapter) ready = 1; else serve(&events[i]);
 *         }
 *         broker_epoll_dispatch(&adapter, ready);
 *     }
 *
 * Callbacks run inside broker_epoll_dispatch(), which never waits and is one step: call it once in each turn, beside
 * everything else, and neither starves the other.
 *
 * License: MIT OR Apache-2.0.
 */
#ifndef BROKER_ADAPTERS_EPOLL_H
#define BROKER_ADAPTERS_EPOLL_H

#include "handle.h"

#include <sys/epoll.h>

/*
 * An attached client or loop; its members are the adapter's own. The program owns the memory, which has to stay until
 * broker_epoll_dispatch() has returned.
 */
typedef struct broker_epoll {
    broker_adapter_handle_t handle;
    int epfd;
    /* -1 while it is not attached. */
    int fd;
} broker_epoll_t;

static inline int broker_epoll__attach(broker_epoll_t *adapter, int epfd, epoll_data_t data) {
    struct epoll_event event;
    int code = broker_adapter_open(&adapter->handle);
    adapter->epfd = epfd;
    adapter->fd = -1;
    if (code < 0) {
        return code;
    }
    event.events = EPOLLIN;
    event.data = data;
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, code, &event) != 0) {
        close(code);
        return BROKER_ESYS;
    }
    adapter->fd = code;
    return BROKER_OK;
}

/*
 * Puts a client into the epoll set `epfd`, level-triggered; events about it carry `data`. After
 * broker_client_after_fork(), detach and attach anew.
 *
 * A code of the client's if it is no good; BROKER_ESYS if epoll refuses.
 */
static inline int broker_epoll_attach_client(broker_epoll_t *adapter, int epfd, broker_client_t *client,
                                             epoll_data_t data) {
    adapter->handle.client = client;
    adapter->handle.loop = NULL;
    return broker_epoll__attach(adapter, epfd, data);
}

/* The same for an embedded broker. */
static inline int broker_epoll_attach_loop(broker_epoll_t *adapter, int epfd, broker_loop_t *broker,
                                           epoll_data_t data) {
    adapter->handle.client = NULL;
    adapter->handle.loop = broker;
    return broker_epoll__attach(adapter, epfd, data);
}

/* Leaves the epoll set. Also from callbacks, before or after the handle is freed, and any number of times. */
static inline void broker_epoll_detach(broker_epoll_t *adapter) {
    struct epoll_event unused;
    if (adapter->fd < 0) {
        return;
    }
    /* By name, not only by close(): a forked process may hold the description open. The event is for Linux 2.6.8. */
    epoll_ctl(adapter->epfd, EPOLL_CTL_DEL, adapter->fd, &unused);
    close(adapter->fd);
    adapter->fd = -1;
}

/* The timeout for epoll_wait(): that of the program, in milliseconds or -1 for none, or the handle's if it is earlier. */
static inline int broker_epoll_timeout(const broker_epoll_t *adapter, int own) {
    int timeout = adapter->fd < 0 ? -1 : broker_adapter_timeout(&adapter->handle);
    return timeout < 0 || (own >= 0 && own < timeout) ? own : timeout;
}

/*
 * One step, if there is reason for one: `ready` says whether epoll_wait() reported the handle. Returns 1 while there is
 * more to come; 0 when there is not (drained, or detached by a callback); below 0 the code with which processing ended,
 * such as BROKER_ESTATE for a handle that was freed. It has detached itself unless it returns 1.
 */
static inline int broker_epoll_dispatch(broker_epoll_t *adapter, int ready) {
    int status;
    if (adapter->fd < 0) {
        return 0;
    }
    if (!ready && broker_adapter_timeout(&adapter->handle) != 0) {
        return 1;
    }
    status = broker_adapter_step(&adapter->handle);
    if (status <= 0) {
        broker_epoll_detach(adapter);
    }
    return adapter->fd < 0 && status > 0 ? 0 : status;
}

#endif /* BROKER_ADAPTERS_EPOLL_H */

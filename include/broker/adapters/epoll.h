/*
 * epoll.h: a broker_client_t or broker_loop_t in a program's own epoll loop. Owns its entry in the epoll set, never
 * the client or the loop. Linux only.
 *
 *     broker_epoll_t *adapter;
 *     epoll_data_t mine;
 *     mine.ptr = &adapter;
 *     broker_epoll_attach_client(&adapter, epfd, mine, client, NULL, NULL);
 *     while (!done) {
 *         int ready = 0;
 *         int n = epoll_wait(epfd, events, 64, broker_epoll_timeout(adapter, -1));
 *         for (int i = 0; i < n; i++) {
 *             if (events[i].data.ptr == &adapter) ready = 1; else serve(&events[i]);
 *         }
 *         broker_epoll_dispatch(adapter, ready);
 *     }
 *     broker_epoll_detach(adapter);
 *
 * Callbacks run inside broker_epoll_dispatch(), which never waits and runs one step. Call it once in each turn, together
 * with all other work, so that neither starves the other.
 *
 * In a forked process an adapter has ended, and the inherited epoll set is the parent's. A worker does the following, in
 * any order: broker_client_after_fork(); broker_epoll_detach(), which leaves the parent's set unchanged; close() of the
 * set's descriptor. Then it creates a set of its own and attaches to that. A handle that follows a fork
 * (broker_client_follow_fork()) is detached before and attached after it.
 *
 * License: MIT OR Apache-2.0.
 */
#ifndef BROKER_ADAPTERS_EPOLL_H
#define BROKER_ADAPTERS_EPOLL_H

#include "handle.h"

#include <sys/epoll.h>

/* An attached client or loop; its members are private. */
typedef struct broker_epoll {
    broker_adapter_t base;
    int epfd;
    /* A dispatch is running: it frees the adapter if it is detached meanwhile. */
    int stepping;
    int detached;
} broker_epoll_t;

static inline int broker_epoll__attach(broker_epoll_t **out, int epfd, epoll_data_t event_data, broker_client_t *client,
                                       broker_loop_t *loop, broker_ended_cb ended, void *data) {
    broker_epoll_t *adapter = (broker_epoll_t *)calloc(1, sizeof *adapter);
    struct epoll_event event;
    int code;
    *out = NULL;
    if (!adapter) {
        return BROKER_ESYS;
    }
    code = broker_adapter_open(&adapter->base, client, loop, ended, data);
    if (code < 0) {
        free(adapter);
        return code;
    }
    adapter->epfd = epfd;
    event.events = EPOLLIN;
    event.data = event_data;
    if (epoll_ctl(epfd, EPOLL_CTL_ADD, adapter->base.fd, &event) != 0) {
        int reason = errno;
        broker_adapter_close(&adapter->base);
        free(adapter);
        errno = reason;
        return BROKER_ESYS;
    }
    *out = adapter;
    return BROKER_OK;
}

/*
 * Adds a client to the epoll set `epfd`, level-triggered; its events carry `event_data`. The caller passes *out to
 * broker_epoll_detach(); it is NULL on failure. `ended` may be NULL.
 *
 * Returns the client's code if it is invalid; BROKER_ESYS if epoll refuses, or without descriptors or memory.
 */
static inline int broker_epoll_attach_client(broker_epoll_t **out, int epfd, epoll_data_t event_data,
                                             broker_client_t *client, broker_ended_cb ended, void *data) {
    return broker_epoll__attach(out, epfd, event_data, client, NULL, ended, data);
}

/* The same for an embedded broker. */
static inline int broker_epoll_attach_loop(broker_epoll_t **out, int epfd, epoll_data_t event_data,
                                           broker_loop_t *loop, broker_ended_cb ended, void *data) {
    return broker_epoll__attach(out, epfd, event_data, NULL, loop, ended, data);
}

/* Leaves the set with epoll_ctl(), not only with close(): a forked process may keep the open file. */
static inline void broker_epoll__leave(broker_epoll_t *adapter) {
    struct epoll_event unused; /* for Linux 2.6.8 */
    if (!broker_adapter_is_copy(&adapter->base)) {
        epoll_ctl(adapter->epfd, EPOLL_CTL_DEL, adapter->base.fd, &unused);
    }
}

/*
 * Leaves the epoll set and frees the adapter. Call it once, also from callbacks, before or after the handle is
 * freed, while the set is still open or its number is not used again. NULL is allowed.
 */
static inline void broker_epoll_detach(broker_epoll_t *adapter) {
    if (!adapter) {
        return;
    }
    if (!adapter->base.ended) {
        broker_epoll__leave(adapter);
    }
    broker_adapter_close(&adapter->base);
    adapter->detached = 1;
    if (!adapter->stepping) {
        free(adapter);
    }
}

/* The timeout for epoll_wait(): the program's own, in milliseconds or -1 for none, or the handle's if that is earlier. */
static inline int broker_epoll_timeout(const broker_epoll_t *adapter, int own) {
    int timeout = !adapter || adapter->base.ended ? -1 : broker_adapter_timeout(&adapter->base);
    return timeout < 0 || (own >= 0 && own < timeout) ? own : timeout;
}

/*
 * Runs one step, if one is due: `ready` says whether epoll_wait() reported the handle. A callback may detach
 * the adapter. Does nothing for NULL, and for an adapter that has ended.
 */
static inline void broker_epoll_dispatch(broker_epoll_t *adapter, int ready) {
    int status;
    if (!adapter || adapter->base.ended || (!ready && broker_adapter_timeout(&adapter->base) != 0)) {
        return;
    }
    adapter->stepping += 1;
    status = broker_adapter_step(&adapter->base);
    if (status <= 0 && !adapter->detached && !adapter->base.ended) {
        broker_epoll__leave(adapter);
        broker_adapter_end(&adapter->base, status);
    }
    adapter->stepping -= 1;
    if (adapter->detached && !adapter->stepping) {
        free(adapter);
    }
}

#endif /* BROKER_ADAPTERS_EPOLL_H */

/*
 * libevent.h: a broker_client_t or broker_loop_t in a libevent base. Owns the two events that watch it, never the
 * client or the loop. Link with libevent_core.
 *
 *     broker_libevent_t *adapter;
 *     broker_libevent_attach_client(&adapter, base, client);
 *     event_base_dispatch(base);
 *     broker_libevent_detach(adapter);         (before or after broker_client_free(), before event_base_free())
 *
 * Callbacks run inside event_base_loop(), in its thread. Each event is one step of the handle, with the base's other
 * events in between, so that neither starves the other. An attached handle keeps event_base_dispatch() going until it
 * is detached; a broker_loop_t also until it has drained.
 *
 * License: MIT OR Apache-2.0.
 */
#ifndef BROKER_ADAPTERS_LIBEVENT_H
#define BROKER_ADAPTERS_LIBEVENT_H

#include "handle.h"

#include <event2/event.h>
#include <stdlib.h>
#include <sys/time.h>

/* An attached client or loop; its members are the adapter's own. */
typedef struct broker_libevent {
    broker_adapter_handle_t handle;
    /* What broker_adapter_step() said last. */
    int status;
    int fd;
    /* A step is under way: whoever detaches meanwhile leaves the freeing to it. */
    int stepping;
    int detached;
    struct event *readable;
    struct event *timer;
} broker_libevent_t;

static inline void broker_libevent__free(broker_libevent_t *adapter) {
    if (adapter->readable) {
        event_free(adapter->readable);
    }
    if (adapter->timer) {
        event_free(adapter->timer);
    }
    close(adapter->fd);
    free(adapter);
}

static inline void broker_libevent__arm(broker_libevent_t *adapter) {
    int timeout = broker_adapter_timeout(&adapter->handle);
    struct timeval after;
    if (timeout < 0) {
        event_del(adapter->timer);
        return;
    }
    after.tv_sec = timeout / 1000;
    after.tv_usec = timeout % 1000 * 1000;
    event_add(adapter->timer, &after);
}

static inline void broker_libevent__on_event(evutil_socket_t fd, short events, void *data) {
    broker_libevent_t *adapter = (broker_libevent_t *)data;
    (void)fd;
    (void)events;
    adapter->stepping = 1;
    adapter->status = broker_adapter_step(&adapter->handle);
    adapter->stepping = 0;
    if (adapter->detached) {
        broker_libevent__free(adapter);
    } else if (adapter->status > 0) {
        broker_libevent__arm(adapter);
    } else {
        event_del(adapter->readable);
        event_del(adapter->timer);
    }
}

/*
 * Stops watching and frees the adapter. To be called once, in the thread of the base, also from callbacks, before or
 * after the handle is freed. NULL is allowed.
 */
static inline void broker_libevent_detach(broker_libevent_t *adapter) {
    if (!adapter) {
        return;
    }
    if (adapter->stepping) {
        adapter->detached = 1;
        return;
    }
    broker_libevent__free(adapter);
}

static inline int broker_libevent__attach(broker_libevent_t **out, struct event_base *base,
                                          broker_adapter_handle_t handle) {
    broker_libevent_t *adapter = (broker_libevent_t *)calloc(1, sizeof *adapter);
    int fd;
    *out = NULL;
    if (!adapter) {
        return BROKER_ESYS;
    }
    fd = broker_adapter_open(&handle);
    if (fd < 0) {
        free(adapter);
        return fd;
    }
    adapter->handle = handle;
    adapter->status = 1;
    adapter->fd = fd;
    adapter->readable = event_new(base, fd, EV_READ | EV_PERSIST, broker_libevent__on_event, adapter);
    adapter->timer = event_new(base, -1, 0, broker_libevent__on_event, adapter);
    if (!adapter->readable || !adapter->timer || event_add(adapter->readable, NULL) != 0) {
        broker_libevent__free(adapter);
        return BROKER_ESYS;
    }
    broker_libevent__arm(adapter);
    *out = adapter;
    return BROKER_OK;
}

/*
 * Watches a client in `base`. *out is the caller's to give to broker_libevent_detach(), NULL on failure. After
 * broker_client_after_fork(), detach and attach anew.
 *
 * A code of the client's if it is no good; BROKER_ESYS without descriptors or memory.
 */
static inline int broker_libevent_attach_client(broker_libevent_t **out, struct event_base *base,
                                                broker_client_t *client) {
    broker_adapter_handle_t handle = {client, NULL};
    return broker_libevent__attach(out, base, handle);
}

/* The same for an embedded broker. */
static inline int broker_libevent_attach_loop(broker_libevent_t **out, struct event_base *base,
                                              broker_loop_t *broker) {
    broker_adapter_handle_t handle = {NULL, broker};
    return broker_libevent__attach(out, base, handle);
}

/*
 * 1 while it watches. 0 after a broker_loop_t has drained, and below 0 the code with which processing ended, such as
 * BROKER_ESTATE for a handle that was freed: nothing is watched any more, and broker_libevent_detach() is still to come.
 */
static inline int broker_libevent_status(const broker_libevent_t *adapter) {
    return adapter->status;
}

#endif /* BROKER_ADAPTERS_LIBEVENT_H */

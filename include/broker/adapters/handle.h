/*
 * handle.h: what the adapters share: a client or a loop as one descriptor, one timeout and one step, and what becomes
 * of these in a forked process. Included by them; it watches nothing by itself and is not for programs, but for
 * broker_ended_cb. Linux only.
 *
 * Each adapter has a descriptor of its own, a duplicate of broker_client_fd() or broker_loop_fd(): a handle that is
 * freed in its own callback closes its descriptor before the adapter hears of it, and the number may be somebody else's
 * by then. In a forked process the number is the same, and so are the kernel's epoll sets, which know a descriptor by
 * its number and what it stands for: whoever took it out of an inherited set would take it away from the parent. So a
 * fork handler has the number stand for something else in the forked process, an eventfd that is readable. Whatever an
 * event library does with it there, and in whatever order, it does not do to the parent; and an adapter that is not
 * detached there hears of it and ends with BROKER_EFORKED.
 *
 * License: MIT OR Apache-2.0.
 */
#ifndef BROKER_ADAPTERS_HANDLE_H
#define BROKER_ADAPTERS_HANDLE_H

#include "../../broker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/*
 * Called once when an adapter stops watching by itself: with 0 after a broker_loop_t has drained, or below 0 with the
 * code with which processing ended, such as BROKER_ESTATE for a handle that was freed, or BROKER_EFORKED in a forked
 * process. It runs inside the foreign loop, never inside attach or detach. The adapter is still to be detached, here or
 * later.
 */
typedef void (*broker_ended_cb)(int status, void *data);

struct broker_adapter_list;

/* The part that all adapters have. */
typedef struct broker_adapter {
    /* One of the two is set. */
    broker_client_t *client;
    broker_loop_t *loop;
    /* The adapter's own; below 0 if it could not be had after a fork. */
    int fd;
    /* broker_fork_count() of the process that attached it. */
    unsigned int forks;
    /* `fd` is an eventfd: this process is a copy. */
    int disarmed;
    /* It has ended by itself. */
    int ended;
    broker_ended_cb on_ended;
    void *data;
    struct broker_adapter_list *list;
    struct broker_adapter *next;
    struct broker_adapter **at;
} broker_adapter_t;

/* The open adapters of a translation unit, for its fork handlers. */
typedef struct broker_adapter_list {
    pthread_mutex_t lock;
    broker_adapter_t *first;
    int has_handlers;
} broker_adapter_list_t;

static inline broker_adapter_list_t *broker_adapter__list(void) {
    static broker_adapter_list_t list = {PTHREAD_MUTEX_INITIALIZER, NULL, 0};
    return &list;
}

static inline int broker_adapter__close_on_exec(int fd) {
    return fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/* In a forked process: the number stands for an eventfd from now on. System calls only, since it runs inside fork(). */
static inline void broker_adapter__disarm(broker_adapter_t *adapter) {
    int harmless, cancelable;
    /* close() acts on a pthread_cancel(): the copy would end inside fork(). */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelable);
    adapter->disarmed = 1;
    /* First, so that there is a number to be had. */
    close(adapter->fd);
    harmless = eventfd(1, 0);
    if (harmless >= 0 && harmless != adapter->fd) {
        int moved = dup2(harmless, adapter->fd);
        close(harmless);
        harmless = moved;
    }
    adapter->fd = harmless;
    if (harmless >= 0) {
        broker_adapter__close_on_exec(harmless);
    }
    pthread_setcancelstate(cancelable, NULL);
}

static inline void broker_adapter__before_fork(void) {
    pthread_mutex_lock(&broker_adapter__list()->lock);
}

static inline void broker_adapter__in_parent(void) {
    pthread_mutex_unlock(&broker_adapter__list()->lock);
}

static inline void broker_adapter__in_child(void) {
    broker_adapter_t *adapter;
    for (adapter = broker_adapter__list()->first; adapter; adapter = adapter->next) {
        if (adapter->fd >= 0) {
            broker_adapter__disarm(adapter);
        }
    }
    pthread_mutex_unlock(&broker_adapter__list()->lock);
}

/* Below 0 without memory. */
static inline int broker_adapter__enlist(broker_adapter_t *adapter) {
    broker_adapter_list_t *list = broker_adapter__list();
    int failed = 0;
    pthread_mutex_lock(&list->lock);
    if (!list->has_handlers) {
        failed = pthread_atfork(broker_adapter__before_fork, broker_adapter__in_parent, broker_adapter__in_child);
        list->has_handlers = !failed;
    }
    if (!failed) {
        adapter->list = list;
        adapter->next = list->first;
        adapter->at = &list->first;
        if (list->first) {
            list->first->at = &adapter->next;
        }
        list->first = adapter;
    }
    pthread_mutex_unlock(&list->lock);
    if (failed) {
        errno = failed;
        return BROKER_ESYS;
    }
    return BROKER_OK;
}

/* Whether it was attached by another process, of which this one is a copy. */
static inline int broker_adapter_is_copy(const broker_adapter_t *adapter) {
    return adapter->forks != broker_fork_count();
}

/*
 * To be called before an event library is told anything of the descriptor once it is watched. A raw clone() runs no fork
 * handler: what that would have done is done here.
 */
static inline void broker_adapter_touch(broker_adapter_t *adapter) {
    if (broker_adapter_is_copy(adapter) && adapter->fd >= 0 && !adapter->disarmed) {
        broker_adapter__disarm(adapter);
    }
}

/*
 * Fills in `adapter`, whose address must stay until broker_adapter_close(). A code of the handle's if it is no good;
 * BROKER_ESYS without descriptors or memory: there is nothing to close then.
 */
static inline int broker_adapter_open(broker_adapter_t *adapter, broker_client_t *client, broker_loop_t *loop,
                                      broker_ended_cb on_ended, void *data) {
    int fd = loop ? broker_loop_fd(loop) : broker_client_fd(client);
    int code;
    memset(adapter, 0, sizeof *adapter);
    if (fd < 0) {
        return fd;
    }
    adapter->client = client;
    adapter->loop = loop;
    adapter->on_ended = on_ended;
    adapter->data = data;
    adapter->forks = broker_fork_count();
#ifdef F_DUPFD_CLOEXEC
    adapter->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
#else
    adapter->fd = dup(fd);
    if (adapter->fd >= 0) {
        broker_adapter__close_on_exec(adapter->fd);
    }
#endif
    if (adapter->fd < 0) {
        return BROKER_ESYS;
    }
    code = broker_adapter__enlist(adapter);
    if (code < 0) {
        close(adapter->fd);
    }
    return code;
}

/* To be called once, when nothing watches the descriptor any more. */
static inline void broker_adapter_close(broker_adapter_t *adapter) {
    int cancelable;
    /* close() acts on a pthread_cancel(): nobody would give the lock back, nor free what the adapter is in. */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelable);
    /* A fork meanwhile finds it in the list and open, or neither. */
    pthread_mutex_lock(&adapter->list->lock);
    *adapter->at = adapter->next;
    if (adapter->next) {
        adapter->next->at = adapter->at;
    }
    if (adapter->fd >= 0) {
        close(adapter->fd);
    }
    pthread_mutex_unlock(&adapter->list->lock);
    pthread_setcancelstate(cancelable, NULL);
}

/* Milliseconds until the next step, -1 for none; 0 for a handle that is no good, whose step then says why. */
static inline int broker_adapter_timeout(const broker_adapter_t *adapter) {
    int timeout;
    if (broker_adapter_is_copy(adapter)) {
        return 0;
    }
    timeout = adapter->loop ? broker_loop_timeout(adapter->loop) : broker_client_timeout(adapter->client);
    return timeout < -1 ? 0 : timeout;
}

/*
 * Reads, calls back, writes; never waits. 1: there is more to come. 0: there is not. Below 0: the code with which it
 * ended. The callbacks may have detached the adapter.
 */
static inline int broker_adapter_step(broker_adapter_t *adapter) {
    int code;
    broker_adapter_touch(adapter);
    if (broker_adapter_is_copy(adapter)) {
        return BROKER_EFORKED;
    }
    if (adapter->loop) {
        code = broker_loop_run(adapter->loop, BROKER_RUN_NOWAIT);
    } else {
        code = broker_client_process(adapter->client, 0);
        code = code >= 0 ? 1 : code;
    }
    /* The program turns its own loop inside a callback; what is due comes when that has returned. */
    return code == BROKER_EREENTRANT ? 1 : code;
}

/* Tells the program, which may detach the adapter there, that it watches nothing any more. */
static inline void broker_adapter_end(broker_adapter_t *adapter, int status) {
    adapter->ended = 1;
    if (adapter->on_ended) {
        adapter->on_ended(status, adapter->data);
    }
}

#endif /* BROKER_ADAPTERS_HANDLE_H */

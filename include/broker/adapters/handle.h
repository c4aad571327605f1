/*
 * handle.h: the common part of the adapters: a client or a loop as one descriptor, one timeout and one step, and how they
 * behave in a forked process. Included by the adapters; it watches nothing itself and is not for programs, except
 * broker_ended_cb. Linux only.
 *
 * Each adapter has its own descriptor, a duplicate of broker_client_fd() or broker_loop_fd(). This is because a handle freed
 * in its own callback closes its descriptor before the adapter notices, and another file may have the number by then. In a
 * forked process the number is the same, and so are the kernel's epoll sets, which identify a descriptor by its number and
 * its open file: removing it from an inherited set would remove it for the parent. So a fork handler replaces the open file
 * behind the number in the forked process with an eventfd that is readable. Whatever an event library does with the number
 * there, in whatever order, does not affect the parent; and an adapter that is not detached there becomes readable and ends
 * with BROKER_EFORKED.
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
 * Called once when an adapter stops watching by itself: with 0 after a broker_loop_t has drained, otherwise with the
 * code that ended processing, such as BROKER_ESTATE for a freed handle, or BROKER_EFORKED in a forked process. It runs
 * inside the event library's loop, never inside attach or detach. The adapter must still be detached, here or later.
 */
typedef void (*broker_ended_cb)(int status, void *data);

struct broker_adapter_list;

/* The part common to all adapters. */
typedef struct broker_adapter {
    /* One of the two is set. */
    broker_client_t *client;
    broker_loop_t *loop;
    /* The adapter's own descriptor; below 0 if none could be opened after a fork. */
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

/* In a forked process: puts an eventfd behind the number. Makes system calls only, since it runs inside fork(). */
static inline void broker_adapter__disarm(broker_adapter_t *adapter) {
    int harmless, cancelable;
    /* close() is a cancellation point: a pthread_cancel() would end the copy inside fork(). */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelable);
    adapter->disarmed = 1;
    /* First, so that a number is free. */
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

/* Whether another process attached it and this one is a copy. */
static inline int broker_adapter_is_copy(const broker_adapter_t *adapter) {
    return adapter->forks != broker_fork_count();
}

/*
 * Call this before passing the descriptor to an event library again once it is watched. A raw clone() runs no fork
 * handler; this does the same work.
 */
static inline void broker_adapter_touch(broker_adapter_t *adapter) {
    if (broker_adapter_is_copy(adapter) && adapter->fd >= 0 && !adapter->disarmed) {
        broker_adapter__disarm(adapter);
    }
}

/*
 * Initialises `adapter`, whose address must not change until broker_adapter_close(). Returns the handle's code if it is
 * invalid, or BROKER_ESYS without descriptors or memory; then there is nothing to close.
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

/* Call once, when nothing watches the descriptor any more. */
static inline void broker_adapter_close(broker_adapter_t *adapter) {
    int cancelable;
    /* close() is a cancellation point: a pthread_cancel() would leave the lock held and the adapter's memory allocated. */
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

/* Milliseconds until the next step, -1 for none; 0 for an invalid handle, whose step then returns the reason. */
static inline int broker_adapter_timeout(const broker_adapter_t *adapter) {
    int timeout;
    if (broker_adapter_is_copy(adapter)) {
        return 0;
    }
    timeout = adapter->loop ? broker_loop_timeout(adapter->loop) : broker_client_timeout(adapter->client);
    return timeout < -1 ? 0 : timeout;
}

/*
 * Reads, runs callbacks, writes; never waits. Returns 1 if there is more to come, 0 if not, or the code (below 0) that
 * ended it. The callbacks may have detached the adapter.
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
    /* The program runs its own loop inside a callback; callbacks that are due run when that has returned. */
    return code == BROKER_EREENTRANT ? 1 : code;
}

/* Tells the program that the adapter watches nothing any more; the program may detach it there. */
static inline void broker_adapter_end(broker_adapter_t *adapter, int status) {
    adapter->ended = 1;
    if (adapter->on_ended) {
        adapter->on_ended(status, adapter->data);
    }
}

#endif /* BROKER_ADAPTERS_HANDLE_H */

/*
 * handle.h: what the adapters share: a client or a loop as one descriptor, one timeout and one step. Included by them;
 * it watches nothing by itself and is not for programs.
 *
 * License: MIT OR Apache-2.0.
 */
#ifndef BROKER_ADAPTERS_HANDLE_H
#define BROKER_ADAPTERS_HANDLE_H

#include "../../broker.h"

#include <fcntl.h>
#include <unistd.h>

/* One of the two is set. */
typedef struct broker_adapter_handle {
    broker_client_t *client;
    broker_loop_t *loop;
} broker_adapter_handle_t;

/*
 * A descriptor to watch, the caller's to close; or a negative code. It is a second one for what broker_client_fd() and
 * broker_loop_fd() name: a handle freed in its own callback closes its descriptor before the adapter hears of it,
 * and the number may be somebody else's by then.
 */
static inline int broker_adapter_open(const broker_adapter_handle_t *of) {
    int fd = of->client ? broker_client_fd(of->client) : broker_loop_fd(of->loop);
    int own;
    if (fd < 0) {
        return fd;
    }
#ifdef F_DUPFD_CLOEXEC
    own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
#else
    own = dup(fd);
    if (own >= 0 && fcntl(own, F_SETFD, FD_CLOEXEC) != 0) {
        close(own);
        own = -1;
    }
#endif
    return own >= 0 ? own : BROKER_ESYS;
}

/* Milliseconds until the next step, -1 for none; 0 for a handle that is no good, whose step then says why. */
static inline int broker_adapter_timeout(const broker_adapter_handle_t *of) {
    int timeout = of->client ? broker_client_timeout(of->client) : broker_loop_timeout(of->loop);
    return timeout < -1 ? 0 : timeout;
}

/* Reads, calls back, writes; never waits. 1: there is more to come. 0: there is not. Below 0: the handle's code. */
static inline int broker_adapter_step(const broker_adapter_handle_t *of) {
    int code;
    if (!of->client) {
        code = broker_loop_run(of->loop, BROKER_RUN_NOWAIT);
    } else {
        code = broker_client_process(of->client, 0);
        code = code >= 0 ? 1 : code;
    }
    /* The program turns its own loop inside a callback; what is due comes when that has returned. */
    return code == BROKER_EREENTRANT ? 1 : code;
}

#endif /* BROKER_ADAPTERS_HANDLE_H */

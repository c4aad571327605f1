/* adapters/uv.h in a libuv loop. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <broker/adapters/uv.h>

#include "adapters.h"

struct watch {
    uv_poll_t poll;
    int fd;
    void (*call)(int fd, void *data);
    void *data;
};

struct drive {
    uv_loop_t loop;
    /* A turn of libuv's runs timers first and then waits for an event all the same, even if nothing is left to come. This
       ends such a wait; it does not touch the adapter. */
    uv_timer_t heartbeat;
    struct watch watch;
    int watching;
};

static void beat(uv_timer_t *timer) {
    (void)timer;
}

static void drive_open(struct drive *drive) {
    CHECK_INT(uv_loop_init(&drive->loop), 0);
    CHECK_INT(uv_timer_init(&drive->loop, &drive->heartbeat), 0);
    CHECK_INT(uv_timer_start(&drive->heartbeat, beat, 20, 20), 0);
    drive->watching = 0;
}

static void drive_turn(struct drive *drive) {
    uv_run(&drive->loop, UV_RUN_ONCE);
}

static void *drive_client_with(struct drive *drive, broker_client_t *client, broker_ended_cb ended, void *data) {
    broker_uv_t *adapter;
    CHECK_INT(broker_uv_attach_client(&adapter, &drive->loop, client, ended, data), BROKER_OK);
    return adapter;
}

static int drive_refusal(struct drive *drive, broker_client_t *client) {
    broker_uv_t *adapter;
    int code = broker_uv_attach_client(&adapter, &drive->loop, client, NULL, NULL);
    CHECK(adapter == NULL);
    return code;
}

static void *drive_loop(struct drive *drive, broker_loop_t *loop, struct end *end) {
    broker_uv_t *adapter;
    CHECK_INT(broker_uv_attach_loop(&adapter, &drive->loop, loop, note_end, end), BROKER_OK);
    return adapter;
}

static void drive_detach(void *adapter) {
    broker_uv_detach((broker_uv_t *)adapter);
}

/* Nothing: its descriptor is never readable again. */
static void drive_freed(struct drive *drive, struct end *end) {
    (void)drive;
    CHECK_INT(end->calls, 0);
}

#define DRIVE_ATTACHES_EARLY

static void drive_renew(struct drive *drive) {
    CHECK_INT(uv_loop_fork(&drive->loop), 0);
}

static int drive_hears_of_forks(struct drive *drive) {
    drive_renew(drive);
    return 1;
}

static void watched(uv_poll_t *poll, int status, int events) {
    struct watch *watch = (struct watch *)poll->data;
    (void)status;
    (void)events;
    watch->call(watch->fd, watch->data);
}

static void drive_watch(struct drive *drive, int fd, void (*call)(int fd, void *data), void *data) {
    drive->watch.fd = fd;
    drive->watch.call = call;
    drive->watch.data = data;
    drive->watch.poll.data = &drive->watch;
    drive->watching = 1;
    CHECK_INT(uv_poll_init(&drive->loop, &drive->watch.poll, fd), 0);
    CHECK_INT(uv_poll_start(&drive->watch.poll, UV_READABLE, watched), 0);
}

/* Nothing of the adapters' may keep the loop from ending. */
static void drive_close(struct drive *drive) {
    if (drive->watching) {
        uv_close((uv_handle_t *)&drive->watch.poll, NULL);
    }
    uv_close((uv_handle_t *)&drive->heartbeat, NULL);
    uv_run(&drive->loop, UV_RUN_DEFAULT);
    CHECK_INT(uv_loop_close(&drive->loop), 0);
}

#include "adapter_situations.h"

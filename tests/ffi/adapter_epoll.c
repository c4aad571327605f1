/* adapters/epoll.h in a program's own epoll loop. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <broker/adapters/epoll.h>

#include "adapters.h"

#define ADAPTERS 4

/* An adapter's place: its memory stays while the drive does, as epoll.h asks. */
struct place {
    broker_epoll_t adapter;
    int used;
    int status;
    int ready;
};

struct drive {
    int epfd;
    struct place places[ADAPTERS];
    int watching;
    void (*call)(int fd, void *data);
    void *data;
};

static void drive_open(struct drive *drive) {
    memset(drive, 0, sizeof *drive);
    drive->epfd = epoll_create1(EPOLL_CLOEXEC);
    drive->watching = -1;
    CHECK(drive->epfd >= 0);
}

static void drive_turn(struct drive *drive) {
    struct epoll_event events[8];
    int timeout = -1, count, i;
    for (i = 0; i < ADAPTERS; i++) {
        if (drive->places[i].used) {
            timeout = broker_epoll_timeout(&drive->places[i].adapter, timeout);
        }
    }
    count = epoll_wait(drive->epfd, events, 8, timeout);
    CHECK(count >= 0);
    for (i = 0; i < count; i++) {
        if (events[i].data.ptr == drive) {
            drive->call(drive->watching, drive->data);
        } else {
            ((struct place *)events[i].data.ptr)->ready = 1;
        }
    }
    for (i = 0; i < ADAPTERS; i++) {
        struct place *place = &drive->places[i];
        if (place->used && place->status == 1) {
            int ready = place->ready;
            place->ready = 0;
            place->status = broker_epoll_dispatch(&place->adapter, ready);
        }
    }
}

static struct place *take_place(struct drive *drive, epoll_data_t *data) {
    int i = 0;
    while (drive->places[i].used) {
        i++;
        CHECK(i < ADAPTERS);
    }
    data->ptr = &drive->places[i];
    drive->places[i].used = 1;
    drive->places[i].status = 1;
    return &drive->places[i];
}

static void *drive_client(struct drive *drive, broker_client_t *client) {
    epoll_data_t data;
    struct place *place = take_place(drive, &data);
    CHECK_INT(broker_epoll_attach_client(&place->adapter, drive->epfd, client, data), BROKER_OK);
    return place;
}

static int drive_refusal(struct drive *drive, broker_client_t *client) {
    epoll_data_t data;
    struct place *place = take_place(drive, &data);
    int code = broker_epoll_attach_client(&place->adapter, drive->epfd, client, data);
    CHECK_INT(broker_epoll_timeout(&place->adapter, 77), 77);
    CHECK_INT(broker_epoll_dispatch(&place->adapter, 1), 0);
    return code;
}

static void *drive_loop(struct drive *drive, broker_loop_t *loop) {
    epoll_data_t data;
    struct place *place = take_place(drive, &data);
    CHECK_INT(broker_epoll_attach_loop(&place->adapter, drive->epfd, loop, data), BROKER_OK);
    return place;
}

static void drive_detach(void *adapter) {
    broker_epoll_detach(&((struct place *)adapter)->adapter);
}

static int drive_status(void *adapter) {
    return ((struct place *)adapter)->status;
}

/* The next turn does not wait, and says so. */
static void drive_freed(struct drive *drive, void *adapter) {
    drive_turn(drive);
    CHECK_INT(drive_status(adapter), BROKER_ESTATE);
}

static void drive_watch(struct drive *drive, int fd, void (*call)(int fd, void *data), void *data) {
    struct epoll_event event;
    event.events = EPOLLIN;
    event.data.ptr = drive;
    drive->watching = fd;
    drive->call = call;
    drive->data = data;
    CHECK_INT(epoll_ctl(drive->epfd, EPOLL_CTL_ADD, fd, &event), 0);
}

static void drive_close(struct drive *drive) {
    struct epoll_event event;
    if (drive->watching >= 0) {
        CHECK_INT(epoll_ctl(drive->epfd, EPOLL_CTL_DEL, drive->watching, &event), 0);
    }
    /* Nothing of the adapters' is left in the set. */
    CHECK_INT(epoll_wait(drive->epfd, &event, 1, 0), 0);
    close(drive->epfd);
}

#include "adapter_situations.h"

/* adapters/epoll.h in a program's own epoll loop. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <broker/adapters/epoll.h>

#include "adapters.h"

#define ADAPTERS 4

/* What events carry stays while the drive does. */
struct place {
    broker_epoll_t *adapter;
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
        timeout = broker_epoll_timeout(drive->places[i].adapter, timeout);
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
        int ready = drive->places[i].ready;
        drive->places[i].ready = 0;
        broker_epoll_dispatch(drive->places[i].adapter, ready);
    }
}

static struct place *free_place(struct drive *drive, epoll_data_t *data) {
    int i = 0;
    while (drive->places[i].adapter) {
        i++;
        CHECK(i < ADAPTERS);
    }
    data->ptr = &drive->places[i];
    return &drive->places[i];
}

static void *drive_client_with(struct drive *drive, broker_client_t *client, broker_ended_cb ended, void *end) {
    epoll_data_t data;
    struct place *place = free_place(drive, &data);
    CHECK_INT(broker_epoll_attach_client(&place->adapter, drive->epfd, data, client, ended, end), BROKER_OK);
    return place;
}

static int drive_refusal(struct drive *drive, broker_client_t *client) {
    epoll_data_t data;
    struct place *place = free_place(drive, &data);
    int code = broker_epoll_attach_client(&place->adapter, drive->epfd, data, client, NULL, NULL);
    CHECK(place->adapter == NULL);
    CHECK_INT(broker_epoll_timeout(place->adapter, 77), 77);
    broker_epoll_dispatch(place->adapter, 1);
    return code;
}

static void *drive_loop(struct drive *drive, broker_loop_t *loop, struct end *end) {
    epoll_data_t data;
    struct place *place = free_place(drive, &data);
    CHECK_INT(broker_epoll_attach_loop(&place->adapter, drive->epfd, data, loop, note_end, end), BROKER_OK);
    return place;
}

static void drive_detach(void *place) {
    broker_epoll_detach(((struct place *)place)->adapter);
    ((struct place *)place)->adapter = NULL;
}

/* The next turn does not wait, and says so. */
static void drive_freed(struct drive *drive, struct end *end) {
    drive_turn(drive);
    CHECK_INT(end->calls, 1);
    CHECK_INT(end->status, BROKER_ESTATE);
}

static void drive_renew(struct drive *drive) {
    close(drive->epfd);
    drive->epfd = epoll_create1(EPOLL_CLOEXEC);
    CHECK(drive->epfd >= 0);
}

static int drive_hears_of_forks(struct drive *drive) {
    drive_renew(drive);
    return 1;
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

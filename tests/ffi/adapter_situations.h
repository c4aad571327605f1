/*
 * The situations that every adapter must master, included by a program that has defined over its own event loop:
 * struct drive with drive_open, _close, _turn (one turn that waits), _client, _loop (attach; an adapter), _detach,
 * _status, _refusal (the code of an attempt to attach), _freed (what is seen of a client that was freed) and _watch
 * (call back while a descriptor is readable).
 */

#define IN_FLIGHT 10000

/* ---- 10,000 requests in flight, beside a descriptor that is always readable ---- */

struct flight {
    int answered;
    int in_flight_at_first;
};

static int ticks;

static void tick(int fd, void *data) {
    char byte;
    int peer = *(int *)data;
    CHECK_INT(read(fd, &byte, 1), 1);
    CHECK_INT(write(peer, &byte, 1), 1);
    ticks++;
}

static void landed(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    struct flight *flight = (struct flight *)data;
    (void)client;
    CHECK_INT(status, BROKER_OK);
    CHECK_INT(atoi(broker_reply_string(reply, NULL)), flight->answered);
    flight->answered++;
}

static void ten_thousand_in_flight(void) {
    struct drive drive;
    struct flight flight = {0, 0};
    broker_client_t *client = open_client();
    int ends[2], turns = 0, i;
    void *adapter;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    drive_open(&drive);
    adapter = drive_client(&drive, client);
    ticks = 0;
    drive_watch(&drive, ends[0], tick, &ends[1]);
    CHECK_INT(write(ends[1], "x", 1), 1);
    for (i = 0; i < IN_FLIGHT; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", i);
        submit(client, "ECHO", number, 0, landed, &flight);
    }
    CHECK_INT(flight.answered, 0);
    while (flight.answered < IN_FLIGHT) {
        int before = ticks;
        drive_turn(&drive);
        turns++;
        /* The library has not kept the turn for itself: whoever was readable has been served in it. */
        CHECK(ticks > before);
    }
    CHECK_INT(drive_status(adapter), 1);
    printf("in flight %d, answered %d, turns %s ticks\n", IN_FLIGHT, flight.answered, ticks >= turns ? "<=" : ">");
    drive_detach(adapter);
    CHECK_INT(broker_client_free(client), BROKER_OK);
    drive_close(&drive);
    close(ends[0]);
    close(ends[1]);
}

/* ---- timeouts ---- */

static void keep_status(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    (void)client;
    (void)reply;
    *(int *)data = status;
}

static void a_timeout_needs_no_event(void) {
    struct drive drive;
    broker_client_t *client = open_client();
    int status = 1;
    void *adapter;
    drive_open(&drive);
    adapter = drive_client(&drive, client);
    submit(client, "BLPOP", "nobody", 30, keep_status, &status);
    while (status == 1) {
        drive_turn(&drive);
    }
    CHECK_INT(status, BROKER_ETIMEDOUT);
    drive_detach(adapter);
    broker_client_free(client);
    drive_close(&drive);
}

/* ---- detaching and freeing inside a callback ---- */

struct scene {
    struct drive drive;
    broker_client_t *client;
    void *adapter;
    int outcomes;
    int canceled;
    struct scene *next;
};

static void open_scene(struct scene *scene) {
    memset(scene, 0, sizeof *scene);
    drive_open(&scene->drive);
    scene->client = open_client();
    scene->adapter = drive_client(&scene->drive, scene->client);
}

static void detach_here(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    struct scene *scene = (struct scene *)data;
    (void)client;
    (void)reply;
    CHECK_INT(status, BROKER_OK);
    drive_detach(scene->adapter);
    scene->adapter = NULL;
    scene->outcomes++;
}

static void count_here(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    struct scene *scene = (struct scene *)data;
    (void)client;
    (void)reply;
    scene->outcomes++;
    scene->canceled += status == BROKER_ECANCELED;
}

static void detach_and_attach_again(void) {
    struct scene scene;
    open_scene(&scene);
    submit(scene.client, "ECHO", "x", 0, detach_here, &scene);
    while (scene.adapter != NULL) {
        drive_turn(&scene.drive);
    }
    submit(scene.client, "ECHO", "x", 0, count_here, &scene);
    scene.adapter = drive_client(&scene.drive, scene.client);
    while (scene.outcomes < 2) {
        drive_turn(&scene.drive);
    }
    CHECK_INT(scene.canceled, 0);
    drive_detach(scene.adapter);
    broker_client_free(scene.client);
    drive_close(&scene.drive);
}

static void free_here(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    struct scene *scene = (struct scene *)data;
    (void)reply;
    CHECK_INT(status, BROKER_OK);
    CHECK_INT(broker_client_free(client), BROKER_OK);
    scene->outcomes++;
}

static void free_and_detach_here(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    detach_here(client, status, reply, data);
    CHECK_INT(broker_client_free(client), BROKER_OK);
}

/* Opens the next client where the descriptors of this one are free again: a number that is still watched would show. */
static void open_the_next(broker_client_t *client, int status, const broker_reply_t *reply, void *data) {
    struct scene *scene = (struct scene *)data;
    count_here(client, status, reply, data);
    scene->next->client = open_client();
    scene->next->adapter = drive_client(&scene->drive, scene->next->client);
    submit(scene->next->client, "ECHO", "x", 0, count_here, scene->next);
}

static void freed_in_a_callback(broker_reply_cb ends) {
    struct scene scene, next;
    memset(&next, 0, sizeof next);
    open_scene(&scene);
    scene.next = &next;
    submit(scene.client, "ECHO", "x", 0, ends, &scene);
    submit(scene.client, "BLPOP", "nobody", 0, open_the_next, &scene);
    submit(scene.client, "BLPOP", "nobody", 0, count_here, &scene);
    while (next.outcomes == 0) {
        drive_turn(&scene.drive);
    }
    CHECK_INT(scene.outcomes, 3);
    CHECK_INT(scene.canceled, 2);
    CHECK_INT(next.canceled, 0);
    if (scene.adapter != NULL) {
        CHECK_INT(drive_status(scene.adapter), BROKER_ESTATE);
        drive_detach(scene.adapter);
    }
    drive_detach(next.adapter);
    broker_client_free(next.client);
    drive_close(&scene.drive);
}

static void freed_before_it_is_detached(void) {
    struct scene scene;
    open_scene(&scene);
    submit(scene.client, "BLPOP", "nobody", 0, count_here, &scene);
    CHECK_INT(broker_client_free(scene.client), BROKER_OK);
    CHECK_INT(scene.canceled, 1);
    drive_freed(&scene.drive, scene.adapter);
    drive_detach(scene.adapter);
    drive_close(&scene.drive);
}

static void what_cannot_be_attached(void) {
    struct drive drive;
    broker_client_t *client = open_client();
    broker_client_free(client);
    drive_open(&drive);
    CHECK_INT(drive_refusal(&drive, client), BROKER_ESTATE);
    drive_close(&drive);
}

/* ---- an embedded broker, and a client of it in the same loop ---- */

static void own_outcome(broker_loop_t *loop, int status, const broker_reply_t *reply, void *data) {
    (void)loop;
    (void)reply;
    CHECK_INT(status, BROKER_OK);
    ++*(int *)data;
}

static void a_broker_and_its_child(void) {
    static const char *const argv[] = {"PING"};
    struct drive drive;
    struct scene child;
    broker_loop_t *loop = open_loop();
    int ends[2], own = 0, i;
    char endpoint[32];
    void *adapter;
    memset(&child, 0, sizeof child);
    drive_open(&drive);
    adapter = drive_loop(&drive, loop);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    CHECK_INT(broker_loop_adopt(loop, ends[0]), BROKER_OK);
    snprintf(endpoint, sizeof endpoint, "fd://%d", ends[1]);
    child.client = open_at(endpoint);
    child.adapter = drive_client(&drive, child.client);
    for (i = 1; i <= 100; i++) {
        submit(child.client, "ECHO", "x", 0, count_here, &child);
        while (child.outcomes < i) {
            drive_turn(&drive);
        }
        /* From outside of every callback: nothing but the adapter can wake the broker. */
        CHECK_INT(broker_submit(loop, 1, argv, NULL, BROKER_FOREVER, NULL, own_outcome, &own), BROKER_OK);
        while (own < i) {
            drive_turn(&drive);
        }
    }
    CHECK_INT(child.canceled, 0);
    drive_detach(child.adapter);
    broker_client_free(child.client);
    CHECK_INT(broker_loop_drain(loop, 5000), BROKER_OK);
    while (drive_status(adapter) == 1) {
        drive_turn(&drive);
    }
    CHECK_INT(drive_status(adapter), 0);
    drive_detach(adapter);
    CHECK_INT(broker_loop_free(loop), BROKER_OK);
    drive_close(&drive);
}

int main(void) {
    struct drive drive;
    int before;
    begin();
    /* What the event library keeps for the whole process is not the adapter's. */
    drive_open(&drive);
    drive_close(&drive);
    before = count_descriptors();
    ten_thousand_in_flight();
    a_timeout_needs_no_event();
    detach_and_attach_again();
    freed_in_a_callback(free_here);
    freed_in_a_callback(free_and_detach_here);
    freed_before_it_is_detached();
    what_cannot_be_attached();
    a_broker_and_its_child();
    CHECK_INT(count_descriptors(), before);
    puts("ok");
    return 0;
}

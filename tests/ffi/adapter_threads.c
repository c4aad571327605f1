/*
 * Adapters that one thread attaches and detaches beside another thread's forks: neither waits for the other for good,
 * and every forked process finds its copies as the header says.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <broker/adapters/epoll.h>

#include <pthread.h>

#include "adapters.h"

#define FORKS 300

struct board {
    broker_client_t *client;
    int epfd;
    /* Attached for good, and so a copy in every forked process. */
    broker_epoll_t *kept;
    volatile int over;
    volatile long rounds;
};

static void *attach_and_detach(void *data) {
    struct board *board = (struct board *)data;
    epoll_data_t mine;
    mine.ptr = board;
    while (!board->over) {
        broker_epoll_t *adapter;
        CHECK_INT(broker_epoll_attach_client(&adapter, board->epfd, mine, board->client, NULL, NULL), BROKER_OK);
        broker_epoll_detach(adapter);
        board->rounds++;
    }
    return NULL;
}

static void be_a_copy(struct board *board, struct end *end) {
    broker_epoll_dispatch(board->kept, 0);
    CHECK_INT(end->calls, 1);
    CHECK_INT(end->status, BROKER_EFORKED);
    broker_epoll_detach(board->kept);
}

static void *detach_when_canceled(void *data) {
    struct board *board = (struct board *)data;
    broker_epoll_t *adapter;
    epoll_data_t mine;
    mine.ptr = board;
    CHECK_INT(broker_epoll_attach_client(&adapter, board->epfd, mine, board->client, NULL, NULL), BROKER_OK);
    pthread_cancel(pthread_self());
    broker_epoll_detach(adapter);
    return board;
}

/* A thread that somebody cancels ends where it waits, not half through a detach. */
static void a_thread_is_canceled_before_it_detaches(struct board *board) {
    pthread_t thread;
    void *returned;
    pid_t pid;
    CHECK_INT(pthread_create(&thread, NULL, detach_when_canceled, board), 0);
    CHECK_INT(pthread_join(thread, &returned), 0);
    CHECK(returned == board);
    pid = fork_or_fail();
    if (pid == 0) {
        end_child();
    }
    wait_child(pid);
}

static void *fork_when_canceled(void *data) {
    pid_t pid;
    pthread_cancel(pthread_self());
    pid = fork();
    if (pid == 0) {
        /* A process whose only thread is canceled ends with 0. */
        _exit(3);
    }
    *(pid_t *)data = pid;
    return data;
}

/* Nor does its copy end half through fork(). */
static void a_thread_is_canceled_before_it_forks(void) {
    pid_t pid = -1;
    int status = 0;
    pthread_t thread;
    void *returned;
    CHECK_INT(pthread_create(&thread, NULL, fork_when_canceled, &pid), 0);
    CHECK_INT(pthread_join(thread, &returned), 0);
    CHECK(returned == &pid);
    CHECK_INT(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

static void forks_beside_a_thread(struct board *board, struct end *end) {
    pthread_t other;
    int i;
    if (ALLOCATOR_FORKS_LOCKED) {
        return;
    }
    CHECK_INT(pthread_create(&other, NULL, attach_and_detach, board), 0);
    while (board->rounds == 0) {
        pause_a_little();
    }
    for (i = 0; i < FORKS; i++) {
        pid_t pid = fork_or_fail();
        if (pid == 0) {
            be_a_copy(board, end);
            end_child_of_threads();
        }
        wait_child(pid);
    }
    board->over = 1;
    CHECK_INT(pthread_join(other, NULL), 0);
    CHECK_INT(end->calls, 0);
}

int main(void) {
    struct board board;
    struct end end = {0, 0};
    epoll_data_t mine;
    begin();
    memset(&board, 0, sizeof board);
    board.client = open_client();
    board.epfd = epoll_create1(EPOLL_CLOEXEC);
    mine.ptr = &board;
    CHECK_INT(broker_epoll_attach_client(&board.kept, board.epfd, mine, board.client, note_end, &end), BROKER_OK);
    a_thread_is_canceled_before_it_detaches(&board);
    a_thread_is_canceled_before_it_forks();
    forks_beside_a_thread(&board, &end);
    broker_epoll_detach(board.kept);
    CHECK_INT(broker_client_free(board.client), BROKER_OK);
    close(board.epfd);
    puts("ok");
    return 0;
}

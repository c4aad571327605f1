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

int main(void) {
    struct board board;
    struct end end = {0, 0};
    epoll_data_t mine;
    pthread_t other;
    int i;
    begin();
    memset(&board, 0, sizeof board);
    board.client = open_client();
    board.epfd = epoll_create1(EPOLL_CLOEXEC);
    mine.ptr = &board;
    CHECK_INT(broker_epoll_attach_client(&board.kept, board.epfd, mine, board.client, note_end, &end), BROKER_OK);
    CHECK_INT(pthread_create(&other, NULL, attach_and_detach, &board), 0);
    while (board.rounds == 0) {
        pause_a_little();
    }
    for (i = 0; i < FORKS; i++) {
        pid_t pid = fork_or_fail();
        if (pid == 0) {
            be_a_copy(&board, &end);
            end_child_of_threads();
        }
        wait_child(pid);
    }
    board.over = 1;
    CHECK_INT(pthread_join(other, NULL), 0);
    CHECK_INT(end.calls, 0);
    broker_epoll_detach(board.kept);
    CHECK_INT(broker_client_free(board.client), BROKER_OK);
    close(board.epfd);
    puts("ok");
    return 0;
}

/* A child as real programs are, good and bad: child MODE SOCKET [ARGUMENT...]. It writes "ready" (and what the mode tells)
 * to standard output once it has done what it is for, and stays until standard input ends. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <grp.h>

static void die(const char *what) {
    fprintf(stderr, "child: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int dial(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("connect");
    return fd;
}

static void say(int fd, const char *text) {
    if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        die("write");
}

/* Reads once and prints it: replies here are short. */
static void hear(int fd, int prints) {
    char text[4096];
    ssize_t count = read(fd, text, sizeof text - 1);
    if (count < 0)
        die("read");
    text[count] = 0;
    if (prints)
        printf("%s", count ? text : "closed\n");
}

static void ask(int fd, const char *line) {
    say(fd, line);
    hear(fd, 0);
}

static void stay(void) {
    char byte;
    printf("ready\n");
    fflush(stdout);
    while (read(0, &byte, 1) > 0)
        ;
}

/* Connections without end, one each so many milliseconds; each is used once and forgotten. */
static void grow(const char *path, int pause_ms) {
    printf("ready\n");
    fflush(stdout);
    struct pollfd input = {.fd = 0, .events = POLLIN};
    while (poll(&input, 1, pause_ms) == 0)
        ask(dial(path), "PING\r\n");
}

/* An honest pool: it grows as fast, and uses all that it has. */
static void pool(const char *path, int pause_ms, int max) {
    int *all = calloc((size_t)max, sizeof *all), count = 0;
    printf("ready\n");
    fflush(stdout);
    struct pollfd input = {.fd = 0, .events = POLLIN};
    while (poll(&input, 1, pause_ms) == 0) {
        if (count < max)
            all[count++] = dial(path);
        for (int at = 0; at < count; at++)
            ask(all[at], "PING\r\n");
    }
    free(all);
}

/* The one that has connected ends; its copy keeps the socket. With `uses` it goes on using it. */
static void leave_to_copy(const char *path, int uses) {
    int fd = dial(path);
    ask(fd, "PING\r\n");
    pid_t self = getpid();
    if (fork() != 0)
        _exit(0);
    setsid();
    while (getppid() == self)
        usleep(1000); /* Until its parent has gone. */
    if (!uses)
        return stay();
    printf("ready\n");
    fflush(stdout);
    struct pollfd input = {.fd = 0, .events = POLLIN};
    while (poll(&input, 1, 50) == 0)
        ask(fd, "PING\r\n");
}

/* A socket that this user has opened, and used, is used by another one: each line of standard input is sent. */
static void as_another(const char *path, const char *uid, int busy) {
    int fd = dial(path);
    for (int at = 0; at < busy; at++)
        ask(fd, "PING\r\n");
    pid_t copy = fork();
    if (copy == 0) {
        uid_t to = (uid_t)atoi(uid);
        if (setgroups(0, NULL) != 0 || setgid(to) != 0 || setuid(to) != 0)
            die("setuid");
        char line[512];
        printf("ready\n");
        fflush(stdout);
        while (fgets(line, sizeof line, stdin)) {
            line[strcspn(line, "\n")] = 0;
            strcat(line, "\r\n");
            say(fd, line);
            hear(fd, 1);
            fflush(stdout);
        }
        _exit(0);
    }
    waitpid(copy, NULL, 0);
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    const char *mode = argv[1], *path = argv[2];
    int number = argc > 3 ? atoi(argv[3]) : 0;
    signal(SIGPIPE, SIG_IGN);
    if (getenv("CHILD_NAME"))
        prctl(PR_SET_NAME, getenv("CHILD_NAME"));
    if (strcmp(mode, "grow") == 0) {
        grow(path, number);
    } else if (strcmp(mode, "pool") == 0) {
        pool(path, number, atoi(argv[4]));
    } else if (strcmp(mode, "copy") == 0 || strcmp(mode, "copy-uses") == 0) {
        leave_to_copy(path, strcmp(mode, "copy-uses") == 0);
    } else if (strcmp(mode, "as-another") == 0) {
        as_another(path, argv[3], argc > 4 ? atoi(argv[4]) : 1);
    } else if (strcmp(mode, "pid-namespace") == 0) {
        if (unshare(CLONE_NEWPID) != 0)
            die("unshare");
        pid_t copy = fork();
        if (copy == 0) {
            int fd = dial(path);
            ask(fd, "CLIENT SETNAME boxed\r\n");
            ask(fd, "MULTI\r\n");
            stay();
            _exit(0);
        }
        waitpid(copy, NULL, 0);
    } else {
        int fd = dial(path);
        if (getenv("CHILD_SETNAME")) {
            say(fd, "CLIENT SETNAME ");
            say(fd, getenv("CHILD_SETNAME"));
            ask(fd, "\r\n");
        }
        if (strcmp(mode, "half") == 0)
            say(fd, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nhalf of it");
        else if (strcmp(mode, "subscribe") == 0)
            ask(fd, "SUBSCRIBE news\r\n"); /* And never reads again. */
        else if (strcmp(mode, "multi") == 0)
            ask(fd, "MULTI\r\n");
        else if (strcmp(mode, "watch") == 0)
            ask(fd, "WATCH k\r\n");
        else if (strcmp(mode, "tracking") == 0)
            ask(fd, "HELLO 3\r\n"), ask(fd, "CLIENT TRACKING ON\r\n");
        else if (strcmp(mode, "listen") == 0)
            ask(fd, "SUBSCRIBE quiet\r\n");
        else if (strcmp(mode, "block") == 0)
            say(fd, "BLPOP nothing 0\r\n");
        else
            ask(fd, "PING\r\n");
        stay();
    }
    return 0;
}

/* A parent that embeds the broker, and one worker; ends with 0 if the worker was served. */
#define _GNU_SOURCE
#include <broker.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int work(int fd)
{
    broker_client_t *client;
    char endpoint[32];

    snprintf(endpoint, sizeof endpoint, "fd://%d", fd);
    if (broker_client_new(&client, endpoint, NULL, NULL, 0) != BROKER_OK)
        return 1;
    return broker_client_call(client, BROKER_ARGV("PING"), 10000, NULL) != BROKER_OK;
}

int main(void)
{
    broker_config_t *config = broker_config_new();
    broker_loop_t *loop;
    int pair[2], status;
    pid_t pid;

    broker_config_set(config, "upstream", "redis://127.0.0.1:6379");
    if (broker_loop_new(&loop, config, NULL, 0) != BROKER_OK)
        return 2;
    SNIPPET
    if (pid < 0)
        return 3;
    if (pid == 0)
        _exit(work(pair[1]));
    while (waitpid(pid, &status, WNOHANG) == 0)
        broker_loop_run(loop, BROKER_RUN_NOWAIT);
    broker_loop_free(loop);
    broker_config_free(config);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 4;
}

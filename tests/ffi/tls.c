/*
 * A client with TLS: of a broker's listener or of Redis itself. Arguments: the endpoint, the CA's certificates, the
 * client's certificate and its key.
 */
#include "client.h"

static const char *endpoint, *ca, *cert, *key;

static broker_config_t *trusting(const char *file)
{
    return configure("client_tls_ca_file", file, "client_tls_cert_file", cert, "client_tls_key_file", key, (char *)NULL);
}

static void requests(broker_client_t *client)
{
    size_t size = 2000000;
    char *large = malloc(size + 1);
    CHECK(large != NULL);
    memset(large, 'x', size);
    large[size] = '\0';
    EXPECT(client, "+OK", "SET", "tls:s", "text");
    EXPECT(client, "text", "GET", "tls:s");
    EXPECT(client, "+OK", "SET", "tls:l", large);
    EXPECT(client, ":2000000", "STRLEN", "tls:l");
    broker_reply_t *reply = NULL;
    size_t len = 0;
    CHECK_INT(broker_client_call(client, ARGV("GET", "tls:l"), NULL, BROKER_FOREVER, &reply), BROKER_OK);
    const char *text = broker_reply_string(reply, &len);
    CHECK(len == size && memcmp(text, large, size) == 0);
    broker_reply_free(reply);
    free(large);
}

/* A copy of the process has a connection of its own, with a handshake of its own. */
static void in_a_copy(broker_client_t *client)
{
    pid_t pid = fork_or_fail();
    if (pid == 0) {
        CHECK_INT(broker_client_after_fork(client), BROKER_OK);
        EXPECT(client, "text", "GET", "tls:s");
        close_client(client);
        _exit(0);
    }
    wait_child(pid);
    EXPECT(client, "text", "GET", "tls:s");
}

/* What is wrong is said, and nothing is sent. */
static void refused(broker_config_t *config, const char *why)
{
    broker_client_t *client = open_client(endpoint, config);
    struct outcome outcome = {0};
    CHECK_INT(broker_client_submit(client, ARGV("PING"), NULL, 1000, NULL, keep, &outcome), BROKER_OK);
    wait_outcome(client, &outcome);
    CHECK(outcome.status < 0);
    if (strstr(broker_client_error(client), why) == NULL)
        FAIL("\"%s\" instead of \"%s\"", broker_client_error(client), why);
    close_client(client);
}

int main(int argc, char **argv)
{
    char words[256] = "";
    broker_client_t *client = NULL;
    CHECK_INT(argc, 5);
    begin();
    endpoint = argv[1];
    ca = argv[2];
    cert = argv[3];
    key = argv[4];
    client = open_client(endpoint, trusting(ca));
    requests(client);
    in_a_copy(client);
    close_client(client);
    refused(trusting(cert), "of an unknown CA");
    broker_config_t *config = trusting(ca);
    CHECK_INT(broker_config_set(config, "client_tls_server_name", "elsewhere"), BROKER_OK);
    refused(config, "another name than elsewhere");
    config = trusting(key);
    CHECK_INT(broker_client_new(&client, endpoint, config, words, sizeof words), BROKER_ECONFIG);
    CHECK(strstr(words, "client_tls_ca_file") != NULL && strstr(words, "no certificate") != NULL);
    CHECK_INT(broker_config_free(config), BROKER_OK);
    return 0;
}

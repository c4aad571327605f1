/* redis-plus-plus over TLS: requests, a pipeline, a transaction, a long value, a blocked pop. Run by scripts/tls-clients. */
#include <sw/redis++/redis++.h>

#include <cstdlib>
#include <iostream>
#include <string>

static void expect(bool holds, const char *what)
{
    if (!holds) {
        std::cerr << what << "\n";
        std::exit(1);
    }
}

int main(int, char **argv)
{
    sw::redis::ConnectionOptions options;
    options.host = "localhost";
    options.port = std::stoi(argv[1]);
    options.tls.enabled = true;
    options.tls.cacert = "ca.pem";
    options.tls.cert = "client.pem";
    options.tls.key = "client.key";
    options.tls.sni = "localhost";
    sw::redis::Redis redis(options);
    redis.del({"cxx", "cxx:n", "cxx:list"});
    expect(redis.set("cxx", "v") && *redis.get("cxx") == "v", "SET and GET");
    auto pipe = redis.pipeline();
    for (int i = 0; i < 1000; i++)
        pipe.incr("cxx:n");
    auto replies = pipe.exec();
    expect(replies.get<long long>(999) == 1000, "a pipeline");
    auto transaction = redis.transaction();
    auto done = transaction.set("cxx", "w").get("cxx").exec();
    expect(*done.get<sw::redis::OptionalString>(1) == "w", "a transaction");
    std::string text(3000000, 'x');
    redis.set("cxx:long", text);
    expect(*redis.get("cxx:long") == text, "a long value");
    redis.rpush("cxx:list", "e");
    expect(redis.blpop("cxx:list", 10)->second == "e", "a pop");
    std::cout << "redis-plus-plus passes\n";
    return 0;
}

// The example of shared_client.hpp; the key it reads exists.
#include <broker.hpp>
#include <broker/shared_client.hpp>
#include <cstdio>

template <class T> static void use(const T&) {}

int main() {
    try {
        broker::client().call<void>("SET", "name", "Ada");
        SNIPPET
        use(name);
    } catch (const broker::error& error) {
        return std::fprintf(stderr, "%s\n", error.what()), 1;
    }
}

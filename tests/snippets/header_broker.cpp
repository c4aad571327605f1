// The example of broker.hpp; the list it moves an element from is not empty.
#include <broker.hpp>
#include <cstdio>

template <class T> static void use(const T&) {}

int main() {
    try {
        broker::client().call<void>("RPUSH", "from", "element");
        SNIPPET
        use(answer);
    } catch (const broker::error& error) {
        return std::fprintf(stderr, "%s\n", error.what()), 1;
    }
}

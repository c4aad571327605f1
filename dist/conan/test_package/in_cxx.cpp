// Checks that the C++ header compiles and links with its library.
#include <broker.hpp>
#include <cstdio>

int main() {
    broker_config_t *config = broker_config_new();
    std::printf("C++: libbroker %x, a config %s\n", broker_version(), config ? "made" : "not made");
    broker_config_free(config);
    return config == nullptr || broker_version() != BROKER_VERSION_HEX;
}

/* Whether header and library are of one version. */
#include <broker.h>
#include <stdio.h>

int main(void) {
    printf("C: libbroker %x, header %x\n", broker_version(), (unsigned int)BROKER_VERSION_HEX);
    return broker_version() != BROKER_VERSION_HEX;
}

// A redis-plus-plus program; ends with 0 if it is connected and answered.
#include <sw/redis++/redis++.h>

int main()
{
    SNIPPET
    return redis.ping() != "PONG";
}

/* A hiredis program; ends with 0 if it is connected and answered. */
#include <hiredis/hiredis.h>

int main(void)
{
    SNIPPET
    redisReply *reply = c != NULL && !c->err ? redisCommand(c, "PING") : NULL;
    int good = reply != NULL && reply->type == REDIS_REPLY_STATUS;
    freeReplyObject(reply);
    redisFree(c);
    return !good;
}

/* Functions of a program; only whether they compile is of interest, so each is taken for used. */
#define _GNU_SOURCE
#include <broker.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#pragma GCC diagnostic ignored "-Wunused-function"

SNIPPET

int main(void)
{
    return 0;
}

/* Functions of a program, only compiled: none of them is called. */
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

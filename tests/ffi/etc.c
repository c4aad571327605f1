/* Preloaded into programs that look names up: see etc.h. */
#define _GNU_SOURCE
#include "etc.h"

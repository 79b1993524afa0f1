/* Memory that is read soon is fetched while a product computes. A step of few rows would otherwise
 * wait for memory and compute in turn, and leave one idle while it does the other. A core keeps
 * about two dozen lines under way, so they are asked for a few at a time, between products. */
#pragma once

#include "rows.h"

enum { LINE = 64, MAX_LINES_AHEAD = 1024 };

/* Lines to be fetched during the next tile. */
typedef struct {
    const char *line[MAX_LINES_AHEAD];
    int num, at;
} Ahead;

/* Piece `part` of `parts` of some memory; what does not fit is read without being fetched. */
INLINE void add_lines(Ahead *ahead, const void *start, int64_t bytes, int part, int parts) {
    int64_t lines = (bytes + LINE - 1) / LINE, end = lines * (part + 1) / parts;
    for (int64_t i = lines * part / parts; i < end && ahead->num < MAX_LINES_AHEAD; i++)
        ahead->line[ahead->num++] = (const char *)start + i * LINE;
}

INLINE void fetch_some(Ahead *ahead, int num) {
    int end = ahead->at + num < ahead->num ? ahead->at + num : ahead->num;
    for (; ahead->at < end; ahead->at++) fetch_far(ahead->line[ahead->at]);
}

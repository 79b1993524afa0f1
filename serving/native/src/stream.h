/* A tile's weights, and the next one's, which are fetched meanwhile, a share with each block of rows: its
 * first block would wait for memory. */
#pragma once

#include "ahead.h"

enum { LINES8 = GROUP / 4, LINES4 = 10 }; /* of 64 bytes, that a tile has a group */

typedef struct {
    const uint8_t *weight, *next;
    Ahead *ahead;
    int lines, lines_ahead; /* to be fetched a group: of the next tile, of what lies further ahead */
} Stream;

INLINE void fetch_group(Stream *s) {
    for (int line = 0; line < s->lines; line++, s->next += LINE) fetch(s->next);
    if (s->lines_ahead) fetch_some(s->ahead, s->lines_ahead);
}

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

/* What a block of rows reads of activations: its first row's; the next one's follow `k` bytes of q and
 * num_groups scales and offsets further, and 2 * num_groups sums. */
typedef struct {
    int num_groups;
    const int8_t *q;
    const float *scale, *sum;
    const int32_t *offset;
} BlockRows;

INLINE BlockRows rows_from(const Activations *x, int row) {
    int num_groups = x->k / GROUP;
    int64_t at = (int64_t)row * num_groups;
    return (BlockRows){num_groups, x->q + (int64_t)row * x->k, x->scale + at, x->sum + 2 * at, x->offset + at};
}

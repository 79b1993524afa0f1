/* Memory that is read soon is fetched while a product computes. A step of few rows would otherwise
 * wait for memory and compute in turn, and leave one idle while it does the other. A core keeps
 * about two dozen lines under way, so they are asked for a few at a time, between products. */
#pragma once

#include "rows.h"

enum { LINE = 64, MAX_RANGES = 512 };

typedef struct {
    const char *start;
    int64_t lines;
} Range;

/* What is to be fetched during the next strip, in this order; what does not fit is read without
 * being fetched. */
typedef struct {
    Range range[MAX_RANGES];
    int num, at;
    int64_t lines; /* of all ranges */
} Ahead;

INLINE void look_at_nothing(Ahead *ahead) { ahead->num = ahead->at = 0, ahead->lines = 0; }

/* Pieces `first` to `end` of `parts` of some memory. */
INLINE void add_pieces(Ahead *ahead, const void *start, int64_t bytes, int first, int end,
                       int parts) {
    int64_t lines = (bytes + LINE - 1) / LINE;
    int64_t from = lines * first / parts, to = lines * end / parts;
    if (from == to || ahead->num == MAX_RANGES) return;
    ahead->range[ahead->num++] = (Range){(const char *)start + from * LINE, to - from};
    ahead->lines += to - from;
}

INLINE void add_all(Ahead *ahead, const void *start, int64_t bytes) {
    add_pieces(ahead, start, bytes, 0, 1, 1);
}

INLINE void fetch_some(Ahead *ahead, int lines) {
    while (lines > 0 && ahead->at < ahead->num) {
        Range *range = ahead->range + ahead->at;
        int64_t some = range->lines < lines ? range->lines : lines;
        for (const char *end = range->start + some * LINE; range->start < end; range->start += LINE)
            fetch_far(range->start);
        lines -= some, range->lines -= some;
        ahead->at += range->lines == 0;
    }
}

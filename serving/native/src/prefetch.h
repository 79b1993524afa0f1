/* Memory that is read soon is prefetched while a product computes. A step of few rows would
 * otherwise wait for memory and compute in turn, and leave one idle while it does the other. A core
 * keeps about two dozen lines under way, so they are asked for a few at a time, between products.
 *
 * Compiled once per instruction set. Needs prefetch_far of vectors.h. Provides PrefetchList, with
 * clear_prefetches, add_range, add_share, issue_prefetches, and LINE. */
#pragma once

#include "rows.h"

enum { LINE = 64, MAX_RANGES = 512 };

typedef struct {
    const char *start;
    int64_t lines;
} Range;

/* What is to be prefetched during the next strip, in this order; what does not fit is read without
 * being prefetched. */
typedef struct {
    Range range[MAX_RANGES];
    int num, at;
    int64_t lines; /* of all ranges */
} PrefetchList;

INLINE void clear_prefetches(PrefetchList *prefetches) {
    prefetches->num = prefetches->at = 0, prefetches->lines = 0;
}

/* Of some memory that `shares` strips prefetch together: shares first to end. */
INLINE void add_share(PrefetchList *prefetches, const void *start, int64_t bytes, int first,
                      int end, int shares) {
    int64_t lines = (bytes + LINE - 1) / LINE;
    int64_t from = lines * first / shares, to = lines * end / shares;
    if (from == to || prefetches->num == MAX_RANGES) return;
    prefetches->range[prefetches->num++] = (Range){(const char *)start + from * LINE, to - from};
    prefetches->lines += to - from;
}

INLINE void add_range(PrefetchList *prefetches, const void *start, int64_t bytes) {
    add_share(prefetches, start, bytes, 0, 1, 1);
}

INLINE void issue_prefetches(PrefetchList *prefetches, int lines) {
    while (lines > 0 && prefetches->at < prefetches->num) {
        Range *range = prefetches->range + prefetches->at;
        int64_t some = range->lines < lines ? range->lines : lines;
        for (const char *end = range->start + some * LINE; range->start < end; range->start += LINE)
            prefetch_far(range->start);
        lines -= some, range->lines -= some;
        prefetches->at += range->lines == 0;
    }
}

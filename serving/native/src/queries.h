/* What attention is asked for, and where keys and values lie.
 *
 * Compiled once per instruction set. Needs VECTOR_QUERIES of vectors.h, or USE_AMX. Provides
 * QUERY_BLOCK, QueryBlock, page_of. */
#pragma once

#include "rows.h"

/* How many queries read the keys together. */
#ifdef USE_AMX
enum { QUERY_BLOCK = 16 };
#else
enum { QUERY_BLOCK = VECTOR_QUERIES };
#endif

INLINE bf16 *page_of(const Model *model, const Layer *layer, int page, int kv_head) {
    int64_t size = 2 * (int64_t)model->head_dim * PAGE;
    return layer->cache + ((int64_t)page * model->num_kv_heads + kv_head) * size;
}

/* Up to QUERY_BLOCK queries (row, head) that read the same keys. */
typedef struct {
    const Narrow *q[QUERY_BLOCK];
    float *out[QUERY_BLOCK];
    int first[QUERY_BLOCK], end[QUERY_BLOCK]; /* the keys each may see */
    int num;
} QueryBlock;

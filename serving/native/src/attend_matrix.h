/* Attention of up to sixteen queries at a time on tile registers of AMX. A row's bits do not depend
 * on the other rows of a register, nor on pages behind its last key: their probabilities are 0.
 *
 * Compiled once per instruction set, by attention.h where USE_AMX is defined. Needs Narrow to be
 * bf16, and matrix_begin to have been called on the thread. Provides attend_block. */
#pragma once

#include "queries.h"

/* The keys that the queries see lie in these pages; a row of scores is `stride` wide. */
typedef struct {
    int first_page, end_page, num_keys, stride;
} Span;

INLINE Span span_of(const QueryBlock *block) {
    int first = block->first[0], end = block->end[0];
    for (int i = 1; i < block->num; i++) {
        if (block->first[i] < first) first = block->first[i];
        if (block->end[i] > end) end = block->end[i];
    }
    int first_page = first / PAGE, end_page = (end + PAGE - 1) / PAGE;
    /* An odd number of lines: rows at one distance from a power of two would share the
     * cache's sets. */
    return (Span){first_page, end_page, end, ((end_page - first_page) | 1) * PAGE};
}

/* scores (QUERY_BLOCK, stride) = q · K; queries are (QUERY_BLOCK, head_dim). */
static void score_pages(const Model *model, const Layer *layer, const int32_t *pages, int kv_head,
                        const Span *span, const bf16 *queries, float *scores) {
    int d = model->head_dim;
    int64_t row = 2 * d, stride = 4 * (int64_t)span->stride;
    if (d == 64) {
        _tile_loadd(4, queries, row);
        _tile_loadd(5, queries + 32, row);
    }
    for (int page = span->first_page; page < span->end_page; page++, scores += PAGE) {
        const bf16 *keys = page_of(model, layer, pages[page], kv_head);
        const bf16 *next =
            page_of(model, layer, pages[page + 1 < span->end_page ? page + 1 : page], kv_head);
        for (int line = 0; line < d; line++) prefetch_near(next + 32 * line);
        _tile_zero(0);
        if (d == 64) {
            _tile_loadd(1, keys, 64);
            _tile_loadd(2, keys + 32 * PAGE, 64);
            _tile_dpbf16ps(0, 4, 1);
            _tile_dpbf16ps(0, 5, 2);
        } else {
            for (int at = 0; at < d; at += 32) {
                _tile_loadd(1, queries + at, row);
                _tile_loadd(2, keys + at * PAGE, 64);
                _tile_dpbf16ps(0, 1, 2);
            }
        }
        _tile_stored(0, scores, stride);
    }
}

/* p = e^(score - highest) of one query, 0 for keys it does not see; gives 1 / the sum of p. */
INLINE float softmax_row(const Span *span, int first, int end, float *scores, bf16 *p) {
    F16 top = f_all(-INFINITY), sum = f_zero();
    int from = span->first_page * PAGE, num = (span->end_page - span->first_page) * PAGE;
    first -= from, end -= from;
    for (int t = 0; t < num; t += PAGE) {
        F16 score = f_load(scores + t);
        if (t < first || t + PAGE > end) {
            score = f_keep(score, first - t, end - t, f_all(-INFINITY));
            f_store(scores + t, score);
        }
        top = f_max(top, score);
    }
    F16 highest = f_all(-f_top(top));
    for (int t = 0; t < num; t += PAGE) {
        F16 e = f_exp(f_add(f_load(scores + t), highest));
        if (t < first || t + PAGE > end) e = f_keep(e, first - t, end - t, f_zero());
        store_bf16(p + t, e);
        sum = f_add(sum, load_bf16(p + t));
    }
    return 1.0f / f_sum(sum);
}

/* Values behind the last key may be anything, also not a number: a copy has zeros there. */
static const bf16 *last_values(const bf16 *values, int num_keys, int d, bf16 *copy) {
    int pairs = (num_keys % PAGE + 1) / 2;
    if (!pairs) return values;
    memcpy(copy, values, (size_t)pairs * 4 * d);
    memset(copy + pairs * 2 * d, 0, (size_t)(PAGE / 2 - pairs) * 4 * d);
    return copy;
}

/* out (QUERY_BLOCK, 64 or 32 features from `at` on) = p · V. */
static void sum_values(const Model *model, const Layer *layer, const int32_t *pages, int kv_head,
                       const Span *span, const bf16 *p, int at, float *out) {
    int d = model->head_dim, is_wide = d - at >= 64;
    int64_t stride = 2 * (int64_t)span->stride, pair = 4 * d;
    bf16 copy[256 * PAGE] __attribute__((aligned(64)));
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int page = span->first_page; page < span->end_page; page++, p += PAGE) {
        const bf16 *v = page_of(model, layer, pages[page], kv_head) + d * PAGE;
        if (page + 1 == span->end_page) v = last_values(v, span->num_keys, d, copy);
        v += 2 * at;
        _tile_loadd(6, p, stride);
        _tile_loadd(7, v, pair);
        _tile_dpbf16ps(0, 6, 7);
        _tile_loadd(7, v + 32, pair);
        _tile_dpbf16ps(1, 6, 7);
        if (!is_wide) continue;
        _tile_loadd(7, v + 64, pair);
        _tile_dpbf16ps(2, 6, 7);
        _tile_loadd(7, v + 96, pair);
        _tile_dpbf16ps(3, 6, 7);
    }
    _tile_stored(0, out, 256);
    _tile_stored(1, out + 16, 256);
    _tile_stored(2, out + 32, 256);
    _tile_stored(3, out + 48, 256);
}

/* softmax(q · K) · V of up to QUERY_BLOCK queries, for which `scores` and `p` have room. */
static void attend_block(const Model *model, const Layer *layer, const int32_t *pages, int kv_head,
                         const QueryBlock *block, float *scores, Narrow *p) {
    int d = model->head_dim;
    Span span = span_of(block);
    bf16 queries[QUERY_BLOCK * 256] __attribute__((aligned(64)));
    float out[QUERY_BLOCK * 64] __attribute__((aligned(64)));
    float inverse[QUERY_BLOCK];
    for (int i = 0; i < QUERY_BLOCK; i++) {
        if (i < block->num) memcpy(queries + i * d, block->q[i], (size_t)d * 2);
        else memset(queries + i * d, 0, (size_t)d * 2);
    }
    score_pages(model, layer, pages, kv_head, &span, queries, scores);
    for (int i = 0; i < block->num; i++) {
        int64_t row = (int64_t)i * span.stride;
        inverse[i] = softmax_row(&span, block->first[i], block->end[i], scores + row, p + row);
    }
    for (int at = 0; at < d; at += 64) {
        int width = d - at >= 64 ? 64 : 32;
        sum_values(model, layer, pages, kv_head, &span, p, at, out);
        for (int i = 0; i < block->num; i++)
            for (int j = 0; j < width; j += 16)
                f_store(block->out[i] + at + j, f_mul(f_load(out + i * 64 + j), f_all(inverse[i])));
    }
}

/* Attention of a few queries at a time, with products of pairs of bf16.
 *
 * Compiled once per instruction set, by attention.h where USE_AMX is not defined. Needs dot2,
 * SCORE_PAGES and VALUE_VECTORS of vectors.h. Provides attend_block. */
#pragma once

#include "queries.h"

/* Scores of the keys of `pages` pages; as many that follow, keys and values, are
 * prefetched meanwhile. */
INLINE void score_pages(const bf16 *const *keys, const bf16 *const *next, int pages,
                        const QueryBlock *block, int num, int half, int token, float *scores,
                        int stride, F16 *top) {
    F16 sum[QUERY_BLOCK][SCORE_PAGES][2], lowest = f_all(-INFINITY);
    for (int i = 0; i < num; i++)
        for (int page = 0; page < pages; page++) sum[i][page][0] = sum[i][page][1] = f_zero();
    for (int d = 0; d < half; d += 2) {
        for (int page = 0; page < pages; page++)
            for (int line = 0; line < 4; line++)
                prefetch_near(next[page] + d * 4 * PAGE + 2 * PAGE * line);
        for (int j = 0; j < 2; j++)
            for (int i = 0; i < num; i++)
                for (int page = 0; page < pages; page++)
                    sum[i][page][j] = dot2(sum[i][page][j], keys[page] + (d + j) * 2 * PAGE,
                                           block->q[i] + 2 * (d + j));
    }
    for (int i = 0; i < num; i++)
        for (int page = 0; page < pages; page++) {
            F16 score = f_add(sum[i][page][0], sum[i][page][1]);
            int at = token + page * PAGE;
            score = f_keep(score, block->first[i] - at, block->end[i] - at, lowest);
            f_store(scores + (int64_t)i * stride + at, score);
            top[i] = f_max(top[i], score);
        }
}

/* out (16 * vectors features from d on) = p · V over the pages. */
INLINE void sum_values(const Model *model, const Layer *layer, const int32_t *pages, int kv_head,
                       int first_page, int num_keys, const Narrow *p, int stride, int num, int d,
                       int vectors, F16 out[QUERY_BLOCK][VALUE_VECTORS]) {
    for (int i = 0; i < num; i++)
        for (int j = 0; j < vectors; j++) out[i][j] = f_zero();
    for (int page = first_page; page * PAGE < num_keys; page++) {
        const bf16 *v =
            page_of(model, layer, pages[page], kv_head) + model->head_dim * PAGE + 2 * d;
        int left = num_keys - page * PAGE, pairs = left >= PAGE ? PAGE / 2 : (left + 1) / 2;
        for (int t = 0; t < pairs; t++, v += 2 * model->head_dim)
            for (int i = 0; i < num; i++)
                for (int j = 0; j < vectors; j++)
                    out[i][j] =
                        dot2(out[i][j], v + 32 * j, p + (int64_t)i * stride + page * PAGE + 2 * t);
    }
}

INLINE void attend_some(const Model *model, const Layer *layer, const int32_t *pages, int kv_head,
                        const QueryBlock *block, int num, float *scores, Narrow *p, int stride) {
    int first = block->first[0], num_keys = block->end[0], d = model->head_dim;
    for (int i = 1; i < num; i++) {
        if (block->first[i] < first) first = block->first[i];
        if (block->end[i] > num_keys) num_keys = block->end[i];
    }
    int first_page = first / PAGE;
    F16 top[QUERY_BLOCK];
    float inverse[QUERY_BLOCK];
    for (int i = 0; i < num; i++) top[i] = f_all(-INFINITY);
    for (int page = first_page, end = (num_keys + PAGE - 1) / PAGE; page < end;
         page += SCORE_PAGES) {
        const bf16 *keys[SCORE_PAGES], *next[SCORE_PAGES];
        for (int j = 0; j < SCORE_PAGES; j++) {
            keys[j] = page_of(model, layer, pages[min_int(page + j, end - 1)], kv_head);
            next[j] =
                page_of(model, layer, pages[min_int(page + SCORE_PAGES + j, end - 1)], kv_head);
        }
        DISPATCH(n, end - page, SCORE_PAGES,
                 score_pages(keys, next, n, block, num, d / 2, page * PAGE, scores, stride, top));
    }
    for (int i = 0; i < num; i++) {
        F16 highest = f_all(-f_top(top[i])), sum = f_zero();
        for (int t = first_page * PAGE; t < num_keys; t += PAGE) {
            F16 e = f_exp(f_add(f_load(scores + (int64_t)i * stride + t), highest));
            e = f_keep(e, block->first[i] - t, block->end[i] - t, f_zero());
            store_narrow(p + (int64_t)i * stride + t, e);
            sum = f_add(sum, load_narrow(p + (int64_t)i * stride + t));
        }
        inverse[i] = 1.0f / f_sum(sum);
    }
    for (int at = 0; at < d;) {
        F16 out[QUERY_BLOCK][VALUE_VECTORS];
        int vectors = d - at >= 16 * VALUE_VECTORS ? VALUE_VECTORS : 2;
        if (vectors == VALUE_VECTORS)
            sum_values(model, layer, pages, kv_head, first_page, num_keys, p, stride, num, at,
                       VALUE_VECTORS, out);
        else
            sum_values(model, layer, pages, kv_head, first_page, num_keys, p, stride, num, at, 2,
                       out);
        for (int i = 0; i < num; i++)
            for (int j = 0; j < vectors; j++)
                f_store(block->out[i] + at + 16 * j, f_mul(out[i][j], f_all(inverse[i])));
        at += 16 * vectors;
    }
}

/* softmax(q · K) · V of up to QUERY_BLOCK queries, for which `scores` and `p` have room. */
static void attend_block(const Model *model, const Layer *layer, const int32_t *pages, int kv_head,
                         const QueryBlock *block, float *scores, Narrow *p) {
    int stride = model->max_keys;
    DISPATCH(n, block->num, QUERY_BLOCK,
             attend_some(model, layer, pages, kv_head, block, n, scores, p, stride));
}

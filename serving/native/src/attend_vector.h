/* Attention of a few queries at a time, with products of pairs of bf16. */
#pragma once

#include "queries.h"

/* Scores of a page's keys; the next page, keys and values, is fetched meanwhile. */
INLINE void score_page(const bf16 *keys, const bf16 *next, const Queries *of, int num, int half,
                       int token, float *scores, int stride, F16 *top) {
    F16 sum[QUERY_BLOCK][2], lowest = f_all(-INFINITY);
    for (int i = 0; i < num; i++) sum[i][0] = sum[i][1] = f_zero();
    for (int d = 0; d < half; d += 2, keys += 4 * PAGE, next += 8 * PAGE) {
        for (int line = 0; line < 4; line++) fetch(next + 2 * PAGE * line);
        for (int i = 0; i < num; i++) {
            sum[i][0] = dot2(sum[i][0], keys, of->q[i] + 2 * d);
            sum[i][1] = dot2(sum[i][1], keys + 2 * PAGE, of->q[i] + 2 * d + 2);
        }
    }
    for (int i = 0; i < num; i++) {
        F16 score = f_add(sum[i][0], sum[i][1]);
        score = f_keep(score, of->first[i] - token, of->end[i] - token, lowest);
        f_store(scores + (int64_t)i * stride + token, score);
        top[i] = f_max(top[i], score);
    }
}

/* out (16 * vectors features from d on) = p · V over the pages. */
INLINE void weigh_values(const Model *model, const Layer *layer, const int32_t *pages, int kv_head,
                         int first_page, int num_keys, const bf16 *p, int stride, int num, int d,
                         int vectors, F16 out[QUERY_BLOCK][VALUE_VECTORS]) {
    for (int i = 0; i < num; i++)
        for (int j = 0; j < vectors; j++) out[i][j] = f_zero();
    for (int page = first_page; page * PAGE < num_keys; page++) {
        const bf16 *v = page_of(model, layer, pages[page], kv_head) + model->head_dim * PAGE + 2 * d;
        int left = num_keys - page * PAGE, pairs = left >= PAGE ? PAGE / 2 : (left + 1) / 2;
        for (int t = 0; t < pairs; t++, v += 2 * model->head_dim)
            for (int i = 0; i < num; i++)
                for (int j = 0; j < vectors; j++)
                    out[i][j] = dot2(out[i][j], v + 32 * j,
                                     p + (int64_t)i * stride + page * PAGE + 2 * t);
    }
}

INLINE void attend_some(const Model *model, const Layer *layer, const int32_t *pages, int kv_head,
                         const Queries *of, int num, float *scores, bf16 *p, int stride) {
    int first = of->first[0], num_keys = of->end[0], d = model->head_dim;
    for (int i = 1; i < num; i++) {
        if (of->first[i] < first) first = of->first[i];
        if (of->end[i] > num_keys) num_keys = of->end[i];
    }
    int first_page = first / PAGE;
    F16 top[QUERY_BLOCK];
    float inverse[QUERY_BLOCK];
    for (int i = 0; i < num; i++) top[i] = f_all(-INFINITY);
    for (int page = first_page; page * PAGE < num_keys; page++) {
        int next = (page + 1) * PAGE < num_keys ? page + 1 : page;
        score_page(page_of(model, layer, pages[page], kv_head),
                   page_of(model, layer, pages[next], kv_head), of, num, d / 2, page * PAGE,
                   scores, stride, top);
    }
    for (int i = 0; i < num; i++) {
        F16 highest = f_all(-f_top(top[i])), sum = f_zero();
        for (int t = first_page * PAGE; t < num_keys; t += PAGE) {
            F16 e = f_exp(f_add(f_load(scores + (int64_t)i * stride + t), highest));
            e = f_keep(e, of->first[i] - t, of->end[i] - t, f_zero());
            store_bf16(p + (int64_t)i * stride + t, e);
            sum = f_add(sum, load_bf16(p + (int64_t)i * stride + t));
        }
        inverse[i] = 1.0f / f_sum(sum);
    }
    for (int at = 0; at < d;) {
        F16 out[QUERY_BLOCK][VALUE_VECTORS];
        int vectors = d - at >= 16 * VALUE_VECTORS ? VALUE_VECTORS : 2;
        if (vectors == VALUE_VECTORS)
            weigh_values(model, layer, pages, kv_head, first_page, num_keys, p, stride, num, at,
                         VALUE_VECTORS, out);
        else
            weigh_values(model, layer, pages, kv_head, first_page, num_keys, p, stride, num, at, 2, out);
        for (int i = 0; i < num; i++)
            for (int j = 0; j < vectors; j++)
                f_store(of->out[i] + at + 16 * j, f_mul(out[i][j], f_all(inverse[i])));
        at += 16 * vectors;
    }
}

/* softmax(q · K) · V of up to QUERY_BLOCK queries, for which `scores` and `p` have room. */
static void attend_block(const Model *model, const Layer *layer, const int32_t *pages, int kv_head,
                         const Queries *of, float *scores, bf16 *p) {
    int stride = model->max_keys;
    switch (of->num) { /* the loops over queries are unrolled */
    case 1: attend_some(model, layer, pages, kv_head, of, 1, scores, p, stride); break;
    case 2: attend_some(model, layer, pages, kv_head, of, 2, scores, p, stride); break;
    case 3: attend_some(model, layer, pages, kv_head, of, 3, scores, p, stride); break;
    default: attend_some(model, layer, pages, kv_head, of, QUERY_BLOCK, scores, p, stride);
    }
}

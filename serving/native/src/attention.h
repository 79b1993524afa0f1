/* Rotary positions and attention over the paged cache. */
#pragma once

#include "rows.h"

enum { QUERY_BLOCK = 4 };

INLINE bf16 *page_of(const Model *model, const Layer *layer, int page, int kv_head) {
    int64_t size = 2 * (int64_t)model->head_dim * PAGE;
    return layer->cache + ((int64_t)page * model->num_kv_heads + kv_head) * size;
}

/* One head's rotary embedding (Su et al. 2021), in place. head_dim is a multiple of 32, at most 256. */
INLINE void rotate(float *head, const float *rotary, int half) {
    for (int i = 0; i < half; i += 16) {
        F16 cos = f_load(rotary + i), sin = f_load(rotary + half + i);
        F16 first = f_load(head + i), second = f_load(head + half + i);
        F16 minus = f_mul(f_mul(second, sin), f_all(-1.0f));
        f_store(head + i, f_fma(first, cos, minus));
        f_store(head + half + i, f_fma(second, cos, f_mul(first, sin)));
    }
}

/* Rotate a row's queries (to bf16, scaled) and keys, and put keys and values into the cache.
 * The rows of one page must be done in order by one thread. */
static void place_row(const Model *model, const Layer *layer, const Segment *segment, int row,
                      float *qkv, bf16 *queries) {
    int d = model->head_dim, half = d / 2, position = segment->position + row - segment->start;
    const float *rotary = model->rotary + (int64_t)position * d;
    float scale = 1.0f / sqrtf((float)d);
    for (int h = 0; h < model->num_heads; h++) {
        float *q = qkv + h * d;
        if (layer->q_norm) rms_norm(q, q, layer->q_norm, d, model->eps);
        rotate(q, rotary, half);
        for (int i = 0; i < d; i += 16)
            store_bf16(queries + h * d + i, f_mul(f_load(q + i), f_all(scale)));
    }
    int at = position % PAGE;
    float *keys = qkv + model->num_heads * d, *values = keys + model->num_kv_heads * d;
    for (int h = 0; h < model->num_kv_heads; h++) {
        bf16 narrow[256], *page = page_of(model, layer, segment->pages[position / PAGE], h);
        float *k = keys + h * d;
        if (layer->k_norm) rms_norm(k, k, layer->k_norm, d, model->eps);
        rotate(k, rotary, half);
        for (int i = 0; i < d; i += 16) store_bf16(narrow + i, f_load(k + i));
        for (int i = 0; i < half; i++) memcpy(page + (i * PAGE + at) * 2, narrow + 2 * i, 4);
        page += d * PAGE + (at / 2) * 2 * d;
        for (int i = 0; i < d; i += 16) store_bf16(narrow + i, f_load(values + h * d + i));
        if (at % 2 == 0) /* the other half of the pair must be a number before it is written */
            for (int i = 0; i < d; i++) page[2 * i] = narrow[i], page[2 * i + 1] = 0;
        else
            for (int i = 0; i < d; i++) page[2 * i + 1] = narrow[i];
    }
}

/* Up to QUERY_BLOCK queries (row, head) that read the same keys. */
typedef struct {
    const bf16 *q[QUERY_BLOCK];
    float *out[QUERY_BLOCK];
    int first[QUERY_BLOCK], end[QUERY_BLOCK]; /* the keys each may see */
    int num;
} Queries;

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
                         int vectors, F16 out[QUERY_BLOCK][4]) {
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

/* softmax(q · K) · V of up to QUERY_BLOCK queries; `scores` holds QUERY_BLOCK rows of `stride`. */
INLINE void attend_block(const Model *model, const Layer *layer, const int32_t *pages, int kv_head,
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
        F16 out[QUERY_BLOCK][4];
        int vectors = d - at >= 64 ? 4 : 2;
        if (vectors == 4)
            weigh_values(model, layer, pages, kv_head, first_page, num_keys, p, stride, num, at, 4, out);
        else
            weigh_values(model, layer, pages, kv_head, first_page, num_keys, p, stride, num, at, 2, out);
        for (int i = 0; i < num; i++)
            for (int j = 0; j < vectors; j++)
                f_store(of->out[i] + at + 16 * j, f_mul(out[i][j], f_all(inverse[i])));
        at += 16 * vectors;
    }
}

/* Rows first to end of a segment for one kv head and the query heads that share it. */
static void attend(const Model *model, const Layer *layer, const Segment *segment, int kv_head,
                   int first, int end, const bf16 *queries, float *out, float *scores, bf16 *p) {
    int d = model->head_dim, shared = model->num_heads / model->num_kv_heads;
    int num = (end - first) * shared;
    for (int at = 0; at < num; at += QUERY_BLOCK) {
        Queries of;
        of.num = num - at < QUERY_BLOCK ? num - at : QUERY_BLOCK;
        for (int i = 0; i < of.num; i++) {
            int row = first + (at + i) / shared, head = kv_head * shared + (at + i) % shared;
            int64_t place = ((int64_t)row * model->num_heads + head) * d;
            of.q[i] = queries + place;
            of.out[i] = out + place;
            of.end[i] = segment->position + row - segment->start + 1;
            of.first[i] = layer->window && of.end[i] > layer->window ? of.end[i] - layer->window : 0;
        }
        switch (of.num) {
        case 1: attend_block(model, layer, segment->pages, kv_head, &of, 1, scores, p, model->max_keys); break;
        case 2: attend_block(model, layer, segment->pages, kv_head, &of, 2, scores, p, model->max_keys); break;
        case 3: attend_block(model, layer, segment->pages, kv_head, &of, 3, scores, p, model->max_keys); break;
        default: attend_block(model, layer, segment->pages, kv_head, &of, 4, scores, p, model->max_keys);
        }
    }
}

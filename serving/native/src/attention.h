/* Rotary positions and attention over the paged cache.
 *
 * Compiled once per instruction set. Needs vectors.h, and USE_AMX where tile registers attend.
 * Provides place_row and attend. */
#pragma once

#ifdef USE_AMX
#include "attend_matrix.h"
#else
#include "attend_vector.h"
#endif

/* One head's rotary embedding (Su et al. 2021), in place. head_dim is a multiple of 32, at most
 * 256. */
INLINE void rotate(float *head, const float *rotary, int half) {
    for (int i = 0; i < half; i += 16) {
        F16 cos = f_load(rotary + i), sin = f_load(rotary + half + i);
        F16 first = f_load(head + i), second = f_load(head + half + i);
        F16 minus = f_mul(f_mul(second, sin), f_all(-1.0f));
        f_store(head + i, f_fma(first, cos, minus));
        f_store(head + half + i, f_fma(second, cos, f_mul(first, sin)));
    }
}

/* Rotate a row's queries (narrow, scaled) and keys, and put keys and values into the cache.
 * The rows of one page must be done in order by one thread. */
static void place_row(const Model *model, const Layer *layer, const Segment *segment, int row,
                      float *qkv, Narrow *queries) {
    int d = model->head_dim, half = d / 2, position = segment->position + row - segment->start;
    const float *rotary = model->rotary + (int64_t)position * d;
    float scale = 1.0f / sqrtf((float)d);
    for (int h = 0; h < model->num_heads; h++) {
        float *q = qkv + h * d;
        if (layer->q_norm) rms_norm(q, q, layer->q_norm, d, model->eps);
        rotate(q, rotary, half);
        for (int i = 0; i < d; i += 16)
            store_narrow(queries + h * d + i, f_mul(f_load(q + i), f_all(scale)));
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

/* Rows first to end of a segment for one kv head and the query heads that share it. */
static void attend(const Model *model, const Layer *layer, const Segment *segment, int kv_head,
                   int first, int end, const Narrow *queries, float *out, float *scores,
                   Narrow *p) {
    int d = model->head_dim, shared = model->num_heads / model->num_kv_heads;
    int num = (end - first) * shared;
    for (int at = 0; at < num; at += QUERY_BLOCK) {
        QueryBlock block;
        block.num = num - at < QUERY_BLOCK ? num - at : QUERY_BLOCK;
        for (int i = 0; i < block.num; i++) {
            int row = first + (at + i) / shared, head = kv_head * shared + (at + i) % shared;
            int64_t place = ((int64_t)row * model->num_heads + head) * d;
            block.q[i] = queries + place;
            block.out[i] = out + place;
            block.end[i] = segment->position + row - segment->start + 1;
            block.first[i] =
                layer->window && block.end[i] > layer->window ? block.end[i] - layer->window : 0;
        }
        attend_block(model, layer, segment->pages, kv_head, &block, scores, p);
    }
}

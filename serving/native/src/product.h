/* One linear layer of the base with its adapters: int8 product, shrink, expand, what follows. */
#pragma once

#include "strip.h"

/* What a product does with its tiles. */
typedef struct {
    const Linear *linear;
    const LoraGroup *groups;
    int num_groups, layer, index; /* index: which of the layer's LINEARS */
    const Activations *x;
    bf16 *low; /* (entries, low_width): what shrink left for each row of each group */
    int low_width;
    float *y; /* (rows, n) */
    int adds; /* y += instead of y = */
} Product;

INLINE const LoraLinear *adapter_of(const Product *p, const LoraGroup *group) {
    return group->adapter + p->layer * LINEARS + p->index;
}

/* low = x · A for up to SHRINK_BLOCK rows and 16 ranks; four interleaved sums a row. */
INLINE void shrink_block(const bf16 *a, const bf16 *x, int k, int rows, float scale, bf16 *low,
                         int low_width) {
    F16 sum[SHRINK_BLOCK][4];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 4; j++) sum[i][j] = f_zero();
    for (int at = 0; at < k; at += 8, a += 8 * TILE)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < 4; j++)
                sum[i][j] = dot2(sum[i][j], a + j * 2 * TILE, x + (int64_t)i * k + at + 2 * j);
    for (int i = 0; i < rows; i++) {
        F16 all = f_add(f_add(sum[i][0], sum[i][1]), f_add(sum[i][2], sum[i][3]));
        store_bf16(low + (int64_t)i * low_width, f_mul(all, f_all(scale)));
    }
}

/* The whole of one group's shrink: rows first to end, ranks rank to rank + 16. */
static void shrink(const Product *p, const LoraGroup *group, int first, int end, int rank) {
    const LoraLinear *lora = adapter_of(p, group);
    int k = p->linear->k;
    const bf16 *a = lora->a + (int64_t)rank * k;
    for (int row = first; row < end; row += SHRINK_BLOCK) {
        const bf16 *x = p->x->narrow + (int64_t)row * k;
        bf16 *low = p->low + (int64_t)(group->low + row - group->start) * p->low_width + rank;
        int rows = end - row < SHRINK_BLOCK ? end - row : SHRINK_BLOCK;
        switch (rows) {
        case 1: shrink_block(a, x, k, 1, group->scale, low, p->low_width); break;
        case 2: shrink_block(a, x, k, least(2, SHRINK_BLOCK), group->scale, low, p->low_width); break;
        case 3: shrink_block(a, x, k, least(3, SHRINK_BLOCK), group->scale, low, p->low_width); break;
        default: shrink_block(a, x, k, SHRINK_BLOCK, group->scale, low, p->low_width);
        }
    }
}

INLINE int part_of(const Linear *linear, int tile) {
    int part = 0;
    while (tile >= linear->part_end[part]) part++;
    return part;
}

/* The tile's piece of B for an adapter; null when the part is not adapted. */
INLINE const bf16 *expand_weights(const Linear *linear, const LoraLinear *lora, int tile, int part) {
    if (!lora->a || !lora->num_pairs[part]) return 0;
    int first = part ? linear->part_end[part - 1] : 0;
    return lora->b + lora->b_start[part] + (int64_t)(tile - first) * lora->num_pairs[part] * 2 * TILE;
}

/* out (rows, TILE) += low · B, two interleaved sums a row. */
INLINE void expand_rows(const bf16 *b, int num_pairs, const bf16 *low, int low_width, int rows,
                        float *out) {
    F16 even[EXPAND_BLOCK], odd[EXPAND_BLOCK];
    for (int i = 0; i < rows; i++) even[i] = f_load(out + i * TILE), odd[i] = f_zero();
    for (int j = 0; j < num_pairs; j += 2, b += 4 * TILE) {
        for (int i = 0; i < rows; i++) even[i] = dot2(even[i], b, low + i * low_width + 2 * j);
        if (j + 1 < num_pairs)
            for (int i = 0; i < rows; i++)
                odd[i] = dot2(odd[i], b + 2 * TILE, low + i * low_width + 2 * j + 2);
    }
    for (int i = 0; i < rows; i++) f_store(out + i * TILE, f_add(even[i], odd[i]));
}

static void expand(const LoraLinear *lora, const bf16 *b, int part, const bf16 *low, int low_width,
                   int rows, float *out) {
    int num_pairs = lora->num_pairs[part];
    low += lora->rank_start[part];
    for (; rows >= EXPAND_BLOCK; rows -= EXPAND_BLOCK) {
        expand_rows(b, num_pairs, low, low_width, EXPAND_BLOCK, out);
        low += EXPAND_BLOCK * low_width, out += EXPAND_BLOCK * TILE;
    }
    for (; rows >= 2; rows -= 2, low += 2 * low_width, out += 2 * TILE)
        expand_rows(b, num_pairs, low, low_width, 2, out);
    if (rows) expand_rows(b, num_pairs, low, low_width, 1, out);
}

/* B of a strip's tiles, for all adapters of the step. */
INLINE void add_expand_weights(Ahead *ahead, const Product *p, int tile, int tiles) {
    for (int end = tile + tiles; tile < end;) {
        int part = part_of(p->linear, tile), last = least(p->linear->part_end[part], end);
        for (int g = 0; g < p->num_groups; g++) {
            const LoraLinear *lora = adapter_of(p, p->groups + g);
            const bf16 *b = expand_weights(p->linear, lora, tile, part);
            int64_t bytes = (int64_t)lora->num_pairs[part] * LINE * (last - tile);
            if (b) add_all(ahead, b, bytes);
        }
        tile = last;
    }
}

INLINE void apply_adapters(const Product *p, int tile, int part, int first, int end, float *out) {
    for (int g = 0; g < p->num_groups; g++) {
        const LoraGroup *group = p->groups + g;
        int from = group->start > first ? group->start : first;
        int to = group->end < end ? group->end : end;
        if (from >= to) continue;
        const LoraLinear *lora = adapter_of(p, group);
        const bf16 *b = expand_weights(p->linear, lora, tile, part);
        const bf16 *low = p->low + (int64_t)(group->low + from - group->start) * p->low_width;
        float *rows = out + (from - first) * TILE;
        if (b) expand(lora, b, part, low, p->low_width, to - from, rows);
        if (lora->magnitude)
            for (int i = 0; i < to - from; i++)
                f_store(rows + i * TILE,
                        f_mul(f_load(rows + i * TILE), f_load(lora->magnitude + tile * TILE)));
    }
}

/* Rows first to end of one tile, of which out (rows, TILE) has the integers' sums: scale, adapters, bias,
 * and where the result goes. */
static void finish_tile(const Product *p, int tile, int first, int end, float *out) {
    const Linear *linear = p->linear;
    F16 bias = linear->bias ? f_load(linear->bias + tile * TILE) : f_zero();
    if (linear->scale) {
        F16 scale = f_load(linear->scale + tile * TILE);
        for (int i = 0; i < end - first; i++) f_store(out + i * TILE, f_mul(f_load(out + i * TILE), scale));
    }
    if (p->num_groups) apply_adapters(p, tile, part_of(linear, tile), first, end, out);
    for (int row = first; row < end; row++) {
        float *y = p->y + (int64_t)row * linear->n + tile * TILE;
        F16 value = f_add(f_load(out + (row - first) * TILE), bias);
        f_store(y, p->adds ? f_add(f_load(y), value) : value);
    }
}

/* Rows first to end of a strip's tiles. */
static void finish_strip(const Product *p, int tile, int tiles, int first_row, int end_row, Ahead *ahead) {
    float out[STRIP8 * MAX_ROWS * TILE] __attribute__((aligned(64)));
    for (int first = first_row; first < end_row; first += MAX_ROWS) {
        int end = least(first + MAX_ROWS, end_row);
        strip_product(p->linear, tile, tiles, p->x, first, end - first, out, ahead);
        for (int t = 0; t < tiles; t++) finish_tile(p, tile + t, first, end, out_of(out, 0, t));
    }
}

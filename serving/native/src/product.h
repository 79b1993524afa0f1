/* One linear layer of the base with its adapters: int8 product, shrink, expand, what follows. */
#pragma once

#include "ahead.h"

enum { ROW_BLOCK = 8, SHRINK_BLOCK = 4, EXPAND_BLOCK = 4, TILE_ROWS = 64 };

/* What a product does with its tiles. */
typedef struct {
    const Linear *linear;
    const LoraGroup *groups;
    int num_groups, layer, index; /* index: which of the layer's LINEARS */
    const Activations *x;
    bf16 *low; /* (entries, max_width): what shrink left for each row of each group */
    int max_width;
    float *y; /* (rows, n) */
    int adds; /* y += instead of y = */
} Product;

INLINE const LoraLinear *adapter_of(const Product *p, const LoraGroup *group) {
    return group->adapter + p->layer * LINEARS + p->index;
}

#define BLOCK_OF(rows)                                                                            \
    static void block_##rows(const uint8_t *w, const Activations *x, int row, const float *scale, \
                             float *out, const uint8_t *next, int lines, Ahead *ahead, int num) { \
        int num_groups = x->k / GROUP;                                                            \
        const int8_t *q = x->q + (int64_t)row * x->k;                                             \
        const float *s = x->scale + (int64_t)row * num_groups;                                    \
        const int32_t *o = x->offset + (int64_t)row * num_groups;                                 \
        F16 sum[rows];                                                                            \
        _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++) sum[i] = f_zero();                 \
        for (int g = 0; g < num_groups; g++) {                                                    \
            I16 whole[rows];                                                                      \
            for (int line = 0; line < lines; line++, next += LINE) fetch(next);                   \
            if (num) fetch_some(ahead, num);                                                      \
            _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++) whole[i] =                     \
                i_all(o[i * num_groups + g]);                                                     \
            _Pragma("GCC unroll 4") for (int step = 0; step < GROUP / 4; step++, w += 64)         \
                _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++) whole[i] =                 \
                    dot4(whole[i], w, q + (int64_t)i * x->k + g * GROUP + step * 4);              \
            _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++) sum[i] =                       \
                f_fma(f_of_int(whole[i]), f_all(s[i * num_groups + g]), sum[i]);                  \
        }                                                                                         \
        _Pragma("GCC unroll 8") for (int i = 0; i < rows; i++)                                    \
            f_store(out + i * TILE, f_mul(sum[i], f_load(scale)));                                \
    }
BLOCK_OF(1)
BLOCK_OF(2)
BLOCK_OF(3)
BLOCK_OF(4)
BLOCK_OF(5)
BLOCK_OF(6)
BLOCK_OF(7)
BLOCK_OF(8)

/* out (rows, TILE) = the int8 product of `rows` rows with one tile's weights. Meanwhile the next
 * tile's are fetched, a share with each block of rows: their first block would wait for memory. */
static void tile_product(const Linear *linear, int tile, const Activations *x, int row, int rows,
                         float *out, Ahead *ahead) {
    const uint8_t *w = linear->weight + (int64_t)tile * linear->k * TILE, *next = w + linear->k * TILE;
    const float *scale = linear->scale + tile * TILE;
    int num_blocks = (rows + ROW_BLOCK - 1) / ROW_BLOCK, lines = (GROUP / 4 + num_blocks - 1) / num_blocks;
    int num_groups = num_blocks * (linear->k / GROUP);
    int num = (ahead->num - ahead->at + num_groups - 1) / num_groups;
    for (; rows > 0; row += ROW_BLOCK, rows -= ROW_BLOCK, out += ROW_BLOCK * TILE) {
        switch (rows) {
        case 1: block_1(w, x, row, scale, out, next, lines, ahead, num); break;
        case 2: block_2(w, x, row, scale, out, next, lines, ahead, num); break;
        case 3: block_3(w, x, row, scale, out, next, lines, ahead, num); break;
        case 4: block_4(w, x, row, scale, out, next, lines, ahead, num); break;
        case 5: block_5(w, x, row, scale, out, next, lines, ahead, num); break;
        case 6: block_6(w, x, row, scale, out, next, lines, ahead, num); break;
        case 7: block_7(w, x, row, scale, out, next, lines, ahead, num); break;
        default: block_8(w, x, row, scale, out, next, lines, ahead, num);
        }
        next += (int64_t)lines * linear->k; /* lines of 64 bytes a group, k / 64 groups */
    }
}

/* low = x · A for up to SHRINK_BLOCK rows and 16 ranks; four interleaved sums a row. */
INLINE void shrink_block(const bf16 *a, const bf16 *x, int k, int rows, float scale, bf16 *low,
                         int max_width) {
    F16 sum[SHRINK_BLOCK][4];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 4; j++) sum[i][j] = f_zero();
    for (int at = 0; at < k; at += 8, a += 8 * TILE)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < 4; j++)
                sum[i][j] = dot2(sum[i][j], a + j * 2 * TILE, x + (int64_t)i * k + at + 2 * j);
    for (int i = 0; i < rows; i++) {
        F16 all = f_add(f_add(sum[i][0], sum[i][1]), f_add(sum[i][2], sum[i][3]));
        store_bf16(low + (int64_t)i * max_width, f_mul(all, f_all(scale)));
    }
}

/* The whole of one group's shrink: rows first to end, ranks rank to rank + 16. */
static void shrink(const Product *p, const LoraGroup *group, int first, int end, int rank) {
    const LoraLinear *lora = adapter_of(p, group);
    int k = p->linear->k;
    const bf16 *a = lora->a + (int64_t)rank * k;
    for (int row = first; row < end; row += SHRINK_BLOCK) {
        const bf16 *x = p->x->narrow + (int64_t)row * k;
        bf16 *low = p->low + (int64_t)(group->low + row - group->start) * p->max_width + rank;
        int rows = end - row < SHRINK_BLOCK ? end - row : SHRINK_BLOCK;
        switch (rows) {
        case 1: shrink_block(a, x, k, 1, group->scale, low, p->max_width); break;
        case 2: shrink_block(a, x, k, 2, group->scale, low, p->max_width); break;
        case 3: shrink_block(a, x, k, 3, group->scale, low, p->max_width); break;
        default: shrink_block(a, x, k, 4, group->scale, low, p->max_width);
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
INLINE void expand_rows(const bf16 *b, int num_pairs, const bf16 *low, int max_width, int rows,
                        float *out) {
    F16 even[EXPAND_BLOCK], odd[EXPAND_BLOCK];
    for (int i = 0; i < rows; i++) even[i] = f_load(out + i * TILE), odd[i] = f_zero();
    for (int j = 0; j < num_pairs; j += 2, b += 4 * TILE) {
        for (int i = 0; i < rows; i++) even[i] = dot2(even[i], b, low + i * max_width + 2 * j);
        if (j + 1 < num_pairs)
            for (int i = 0; i < rows; i++)
                odd[i] = dot2(odd[i], b + 2 * TILE, low + i * max_width + 2 * j + 2);
    }
    for (int i = 0; i < rows; i++) f_store(out + i * TILE, f_add(even[i], odd[i]));
}

static void expand(const LoraLinear *lora, const bf16 *b, int part, const bf16 *low, int max_width,
                   int rows, float *out) {
    int num_pairs = lora->num_pairs[part];
    low += lora->rank_start[part];
    for (; rows >= EXPAND_BLOCK; rows -= EXPAND_BLOCK) {
        expand_rows(b, num_pairs, low, max_width, EXPAND_BLOCK, out);
        low += EXPAND_BLOCK * max_width, out += EXPAND_BLOCK * TILE;
    }
    for (; rows >= 2; rows -= 2, low += 2 * max_width, out += 2 * TILE)
        expand_rows(b, num_pairs, low, max_width, 2, out);
    if (rows) expand_rows(b, num_pairs, low, max_width, 1, out);
}

/* B of a tile, for all adapters of the step. */
INLINE void add_expand_weights(Ahead *ahead, const Product *p, int tile) {
    int part = part_of(p->linear, tile);
    for (int g = 0; g < p->num_groups; g++) {
        const LoraLinear *lora = adapter_of(p, p->groups + g);
        const bf16 *b = expand_weights(p->linear, lora, tile, part);
        if (b) add_lines(ahead, b, (int64_t)lora->num_pairs[part] * LINE, 0, 1);
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
        const bf16 *low = p->low + (int64_t)(group->low + from - group->start) * p->max_width;
        float *rows = out + (from - first) * TILE;
        if (b) expand(lora, b, part, low, p->max_width, to - from, rows);
        if (lora->magnitude)
            for (int i = 0; i < to - from; i++)
                f_store(rows + i * TILE,
                        f_mul(f_load(rows + i * TILE), f_load(lora->magnitude + tile * TILE)));
    }
}

/* Rows first to end of one tile: base, adapters, bias, and where the result goes. */
static void finish_tile(const Product *p, int tile, int first_row, int end_row, Ahead *ahead) {
    const Linear *linear = p->linear;
    float out[TILE_ROWS * TILE] __attribute__((aligned(64)));
    int part = part_of(linear, tile);
    F16 bias = linear->bias ? f_load(linear->bias + tile * TILE) : f_zero();
    for (int first = first_row; first < end_row; first += TILE_ROWS) {
        int end = first + TILE_ROWS < end_row ? first + TILE_ROWS : end_row;
        tile_product(linear, tile, p->x, first, end - first, out, ahead);
        if (p->num_groups) apply_adapters(p, tile, part, first, end, out);
        for (int row = first; row < end; row++) {
            float *y = p->y + (int64_t)row * linear->n + tile * TILE;
            F16 value = f_add(f_load(out + (row - first) * TILE), bias);
            f_store(y, p->adds ? f_add(f_load(y), value) : value);
        }
    }
}

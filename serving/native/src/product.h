/* One linear layer of the base with its adapters: int8 product, shrink, expand, what follows. */
#pragma once

#include "pool.h"
#include "strip.h"

/* What a product does with its tiles. */
typedef struct {
    const Linear *linear;
    const LoraGroup *groups;
    int num_groups, layer, index; /* index: which of the layer's LINEARS */
    const Activations *x;
    Narrow *low; /* (entries, low_width): what shrink left for each row of each group */
    int low_width;
    float *y; /* (rows, n) */
    int adds; /* y += instead of y = */
    const _Atomic int *shrinks_done;
    int num_shrinks; /* must be done before an adapter is applied */
} Product;

INLINE const LoraLinear *adapter_of(const Product *p, const LoraGroup *group) {
    return group->adapter + p->layer * LINEARS + p->index;
}

/* low = x · A for up to SHRINK_BLOCK rows and `tiles` times 16 ranks; two interleaved sums each. */
INLINE void shrink_block(const bf16 *a, const Narrow *x, int k, int rows, int tiles, float scale,
                         Narrow *low, int low_width) {
    F16 sum[SHRINK_BLOCK][SHRINK_TILES][2];
    for (int i = 0; i < rows; i++)
        for (int t = 0; t < tiles; t++) sum[i][t][0] = sum[i][t][1] = f_zero();
    for (int at = 0; at < k; at += 4)
        for (int j = 0; j < 2; j++)
            for (int i = 0; i < rows; i++)
                for (int t = 0; t < tiles; t++)
                    sum[i][t][j] =
                        dot2(sum[i][t][j], a + (int64_t)t * k * TILE + (at + 2 * j) * TILE,
                             x + (int64_t)i * k + at + 2 * j);
    for (int i = 0; i < rows; i++)
        for (int t = 0; t < tiles; t++)
            store_narrow(low + (int64_t)i * low_width + t * TILE,
                         f_mul(f_add(sum[i][t][0], sum[i][t][1]), f_all(scale)));
}

/* The same for the rest ranks: a register has them for several pairs of k, whose sums are added up
 * at last. */
INLINE void shrink_rest(const bf16 *a, const Narrow *x, int k, int rows, int rest, float scale,
                        Narrow *low, int low_width) {
    int folds = TILE / rest;
    F16 sum[SHRINK_BLOCK][2];
    for (int i = 0; i < rows; i++) sum[i][0] = sum[i][1] = f_zero();
    for (int at = 0; at < k; at += 4 * folds)
        for (int j = 0; j < 2; j++)
            for (int i = 0; i < rows; i++)
                sum[i][j] = dot2_folded(sum[i][j], a + (at + 2 * j * folds) * rest,
                                        x + (int64_t)i * k + at + 2 * j * folds, rest);
    for (int i = 0; i < rows; i++) {
        float all[TILE];
        f_store(all, f_add(sum[i][0], sum[i][1]));
        for (int r = rest; r < TILE; r++) all[r % rest] += all[r], all[r] = 0;
        store_narrow(low + (int64_t)i * low_width, f_mul(f_load(all), f_all(scale)));
    }
}

/* Rows first to end of one group: `tiles` times 16 ranks from tile `tile` on, or with none the rest
 * ranks. */
INLINE void shrink_tiles(const Product *p, const LoraGroup *group, int first, int end, int tile,
                         int tiles) {
    const LoraLinear *lora = adapter_of(p, group);
    int k = p->linear->k, rest = lora->width % TILE;
    const bf16 *a = lora->a + (int64_t)tile * TILE * k;
    for (int row = first; row < end; row += SHRINK_BLOCK) {
        const Narrow *x = p->x->narrow + (int64_t)row * k;
        Narrow *low =
            p->low + (int64_t)(group->low + row - group->start) * p->low_width + tile * TILE;
        if (tiles) {
            DISPATCH(n, end - row, SHRINK_BLOCK,
                     shrink_block(a, x, k, n, tiles, group->scale, low, p->low_width));
        } else if (rest == 4) {
            DISPATCH(n, end - row, SHRINK_BLOCK,
                     shrink_rest(a, x, k, n, 4, group->scale, low, p->low_width));
        } else {
            DISPATCH(n, end - row, SHRINK_BLOCK,
                     shrink_rest(a, x, k, n, 8, group->scale, low, p->low_width));
        }
    }
}

/* The rest ranks count as a tile. */
INLINE int num_shrink_tiles(const LoraLinear *lora) { return (lora->width + TILE - 1) / TILE; }

static void shrink(const Product *p, const LoraGroup *group, int first, int end, int tile,
                   int tiles) {
    int last = tile + tiles, whole = least(last, adapter_of(p, group)->width / TILE);
    for (; tile < whole; tile += SHRINK_TILES) {
        DISPATCH(n, whole - tile, SHRINK_TILES, shrink_tiles(p, group, first, end, tile, n));
    }
    if (whole < last) shrink_tiles(p, group, first, end, whole, 0);
}

INLINE int part_of(const Linear *linear, int tile) {
    int part = 0;
    while (tile >= linear->part_end[part]) part++;
    return part;
}

/* The tile's piece of B for an adapter; null when the part is not adapted. */
INLINE const bf16 *expand_weights(const Linear *linear, const LoraLinear *lora, int tile,
                                  int part) {
    if (!lora->a || !lora->num_pairs[part]) return 0;
    int first = part ? linear->part_end[part - 1] : 0;
    return lora->b + lora->b_start[part] +
           (int64_t)(tile - first) * lora->num_pairs[part] * 2 * TILE;
}

/* out (tiles, MAX_ROWS, TILE) += low · B, two interleaved sums a row and tile. */
INLINE void expand_rows(const bf16 *b, int num_pairs, const Narrow *low, int low_width, int rows,
                        int tiles, float *out) {
    F16 even[EXPAND_BLOCK][STRIP8], odd[EXPAND_BLOCK][STRIP8];
    int64_t tile_size = (int64_t)num_pairs * 2 * TILE;
    for (int i = 0; i < rows; i++)
        for (int t = 0; t < tiles; t++)
            even[i][t] = f_load(out_of(out, i, t)), odd[i][t] = f_zero();
    for (int j = 0; j < num_pairs; j += 2, b += 4 * TILE) {
        for (int i = 0; i < rows; i++)
            for (int t = 0; t < tiles; t++)
                even[i][t] = dot2(even[i][t], b + t * tile_size, low + i * low_width + 2 * j);
        if (j + 1 < num_pairs)
            for (int i = 0; i < rows; i++)
                for (int t = 0; t < tiles; t++)
                    odd[i][t] = dot2(odd[i][t], b + t * tile_size + 2 * TILE,
                                     low + i * low_width + 2 * j + 2);
    }
    for (int i = 0; i < rows; i++)
        for (int t = 0; t < tiles; t++) f_store(out_of(out, i, t), f_add(even[i][t], odd[i][t]));
}

INLINE void expand_tiles(const LoraLinear *lora, const bf16 *b, int part, const Narrow *low,
                         int low_width, int rows, int tiles, float *out) {
    int num_pairs = lora->num_pairs[part];
    low += lora->rank_start[part];
    for (; rows >= EXPAND_BLOCK; rows -= EXPAND_BLOCK) {
        expand_rows(b, num_pairs, low, low_width, EXPAND_BLOCK, tiles, out);
        low += EXPAND_BLOCK * low_width, out += EXPAND_BLOCK * TILE;
    }
    for (; rows >= 2; rows -= 2, low += 2 * low_width, out += 2 * TILE)
        expand_rows(b, num_pairs, low, low_width, 2, tiles, out);
    if (rows) expand_rows(b, num_pairs, low, low_width, 1, tiles, out);
}

static void expand(const LoraLinear *lora, const bf16 *b, int part, const Narrow *low,
                   int low_width, int rows, int tiles, float *out) {
    DISPATCH(n, tiles, STRIP8, expand_tiles(lora, b, part, low, low_width, rows, n, out));
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

/* To rows first to end of some tiles of one part. */
INLINE void apply_adapters(const Product *p, int tile, int tiles, int part, int first, int end,
                           float *out) {
    for (int g = 0; g < p->num_groups; g++) {
        const LoraGroup *group = p->groups + g;
        int from = group->start > first ? group->start : first;
        int to = group->end < end ? group->end : end;
        if (from >= to) continue;
        const LoraLinear *lora = adapter_of(p, group);
        const bf16 *b = expand_weights(p->linear, lora, tile, part);
        const Narrow *low = p->low + (int64_t)(group->low + from - group->start) * p->low_width;
        float *rows = out_of(out, from - first, 0);
        if (b) expand(lora, b, part, low, p->low_width, to - from, tiles, rows);
        if (lora->magnitude)
            for (int t = 0; t < tiles; t++)
                for (int i = 0; i < to - from; i++) {
                    float *sum = out_of(rows, i, t);
                    f_store(sum, f_mul(f_load(sum), f_load(lora->magnitude + (tile + t) * TILE)));
                }
    }
}

INLINE void wait_for_shrinks(const Product *p) {
    while (atomic_load_explicit(p->shrinks_done, memory_order_acquire) != p->num_shrinks)
        pool_relax();
}

/* To rows first to end of a strip's tiles, part by part. */
INLINE void adapt_strip(const Product *p, int tile, int tiles, int first, int end, float *out) {
    wait_for_shrinks(p);
    for (int t = 0, same; t < tiles; t += same) {
        int part = part_of(p->linear, tile + t);
        same = least(p->linear->part_end[part] - tile, tiles) - t;
        apply_adapters(p, tile + t, same, part, first, end, out_of(out, 0, t));
    }
}

INLINE void scale_tile(const Linear *linear, int tile, int rows, float *out) {
    F16 scale = f_load(linear->scale + tile * TILE);
    for (int i = 0; i < rows; i++) f_store(out + i * TILE, f_mul(f_load(out + i * TILE), scale));
}

/* Bias, and where the result goes. */
INLINE void put_tile(const Product *p, int tile, int first, int end, const float *out) {
    const Linear *linear = p->linear;
    F16 bias = linear->bias ? f_load(linear->bias + tile * TILE) : f_zero();
    for (int row = first; row < end; row++) {
        float *y = p->y + (int64_t)row * linear->n + tile * TILE;
        F16 value = f_add(f_load(out + (row - first) * TILE), bias);
        f_store(y, p->adds ? f_add(f_load(y), value) : value);
    }
}

/* Rows first to end of a strip's tiles. */
static void finish_strip(const Product *p, int tile, int tiles, int first_row, int end_row,
                         Ahead *ahead) {
    float out[STRIP8 * MAX_ROWS * TILE] __attribute__((aligned(64)));
    const Linear *linear = p->linear;
    for (int first = first_row; first < end_row; first += MAX_ROWS) {
        int end = least(first + MAX_ROWS, end_row);
        strip_product(linear, tile, tiles, p->x, first, end - first, out, ahead);
        if (linear->scale)
            for (int t = 0; t < tiles; t++)
                scale_tile(linear, tile + t, end - first, out_of(out, 0, t));
        if (p->num_groups) adapt_strip(p, tile, tiles, first, end, out);
        for (int t = 0; t < tiles; t++) put_tile(p, tile + t, first, end, out_of(out, 0, t));
    }
}

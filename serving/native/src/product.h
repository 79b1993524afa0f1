/* One linear layer of the base with its adapters: int8 product, shrink, expand, what follows.
 *
 * Compiled once per instruction set. Needs strip.h, and SHRINK_BLOCK, SHRINK_TILES, EXPAND_BLOCK of
 * vectors.h. Provides Product, shrink, finish_strip, add_expand_weights, num_shrink_tiles, lora_of.
 */
#pragma once

#include "pool.h"
#include "strip.h"

/* What a product does with its tiles. */
typedef struct {
    const Linear *linear;
    const AdapterRows *adapters;
    int num_adapters, layer, index; /* index: which of the layer's LINEARS */
    const Activations *x;
    Narrow *shrunk; /* (entries, shrunk_stride): what shrink left for each row of each adapter */
    int shrunk_stride;
    float *y; /* (rows, n) */
    int adds; /* y += instead of y = */
    const _Atomic int *shrinks_done;
    int num_shrinks; /* must be done before an adapter is applied */
} Product;

INLINE const LoraLinear *lora_of(const Product *p, const AdapterRows *adapter) {
    return adapter->linears + p->layer * LINEARS + p->index;
}

/* shrunk = x · A for up to SHRINK_BLOCK rows and `tiles` times 16 ranks; two interleaved sums each.
 */
INLINE void shrink_block(const bf16 *a, const Narrow *x, int k, int rows, int tiles, float scale,
                         Narrow *shrunk, int shrunk_stride) {
    F16 sum[SHRINK_BLOCK][SHRINK_TILES][2];
    for (int i = 0; i < rows; i++)
        for (int t = 0; t < tiles; t++) sum[i][t][0] = sum[i][t][1] = f_zero();
    for (int at = 0; at < k; at += 4)
        for (int j = 0; j < 2; j++)
            for (int i = 0; i < rows; i++)
                for (int t = 0; t < tiles; t++)
                    sum[i][t][j] =
                        dot2(sum[i][t][j], a + (int64_t)t * k * TILE_N + (at + 2 * j) * TILE_N,
                             x + (int64_t)i * k + at + 2 * j);
    for (int i = 0; i < rows; i++)
        for (int t = 0; t < tiles; t++)
            store_narrow(shrunk + (int64_t)i * shrunk_stride + t * TILE_N,
                         f_mul(f_add(sum[i][t][0], sum[i][t][1]), f_all(scale)));
}

/* The same for the rest ranks: a register has them for several pairs of k, whose sums are added up
 * at last. */
INLINE void shrink_rest(const bf16 *a, const Narrow *x, int k, int rows, int rest, float scale,
                        Narrow *shrunk, int shrunk_stride) {
    int folds = TILE_N / rest;
    F16 sum[SHRINK_BLOCK][2];
    for (int i = 0; i < rows; i++) sum[i][0] = sum[i][1] = f_zero();
    for (int at = 0; at < k; at += 4 * folds)
        for (int j = 0; j < 2; j++)
            for (int i = 0; i < rows; i++)
                sum[i][j] = dot2_folded(sum[i][j], a + (at + 2 * j * folds) * rest,
                                        x + (int64_t)i * k + at + 2 * j * folds, rest);
    for (int i = 0; i < rows; i++) {
        float all[TILE_N];
        f_store(all, f_add(sum[i][0], sum[i][1]));
        for (int r = rest; r < TILE_N; r++) all[r % rest] += all[r], all[r] = 0;
        store_narrow(shrunk + (int64_t)i * shrunk_stride, f_mul(f_load(all), f_all(scale)));
    }
}

/* Rows first to end of one adapter: `tiles` times 16 ranks from tile `tile` on, or with none the
 * rest ranks. */
INLINE void shrink_tiles(const Product *p, const AdapterRows *adapter, int first, int end, int tile,
                         int tiles) {
    const LoraLinear *lora = lora_of(p, adapter);
    int k = p->linear->k, rest = lora->num_ranks % TILE_N;
    const bf16 *a = lora->a + (int64_t)tile * TILE_N * k;
    for (int row = first; row < end; row += SHRINK_BLOCK) {
        const Narrow *x = p->x->narrow + (int64_t)row * k;
        Narrow *shrunk = p->shrunk +
                         (int64_t)(adapter->first_entry + row - adapter->start) * p->shrunk_stride +
                         tile * TILE_N;
        if (tiles) {
            DISPATCH(n, end - row, SHRINK_BLOCK,
                     shrink_block(a, x, k, n, tiles, adapter->scale, shrunk, p->shrunk_stride));
        } else if (rest == 4) {
            DISPATCH(n, end - row, SHRINK_BLOCK,
                     shrink_rest(a, x, k, n, 4, adapter->scale, shrunk, p->shrunk_stride));
        } else {
            DISPATCH(n, end - row, SHRINK_BLOCK,
                     shrink_rest(a, x, k, n, 8, adapter->scale, shrunk, p->shrunk_stride));
        }
    }
}

/* The rest ranks count as a tile. */
INLINE int num_shrink_tiles(const LoraLinear *lora) {
    return (lora->num_ranks + TILE_N - 1) / TILE_N;
}

static void shrink(const Product *p, const AdapterRows *adapter, int first, int end, int tile,
                   int tiles) {
    int last = tile + tiles, whole = min_int(last, lora_of(p, adapter)->num_ranks / TILE_N);
    for (; tile < whole; tile += SHRINK_TILES) {
        DISPATCH(n, whole - tile, SHRINK_TILES, shrink_tiles(p, adapter, first, end, tile, n));
    }
    if (whole < last) shrink_tiles(p, adapter, first, end, whole, 0);
}

INLINE int part_of(const Linear *linear, int tile) {
    int part = 0;
    while (tile >= linear->part_end[part]) part++;
    return part;
}

/* An adapter's B for one tile; null when the part is not adapted. */
INLINE const bf16 *expand_weights(const Linear *linear, const LoraLinear *lora, int tile,
                                  int part) {
    if (!lora->a || !lora->num_pairs[part]) return 0;
    int first = part ? linear->part_end[part - 1] : 0;
    return lora->b + lora->b_start[part] +
           (int64_t)(tile - first) * lora->num_pairs[part] * 2 * TILE_N;
}

/* out (tiles, STRIP_ROWS, TILE_N) += shrunk · B, two interleaved sums a row and tile. */
INLINE void expand_rows(const bf16 *b, int num_pairs, const Narrow *shrunk, int shrunk_stride,
                        int rows, int tiles, float *out) {
    F16 even[EXPAND_BLOCK][STRIP8], odd[EXPAND_BLOCK][STRIP8];
    int64_t tile_size = (int64_t)num_pairs * 2 * TILE_N;
    for (int i = 0; i < rows; i++)
        for (int t = 0; t < tiles; t++)
            even[i][t] = f_load(out_of(out, i, t)), odd[i][t] = f_zero();
    for (int j = 0; j < num_pairs; j += 2, b += 4 * TILE_N) {
        for (int i = 0; i < rows; i++)
            for (int t = 0; t < tiles; t++)
                even[i][t] =
                    dot2(even[i][t], b + t * tile_size, shrunk + i * shrunk_stride + 2 * j);
        if (j + 1 < num_pairs)
            for (int i = 0; i < rows; i++)
                for (int t = 0; t < tiles; t++)
                    odd[i][t] = dot2(odd[i][t], b + t * tile_size + 2 * TILE_N,
                                     shrunk + i * shrunk_stride + 2 * j + 2);
    }
    for (int i = 0; i < rows; i++)
        for (int t = 0; t < tiles; t++) f_store(out_of(out, i, t), f_add(even[i][t], odd[i][t]));
}

INLINE void expand_tiles(const LoraLinear *lora, const bf16 *b, int part, const Narrow *shrunk,
                         int shrunk_stride, int rows, int tiles, float *out) {
    int num_pairs = lora->num_pairs[part];
    shrunk += lora->rank_start[part];
    for (; rows >= EXPAND_BLOCK; rows -= EXPAND_BLOCK) {
        expand_rows(b, num_pairs, shrunk, shrunk_stride, EXPAND_BLOCK, tiles, out);
        shrunk += EXPAND_BLOCK * shrunk_stride, out += EXPAND_BLOCK * TILE_N;
    }
    for (; rows >= 2; rows -= 2, shrunk += 2 * shrunk_stride, out += 2 * TILE_N)
        expand_rows(b, num_pairs, shrunk, shrunk_stride, 2, tiles, out);
    if (rows) expand_rows(b, num_pairs, shrunk, shrunk_stride, 1, tiles, out);
}

static void expand(const LoraLinear *lora, const bf16 *b, int part, const Narrow *shrunk,
                   int shrunk_stride, int rows, int tiles, float *out) {
    DISPATCH(n, tiles, STRIP8, expand_tiles(lora, b, part, shrunk, shrunk_stride, rows, n, out));
}

/* B of a strip's tiles, for all adapters of the step. */
INLINE void add_expand_weights(PrefetchList *prefetches, const Product *p, int tile, int tiles) {
    for (int end = tile + tiles; tile < end;) {
        int part = part_of(p->linear, tile), last = min_int(p->linear->part_end[part], end);
        for (int g = 0; g < p->num_adapters; g++) {
            const LoraLinear *lora = lora_of(p, p->adapters + g);
            const bf16 *b = expand_weights(p->linear, lora, tile, part);
            int64_t bytes = (int64_t)lora->num_pairs[part] * LINE * (last - tile);
            if (b) add_range(prefetches, b, bytes);
        }
        tile = last;
    }
}

/* To rows first to end of some tiles of one part. */
INLINE void apply_adapters(const Product *p, int tile, int tiles, int part, int first, int end,
                           float *out) {
    for (int g = 0; g < p->num_adapters; g++) {
        const AdapterRows *adapter = p->adapters + g;
        int from = adapter->start > first ? adapter->start : first;
        int to = adapter->end < end ? adapter->end : end;
        if (from >= to) continue;
        const LoraLinear *lora = lora_of(p, adapter);
        const bf16 *b = expand_weights(p->linear, lora, tile, part);
        const Narrow *shrunk =
            p->shrunk + (int64_t)(adapter->first_entry + from - adapter->start) * p->shrunk_stride;
        float *rows = out_of(out, from - first, 0);
        if (b) expand(lora, b, part, shrunk, p->shrunk_stride, to - from, tiles, rows);
        if (lora->magnitude)
            for (int t = 0; t < tiles; t++)
                for (int i = 0; i < to - from; i++) {
                    float *sum = out_of(rows, i, t);
                    f_store(sum, f_mul(f_load(sum), f_load(lora->magnitude + (tile + t) * TILE_N)));
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
        same = min_int(p->linear->part_end[part] - tile, tiles) - t;
        apply_adapters(p, tile + t, same, part, first, end, out_of(out, 0, t));
    }
}

INLINE void scale_tile(const Linear *linear, int tile, int rows, float *out) {
    F16 scale = f_load(linear->scale + tile * TILE_N);
    for (int i = 0; i < rows; i++)
        f_store(out + i * TILE_N, f_mul(f_load(out + i * TILE_N), scale));
}

/* Bias, and where the result goes. */
INLINE void put_tile(const Product *p, int tile, int first, int end, const float *out) {
    const Linear *linear = p->linear;
    F16 bias = linear->bias ? f_load(linear->bias + tile * TILE_N) : f_zero();
    for (int row = first; row < end; row++) {
        float *y = p->y + (int64_t)row * linear->n + tile * TILE_N;
        F16 value = f_add(f_load(out + (row - first) * TILE_N), bias);
        f_store(y, p->adds ? f_add(f_load(y), value) : value);
    }
}

/* Rows first to end of a strip's tiles. */
static void finish_strip(const Product *p, int tile, int tiles, int first_row, int end_row,
                         PrefetchList *prefetches) {
    float out[STRIP8 * STRIP_ROWS * TILE_N] __attribute__((aligned(64)));
    const Linear *linear = p->linear;
    for (int first = first_row; first < end_row; first += STRIP_ROWS) {
        int end = min_int(first + STRIP_ROWS, end_row);
        strip_product(linear, tile, tiles, p->x, first, end - first, out, prefetches);
        if (linear->scale)
            for (int t = 0; t < tiles; t++)
                scale_tile(linear, tile + t, end - first, out_of(out, 0, t));
        if (p->num_adapters) adapt_strip(p, tile, tiles, first, end, out);
        for (int t = 0; t < tiles; t++) put_tile(p, tile + t, first, end, out_of(out, 0, t));
    }
}

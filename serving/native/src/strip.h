/* The products of some rows with a strip, which is some tiles of a base's weights side by side.
 *
 * Compiled once per instruction set. Needs vectors.h; USE_AVX2 without USE_AVX_VNNI chooses
 * blocks_avx2.h, USE_AMX adds tile registers. Provides strip_product, tile_bytes, tiles_from. */
#pragma once

#if defined(USE_AVX2) && !defined(USE_AVX_VNNI)
#include "blocks_avx2.h"
#else
#include "blocks_dot.h"
#endif

/* A strip's weights of a slice of GROUPS_PER_SLICE groups stay in the core's nearest cache while
 * all rows use them. */
enum { GROUPS_PER_SLICE = 9, MATRIX_ROWS = 16, MIN_MATRIX_ROWS = 4 };

INLINE int64_t tile_bytes(const Linear *linear) {
    return linear->k / GROUP * (linear->bits == 4 ? 2 * HALF_GROUP_BYTES : GROUP * TILE_N);
}

/* As many tiles as registers hold. */
INLINE int whole_strip(const Linear *linear) { return linear->bits == 4 ? STRIP4 : STRIP8; }

/* The tiles of the strip from `tile` on: a whole one, or one tile. */
INLINE int tiles_from(const Linear *linear, int tile, int end) {
    int most = HAS_MATRIX && linear->bits == 8 ? 1 : whole_strip(linear);
    return tile + most <= end ? most : 1;
}

#ifdef USE_AMX
/* As block8 of one tile and all groups, up to MATRIX_ROWS rows: the same sums of integers, added up
 * in the same order. Rows behind the last are computed and left out; `q` has room for them. */
INLINE void matrix_block8(const uint8_t *w, const Activations *x, int row, int rows, float *out,
                          PrefetchList *prefetches, int lines) {
    int64_t num_groups = x->k / GROUP, at = row * num_groups;
    const int8_t *q = x->q + (int64_t)row * x->k;
    F16 sum[MATRIX_ROWS];
    for (int i = 0; i < rows; i++) sum[i] = f_zero();
    for (int g = 0; g < num_groups; g++, w += GROUP * TILE_N) {
        int32_t whole[MATRIX_ROWS * TILE_N] __attribute__((aligned(64)));
        issue_prefetches(prefetches, lines);
        matrix_product(whole, q + g * GROUP, x->k, w);
        for (int i = 0; i < rows; i++) {
            I16 exact =
                i_add(i_load(whole + i * TILE_N), i_all(x->offset[at + i * num_groups + g]));
            sum[i] = f_fma(f_of_int(exact), f_all(x->scale[at + i * num_groups + g]), sum[i]);
        }
    }
    for (int i = 0; i < rows; i++) f_store(out + i * TILE_N, sum[i]);
}

/* As many rows as tile registers compute faster than vectors; gives how many. */
INLINE int matrix_rows(const Linear *linear, const uint8_t *w, const Activations *x, int row,
                       int rows, float *out, PrefetchList *prefetches, int lines) {
    if (linear->bits != 8) return 0;
    int done = 0;
    for (; rows - done >= MIN_MATRIX_ROWS; done += MATRIX_ROWS)
        matrix_block8(w, x, row + done, min_int(rows - done, MATRIX_ROWS), out + done * TILE_N,
                      prefetches, lines);
    return min_int(done, rows);
}
#else
INLINE int matrix_rows(const Linear *linear, const uint8_t *w, const Activations *x, int row,
                       int rows, float *out, PrefetchList *prefetches, int lines) {
    (void)linear, (void)w, (void)x, (void)row, (void)rows, (void)out, (void)prefetches, (void)lines;
    return 0;
}
#endif

INLINE void load_sums(F16 sum[ROW_BLOCK][STRIP8], float *out, int rows, int tiles) {
    for (int i = 0; i < rows; i++)
        for (int t = 0; t < tiles; t++) sum[i][t] = f_load(out_of(out, i, t));
}

INLINE void store_sums(F16 sum[ROW_BLOCK][STRIP8], float *out, int rows, int tiles) {
    for (int i = 0; i < rows; i++)
        for (int t = 0; t < tiles; t++) f_store(out_of(out, i, t), sum[i][t]);
}

/* Adds groups first to end of the products of some rows with some tiles: all three numbers that say
 * how much are constants where it is called. */
INLINE void add_groups(int bits, const uint8_t *w, int64_t tile_bytes, const Activations *x,
                       int row, int rows, int tiles, int first, int end, float *out,
                       PrefetchList *prefetches, int lines) {
    F16 sum[ROW_BLOCK][STRIP8];
    load_sums(sum, out, rows, tiles);
    for (int g = first; g < end; g++) {
        issue_prefetches(prefetches, lines);
        if (bits == 4)
            block4(w + (int64_t)g * 2 * HALF_GROUP_BYTES, tile_bytes, x, row, rows, tiles, g, sum);
        else block8(w + (int64_t)g * GROUP * TILE_N, tile_bytes, x, row, rows, tiles, g, sum);
    }
    store_sums(sum, out, rows, tiles);
}

/* The same for at most ROW_BLOCK rows with a whole strip, or one tile. */
INLINE void block_groups(const Linear *linear, const uint8_t *w, int tiles, const Activations *x,
                         int row, int rows, int first, int end, float *out,
                         PrefetchList *prefetches, int lines) {
    int64_t bytes = tile_bytes(linear);
    int is_whole = tiles == whole_strip(linear);
    if (linear->bits == 4 && is_whole) {
        DISPATCH(n, rows, ROW_BLOCK,
                 add_groups(4, w, bytes, x, row, n, STRIP4, first, end, out, prefetches, lines));
    } else if (linear->bits == 4) {
        DISPATCH(n, rows, ROW_BLOCK,
                 add_groups(4, w, bytes, x, row, n, 1, first, end, out, prefetches, lines));
    } else if (is_whole) {
        DISPATCH(n, rows, ROW_BLOCK,
                 add_groups(8, w, bytes, x, row, n, STRIP8, first, end, out, prefetches, lines));
    } else {
        DISPATCH(n, rows, ROW_BLOCK,
                 add_groups(8, w, bytes, x, row, n, 1, first, end, out, prefetches, lines));
    }
}

/* out (tiles, STRIP_ROWS, TILE_N) = the products of `rows` rows with the `tiles` tiles from `tile`
 * on, but for the scales of weights of 8 bits. */
static void strip_product(const Linear *linear, int tile, int tiles, const Activations *x, int row,
                          int rows, float *out, PrefetchList *prefetches) {
    const uint8_t *w = linear->weight + tile * tile_bytes(linear);
    int num_groups = linear->k / GROUP;
    int block = HAS_MATRIX && linear->bits == 8 ? MATRIX_ROWS : ROW_BLOCK;
    int num_visits = (rows + block - 1) / block * num_groups;
    int lines = (int)((prefetches->lines + num_visits - 1) / num_visits);
    int done = matrix_rows(linear, w, x, row, rows, out, prefetches, lines);
    if (done == rows) return;
    row += done, rows -= done, out += done * TILE_N;
    for (int t = 0; t < tiles; t++)
        memset(out_of(out, 0, t), 0, (size_t)rows * TILE_N * sizeof(float));
    int num_slices = (num_groups + GROUPS_PER_SLICE - 1) / GROUPS_PER_SLICE;
    for (int slice = 0; slice < num_slices; slice++) {
        int first = num_groups * slice / num_slices, end = num_groups * (slice + 1) / num_slices;
        for (int i = 0; i < rows; i += ROW_BLOCK)
            block_groups(linear, w, tiles, x, row + i, min_int(rows - i, ROW_BLOCK), first, end,
                         out_of(out, i, 0), prefetches, lines);
    }
}

/* The products of some rows with a strip, which is some tiles of a base's weights side by side. */
#pragma once

#if defined(USE_AVX2) && !defined(USE_AVX_VNNI)
#include "blocks_avx2.h"
#else
#include "blocks_dot.h"
#endif

/* A strip's weights of PANEL_GROUPS groups stay in the core's nearest cache while all rows use
 * them. */
enum { PANEL_GROUPS = 9, MATRIX_ROWS = 16, LEAST_MATRIX_ROWS = 4 };

INLINE int64_t tile_bytes(const Linear *linear) {
    return linear->k / GROUP * (linear->bits == 4 ? 2 * HALF_BYTES4 : GROUP * TILE);
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
                          Ahead *ahead, int lines) {
    int64_t num_groups = x->k / GROUP, at = row * num_groups;
    const int8_t *q = x->q + (int64_t)row * x->k;
    F16 sum[MATRIX_ROWS];
    for (int i = 0; i < rows; i++) sum[i] = f_zero();
    for (int g = 0; g < num_groups; g++, w += GROUP * TILE) {
        int32_t whole[MATRIX_ROWS * TILE] __attribute__((aligned(64)));
        fetch_some(ahead, lines);
        matrix_product(whole, q + g * GROUP, x->k, w);
        for (int i = 0; i < rows; i++) {
            I16 exact = i_add(i_load(whole + i * TILE), i_all(x->offset[at + i * num_groups + g]));
            sum[i] = f_fma(f_of_int(exact), f_all(x->scale[at + i * num_groups + g]), sum[i]);
        }
    }
    for (int i = 0; i < rows; i++) f_store(out + i * TILE, sum[i]);
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

/* Adds groups first to end of the products of at most ROW_BLOCK rows. */
INLINE void block_groups(const Linear *linear, const uint8_t *w, int tiles, const Activations *x,
                         int row, int rows, int first, int end, float *out, Ahead *ahead,
                         int lines) {
    int64_t bytes = tile_bytes(linear);
#define GROUPS(block, group_bytes, rows, tiles)                                                    \
    {                                                                                              \
        F16 sum[ROW_BLOCK][STRIP8];                                                                \
        load_sums(sum, out, rows, tiles);                                                          \
        for (int g = first; g < end; g++) {                                                        \
            fetch_some(ahead, lines);                                                              \
            block(w + (int64_t)g * (group_bytes), bytes, x, row, rows, tiles, g, sum);             \
        }                                                                                          \
        store_sums(sum, out, rows, tiles);                                                         \
    }
    if (linear->bits == 4) {
#define CALL(rows) GROUPS(block4, 2 * HALF_BYTES4, rows, STRIP4)
        if (tiles == whole_strip(linear)) FOR_COUNT(rows, ROW_BLOCK, CALL)
#undef CALL
#define CALL(rows) GROUPS(block4, 2 * HALF_BYTES4, rows, 1)
        else FOR_COUNT(rows, ROW_BLOCK, CALL)
#undef CALL
    } else {
#define CALL(rows) GROUPS(block8, GROUP *TILE, rows, STRIP8)
        if (tiles == whole_strip(linear)) FOR_COUNT(rows, ROW_BLOCK, CALL)
#undef CALL
#define CALL(rows) GROUPS(block8, GROUP *TILE, rows, 1)
        else FOR_COUNT(rows, ROW_BLOCK, CALL)
#undef CALL
    }
#undef GROUPS
}

/* out (tiles, MAX_ROWS, TILE) = the products of `rows` rows with the `tiles` tiles from `tile` on,
 * but for the scales of weights of 8 bits. */
static void strip_product(const Linear *linear, int tile, int tiles, const Activations *x, int row,
                          int rows, float *out, Ahead *ahead) {
    const uint8_t *w = linear->weight + tile * tile_bytes(linear);
    int num_groups = linear->k / GROUP;
    int block = HAS_MATRIX && linear->bits == 8 ? MATRIX_ROWS : ROW_BLOCK;
    int num_visits = (rows + block - 1) / block * num_groups;
    int lines = (int)((ahead->lines + num_visits - 1) / num_visits);
#ifdef USE_AMX
    if (linear->bits == 8)
        for (; rows >= LEAST_MATRIX_ROWS;
             row += MATRIX_ROWS, rows -= MATRIX_ROWS, out += MATRIX_ROWS * TILE)
            matrix_block8(w, x, row, least(rows, MATRIX_ROWS), out, ahead, lines);
    if (rows <= 0) return;
#endif
    for (int t = 0; t < tiles; t++)
        memset(out_of(out, 0, t), 0, (size_t)rows * TILE * sizeof(float));
    int num_panels = (num_groups + PANEL_GROUPS - 1) / PANEL_GROUPS;
    for (int panel = 0; panel < num_panels; panel++) {
        int first = num_groups * panel / num_panels, end = num_groups * (panel + 1) / num_panels;
        for (int i = 0; i < rows; i += ROW_BLOCK)
            block_groups(linear, w, tiles, x, row + i, least(rows - i, ROW_BLOCK), first, end,
                         out_of(out, i, 0), ahead, lines);
    }
}

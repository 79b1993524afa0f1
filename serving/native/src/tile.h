/* The product of some rows with one tile of a base's weights. */
#pragma once

#ifdef USE_AVX2
#include "blocks_avx2.h"
#else
#include "blocks_dot.h"
#endif

enum { MATRIX_ROWS = 16, LEAST_MATRIX_ROWS = 4 };

#ifdef USE_AMX
/* As block8, up to MATRIX_ROWS rows: the same sums of integers, added up in the same order. Rows behind
 * the last are computed and left out; `q` has room for them. */
INLINE void matrix_block8(Stream *from, const Activations *x, int row, int rows, const float *scale,
                          float *out) {
    BlockRows of = rows_from(x, row);
    const uint8_t *w = from->weight;
    F16 sum[MATRIX_ROWS];
    for (int i = 0; i < rows; i++) sum[i] = f_zero();
    for (int g = 0; g < of.num_groups; g++, w += GROUP * TILE) {
        int32_t whole[MATRIX_ROWS * TILE] __attribute__((aligned(64)));
        fetch_group(from);
        matrix_product(whole, of.q + g * GROUP, x->k, w);
        for (int i = 0; i < rows; i++) {
            I16 exact = i_add(i_load(whole + i * TILE), i_all(of.offset[i * of.num_groups + g]));
            sum[i] = f_fma(f_of_int(exact), f_all(of.scale[i * of.num_groups + g]), sum[i]);
        }
    }
    for (int i = 0; i < rows; i++) f_store(out + i * TILE, f_mul(sum[i], f_load(scale)));
}
#endif

/* out (rows, TILE) = the product of `rows` rows with one tile's weights. */
static void tile_product(const Linear *linear, int tile, const Activations *x, int row, int rows,
                         float *out, Ahead *ahead) {
    int lines = linear->bits == 4 ? LINES4 : LINES8, num_groups = linear->k / GROUP;
    int64_t bytes = (int64_t)lines * LINE * num_groups;
    int block = HAS_MATRIX && linear->bits == 8 ? MATRIX_ROWS : ROW_BLOCK;
    int num_blocks = (rows + block - 1) / block, num_visits = num_blocks * num_groups;
    Stream from;
    from.weight = linear->weight + tile * bytes;
    from.next = from.weight + bytes;
    from.ahead = ahead;
    from.lines = (lines + num_blocks - 1) / num_blocks;
    from.lines_ahead = (ahead->num - ahead->at + num_visits - 1) / num_visits;
    const float *scale = linear->scale + tile * TILE;
    for (; rows > 0; row += block, rows -= block, out += block * TILE) {
        if (linear->bits == 4) {
#define CALL(n) block4(&from, x, row, n, out)
            FOR_EACH_COUNT(rows, CALL)
#undef CALL
            continue;
        }
#ifdef USE_AMX
        if (rows >= MATRIX_ROWS) {
            matrix_block8(&from, x, row, MATRIX_ROWS, scale, out);
            continue;
        }
        if (rows >= LEAST_MATRIX_ROWS) {
            matrix_block8(&from, x, row, rows, scale, out);
            continue;
        }
#endif
#define CALL(n) block8(&from, x, row, n, scale, out)
        FOR_EACH_COUNT(rows, CALL)
#undef CALL
    }
}

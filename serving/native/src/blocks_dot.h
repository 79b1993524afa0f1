/* The products of a block of rows with the tiles of a strip, where sums of four products are one
 * instruction. Each four activations are loaded once for all tiles, and each tile's weights once
 * for all rows.
 *
 * Compiled once per instruction set, by strip.h but for AVX2 without AVX-VNNI. Needs dot4,
 * ROW_BLOCK, STRIP8, STRIP4 and UNROLLED of vectors.h. Provides block8 and block4: to the sums of
 * `rows` rows and `tiles` tiles they add the products of group `g`, with weights of 8 and 4 bits.
 */
#pragma once

#include "prefetch.h"

INLINE void block8(const uint8_t *w, int64_t tile_bytes, const Activations *x, int row, int rows,
                   int tiles, int g, F16 sum[ROW_BLOCK][STRIP8]) {
    const int8_t *q = x->q + (int64_t)row * x->k + g * GROUP;
    int64_t num_groups = x->k / GROUP, at = row * num_groups + g;
    I16 whole[ROW_BLOCK][STRIP8];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        I16 offset = i_all(x->offset[at + i * num_groups]);
#pragma GCC unroll 3
        for (int t = 0; t < tiles; t++) whole[i][t] = offset;
    }
#pragma GCC unroll UNROLLED
    for (int step = 0; step < GROUP / 4; step++) {
        B64 weights[STRIP8];
#pragma GCC unroll 3
        for (int t = 0; t < tiles; t++) weights[t] = b_load(w + t * tile_bytes + step * 64);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            Fours fours = fours_of(q + (int64_t)i * x->k + step * 4);
#pragma GCC unroll 3
            for (int t = 0; t < tiles; t++) whole[i][t] = dot4(whole[i][t], weights[t], fours);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
        F16 scale = f_all(x->scale[at + i * num_groups]);
#pragma GCC unroll 3
        for (int t = 0; t < tiles; t++) sum[i][t] = f_fma(f_of_int(whole[i][t]), scale, sum[i][t]);
    }
}

INLINE void block4(const uint8_t *w, int64_t tile_bytes, const Activations *x, int row, int rows,
                   int tiles, int g, F16 sum[ROW_BLOCK][STRIP8]) {
    int64_t num_groups = x->k / GROUP, at = row * num_groups + g;
    for (int half = 0; half < 2; half++, w += HALF_GROUP_BYTES) {
        const int8_t *q = x->q + (int64_t)row * x->k + g * GROUP + half * HALF_GROUP;
        I16 whole[ROW_BLOCK][STRIP4];
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
            for (int t = 0; t < tiles; t++) whole[i][t] = i_all(0);
#pragma GCC unroll UNROLLED
        for (int step = 0; step < HALF_GROUP / 8; step++) {
            B64 low[STRIP4], high[STRIP4];
#pragma GCC unroll 2
            for (int t = 0; t < tiles; t++) {
                B64 both = b_load(w + t * tile_bytes + LINE + step * 64);
                low[t] = b_low(both), high[t] = b_high(both);
            }
#pragma GCC unroll 8
            for (int i = 0; i < rows; i++) {
                const int8_t *eight = q + (int64_t)i * x->k + step * 8;
                Fours first = fours_of(eight), second = fours_of(eight + 4);
#pragma GCC unroll 2
                for (int t = 0; t < tiles; t++)
                    whole[i][t] = dot4(dot4(whole[i][t], low[t], first), high[t], second);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            F16 scale = f_all(x->scale[at + i * num_groups]);
            F16 all = f_all(x->sum[2 * (at + i * num_groups) + half]);
#pragma GCC unroll 2
            for (int t = 0; t < tiles; t++) {
                const bf16 *weight_scale = (const bf16 *)(w + t * tile_bytes);
                F16 scaled = f_mul(f_of_int(whole[i][t]), scale);
                F16 with_scale = f_fma(scaled, load_bf16(weight_scale), sum[i][t]);
                sum[i][t] = f_fma(all, load_bf16(weight_scale + TILE_N), with_scale);
            }
        }
    }
}

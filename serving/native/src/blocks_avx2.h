/* The products of a block of rows with a tile in 256-bit registers, which have no sums of four
 * products that are exact for weights of 8 bits: the sums of integers are the same, made of int16.
 *
 * Compiled once per instruction set, by strip.h for AVX2 without AVX-VNNI. Needs vectors_avx2.h and
 * ROW_BLOCK. Provides block8 and block4, with the arithmetic of blocks_dot.h; `tiles` is always 1.
 */
#pragma once

#include "prefetch.h"

/* A group's activations as pairs of int16: of every four the first and third, and the second and
 * fourth. */
typedef struct {
    int32_t even[GROUP / 4], odd[GROUP / 4];
} Pairs;

INLINE void spread(Pairs *to, const int8_t *q) {
    for (int i = 0; i < 2; i++) {
        __m256i bytes = load8(q + 32 * i);
        __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
        _mm256_storeu_si256((__m256i *)(to->even + 8 * i), even);
        _mm256_storeu_si256((__m256i *)(to->odd + 8 * i), _mm256_srai_epi16(bytes, 8));
    }
}

/* Keeps the compiler from adding products up first, for which it has no registers. */
INLINE __m256i as_is(__m256i x) {
    asm("" : "+x"(x));
    return x;
}

INLINE __m256i add_pairs(__m256i acc, __m256i weights, __m256i pair) {
    return as_is(_mm256_add_epi32(acc, _mm256_madd_epi16(weights, pair)));
}

INLINE void block8(const uint8_t *w, int64_t tile_bytes, const Activations *x, int row, int rows,
                   int tiles, int g, F16 sum[ROW_BLOCK][STRIP8]) {
    (void)tile_bytes, (void)tiles;
    int64_t num_groups = x->k / GROUP, at = row * num_groups + g;
    const __m256i byte = _mm256_set1_epi16(0xff);
    Pairs pairs[ROW_BLOCK];
    I16 whole[ROW_BLOCK];
    for (int i = 0; i < rows; i++) {
        spread(pairs + i, x->q + (int64_t)(row + i) * x->k + g * GROUP);
        whole[i].low = whole[i].high = _mm256_set1_epi32(x->offset[at + i * num_groups]);
    }
#pragma GCC unroll 1
    for (int step = 0; step < GROUP / 4; step++, w += 64) {
        __m256i low = load8(w), high = load8(w + 32);
        __m256i low_even = _mm256_and_si256(low, byte), low_odd = _mm256_srli_epi16(low, 8);
        __m256i high_even = _mm256_and_si256(high, byte), high_odd = _mm256_srli_epi16(high, 8);
        for (int i = 0; i < rows; i++) {
            __m256i even = _mm256_set1_epi32(pairs[i].even[step]);
            __m256i odd = _mm256_set1_epi32(pairs[i].odd[step]);
            whole[i].low = add_pairs(whole[i].low, low_even, even);
            whole[i].high = add_pairs(whole[i].high, high_even, even);
            whole[i].low = add_pairs(whole[i].low, low_odd, odd);
            whole[i].high = add_pairs(whole[i].high, high_odd, odd);
        }
    }
    for (int i = 0; i < rows; i++) {
        F16 scale = f_all(x->scale[at + i * num_groups]);
        sum[i][0] = f_fma(f_of_int(whole[i]), scale, sum[i][0]);
    }
}

/* Of weights of 4 bits the sum over a half group stays below 2^15: 8 times 2 * 15 * 127. */
INLINE __m256i dot_small(__m256i acc, __m256i weights, __m256i x) {
    return as_is(_mm256_add_epi16(acc, _mm256_maddubs_epi16(weights, x)));
}

INLINE void block4(const uint8_t *w, int64_t tile_bytes, const Activations *x, int row, int rows,
                   int tiles, int g, F16 sum[ROW_BLOCK][STRIP8]) {
    (void)tile_bytes, (void)tiles;
    int64_t num_groups = x->k / GROUP, at = row * num_groups + g;
    const __m256i fifteen = _mm256_set1_epi8(15), one = _mm256_set1_epi16(1);
    for (int half = 0; half < 2; half++) {
        I16 small[ROW_BLOCK];
        const bf16 *weight_scale = (const bf16 *)w;
        w += 64;
        for (int i = 0; i < rows; i++) small[i].low = small[i].high = _mm256_setzero_si256();
#pragma GCC unroll 1
        for (int at = 0; at < HALF_GROUP; at += 8, w += 64) {
            __m256i low = load8(w), high = load8(w + 32);
            __m256i low_first = _mm256_and_si256(low, fifteen);
            __m256i high_first = _mm256_and_si256(high, fifteen);
            __m256i low_second = _mm256_and_si256(_mm256_srli_epi16(low, 4), fifteen);
            __m256i high_second = _mm256_and_si256(_mm256_srli_epi16(high, 4), fifteen);
            for (int i = 0; i < rows; i++) {
                const int8_t *eight =
                    x->q + (int64_t)(row + i) * x->k + g * GROUP + half * HALF_GROUP + at;
                __m256i first = fours_of(eight), second = fours_of(eight + 4);
                small[i].low = dot_small(small[i].low, low_first, first);
                small[i].high = dot_small(small[i].high, high_first, first);
                small[i].low = dot_small(small[i].low, low_second, second);
                small[i].high = dot_small(small[i].high, high_second, second);
            }
        }
        for (int i = 0; i < rows; i++) {
            I16 whole = {_mm256_madd_epi16(small[i].low, one),
                         _mm256_madd_epi16(small[i].high, one)};
            F16 scaled = f_mul(f_of_int(whole), f_all(x->scale[at + i * num_groups]));
            F16 with_scale = f_fma(scaled, load_bf16(weight_scale), sum[i][0]);
            F16 all = f_all(x->sum[2 * (at + i * num_groups) + half]);
            sum[i][0] = f_fma(all, load_bf16(weight_scale + TILE_N), with_scale);
        }
    }
}

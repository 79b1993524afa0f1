/* Sixteen lanes: one contract, kept with AVX-512, with AVX2, and in portable C.
 *
 * Compiled once per instruction set. Needs the defines of forward.h: they choose the one of
 * vectors_avx512.h, vectors_avx2.h and vectors_portable.h that keeps the contract. Provides:
 *
 * F16: floats. A lane's arithmetic is float32's; f_fma rounds once, but in portable C. f_keep:
 * lanes first <= lane < end keep their value, the others become `other`. f_scale2: a * 2^n for
 * whole n above -126. f_round: to a whole number, halves to even. f_exp. Narrow: a number of bf16
 * as dot2 takes it: bf16, or float where pairs are not one instruction. dot2: acc + the sum of 2
 * products, bf16 pairs (16 lanes) times the pair at x. store_bf16, store_narrow: to nearest, halves
 * to even. store_int8: whole numbers of at most 127; returns their sum. prefetch_near: into the
 * core's nearest cache; prefetch_far: into the next.
 *
 * For blocks_dot.h only (AVX2 has blocks_avx2.h). I16: int32. B64: unsigned bytes; b_low, b_high:
 * the low and the high halves of each. Fours: 4 signed bytes for every lane. dot4: acc + the sum of
 * 4 products.
 *
 * HAS_MATRIX: whether tile registers of AMX multiply; matrix_begin and matrix_end, around a step.
 * With it matrix_product, i_load, i_add.
 *
 * How much is computed at once, as much as the registers hold: ROW_BLOCK rows and STRIP8 or (no
 * more) STRIP4 tiles of the base's products, SHRINK_BLOCK rows and SHRINK_TILES times 16 ranks of
 * an adapter's shrink, EXPAND_BLOCK rows of its expand, in attention VECTOR_QUERIES queries with
 * SCORE_PAGES pages of keys or with 16 * VALUE_VECTORS features. UNROLLED steps of blocks_dot.h are
 * written out. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "types.h"

#define INLINE static inline __attribute__((always_inline))

#if defined(USE_AVX512)
#include "vectors_avx512.h"
#elif defined(USE_AVX2)
#include "vectors_avx2.h"
#else
#include "vectors_portable.h"
#endif

#ifdef USE_AMX
enum { HAS_MATRIX = 1 };
#else
enum { HAS_MATRIX = 0 };
INLINE void matrix_begin(void) {}
INLINE void matrix_end(void) {}
#endif

/* e^x for x <= 0, to 2 ulp: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]. */
INLINE F16 f_exp(F16 x) {
    F16 n = f_round(f_mul(f_max(x, f_all(-87.0f)), f_all(1.44269504f)));
    F16 r = f_fma(n, f_all(-0.693359375f), f_max(x, f_all(-87.0f)));
    r = f_fma(n, f_all(2.12194440e-4f), r);
    F16 p = f_fma(f_all(1.9875691500e-4f), r, f_all(1.3981999507e-3f));
    p = f_fma(p, r, f_all(8.3334519073e-3f));
    p = f_fma(p, r, f_all(4.1665795894e-2f));
    p = f_fma(p, r, f_all(1.6666665459e-1f));
    p = f_fma(p, r, f_all(5.0000001201e-1f));
    p = f_fma(p, f_mul(r, r), f_add(r, f_all(1.0f)));
    return f_scale2(p, n);
}

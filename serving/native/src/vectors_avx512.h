/* Thirty-two registers of 512 bits.
 *
 * Compiled once per instruction set, by vectors.h. Needs INLINE, bf16, and USE_BF16 and USE_AMX
 * where the processor has them. Provides the contract of vectors.h. */
#pragma once

#include <immintrin.h>

#ifdef USE_BF16
enum { ROW_BLOCK = 4 }; /* so that the sums of groups have registers, too */
#else
enum { ROW_BLOCK = 8 }; /* where a register is loaded once a cycle and multiplied twice */
#endif
enum { STRIP8 = 3, STRIP4 = 2, UNROLLED = 16 };
enum { SHRINK_BLOCK = 4, SHRINK_TILES = 3, EXPAND_BLOCK = 4 };
enum { VECTOR_QUERIES = 6, SCORE_PAGES = 2, VALUE_VECTORS = 4 };

typedef __m512 F16;
typedef __m512i I16;
typedef __m512i B64;
typedef __m512i Fours;
typedef int32_t __attribute__((may_alias, aligned(1))) Four;

INLINE F16 f_zero(void) { return _mm512_setzero_ps(); }
INLINE F16 f_all(float x) { return _mm512_set1_ps(x); }
INLINE F16 f_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void f_store(float *p, F16 x) { _mm512_storeu_ps(p, x); }
INLINE F16 f_add(F16 a, F16 b) { return _mm512_add_ps(a, b); }
INLINE F16 f_mul(F16 a, F16 b) { return _mm512_mul_ps(a, b); }
INLINE F16 f_fma(F16 a, F16 b, F16 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE F16 f_max(F16 a, F16 b) { return _mm512_max_ps(a, b); }
INLINE F16 f_abs(F16 a) { return _mm512_abs_ps(a); }
INLINE float f_sum(F16 a) { return _mm512_reduce_add_ps(a); }
INLINE float f_top(F16 a) { return _mm512_reduce_max_ps(a); }
INLINE F16 f_round(F16 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }
INLINE F16 f_div(F16 a, F16 b) { return _mm512_div_ps(a, b); }
INLINE F16 f_scale2(F16 a, F16 n) { return _mm512_scalef_ps(a, n); }
INLINE F16 f_of_int(I16 a) { return _mm512_cvtepi32_ps(a); }
INLINE F16 f_where_negative(F16 x, F16 then, F16 otherwise) {
    return _mm512_mask_mov_ps(otherwise, _mm512_cmp_ps_mask(x, f_zero(), _CMP_LT_OQ), then);
}
INLINE F16 f_keep(F16 a, int first, int end, F16 other) {
    uint32_t below_end = end >= 16 ? 0xffffu : end <= 0 ? 0 : (1u << end) - 1;
    uint32_t below_first = first >= 16 ? 0xffffu : first <= 0 ? 0 : (1u << first) - 1;
    return _mm512_mask_mov_ps(other, (__mmask16)(below_end & ~below_first), a);
}
INLINE I16 i_all(int32_t x) { return _mm512_set1_epi32(x); }
INLINE B64 b_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE B64 b_low(B64 a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
INLINE B64 b_high(B64 a) { return b_low(_mm512_srli_epi16(a, 4)); }
/* The compiler would broadcast through a general register, which takes twice as long. */
INLINE Fours fours_of(const void *x) {
    Fours fours;
    asm("vpbroadcastd %1, %0" : "=v"(fours) : "m"(*(const Four *)x));
    return fours;
}
INLINE I16 dot4(I16 acc, B64 weights, Fours x) { return _mm512_dpbusd_epi32(acc, weights, x); }
INLINE F16 load_bf16(const bf16 *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
#ifdef USE_BF16
typedef bf16 Narrow;
INLINE F16 dot2(F16 acc, const bf16 *w, const Narrow *x) {
    I16 weights = _mm512_loadu_si512(w);
    asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(weights), "m"(*(const Four *)x));
    return acc;
}
/* Of 4 or 8 ranks and as many pairs as a register has beside them: of x each pair for its ranks. */
INLINE F16 dot2_folded(F16 acc, const bf16 *w, const Narrow *x, int ranks) {
    const I16 lane4 = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const I16 lane8 = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    I16 pairs = _mm512_maskz_loadu_epi32(ranks == 4 ? 0xf : 0x3, x);
    I16 weights = _mm512_loadu_si512(w);
    pairs = _mm512_permutexvar_epi32(ranks == 4 ? lane4 : lane8, pairs);
    asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(weights), "v"(pairs));
    return acc;
}
INLINE void store_bf16(bf16 *p, F16 x) {
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(x));
}
INLINE void store_narrow(Narrow *p, F16 x) { store_bf16(p, x); }
INLINE F16 load_narrow(const Narrow *p) { return load_bf16(p); }
#else
typedef float Narrow;
INLINE F16 dot2(F16 acc, const bf16 *w, const Narrow *x) {
    I16 weights = _mm512_loadu_si512(w), odd = _mm512_set1_epi32((int)0xffff0000);
    acc = f_fma((F16)_mm512_slli_epi32(weights, 16), f_all(x[0]), acc);
    return f_fma((F16)_mm512_and_si512(weights, odd), f_all(x[1]), acc);
}
/* Lane l has number l / ranks * 2 + first of those from p on; 4 or 8 ranks. */
INLINE F16 f_spread(const float *p, int ranks, int first) {
    const I16 lane4 = _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6);
    const I16 lane8 = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
    I16 lane = _mm512_add_epi32(ranks == 4 ? lane4 : lane8, _mm512_set1_epi32(first));
    return _mm512_permutexvar_ps(lane, _mm512_maskz_loadu_ps(ranks == 4 ? 0xff : 0xf, p));
}
INLINE F16 dot2_folded(F16 acc, const bf16 *w, const Narrow *x, int ranks) {
    I16 weights = _mm512_loadu_si512(w), odd = _mm512_set1_epi32((int)0xffff0000);
    acc = f_fma((F16)_mm512_slli_epi32(weights, 16), f_spread(x, ranks, 0), acc);
    return f_fma((F16)_mm512_and_si512(weights, odd), f_spread(x, ranks, 1), acc);
}
/* To nearest even; in the high halves, with what follows in the low ones. */
INLINE I16 bf16_of(F16 x) {
    I16 bits = (I16)x, last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    I16 near = _mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
    __mmask16 is_number = _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q);
    return _mm512_mask_mov_epi32(_mm512_set1_epi32(0x7fc00000), is_number, near);
}
INLINE void store_bf16(bf16 *p, F16 x) {
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bf16_of(x), 16)));
}
INLINE void store_narrow(Narrow *p, F16 x) {
    f_store(p, (F16)_mm512_and_si512(bf16_of(x), _mm512_set1_epi32((int)0xffff0000)));
}
INLINE F16 load_narrow(const Narrow *p) { return f_load(p); }
#endif
INLINE int32_t store_int8(int8_t *p, F16 x) {
    __m512i whole = _mm512_cvtps_epi32(x);
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(whole));
    return _mm512_reduce_add_epi32(whole);
}
INLINE void prefetch_near(const void *p) { _mm_prefetch(p, _MM_HINT_T0); }
INLINE void prefetch_far(const void *p) { _mm_prefetch(p, _MM_HINT_T1); }

#ifdef USE_AMX
INLINE I16 i_load(const int32_t *p) { return _mm512_load_si512(p); }
INLINE I16 i_add(I16 a, I16 b) { return _mm512_add_epi32(a, b); }
/* A thread's tile registers are 16 rows of 64 bytes, but for number 6, a row's probabilities of
 * sixteen keys, and number 7, the values of sixteen keys. */
INLINE void matrix_begin(void) {
    struct {
        uint8_t palette, start, zero[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1,
               .row_bytes = {64, 64, 64, 64, 64, 64, 32, 64},
               .rows = {16, 16, 16, 16, 16, 16, 16, 8}};
    _tile_loadconfig(&shape);
}
INLINE void matrix_end(void) { _tile_release(); }
/* sums (16, 16) = 16 rows of 64 signed bytes, `stride` bytes apart, times [64 / 4][16][4]
 * unsigned. */
INLINE void matrix_product(int32_t *sums, const int8_t *x, int64_t stride, const uint8_t *weights) {
    _tile_zero(0);
    _tile_loadd(1, x, stride);
    _tile_loadd(2, weights, 64);
    _tile_dpbsud(0, 1, 2);
    _tile_stored(0, sums, 64);
}
#endif

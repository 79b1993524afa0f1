/* Sixteen registers of 256 bits: sixteen lanes are two of them.
 *
 * Compiled once per instruction set, by vectors.h. Needs INLINE, bf16, and USE_AVX_VNNI where the
 * processor has it. Provides the contract of vectors.h; what only blocks_dot.h needs, with
 * USE_AVX_VNNI alone. */
#pragma once

#include <immintrin.h>

#ifdef USE_AVX_VNNI
enum { ROW_BLOCK = 6, STRIP8 = 1, STRIP4 = 1, UNROLLED = 16 };
#else
enum { ROW_BLOCK = 4, STRIP8 = 1, STRIP4 = 1 };
#endif
enum { SHRINK_BLOCK = 2, SHRINK_TILES = 1, EXPAND_BLOCK = 2 };
enum { VECTOR_QUERIES = 3, SCORE_PAGES = 1, VALUE_VECTORS = 2 };

typedef struct {
    __m256 low, high;
} F16;

INLINE F16 f_all(float x) { return (F16){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE F16 f_zero(void) { return (F16){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
INLINE F16 f_load(const float *p) { return (F16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void f_store(float *p, F16 x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
}
INLINE F16 f_add(F16 a, F16 b) {
    return (F16){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
INLINE F16 f_mul(F16 a, F16 b) {
    return (F16){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
INLINE F16 f_fma(F16 a, F16 b, F16 c) {
    return (F16){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
INLINE F16 f_div(F16 a, F16 b) {
    return (F16){_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
INLINE F16 f_max(F16 a, F16 b) {
    return (F16){_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
INLINE F16 f_abs(F16 a) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (F16){_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
INLINE F16 f_round(F16 a) {
    enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    return (F16){_mm256_round_ps(a.low, NEAREST), _mm256_round_ps(a.high, NEAREST)};
}
INLINE float f_sum(F16 a) {
    __m256 eight = _mm256_add_ps(a.high, a.low);
    __m128 four = _mm_add_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return two[0] + two[1];
}
INLINE float f_top(F16 a) {
    __m256 eight = _mm256_max_ps(a.high, a.low);
    __m128 four = _mm_max_ps(_mm256_extractf128_ps(eight, 1), _mm256_castps256_ps128(eight));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_max_ss(two, _mm_movehdup_ps(two))[0];
}
INLINE __m256 scale2_half(__m256 a, __m256 n) {
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
INLINE F16 f_scale2(F16 a, F16 n) {
    return (F16){scale2_half(a.low, n.low), scale2_half(a.high, n.high)};
}
INLINE F16 f_where_negative(F16 x, F16 then, F16 otherwise) { /* by the sign's bit: -0 counts */
    return (F16){_mm256_blendv_ps(otherwise.low, then.low, x.low),
                 _mm256_blendv_ps(otherwise.high, then.high, x.high)};
}
INLINE __m256 keep_half(__m256 a, int first, int end, __m256 other) {
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(first), lane);
    __m256i kept = _mm256_andnot_si256(before, _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
    return _mm256_blendv_ps(other, a, _mm256_castsi256_ps(kept));
}
INLINE F16 f_keep(F16 a, int first, int end, F16 other) {
    return (F16){keep_half(a.low, first, end, other.low),
                 keep_half(a.high, first - 8, end - 8, other.high)};
}

INLINE __m256i load8(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
/* Of pairs of bf16, lower halves of int32 and higher ones. */
INLINE __m256 first_of_pairs(__m256i pairs) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}
INLINE __m256 second_of_pairs(__m256i pairs) {
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)));
}
typedef float Narrow;
INLINE F16 dot2(F16 acc, const bf16 *w, const Narrow *x) {
    __m256i low = load8(w), high = load8(w + 16);
    acc = f_fma((F16){first_of_pairs(low), first_of_pairs(high)}, f_all(x[0]), acc);
    return f_fma((F16){second_of_pairs(low), second_of_pairs(high)}, f_all(x[1]), acc);
}
/* Lane l has number l / ranks * 2, of 4 or 8 ranks. */
INLINE F16 f_spread(const float *p, int ranks) {
    if (ranks == 8) return (F16){_mm256_set1_ps(p[0]), _mm256_set1_ps(p[2])};
    return (F16){_mm256_setr_m128(_mm_set1_ps(p[0]), _mm_set1_ps(p[2])),
                 _mm256_setr_m128(_mm_set1_ps(p[4]), _mm_set1_ps(p[6]))};
}
INLINE F16 dot2_folded(F16 acc, const bf16 *w, const Narrow *x, int ranks) {
    __m256i low = load8(w), high = load8(w + 16);
    acc = f_fma((F16){first_of_pairs(low), first_of_pairs(high)}, f_spread(x, ranks), acc);
    return f_fma((F16){second_of_pairs(low), second_of_pairs(high)}, f_spread(x + 1, ranks), acc);
}
INLINE __m256i bf16_half(__m256 x) { /* in the high halves, with what follows in the low ones */
    __m256i bits = _mm256_castps_si256(x);
    __m256i last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i near = _mm256_add_epi32(bits, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff)));
    __m256i is_number = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_ORD_Q));
    return _mm256_blendv_epi8(_mm256_set1_epi32(0x7fc00000), near, is_number);
}
/* What packs halves of 128 bits gives, in the order of its operands. */
INLINE __m256i in_order(__m256i packed) {
    return _mm256_permute4x64_epi64(packed, _MM_SHUFFLE(3, 1, 2, 0));
}
INLINE void store_bf16(bf16 *p, F16 x) {
    __m256i low = _mm256_srli_epi32(bf16_half(x.low), 16);
    __m256i high = _mm256_srli_epi32(bf16_half(x.high), 16);
    _mm256_storeu_si256((__m256i *)p, in_order(_mm256_packus_epi32(low, high)));
}
INLINE void store_narrow(Narrow *p, F16 x) {
    f_store(p, (F16){second_of_pairs(bf16_half(x.low)), second_of_pairs(bf16_half(x.high))});
}
INLINE F16 load_narrow(const Narrow *p) { return f_load(p); }
INLINE F16 load_bf16(const bf16 *p) {
    const __m128i *half = (const __m128i *)p;
    return (F16){first_of_pairs(_mm256_cvtepu16_epi32(_mm_loadu_si128(half))),
                 first_of_pairs(_mm256_cvtepu16_epi32(_mm_loadu_si128(half + 1)))};
}
INLINE int32_t store_int8(int8_t *p, F16 x) {
    __m256i low = _mm256_cvtps_epi32(x.low), high = _mm256_cvtps_epi32(x.high);
    __m256i narrow = in_order(_mm256_packs_epi32(low, high));
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(narrow),
                                                   _mm256_extracti128_si256(narrow, 1)));
    __m256i eight = _mm256_add_epi32(low, high);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(two) + _mm_extract_epi32(two, 1);
}
INLINE void prefetch_near(const void *p) { _mm_prefetch(p, _MM_HINT_T0); }
INLINE void prefetch_far(const void *p) { _mm_prefetch(p, _MM_HINT_T1); }

typedef struct {
    __m256i low, high;
} I16;
typedef __m256i Fours;

INLINE F16 f_of_int(I16 a) { return (F16){_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
INLINE Fours fours_of(const void *x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm256_set1_epi32(four);
}
#ifdef USE_AVX_VNNI
typedef I16 B64;

INLINE I16 i_all(int32_t x) { return (I16){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
INLINE B64 b_load(const uint8_t *p) { return (B64){load8(p), load8(p + 32)}; }
INLINE B64 b_low(B64 a) {
    const __m256i fifteen = _mm256_set1_epi8(15);
    return (B64){_mm256_and_si256(a.low, fifteen), _mm256_and_si256(a.high, fifteen)};
}
INLINE B64 b_high(B64 a) {
    return b_low((B64){_mm256_srli_epi16(a.low, 4), _mm256_srli_epi16(a.high, 4)});
}
INLINE I16 dot4(I16 acc, B64 weights, Fours x) {
    return (I16){_mm256_dpbusd_avx_epi32(acc.low, weights.low, x),
                 _mm256_dpbusd_avx_epi32(acc.high, weights.high, x)};
}
#endif

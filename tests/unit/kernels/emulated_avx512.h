/* AVX-512 for processors without it, so that its kernels are tested on every machine: SIMDe makes two AVX2 instructions of one,
 * and this file has the intrinsics that SIMDe 0.7.4 lacks, lane by lane as Intel's guide defines them.
 *
 * Included in front of kernels/cpu/avx512*.c when those are built for the tests (CMakeLists.txt beside). Behind SIMDe the files
 * are told that they have all they need; a function that is not emulated does not compile, or traps. */
#ifndef CONSORT_TESTS_EMULATED_AVX512_H
#define CONSORT_TESTS_EMULATED_AVX512_H

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <math.h>
#include <stdint.h>
#include <string.h>

#define EMULATED static inline __attribute__((always_inline, unused))
#define LANES(n) for (int i = 0; i < (n); i++)

typedef union {
    __m512 ps;
    __m512d pd;
    __m512i si;
    __m256 half_ps[2];
    __m256i half[2];
    __m128i quarter[4];
    double f64[8];
    float f32[16];
    int64_t i64[8];
    int32_t i32[16];
    uint32_t u32[16];
    int16_t i16[32];
    int8_t i8[64];
} lanes;

EMULATED __m512 emulated_maskz_loadu_ps(uint16_t mask, const void *from) {
    lanes r = {.f32 = {0}};
    LANES(16) if (mask >> i & 1) memcpy(&r.f32[i], (const float *)from + i, 4);
    return r.ps;
}
EMULATED void emulated_mask_storeu_ps(void *to, uint16_t mask, __m512 x) {
    lanes v = {.ps = x};
    LANES(16) if (mask >> i & 1) memcpy((float *)to + i, &v.f32[i], 4);
}
EMULATED __m256i emulated_maskz_loadu_epi16(uint16_t mask, const void *from) {
    lanes r = {.f32 = {0}};
    LANES(16) if (mask >> i & 1) memcpy(&r.i16[i], (const int16_t *)from + i, 2);
    return r.half[0];
}
EMULATED void emulated_mask_storeu_epi16(void *to, uint16_t mask, __m256i x) {
    lanes v = {.half = {x}};
    LANES(16) if (mask >> i & 1) memcpy((int16_t *)to + i, &v.i16[i], 2);
}

EMULATED __m512i emulated_cvtepi8_epi32(__m128i x) {
    return (lanes){.half = {_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))}}.si;
}
EMULATED __m512i emulated_cvtepu8_epi32(__m128i x) {
    return (lanes){.half = {_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))}}.si;
}
EMULATED __m512i emulated_cvtepu16_epi32(__m256i x) {
    lanes v = {.half = {x}};
    return (lanes){.half = {_mm256_cvtepu16_epi32(v.quarter[0]), _mm256_cvtepu16_epi32(v.quarter[1])}}.si;
}
EMULATED __m128i emulated_cvtepi32_epi8(__m512i x) { /* cut off, not saturated */
    lanes v = {.si = x}, r;
    LANES(16) r.i8[i] = (int8_t)v.i32[i];
    return r.quarter[0];
}
EMULATED __m512 emulated_cvtepi32_ps(__m512i x) {
    lanes v = {.si = x};
    return (lanes){.half_ps = {_mm256_cvtepi32_ps(v.half[0]), _mm256_cvtepi32_ps(v.half[1])}}.ps;
}
EMULATED __m512i emulated_cvtps_epi32(__m512 x) {
    lanes v = {.ps = x};
    return (lanes){.half = {_mm256_cvtps_epi32(v.half_ps[0]), _mm256_cvtps_epi32(v.half_ps[1])}}.si;
}
EMULATED __m512d emulated_cvtps_pd(__m256 x) {
    lanes v = {.half_ps = {x}}, r;
    LANES(8) r.f64[i] = (double)v.f32[i];
    return r.pd;
}
EMULATED __m512 emulated_cvtph_ps(__m256i x) {
    lanes v = {.half = {x}};
    return (lanes){.half_ps = {_mm256_cvtph_ps(v.quarter[0]), _mm256_cvtph_ps(v.quarter[1])}}.ps;
}
EMULATED __m256i emulated_cvtps_ph(__m512 x) {
    lanes v = {.ps = x};
    return (lanes){.quarter = {_mm256_cvtps_ph(v.half_ps[0], _MM_FROUND_TO_NEAREST_INT),
                               _mm256_cvtps_ph(v.half_ps[1], _MM_FROUND_TO_NEAREST_INT)}}
        .half[0];
}

EMULATED __m512i emulated_srai_epi32(__m512i x, unsigned n) {
    lanes v = {.si = x};
    LANES(16) v.i32[i] >>= n;
    return v.si;
}
EMULATED __m512 emulated_fmaddsub_ps(__m512 a, __m512 b, __m512 c) {
    lanes x = {.ps = a}, y = {.ps = b}, z = {.ps = c};
    return (lanes){.half_ps = {_mm256_fmaddsub_ps(x.half_ps[0], y.half_ps[0], z.half_ps[0]),
                               _mm256_fmaddsub_ps(x.half_ps[1], y.half_ps[1], z.half_ps[1])}}
        .ps;
}
EMULATED __m512 emulated_shuffle_f32x4(__m512 a, __m512 b, int from) {
    lanes x = {.ps = a}, y = {.ps = b};
    return (lanes){.quarter = {x.quarter[from & 3], x.quarter[from >> 2 & 3], y.quarter[from >> 4 & 3], y.quarter[from >> 6 & 3]}}
        .ps;
}
EMULATED __m512i emulated_cvtps_epi64(__m256 x) {
    lanes v = {.half_ps = {x}}, r;
    LANES(8) r.i64[i] = fabsf(v.f32[i]) < 0x1p63f ? llrintf(v.f32[i]) : INT64_MIN;
    return r.si;
}
EMULATED __m512d emulated_cvtepi64_pd(__m512i x) {
    lanes v = {.si = x}, r;
    LANES(8) r.f64[i] = (double)v.i64[i];
    return r.pd;
}
EMULATED int32_t emulated_reduce_add_epi32(__m512i x) {
    lanes v = {.si = x};
    int32_t sum = 0;
    LANES(16) sum += v.i32[i];
    return sum;
}
EMULATED uint32_t emulated_reduce_max_epu32(__m512i x) {
    lanes v = {.si = x};
    uint32_t most = 0;
    LANES(16) most = v.u32[i] > most ? v.u32[i] : most;
    return most;
}
EMULATED float emulated_reduce_max_ps(__m512 x) {
    lanes v = {.ps = x};
    float most = v.f32[0];
    LANES(16) most = v.f32[i] > most ? v.f32[i] : most;
    return most;
}

#undef _mm512_cvtps_ph
#undef _mm512_shuffle_f32x4
#undef _mm512_srai_epi32
#define _mm512_maskz_loadu_ps     emulated_maskz_loadu_ps
#define _mm512_mask_storeu_ps     emulated_mask_storeu_ps
#define _mm256_maskz_loadu_epi16  emulated_maskz_loadu_epi16
#define _mm256_mask_storeu_epi16  emulated_mask_storeu_epi16
#define _mm512_cvtepi8_epi32      emulated_cvtepi8_epi32
#define _mm512_cvtepu8_epi32      emulated_cvtepu8_epi32
#define _mm512_cvtepu16_epi32     emulated_cvtepu16_epi32
#define _mm512_cvtepi32_epi8      emulated_cvtepi32_epi8
#define _mm512_cvtepi32_ps        emulated_cvtepi32_ps
#define _mm512_cvtps_epi32        emulated_cvtps_epi32
#define _mm512_cvtps_pd           emulated_cvtps_pd
#define _mm512_cvtps_epi64        emulated_cvtps_epi64
#define _mm512_cvtepi64_pd        emulated_cvtepi64_pd
#define _mm512_cvtph_ps           emulated_cvtph_ps
#define _mm512_cvtps_ph(x, round) emulated_cvtps_ph(x)
#define _mm512_srai_epi32         emulated_srai_epi32
#define _mm512_fmaddsub_ps        emulated_fmaddsub_ps
#define _mm512_shuffle_f32x4      emulated_shuffle_f32x4
#define _mm512_reduce_add_epi32   emulated_reduce_add_epi32
#define _mm512_reduce_max_epu32   emulated_reduce_max_epu32
#define _mm512_reduce_max_ps      emulated_reduce_max_ps

/* What kernels/cpu/avx512_int.h and kernels_avx512() ask for. */
#define __AVX512F__               1
#define __AVX512BW__              1
#define __AVX512VL__              1
#define __AVX512DQ__              1
#define __AVX512VNNI__            1
#define __builtin_cpu_supports(x) 1

#endif

/* Design: each function reduces its argument to a small interval, evaluates one polynomial there by Horner's rule with fma, and
 * scales back by exact powers of two. No branch that a vector twin could not follow by masks in expf; the others run a few
 * times per token or at start. The road not taken is a correctly rounded library (CORE-MATH): its double-double paths would have
 * to be repeated in every vector and GPU twin.
 * Coefficients: floats from Cephes (Moshier), log, sin and cos on doubles from FDLIBM (Sun, 1993). */
#include "base/fmath.h"

#include <math.h> /* NAN, INFINITY only */
#include <stdint.h>
#include <string.h>

static inline float fmaf_(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double fma_(double a, double b, double c) { return __builtin_fma(a, b, c); }

static inline uint32_t bits_f(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
static inline uint64_t bits_d(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
static inline double double_of(uint64_t u) {
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}
static inline float pow2f(int32_t n) { return float_of((uint32_t)(n + 127) << 23); }
static inline double pow2(int64_t n) { return double_of((uint64_t)(n + 1023) << 52); }

float fmath_expf(float x) {
    if (x != x) return x;
    x = x > FMATH_EXPF_MAX ? FMATH_EXPF_MAX : x;
    x = x < FMATH_EXPF_MIN ? FMATH_EXPF_MIN : x;
    float t = fmaf_(x, FMATH_EXPF_LOG2E, FMATH_EXPF_ROUND), n = t - FMATH_EXPF_ROUND;
    int32_t i = (int32_t)(bits_f(t) - bits_f(FMATH_EXPF_ROUND));
    float r = fmaf_(n, -FMATH_EXPF_LN2_HI, x);
    r = fmaf_(n, -FMATH_EXPF_LN2_LO, r);
    float p = FMATH_EXPF_P5;
    p = fmaf_(p, r, FMATH_EXPF_P4);
    p = fmaf_(p, r, FMATH_EXPF_P3);
    p = fmaf_(p, r, FMATH_EXPF_P2);
    p = fmaf_(p, r, FMATH_EXPF_P1);
    p = fmaf_(p, r, FMATH_EXPF_P0);
    float y = fmaf_(p, r * r, r) + 1.0f;
    /* Two factors: 2^n itself may be out of range where y * 2^n is not. Only the last product can round. */
    int32_t half = i >> 1;
    return y * pow2f(half) * pow2f(i - half);
}

float fmath_logf(float x) {
    if (x != x || x == INFINITY) return x;
    if (x <= 0) return x == 0 ? -INFINITY : NAN;
    int32_t e = 0;
    if (x < 0x1p-126f) {
        x *= 0x1p25f;
        e = -25;
    }
    /* x = m * 2^e with m in [sqrt(1/2), sqrt(2)) */
    uint32_t u = bits_f(x) - 0x3f3504f3u;
    e += (int32_t)u >> 23;
    float f = float_of((u & 0x007fffffu) + 0x3f3504f3u) - 1.0f, z = f * f;
    float p = 7.0376836292e-2f;
    p = fmaf_(p, f, -1.1514610310e-1f);
    p = fmaf_(p, f, 1.1676998740e-1f);
    p = fmaf_(p, f, -1.2420140846e-1f);
    p = fmaf_(p, f, 1.4249322787e-1f);
    p = fmaf_(p, f, -1.6668057665e-1f);
    p = fmaf_(p, f, 2.0000714765e-1f);
    p = fmaf_(p, f, -2.4999993993e-1f);
    p = fmaf_(p, f, 3.3333331174e-1f);
    float y = p * f * z;
    y = fmaf_((float)e, -2.12194440e-4f, y);
    y = fmaf_(z, -0.5f, y);
    return fmaf_((float)e, 0.693359375f, f + y);
}

/* No forward pass takes the sine of a float yet; through double they cost nothing in precision. */
float fmath_sinf(float x) { return (float)fmath_sin((double)x); }
float fmath_cosf(float x) { return (float)fmath_cos((double)x); }

float fmath_tanhf(float x) {
    if (x != x) return x;
    float a = x < 0 ? -x : x;
    if (a < 0.625f) {
        float z = x * x, p = -5.70498872745e-3f;
        p = fmaf_(p, z, 2.06390887954e-2f);
        p = fmaf_(p, z, -5.37397155531e-2f);
        p = fmaf_(p, z, 1.33314422036e-1f);
        p = fmaf_(p, z, -3.33332819422e-1f);
        return fmaf_(p * z, x, x);
    }
    float t = 1.0f - 2.0f / (fmath_expf(a + a) + 1.0f);
    return x < 0 ? -t : t;
}

#define LN2_HI 6.93147180369123816490e-01 /* 32 bits: n * LN2_HI is exact */
#define LN2_LO 1.90821492927058770002e-10

double fmath_exp(double x) {
    if (x != x) return x;
    x = x > 710.0 ? 710.0 : x;
    x = x < -746.0 ? -746.0 : x;
    const double round = 0x1.8p52;
    double t = fma_(x, 1.44269504088896338700, round), n = t - round;
    int64_t i = (int64_t)(bits_d(t) - bits_d(round));
    double r = fma_(n, -LN2_LO, fma_(n, -LN2_HI, x));
    /* Taylor to r^13: |r| <= 0.347 leaves 4e-18 */
    double p = 1.0 / 6227020800.0;
    p = fma_(p, r, 1.0 / 479001600.0);
    p = fma_(p, r, 1.0 / 39916800.0);
    p = fma_(p, r, 1.0 / 3628800.0);
    p = fma_(p, r, 1.0 / 362880.0);
    p = fma_(p, r, 1.0 / 40320.0);
    p = fma_(p, r, 1.0 / 5040.0);
    p = fma_(p, r, 1.0 / 720.0);
    p = fma_(p, r, 1.0 / 120.0);
    p = fma_(p, r, 1.0 / 24.0);
    p = fma_(p, r, 1.0 / 6.0);
    p = fma_(p, r, 0.5);
    double y = fma_(p, r * r, r) + 1.0;
    int64_t half = i >> 1;
    return y * pow2(half) * pow2(i - half);
}

double fmath_log(double x) {
    if (x != x || x == INFINITY) return x;
    if (x <= 0) return x == 0 ? -INFINITY : NAN;
    int64_t e = 0;
    if (x < 0x1p-1022) {
        x *= 0x1p54;
        e = -54;
    }
    const uint64_t sqrt_half = UINT64_C(0x3fe6a09e667f3bcd);
    uint64_t u = bits_d(x) - sqrt_half;
    e += (int64_t)u >> 52;
    double f = double_of((u & UINT64_C(0x000fffffffffffff)) + sqrt_half) - 1.0;
    /* log(1 + f) = f - (f^2/2 - s (f^2/2 + R)), s = f / (2 + f), R = sum of Lg_i s^2i */
    double s = f / (2.0 + f), z = s * s, p = 1.479819860511658591e-01;
    p = fma_(p, z, 1.531383769920937332e-01);
    p = fma_(p, z, 1.818357216161805012e-01);
    p = fma_(p, z, 2.222219843214978396e-01);
    p = fma_(p, z, 2.857142874366239149e-01);
    p = fma_(p, z, 3.999999999940941908e-01);
    p = fma_(p, z, 6.666666666666735130e-01);
    double half = 0.5 * f * f, n = (double)e;
    double low = fma_(s, fma_(p, z, half), n * LN2_LO);
    return fma_(n, LN2_HI, f - (half - low));
}

typedef struct {
    double hi, lo;
    unsigned quadrant;
} reduced;

/* x - n * pi/2 in two doubles. The first product is exact in its fma: the difference is a multiple of ulp(pi/2) (or of ulp(x))
 * below 1. pi/2 is cut in three doubles (Cody and Waite). */
static reduced reduce(double x) {
    const double round = 0x1.8p52;
    double t = fma_(x, 6.36619772367581382433e-01, round), n = t - round;
    double r = fma_(n, -1.57079632679489655800e+00, x);
    const double mid = 6.12323399573676603587e-17;
    double w = n * mid, w_low = fma_(n, mid, -w);
    double hi = r - w, back = hi - r;
    double lo = (r - (hi - back)) - (w + back) - w_low; /* Knuth's two-sum */
    lo = fma_(n, 1.49738490485916983294e-33, lo);       /* third part of pi/2 is negative */
    return (reduced){hi, lo, (unsigned)bits_d(t) & 3};
}

static double sin_kernel(double x, double y) {
    double z = x * x, v = z * x, p = 1.58969099521155010221e-10;
    p = fma_(p, z, -2.50507602534068634195e-08);
    p = fma_(p, z, 2.75573137070700676789e-06);
    p = fma_(p, z, -1.98412698298579493134e-04);
    p = fma_(p, z, 8.33333333332248946124e-03);
    return x - ((z * (0.5 * y - v * p) - y) - v * -1.66666666666666324348e-01);
}

static double cos_kernel(double x, double y) {
    double z = x * x, p = -1.13596475577881948265e-11;
    p = fma_(p, z, 2.08757232129817482790e-09);
    p = fma_(p, z, -2.75573143513906633035e-07);
    p = fma_(p, z, 2.48015872894767294178e-05);
    p = fma_(p, z, -1.38888888888741095749e-03);
    p = fma_(p, z, 4.16666666666666019037e-02);
    double half = 0.5 * z, w = 1.0 - half;
    return w + (((1.0 - w) - half) + (z * (z * p) - x * y));
}

static double quarter(reduced a, unsigned quadrant) {
    double y = quadrant & 1 ? cos_kernel(a.hi, a.lo) : sin_kernel(a.hi, a.lo);
    return quadrant & 2 ? -y : y;
}

double fmath_sin(double x) {
    if (!(x >= -0x1p31 && x <= 0x1p31)) return NAN;
    if (x == 0) return x;
    reduced a = reduce(x);
    return quarter(a, a.quadrant);
}

double fmath_cos(double x) {
    if (!(x >= -0x1p31 && x <= 0x1p31)) return NAN;
    reduced a = reduce(x);
    return quarter(a, (a.quadrant + 1) & 3);
}

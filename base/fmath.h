/* Fmath: the elementary functions of the forward pass and the sampler, the same bits on every machine.
 *
 * No libm: polynomials with explicit fused multiply-adds, round to nearest even, no tables (docs/numerics.md). The functions
 * on floats are good to 2 ulp, those on doubles to 1 ulp (tested against long double). The numbers of exp are public because
 * the vector twins in kernels/ must use the same ones. Not a number in, not a number out. Pure; any thread. */
#ifndef CONSORT_BASE_FMATH_H
#define CONSORT_BASE_FMATH_H

/* exp(x) = 2^n * (1 + r + r^2 P(r)), n = x / ln 2 rounded, r = x - n ln 2. Coefficients: Cephes, expf.c (Moshier). */
#define FMATH_EXPF_MAX    89.0f   /* larger: infinity, like 89 */
#define FMATH_EXPF_MIN    -104.0f /* smaller: 0, like -104 */
#define FMATH_EXPF_LOG2E  1.44269504088896341f
#define FMATH_EXPF_ROUND  12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, which stands in the low bits */
#define FMATH_EXPF_LN2_HI 0.693359375f
#define FMATH_EXPF_LN2_LO -2.12194440e-4f
#define FMATH_EXPF_P5     1.9875691500e-4f
#define FMATH_EXPF_P4     1.3981999507e-3f
#define FMATH_EXPF_P3     8.3334519073e-3f
#define FMATH_EXPF_P2     4.1665795894e-2f
#define FMATH_EXPF_P1     1.6666665459e-1f
#define FMATH_EXPF_P0     5.0000001201e-1f

float fmath_expf(float x); /* fmath_expf(0) is exactly 1; subnormal results are rounded once */
float fmath_logf(float x); /* 0: -infinity; negative: NaN */
float fmath_sinf(float x); /* |x| <= 2^31, as fmath_sin */
float fmath_cosf(float x);
float fmath_tanhf(float x);

double fmath_exp(double x);
double fmath_log(double x);
double fmath_sin(double x); /* |x| <= 2^31 keeps 1 ulp; larger or infinite: NaN */
double fmath_cos(double x);

#endif

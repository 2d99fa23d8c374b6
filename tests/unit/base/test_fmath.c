/* fmath against libm, and against its own frozen bits: libm may differ from machine to machine, fmath may not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/fmath.h"
#include "base/philox.h"
#include <float.h>
#include <math.h>
#include <string.h>

enum { N = 200000 };

static double uniform(uint32_t i) { return (double)philox(7, (philox_block){{i, 0, 0, 0}}).word[0] * 0x1p-32; }

/* |y - exact| in units of the last place of a type with `digits` bits, the smallest exponent being `least`. */
static long double ulps(long double y, long double exact, int digits, int least) {
    int e = 0;
    if (y == exact) return 0;
    frexpl(exact, &e);
    return fabsl(y - exact) / ldexpl(1, (e < least ? least : e) - digits);
}
#define ULPS_F(y, exact) (double)ulps((long double)(y), (long double)(exact), FLT_MANT_DIG, FLT_MIN_EXP)
#define ULPS_D(y, exact) (double)ulps((long double)(y), (exact), DBL_MANT_DIG, DBL_MIN_EXP)
static void assert_at_most(double value, double bound) {
    if (!(value <= bound)) fail_msg("%g units of the last place, bound %g", value, bound);
}

static void functions_on_floats_are_within_two_ulp(void **state) {
    (void)state;
    for (uint32_t i = 0; i < N; i++) {
        double u = uniform(i);
        float x = (float)((u - 0.5) * 200), y = (float)exp((u - 0.5) * 174), z = (float)((u - 0.5) * 20),
              a = (float)((u - 0.5) * 2e6);
        if (x < 88.7f && x > -103) assert_at_most(ULPS_F(fmath_expf(x), exp((double)x)), 1.5);
        assert_at_most(ULPS_F(fmath_logf(y), log((double)y)), 1.5);
        assert_at_most(ULPS_F(fmath_tanhf(z), tanh((double)z)), 2);
        assert_at_most(ULPS_F(fmath_tanhf(z / 16), tanh((double)(z / 16))), 2);
        assert_at_most(ULPS_F(fmath_sinf(a), sin((double)a)), 1);
        assert_at_most(ULPS_F(fmath_cosf(a), cos((double)a)), 1);
    }
}

static void functions_on_doubles_are_within_one_ulp(void **state) {
    (void)state;
    if (LDBL_MANT_DIG <= DBL_MANT_DIG) skip(); /* nothing to compare with */
    for (uint32_t i = 0; i < N; i++) {
        double u = uniform(i), x = (u - 0.5) * 1400, y = exp(x), near = 1 + (u - 0.5) / 8, a = (u - 0.5) * 4e6,
               n = (double)i * 1.5707963267948966;
        assert_at_most(ULPS_D(fmath_exp(x), expl((long double)x)), 1);
        assert_at_most(ULPS_D(fmath_log(y), logl((long double)y)), 1);
        assert_at_most(ULPS_D(fmath_log(near), logl((long double)near)), 1);
        assert_at_most(ULPS_D(fmath_sin(a), sinl((long double)a)), 1);
        assert_at_most(ULPS_D(fmath_cos(a), cosl((long double)a)), 1);
        assert_at_most(ULPS_D(fmath_sin(n), sinl((long double)n)), 1); /* beside multiples of pi/2 almost all bits cancel */
        assert_at_most(ULPS_D(fmath_cos(n), cosl((long double)n)), 1);
    }
}

/* Angles as a rotary table makes them: position * theta^(-2i/d). */
static void rotary_angles_are_right_far_into_a_context(void **state) {
    (void)state;
    for (uint32_t position = 0; position < 131072; position += 117)
        for (uint32_t i = 0; i < 32; i += 5) {
            double frequency = fmath_exp(-2.0 * i / 64.0 * fmath_log(100000.0)), angle = position * frequency;
            assert_true(fabs(frequency - pow(100000.0, -2.0 * i / 64.0)) <= 1e-15 * frequency);
            assert_true(fabs(fmath_sin(angle) - sin(angle)) <= 2e-16);
            assert_true(fabs(fmath_cos(angle) - cos(angle)) <= 2e-16);
        }
}

static void special_values_are_exact(void **state) {
    (void)state;
    assert_true(fmath_expf(0.0f) == 1.0f && fmath_expf(-0.0f) == 1.0f && fmath_exp(0.0) == 1.0);
    assert_true(fmath_expf(-INFINITY) == 0 && fmath_expf(INFINITY) == INFINITY && fmath_expf(89) == INFINITY &&
                fmath_expf(-104) == 0);
    assert_true(isfinite(fmath_expf(88.72283f)) && fmath_expf(-103) > 0 && fmath_expf(-103) < FLT_MIN);
    assert_true(fmath_exp(-INFINITY) == 0 && fmath_exp(INFINITY) == INFINITY && fmath_exp(710) == INFINITY);
    assert_true(fmath_logf(1) == 0 && fmath_log(1) == 0 && fmath_logf(0) == -INFINITY && fmath_log(0) == -INFINITY);
    assert_true(fmath_logf(INFINITY) == INFINITY && fmath_log(INFINITY) == INFINITY && isnan(fmath_logf(-1)) &&
                isnan(fmath_log(-1)));
    assert_true(fabsf(fmath_logf(FLT_TRUE_MIN) - logf(FLT_TRUE_MIN)) < 1e-5f && fabs(fmath_log(5e-324) - log(5e-324)) < 1e-12);
    assert_true(fmath_sin(0) == 0 && fmath_cos(0) == 1 && fmath_tanhf(0) == 0 && fmath_tanhf(50) == 1 && fmath_tanhf(-50) == -1);
    assert_true(isnan(fmath_sin(INFINITY)) && isnan(fmath_cos(-INFINITY)) && isnan(fmath_sin(1e10)));
    assert_true(isnan(fmath_expf(NAN)) && isnan(fmath_exp(NAN)) && isnan(fmath_logf(NAN)) && isnan(fmath_log(NAN)) &&
                isnan(fmath_tanhf(NAN)) && isnan(fmath_sin(NAN)) && isnan(fmath_cos(NAN)));
}

static void hash(uint64_t *h, const void *p, size_t n) {
    for (size_t i = 0; i < n; i++) *h = (*h ^ ((const uint8_t *)p)[i]) * UINT64_C(0x100000001b3);
}

/* Every machine and compiler must have these bits; a change of them changes all texts that were ever made. */
static void bits_are_frozen(void **state) {
    (void)state;
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (uint32_t i = 0; i < 20000; i++) {
        double u = (double)philox(8, (philox_block){{i, 0, 0, 0}}).word[0] * 0x1p-32;
        float x = (float)(u * 210 - 105), y = (float)(u * u * 1000), f[] = {fmath_expf(x), fmath_logf(y), fmath_tanhf(x / 20)};
        double d[] = {fmath_exp(u * 1500 - 750), fmath_log(u), fmath_sin(u * 1e6), fmath_cos(u * 1e6)};
        hash(&h, f, sizeof f);
        hash(&h, d, sizeof d);
    }
    assert_int_equal(h, UINT64_C(0x2ace09ec62cd9b10));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(functions_on_floats_are_within_two_ulp),
        cmocka_unit_test(functions_on_doubles_are_within_one_ulp),
        cmocka_unit_test(rotary_angles_are_right_far_into_a_context),
        cmocka_unit_test(special_values_are_exact),
        cmocka_unit_test(bits_are_frozen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

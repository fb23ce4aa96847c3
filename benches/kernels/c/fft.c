/* A fast Fourier transform of 65,536 points, radix 2, in place, there and back, some times over. */
#include "kernel.h"

#define POINTS_LOG2 16
#define POINTS (1 << POINTS_LOG2)
#define TRANSFORMS 25

static const double PI = 3.14159265358979323846;

static double re[POINTS], im[POINTS];
static double cosines[POINTS / 2], sines[POINTS / 2];

/* By Taylor's series, which is exact enough up to an eighth of the circle; the rest follows by symmetry. */
static void make_tables(void) {
    const int quarter = POINTS / 4;
    for (int i = 0; i <= POINTS / 8; i++) {
        double x = 2 * PI * i / POINTS, term = 1, cosine = 0, sine = 0;
        for (int n = 1; n < 24; n += 2) {
            cosine += term;
            term *= x / n;
            sine += term;
            term *= -x / (n + 1);
        }
        cosines[i] = cosine;
        sines[i] = sine;
        cosines[quarter - i] = sine;
        sines[quarter - i] = cosine;
    }
    for (int i = 1; i < quarter; i++) {
        cosines[quarter + i] = -sines[i];
        sines[quarter + i] = cosines[i];
    }
}

static void swap(double *a, double *b) {
    double kept = *a;
    *a = *b;
    *b = kept;
}

static void reverse_bits(void) {
    for (uint32_t i = 1, j = 0; i < POINTS; i++) {
        uint32_t bit = POINTS >> 1;
        for (; j & bit; bit >>= 1) {
            j ^= bit;
        }
        j ^= bit;
        if (i < j) {
            swap(&re[i], &re[j]);
            swap(&im[i], &im[j]);
        }
    }
}

/* `direction` is -1 for the transform, and 1 for the way back, which multiplies all by `POINTS`. */
static void transform(double direction) {
    reverse_bits();
    for (int half = 1; half < POINTS; half *= 2) {
        int stride = POINTS / (2 * half);
        for (int start = 0; start < POINTS; start += 2 * half) {
            for (int k = 0; k < half; k++) {
                int upper = start + k, lower = upper + half;
                double c = cosines[k * stride], s = direction * sines[k * stride];
                double x = re[lower] * c - im[lower] * s, y = re[lower] * s + im[lower] * c;
                re[lower] = re[upper] - x, im[lower] = im[upper] - y;
                re[upper] += x, im[upper] += y;
            }
        }
    }
}

COMPUTE_RUN int32_t run(void) {
    uint64_t seed = 12, checksum[2] = {0, 0};
    for (int i = 0; i < POINTS; i++) {
        re[i] = noise_fraction(&seed) - 0.5;
        im[i] = 0;
    }
    double first = re[0];
    make_tables();
    for (int round = 0; round < TRANSFORMS; round++) {
        transform(-1);
        checksum[0] = mixed(checksum[0], bits_of(re[1]) ^ bits_of(im[POINTS / 3]));
        transform(1);
        for (int i = 0; i < POINTS; i++) {
            re[i] /= POINTS, im[i] /= POINTS;
        }
    }
    for (int i = 0; i < POINTS; i++) {
        checksum[1] = mixed(checksum[1], bits_of(re[i]));
    }
    output_write(checksum, sizeof checksum);
    /* There and back is where it began, but for rounding. */
    double apart = re[0] - first;
    return apart * apart < 1e-20 ? 0 : 1;
}

/* The Mandelbrot set: how soon each point of a picture of it runs away. */
#include "kernel.h"

#define COLUMNS 480
#define ROWS 320
#define ITERATIONS_MAX 1000

static uint32_t iterations(double cr, double ci) {
    double zr = 0, zi = 0;
    for (uint32_t n = 0; n < ITERATIONS_MAX; n++) {
        double rr = zr * zr, ii = zi * zi;
        if (rr + ii > 4) {
            return n;
        }
        zi = 2 * zr * zi + ci;
        zr = rr - ii + cr;
    }
    return ITERATIONS_MAX;
}

COMPUTE_RUN int32_t run(void) {
    uint64_t checksum[2] = {0, 0};
    for (int row = 0; row < ROWS; row++) {
        for (int column = 0; column < COLUMNS; column++) {
            uint32_t n = iterations(column * 3.0 / COLUMNS - 2, row * 2.0 / ROWS - 1);
            checksum[0] += n;
            checksum[1] = mixed(checksum[1], n);
        }
    }
    output_write(checksum, sizeof checksum);
    return 0;
}

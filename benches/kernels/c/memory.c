/* What waits for memory: a chain of pointers through 16 MiB, in an order that no processor foresees, and passes over
 * those from one end to the other. */
#include "kernel.h"

#define LINES (1 << 18)
#define STEPS 1000000
#define PASSES 6

/* One a cache line. */
struct line {
    struct line *next;
    uint32_t visits;
    uint64_t values[7];
};

static struct line lines[LINES];

/* Sattolo's shuffle: its permutations are a single cycle, so the chain comes to every line. */
static void link_lines(uint64_t *seed) {
    static uint32_t order[LINES];
    for (uint32_t i = 0; i < LINES; i++) {
        order[i] = i;
    }
    for (uint32_t i = LINES - 1; i > 0; i--) {
        uint32_t j = (uint32_t)((noise(seed) >> 32) * i >> 32), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
    for (uint32_t i = 0; i < LINES; i++) {
        lines[i].next = &lines[order[i]];
        lines[i].values[0] = noise(seed);
    }
}

COMPUTE_RUN int32_t run(void) {
    uint64_t seed = 13, checksum[2] = {0, 0};
    link_lines(&seed);
    struct line *line = lines;
    for (int step = 0; step < STEPS; step++) {
        line->visits++;
        checksum[0] += line->visits ^ line->values[0];
        line = line->next;
    }
    for (int pass = 0; pass < PASSES; pass++) {
        for (uint32_t i = 0; i < LINES; i++) {
            for (int j = 1; j < 7; j++) {
                lines[i].values[j] += lines[i].values[j - 1] + lines[i].visits;
            }
        }
    }
    for (uint32_t i = 0; i < LINES; i++) {
        checksum[1] = mixed(checksum[1], lines[i].values[6]);
    }
    output_write(checksum, sizeof checksum);
    return 0;
}

/* What the kernels in C share. A kernel makes its own data, works on it, and puts out a checksum, so that no part of
 * the work can be left out and two runs can be compared. */
#ifndef KERNEL_H
#define KERNEL_H

#include "compute.h"

/* Numbers that look random and are the same in every run: xorshift64*, Vigna 2016. The state must not be 0. */
static inline uint64_t noise(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}

/* A number from 0 up to 1, without 1. */
static inline double noise_fraction(uint64_t *state) {
    return (double)(noise(state) >> 11) / 9007199254740992.0;
}

/* Mixes a number into a checksum, so that order counts: FNV-1a, a word at a time. */
static inline uint64_t mixed(uint64_t checksum, uint64_t value) {
    return (checksum ^ value) * UINT64_C(0x100000001b3);
}

static inline uint64_t bits_of(double value) {
    uint64_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
}

#endif

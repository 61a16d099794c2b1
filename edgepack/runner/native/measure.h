/* Timing as edgepack/runner/contract.py defines it: warm-up until times settle, batches for coarse clocks, queries in turn. */
#ifndef EDGEPACK_MEASURE_H
#define EDGEPACK_MEASURE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime.h"

/* Numbers that grow in number. */
struct numbers {
    int64_t *values;
    size_t count, room;
};

/* One artifact under measurement. starts and ends are readings of the clock, inner the queries that are timed as one. */
struct timed {
    const struct runtime *runtime;
    struct session *session;
    struct numbers warm_up, starts, ends;
    int64_t inner;
};

int64_t now_ns(void);

/* The smallest step of the clock between two readings that differ, ns. */
int64_t clock_step(void);

/* At least fewest queries, then more until the last ten are no faster than the ten before, or most_seconds are over. */
void settle(struct timed *timed, int64_t fewest, double most_seconds);

/* Sets how many queries are timed as one: enough for the step of the clock, and so many that seconds hold a million rounds at most. */
void choose_batches(struct timed *timed, int count, int64_t step, double seconds);

/* A B, B A, ...: at least pairs rounds and seconds long. progress is told (done, pairs). A failure when the clock goes back. */
void interleave(struct timed *timed, int count, int64_t pairs, double seconds, void (*progress)(int64_t, int64_t));

#endif

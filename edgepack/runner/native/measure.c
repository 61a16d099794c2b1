#define _POSIX_C_SOURCE 200809L

#include "measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common.h"

/* The constants of contract.py, with their reasons there. */
enum { WINDOW = 10, TICKS_AIMED_AT = 100, MOST_INNER = 1 << 20, MOST_ROUNDS = 1000000, STEPS = 16, READS = 200000, FIRST_ROOM = 256 };

int64_t now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void append(struct numbers *numbers, int64_t value) {
    if (numbers->count == numbers->room) {
        numbers->room = numbers->room ? 2 * numbers->room : FIRST_ROOM;
        numbers->values = realloc(numbers->values, numbers->room * sizeof *numbers->values);
        if (numbers->values == NULL) fail("cannot allocate memory: %zu samples", numbers->room);
    }
    numbers->values[numbers->count++] = value;
}

static int64_t query(const struct timed *timed, int64_t count) {
    int64_t start = now_ns();
    for (int64_t i = 0; i < count; i++) timed->runtime->invoke(timed->session);
    return now_ns() - start;
}

int64_t clock_step(void) {
    int64_t last = now_ns(), smallest = 0;
    for (int reads = 0, steps = 0; reads < READS && steps < STEPS; reads++) {
        int64_t now = now_ns();
        if (now <= last) continue;
        if (steps == 0 || now - last < smallest) smallest = now - last;
        last = now;
        steps++;
    }
    return smallest;
}

/* The Mann-Whitney statistic of the two windows is not above its mean for equal ones. */
static int is_settled(const struct numbers *times) {
    int earlier_is_slower = 0;
    if (times->count < 2 * WINDOW) return 0;
    const int64_t *earlier = times->values + times->count - 2 * WINDOW, *later = earlier + WINDOW;
    for (int i = 0; i < WINDOW; i++)
        for (int j = 0; j < WINDOW; j++) earlier_is_slower += (earlier[i] > later[j]) - (earlier[i] < later[j]);
    return earlier_is_slower <= 0;
}

void settle(struct timed *timed, int64_t fewest, double most_seconds) {
    int64_t until = now_ns() + (int64_t)(most_seconds * 1e9);
    for (int64_t i = 0; i < fewest; i++) append(&timed->warm_up, query(timed, 1));
    while (most_seconds > 0 && !is_settled(&timed->warm_up) && now_ns() < until)
        for (int i = 0; i < WINDOW; i++) append(&timed->warm_up, query(timed, 1));
}

static int64_t fastest_of(const struct numbers *times, int64_t otherwise) {
    int64_t fastest = times->count ? times->values[0] : otherwise;
    for (size_t i = 1; i < times->count; i++)
        if (times->values[i] < fastest) fastest = times->values[i];
    return fastest;
}

static int64_t batch_size(const struct timed *timed, int64_t step) {
    int64_t needed = TICKS_AIMED_AT * step, count = 1, fastest = fastest_of(&timed->warm_up, needed);
    while (fastest < needed && count < MOST_INNER) {
        count *= 2;
        fastest = query(timed, count);
        for (int i = 0; i < 2; i++) {
            int64_t again = query(timed, count);
            if (again < fastest) fastest = again;
        }
    }
    return count;
}

/* All larger by one factor: by the fastest query of each warm-up, so that rounds are fewer rather than more. */
static void bound_rounds(struct timed *timed, int count, double seconds) {
    double round = 0, most = MOST_ROUNDS;
    for (int i = 0; i < count; i++) round += (double)timed[i].inner * (double)fastest_of(&timed[i].warm_up, 0);
    if (round <= 0 || seconds * 1e9 <= most * round) return;
    double factor = ceil(seconds * 1e9 / (most * round));
    for (int i = 0; i < count; i++) {
        double larger = factor * (double)timed[i].inner;
        timed[i].inner = larger < MOST_INNER ? (int64_t)larger : MOST_INNER;
    }
}

void choose_batches(struct timed *timed, int count, int64_t step, double seconds) {
    for (int i = 0; i < count; i++) timed[i].inner = batch_size(&timed[i], step);
    bound_rounds(timed, count, seconds);
}

static int64_t later_than(int64_t before, int64_t now, int64_t rounds) {
    if (now < before)
        fail("the clock went back %lld ns after %lld rounds: no time of this run can be trusted", (long long)(before - now),
             (long long)rounds);
    return now;
}

static int64_t measure_one(struct timed *timed, int64_t before, int64_t rounds) {
    int64_t start = later_than(before, now_ns(), rounds);
    for (int64_t i = 0; i < timed->inner; i++) timed->runtime->invoke(timed->session);
    int64_t end = later_than(start, now_ns(), rounds);
    append(&timed->starts, start);
    append(&timed->ends, end);
    return end;
}

void interleave(struct timed *timed, int count, int64_t pairs, double seconds, void (*progress)(int64_t, int64_t)) {
    int64_t now = now_ns(), until = now + (int64_t)(seconds * 1e9);
    for (int64_t rounds = 0; rounds < pairs || now < until; rounds++) {
        for (int i = 0; i < count; i++) now = measure_one(&timed[rounds % 2 ? count - 1 - i : i], now, rounds);
        if (rounds < pairs) progress(rounds + 1, pairs);
    }
}

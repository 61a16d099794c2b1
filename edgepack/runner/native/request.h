/* What the runner is asked: lines of fields between tabs, written by edgepack/devices/native_request.py.
 *
 *     schema  1                             action  run | time | describe       runtime  path of the library
 *     artifact  label  path                 (one or more)
 *     input  name  dtype  d0  d1 ...        (one for each input: the shape of a sample)
 *     samples  n                            inputs  path of their bytes         outputs  path to write
 *     threads, warm_up, warm_up_seconds, pairs, seconds, inner, tethered: a number each, as in edgepack/runner/contract.py
 *     silence  seconds without a word on standard input after which a tethered runner leaves; 0 for never
 *
 * The bytes of the inputs follow each other in the order of their lines, each with its samples stacked.
 */
#ifndef EDGEPACK_REQUEST_H
#define EDGEPACK_REQUEST_H

#include <stdint.h>

#include "tensor.h"

enum { MOST_ARTIFACTS = 64, MOST_INPUTS = 64 };

struct artifact {
    const char *label, *path;
};

struct request {
    const char *action, *runtime, *inputs_path, *outputs_path;
    struct artifact artifacts[MOST_ARTIFACTS];
    int artifact_count;
    struct tensor inputs[MOST_INPUTS]; /* of one sample; data is of the first */
    int input_count;
    int64_t schema, samples, threads, warm_up, pairs, inner, tethered;
    double seconds, warm_up_seconds, silence;
};

/* Reads a request; a failure names what it lacks. */
struct request *read_request(const char *path);

/* Reads the bytes of the inputs, which must be as many as the request says. */
void read_inputs(struct request *request);

/* The inputs of one sample. */
void take_sample(const struct request *request, int64_t sample, struct tensor *inputs);

#endif

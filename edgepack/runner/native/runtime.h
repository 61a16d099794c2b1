/* A runtime, behind one interface whichever library the user names; who implements it: litert.c, tflite.c, ort.c.
 *
 * The libraries are opened by path, so the declarations of what is called in them are our own, after the public documentation of each.
 * All three promise that these functions stay as they are within the versions named in the files.
 */
#ifndef EDGEPACK_RUNTIME_H
#define EDGEPACK_RUNTIME_H

#include <stddef.h>
#include <stdio.h>

#include "tensor.h"

struct session;

struct runtime {
    /* Opens an artifact; threads >= 1. */
    struct session *(*load)(const char *path, int threads);
    /* Takes one sample: every input of the artifact, in any order, in memory that stays. */
    void (*set_inputs)(struct session *session, const struct tensor *inputs, int count);
    /* Computes. */
    void (*invoke)(struct session *session);
    /* Number of results, and one of them: valid until the next invoke. */
    int (*output_count)(const struct session *session);
    struct tensor (*output)(struct session *session, int index);
    /* Facts of the loaded artifact, as one JSON object. */
    void (*describe)(struct session *session, FILE *out);
};

/* Opens a library and says which runtime it is by what it offers; a failure when it is none. */
const struct runtime *open_runtime(const char *path);

/* Each fills its table from the library; a failure when the library is too old. */
const struct runtime *open_litert(void *library);
const struct runtime *open_tflite(void *library);
const struct runtime *open_ort(void *library);

/* A function of a library; required() fails when it is not there. */
typedef void (*any_function)(void);
any_function optional_symbol(void *library, const char *name);
any_function required_symbol(void *library, const char *name);

/* The position of a name; a failure when the artifact has no such input. */
int find_name(const char *const *names, int count, const char *name);

#endif

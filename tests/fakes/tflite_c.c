/* A library with TensorFlow Lite's C interface that knows one network: y = 2 x + threads, four float32 numbers. For tests of the calls
 * alone: no build of the real library for Linux could be had. Breaks off when a call comes out of turn.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct options {
    int32_t threads;
    int delegates;
};
struct xnnpack {
    int32_t threads;
    uint32_t flags[3];
    void *more[5];
};
struct interpreter {
    float x[4], y[4];
    int32_t threads;
    int allocated;
};

static void demand(int held, const char *what) {
    if (held) return;
    fprintf(stderr, "out of turn: %s\n", what);
    abort();
}

const char *TfLiteVersion(void) { return "2.99.0"; }

void *TfLiteModelCreateFromFile(const char *path) {
    FILE *file = fopen(path, "rb");
    char head[8] = {0};
    if (file == NULL) return NULL;
    size_t count = fread(head, 1, sizeof head, file);
    (void)fclose(file);
    return count == 8 && memcmp(head + 4, "TFL3", 4) == 0 ? calloc(1, 1) : NULL;
}

void *TfLiteInterpreterOptionsCreate(void) { return calloc(1, sizeof(struct options)); }

void TfLiteInterpreterOptionsSetNumThreads(void *options, int32_t threads) { ((struct options *)options)->threads = threads; }

struct xnnpack TfLiteXNNPackDelegateOptionsDefault(void) { return (struct xnnpack){.threads = 77, .flags = {1, 2, 3}}; }

void *TfLiteXNNPackDelegateCreate(const struct xnnpack *options) {
    demand(options->flags[0] == 1 && options->flags[2] == 3, "options of XNNPACK that are its own");
    int32_t *made = malloc(sizeof *made);
    *made = options->threads;
    return made;
}

void TfLiteInterpreterOptionsAddDelegate(void *options, void *delegate) {
    struct options *held = options;
    demand(*(int32_t *)delegate == held->threads, "threads of XNNPACK");
    held->delegates++;
}

void *TfLiteInterpreterCreate(void *model, void *options) {
    struct options *held = options;
    demand(model != NULL && held->delegates == 1, "a model and one delegate");
    struct interpreter *made = calloc(1, sizeof *made);
    made->threads = held->threads;
    return made;
}

void *TfLiteInterpreterGetSignatureRunner(void *interpreter, const char *key) {
    return strcmp(key, "serving_default") == 0 ? interpreter : NULL;
}

int TfLiteSignatureRunnerAllocateTensors(void *runner) {
    ((struct interpreter *)runner)->allocated = 1;
    return 0;
}

size_t TfLiteSignatureRunnerGetInputCount(void *runner) { return runner ? 1 : 0; }
size_t TfLiteSignatureRunnerGetOutputCount(void *runner) { return runner ? 1 : 0; }
const char *TfLiteSignatureRunnerGetInputName(void *runner, int32_t index) { return runner && index == 0 ? "x" : NULL; }
const char *TfLiteSignatureRunnerGetOutputName(void *runner, int32_t index) { return runner && index == 0 ? "y" : NULL; }

void *TfLiteSignatureRunnerGetInputTensor(void *runner, const char *name) {
    demand(((struct interpreter *)runner)->allocated && strcmp(name, "x") == 0, "an input before memory");
    return ((struct interpreter *)runner)->x;
}

void *TfLiteSignatureRunnerGetOutputTensor(void *runner, const char *name) {
    demand(strcmp(name, "y") == 0, "an output");
    return ((struct interpreter *)runner)->y;
}

int TfLiteSignatureRunnerInvoke(void *runner) {
    struct interpreter *held = runner;
    for (int i = 0; i < 4; i++) held->y[i] = 2 * held->x[i] + (float)held->threads;
    return 0;
}

int TfLiteTensorType(void *tensor) { return tensor ? 1 : 0; }
int32_t TfLiteTensorNumDims(void *tensor) { return tensor ? 2 : 0; }
int32_t TfLiteTensorDim(void *tensor, int32_t index) { return tensor && index == 1 ? 4 : 1; }
size_t TfLiteTensorByteSize(void *tensor) { return tensor ? 4 * sizeof(float) : 0; }
void *TfLiteTensorData(void *tensor) { return tensor; }

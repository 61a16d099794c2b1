#include "tensor.h"

#include <stdio.h>
#include <string.h>

#include "common.h"

struct kind {
    const char *name;
    int tflite, onnx;
    size_t bytes;
};

/* TfLiteType of LiteRT's c_api_types.h; TensorProto.DataType of onnx.proto. */
static const struct kind KINDS[] = {
    {"float32", 1, 1, 4},    {"int32", 2, 6, 4},     {"uint8", 3, 2, 1},      {"int64", 4, 7, 8},
    {"bool", 6, 9, 1},       {"int16", 7, 5, 2},     {"int8", 9, 3, 1},       {"float16", 10, 10, 2},
    {"float64", 11, 11, 8},  {"uint64", 13, 13, 8},  {"uint32", 16, 12, 4},   {"uint16", 17, 4, 2},
};
enum { KIND_COUNT = sizeof KINDS / sizeof KINDS[0] };

static const struct kind *kind_of(int element) {
    for (int i = 0; i < KIND_COUNT; i++)
        if (KINDS[i].tflite == element) return &KINDS[i];
    return NULL;
}

int element_of(const char *name) {
    for (int i = 0; i < KIND_COUNT; i++)
        if (strcmp(KINDS[i].name, name) == 0) return KINDS[i].tflite;
    fail("the element type %s is not known here", name);
}

const char *element_name(int element) {
    const struct kind *kind = kind_of(element);
    return kind ? kind->name : NULL;
}

int element_to_onnx(int element) {
    const struct kind *kind = kind_of(element);
    return kind ? kind->onnx : 0;
}

int element_from_onnx(int onnx) {
    for (int i = 0; i < KIND_COUNT; i++)
        if (KINDS[i].onnx == onnx) return KINDS[i].tflite;
    return ELEMENT_NONE;
}

size_t tensor_bytes(const struct tensor *tensor) {
    const struct kind *kind = kind_of(tensor->element);
    if (kind == NULL) fail("%s is of a type that is not passed here (%d)", tensor->name, tensor->element);
    size_t bytes = kind->bytes;
    for (int i = 0; i < tensor->rank; i++) {
        if (tensor->shape[i] < 0) fail("%s has a dimension that is not known before it runs", tensor->name);
        if (__builtin_mul_overflow(bytes, (size_t)tensor->shape[i], &bytes)) fail("%s is larger than any memory", tensor->name);
    }
    return bytes;
}

static const char *shape_words(const struct tensor *tensor, char *words, size_t size) {
    size_t used = 0;
    words[0] = 0;
    for (int i = 0; i < tensor->rank && used < size; i++)
        used += (size_t)snprintf(words + used, size - used, "%s%lld", i ? ", " : "", (long long)tensor->shape[i]);
    return words;
}

static int fits(const struct tensor *given, const struct tensor *taken) {
    if (given->rank != taken->rank) return 0;
    for (int i = 0; i < given->rank; i++)
        if (taken->shape[i] >= 0 && given->shape[i] != taken->shape[i]) return 0;
    return 1;
}

void require_same(const struct tensor *given, const struct tensor *taken) {
    char here[200], there[200];
    const char *name = element_name(taken->element);
    if (given->element != taken->element)
        fail("input %s is %s, the artifact takes %s", given->name, element_name(given->element), name ? name : "another type");
    if (!fits(given, taken))
        fail("input %s has shape (%s), the artifact takes (%s)", given->name, shape_words(given, here, sizeof here),
             shape_words(taken, there, sizeof there));
}

/* A tensor of one sample: its name, type, shape and bytes, in the machine's (little-endian) order. */
#ifndef EDGEPACK_TENSOR_H
#define EDGEPACK_TENSOR_H

#include <stddef.h>
#include <stdint.h>

enum { MOST_DIMENSIONS = 8 };

/* Numbers of the element types in a .tflite file and in LiteRT's C interface (TfLiteType); 0 is none. */
enum element { ELEMENT_NONE = 0 };

struct tensor {
    const char *name;
    int element; /* TfLiteType */
    int rank;
    int64_t shape[MOST_DIMENSIONS];
    size_t bytes;
    void *data;
};

/* Between numpy's names ("float32") and the types' numbers; a failure, or NULL, for what numpy has not. */
int element_of(const char *name);
const char *element_name(int element);

/* Between TfLiteType and ONNX's TensorProto.DataType, which ONNX Runtime uses; 0 for what one of them lacks. */
int element_to_onnx(int element);
int element_from_onnx(int onnx);

/* Bytes of a tensor's shape; a failure for a dimension that is not known or too much. */
size_t tensor_bytes(const struct tensor *tensor);

/* A failure unless a tensor of the request is what the artifact takes. A dimension of -1 takes any size. */
void require_same(const struct tensor *given, const struct tensor *taken);

#endif

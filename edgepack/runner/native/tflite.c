/* LiteRT through TensorFlow Lite's C interface: libtensorflowlite_c.so, or libtensorflowlite_jni.so of the Android AARs
 * org.tensorflow:tensorflow-lite and com.google.ai.edge.litert:litert 1.x. https://ai.google.dev/edge/api/tflite/c, c_api.h.
 *
 * Where the library offers XNNPACK it is set explicitly, with the library's own default options and the threads asked for: the C
 * interface applies it by itself only in some builds.
 */
#include <string.h>

#include "common.h"
#include "runtime.h"

typedef struct opaque *handle;

/* TfLiteXNNPackDelegateOptions: the threads come first in every version, the rest differs. It is returned in memory of the caller
 * (more than 16 bytes, by the procedure call standards of AArch64 and x86-64), so a struct that is larger than any version is safe. */
struct xnnpack_options {
    int32_t threads;
    unsigned char rest[508];
};

static struct {
    const char *(*version)(void);
    handle (*create_model)(const char *);
    handle (*create_options)(void);
    void (*set_threads)(handle, int32_t);
    void (*add_delegate)(handle, handle);
    handle (*create)(handle, handle);
    handle (*signature_runner)(handle, const char *);
    size_t (*input_count)(handle);
    const char *(*input_name)(handle, int32_t);
    handle (*input)(handle, const char *);
    size_t (*output_count)(handle);
    const char *(*output_name)(handle, int32_t);
    handle (*output)(handle, const char *);
    int (*allocate)(handle);
    int (*invoke)(handle);
    int (*element)(handle);
    int32_t (*rank)(handle);
    int32_t (*size)(handle, int32_t);
    size_t (*bytes)(handle);
    void *(*data)(handle);
    struct xnnpack_options (*xnnpack_defaults)(void);
    handle (*xnnpack)(const struct xnnpack_options *);
} tflite;

struct session {
    handle runner;
    int inputs, outputs;
    const char **input_names, **output_names;
};

static handle make_options(int threads) {
    handle options = tflite.create_options();
    tflite.set_threads(options, threads);
    if (tflite.xnnpack && tflite.xnnpack_defaults) {
        struct xnnpack_options wanted = tflite.xnnpack_defaults();
        wanted.threads = threads;
        handle delegate = tflite.xnnpack(&wanted);
        if (delegate == NULL) fail("TensorFlow Lite: XNNPACK cannot be made");
        tflite.add_delegate(options, delegate);
    }
    return options;
}

static const char **names_of(handle runner, int count, const char *(*name)(handle, int32_t)) {
    const char **names = allocate((size_t)count, sizeof *names);
    for (int i = 0; i < count; i++) names[i] = name(runner, i);
    return names;
}

static struct session *load(const char *path, int threads) {
    struct session *session = allocate(1, sizeof *session);
    handle model = tflite.create_model(path);
    if (model == NULL) fail("TensorFlow Lite: the artifact cannot be read");
    handle interpreter = tflite.create(model, make_options(threads));
    if (interpreter == NULL) fail("TensorFlow Lite: the artifact cannot be prepared");
    session->runner = tflite.signature_runner(interpreter, "serving_default");
    if (session->runner == NULL) fail("the artifact has no signature serving_default");
    if (tflite.allocate(session->runner) != 0) fail("TensorFlow Lite: memory for the artifact cannot be had");
    session->inputs = (int)tflite.input_count(session->runner);
    session->outputs = (int)tflite.output_count(session->runner);
    session->input_names = names_of(session->runner, session->inputs, tflite.input_name);
    session->output_names = names_of(session->runner, session->outputs, tflite.output_name);
    return session;
}

static struct tensor described(const char *name, handle from) {
    struct tensor tensor = {.name = name, .element = tflite.element(from), .rank = tflite.rank(from)};
    if (tensor.rank > MOST_DIMENSIONS) fail("%s has %d dimensions", name, tensor.rank);
    for (int i = 0; i < tensor.rank; i++) tensor.shape[i] = tflite.size(from, i);
    tensor.bytes = tensor_bytes(&tensor);
    tensor.data = tflite.data(from);
    if (tensor.bytes != tflite.bytes(from) || tensor.data == NULL) fail("%s has no memory of its size", name);
    return tensor;
}

static void set_inputs(struct session *session, const struct tensor *inputs, int count) {
    if (count != session->inputs) fail("%d inputs are given, the artifact takes %d", count, session->inputs);
    for (int i = 0; i < count; i++) {
        const char *name = session->input_names[find_name(session->input_names, session->inputs, inputs[i].name)];
        struct tensor taken = described(name, tflite.input(session->runner, name));
        require_same(&inputs[i], &taken);
        memcpy(taken.data, inputs[i].data, taken.bytes);
    }
}

static void invoke(struct session *session) {
    if (tflite.invoke(session->runner) != 0) fail("TensorFlow Lite: computing failed");
}

static int output_count(const struct session *session) { return session->outputs; }

static struct tensor output(struct session *session, int index) {
    const char *name = session->output_names[index];
    return described(name, tflite.output(session->runner, name));
}

static void describe(struct session *session, FILE *out) {
    (void)session;
    fprintf(out, "{\"interface\": \"TfLiteInterpreter\", \"xnnpack\": %s}", tflite.xnnpack ? "true" : "false");
}

static const struct runtime TABLE = {load, set_inputs, invoke, output_count, output, describe};

#define BIND(field, name) tflite.field = (__typeof__(tflite.field))required_symbol(library, name)
#define BIND_OPTIONAL(field, name) tflite.field = (__typeof__(tflite.field))optional_symbol(library, name)

static void bind_functions(void *library) {
    BIND(version, "TfLiteVersion");
    BIND(create_model, "TfLiteModelCreateFromFile");
    BIND(create_options, "TfLiteInterpreterOptionsCreate");
    BIND(set_threads, "TfLiteInterpreterOptionsSetNumThreads");
    BIND(add_delegate, "TfLiteInterpreterOptionsAddDelegate");
    BIND(create, "TfLiteInterpreterCreate");
    BIND(signature_runner, "TfLiteInterpreterGetSignatureRunner");
    BIND(input_count, "TfLiteSignatureRunnerGetInputCount");
    BIND(input_name, "TfLiteSignatureRunnerGetInputName");
    BIND(input, "TfLiteSignatureRunnerGetInputTensor");
    BIND(output_count, "TfLiteSignatureRunnerGetOutputCount");
    BIND(output_name, "TfLiteSignatureRunnerGetOutputName");
    BIND(output, "TfLiteSignatureRunnerGetOutputTensor");
    BIND(allocate, "TfLiteSignatureRunnerAllocateTensors");
    BIND(invoke, "TfLiteSignatureRunnerInvoke");
    BIND(element, "TfLiteTensorType");
    BIND(rank, "TfLiteTensorNumDims");
    BIND(size, "TfLiteTensorDim");
    BIND(bytes, "TfLiteTensorByteSize");
    BIND(data, "TfLiteTensorData");
    BIND_OPTIONAL(xnnpack_defaults, "TfLiteXNNPackDelegateOptionsDefault");
    BIND_OPTIONAL(xnnpack, "TfLiteXNNPackDelegateCreate");
}

const struct runtime *open_tflite(void *library) {
    identity.runtime = "litert";
    bind_functions(library);
    identity.version = tflite.version();
    return &TABLE;
}

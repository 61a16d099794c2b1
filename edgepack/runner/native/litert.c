/* LiteRT through its own C interface (libLiteRt.so of 2.1.6 and later: the Android AAR com.google.ai.edge.litert:litert, or the
 * ai-edge-litert wheel). https://ai.google.dev/edge/litert, litert/c of the public repository.
 *
 * LiteRtCreateModelFromFile takes the environment first since 2.1.6; LiteRtCreateModelFromFd came with that change and tells.
 * The processor's accelerator is XNNPACK with LiteRT's own default flags, as its Python interpreter has it.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "runtime.h"

typedef struct opaque *handle;

/* LiteRtLayout and LiteRtRankedTensorType: 68 and 72 bytes, which the library's headers assert too. */
struct layout {
    unsigned int rank : 7;
    unsigned int has_strides : 1;
    int32_t dimensions[8];
    uint32_t strides[8];
};
struct ranked_type {
    int32_t element;
    struct layout layout;
};
_Static_assert(sizeof(struct ranked_type) == 72, "LiteRtRankedTensorType has 72 bytes");

enum { ON_CPU = 1, HOST_MEMORY_ALIGNMENT = 64 };

static struct {
    int (*create_environment)(int, const void *, handle *);
    int (*create_model)(handle, const char *, handle *);
    int (*create_options)(handle *);
    int (*set_accelerators)(handle, int);
    int (*create_opaque)(const char *, void *, void (*)(void *), handle *);
    int (*add_opaque)(handle, handle);
    int (*compile)(handle, handle, handle, handle *);
    int (*signature_count)(handle, size_t *);
    int (*signature)(handle, size_t, handle *);
    int (*signature_key)(handle, const char **);
    int (*input_count)(handle, size_t *);
    int (*input_name)(handle, size_t, const char **);
    int (*input_tensor)(handle, size_t, handle *);
    int (*output_count)(handle, size_t *);
    int (*output_name)(handle, size_t, const char **);
    int (*output_tensor)(handle, size_t, handle *);
    int (*ranked_type)(handle, struct ranked_type *);
    int (*input_needs)(handle, size_t, size_t, handle *);
    int (*output_needs)(handle, size_t, size_t, handle *);
    int (*needed_bytes)(handle, size_t *);
    int (*wrap_memory)(const struct ranked_type *, void *, size_t, void (*)(void *), handle *);
    int (*run)(handle, size_t, size_t, handle *, size_t, handle *);
    int (*fully_accelerated)(handle, bool *);
} litert;

struct side {
    size_t count;
    const char **names;
    struct tensor *tensors;
    handle *buffers;
};

struct session {
    handle compiled;
    size_t signature;
    struct side inputs, outputs;
};

static void check(int status, const char *doing) {
    /* LiteRtStatus: 0 is ok; the numbers are of litert_common.h. */
    if (status != 0) fail("LiteRT: %s failed (status %d)", doing, status);
}

static handle cpu_options(int threads) {
    char words[64];
    handle options, opaque;
    (void)snprintf(words, sizeof words, "num_threads = %d\n", threads);
    check(litert.create_options(&options), "making options");
    check(litert.set_accelerators(options, ON_CPU), "choosing the processor");
    check(litert.create_opaque("xnnpack", copy_text(words), free, &opaque), "making the processor's options");
    check(litert.add_opaque(options, opaque), "setting the processor's options");
    return options;
}

static handle find_signature(handle model, size_t *index) {
    size_t count;
    check(litert.signature_count(model, &count), "counting signatures");
    for (*index = 0; *index < count; (*index)++) {
        handle found;
        const char *key;
        check(litert.signature(model, *index, &found), "reading a signature");
        check(litert.signature_key(found, &key), "reading a signature's name");
        if (strcmp(key, "serving_default") == 0 || count == 1) return found;
    }
    fail("the artifact has no signature serving_default");
}

static struct tensor describe_tensor(const char *name, handle from, struct ranked_type *type) {
    check(litert.ranked_type(from, type), "reading a tensor's type");
    struct tensor tensor = {.name = name, .element = type->element, .rank = (int)type->layout.rank};
    if (tensor.rank > MOST_DIMENSIONS) fail("%s has %d dimensions", name, tensor.rank);
    for (int i = 0; i < tensor.rank; i++) tensor.shape[i] = type->layout.dimensions[i];
    return tensor;
}

/* Memory of ours that the artifact reads from or writes to. */
static handle give_memory(struct tensor *tensor, const struct ranked_type *type, handle needs) {
    handle buffer;
    size_t needed = 0;
    tensor->bytes = tensor_bytes(tensor);
    check(litert.needed_bytes(needs, &needed), "asking for a buffer's size");
    if (needed < tensor->bytes) needed = tensor->bytes;
    tensor->data = allocate_aligned(needed, HOST_MEMORY_ALIGNMENT);
    check(litert.wrap_memory(type, tensor->data, needed, NULL, &buffer), "giving a tensor memory");
    return buffer;
}

static struct side make_side(size_t count) {
    struct side side = {.count = count};
    side.names = allocate(count, sizeof *side.names);
    side.tensors = allocate(count, sizeof *side.tensors);
    side.buffers = allocate(count, sizeof *side.buffers);
    return side;
}

static struct side bind_inputs(handle compiled, size_t index, handle signature) {
    size_t count;
    check(litert.input_count(signature, &count), "counting inputs");
    struct side side = make_side(count);
    for (size_t i = 0; i < count; i++) {
        handle tensor, needs;
        struct ranked_type type;
        check(litert.input_name(signature, i, &side.names[i]), "reading an input's name");
        check(litert.input_tensor(signature, i, &tensor), "reading an input");
        side.tensors[i] = describe_tensor(side.names[i], tensor, &type);
        check(litert.input_needs(compiled, index, i, &needs), "asking what an input needs");
        side.buffers[i] = give_memory(&side.tensors[i], &type, needs);
    }
    return side;
}

static struct side bind_outputs(handle compiled, size_t index, handle signature) {
    size_t count;
    check(litert.output_count(signature, &count), "counting outputs");
    struct side side = make_side(count);
    for (size_t i = 0; i < count; i++) {
        handle tensor, needs;
        struct ranked_type type;
        check(litert.output_name(signature, i, &side.names[i]), "reading an output's name");
        check(litert.output_tensor(signature, i, &tensor), "reading an output");
        side.tensors[i] = describe_tensor(side.names[i], tensor, &type);
        check(litert.output_needs(compiled, index, i, &needs), "asking what an output needs");
        side.buffers[i] = give_memory(&side.tensors[i], &type, needs);
    }
    return side;
}

static struct session *load(const char *path, int threads) {
    static handle environment;
    handle model, signature;
    struct session *session = allocate(1, sizeof *session);
    if (environment == NULL) check(litert.create_environment(0, NULL, &environment), "starting");
    check(litert.create_model(environment, path, &model), "reading the artifact");
    check(litert.compile(environment, model, cpu_options(threads), &session->compiled), "preparing the artifact");
    signature = find_signature(model, &session->signature);
    session->inputs = bind_inputs(session->compiled, session->signature, signature);
    session->outputs = bind_outputs(session->compiled, session->signature, signature);
    return session;
}

static void set_inputs(struct session *session, const struct tensor *inputs, int count) {
    struct side *side = &session->inputs;
    if ((size_t)count != side->count) fail("%d inputs are given, the artifact takes %zu", count, side->count);
    for (int i = 0; i < count; i++) {
        struct tensor *taken = &side->tensors[find_name(side->names, (int)side->count, inputs[i].name)];
        require_same(&inputs[i], taken);
        memcpy(taken->data, inputs[i].data, taken->bytes);
    }
}

static void invoke(struct session *session) {
    check(litert.run(session->compiled, session->signature, session->inputs.count, session->inputs.buffers, session->outputs.count,
                     session->outputs.buffers),
          "computing");
}

static int output_count(const struct session *session) { return (int)session->outputs.count; }

static struct tensor output(struct session *session, int index) { return session->outputs.tensors[index]; }

static void describe(struct session *session, FILE *out) {
    bool whole = false;
    check(litert.fully_accelerated(session->compiled, &whole), "asking for delegates");
    fprintf(out, "{\"interface\": \"LiteRtCompiledModel\", \"fully_delegated\": %s}", whole ? "true" : "false");
}

static const struct runtime TABLE = {load, set_inputs, invoke, output_count, output, describe};

#define BIND(field, name) litert.field = (__typeof__(litert.field))required_symbol(library, name)

static void bind_functions(void *library) {
    BIND(create_environment, "LiteRtCreateEnvironment");
    BIND(create_model, "LiteRtCreateModelFromFile");
    BIND(create_options, "LiteRtCreateOptions");
    BIND(set_accelerators, "LiteRtSetOptionsHardwareAccelerators");
    BIND(create_opaque, "LiteRtCreateOpaqueOptions");
    BIND(add_opaque, "LiteRtAddOpaqueOptions");
    BIND(compile, "LiteRtCreateCompiledModel");
    BIND(signature_count, "LiteRtGetNumModelSignatures");
    BIND(signature, "LiteRtGetModelSignature");
    BIND(signature_key, "LiteRtGetSignatureKey");
    BIND(input_count, "LiteRtGetNumSignatureInputs");
    BIND(input_name, "LiteRtGetSignatureInputName");
    BIND(input_tensor, "LiteRtGetSignatureInputTensorByIndex");
    BIND(output_count, "LiteRtGetNumSignatureOutputs");
    BIND(output_name, "LiteRtGetSignatureOutputName");
    BIND(output_tensor, "LiteRtGetSignatureOutputTensorByIndex");
    BIND(ranked_type, "LiteRtGetRankedTensorType");
    BIND(input_needs, "LiteRtGetCompiledModelInputBufferRequirements");
    BIND(output_needs, "LiteRtGetCompiledModelOutputBufferRequirements");
    BIND(needed_bytes, "LiteRtGetTensorBufferRequirementsBufferSize");
    BIND(wrap_memory, "LiteRtCreateTensorBufferFromHostMemory");
    BIND(run, "LiteRtRunCompiledModel");
    BIND(fully_accelerated, "LiteRtCompiledModelIsFullyAccelerated");
}

const struct runtime *open_litert(void *library) {
    identity.runtime = "litert";
    if (optional_symbol(library, "LiteRtCreateModelFromFd") == NULL)
        fail("this libLiteRt.so is older than 2.1.6: take a newer one, or the libtensorflowlite_jni.so beside it");
    bind_functions(library);
    return &TABLE;
}

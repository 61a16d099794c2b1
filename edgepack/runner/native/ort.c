/* ONNX Runtime through its C interface: libonnxruntime.so of the Android AAR com.microsoft.onnxruntime:onnxruntime-android, or of the
 * onnxruntime wheel. https://onnxruntime.ai/docs/api/c, onnxruntime_c_api.h.
 *
 * OrtApi is a table of functions that only ever grows; positions are those of API version 8, which every release since 1.8 has.
 * Settings are those of edgepack/runner/ort.py: with several threads all sessions share one pool, because the idle session's threads
 * spin after its query and would take the other's cores.
 */
#include <string.h>

#include "common.h"
#include "runtime.h"

typedef struct opaque *handle;

struct api_base {
    const any_function *(*get_api)(uint32_t version);
    const char *(*version)(void);
};

enum { API_VERSION = 8, LOG_ERRORS = 3, DEVICE_ALLOCATOR = 0, DEFAULT_MEMORY = 0 };

/* Positions in OrtApi. */
enum {
    GET_ERROR_MESSAGE = 2,
    CREATE_ENV = 3,
    CREATE_SESSION = 7,
    CREATE_SESSION_OPTIONS = 10,
    SET_INTRA_OP_THREADS = 24,
    SET_INTER_OP_THREADS = 25,
    SESSION_INPUT_COUNT = 30,
    SESSION_OUTPUT_COUNT = 31,
    SESSION_INPUT_TYPE = 33,
    SESSION_INPUT_NAME = 36,
    SESSION_OUTPUT_NAME = 37,
    CREATE_TENSOR_WITH_DATA = 49,
    TENSOR_DATA = 51,
    CAST_TO_TENSOR_INFO = 55,
    TENSOR_ELEMENT = 60,
    DIMENSION_COUNT = 61,
    DIMENSIONS = 62,
    TENSOR_TYPE_AND_SHAPE = 65,
    CREATE_CPU_MEMORY_INFO = 69,
    DEFAULT_ALLOCATOR = 78,
    RELEASE_VALUE = 96,
    RELEASE_TENSOR_INFO = 99,
    CREATE_ENV_WITH_GLOBAL_THREADS = 119,
    DISABLE_SESSION_THREADS = 120,
    CREATE_THREADING_OPTIONS = 121,
    ADD_SESSION_CONFIG = 130,
    RUN_WITH_BINDING = 133,
    CREATE_BINDING = 134,
    BIND_INPUT = 136,
    BIND_OUTPUT_TO_DEVICE = 138,
    BOUND_OUTPUT_VALUES = 140,
    CLEAR_OUTPUTS = 142,
    GLOBAL_INTRA_OP_THREADS = 147,
    GLOBAL_INTER_OP_THREADS = 148,
};

static struct {
    const char *(*error_message)(handle);
    handle (*create_env)(int, const char *, handle *);
    handle (*create_session)(handle, const char *, handle, handle *);
    handle (*create_session_options)(handle *);
    handle (*set_intra_threads)(handle, int);
    handle (*set_inter_threads)(handle, int);
    handle (*input_count)(handle, size_t *);
    handle (*output_count)(handle, size_t *);
    handle (*input_type)(handle, size_t, handle *);
    handle (*input_name)(handle, size_t, handle, const char **);
    handle (*output_name)(handle, size_t, handle, const char **);
    handle (*create_tensor)(handle, void *, size_t, const int64_t *, size_t, int, handle *);
    handle (*tensor_data)(handle, void **);
    handle (*tensor_info)(handle, handle *);
    handle (*element)(handle, int *);
    handle (*rank)(handle, size_t *);
    handle (*dimensions)(handle, int64_t *, size_t);
    handle (*type_and_shape)(handle, handle *);
    handle (*cpu_memory)(int, int, handle *);
    handle (*default_allocator)(handle *);
    void (*release_value)(handle);
    void (*release_tensor_info)(handle);
    handle (*create_shared_env)(int, const char *, handle, handle *);
    handle (*disable_session_threads)(handle);
    handle (*create_threading)(handle *);
    handle (*add_config)(handle, const char *, const char *);
    handle (*run)(handle, handle, handle);
    handle (*create_binding)(handle, handle *);
    handle (*bind_input)(handle, const char *, handle);
    handle (*bind_output)(handle, const char *, handle);
    handle (*bound_outputs)(handle, handle, handle **, size_t *);
    void (*clear_outputs)(handle);
    handle (*set_shared_intra)(handle, int);
    handle (*set_shared_inter)(handle, int);
} ort;

/* One for the process: its threads, its memory on the processor, its allocator. */
static struct {
    handle env, memory, allocator;
    int threads;
} shared;

struct session {
    handle session, binding;
    size_t inputs, outputs;
    const char **input_names, **output_names;
    handle *taken;
    struct tensor *results;
};

static void check(handle status, const char *doing) {
    if (status != NULL) fail("onnxruntime: %s failed: %s", doing, ort.error_message(status));
}

static void start(int threads) {
    handle pool;
    if (shared.env != NULL) return;
    shared.threads = threads;
    check(ort.cpu_memory(DEVICE_ALLOCATOR, DEFAULT_MEMORY, &shared.memory), "naming the processor's memory");
    check(ort.default_allocator(&shared.allocator), "finding an allocator");
    if (threads == 1) {
        check(ort.create_env(LOG_ERRORS, "edgepack", &shared.env), "starting");
        return;
    }
    check(ort.create_threading(&pool), "making a thread pool");
    check(ort.set_shared_intra(pool, threads), "setting threads");
    check(ort.set_shared_inter(pool, 1), "setting threads");
    check(ort.create_shared_env(LOG_ERRORS, "edgepack", pool, &shared.env), "starting");
}

static handle make_options(void) {
    handle options;
    check(ort.create_session_options(&options), "making options");
    if (shared.threads > 1) {
        check(ort.disable_session_threads(options), "sharing threads");
    } else {
        check(ort.set_intra_threads(options, 1), "setting threads");
        check(ort.set_inter_threads(options, 1), "setting threads");
    }
#if defined(__x86_64__) || defined(__i386__)
    /* Without VNNI, x86 adds int8 products in 16 bits and saturates; Arm does not. */
    check(ort.add_config(options, "session.x64quantprecision", "1"), "asking for exact sums");
#endif
    return options;
}

static const char **names_of(handle session, size_t count, handle (*name)(handle, size_t, handle, const char **)) {
    const char **names = allocate(count, sizeof *names);
    for (size_t i = 0; i < count; i++) check(name(session, i, shared.allocator, &names[i]), "reading a name");
    return names;
}

static struct session *load(const char *path, int threads) {
    struct session *made = allocate(1, sizeof *made);
    start(threads);
    check(ort.create_session(shared.env, path, make_options(), &made->session), "loading the artifact");
    check(ort.input_count(made->session, &made->inputs), "counting inputs");
    check(ort.output_count(made->session, &made->outputs), "counting outputs");
    made->input_names = names_of(made->session, made->inputs, ort.input_name);
    made->output_names = names_of(made->session, made->outputs, ort.output_name);
    made->taken = allocate(made->inputs, sizeof *made->taken);
    made->results = allocate(made->outputs, sizeof *made->results);
    check(ort.create_binding(made->session, &made->binding), "making a binding");
    return made;
}

static struct tensor described(const char *name, handle info) {
    int element;
    size_t rank;
    check(ort.element(info, &element), "reading a type");
    check(ort.rank(info, &rank), "reading a shape");
    if (rank > MOST_DIMENSIONS) fail("%s has %zu dimensions", name, rank);
    struct tensor tensor = {.name = name, .element = element_from_onnx(element), .rank = (int)rank};
    check(ort.dimensions(info, tensor.shape, rank), "reading a shape");
    return tensor;
}

static struct tensor input_of(const struct session *session, int index) {
    handle type, info;
    check(ort.input_type(session->session, (size_t)index, &type), "reading an input's type");
    check(ort.tensor_info(type, &info), "reading an input's type");
    if (info == NULL) fail("input %s is no tensor", session->input_names[index]);
    return described(session->input_names[index], info);
}

/* Anew for each sample: what the last one left would be taken for memory of the right shape. */
static void bind_outputs(struct session *session) {
    ort.clear_outputs(session->binding);
    for (size_t i = 0; i < session->outputs; i++)
        check(ort.bind_output(session->binding, session->output_names[i], shared.memory), "binding an output");
}

static void set_inputs(struct session *session, const struct tensor *inputs, int count) {
    if ((size_t)count != session->inputs) fail("%d inputs are given, the artifact takes %zu", count, session->inputs);
    bind_outputs(session);
    for (int i = 0; i < count; i++) {
        const struct tensor *given = &inputs[i];
        int index = find_name(session->input_names, count, given->name);
        struct tensor taken = input_of(session, index);
        require_same(given, &taken);
        if (session->taken[index]) ort.release_value(session->taken[index]);
        check(ort.create_tensor(shared.memory, given->data, given->bytes, given->shape, (size_t)given->rank,
                                element_to_onnx(given->element), &session->taken[index]),
              "making a tensor");
        check(ort.bind_input(session->binding, given->name, session->taken[index]), "binding an input");
    }
}

static void invoke(struct session *session) { check(ort.run(session->session, NULL, session->binding), "computing"); }

static int output_count(const struct session *session) { return (int)session->outputs; }

static struct tensor result_of(const char *name, handle value) {
    handle info;
    check(ort.type_and_shape(value, &info), "reading a result");
    struct tensor tensor = described(name, info);
    ort.release_tensor_info(info);
    tensor.bytes = tensor_bytes(&tensor);
    check(ort.tensor_data(value, &tensor.data), "reading a result");
    return tensor;
}

/* The binding keeps the values; the list of them is small and is left to the end of the process. */
static struct tensor output(struct session *session, int index) {
    if (index == 0) {
        handle *values;
        size_t count;
        check(ort.bound_outputs(session->binding, shared.allocator, &values, &count), "reading results");
        if (count != session->outputs) fail("the artifact gives %zu results, not %zu", count, session->outputs);
        for (size_t i = 0; i < count; i++) {
            session->results[i] = result_of(session->output_names[i], values[i]);
            ort.release_value(values[i]);
        }
    }
    return session->results[index];
}

static void describe(struct session *session, FILE *out) {
    (void)session;
    fprintf(out, "{\"interface\": \"OrtApi\", \"providers\": [\"CPUExecutionProvider\"]}");
}

static const struct runtime TABLE = {load, set_inputs, invoke, output_count, output, describe};

#define BIND(field, position) ort.field = (__typeof__(ort.field))api[position]

static void bind_functions(const any_function *api) {
    BIND(error_message, GET_ERROR_MESSAGE);
    BIND(create_env, CREATE_ENV);
    BIND(create_session, CREATE_SESSION);
    BIND(create_session_options, CREATE_SESSION_OPTIONS);
    BIND(set_intra_threads, SET_INTRA_OP_THREADS);
    BIND(set_inter_threads, SET_INTER_OP_THREADS);
    BIND(input_count, SESSION_INPUT_COUNT);
    BIND(output_count, SESSION_OUTPUT_COUNT);
    BIND(input_type, SESSION_INPUT_TYPE);
    BIND(input_name, SESSION_INPUT_NAME);
    BIND(output_name, SESSION_OUTPUT_NAME);
    BIND(create_tensor, CREATE_TENSOR_WITH_DATA);
    BIND(tensor_data, TENSOR_DATA);
    BIND(tensor_info, CAST_TO_TENSOR_INFO);
    BIND(element, TENSOR_ELEMENT);
    BIND(rank, DIMENSION_COUNT);
    BIND(dimensions, DIMENSIONS);
    BIND(type_and_shape, TENSOR_TYPE_AND_SHAPE);
    BIND(cpu_memory, CREATE_CPU_MEMORY_INFO);
    BIND(default_allocator, DEFAULT_ALLOCATOR);
    BIND(release_value, RELEASE_VALUE);
    BIND(release_tensor_info, RELEASE_TENSOR_INFO);
    BIND(create_shared_env, CREATE_ENV_WITH_GLOBAL_THREADS);
    BIND(disable_session_threads, DISABLE_SESSION_THREADS);
    BIND(create_threading, CREATE_THREADING_OPTIONS);
    BIND(add_config, ADD_SESSION_CONFIG);
    BIND(run, RUN_WITH_BINDING);
    BIND(create_binding, CREATE_BINDING);
    BIND(bind_input, BIND_INPUT);
    BIND(bind_output, BIND_OUTPUT_TO_DEVICE);
    BIND(bound_outputs, BOUND_OUTPUT_VALUES);
    BIND(clear_outputs, CLEAR_OUTPUTS);
    BIND(set_shared_intra, GLOBAL_INTRA_OP_THREADS);
    BIND(set_shared_inter, GLOBAL_INTER_OP_THREADS);
}

const struct runtime *open_ort(void *library) {
    const struct api_base *(*get_base)(void) = (const struct api_base *(*)(void))required_symbol(library, "OrtGetApiBase");
    const struct api_base *base = get_base();
    identity.runtime = "onnxruntime";
    identity.version = base->version();
    const any_function *api = base->get_api(API_VERSION);
    if (api == NULL) fail("onnxruntime %s does not offer version %d of its interface: take 1.8 or newer", identity.version, API_VERSION);
    bind_functions(api);
    return &TABLE;
}

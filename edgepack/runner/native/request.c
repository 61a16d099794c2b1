#define _DEFAULT_SOURCE

#include "request.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

/* Fields of one line: more dimensions than a tensor has are refused there. */
enum { MOST_FIELDS = 3 + MOST_DIMENSIONS + 1 };

static int64_t whole(const char *key, const char *text) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end == text || *end || value < 0) fail("the request's %s is no number: %s", key, text);
    return value;
}

static double real(const char *key, const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value) || value < 0) fail("the request's %s is no number: %s", key, text);
    return value;
}

static void add_artifact(struct request *request, char **fields, int count) {
    if (count != 3) fail("the request names an artifact in %d fields", count);
    if (request->artifact_count == MOST_ARTIFACTS) fail("the request names more than %d artifacts", MOST_ARTIFACTS);
    request->artifacts[request->artifact_count++] = (struct artifact){fields[1], fields[2]};
}

static void add_input(struct request *request, char **fields, int count) {
    if (count < 3 || count > 3 + MOST_DIMENSIONS) fail("the request names an input in %d fields", count);
    if (request->input_count == MOST_INPUTS) fail("the request names more than %d inputs", MOST_INPUTS);
    struct tensor *input = &request->inputs[request->input_count++];
    *input = (struct tensor){.name = fields[1], .element = element_of(fields[2]), .rank = count - 3};
    for (int i = 0; i < input->rank; i++) input->shape[i] = whole("dimension", fields[3 + i]);
    input->bytes = tensor_bytes(input);
}

static int set_text(struct request *request, const char *key, const char *value) {
    const char **place = strcmp(key, "action") == 0    ? &request->action
                         : strcmp(key, "runtime") == 0 ? &request->runtime
                         : strcmp(key, "inputs") == 0  ? &request->inputs_path
                         : strcmp(key, "outputs") == 0 ? &request->outputs_path
                                                       : NULL;
    if (place) *place = value;
    return place != NULL;
}

static int set_number(struct request *request, const char *key, const char *value) {
    const struct {
        const char *name;
        int64_t *whole;
        double *real;
    } places[] = {
        {"schema", &request->schema, NULL},       {"samples", &request->samples, NULL},
        {"threads", &request->threads, NULL},     {"warm_up", &request->warm_up, NULL},
        {"pairs", &request->pairs, NULL},         {"inner", &request->inner, NULL},
        {"tethered", &request->tethered, NULL},   {"seconds", NULL, &request->seconds},
        {"warm_up_seconds", NULL, &request->warm_up_seconds}, {"silence", NULL, &request->silence},
    };
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        if (strcmp(key, places[i].name) != 0) continue;
        if (places[i].whole) *places[i].whole = whole(key, value);
        if (places[i].real) *places[i].real = real(key, value);
        return 1;
    }
    return 0;
}

static void take_line(struct request *request, char *line) {
    char *fields[MOST_FIELDS];
    int count = 0;
    for (char *rest = line, *field; (field = strsep(&rest, "\t")) != NULL;) {
        if (count == MOST_FIELDS) fail("a line of the request has more than %d fields", MOST_FIELDS);
        fields[count++] = field;
    }
    if (strcmp(fields[0], "artifact") == 0)
        add_artifact(request, fields, count);
    else if (strcmp(fields[0], "input") == 0)
        add_input(request, fields, count);
    else if (count != 2 || !(set_text(request, fields[0], fields[1]) || set_number(request, fields[0], fields[1])))
        fail("the request has a line that is not known here: %s", fields[0]);
}

/* A whole file, with a NUL behind it; its size. */
static char *read_whole(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) fail("%s cannot be read: %s", path, strerror(errno));
    if (fseek(file, 0, SEEK_END) != 0) fail("%s cannot be read: %s", path, strerror(errno));
    long length = ftell(file);
    if (length < 0) fail("%s cannot be read: %s", path, strerror(errno));
    rewind(file);
    char *content = allocate((size_t)length + 1, 1);
    if (fread(content, 1, (size_t)length, file) != (size_t)length) fail("%s cannot be read: %s", path, strerror(errno));
    (void)fclose(file);
    *size = (size_t)length;
    return content;
}

static void require_complete(const struct request *request) {
    if (request->schema != SCHEMA) fail("request schema %lld is not %d", (long long)request->schema, SCHEMA);
    if (!request->action || !request->runtime || !request->artifact_count) fail("the request names no action, runtime or artifact");
    if (request->threads < 1 || request->threads > 1024) fail("%lld threads compute nothing", (long long)request->threads);
    if (request->inner > (1 << 30)) fail("%lld queries are no batch", (long long)request->inner);
}

struct request *read_request(const char *path) {
    struct request *request = allocate(1, sizeof *request);
    size_t size;
    char *rest = read_whole(path, &size);
    request->threads = 1;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;)
        if (*line) take_line(request, line);
    require_complete(request);
    return request;
}

void read_inputs(struct request *request) {
    size_t size, needed = 0;
    if (!request->inputs_path || !request->outputs_path) fail("the request names no inputs or outputs");
    if (request->samples < 1 || request->input_count < 1) fail("the request has no samples");
    char *content = read_whole(request->inputs_path, &size);
    for (int i = 0; i < request->input_count; i++) {
        size_t bytes;
        struct tensor *input = &request->inputs[i];
        if (__builtin_mul_overflow(input->bytes, (size_t)request->samples, &bytes)) fail("%s is larger than any memory", input->name);
        input->data = content + (needed < size ? needed : size);
        if (__builtin_add_overflow(needed, bytes, &needed)) fail("%s is larger than any memory", input->name);
    }
    if (needed != size) fail("the inputs have %zu bytes, the request says %zu", size, needed);
}

/* Each in memory of its own, aligned for any element: onnxruntime reads it in place. */
void take_sample(const struct request *request, int64_t sample, struct tensor *inputs) {
    for (int i = 0; i < request->input_count; i++) {
        const struct tensor *stacked = &request->inputs[i];
        if (inputs[i].data == NULL) {
            inputs[i] = *stacked;
            inputs[i].data = allocate_aligned(stacked->bytes, 64);
        }
        memcpy(inputs[i].data, (const char *)stacked->data + (size_t)sample * stacked->bytes, stacked->bytes);
    }
}

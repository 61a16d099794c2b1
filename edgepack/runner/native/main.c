/* The runner for phones: one program for LiteRT and ONNX Runtime, which it opens by path. libc only.
 *
 *     edgepack-runner answer REQUEST         one request (request.h); the response is the last line of standard output, as JSON
 *     edgepack-runner hold FOLDER SECONDS SILENCE    the device's lock and a run folder, until standard input ends (hold.h)
 *     edgepack-runner clocks                 the device's clocks
 *
 * Exit code 0 for a response with "ok": true, 1 otherwise, 2 for a command line that is none. Progress and words go to standard error.
 */
#define _DEFAULT_SOURCE

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "common.h"
#include "hold.h"
#include "measure.h"
#include "request.h"
#include "runtime.h"

/* Ten lines a run at most: each costs a write on a slow link. */
enum { PROGRESS_LINES = 10 };

static void tell(int64_t done, int64_t total) {
    if (done * PROGRESS_LINES / total == (done - 1) * PROGRESS_LINES / total) return;
    fprintf(stderr, "{\"progress\": [%lld, %lld]}\n", (long long)done, (long long)total);
}

static FILE *open_outputs(const struct request *request) {
    FILE *file = fopen(request->outputs_path, "wb");
    if (file == NULL) fail("%s cannot be written: %s", request->outputs_path, strerror(errno));
    return file;
}

static void put(FILE *file, const void *data, size_t bytes) {
    if (bytes && fwrite(data, 1, bytes, file) != bytes) fail("the outputs cannot be written: %s", strerror(errno));
}

static void close_outputs(FILE *file) {
    if (fclose(file) != 0) fail("the outputs cannot be written: %s", strerror(errno));
}

/* One array of the file of outputs: where it begins, and how far its samples are apart. */
static void describe_array(const char *name, const char *dtype, size_t offset, size_t stride) {
    printf("{\"name\": ");
    json_text(stdout, name);
    printf(", \"dtype\": \"%s\", \"offset\": %zu, \"stride\": %zu, \"shape\": [", dtype, offset, stride);
}

static void end_response(const struct request *request) {
    struct rusage used;
    double seconds = 0;
    long peak = 0;
    if (getrusage(RUSAGE_SELF, &used) == 0) {
        peak = used.ru_maxrss;
        seconds = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    }
    printf(", \"threads\": %lld, \"peak_bytes\": %lld, \"cpu_seconds\": %.3f, \"ok\": true}\n", (long long)request->threads,
           (long long)peak * 1024, seconds);
}

/* Results of a sample, one behind the other; every sample's must have the shape of the first's. */
static void put_results(FILE *file, const struct runtime *runtime, struct session *session, struct tensor *first, int64_t sample) {
    for (int i = 0; i < runtime->output_count(session); i++) {
        struct tensor result = runtime->output(session, i);
        if (sample == 0)
            first[i] = result;
        else if (result.rank != first[i].rank || memcmp(result.shape, first[i].shape, sizeof result.shape) != 0)
            fail("output %s changes its shape from sample to sample", result.name);
        put(file, result.data, result.bytes);
    }
}

static void say_results(const struct tensor *results, int count) {
    size_t stride = 0, offset = 0;
    for (int i = 0; i < count; i++) stride += results[i].bytes;
    printf(", \"arrays\": [");
    for (int i = 0; i < count; i++) {
        printf("%s", i ? ", " : "");
        describe_array(results[i].name, element_name(results[i].element), offset, stride);
        for (int j = 0; j < results[i].rank; j++) printf("%s%lld", j ? ", " : "", (long long)results[i].shape[j]);
        printf("]}");
        offset += results[i].bytes;
    }
    printf("]");
}

static struct session *load_only(const struct runtime *runtime, const struct request *request) {
    if (request->artifact_count != 1) fail("%d artifacts are given, this takes one", request->artifact_count);
    return runtime->load(request->artifacts[0].path, (int)request->threads);
}

static void run(const struct runtime *runtime, struct request *request) {
    struct tensor inputs[MOST_INPUTS] = {0};
    read_inputs(request);
    struct session *session = load_only(runtime, request);
    struct tensor *results = allocate((size_t)runtime->output_count(session), sizeof *results);
    FILE *file = open_outputs(request);
    for (int64_t i = 0; i < request->samples; i++) {
        take_sample(request, i, inputs);
        runtime->set_inputs(session, inputs, request->input_count);
        runtime->invoke(session);
        put_results(file, runtime, session, results, i);
        tell(i + 1, request->samples);
    }
    close_outputs(file);
    response_header(stdout);
    printf(", \"count\": %lld", (long long)request->samples);
    say_results(results, runtime->output_count(session));
    printf(", \"session\": ");
    runtime->describe(session, stdout);
    end_response(request);
}

static void describe(const struct runtime *runtime, struct request *request) {
    struct session *session = load_only(runtime, request);
    response_header(stdout);
    printf(", \"session\": ");
    runtime->describe(session, stdout);
    end_response(request);
}

static void prepare(struct timed *timed, const struct runtime *runtime, const struct request *request, int index) {
    struct tensor *inputs = allocate(MOST_INPUTS, sizeof *inputs);
    timed->runtime = runtime;
    timed->session = runtime->load(request->artifacts[index].path, (int)request->threads);
    take_sample(request, 0, inputs);
    runtime->set_inputs(timed->session, inputs, request->input_count);
}

static void put_times(FILE *file, const struct timed *timed, int64_t first) {
    for (size_t i = 0; i < timed->starts.count; i++) {
        int64_t span = (timed->ends.values[i] - timed->starts.values[i] + timed->inner / 2) / timed->inner;
        put(file, &span, sizeof span);
    }
    for (size_t i = 0; i < timed->starts.count; i++) {
        int64_t start = timed->starts.values[i] - first;
        put(file, &start, sizeof start);
    }
}

/* Two arrays of each label: nanoseconds a query, then when each began. */
static void say_times(const struct request *request, const struct timed *timed) {
    char name[512];
    size_t bytes = timed[0].starts.count * sizeof(int64_t);
    printf(", \"arrays\": [");
    for (int i = 0; i < request->artifact_count; i++) {
        const char *label = request->artifacts[i].label;
        printf("%s", i ? ", " : "");
        describe_array(label, "int64", 2 * (size_t)i * bytes, sizeof(int64_t));
        (void)snprintf(name, sizeof name, "%s@start", label);
        printf("]}, ");
        describe_array(name, "int64", (2 * (size_t)i + 1) * bytes, sizeof(int64_t));
        printf("]}");
    }
    printf("]");
}

static void say_numbers(const struct numbers *numbers) {
    printf("[");
    for (size_t i = 0; i < numbers->count; i++) printf("%s%lld", i ? ", " : "", (long long)numbers->values[i]);
    printf("]");
}

static void say_warm_up(const struct request *request, const struct timed *timed) {
    printf(", \"warm_up_ns\": {");
    for (int i = 0; i < request->artifact_count; i++) {
        printf("%s", i ? ", " : "");
        json_text(stdout, request->artifacts[i].label);
        printf(": ");
        say_numbers(&timed[i].warm_up);
    }
    printf("}, \"inner\": {");
    for (int i = 0; i < request->artifact_count; i++) {
        printf("%s", i ? ", " : "");
        json_text(stdout, request->artifacts[i].label);
        printf(": %lld", (long long)timed[i].inner);
    }
    printf("}");
}

/* null where the file cannot be read: a phone's shell may not. */
static void say_load(void) {
    double load = 0;
    FILE *file = fopen("/proc/loadavg", "r");
    int known = file != NULL && fscanf(file, "%lf", &load) == 1;
    if (file != NULL) (void)fclose(file);
    if (known)
        printf(", \"load_average\": %.2f", load);
    else
        printf(", \"load_average\": null");
}

static int64_t earliest(const struct timed *timed, int count) {
    int64_t first = timed[0].starts.values[0];
    for (int i = 1; i < count; i++)
        if (timed[i].starts.values[0] < first) first = timed[i].starts.values[0];
    return first;
}

static void time_in_turn(const struct runtime *runtime, struct request *request) {
    int count = request->artifact_count;
    struct timed *timed = allocate((size_t)count, sizeof *timed);
    if (request->pairs < 1) fail("%lld pairs measure nothing", (long long)request->pairs);
    read_inputs(request);
    for (int i = 0; i < count; i++) prepare(&timed[i], runtime, request, i);
    for (int i = 0; i < count; i++) settle(&timed[i], request->warm_up, request->warm_up_seconds);
    int64_t step = clock_step();
    if (request->inner)
        for (int i = 0; i < count; i++) timed[i].inner = request->inner;
    else
        choose_batches(timed, count, step, request->seconds);
    int64_t began = now_ns();
    interleave(timed, count, request->pairs, request->seconds, tell);
    int64_t ended = now_ns();
    FILE *file = open_outputs(request);
    for (int i = 0; i < count; i++) put_times(file, &timed[i], earliest(timed, count));
    close_outputs(file);
    response_header(stdout);
    printf(", \"count\": %zu, \"tick_ns\": %lld, \"timer_resolution_ns\": 1", timed[0].starts.count, (long long)step);
    printf(", \"began_s\": %.9f, \"ended_s\": %.9f", (double)began / 1e9, (double)ended / 1e9);
    say_times(request, timed);
    say_warm_up(request, timed);
    say_load();
    end_response(request);
}

static int answer(const char *path) {
    const struct {
        const char *name;
        void (*act)(const struct runtime *, struct request *);
    } actions[] = {{"run", run}, {"time", time_in_turn}, {"describe", describe}};
    struct request *request = read_request(path);
    if (request->tethered) leave_with_connection(request->silence);
    for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++) {
        if (strcmp(request->action, actions[i].name) != 0) continue;
        actions[i].act(open_runtime(request->runtime), request);
        (void)fflush(stdout);
        /* Without the destructors of the runtime, whose threads may still be at work. */
        _Exit(ferror(stdout) ? 1 : 0);
    }
    fail("action '%s' is none of run, time, describe", request->action);
}

int main(int count, char **arguments) {
    if (count == 3 && strcmp(arguments[1], "answer") == 0) return answer(arguments[2]);
    if (count == 5 && strcmp(arguments[1], "hold") == 0)
        return hold(arguments[2], strtod(arguments[3], NULL), strtod(arguments[4], NULL));
    if (count == 2 && strcmp(arguments[1], "clocks") == 0) return print_clocks();
    fprintf(stderr, "usage: edgepack-runner answer REQUEST | hold FOLDER SECONDS SILENCE | clocks\n");
    return 2;
}

#define _GNU_SOURCE

#include "runtime.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"

any_function optional_symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    any_function function;
    /* ISO C has no cast between the two kinds of pointer; POSIX says that they are alike. */
    memcpy(&function, &found, sizeof function);
    return function;
}

any_function required_symbol(void *library, const char *name) {
    any_function found = optional_symbol(library, name);
    if (found == NULL) fail("the runtime has no %s: it is too old, or built without it", name);
    return found;
}

const struct runtime *open_runtime(const char *path) {
    /* onnxruntime sends telemetry by default since 1.29. */
    (void)setenv("ORT_DISABLE_TELEMETRY", "1", 1);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) fail("the runtime cannot be loaded: %s", dlerror());
    if (optional_symbol(library, "OrtGetApiBase")) return open_ort(library);
    if (optional_symbol(library, "LiteRtCreateCompiledModel")) return open_litert(library);
    if (optional_symbol(library, "TfLiteInterpreterCreate")) return open_tflite(library);
    fail("the library is no runtime: it offers neither OrtGetApiBase, LiteRtCreateCompiledModel nor TfLiteInterpreterCreate");
}

int find_name(const char *const *names, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0) return i;
    fail("the artifact has no input %s", name);
}

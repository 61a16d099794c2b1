#define _POSIX_C_SOURCE 200809L

#include "common.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

struct identity identity = {"native", "unknown"};

_Noreturn void fail(const char *format, ...) {
    char words[1024];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(words, sizeof words, format, arguments);
    va_end(arguments);
    /* On a line of its own: a response may have been begun. */
    printf("\n");
    response_header(stdout);
    printf(", \"ok\": false, \"error\": ");
    json_text(stdout, words);
    printf("}\n");
    (void)fflush(stdout);
    /* Without the destructors of a runtime that may be half loaded. */
    _Exit(1);
}

void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size ? size : 1);
    if (memory == NULL) fail("cannot allocate memory: %zu times %zu bytes", count, size);
    return memory;
}

void *allocate_aligned(size_t bytes, size_t align) {
    void *memory = NULL;
    size_t whole = (bytes + align - 1) / align * align;
    if (whole < bytes || posix_memalign(&memory, align, whole ? whole : align) != 0) fail("cannot allocate memory: %zu bytes", bytes);
    memset(memory, 0, whole);
    return memory;
}

char *copy_text(const char *text) {
    size_t length = strlen(text) + 1;
    return memcpy(allocate(length, 1), text, length);
}

void json_text(FILE *out, const char *text) {
    (void)fputc('"', out);
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if (*at == '"' || *at == '\\')
            fprintf(out, "\\%c", *at);
        else if (*at < 0x20 || *at == 0x7f)
            fprintf(out, "\\u%04x", *at);
        else
            (void)fputc(*at, out);
    }
    (void)fputc('"', out);
}

void response_header(FILE *out) {
    struct utsname system;
    const char *machine = uname(&system) == 0 ? system.machine : "";
    fprintf(out, "{\"schema\": %d, \"runtime\": ", SCHEMA);
    json_text(out, identity.runtime);
    fprintf(out, ", \"version\": ");
    json_text(out, identity.version);
    fprintf(out, ", \"truth\": \"host\", \"machine\": ");
    json_text(out, machine);
}

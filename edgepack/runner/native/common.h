/* What every file of the runner shares: failing, memory, and text that becomes JSON.
 *
 * The runner answers one request and ends, so a failure anywhere is the answer: fail() writes it and leaves. Nothing is freed that lives
 * until then.
 */
#ifndef EDGEPACK_COMMON_H
#define EDGEPACK_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* The schema of requests and responses, as edgepack/runner/contract.py has it. */
enum { SCHEMA = 1 };

/* sysexits.h: another session holds the device; no run folder can be made. */
enum { EXIT_BUSY = 75, EXIT_REFUSED = 73 };

/* What the response says of the runtime; a failure before it is loaded says what it has. */
struct identity {
    const char *runtime;
    const char *version;
};
extern struct identity identity;

/* Writes a response with "ok": false and ends with exit code 1. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Memory that is there, zeroed; a failure otherwise. align is a power of two. */
void *allocate(size_t count, size_t size);
void *allocate_aligned(size_t bytes, size_t align);
char *copy_text(const char *text);

/* A text as a JSON string, quotes included. */
void json_text(FILE *out, const char *text);

/* The fields that every response begins with, without the closing brace. */
void response_header(FILE *out);

#endif

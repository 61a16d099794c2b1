#define _GNU_SOURCE

#include "hold.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common.h"
#include "measure.h"

/* Milliseconds between tries for a lock that somebody has. */
enum { TRY_AGAIN = 200, OPEN_FOLDERS = 8, PATH_ROOM = 4096 };
static const char PREFIX[] = "run-";

static volatile sig_atomic_t told_to_end;

static void end(int number) {
    (void)number;
    told_to_end = 1;
}

/* Without SA_RESTART: a read that waits comes back. */
static void end_tidily(void) {
    struct sigaction action = {.sa_handler = end};
    const int numbers[] = {SIGHUP, SIGINT, SIGTERM};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) (void)sigaction(numbers[i], &action, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
}

/* Whether the connection goes within that time; what it says is dropped. */
static int ends_within(int milliseconds) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char dropped[256];
    int ready = poll(&input, 1, milliseconds);
    if (told_to_end) return 1;
    return ready > 0 && read(STDIN_FILENO, dropped, sizeof dropped) <= 0;
}

/* Until the connection goes: its input ends, or nothing comes for so long. */
static void wait_for_end(double silence) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    int milliseconds = silence > 0 ? (int)(silence * 1000) : -1;
    char dropped[256];
    while (!told_to_end) {
        int ready = poll(&input, 1, milliseconds);
        if (ready == 0 || (ready > 0 && read(STDIN_FILENO, dropped, sizeof dropped) <= 0)) return;
    }
}

static int refuse(const char *what) {
    printf("{\"refused\": ");
    json_text(stdout, what);
    printf(", \"why\": ");
    json_text(stdout, strerror(errno));
    printf("}\n");
    return EXIT_REFUSED;
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *place) {
    (void)status, (void)kind, (void)place;
    (void)remove(path);
    return 0;
}

static void remove_tree(const char *path) { (void)nftw(path, remove_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS); }

/* What sessions left whose owner was killed; nobody else has the lock now. */
static void clear_left(const char *place) {
    char path[PATH_ROOM];
    DIR *folder = opendir(place);
    if (folder == NULL) return;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        int length = snprintf(path, sizeof path, "%s/%s", place, entry->d_name);
        if (strncmp(entry->d_name, PREFIX, sizeof PREFIX - 1) == 0 && length > 0 && (size_t)length < sizeof path) remove_tree(path);
    }
    (void)closedir(folder);
}

static int locked(int lock, double seconds) {
    int64_t until = now_ns() + (int64_t)(seconds * 1e9);
    while (flock(lock, LOCK_EX | LOCK_NB) != 0)
        if (errno != EWOULDBLOCK || now_ns() >= until || ends_within(TRY_AGAIN)) return 0;
    return 1;
}

static void say_ready(const char *folder) {
    printf("{\"ready\": {\"folder\": ");
    json_text(stdout, folder);
    printf(", \"page_bytes\": %ld}}\n", sysconf(_SC_PAGESIZE));
    (void)fflush(stdout);
}

static int hold_folder(const char *place, double silence) {
    char folder[PATH_ROOM];
    int length = snprintf(folder, sizeof folder, "%s/%sXXXXXX", place, PREFIX);
    if (length < 0 || (size_t)length >= sizeof folder || mkdtemp(folder) == NULL) return refuse(place);
    say_ready(folder);
    wait_for_end(silence);
    remove_tree(folder);
    return 0;
}

int hold(const char *place, double seconds, double silence) {
    char path[PATH_ROOM];
    end_tidily();
    int length = snprintf(path, sizeof path, "%s/lock", place);
    int lock = length > 0 && (size_t)length < sizeof path ? open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0666) : -1;
    if (lock < 0) return refuse(place);
    if (!locked(lock, seconds)) {
        printf("{\"busy\": \"another edgepack is measuring on it\"}\n");
        return EXIT_BUSY;
    }
    clear_left(place);
    return hold_folder(place, silence);
}

static double seconds_of(clockid_t clock) {
    struct timespec now = {0};
    (void)clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int print_clocks(void) {
    printf("{\"wall_s\": %.6f, \"monotonic_s\": %.6f, \"boot_s\": %.6f}\n", seconds_of(CLOCK_REALTIME), seconds_of(CLOCK_MONOTONIC),
           seconds_of(CLOCK_BOOTTIME));
    return 0;
}

static _Noreturn void *leave_at_end(void *silence) {
    wait_for_end(*(double *)silence);
    _Exit(1);
}

void leave_with_connection(double silence) {
    static double held;
    pthread_t thread;
    held = silence;
    if (pthread_create(&thread, NULL, leave_at_end, &held) != 0) fail("cannot start a thread");
    (void)pthread_detach(thread);
}

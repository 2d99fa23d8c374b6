#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* Written once by log_setup before threads start, read-only after; the one process-wide setting, since a line has no context. */
static struct {
    log_level level;
    int rank;
} setup = {LOG_INFO, -1};

void log_setup(log_level level, int rank) {
    setup.level = level;
    setup.rank = rank;
}

void log_line(log_level level, const char *room, const char *format, ...) {
    static const char *const names[] = {"ERROR", "WARN", "INFO", "DEBUG"};
    if (level > setup.level) return;
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    char line[1024], rank[16] = "";
    if (setup.rank >= 0) snprintf(rank, sizeof rank, "[%d]", setup.rank);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03ldZ %s %s%s: ", ts.tv_nsec / 1000000, names[level], room, rank);
    va_list args;
    va_start(args, format);
    int m = vsnprintf(line + n, sizeof line - n - 1, format, args);
    va_end(args);
    if (m > 0) n += (size_t)m < sizeof line - n - 1 ? (size_t)m : sizeof line - n - 2;
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, n) < 0) return; /* nowhere left to say so */
}

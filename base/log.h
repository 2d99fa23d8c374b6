/* Log: one line a call, on standard error, `2026-11-24T12:00:00.000Z LEVEL room[rank]: text`.
 *
 * Never secrets, prompts or answers. The level and the rank are set once by main before threads start. Any thread: a line is
 * one write(). */
#ifndef CONSORT_BASE_LOG_H
#define CONSORT_BASE_LOG_H

#include "base/status.h"

typedef enum { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG } log_level;

void log_setup(log_level level, int rank); /* rank < 0: not shown */
void log_line(log_level level, const char *room, const char *format, ...) ST_PRINTF(3, 4);

#endif

/* queue/overview_lines.h
 *
 * What overviews are put together from: lines that fit a terminal, times and durations.
 */
#ifndef ZOODIP_QUEUE_OVERVIEW_LINES_H
#define ZOODIP_QUEUE_OVERVIEW_LINES_H

#include <stdint.h>
#include <stdio.h>

#include "queue/overview.h"

enum { LINE_SIZE = 1536, WHEN_SIZE = 16, DURATION_SIZE = 32, TROUBLE_SIZE = 64 };

/* Appends to a line as far as there is room. */
__attribute__((format(printf, 2, 3))) void line_append(char line[LINE_SIZE], const char *format, ...);

/* How many columns a text takes: one for each character. */
int line_columns(const char *text);

/* Prints a text in lines of at most `columns` (0: one line), which break at blanks where they can; all are indented but,
 * if `hanging`, the first. out NULL: only counts. Returns how many lines. */
enum { LINE_INDENT = 4 };
int line_put(FILE *out, const char *text, int columns, bool hanging);

/* "13:20", with the date if that is not today; "-" if it is not known. */
const char *line_time(char out[WHEN_SIZE], double when, double now);

/* "1:20:00"; "-" if it is not known. */
const char *line_duration(char out[DURATION_SIZE], double seconds);

/* What is wrong with one that is said to be running; "" if nothing is known to be. */
const char *line_trouble(char out[TROUBLE_SIZE], const struct seen_job *job, double now);

/* "1 failed, 3 running, 12 waiting" of so many of each state. */
void line_append_counts(char line[LINE_SIZE], const int64_t counts[SEEN_STATES]);

#endif

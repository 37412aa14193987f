/* base/log.h
 *
 * Lines for people, on stderr, each starting with "zoodip: ". Control characters are shown as '?'. Callers on ranks
 * other than 0 stay silent.
 *
 * Status lines (log_line) and live lines (base/progress.h) report progress, and --quiet silences them; warnings report
 * what the user must know, such as something lost or skipped, and errors why something ended: both are always shown.
 * Details (log_detail) are for those who read a log afterwards, and would only worry who watches a terminal.
 * Whether it is quiet, and the live line that a terminal shows below all others, is what this module keeps, for the
 * whole process: commands/options.c sets the first, and a queue unsets it while a job's log is written. Any thread may
 * write.
 */
#ifndef ZOODIP_BASE_LOG_H
#define ZOODIP_BASE_LOG_H

#include <stdbool.h>

__attribute__((format(printf, 1, 2))) void log_line(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_detail(const char *format, ...);  /* a line, but on no terminal */
__attribute__((format(printf, 1, 2))) void log_warning(const char *format, ...); /* "zoodip: warning: ..." */
__attribute__((format(printf, 1, 2))) void log_error(const char *format, ...);   /* for errors that end no command */

/* Whether status and live lines are silenced from now on; returns whether they were. */
bool log_set_quiet(bool quiet);
bool log_is_quiet(void);

/* Draws a terminal's live line, over the one before; other lines appear above it. "": none. log_keep_live leaves it
 * where it is, as a line like any other. log_plain writes a line of progress where there is no terminal. */
void log_live(const char *line);
void log_keep_live(void);
void log_plain(const char *line);

/* A warning for a finished text, and one that drops it: for callbacks. */
void log_warning_text(const char *text);
void log_nothing(const char *text);

#endif

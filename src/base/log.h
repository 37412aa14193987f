/* base/log.h
 *
 * Lines for people, on stderr, each starting with "zoodip: ". Control characters are shown as '?'. Callers on ranks
 * other than 0 stay silent.
 *
 * Status lines (log_line) and live lines (base/progress.h) report progress, and --quiet silences them; warnings report
 * what the user must know, such as something lost or skipped, and errors why something ended: both are always shown.
 * Details (log_detail) are for those who read a log afterwards, and would only worry who watches a terminal.
 *
 * Where a line does not go to a terminal, it begins with the time: "2026-11-29 13:20:11 zoodip: ...". Only the error
 * that a command ends with never does (log_final). Under --log-format json each line is an object instead, for programs:
 *
 *     {"time": "2026-11-29T13:20:11.123Z", "level": "info", "text": "..."}
 *
 * with a level of level_names (log.c), the text without "zoodip: ", and what struct log_facts holds.
 *
 * Whether it is quiet, the format, and the live line that a terminal shows below all others, is what this module keeps,
 * for the whole process: commands/options.c sets the first two, and a queue unsets the first while a job's log is
 * written. Any thread may write.
 */
#ifndef ZOODIP_BASE_LOG_H
#define ZOODIP_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

__attribute__((format(printf, 1, 2))) void log_line(const char *format, ...);
__attribute__((format(printf, 1, 2))) void log_detail(const char *format, ...);  /* a line, but on no terminal */
__attribute__((format(printf, 1, 2))) void log_warning(const char *format, ...); /* "zoodip: warning: ..." */
__attribute__((format(printf, 1, 2))) void log_error(const char *format, ...);   /* for errors that end no command */

/* The one error that a command ends with, its answer: on any stderr just "zoodip: TEXT". code: the exit code. */
void log_final(int code, const char *text);

/* Whether status and live lines are silenced from now on; returns whether they were. */
bool log_set_quiet(bool quiet);
bool log_is_quiet(void);

/* Whether lines are objects of JSON from now on. No live line is drawn then. */
void log_set_json(bool json);
bool log_is_json(void);

/* Whether stderr shows live lines: a terminal that can redraw them, and no JSON. */
bool log_is_live(void);

enum log_level { LEVEL_INFO, LEVEL_DETAIL, LEVEL_WARNING, LEVEL_ERROR, LEVEL_PROGRESS };

/* What JSON says beside a line's text. Zeroed: nothing. Texts are borrowed. */
struct log_facts {
    const char *job, *state; /* a queue's job, and what it is doing */
    const char *what;        /* work that is under way */
    int64_t done, total;     /* its steps; total 0: not known, and then neither is said */
    bool timed;              /* is known: */
    double seconds_left;
    int code; /* the exit code, of log_final */
};

/* Writes a finished line to some other file than stderr, whose stamp or format it gets; facts: may be NULL. Unlike the
 * functions above it asks nobody whether it is quiet. */
void log_write(int descriptor, enum log_level level, const char *text, const struct log_facts *facts);

/* Lines of this thread go to another descriptor than stderr from now on; returns the one before. */
int log_redirect(int descriptor);

/* Where they go. */
int log_descriptor(void);

/* Draws a terminal's live line, over the one before; other lines appear above it. "": none. log_keep_live leaves it
 * where it is, as a line like any other. log_plain writes a line of progress where none is live. */
void log_live(const char *line);
void log_keep_live(void);
void log_plain(const char *line, const struct log_facts *facts);

/* A warning for a finished text, and one that drops it: for callbacks. */
void log_warning_text(const char *text);
void log_nothing(const char *text);

#endif

#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"

enum { TEXT = 1024, LINE = 10 * TEXT, STAMP = 32 }; /* bytes of a text; of a line with all that it says */

static const char *const level_names[] = {[LEVEL_INFO] = "info",
                                          [LEVEL_DETAIL] = "detail",
                                          [LEVEL_WARNING] = "warning",
                                          [LEVEL_ERROR] = "error",
                                          [LEVEL_PROGRESS] = "progress"};

static bool quiet, json;
static char live[512];                                   /* what a terminal's last line shows; "": nothing */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of live, and so that lines stay whole */

static _Thread_local int output = STDERR_FILENO; /* of this thread's lines */

static const char clear[] = "\r\033[K";

bool log_set_quiet(bool now)
{
    bool before = quiet;
    quiet = now;
    return before;
}

bool log_is_quiet(void)
{
    return quiet;
}

void log_set_json(bool now)
{
    json = now;
}

bool log_is_json(void)
{
    return json;
}

bool log_is_live(void)
{
    const char *kind = getenv("TERM");
    return !json && isatty(STDERR_FILENO) && kind && strcmp(kind, "dumb") != 0;
}

/* -------------------------------------------------------------------------------- a line's two forms */

/* The machine's time, as people read it: "2026-11-29 13:20:11"; and UTC as programs do: "2026-11-29T13:20:11.123Z". */
static void stamp(char out[STAMP])
{
    struct tm parts;
    time_t now = time(NULL);
    if (!localtime_r(&now, &parts) || strftime(out, STAMP, "%Y-%m-%d %H:%M:%S", &parts) == 0)
        out[0] = 0;
}

static void stamp_utc(char out[STAMP])
{
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    size_t used = gmtime_r(&now.tv_sec, &parts) ? strftime(out, STAMP, "%Y-%m-%dT%H:%M:%S", &parts) : 0;
    snprintf(out + used, STAMP - used, ".%03dZ", (int)(now.tv_nsec / 1000000));
}

/* A line that is put together; what does not fit is cut. */
struct line {
    char text[LINE];
    size_t used;
};

__attribute__((format(printf, 2, 3))) static void add(struct line *line, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line->text + line->used, LINE - line->used, format, arguments);
    va_end(arguments);
    line->used += length < 0 ? 0 : (size_t)length;
    if (line->used >= LINE)
        line->used = LINE - 1;
}

static void add_text(struct line *line, const char *key, const char *text)
{
    char value[2 * TEXT + 3]; // in case that it consists of quotes
    if (!text)
        return;
    text_as_json(value, sizeof value, text);
    add(line, ", \"%s\": %s", key, value);
}

static void make_object(struct line *line, enum log_level level, const char *text, const struct log_facts *facts)
{
    char now[STAMP];
    stamp_utc(now);
    add(line, "{\"time\": \"%s\", \"level\": \"%s\"", now, level_names[level]);
    add_text(line, "text", text);
    if (facts->code)
        add(line, ", \"code\": %d", facts->code);
    add_text(line, "job", facts->job);
    add_text(line, "state", facts->state);
    add_text(line, "what", facts->what);
    if (facts->total > 0)
        add(line, ", \"done\": %lld, \"total\": %lld", (long long)facts->done, (long long)facts->total);
    if (facts->timed)
        add(line, ", \"seconds_left\": %.1f", facts->seconds_left);
    add(line, "}");
}

static void make_plain(struct line *line, bool terminal, enum log_level level, const char *text,
                       const struct log_facts *facts)
{
    char now[STAMP];
    stamp(now);
    if (!terminal && !facts->code)
        add(line, "%s ", now);
    if (level != LEVEL_PROGRESS)
        add(line, "zoodip: ");
    if (level == LEVEL_WARNING)
        add(line, "warning: ");
    add(line, "%s", text);
    text_show_safely(line->text);
}

void log_write(int descriptor, enum log_level level, const char *text, const struct log_facts *facts)
{
    static const struct log_facts none;
    struct line line = {.used = 0};
    if (json)
        make_object(&line, level, text, facts ? facts : &none);
    else
        make_plain(&line, isatty(descriptor), level, text, facts ? facts : &none);
    pthread_mutex_lock(&lock);
    bool above = descriptor == STDERR_FILENO && live[0];
    dprintf(descriptor, "%s%s\n%s", above ? clear : "", line.text, above ? live : "");
    pthread_mutex_unlock(&lock);
}

/* -------------------------------------------------------------------------------- lines of stderr */

static void write_text(enum log_level level, const char *format, va_list arguments)
{
    char text[TEXT];
    vsnprintf(text, sizeof text, format, arguments);
    log_write(output, level, text, NULL);
}

int log_descriptor(void)
{
    return output;
}

int log_redirect(int descriptor)
{
    int before = output;
    output = descriptor;
    return before;
}

void log_line(const char *format, ...)
{
    va_list arguments;
    if (quiet)
        return;
    va_start(arguments, format);
    write_text(LEVEL_INFO, format, arguments);
    va_end(arguments);
}

void log_detail(const char *format, ...)
{
    va_list arguments;
    if (quiet || isatty(output))
        return;
    va_start(arguments, format);
    write_text(LEVEL_DETAIL, format, arguments);
    va_end(arguments);
}

void log_error(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    write_text(LEVEL_ERROR, format, arguments);
    va_end(arguments);
}

void log_warning(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    write_text(LEVEL_WARNING, format, arguments);
    va_end(arguments);
}

void log_final(int code, const char *text)
{
    log_write(STDERR_FILENO, LEVEL_ERROR, text, &(struct log_facts){.code = code});
}

void log_live(const char *line)
{
    pthread_mutex_lock(&lock);
    if (strcmp(live, line) != 0)
        fprintf(stderr, "%s%s", clear, line);
    snprintf(live, sizeof live, "%s", line);
    pthread_mutex_unlock(&lock);
}

void log_keep_live(void)
{
    pthread_mutex_lock(&lock);
    if (live[0])
        fputc('\n', stderr);
    live[0] = 0;
    pthread_mutex_unlock(&lock);
}

void log_plain(const char *line, const struct log_facts *facts)
{
    log_write(STDERR_FILENO, LEVEL_PROGRESS, line, facts);
}

void log_warning_text(const char *text)
{
    log_warning("%s", text);
}

void log_nothing(const char *text)
{
    (void)text;
}

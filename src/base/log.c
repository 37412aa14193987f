#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"

static bool quiet;
static char live[512];                                   /* what a terminal's last line shows; "": nothing */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of live, and so that lines stay whole */

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

static void write_line(const char *prefix, const char *format, va_list arguments)
{
    char text[1024];
    vsnprintf(text, sizeof text, format, arguments);
    text_show_safely(text);
    pthread_mutex_lock(&lock);
    fprintf(stderr, "%szoodip: %s%s\n%s", live[0] ? clear : "", prefix, text, live);
    pthread_mutex_unlock(&lock);
}

void log_line(const char *format, ...)
{
    va_list arguments;
    if (quiet)
        return;
    va_start(arguments, format);
    write_line("", format, arguments);
    va_end(arguments);
}

void log_detail(const char *format, ...)
{
    va_list arguments;
    if (quiet || isatty(STDERR_FILENO))
        return;
    va_start(arguments, format);
    write_line("", format, arguments);
    va_end(arguments);
}

void log_error(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    write_line("", format, arguments);
    va_end(arguments);
}

void log_warning(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    write_line("warning: ", format, arguments);
    va_end(arguments);
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

void log_plain(const char *line)
{
    pthread_mutex_lock(&lock);
    fprintf(stderr, "%s\n", line);
    pthread_mutex_unlock(&lock);
}

void log_warning_text(const char *text)
{
    log_warning("%s", text);
}

void log_nothing(const char *text)
{
    (void)text;
}

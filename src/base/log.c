#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/text.h"

static bool quiet;

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
    fprintf(stderr, "zoodip: %s%s\n", prefix, text);
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

void log_warning_text(const char *text)
{
    log_warning("%s", text);
}

void log_nothing(const char *text)
{
    (void)text;
}

#include "queue/overview_lines.h"

#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "base/progress.h"

static const double latest = 1e11; /* seconds; times after that are nonsense */

void line_append(char line[LINE_SIZE], const char *format, ...)
{
    size_t used = strlen(line);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + used, LINE_SIZE - used, format, arguments);
    va_end(arguments);
}

/* -------------------------------------------------------------------------------- lines */

static bool begins_character(char byte)
{
    return ((unsigned char)byte & 0xc0) != 0x80;
}

int line_columns(const char *text)
{
    int columns = 0;
    for (; *text; text++)
        columns += begins_character(*text);
    return columns;
}

/* The bytes of a text that go into so many columns: up to a blank, if there is one. */
static int bytes_of_line(const char *text, int columns)
{
    int bytes = 0, used = 0, blank = 0;
    for (; text[bytes] && used + begins_character(text[bytes]) <= columns; bytes++) {
        used += begins_character(text[bytes]);
        if (text[bytes] == ' ')
            blank = bytes;
    }
    return !text[bytes] || text[bytes] == ' ' || blank == 0 ? bytes : blank;
}

int line_put(FILE *out, const char *text, int columns, bool hanging)
{
    int lines = 0;
    do {
        int indent = hanging && lines == 0 ? 0 : LINE_INDENT;
        int bytes = columns > 0 ? bytes_of_line(text, columns - indent) : (int)strlen(text), shown = bytes;
        while (shown > 0 && text[shown - 1] == ' ')
            shown--;
        if (out)
            fprintf(out, "%*s%.*s\n", indent, "", shown, text);
        text += bytes;
        text += strspn(text, " ");
        lines++;
    } while (*text);
    return lines;
}

/* -------------------------------------------------------------------------------- what is in them */

const char *line_time(char out[WHEN_SIZE], double when, double now)
{
    struct tm parts, today;
    time_t whole = when > 0 && when < latest ? (time_t)when : 0, this = (time_t)now;
    strcpy(out, "-");
    if (whole && localtime_r(&whole, &parts) && localtime_r(&this, &today)) {
        bool same = parts.tm_yday == today.tm_yday && parts.tm_year == today.tm_year;
        strftime(out, WHEN_SIZE, same ? "%H:%M" : "%m-%d %H:%M", &parts);
    }
    return out;
}

const char *line_duration(char out[DURATION_SIZE], double seconds)
{
    strcpy(out, "-");
    if (seconds >= 0)
        progress_duration(out, seconds);
    return out;
}

const char *line_trouble(char out[TROUBLE_SIZE], const struct seen_job *job, double now)
{
    char when[WHEN_SIZE];
    line_time(when, job->moved, now);
    out[0] = 0;
    if (job->gone)
        snprintf(out, TROUBLE_SIZE, "its process is gone since %s", when);
    else if (job->silent)
        snprintf(out, TROUBLE_SIZE, "no news since %s", when);
    return out;
}

void line_append_counts(char line[LINE_SIZE], const int64_t counts[SEEN_STATES])
{
    const char *comma = "";
    for (int64_t state = 0; state < SEEN_STATES; state++)
        if (counts[state] > 0) {
            line_append(line, "%s%lld %s", comma, (long long)counts[state], seen_name(state));
            comma = ", ";
        }
}

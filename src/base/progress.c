#include "base/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum { BAR_WIDTH = 20 };

static const double terminal_pause = 0.1, plain_pause = 5; /* seconds between two lines */

void progress_begin(struct progress *p, const char *what, int64_t first, int64_t total, bool quiet)
{
    const char *kind = getenv("TERM");
    *p = (struct progress){.what = what, .first = first, .total = total, .quiet = quiet || log_is_quiet()};
    p->terminal = isatty(STDERR_FILENO) && kind && strcmp(kind, "dumb") != 0;
    p->started = p->shown = clock_seconds();
}

/* 0:07, 12:30, 1:02:03 */
static void show_duration(char out[32], double seconds)
{
    long long whole = seconds < 0 ? 0 : seconds > 3.6e8 ? 360000000 : (long long)(seconds + 0.5);
    long long hours = whole / 3600, minutes = whole / 60 % 60;
    if (hours)
        snprintf(out, 32, "%lld:%02lld:%02lld", hours, minutes, whole % 60);
    else
        snprintf(out, 32, "%lld:%02lld", minutes, whole % 60);
}

/* "[###.....] ", or nothing on a terminal that has no room for it. */
static void show_bar(char out[BAR_WIDTH + 4], const struct progress *p, int64_t done)
{
    int filled = p->total > 0 ? (int)((double)done / (double)p->total * BAR_WIDTH) : BAR_WIDTH;
    out[0] = '[';
    for (int i = 0; i < BAR_WIDTH; i++)
        out[1 + i] = i < filled ? '#' : '.';
    memcpy(out + 1 + BAR_WIDTH, "] ", 3);
}

static size_t terminal_columns(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
}

/* Cuts a line to what fits, never inside a UTF-8 character. */
static void cut(char *line, size_t bytes)
{
    if (strlen(line) <= bytes)
        return;
    while (bytes > 0 && ((unsigned char)line[bytes] & 0xc0) == 0x80)
        bytes--;
    line[bytes] = 0;
}

static void make_line(struct progress *p, int64_t done, const char *note, double now)
{
    char bar[BAR_WIDTH + 4], so_far[32], left[32], rest[400];
    double seconds = now - p->started;
    int64_t here = done - p->first;
    show_bar(bar, p, done);
    show_duration(so_far, seconds);
    show_duration(left, here > 0 ? seconds / (double)here * (double)(p->total - done) : 0);
    snprintf(rest, sizeof rest, "%lld/%lld%s%.250s, %s left (%s so far)", (long long)done, (long long)p->total,
             *note ? ", " : "", note, left, so_far);
    size_t columns = p->terminal ? terminal_columns() - 1 : sizeof p->line;
    if (strlen(p->what) + 1 + strlen(bar) + strlen(rest) > columns)
        bar[0] = 0;
    snprintf(p->line, sizeof p->line, "%.80s %s%s", p->what, bar, rest);
    cut(p->line, columns);
}

static void show(struct progress *p, double now)
{
    fprintf(stderr, p->terminal ? "\r\033[K%s" : "%s\n", p->line);
    fflush(stderr);
    p->shown = now;
    p->waiting = false;
}

void progress_step(struct progress *p, int64_t done, const char *note)
{
    if (p->quiet)
        return;
    double now = clock_seconds();
    make_line(p, done, note, now);
    p->waiting = true;
    if (now - p->shown >= (p->terminal ? terminal_pause : plain_pause))
        show(p, now);
}

void progress_end(struct progress *p)
{
    if (p->quiet)
        return;
    if (p->waiting)
        show(p, clock_seconds());
    if (p->terminal && p->line[0])
        fputc('\n', stderr);
}

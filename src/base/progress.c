#include "base/progress.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/text.h"

enum { BAR_WIDTH = 20, LINE = 512 };

static const double quick = 2;         /* seconds after which a phase is worth a line */
static const double look_pause = 0.25; /* between two looks of the thread, each of which costs some microseconds */
static const double terminal_pause = 0.1, plain_pause = 5; /* seconds between two lines */
static const double sign_of_life = 60;                     /* the same if nothing has changed, where lines stay */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all that follows, and of the work that is under way */
static pthread_cond_t begun = PTHREAD_COND_INITIALIZER;
static struct progress *innermost;
static bool muted, drawing; /* drawing: the thread runs */

enum { LISTENERS = 4 };

/* Of the thread that registered them, which alone uses this list. */
struct listener {
    void (*hear)(void *arg); /* NULL: a free place */
    void *arg;
};
static struct listener listeners[LISTENERS];
static pthread_t listening; /* that thread, once there is one */
static bool heard;          /* there is */

/* -------------------------------------------------------------------------------- texts */

void progress_duration(char out[32], double seconds)
{
    long long whole = seconds < 0 ? 0 : seconds > 3.6e8 ? 360000000 : (long long)(seconds + 0.5);
    long long hours = whole / 3600, minutes = whole / 60 % 60;
    if (hours)
        snprintf(out, 32, "%lld:%02lld:%02lld", hours, minutes, whole % 60);
    else
        snprintf(out, 32, "%lld:%02lld", minutes, whole % 60);
}

/* "[###.....] " */
static void show_bar(char out[BAR_WIDTH + 4], double share)
{
    int filled = (int)(share * BAR_WIDTH);
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

/* How much of it is done, 0 to 1. */
static double share_done(const struct progress *p)
{
    if (p->work > 0)
        return p->work / (p->work + p->left);
    return p->total > 0 ? (double)p->done / (double)p->total : 1;
}

/* Seconds that are left, negative if not known. They follow from the pieces that are done, so that they do not grow
 * while one is under way. */
static double seconds_left(const struct progress *p, double now)
{
    bool weighed = p->work > 0;
    double work = weighed ? p->work : (double)(p->done - p->first);
    double left = weighed ? p->left + p->after : (double)(p->total - p->done);
    if (work <= 0 || (p->total <= 0 && !weighed))
        return -1;
    double at_count = (p->counted - p->started) / work * left, since = now - p->counted;
    return at_count > since ? at_count - since : 0;
}

/* "352/1000, loss 0.0214, 0:12 left (0:07 so far)" */
static void show_counts(char out[LINE], const struct progress *p, double now)
{
    char so_far[32], left[32], counts[64] = "", ending[48] = "";
    const char *blank = p->unit[0] ? " " : "", *comma = "";
    double seconds = seconds_left(p, now);
    progress_duration(so_far, now - p->started);
    progress_duration(left, seconds);
    if (p->total > 0)
        snprintf(counts, sizeof counts, "%lld/%lld%s%.20s", (long long)p->done, (long long)p->total, blank, p->unit);
    if (counts[0] && p->note[0])
        comma = ", ";
    if (seconds >= 0)
        snprintf(ending, sizeof ending, ", %s left", left);
    const char *open = counts[0] || p->note[0] ? " (" : "(";
    snprintf(out, LINE, "%s%s%s%s%s%s so far)", counts, comma, p->note, ending, open, so_far);
}

static void make_line(char line[LINE], const struct progress *p, double now)
{
    char bar[BAR_WIDTH + 4] = "", rest[LINE];
    show_counts(rest, p, now);
    if (p->total > 0)
        show_bar(bar, share_done(p));
    if (log_is_json())
        bar[0] = 0;
    size_t columns = p->terminal ? terminal_columns() - 1 : LINE - 1;
    if (strlen(p->what) + 1 + strlen(bar) + strlen(rest) > columns)
        bar[0] = 0;
    snprintf(line, LINE, "%.150s %s%.300s", p->what, bar, rest);
    line[text_fitting(line, (int)columns)] = 0;
}

/* -------------------------------------------------------------------------------- showing */

static void show_plain(const char *line, const struct progress *p, double left)
{
    const struct log_facts facts = {
        .what = p->what, .done = p->done, .total = p->total, .timed = left >= 0, .seconds_left = left};
    log_plain(line, &facts);
}

static void show(struct progress *p, double now)
{
    char line[LINE];
    make_line(line, p, now);
    if (p->terminal)
        log_live(line);
    else
        show_plain(line, p, seconds_left(p, now));
    p->shown = now;
    p->visible = true;
    p->waiting = false;
}

static bool worth_showing(const struct progress *p, double now)
{
    return !p->phase || p->visible || now - p->started >= quick;
}

/* The innermost work that is worth showing, or NULL. any: even what nobody wants to see here. */
static struct progress *to_show(double now, bool any)
{
    struct progress *p = innermost;
    while (p && ((p->quiet && !any) || !worth_showing(p, now)))
        p = p->outer;
    return p;
}

static void show_if_due(double now)
{
    struct progress *p = to_show(now, false);
    if (!p)
        return;
    double pause = p->terminal ? terminal_pause : p->waiting ? plain_pause : sign_of_life;
    if (!p->visible)
        pause = p->phase ? 0 : p->terminal ? terminal_pause : plain_pause;
    if (now - p->shown >= pause)
        show(p, now);
}

static void *draw(void *arg)
{
    (void)arg;
    while (true) {
        pthread_mutex_lock(&lock);
        while (!innermost)
            pthread_cond_wait(&begun, &lock);
        show_if_due(clock_seconds());
        pthread_mutex_unlock(&lock);
        clock_sleep(look_pause);
    }
    return NULL;
}

/* Once. Signals are for the thread that works, whose waits they end. Without the thread, steps still show lines. */
static void start_drawing(void)
{
    sigset_t all, before;
    pthread_t thread;
    if (drawing)
        return;
    drawing = true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&thread, NULL, draw, NULL) == 0)
        pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* -------------------------------------------------------------------------------- listeners */

/* Outside the lock, since listeners look at the work. */
static void tell(void)
{
    pthread_mutex_lock(&lock);
    bool ours = heard && pthread_equal(listening, pthread_self());
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < LISTENERS && ours; i++)
        if (listeners[i].hear)
            listeners[i].hear(listeners[i].arg);
}

/* Puts one listener in the place of another; {NULL, NULL} stands for a free place. */
static void replace(struct listener old, struct listener new)
{
    for (int i = 0; i < LISTENERS; i++)
        if (listeners[i].hear == old.hear && listeners[i].arg == old.arg) {
            listeners[i] = new;
            return;
        }
}

void progress_listen(void (*hear)(void *arg), void *arg)
{
    pthread_mutex_lock(&lock);
    listening = pthread_self();
    heard = true;
    pthread_mutex_unlock(&lock);
    replace((struct listener){0}, (struct listener){hear, arg});
}

void progress_unlisten(void (*hear)(void *arg), void *arg)
{
    replace((struct listener){hear, arg}, (struct listener){0});
}

/* -------------------------------------------------------------------------------- work */

static void begin(struct progress *p)
{
    p->done = p->first;
    p->terminal = log_is_live();
    p->started = p->counted = p->shown = clock_seconds();
    pthread_mutex_lock(&lock);
    p->quiet = muted || log_is_quiet();
    p->outer = innermost;
    innermost = p;
    if (!p->quiet) {
        start_drawing();
        pthread_cond_signal(&begun);
    }
    pthread_mutex_unlock(&lock);
    tell();
}

void progress_begin(struct progress *p, const char *what, int64_t first, int64_t total)
{
    *p = (struct progress){.what = what, .unit = "", .first = first, .total = total};
    begin(p);
}

void progress_phase(struct progress *p, const char *what, int64_t total, const char *unit)
{
    *p = (struct progress){.what = what, .unit = unit, .total = total, .phase = true};
    begin(p);
}

void progress_step(struct progress *p, int64_t done, const char *note)
{
    pthread_mutex_lock(&lock);
    p->done = done;
    p->counted = clock_seconds();
    p->waiting = true;
    snprintf(p->note, sizeof p->note, "%s", note);
    show_if_due(p->counted);
    pthread_mutex_unlock(&lock);
    tell();
}

void progress_aim(struct progress *p, int64_t total)
{
    pthread_mutex_lock(&lock);
    p->total = total;
    pthread_mutex_unlock(&lock);
}

void progress_weigh(struct progress *p, double done, double left, double after)
{
    pthread_mutex_lock(&lock);
    p->work = done;
    p->left = left;
    p->after = after;
    pthread_mutex_unlock(&lock);
}

/* Inside other work a finished phase makes room for it; else its line stays. */
static void show_end(struct progress *p, double now)
{
    bool drawn = p->terminal && p->visible;
    if (p->quiet)
        return;
    if (drawn || (p->waiting && worth_showing(p, now)))
        show(p, now);
    if (p->terminal && p->visible && p->outer)
        log_live("");
    else if (p->terminal && p->visible)
        log_keep_live();
}

void progress_end(struct progress *p)
{
    pthread_mutex_lock(&lock);
    show_end(p, clock_seconds());
    innermost = p->outer;
    if (p->outer && p->terminal && p->visible)
        p->outer->shown = 0; // its line is gone
    pthread_mutex_unlock(&lock);
    tell();
}

bool progress_set_muted(bool now)
{
    pthread_mutex_lock(&lock);
    bool before = muted;
    muted = now;
    pthread_mutex_unlock(&lock);
    return before;
}

/* The name of a phase and how far it is; "" for main work and for NULL. */
static void name_phase(char out[PROGRESS_BRIEF], const struct progress *p)
{
    out[0] = 0;
    if (p && p->phase && p->total > 0)
        snprintf(out, PROGRESS_BRIEF, "%.30s %lld/%lld", p->what, (long long)p->done, (long long)p->total);
    else if (p && p->phase)
        snprintf(out, PROGRESS_BRIEF, "%.30s", p->what);
}

void progress_brief(char out[PROGRESS_BRIEF], double *left)
{
    double now = clock_seconds();
    pthread_mutex_lock(&lock);
    const struct progress *p = to_show(now, true);
    *left = p ? seconds_left(p, now) : -1;
    name_phase(out, p);
    pthread_mutex_unlock(&lock);
}

void progress_phase_now(char out[PROGRESS_BRIEF])
{
    pthread_mutex_lock(&lock);
    name_phase(out, innermost);
    pthread_mutex_unlock(&lock);
}

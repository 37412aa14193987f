/* progress COMMAND...: live lines, by a clock of its own, which only `wait` moves on, many times faster than real time.
 *
 *     main WHAT FIRST TOTAL    begins main work; phase WHAT TOTAL UNIT begins a phase
 *     step DONE NOTE           of the innermost
 *     weigh DONE LEFT AFTER    the same
 *     wait SECONDS             meanwhile the drawing thread gets its turns, ten a second
 *     steps COUNT SECONDS      waits and steps, so often; without a note
 *     end
 *     log TEXT, quiet, mute    status lines; whether they and later work are shown
 *     brief                    prints what is under way on stdout
 *     listen, unlisten         prints the innermost phase whenever work begins, goes on or ends
 */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/progress.h"
#include "helper.h"

enum { DEPTH = 4, TURN = 100 };

static atomic_long now, turns; /* milliseconds of our clock; how often the drawing thread has looked */

double clock_seconds(void)
{
    return 1e-3 * (double)now;
}

double clock_date(void)
{
    return clock_seconds();
}

/* Only the drawing thread sleeps. */
void clock_sleep(double seconds)
{
    (void)seconds;
    turns++;
    usleep(20);
}

/* drawn: the thread has something to draw, and looks again after every piece. */
static void wait_for(double seconds, bool drawn)
{
    for (long end = now + lround(1e3 * seconds); now < end;) {
        now += end - now < TURN ? end - now : TURN;
        for (long before = turns; drawn && turns < before + 2;)
            usleep(20);
    }
}

static void print_brief(void)
{
    char text[PROGRESS_BRIEF];
    double left;
    progress_brief(text, &left);
    printf("%s|%.0f\n", text, left);
}

static void hear(void *arg)
{
    char text[PROGRESS_BRIEF];
    progress_phase_now(text);
    fprintf(arg, "%s|\n", text);
}

/* One command; `p` is the innermost work. Returns how many arguments it took, 0 if it is wrong. */
static int perform(struct progress *work, int *depth, int count, char **a)
{
    struct progress *p = &work[*depth > 0 ? *depth - 1 : 0];
    bool drawn = *depth > 0 && !work[0].quiet;
    if (strcmp(a[0], "main") == 0 && count > 3 && *depth < DEPTH)
        return progress_begin(&work[(*depth)++], a[1], atoi(a[2]), atoi(a[3])), 4;
    if (strcmp(a[0], "phase") == 0 && count > 3 && *depth < DEPTH)
        return progress_phase(&work[(*depth)++], a[1], atoi(a[2]), a[3]), 4;
    if (strcmp(a[0], "step") == 0 && count > 2)
        return progress_step(p, atoi(a[1]), a[2]), 3;
    if (strcmp(a[0], "weigh") == 0 && count > 3)
        return progress_weigh(p, atof(a[1]), atof(a[2]), atof(a[3])), 4;
    if (strcmp(a[0], "wait") == 0 && count > 1)
        return wait_for(atof(a[1]), drawn), 2;
    if (strcmp(a[0], "end") == 0 && *depth > 0)
        return progress_end(&work[--*depth]), 1;
    if (strcmp(a[0], "log") == 0 && count > 1)
        return log_line("%s", a[1]), 2;
    if (strcmp(a[0], "quiet") == 0)
        return log_set_quiet(true), 1;
    if (strcmp(a[0], "mute") == 0)
        return progress_set_muted(true), 1;
    if (strcmp(a[0], "brief") == 0)
        return print_brief(), 1;
    if (strcmp(a[0], "listen") == 0)
        return progress_listen(hear, stdout), 1;
    if (strcmp(a[0], "unlisten") == 0)
        return progress_unlisten(hear, stdout), 1;
    if (strcmp(a[0], "steps") != 0 || count < 3)
        return 0;
    for (int64_t i = 0, first = p->done; i < atoi(a[1]); i++) {
        if (atof(a[2]) > 0)
            wait_for(atof(a[2]), drawn);
        progress_step(p, first + i + 1, "");
    }
    return 3;
}

int main(int argc, char **argv)
{
    struct progress work[DEPTH];
    int depth = 0, taken = 1;
    for (int i = 1; i < argc && taken > 0; i += taken)
        taken = perform(work, &depth, argc - i, argv + i);
    return helper_end("progress", taken > 0 ? ok() : error_input("wrong command"));
}

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "cluster/signals.h"
#include "commands/commands.h"
#include "commands/options.h"
#include "queue/overview.h"
#include "queue/overview_show.h"

static const double usual_pause = 2, shortest_pause = 0.1, longest_pause = 3600; /* seconds between two looks */

static void print_help(void)
{
    printf("usage: zoodip status DIR [--json] [--watch [SECONDS]]\n"
           "\n"
           "Shows what runs do now, from another shell or another machine that sees their files: what runs, how far\n"
           "it is, how long it will take, what has failed and why. DIR is the output.dir of a run or of a queue, that\n"
           "of an array's jobs, or the folder of a spool. It only reads.\n"
           "\n"
           "  --json             one JSON document with all jobs; times are seconds since 1970, null: not known\n"
           "  --watch [SECONDS]  looks again every two seconds, or as many as given, until all has ended, or is\n"
           "                     stopped or gone, or Ctrl-C; an array is watched until all of its jobs have ended\n"
           "\n"
           "A run is gone if it says that it runs and its process does not exist on this machine any more: run it\n"
           "again with --resume. One that has not moved for ten times as long as its steps take has \"no news\"; of\n"
           "one that said nothing for 15 seconds the row says how long ago that was. On a narrow terminal columns\n"
           "are left out, and jobs that do not fit are only counted: those that run come first, then those that are\n"
           "gone, and those that failed.\n"
           "\n"
           "examples:\n"
           "  zoodip status results/toybox\n"
           "  zoodip status results/mug --watch\n"
           "  zoodip status results/toybox --json\n");
}

/* What was seen and drawn last, to be drawn over. */
struct screen {
    bool terminal;
    int lines;
    bool ended; /* nothing will change there by itself */
    bool gone;  /* because its process is */
};

static void find_size(const struct screen *s, struct overview_view *view)
{
    struct winsize size;
    if (!s->terminal)
        return;
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 && size.ws_row > 3;
    view->columns = known ? size.ws_col : 80;
    view->rows = known ? size.ws_row : 24;
}

/* Reads and shows the folder once. */
static struct error look(struct screen *s, const char *folder, bool json)
{
    struct overview o;
    struct overview_view view = {.out = stdout, .folder = folder, .now = clock_date()};
    find_size(s, &view);
    struct error e = overview_read(&o, folder, view.now);
    if (e.code == ERROR_NONE) {
        if (s->lines > 0 && s->terminal)
            printf("\033[%dA\033[J", s->lines);
        else if (s->lines > 0 && !json)
            printf("\n");
        if (json)
            e = overview_print_json(&o, &view);
        else
            s->lines = overview_print(&o, &view);
        s->ended = overview_ended(&o);
        s->gone = o.all.gone;
    }
    overview_free(&o);
    return fflush(stdout) == 0 ? e : error_failed("cannot write to the standard output");
}

/* What was there a moment ago, and cannot be read now, may be back the next time. */
static struct error watch(struct screen *s, const char *folder, bool json, double pause)
{
    signals_watch(); // Ctrl-C is how one leaves
    TRY(look(s, folder, json));
    while (!s->ended && !signals_stop_requested()) {
        clock_sleep(pause);
        if (signals_stop_requested())
            break;
        struct error e = look(s, folder, json);
        if (ferror(stdout))
            return e;
    }
    if (s->ended && s->gone && !json)
        printf("its process is gone: nothing will change here until it is run again\n");
    return ok();
}

static struct error show(const char *folder, bool json, bool watched, double pause)
{
    const char *kind = getenv("TERM");
    struct screen screen = {.terminal = !json && isatty(STDOUT_FILENO) && kind && strcmp(kind, "dumb") != 0};
    if (pause < shortest_pause || pause > longest_pause)
        return error_input("--watch: %g: expected %g to %g seconds", pause, shortest_pause, longest_pause);
    return watched ? watch(&screen, folder, json, pause) : look(&screen, folder, json);
}

static struct error run(int argc, char **argv, const struct host *host)
{
    const char *folder = NULL;
    bool json = false, watched = false;
    double pause = usual_pause;
    const struct option table[] = {{.name = "json", .flag = &json},
                                   {.name = "watch", .flag = &watched, .number = &pause}};
    struct error e = options_read(argc, argv, table, sizeof table / sizeof *table, &folder, 1);
    if (e.code == ERROR_NONE && !folder)
        e = error_input("status: expected one DIR; see zoodip status --help");
    if (e.code == ERROR_NONE && comm_rank(host->comm) == 0)
        e = show(folder, json, watched, pause);
    return comm_agree(host->comm, e);
}

const struct command command_status = {"status", "show what runs, queues and spools do now", print_help, run, false};

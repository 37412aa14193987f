#include "report/gain.h"

#include <math.h>
#include <stdio.h>

static const double most_of_it = 0.9;

/* The first that is as low as the best, or nearly. */
static void find_most(struct gain *g, const struct metric_table *lines)
{
    for (int64_t i = 0; i < lines->count && g->most_step == 0; i++) {
        double share = (g->start - lines->validations[i]) / (g->start - g->best);
        if (share >= most_of_it) { // not where there is no validation
            g->most_step = lines->steps[i];
            g->most = share;
        }
    }
}

struct gain gain_of(const struct metric_table *lines)
{
    struct gain g = {.start = lines->start, .best = lines->start, .last = NAN};
    for (int64_t i = 0; i < lines->count; i++) {
        double value = lines->validations[i];
        if (!isfinite(value))
            continue;
        g.looks++;
        g.last = value;
        g.last_step = lines->steps[i];
        if (!(value < g.best))
            continue;
        g.best = value;
        g.best_step = lines->steps[i];
    }
    if (g.best_step > 0)
        find_most(&g, lines);
    return g;
}

void gain_text(char text[GAIN_TEXT], const struct gain *g)
{
    char most[64] = "";
    text[0] = 0;
    if (g->looks == 0 || !isfinite(g->start))
        return;
    if (g->best_step == 0) {
        snprintf(text, GAIN_TEXT,
                 "step %lld, the last: no validation is below the %.5f of the start; at the end it is %.5f",
                 (long long)g->last_step, g->start, g->last);
        return;
    }
    if (g->most_step < g->best_step)
        snprintf(most, sizeof most, "; %.0f %% of that after %lld steps", 100 * g->most, (long long)g->most_step);
    snprintf(text, GAIN_TEXT, "step %lld: %.5f, %.3g %% below the start's %.5f%s", (long long)g->best_step, g->best,
             100 * (1 - g->best / g->start), g->start, most);
}

struct gain gain_read(const char *folder)
{
    struct metric_table lines = {.start = NAN}; // as after an error
    struct error e = metrics_read(&lines, folder);
    struct gain gain = gain_of(&lines);
    if (e.code == ERROR_NONE)
        metric_table_free(&lines);
    return gain;
}

/* looks < LINES    answers line by line:
 *
 * plan STEPS LANES PATIENCE EVERY    how many draws a look has, how many are due, the least and the most steps from one to
 *                                    the next, whether one is due after the last step
 * look MIN_GAIN START VALUE...       after looks at steps 1, 2, ..: best step, looks without a gain; and what a checkpoint
 *                                    would say of all of them
 * read TEXT                          what a checkpoint says, read and written again, or "no"
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "helper.h"
#include "zo/looks.h"

static void plan(const char *line)
{
    struct config c = {0};
    long long steps, lanes, patience, every;
    if (sscanf(line, "%lld %lld %lld %lld", &steps, &lanes, &patience, &every) != 4)
        return;
    c.optim.steps = steps;
    c.optim.patience = patience;
    c.output.validate_every = every;
    const struct looks_plan p = looks_plan_of(&c, lanes);
    int64_t before = 0, least = steps, most = 0;
    for (int64_t step = 1; step <= steps; step++) {
        if (!looks_due(&p, step))
            continue;
        least = step - before < least ? step - before : least;
        most = step - before > most ? step - before : most;
        before = step;
    }
    printf("%lld %lld %lld %lld %d\n", (long long)p.draws, (long long)looks_until(&p, steps), (long long)least,
           (long long)most, before == steps);
}

static void look(char *line)
{
    char text[LOOKED_TEXT], *at = line;
    double min_gain = strtod(at, &at), start = strtod(at, &at);
    struct looked l = {.draws = 30, .start = start, .newest = start, .best = start, .gain_from = start};
    for (int64_t step = 1;; step++) {
        char *next;
        double value = strtod(at, &next);
        if (next == at)
            break;
        at = next;
        looked_add(&l, step, value, min_gain);
        printf("%lld %lld ", (long long)l.best_step, (long long)l.without_gain);
    }
    looked_text(text, &l);
    printf("%s\n", text);
}

static void read_back(const char *line)
{
    struct looked l;
    char text[LOOKED_TEXT] = "no";
    if (looked_parse(&l, line))
        looked_text(text, &l);
    printf("%s\n", text);
}

int main(void)
{
    char line[1000];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, "plan ", 5) == 0)
            plan(line + 5);
        else if (strncmp(line, "look ", 5) == 0)
            look(line + 5);
        else if (strncmp(line, "read ", 5) == 0)
            read_back(line + 5);
        else
            return helper_end("looks", error_input("%.100s: expected plan, look or read", line));
    }
    return 0;
}

/* ending CONFIG.json [STEP.looks=N | STEP.reach=N]...
 *
 * A run as zo/ending.h plans it: after step STEP the looks without a gain are N, or rank 0's clock finds in it that there
 * is time for steps up to N. Prints step, learning rate and planned last step, a line a step, and at the end what a
 * checkpoint would say, read back.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "files/config.h"
#include "helper.h"
#include "zo/ending.h"

static void happen(struct ending *e, const struct config *c, int64_t step, const char *event)
{
    long long at, n;
    char what[8];
    if (sscanf(event, "%lld.%7[a-z]=%lld", &at, what, &n) != 3 || at != step)
        return;
    if (strcmp(what, "reach") == 0)
        ending_grant(e, c, step, ending_wish(e, c, step, n));
    else
        ending_patience(e, c, step, n);
}

static struct error run(int argc, char **argv)
{
    struct config c;
    struct ending e = {0}, back;
    char text[ENDING_TEXT];
    TRY(config_read(&c, argv[1], &(struct text_list){0}));
    for (int64_t step = 1; step <= ending_last(&e, &c); step++) {
        printf("%lld %.17g", (long long)step, ending_rate(&e, &c, step));
        for (int i = 2; i < argc; i++)
            happen(&e, &c, step, argv[i]);
        printf(" %lld\n", (long long)ending_last(&e, &c));
    }
    ending_text(text, &e);
    bool same = ending_parse(&back, text) && memcmp(&e, &back, sizeof e) == 0;
    printf("%s\n", same ? text : "not read back");
    config_free(&c);
    return ok();
}

int main(int argc, char **argv)
{
    return helper_end("ending", argc > 1 ? run(argc, argv) : error_input("ending: expected a config"));
}

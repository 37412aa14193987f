/* share
 *
 * Reads cases from stdin, "PIECES GROUP GAMMA RANKS" and then RANKS numbers of seconds per unit of cost, and prints for
 * each the seconds of the slowest share and every rank's first piece and count (cluster/share.h).
 */
#include <stdio.h>

#include "base/memory.h"
#include "cluster/share.h"
#include "helper.h"

static struct error solve(const struct share_work *work, int ranks)
{
    double *pace = memory_alloc(ranks, sizeof *pace), slowest = 0;
    struct share *shares = memory_alloc(ranks, sizeof *shares);
    struct error e = pace && shares ? ok() : error_memory("a case");
    for (int r = 0; r < ranks && e.code == ERROR_NONE; r++)
        if (scanf("%lf", pace + r) != 1 || pace[r] <= 0)
            e = error_input("rank %d: expected seconds per unit of cost", r);
    if (e.code == ERROR_NONE)
        shares_by_pace(work, pace, ranks, shares);
    for (int r = 0; r < ranks && e.code == ERROR_NONE; r++) {
        double seconds = pace[r] * share_cost(work, shares[r]);
        slowest = seconds > slowest ? seconds : slowest;
    }
    if (e.code == ERROR_NONE)
        printf("%.17g", slowest);
    for (int r = 0; r < ranks && e.code == ERROR_NONE; r++)
        printf(" %lld+%lld", (long long)shares[r].first, (long long)shares[r].count);
    printf("\n");
    memory_free(pace);
    memory_free(shares);
    return e;
}

int main(void)
{
    long long pieces, group;
    double gamma;
    int ranks;
    while (scanf("%lld %lld %lf %d", &pieces, &group, &gamma, &ranks) == 4) {
        const struct share_work work = {pieces, group, gamma};
        struct error e = pieces >= 0 && group >= 0 && gamma >= 0 && ranks > 0
                             ? solve(&work, ranks)
                             : error_input("expected PIECES GROUP GAMMA RANKS");
        if (e.code != ERROR_NONE)
            return helper_end("share", e);
    }
    return 0;
}

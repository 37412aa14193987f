/* balance COUNT RANKS [GROUP GAMMA]
 *
 * Reads steps from stdin, each with RANKS numbers of seconds per unit of cost, and prints after each step "moved" or
 * "as before", then every rank's first piece and count. COUNT pieces, in groups of GROUP that cost GAMMA each where a
 * rank touches them.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "cluster/balance.h"
#include "helper.h"

static int follow(struct balance *b, double *seconds)
{
    for (;;) {
        for (int r = 0; r < b->size; r++)
            if (scanf("%lf", seconds + r) != 1)
                return 0;
        printf("%s", balance_note(b, seconds) ? "moved" : "as before");
        for (int r = 0; r < b->size; r++)
            printf(" %lld+%lld", (long long)b->shares[r].first, (long long)b->shares[r].count);
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    if ((argc != 3 && argc != 5) || atoll(argv[1]) < 0 || atoi(argv[2]) < 1)
        return helper_end("balance", error_input("usage: balance COUNT RANKS [GROUP GAMMA]"));
    const struct share_work work = {
        .pieces = atoll(argv[1]), .group = argc > 4 ? atoll(argv[3]) : 0, .gamma = argc > 4 ? atof(argv[4]) : 0};
    struct balance b;
    double *seconds = memory_alloc(atoi(argv[2]), sizeof *seconds);
    struct error e = balance_new(&b, &work, atoi(argv[2]));
    int code = seconds && e.code == ERROR_NONE ? follow(&b, seconds) : ERROR_FAILED;
    balance_free(&b);
    memory_free(seconds);
    return code;
}

#include "cluster/balance.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { WINDOW = 8 }; /* steps after which the shares are computed again */

/* New shares must bring a step below this fraction of its time: changing them costs something, too. */
static const double WORTH = 0.9;

struct error balance_new(struct balance *b, const struct share_work *work, int size)
{
    *b = (struct balance){.work = *work, .size = size};
    b->times = memory_alloc((int64_t)WINDOW * size, sizeof *b->times);
    b->pace = memory_alloc(size, sizeof *b->pace);
    b->shares = memory_alloc(size, sizeof *b->shares);
    b->spare = memory_alloc(size, sizeof *b->spare);
    if (!b->times || !b->pace || !b->shares || !b->spare)
        return error_memory("the ranks' shares");
    for (int r = 0; r < size; r++)
        b->pace[r] = 1;
    shares_by_pace(work, b->pace, size, b->shares);
    return ok();
}

void balance_free(struct balance *b)
{
    memory_free(b->times);
    memory_free(b->pace);
    memory_free(b->shares);
    memory_free(b->spare);
    *b = (struct balance){0};
}

void balance_set_gamma(struct balance *b, double gamma)
{
    b->work.gamma = gamma;
    shares_by_pace(&b->work, b->pace, b->size, b->shares);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const struct balance *b, int rank)
{
    double sorted[WINDOW];
    for (int k = 0; k < WINDOW; k++)
        sorted[k] = b->times[k * b->size + rank];
    qsort(sorted, WINDOW, sizeof *sorted, ascending);
    return sorted[WINDOW / 2];
}

/* False if some rank has measured nothing. */
static bool find_pace(struct balance *b)
{
    for (int r = 0; r < b->size; r++)
        if (median(b, r) <= 0)
            return false;
    for (int r = 0; r < b->size; r++)
        b->pace[r] = median(b, r);
    return true;
}

static double longest(const struct balance *b, const struct share *shares)
{
    double most = 0;
    for (int r = 0; r < b->size; r++) {
        double seconds = b->pace[r] * share_cost(&b->work, shares[r]);
        most = seconds > most ? seconds : most;
    }
    return most;
}

bool balance_note(struct balance *b, const double *seconds)
{
    memcpy(b->times + b->noted * b->size, seconds, (size_t)b->size * sizeof *seconds);
    if (++b->noted < WINDOW)
        return false;
    b->noted = 0;
    if (!find_pace(b))
        return false;
    shares_by_pace(&b->work, b->pace, b->size, b->spare);
    double now = longest(b, b->shares), then = longest(b, b->spare);
    if (then >= WORTH * now)
        return false;
    struct share *old = b->shares;
    b->shares = b->spare;
    b->spare = old;
    b->gain = 1 - then / now;
    b->changes++;
    return true;
}

struct share balance_share(struct balance *b, int64_t count, int rank)
{
    shares_by_pace(&(struct share_work){.pieces = count}, b->pace, b->size, b->spare);
    return b->spare[rank];
}

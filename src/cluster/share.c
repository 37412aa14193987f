#include "cluster/share.h"

#include <stdbool.h>

struct share share_of(int64_t count, int rank, int size)
{
    int64_t whole = count / size, larger = count % size;
    return (struct share){
        .first = rank * whole + (rank < larger ? rank : larger),
        .count = whole + (rank < larger),
    };
}

double share_cost(const struct share_work *work, struct share share)
{
    if (work->group == 0 || share.count == 0)
        return (double)share.count;
    int64_t groups = (share.first + share.count - 1) / work->group - share.first / work->group + 1;
    return work->gamma * (double)groups + (double)share.count;
}

/* -------------------------------------------------------------------------------- pieces of equal cost */

/* The rank that would finish first with one more piece. */
static int next_done(const double *pace, int size, const struct share *shares)
{
    int best = 0;
    for (int r = 1; r < size; r++)
        if ((double)(shares[r].count + 1) * pace[r] < (double)(shares[best].count + 1) * pace[best])
            best = r;
    return best;
}

static void share_equal_pieces(int64_t count, const double *pace, int size, struct share *shares)
{
    for (int r = 0; r < size; r++)
        shares[r].count = 1;
    for (int64_t left = count - size; left > 0; left--)
        shares[next_done(pace, size, shares)].count++;
    shares[0].first = 0;
    for (int r = 1; r < size; r++)
        shares[r].first = shares[r - 1].first + shares[r - 1].count;
}

/* -------------------------------------------------------------------------------- pieces in groups */

/* How many of the pieces first .. first + most - 1 a rank finishes within `limit` seconds. */
static int64_t fitting(const struct share_work *work, double pace, double limit, int64_t first, int64_t most)
{
    int64_t fit = 0;
    while (fit < most) {
        int64_t middle = fit + (most - fit + 1) / 2;
        if (pace * share_cost(work, (struct share){first, middle}) <= limit)
            fit = middle;
        else
            most = middle - 1;
    }
    return fit;
}

/* Every rank takes as many pieces as it finishes within the limit, but leaves one for each rank after it. False if
 * pieces remain, or a rank finishes none. */
static bool fill(const struct share_work *work, const double *pace, int size, double limit, struct share *shares)
{
    int64_t first = 0;
    for (int r = 0; r < size; r++) {
        int64_t count = fitting(work, pace[r], limit, first, work->pieces - first - (size - 1 - r));
        if (count == 0)
            return false;
        shares[r] = (struct share){first, count};
        first += count;
    }
    return first == work->pieces;
}

static void share_groups(const struct share_work *work, const double *pace, int size, struct share *shares)
{
    double too_little = 0, enough = 0;
    for (int r = 0; r < size; r++) {
        double all = pace[r] * share_cost(work, (struct share){0, work->pieces});
        enough = all > enough ? all : enough;
    }
    for (;;) { // until no number lies between them
        double middle = too_little + (enough - too_little) / 2;
        if (middle <= too_little || middle >= enough)
            break;
        if (fill(work, pace, size, middle, shares))
            enough = middle;
        else
            too_little = middle;
    }
    fill(work, pace, size, enough, shares);
}

void shares_by_pace(const struct share_work *work, const double *pace, int size, struct share *shares)
{
    if (work->pieces < size)
        for (int r = 0; r < size; r++)
            shares[r] = share_of(work->pieces, r, size);
    else if (work->group == 0)
        share_equal_pieces(work->pieces, pace, size, shares);
    else
        share_groups(work, pace, size, shares);
}

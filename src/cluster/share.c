#include "cluster/share.h"

struct share share_of(int64_t count, int rank, int size)
{
    int64_t whole = count / size, larger = count % size;
    return (struct share){
        .first = rank * whole + (rank < larger ? rank : larger),
        .count = whole + (rank < larger),
    };
}

/* The rank that would finish first with one more piece. */
static int next_done(const double *pace, int size, const struct share *shares)
{
    int best = 0;
    for (int r = 1; r < size; r++)
        if ((double)(shares[r].count + 1) * pace[r] < (double)(shares[best].count + 1) * pace[best])
            best = r;
    return best;
}

void shares_by_pace(int64_t count, const double *pace, int size, struct share *shares)
{
    for (int r = 0; r < size; r++)
        shares[r] = count < size ? share_of(count, r, size) : (struct share){.count = 1};
    for (int64_t left = count - size; left > 0; left--)
        shares[next_done(pace, size, shares)].count++;
    for (int r = 1; r < size; r++)
        shares[r].first = shares[r - 1].first + shares[r - 1].count;
}

#include "zo/tangent_batches.h"

/* The most pictures that a batch of `tangents` tangents touches. */
static int64_t pictures_of(struct share share, int64_t n, int64_t tangents)
{
    int64_t most = 0, end = share.first + share.count;
    for (int64_t first = share.first; first < end; first += tangents) {
        int64_t after = end - first < tangents ? end : first + tangents, touched = (after - 1) / n - first / n + 1;
        most = touched > most ? touched : most;
    }
    return most;
}

struct tangent_batches tangent_batches_of(struct share share, int64_t n, int64_t most)
{
    struct tangent_batches best = {0};
    int64_t least_cost = INT64_MAX;
    for (int64_t tangents = 1; tangents < most && tangents <= share.count; tangents++) {
        int64_t batches = (share.count + tangents - 1) / tangents, pictures = pictures_of(share, n, tangents);
        int64_t cost = batches * (pictures + tangents + 1);
        if (pictures + tangents > most || cost > least_cost)
            continue;
        least_cost = cost;
        best = (struct tangent_batches){batches, tangents, pictures};
    }
    return best;
}
